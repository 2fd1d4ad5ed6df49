//! The initiator's side of a pair handshake, up to what was agreed. Installs nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waxseal_common::wire::{SessionKey, Spi};

use super::error::HandshakeError;
use super::frame;
use super::keys::{Ends, Side, node_message, session_key};
use super::message::{Accept, Answer, Hello, Hex, PAIR, Question, are_bounded, to_chain, to_hex};
use super::{HANDSHAKE, Target};
use crate::pki::{Peer, Role, Svid, Trust, client_config, is_reserved, peer_of, verify};
use crate::workload::Labels;

/// What an initiator brings.
#[derive(Debug)]
pub(super) struct Initiator<'a> {
    pub(super) trust: &'a Trust,
    /// The source workload's.
    pub(super) svid: &'a Svid,
    /// This node's.
    pub(super) node: &'a Svid,
    pub(super) target: Target,
    pub(super) agent: SocketAddr,
    pub(super) labels: Labels,
    pub(super) replaces: Option<Spi>,
    pub(super) nonce: u64,
    pub(super) port: u16,
}

/// What both ends know when it is done.
#[derive(Debug)]
pub(super) struct Agreement {
    pub(super) key: SessionKey,
    pub(super) spi: Spi,
    /// For how long the responder believes it.
    pub(super) lasts: Duration,
    /// Who answers: a workload, or the node itself.
    pub(super) destination: Arc<Peer>,
    pub(super) node: Arc<Peer>,
    pub(super) labels: Labels,
    pub(super) nonce: u64,
}

impl Initiator<'_> {
    /// Opens the connection and talks. The caller limits the time.
    pub(super) async fn run(self) -> Result<Agreement, HandshakeError> {
        let name = self.target.server_name().ok_or(HandshakeError::NoName)?;
        let tls = client_config(self.trust, self.svid, PAIR);
        let mut stream = connect(self.agent, tls, name, PAIR).await?;
        let now = SystemTime::now();
        let connection = stream.get_ref().1;
        let destination = peer_of(connection, &self.trust.load(), Role::Server, now)?;
        if is_reserved(destination.id()) && !destination.is_node() {
            let problem = "is neither a workload nor a node";
            return Err(HandshakeError::Role { id: destination.id().clone(), problem });
        }
        let ends = Ends { source: self.svid.id(), destination: destination.id() };
        let message = node_message(connection, ends, Side::Initiator).map_err(HandshakeError::Tls)?;
        let hello = Question::Hello(Box::new(Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: to_hex(&self.node.chain()),
            signature: Hex(self.node.sign(&message).map_err(HandshakeError::Sign)?),
            labels: self.labels.clone(),
            replaces: self.replaces.map(|spi| spi.0),
            nonce: self.nonce,
            port: self.port,
        }));
        frame::write(&mut stream, &hello, HANDSHAKE).await.map_err(HandshakeError::from_frame)?;
        let answer = frame::read(&mut stream, HANDSHAKE).await.map_err(HandshakeError::from_frame)?;
        match answer {
            Answer::Refuse { reason } => Err(HandshakeError::Refused(reason)),
            Answer::Accept(accept) => self.conclude(&stream, destination, *accept),
        }
    }

    /// Believes an acceptance only when the node behind it has signed this very connection.
    fn conclude(
        self,
        stream: &TlsStream<TcpStream>,
        destination: Peer,
        accept: Accept,
    ) -> Result<Agreement, HandshakeError> {
        let Accept { version: _, spi, epoch, seconds, node, signature, labels, nonce } = accept;
        let connection = stream.get_ref().1;
        let ends = Ends { source: self.svid.id(), destination: destination.id() };
        let node = verify(&self.trust.load(), &to_chain(node), Role::Server, SystemTime::now())?;
        check_node(&node)?;
        if destination.is_node() && destination.id() != node.id() {
            let (answers, signs) = (destination.id().clone(), node.id().clone());
            return Err(HandshakeError::AnotherNode { answers, signs });
        }
        let message = node_message(connection, ends, Side::Responder).map_err(HandshakeError::Tls)?;
        node.verify_signature(&message, &signature.0)?;
        if node.id() == self.node.id() {
            return Err(HandshakeError::Role { id: node.id().clone(), problem: "is this very node" });
        }
        if !are_bounded(&labels) {
            return Err(HandshakeError::Labels);
        }
        if spi == 0 || seconds == 0 {
            return Err(HandshakeError::NoSession);
        }
        let spi = Spi(spi);
        Ok(Agreement {
            key: session_key(connection, ends, spi, epoch).map_err(HandshakeError::Tls)?,
            spi,
            lasts: Duration::from_secs(seconds),
            destination: Arc::new(destination),
            node: Arc::new(node),
            labels,
            nonce,
        })
    }
}

/// A peer that signs for a node must be one.
pub(super) fn check_node(peer: &Peer) -> Result<(), HandshakeError> {
    if peer.is_node() {
        return Ok(());
    }
    Err(HandshakeError::Role { id: peer.id().clone(), problem: "is no node" })
}

/// TCP and TLS to another agent.
pub(super) async fn connect(
    agent: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    alpn: &[u8],
) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::TimedOut => HandshakeError::Late,
        _ => HandshakeError::NoAgent { agent, source },
    };
    let stream = TcpStream::connect(agent).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(HandshakeError::from_stream)?;
    if stream.get_ref().1.alpn_protocol() != Some(alpn) {
        return Err(HandshakeError::NoProtocol);
    }
    Ok(stream)
}
