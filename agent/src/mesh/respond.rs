//! The responder's side of a pair handshake: proves the asker, installs the session, and only then accepts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::server::{StartHandshake, TlsStream};
use waxseal_common::wire::Spi;

use super::counters::Count;
use super::error::HandshakeError;
use super::gate::Place;
use super::host::Local;
use super::initiate::check_node;
use super::inner::Inner;
use super::keys::{Ends, Side, node_message, session_key};
use super::message::{Accept, Answer, Hello, Hex, PAIR, Question, are_bounded, to_chain, to_hex};
use super::state::Party;
use super::{HANDSHAKE, Target, frame, inbound};
use crate::pki::{Peer, Role, Svid, is_reserved, peer_of, server_config, verify};

/// Shows one certificate, whatever is asked for: the name was looked at before.
#[derive(Debug)]
pub(super) struct One(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Who answers on this side.
struct Answering {
    /// The workload that listens; `None` when only the node answers.
    local: Option<Local>,
    svid: Arc<Svid>,
    node: Arc<Svid>,
}

impl Inner {
    /// Answers on a pair connection whose first message has come. The caller limits the time.
    pub(super) async fn respond(
        &self,
        start: StartHandshake<TcpStream>,
        from: SocketAddr,
        place: Place,
    ) -> Result<(), HandshakeError> {
        let name = start.client_hello().server_name().map(str::to_owned);
        let target = name.as_deref().and_then(Target::from_server_name).ok_or(HandshakeError::NoName)?;
        let answering = self.answering(target).await?;
        let resolver = Arc::new(One(answering.svid.certified_key()));
        let tls = server_config(&self.trust, resolver, &[PAIR]);
        let mut stream = start.into_stream(tls).await.map_err(HandshakeError::from_stream)?;
        let source = peer_of(stream.get_ref().1, &self.trust.load(), Role::Client, SystemTime::now())?;
        // It has proved a name: no stranger at the door any more.
        drop(place);
        match self.agree(&mut stream, &answering, source, from).await {
            Ok((spi, accept)) => {
                let sent = frame::write(&mut stream, &Answer::Accept(Box::new(accept)), HANDSHAKE).await;
                sent.map_err(|error| {
                    // Nobody knows of it.
                    self.forget_inbound(&[spi]);
                    HandshakeError::from_frame(error)
                })?;
                self.counters.add(Count::Answered);
                self.hang_up(stream).await;
                Ok(())
            }
            Err(error) => {
                let refuse = Answer::Refuse { reason: error.reason() };
                let _hung_up = frame::write(&mut stream, &refuse, HANDSHAKE).await;
                self.hang_up(stream).await;
                Err(error)
            }
        }
    }

    /// Ends a stream in order, so that the peer reads the last message before the end.
    async fn hang_up(&self, mut stream: TlsStream<TcpStream>) {
        use tokio::io::AsyncWriteExt as _;
        let _ended = tokio::time::timeout(HANDSHAKE, stream.shutdown()).await;
    }

    async fn answering(&self, target: Target) -> Result<Answering, HandshakeError> {
        let node = self.certificates.node().ok_or(HandshakeError::NoNodeCertificate)?;
        let local = self.node.listener(target).await.map_err(HandshakeError::Listener)?;
        let svid = match &local {
            None => Arc::clone(&node),
            Some(local) => self.svid_of(&local.id).await?,
        };
        Ok(Answering { local, svid, node })
    }

    async fn agree(
        &self,
        stream: &mut TlsStream<TcpStream>,
        answering: &Answering,
        source: Peer,
        from: SocketAddr,
    ) -> Result<(Spi, Accept), HandshakeError> {
        if is_reserved(source.id()) {
            let problem = "is no workload and cannot ask for a session";
            return Err(HandshakeError::Role { id: source.id().clone(), problem });
        }
        let question = frame::read(stream, HANDSHAKE).await.map_err(HandshakeError::from_frame)?;
        let Question::Hello(hello) = question;
        let connection = stream.get_ref().1;
        let ends = Ends { source: source.id(), destination: answering.svid.id() };
        let message = node_message(connection, ends, Side::Initiator).map_err(HandshakeError::Tls)?;
        let node = self.proven_node(&hello, &message)?;
        if !are_bounded(&hello.labels) {
            return Err(HandshakeError::Labels);
        }
        self.admit_rate(node.id())?;
        let message = node_message(connection, ends, Side::Responder).map_err(HandshakeError::Tls)?;
        let signature = Hex(answering.node.sign(&message).map_err(HandshakeError::Sign)?);
        let source = Arc::new(source);
        let identity = self.node.admit(Arc::clone(&source), hello.labels.clone()).await?;
        let agreed = inbound::Agreed {
            source: Party { id: source.id().clone(), identity },
            destination: answering.local.as_ref().map(Party::from),
            proofs: vec![
                source,
                Arc::clone(&node),
                self.own_proof(&answering.svid)?,
                self.own_proof(&answering.node)?,
            ],
            node,
            nonce: hello.nonce,
            agent: SocketAddr::new(from.ip().to_canonical(), hello.port),
            replaces: hello.replaces.map(Spi),
        };
        let source_id = agreed.source.id.clone();
        let connection = stream.get_ref().1;
        let ends = Ends { source: &source_id, destination: answering.svid.id() };
        let installed = self.install_inbound(agreed, |spi, epoch| {
            session_key(connection, ends, spi, epoch).map_err(HandshakeError::Tls)
        })?;
        let accept = Accept {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spi: installed.spi.0,
            epoch: installed.epoch,
            seconds: installed.seconds,
            node: to_hex(&answering.node.chain()),
            signature,
            labels: answering.local.as_ref().map(|local| local.labels.clone()).unwrap_or_default(),
            nonce: self.nonce,
        };
        Ok((installed.spi, accept))
    }

    /// The node that says the asker runs on it.
    fn proven_node(&self, hello: &Hello, message: &[u8]) -> Result<Arc<Peer>, HandshakeError> {
        let chain = to_chain(hello.node.clone());
        let node = verify(&self.trust.load(), &chain, Role::Client, SystemTime::now())?;
        check_node(&node)?;
        node.verify_signature(message, &hello.signature.0)?;
        if self.certificates.node().is_some_and(|own| own.id() == node.id()) {
            return Err(HandshakeError::Role { id: node.id().clone(), problem: "is this very node" });
        }
        Ok(Arc::new(node))
    }
}
