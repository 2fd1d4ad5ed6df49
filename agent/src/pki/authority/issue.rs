//! Signing leaves. Every one is in the journal before it leaves, so that it can be revoked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::journal::Entry;
use super::nodes::allows;
use super::signer::Signer;
use super::{Authority, Error, Session};
use crate::pki::csr::{self, CsrRefusal};
use crate::pki::issuer::{Denial, Issued};
use crate::pki::profile::{self, hex, moment, seconds};
use crate::pki::{Svid, is_reserved, node_id};
use crate::spiffe::SpiffeId;

/// Certificates of one node that have not expired.
const MAX_LIVE: usize = 20_000;
/// Certificates of all nodes that have not expired.
const MAX_ALL: usize = 1_000_000;
/// Keys of a node that count as its own: the newest, and the one before it in case the answer was lost.
const KEYS: usize = 2;

/// A chain for somebody else's key, the leaf first.
pub(in crate::pki) type Chain = Vec<CertificateDer<'static>>;

/// One signature that was asked for: the name, and the request with the key.
#[derive(Debug)]
pub(in crate::pki) struct Wanted<'a> {
    pub(in crate::pki) id: &'a SpiffeId,
    pub(in crate::pki) request: &'a [u8],
}

impl Authority {
    /// Issues to the node that the authority runs on: fresh keys, any workload's name, and `own`, its node's or server's.
    pub fn issue(&self, ids: &[SpiffeId], own: &SpiffeId, now: SystemTime) -> Result<Vec<Issued>, Error> {
        self.session(|session| {
            let mut press = Press::new(session, None, now)?;
            let made: Vec<_> = ids.iter().map(|id| press.fresh(id, own)).collect::<Result<_, _>>()?;
            press.finish()?;
            Ok(made)
        })
    }

    /// Signs for a node: names that it is registered for, and nothing else.
    pub(in crate::pki) fn sign(
        &self,
        node: &str,
        wanted: &[Wanted<'_>],
        now: SystemTime,
    ) -> Result<Vec<Result<Chain, Denial>>, Error> {
        self.session(|session| {
            let registered = session.state.nodes.get(node).ok_or(Error::UnknownNode)?;
            if registered.revoked.is_some() {
                return Err(Error::RevokedNode);
            }
            let allow = registered.allow.clone();
            let mut press = Press::new(session, Some(node.to_owned()), now)?;
            let signed: Vec<_> =
                wanted.iter().map(|one| press.requested(one, &allow)).collect::<Result<_, _>>()?;
            press.finish()?;
            Ok(signed)
        })
    }

    /// Signs a node's own identity anew; its key counts as the node's from now on.
    pub(in crate::pki) fn renew(&self, node: &str, request: &[u8], now: SystemTime) -> Result<Chain, Error> {
        self.session(|session| {
            match session.state.nodes.get(node) {
                None => return Err(Error::UnknownNode),
                Some(known) if known.revoked.is_some() => return Err(Error::RevokedNode),
                Some(_) => {}
            }
            sign_node(session, node, request, now)
        })
    }
}

/// Signs a node's own identity. Whoever calls knows that the node may have it.
pub(super) fn sign_node(
    session: &mut Session<'_>,
    node: &str,
    request: &[u8],
    now: SystemTime,
) -> Result<Chain, Error> {
    let id = node_id(&session.state.trust_domain, node)?;
    let request = csr::read(request).map_err(Denial::Request)?;
    if request.id != id {
        return Err(Denial::Request(CsrRefusal::OtherId).into());
    }
    let mut press = Press::new(session, Some(node.to_owned()), now)?;
    let chain = press.sign(&id, &request.key)??;
    press.finish()?;
    let key = key_of(&request.key);
    let known = session.change().nodes.entry(node.to_owned()).or_default();
    known.keys.push(key);
    let old = known.keys.len().saturating_sub(KEYS);
    known.keys.drain(..old);
    Ok(chain)
}

/// How a public key is remembered.
pub(in crate::pki) fn key_of(key: &impl PublicKeyData) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(key.der_bytes()))
}

