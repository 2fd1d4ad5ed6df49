//! What can go wrong with an authority.

use std::path::PathBuf;

use super::nodes::{PatternError, TokenError};
use crate::pki::files::FileError;
use crate::pki::pem::PemError;
use crate::pki::svid;
use crate::pki::{Denial, PublicationError, Refusal};
use crate::spiffe::{self, TrustDomain};

/// Why the authority does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// No authority there.
    #[error("there is no CA in {}", directory.display())]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// An authority there already.
    #[error("there is a CA in {} already", directory.display())]
    Exists {
        /// Where.
        directory: PathBuf,
    },
    /// A file that is not what an authority writes.
    #[error("{} is damaged", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A file of another version of this program.
    #[error("{} has version {version}, which this program does not know", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Another process keeps the lock.
    #[error("another process works on the CA and keeps {} locked", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// rcgen does not make it.
    #[error("cannot make the certificate: {0}")]
    Make(#[source] rcgen::Error),
    /// A certificate or list that cannot be read.
    #[error("a certificate or revocation list cannot be read: {0}")]
    Pem(#[from] PemError),
    /// A key that cannot be read.
    #[error("{} is no private key in PEM that can be used", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// A key that belongs to another certificate.
    #[error("the key in {} is not the certificate's", path.display())]
    OtherKey {
        /// The file.
        path: PathBuf,
    },
    /// The root's key is not at hand.
    #[error("this needs the root's key, and {} is not there; name it with --root-key", path.display())]
    NoRootKey {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// What was just made is no identity.
    #[error("what was made cannot be used: {0}")]
    Unusable(#[from] svid::Error),
    /// No intermediate that may sign.
    #[error("no intermediate certificate is valid; `waxseal ca rotate-intermediate` makes one")]
    NoSigner,
    /// A table is full.
    #[error("there are {limit} {what} already, and more are not kept")]
    Full {
        /// Of what.
        what: &'static str,
        /// The most.
        limit: usize,
    },
    /// A node that is not registered.
    #[error("there is no node of that name; `waxseal ca token` registers one")]
    UnknownNode,
    /// A node that was revoked.
    #[error("the node was revoked; a new token lets it join again")]
    RevokedNode,
    /// Not a name for a node.
    #[error("a node's name is 1 to 63 of a-z, A-Z, 0-9, `.`, `-` and `_`")]
    NodeName,
    /// A pattern for SPIFFE IDs.
    #[error("`{}` is no pattern for SPIFFE IDs: {source}", crate::escape::escape(pattern))]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// A token that does not let anybody in.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A name.
    #[error(transparent)]
    Id(#[from] spiffe::Error),
    /// Nothing that could be revoked.
    #[error("nothing was issued by that name or number that is still valid")]
    NothingToRevoke,
    /// An intermediate of an authority whose root we do not have.
    #[error("the root's key was never this CA's, so it cannot revoke or replace an intermediate")]
    ForeignRoot,
    /// A certificate that cannot be used as an authority's.
    #[error("the certificate cannot be used: {0}")]
    Certificate(#[from] Refusal),
    /// What would be published is nothing that peers could believe.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// Two trust domains.
    #[error("the CA is of the trust domain `{is}`, and `{wanted}` was asked for")]
    OtherTrustDomain {
        /// What it is.
        is: TrustDomain,
        /// What was asked for.
        wanted: TrustDomain,
    },
    /// A lifetime out of range.
    #[error("{what} must live between {low} and {high} seconds, and no longer than what signs it")]
    Lifetime {
        /// Of what.
        what: &'static str,
        /// The least, in seconds.
        low: u64,
        /// The most, in seconds.
        high: u64,
    },
    /// One identity, where only that one was asked for.
    #[error(transparent)]
    Denied(#[from] Denial),
}

impl Error {
    /// Whether whoever asked must ask for something else.
    pub fn is_invalid_input(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::Exists { .. }
            | Self::Pem(_)
            | Self::Key { .. }
            | Self::OtherKey { .. }
            | Self::NoRootKey { .. }
            | Self::UnknownNode
            | Self::RevokedNode
            | Self::NodeName
            | Self::Pattern { .. }
            | Self::Token(_)
            | Self::Id(_)
            | Self::NothingToRevoke
            | Self::ForeignRoot
            | Self::Certificate(_)
            | Self::Publication(_)
            | Self::OtherTrustDomain { .. }
            | Self::Lifetime { .. }
            | Self::Denied(_) => true,
            Self::File(file) => file.is_missing(),
            Self::Corrupt { .. }
            | Self::Version { .. }
            | Self::Busy { .. }
            | Self::Make(_)
            | Self::Unusable(_)
            | Self::NoSigner
            | Self::Full { .. } => false,
        }
    }
}
