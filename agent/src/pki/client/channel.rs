//! One connection to the CA server.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Error, Member};
use crate::pki::bundle::Bundles;
use crate::pki::frames::{read_frame, write_frame};
use crate::pki::names::ca_id;
use crate::pki::refusal::Refusal;
use crate::pki::tls::{Judge, Verifier, client_with};
use crate::pki::verify::{Revocation, Role, verify_with};
use crate::pki::wire::{ALPN, Answer, Request, Told, receive};
use crate::spiffe::SpiffeId;

/// How long connecting may take, and the handshake.
const CONNECT: Duration = Duration::from_secs(5);

/// A conversation with the CA server.
pub(super) struct Channel(TlsStream<TcpStream>);

/// Believes in one server only: the CA, by what was believed before.
struct Known {
    beliefs: Arc<Bundles>,
    ca: SpiffeId,
}

impl Judge for Known {
    fn judge(&self, chain: &[CertificateDer<'_>], role: Role, now: SystemTime) -> Result<(), Refusal> {
        // The lists at hand may be old, as when the node was off for days: new ones come from nowhere else.
        let peer = verify_with(&self.beliefs, chain, role, now, Revocation::Known)?;
        if *peer.id() == self.ca { Ok(()) } else { Err(Refusal::UnknownIssuer) }
    }
}

impl Channel {
    /// Connects as somebody, or as nobody.
    pub(super) async fn open(
        member: &Member,
        beliefs: Arc<Bundles>,
        key: Option<Arc<CertifiedKey>>,
    ) -> Result<Self, Error> {
        let ca = ca_id(&member.trust_domain).map_err(|_unreadable| Error::NotJoined)?;
        let verifier = Verifier::new(Known { beliefs, ca }, true);
        Self::connect(&member.address, client_with(verifier, key, ALPN)).await
    }

    pub(super) async fn connect(address: &str, config: Arc<ClientConfig>) -> Result<Self, Error> {
        let late = || Error::Late { address: address.to_owned() };
        let stream = timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_elapsed| late())?;
        let stream = stream.map_err(|source| Error::Connect { address: address.to_owned(), source })?;
        // Small messages, each waited for.
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from("ca.waxseal.internal").map_err(|_elapsed| late())?;
        let stream = timeout(CONNECT, TlsConnector::from(config).connect(name, stream)).await;
        let stream = stream.map_err(|_elapsed| late())?;
        Ok(Self(stream.map_err(|source| Error::Tls { address: address.to_owned(), source })?))
    }

    /// Asks and waits for the answer.
    pub(super) async fn ask(&mut self, request: &Request, patience: Duration) -> Result<Answer, Error> {
        write_frame(&mut self.0, request, patience).await?;
        match read_frame(&mut self.0, patience).await? {
            Answer::Refused { reason } => Err(Error::Refused(reason)),
            answer => Ok(answer),
        }
    }

    /// Asks for what is told from then on.
    pub(super) async fn begin(&mut self, request: &Request, patience: Duration) -> Result<(), Error> {
        Ok(write_frame(&mut self.0, request, patience).await?)
    }

    /// What is told next.
    pub(super) async fn told(&mut self, patience: Duration) -> Result<Told, Error> {
        Ok(receive(&mut self.0, patience).await?)
    }
}
