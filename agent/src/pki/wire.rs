//! What is said to a CA server and by it. Certificates and requests are PEM; names are SPIFFE IDs.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Duration;

use super::frames::{FrameError, read_frame, write_frame};
use super::issuer::Denial;
use super::publication::Publication;
use crate::spiffe::SpiffeId;

/// The protocol's name in TLS, with its version.
pub(super) const ALPN: &[u8] = b"waxseal-ca/1";
/// Identities in one request: names of full length and their certificates fit into one message.
pub(super) const BATCH: usize = 16;
/// Between two signs of life on a connection that watches.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
/// Bytes of a publication in one message.
const PART: usize = 32 * 1024;
/// Bytes of a whole publication.
const MAX_PUBLICATION: usize = 8 << 20;

/// From a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Request {
    /// Let me in; answered by `Chain` and a publication. The only request without a certificate.
    Join { node: String, token: String, secret: String, request: String },
    /// Sign for my workloads; answered by `Signed`.
    Sign { requests: Vec<Asked> },
    /// Sign my own identity anew; answered by `Chain`.
    Renew { request: String },
    /// Tell me what to believe, now and whenever it changes; answered by publications and `Alive`.
    Watch,
}

/// One signature that is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) id: SpiffeId,
    pub(super) request: String,
}

/// From the CA server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Answer {
    /// A certificate and its signers.
    Chain { chain: Vec<String> },
    /// One for each that was asked for, in order, and the signers of all of them.
    Signed { signers: Vec<String>, leaves: Vec<Leaf> },
    /// A piece of a publication, which is JSON itself.
    Part { text: String, last: bool },
    /// Nothing has changed.
    Alive,
    /// No, to the whole request.
    Refused { reason: Refused },
}

/// One certificate or why there is none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Leaf {
    Certificate(String),
    Denied(Denial),
}

/// Why a whole request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// The token is unknown, was used, or its secret is wrong.
    #[error("the token is unknown or was used; `waxseal ca token` makes a new one")]
    Token,
    /// The token is too old.
    #[error("the token has expired; `waxseal ca token` makes a new one")]
    TokenExpired,
    /// The token is another node's.
    #[error("the token is for a node of another name")]
    TokenOfOther,
    /// The node has not joined, or was revoked.
    #[error("the CA does not know this node, or has revoked it; a new token lets it join again")]
    Node,
    /// Only its own identity may be renewed with a certificate that has ended.
    #[error("the node's certificate has ended; it must be renewed first")]
    Ended,
    /// The node's own identity.
    #[error("{0}")]
    Denied(Denial),
    /// Not a request that is understood, or too large.
    #[error("the CA does not understand the request")]
    Malformed,
    /// The authority itself has a problem.
    #[error("the CA cannot sign now; its log says why")]
    Unavailable,
    /// A reason that a newer CA knows.
    #[error("a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}

/// Whether these bytes are a message to a CA server or from one.
pub fn is_message(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Request>(bytes).is_ok() || serde_json::from_slice::<Answer>(bytes).is_ok()
}

/// Sends a publication in as many messages as it takes.
pub(super) async fn send_publication(
    stream: &mut (impl AsyncWrite + Unpin),
    publication: &Publication,
    patience: Duration,
) -> Result<(), FrameError> {
    let text = serde_json::to_string(publication).map_err(FrameError::Garbled)?;
    let mut rest = text.as_str();
    loop {
        // What is sent is PEM and names, all ASCII: any place is a good one to cut.
        let (text, after) = rest.split_at_checked(PART).unwrap_or((rest, ""));
        rest = after;
        let part = Answer::Part { text: text.to_owned(), last: rest.is_empty() };
        write_frame(stream, &part, patience).await?;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// What comes while watching.
#[derive(Debug)]
pub(super) enum Told {
    Publication(Box<Publication>),
    Alive,
    Refused(Refused),
    /// Something that was not asked for.
    Strange,
}

/// Reads until a publication is whole, or something else comes.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> Result<Told, FrameError> {
    let mut whole = String::new();
    loop {
        match read_frame(stream, patience).await? {
            Answer::Part { text, last } => {
                whole.push_str(&text);
                if whole.len() > MAX_PUBLICATION {
                    return Err(FrameError::TooLarge { length: whole.len() });
                }
                if last {
                    return serde_json::from_str(&whole).map(Told::Publication).map_err(FrameError::Garbled);
                }
            }
            Answer::Alive if whole.is_empty() => return Ok(Told::Alive),
            Answer::Refused { reason } => return Ok(Told::Refused(reason)),
            _ => return Ok(Told::Strange),
        }
    }
}
