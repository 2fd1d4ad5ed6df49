//! Streams on which one node reads what another sees. Both ends are proven here; what is said on them is not looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

use super::HANDSHAKE;
use super::error::HandshakeError;
use super::host::Later;
use super::initiate::{check_node, connect};
use super::inner::Inner;
use super::message::TAP;
use super::target::link_name;
use crate::pki::{Peer, Role, client_config, node_name, peer_of};
use crate::spiffe::SpiffeId;

/// How often it is looked whether who reads is still to be believed.
const JUDGE: Duration = Duration::from_secs(2);

/// A stream between two proven nodes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Answers other nodes. Whether a node may read at all is decided here, not in the mesh.
pub trait Taps: Send + Sync {
    /// Serves a node to the end of its stream, or says to it why not. Dropped when the node is no longer believed.
    fn answer(&self, peer: SpiffeId, stream: Box<dyn Stream>) -> Later<'static, ()>;
}

impl Inner {
    /// Where the agent of a node answers that has been met.
    pub(super) fn agent_of(&self, name: &str) -> Option<SocketAddr> {
        let state = self.state();
        let mut met = state.peers.all();
        met.find(|(_, peer)| node_name(&peer.id) == Some(name)).and_then(|(_, peer)| peer.agent)
    }

    /// A node has opened a stream.
    pub(super) async fn answer_tap(
        self: &Arc<Self>,
        stream: impl Stream + 'static,
        peer: Peer,
    ) -> Result<(), HandshakeError> {
        check_node(&peer)?;
        let taps = self.taps.get().ok_or(HandshakeError::NoProtocol)?;
        tokio::select! {
            () = taps.answer(peer.id().clone(), Box::new(stream)) => Ok(()),
            refusal = self.disbelieved(&peer) => Err(refusal),
        }
    }

    /// Waits until a peer is no longer to be believed: its certificate has ended or was revoked.
    async fn disbelieved(&self, peer: &Peer) -> HandshakeError {
        loop {
            sleep(JUDGE).await;
            if let Err(refusal) = peer.still_valid(&self.trust.load(), SystemTime::now()) {
                return refusal.into();
            }
        }
    }

    /// Opens a stream to the agent at that address.
    pub(super) async fn open_tap(
        &self,
        agent: SocketAddr,
    ) -> Result<(SpiffeId, Box<dyn Stream>), HandshakeError> {
        let node = self.certificates.node().ok_or(HandshakeError::NoNodeCertificate)?;
        let name = link_name().ok_or(HandshakeError::NoName)?;
        let tls = client_config(&self.trust, &node, TAP);
        let opened = timeout(HANDSHAKE, connect(agent, tls, name, TAP)).await;
        let stream = opened.map_err(|_elapsed| HandshakeError::Late)??;
        let peer = peer_of(stream.get_ref().1, &self.trust.load(), Role::Server, SystemTime::now())?;
        check_node(&peer)?;
        Ok((peer.id().clone(), Box::new(stream)))
    }
}
