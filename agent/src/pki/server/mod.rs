//! The CA server: lets nodes join, signs for the workloads that each is registered for, and tells them what to believe.
//!
//! One task for each connection; nothing is awaited in the accept loop but the next connection.

mod ask;
mod gate;
mod guests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::embedded::{Custodian, Embedded};
use super::keeper::Keeper;
use super::names::ca_id;
use super::publication::PublicationError;
use super::tls::{Verifier, server_with};
use super::trust::Trust;
use super::wire::ALPN;
use crate::spiffe;
use gate::Gate;
use guests::{Guest, Guests};

/// The port of a CA server.
pub const CA_PORT: u16 = 7463;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The pause after a connection that could not be accepted: descriptors must first be given back.
const RECOVER: Duration = Duration::from_millis(50);
/// How long the server waits at first for its own certificate.
const FIRST: Duration = Duration::from_secs(30);

/// How many may be connected.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At once.
    pub connections: usize,
    /// At once from one address; for IPv6 from one /64.
    pub connections_of_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 8192, connections_of_address: 256 }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// What the authority publishes cannot be believed.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// The server's own name.
    #[error(transparent)]
    Id(#[from] spiffe::Error),
    /// The authority has signed no certificate for the server.
    #[error("the CA has no certificate for its own server: {reason}")]
    NoCertificate {
        /// The last thing that went wrong; escaped.
        reason: String,
    },
}

/// A CA server that listens.
pub struct CaServer {
    listener: TcpListener,
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    guests: Guests,
    _custodian: Custodian,
}

impl fmt::Debug for CaServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaServer").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// What every connection needs.
#[derive(Debug)]
struct Shared {
    authority: Arc<Authority>,
    trust: Trust,
    keeper: Keeper,
}

impl ResolvesServerCert for Shared {
    /// The root is shown too: a node that joins knows nothing but its hash.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.keeper.node()?.certified_key();
        let mut chain = key.cert.clone();
        let beliefs = self.trust.load();
        let (_, bundle) = beliefs.domains().next()?;
        chain.push(bundle.roots().first()?.der().clone());
        Some(Arc::new(CertifiedKey::new(chain, Arc::clone(&key.key))))
    }
}

impl CaServer {
    /// Listens, with a certificate of its own. Connections are answered once [`serve`](Self::serve) runs.
    pub async fn bind(
        address: SocketAddr,
        authority: Arc<Authority>,
        limits: Limits,
    ) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ServerError::Listen { address, source })?;
        let trust = Trust::default();
        let custodian = Custodian::start(Arc::clone(&authority), trust.clone())?;
        let own = ca_id(&authority.trust_domain())?;
        let issuer = Arc::new(Embedded::new(Arc::clone(&authority), own.clone()));
        let keeper = Keeper::start(issuer, trust.clone(), own.clone());
        if keeper.wait_for(&own, FIRST).await.is_none() {
            let reason = keeper.status().into_iter().find_map(|one| one.last_error).unwrap_or_default();
            return Err(ServerError::NoCertificate { reason });
        }
        let gate = Gate::new(Arc::clone(&authority), trust.clone());
        let shared = Arc::new(Shared { authority, trust, keeper });
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&shared) as _;
        let acceptor = TlsAcceptor::from(server_with(Verifier::new(gate, false), resolver, &[ALPN]));
        Ok(Self { listener, shared, acceptor, guests: Guests::new(limits), _custodian: custodian })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until dropped. Nothing that a peer does, and no lack of descriptors, ends it.
    pub async fn serve(self) {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let Some(guest) = self.guests.admit(from.ip()) else {
                        tracing::debug!(%from, "too many connections from there; hung up");
                        continue;
                    };
                    let (shared, acceptor) = (Arc::clone(&self.shared), self.acceptor.clone());
                    tasks.spawn(answer(shared, acceptor, stream, guest));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(RECOVER).await;
                }
            }
        }
    }
}

async fn answer(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream, guest: Guest) {
    // A server that answers small messages has no use for waiting.
    let _ = stream.set_nodelay(true);
    let from = guest.address();
    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        // A peer that does not say what it speaks speaks something else.
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() != Some(ALPN) => {}
        Ok(Ok(stream)) => {
            if let Err(error) = ask::converse(&shared, stream, from).await {
                tracing::debug!(%from, %error, "the conversation has ended");
            }
        }
        Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS handshake"),
        Err(_) => tracing::debug!(%from, "the TLS handshake has taken too long"),
    }
    drop(guest);
}
