//! Why a handshake did not end with a session.

use std::io;

use rustls::AlertDescription;
use waxseal_common::wire::Failure;

use super::frame::FrameError;
use super::host::{NotAdmitted, TableError};
use super::message::Reason;
use crate::pki::{self, Refusal, refusal_of};
use crate::spiffe::SpiffeId;

/// Why there is no session, or no link. Nothing in the text was written by a peer, except what is escaped.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The address or its port refuses.
    #[error("no agent answers at {agent}: {source}")]
    NoAgent {
        /// Where.
        agent: std::net::SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// It took too long.
    #[error("the handshake did not end in time")]
    Late,
    /// The peer closed before it said anything.
    #[error("the peer hung up: {0}")]
    HungUp(#[source] io::Error),
    /// A certificate that is not to be believed.
    #[error("the peer is not to be believed: {0}")]
    Untrusted(#[from] Refusal),
    /// TLS ended with the peer's refusal.
    #[error("the peer ended the handshake: {0:?}")]
    Alert(AlertDescription),
    /// TLS failed otherwise.
    #[error("TLS: {0}")]
    Tls(#[source] rustls::Error),
    /// The peer speaks no protocol of ours.
    #[error("the peer speaks no protocol of ours")]
    NoProtocol,
    /// The peer said no.
    #[error("the peer refuses: {}", .0.as_str())]
    Refused(Reason),
    /// A message that is none.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A workload's name where a node's is needed, or the other way round.
    #[error("{id} {problem}")]
    Role {
        /// Who.
        id: SpiffeId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The node that signs is not the node that answers.
    #[error("{answers} answers and {signs} signs")]
    AnotherNode {
        /// By the certificate of the connection.
        answers: SpiffeId,
        /// By the chain in the message.
        signs: SpiffeId,
    },
    /// More or longer labels than can be kept.
    #[error("the peer's workload has more labels, or longer ones, than can be kept")]
    Labels,
    /// A session without a name, or of no duration.
    #[error("the peer accepts with a session that cannot be")]
    NoSession,
    /// The name that is asked for is no destination.
    #[error("the destination has no name in TLS")]
    NoName,
    /// This node or this workload has no certificate at present.
    #[error("{0} has no certificate at present")]
    NoCertificate(SpiffeId),
    /// This node has none.
    #[error("this node has no certificate at present")]
    NoNodeCertificate,
    /// Our own key does not sign.
    #[error("cannot sign: {0}")]
    Sign(#[source] pki::Error),
    /// Too many at once.
    #[error("too many handshakes at once")]
    Busy,
    /// The remote workload cannot have a number.
    #[error("the peer's workload gets no number: {0}")]
    NotAdmitted(#[from] NotAdmitted),
    /// The kernel's table does not take it.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The node's sockets cannot be listed.
    #[error("cannot look up who listens: {0}")]
    Listener(#[source] io::Error),
    /// The record of sessions cannot be written.
    #[error("cannot write down the session: {0}")]
    Journal(#[source] io::Error),
}

impl HandshakeError {
    /// What the kernel and people are told.
    pub fn failure(&self) -> Failure {
        match self {
            Self::NoAgent { .. } => Failure::NoAgent,
            Self::Late | Self::Frame(FrameError::Late(_)) => Failure::Timeout,
            Self::Untrusted(_) | Self::AnotherNode { .. } | Self::Role { .. } => Failure::Untrusted,
            Self::Refused(Reason::Busy) | Self::Busy | Self::HungUp(_) => Failure::Busy,
            Self::Alert(AlertDescription::NoApplicationProtocol) => Failure::Protocol,
            Self::Alert(_) | Self::Refused(_) => Failure::Refused,
            Self::Tls(_) | Self::NoProtocol | Self::Frame(_) | Self::Labels | Self::NoSession => {
                Failure::Protocol
            }
            Self::NoCertificate(_) | Self::NoNodeCertificate => Failure::NoCertificate,
            Self::NoName
            | Self::Sign(_)
            | Self::NotAdmitted(_)
            | Self::Table(_)
            | Self::Listener(_)
            | Self::Journal(_) => Failure::Internal,
        }
    }

    /// What a peer is told that has asked.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Busy => Reason::Busy,
            Self::Role { .. } => Reason::NotAWorkload,
            Self::Untrusted(_) | Self::AnotherNode { .. } => Reason::Untrusted,
            Self::Labels => Reason::Labels,
            _ => Reason::Internal,
        }
    }

    /// What an error on a TLS stream means.
    pub(super) fn from_stream(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            Some(rustls) => refusal_of(rustls).map_or_else(|| Self::Tls(rustls.clone()), Self::Untrusted),
            None => Self::HungUp(error),
        }
    }

    /// The same of an error while a message was read or written.
    pub(super) fn from_frame(error: FrameError) -> Self {
        match error {
            FrameError::Broken(error) => Self::from_stream(error),
            other => Self::Frame(other),
        }
    }
}