/// One batch of signatures by one intermediate.
struct Press<'s, 'a> {
    session: &'s mut Session<'a>,
    node: Option<String>,
    signer: Arc<Signer>,
    serial: String,
    now: SystemTime,
    not_after: SystemTime,
    room: usize,
    entries: Vec<Entry>,
}

impl<'s, 'a> Press<'s, 'a> {
    fn new(session: &'s mut Session<'a>, node: Option<String>, now: SystemTime) -> Result<Self, Error> {
        let at = seconds(now);
        let signing = session.state.signing(at).ok_or(Error::NoSigner)?;
        let (serial, end) = (signing.serial.clone(), signing.not_after);
        let not_after = moment(end).min(now + Duration::from_secs(session.state.leaf_seconds));
        let signer = session.signer(&serial)?;
        let (mut all, mut own) = (0, 0);
        for entry in session.journal.live(at) {
            all += 1;
            own += usize::from(entry.node == node);
        }
        let room = MAX_LIVE.saturating_sub(own).min(MAX_ALL.saturating_sub(all));
        Ok(Self { session, node, signer, serial, now, not_after, room, entries: Vec::new() })
    }

    fn fresh(&mut self, id: &SpiffeId, own: &SpiffeId) -> Result<Issued, Error> {
        if is_reserved(id) && id != own {
            return Ok(Err(Denial::Reserved));
        }
        let key = KeyPair::generate().map_err(Error::Make)?;
        let secret = Zeroizing::new(key.serialize_der());
        let chain = match self.sign(id, &key)? {
            Ok(chain) => chain,
            Err(denial) => return Ok(Err(denial)),
        };
        let mut key = key;
        zeroize::Zeroize::zeroize(&mut key);
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret.as_slice()));
        Ok(Ok(Arc::new(Svid::new(chain, &der)?)))
    }

    fn requested(&mut self, wanted: &Wanted<'_>, allow: &[String]) -> Result<Result<Chain, Denial>, Error> {
        let Wanted { id, request } = wanted;
        if is_reserved(id) {
            return Ok(Err(Denial::Reserved));
        }
        let request = match csr::read(request) {
            Ok(request) if request.id == **id => request,
            Ok(_) => return Ok(Err(Denial::Request(CsrRefusal::OtherId))),
            Err(refusal) => return Ok(Err(Denial::Request(refusal))),
        };
        if *id.trust_domain() == self.session.state.trust_domain && !allows(allow, id) {
            return Ok(Err(Denial::NotAllowed));
        }
        self.sign(id, &request.key)
    }

    /// Signs one name, when the trust domain, the bans and the quota let it.
    fn sign(&mut self, id: &SpiffeId, key: &impl PublicKeyData) -> Result<Result<Chain, Denial>, Error> {
        if *id.trust_domain() != self.session.state.trust_domain {
            return Ok(Err(Denial::OtherTrustDomain));
        }
        if self.session.state.banned.contains_key(id) {
            return Ok(Err(Denial::Banned));
        }
        if self.entries.len() >= self.room {
            return Ok(Err(Denial::Quota));
        }
        let made = profile::leaf(id, key, &self.signer.issuer, (self.now, self.not_after));
        let made = made.map_err(Error::Make)?;
        self.entries.push(Entry {
            serial: made.serial,
            issuer: self.serial.clone(),
            id: id.clone(),
            node: self.node.clone(),
            not_after: seconds(self.not_after),
        });
        Ok(Ok(std::iter::once(made.der).chain(self.signer.chain.iter().cloned()).collect()))
    }

    /// Nothing is handed out before this has returned.
    fn finish(self) -> Result<(), Error> {
        if self.entries.is_empty() { Ok(()) } else { self.session.journal.append(self.entries) }
    }
}
