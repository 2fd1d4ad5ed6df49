//! Certificates: the authority, the verifier, and the identities of this node with their keys.
//!
//! [`verify`] is the only place where a chain becomes a [`Peer`], for both directions of every TLS connection. An
//! [`Issuer`] gives [`Svid`]s: the embedded authority in this process, or a CA server elsewhere. A [`Keeper`] keeps them
//! fresh. Private keys of workloads live in memory only; those of the authority and of the node on disk, 0600 in a
//! directory of 0700. Nothing in here knows policies or connections.

mod authority;
mod bundle;
mod certificate;
mod client;
mod csr;
mod embedded;
mod files;
mod frames;
mod issuer;
mod keeper;
mod names;
mod pem;
mod profile;
mod publication;
mod refusal;
mod server;
mod start;
mod svid;
mod tls;
mod trust;
mod verified;
mod verify;
mod wire;

pub use authority::{
    Authority, Error as AuthorityError, Import, IntermediateReport, Lifetimes, MAX_PATTERNS, NodeReport,
    OVERLAP, PatternError, Report, Revoked, RootReport, Rotated, Setup, Target, Token, TokenError,
};
pub use bundle::{BundleError, Bundles, DomainBundle, MAX_LIST_BYTES, MAX_LISTS, MAX_ROOTS, Root};
pub use client::{Error as ClientError, Member, Remote, Watch};
pub use csr::{CsrRefusal, is_certificate_request};
pub use embedded::{Custodian, Embedded};
pub use files::FileError;
pub use frames::{FrameError, MAX_FRAME, read_frame, write_frame};
pub use issuer::{BoxFuture, Denial, IssueError, Issued, Issuer};
pub use keeper::{CertificateStatus, Keeper, MAX_WANTED};
pub use names::{ca_id, is_node_name, is_reserved, node_id, node_name};
pub use pem::{PemError, is_certificates};
pub use profile::seconds as unix_seconds;
pub use publication::{Publication, PublicationError};
pub use refusal::{Position, Refusal};
pub use server::{CA_PORT, CaServer, Limits, ServerError};
pub use start::{Credentials, Options, Source, StartError};
pub use svid::{Error, Svid};
pub use tls::{client_config, peer_of, provider, refusal_of, server_config};
pub use trust::Trust;
pub use verify::{Peer, Role, verify};
pub use wire::{Refused, is_message};

/// Certificates in a chain as it is shown: leaf and signers, the root not counted.
pub const MAX_CHAIN: usize = 4;
/// Bytes of a whole chain.
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;
/// Names in a leaf.
pub const MAX_NAMES: usize = 32;
/// How much earlier than now a certificate begins, for clocks that are behind.
pub const BACKDATE: std::time::Duration = std::time::Duration::from_mins(1);
/// The longest name of a node, as in a DNS label.
pub const MAX_NODE_NAME: usize = 63;

#[cfg(test)]
mod tests;
