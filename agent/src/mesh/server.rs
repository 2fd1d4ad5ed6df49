//! The agent port. Accepts and nothing else: every handshake has its own task, and its own few seconds.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::{StartHandshake, TlsStream};

use super::HANDSHAKE;
use super::counters::Count;
use super::error::HandshakeError;
use super::gate::{Place, group};
use super::inner::Inner;
use super::message::{LINK, PAIR, TAP};
use super::respond::One;
use crate::pki::{Peer, Role, peer_of, server_config};

/// How long accepting pauses when descriptors or memory are short.
const PAUSE: Duration = Duration::from_millis(20);

/// Where connections come from.
pub(super) trait Accept: Send {
    /// The next one.
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

impl Inner {
    /// Accepts for ever. No error ends it.
    pub(super) async fn serve(self: Arc<Self>, mut listener: impl Accept) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let place = self.gate.stand(from.ip());
                    let inner = Arc::clone(&self);
                    tokio::spawn(async move { inner.greet(stream, from, place).await });
                }
                Err(error) => {
                    self.counters.add(Count::AcceptErrors);
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        tracing::warn!(%error, "cannot accept a connection on the agent port");
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    async fn greet(self: Arc<Self>, stream: TcpStream, from: SocketAddr, mut place: Place) {
        let deadline = tokio::time::Instant::now() + HANDSHAKE;
        let arrived = tokio::select! {
            arrived = timeout(HANDSHAKE, arrive(stream)) => arrived.unwrap_or(Err(HandshakeError::Late)),
            _ = &mut place.taken => {
                self.counters.add(Count::TurnedAway);
                return;
            }
        };
        let ended = match arrived {
            Ok(start) => self.hear(start, from, place, deadline).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.counters.add(Count::AnswersFailed);
            tracing::debug!(%error, %from, "a connection to the agent port");
        }
    }

    /// By the protocol that is asked for.
    async fn hear(
        self: &Arc<Self>,
        start: StartHandshake<TcpStream>,
        from: SocketAddr,
        place: Place,
        deadline: tokio::time::Instant,
    ) -> Result<(), HandshakeError> {
        if !self.limits().arrivals.take(group(from.ip()), Instant::now()) {
            self.counters.add(Count::TurnedAway);
            return Err(HandshakeError::Busy);
        }
        let wanted: Vec<Vec<u8>> =
            start.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        let wants = |alpn: &[u8]| wanted.iter().any(|name| name == alpn);
        if wants(PAIR) {
            let began = Instant::now();
            let answered = tokio::time::timeout_at(deadline, self.respond(start, from, place)).await;
            let answered = answered.unwrap_or(Err(HandshakeError::Late));
            self.answered.note(&answered, began.elapsed());
            return answered;
        }
        if wants(LINK) {
            let (stream, peer) = self.prove(start, LINK, place, deadline).await?;
            return self.run_link(stream, peer, from, false).await;
        }
        if wants(TAP) {
            let (stream, peer) = self.prove(start, TAP, place, deadline).await?;
            return self.answer_tap(stream, peer).await;
        }
        Err(HandshakeError::NoProtocol)
    }

    /// TLS with this node's certificate; the peer's is verified, whoever it is.
    async fn prove(
        self: &Arc<Self>,
        start: StartHandshake<TcpStream>,
        alpn: &[u8],
        mut place: Place,
        deadline: tokio::time::Instant,
    ) -> Result<(TlsStream<TcpStream>, Peer), HandshakeError> {
        let node = self.certificates.node().ok_or(HandshakeError::NoNodeCertificate)?;
        let tls = server_config(&self.trust, Arc::new(One(node.certified_key())), &[alpn]);
        let handshake = tokio::time::timeout_at(deadline, start.into_stream(tls));
        let stream = tokio::select! {
            stream = handshake => stream.map_err(|_elapsed| HandshakeError::Late)?,
            _ = &mut place.taken => return Err(HandshakeError::Busy),
        };
        let stream = stream.map_err(HandshakeError::from_stream)?;
        let peer = peer_of(stream.get_ref().1, &self.trust.load(), Role::Client, SystemTime::now())?;
        Ok((stream, peer))
    }
}

/// The first message of TLS, whole, before anything is decided or computed.
async fn arrive(stream: TcpStream) -> Result<StartHandshake<TcpStream>, HandshakeError> {
    stream.set_nodelay(true).map_err(HandshakeError::HungUp)?;
    LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(HandshakeError::from_stream)
}
