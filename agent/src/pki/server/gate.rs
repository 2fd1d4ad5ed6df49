//! Who may speak to the CA server: nodes with a certificate that holds, and nodes whose certificate has ended but whose
//! key the authority knows as theirs, so that a CA that was away for long does not lose every node.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::CommonState;
use rustls::pki_types::CertificateDer;

use crate::pki::authority::{Authority, key_hash};
use crate::pki::certificate;
use crate::pki::refusal::{Position, Refusal};
use crate::pki::tls::Judge;
use crate::pki::trust::Trust;
use crate::pki::verify::{Peer, Role, verify};
use crate::pki::{node_name, peer_of};

/// A caller, after its handshake.
#[derive(Debug)]
pub(super) enum Caller {
    /// Has shown no certificate: it may join.
    Stranger,
    /// A node whose certificate holds.
    Node(Box<Peer>),
    /// A node whose certificate has ended, by name: it may renew it.
    Lapsed(String),
    /// Somebody whose certificate is no node's.
    Other,
}

/// The verifier's beliefs.
pub(super) struct Gate {
    authority: Arc<Authority>,
    trust: Trust,
}

impl Gate {
    pub(super) fn new(authority: Arc<Authority>, trust: Trust) -> Self {
        Self { authority, trust }
    }
}

impl Judge for Gate {
    fn judge(&self, chain: &[CertificateDer<'_>], role: Role, now: SystemTime) -> Result<(), Refusal> {
        let Err(refusal) = verify(&self.trust.load(), chain, role, now) else { return Ok(()) };
        match lapsed(&self.authority, chain, now) {
            Some(_) => Ok(()),
            None => Err(refusal),
        }
    }
}

/// The node that has lost its certificate and still has its key.
fn lapsed(authority: &Authority, chain: &[CertificateDer<'_>], now: SystemTime) -> Option<String> {
    let parsed = certificate::parse(chain.first()?, Position(0)).ok()?;
    let id = certificate::spiffe_id(&parsed).ok()?;
    let name = node_name(&id).filter(|_| *id.trust_domain() == authority.trust_domain())?;
    let key = key_hash(&parsed.public_key().subject_public_key.data);
    let (_, ended) = certificate::validity(&parsed);
    authority.knows_key(name, &key, ended, now).then(|| name.to_owned())
}

/// Who has called. TLS has proved that they hold the key.
pub(super) fn caller(connection: &CommonState, authority: &Authority, trust: &Trust) -> Caller {
    let now = SystemTime::now();
    let chain = connection.peer_certificates().unwrap_or_default();
    if chain.is_empty() {
        return Caller::Stranger;
    }
    match peer_of(connection, &trust.load(), Role::Client, now) {
        Ok(peer) if peer.is_node() => Caller::Node(Box::new(peer)),
        Ok(_) => Caller::Other,
        Err(_) => lapsed(authority, chain, now).map_or(Caller::Other, Caller::Lapsed),
    }
}
