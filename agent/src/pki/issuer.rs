//! Who gives a node its identities: the embedded authority, or a CA server.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::authority;
use super::client;
use super::csr::CsrRefusal;
use super::svid::{self, Svid};
use crate::spiffe::SpiffeId;

/// A future that is sent to where it runs.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What became of one identity that was asked for.
pub type Issued = Result<Arc<Svid>, Denial>;

/// Who issues certificates. An error is about the issuer and may pass; a [`Denial`] is about one identity.
pub trait Issuer: fmt::Debug + Send + Sync {
    /// Issues a fresh key and certificate for each of these, in their order.
    fn issue<'a>(&'a self, ids: &'a [SpiffeId]) -> BoxFuture<'a, Result<Vec<Issued>, IssueError>>;
}

/// Why nothing was issued at all.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority of this node.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The CA server, or the way to it.
    #[error(transparent)]
    Server(#[from] client::Error),
    /// What was issued cannot be used.
    #[error("what was issued cannot be used: {0}")]
    Unusable(#[from] svid::Error),
    /// It took too long.
    #[error("the issuer has not answered in time")]
    Late,
    /// The thread that issues has ended.
    #[error("the thread that issues has ended")]
    Ended,
}

/// Why one identity is not issued. These words go over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Denial {
    /// An ID below `/waxseal/` that is not the asker's own.
    #[error("IDs below /waxseal/ are nodes' and the CA's own")]
    Reserved,
    /// An ID of another trust domain.
    #[error("the ID is of another trust domain")]
    OtherTrustDomain,
    /// The node is not registered for this ID.
    #[error("the node is not registered for this ID; `waxseal ca allow` registers it")]
    NotAllowed,
    /// The ID was revoked.
    #[error("the ID was revoked; `waxseal ca allow --id` lifts that")]
    Banned,
    /// The node has too many certificates that have not expired.
    #[error("the node has as many certificates as it may have")]
    Quota,
    /// The request is malformed, or asks for more than a name and a key.
    #[error("the request is refused: {0}")]
    Request(CsrRefusal),
    /// A reason that a newer CA knows.
    #[error("denied for a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}
