//! An identity that this node can prove: a chain and the private key to it, in memory.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::certificate::{self, validity};
use super::refusal::{Position, Refusal};
use crate::spiffe::SpiffeId;

/// Why a chain and a key are no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The leaf does not fit the profile.
    #[error("the certificate cannot be used: {0}")]
    Certificate(#[from] Refusal),
    /// The key cannot be read, or is of a kind that is not used.
    #[error("the private key cannot be used: {0}")]
    Key(#[source] rustls::Error),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    OtherKey,
    /// The key has not signed.
    #[error("the private key does not sign: {0}")]
    Sign(#[source] rustls::Error),
}

/// A workload's or node's identity with its key. Debug shows no key.
pub struct Svid {
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    leaf: Box<[u8]>,
    signers: Signers,
    key: Arc<dyn SigningKey>,
}

/// The rest of a chain. Whoever has thousands of identities has it from one or two intermediates.
type Signers = Arc<[CertificateDer<'static>]>;

/// Chains of signers that are in use, so that each is in memory once.
static IN_USE: Mutex<Vec<Weak<[CertificateDer<'static>]>>> = Mutex::new(Vec::new());
/// How many of them are compared; any more are each kept for themselves.
const MAX_IN_USE: usize = 16;

fn shared(signers: &[CertificateDer<'static>]) -> Signers {
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    in_use.retain(|known| known.strong_count() > 0);
    if let Some(known) = in_use.iter().filter_map(Weak::upgrade).find(|known| **known == *signers) {
        return known;
    }
    let fresh: Signers = signers.iter().map(|signer| signer.to_vec().into()).collect();
    if in_use.len() < MAX_IN_USE {
        in_use.push(Arc::downgrade(&fresh));
    }
    fresh
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, not_before, not_after, leaf: _, signers: _, key: _ } = self;
        f.debug_struct("Svid")
            .field("id", id)
            .field("not_before", not_before)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

impl Svid {
    /// Takes a chain, the leaf first, and the leaf's key. The chain is not verified: see [`verify`](super::verify).
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, Error> {
        let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
        let parsed = certificate::parse(leaf, Position(0))?;
        let id = certificate::spiffe_id(&parsed)?;
        let (not_before, leaf_end) = validity(&parsed);
        let mut not_after = leaf_end;
        for (signer, index) in chain.iter().zip(0..).skip(1) {
            not_after = not_after.min(validity(&certificate::parse(signer, Position(index))?).1);
        }
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key).map_err(Error::Key)?;
        let whole = CertifiedKey::new(chain, key);
        whole.keys_match().map_err(|_unreadable| Error::OtherKey)?;
        let (leaf, signers) = whole.cert.split_first().ok_or(Refusal::NoCertificate)?;
        let (leaf, signers) = (leaf.as_ref().into(), shared(signers));
        Ok(Self { id, not_before, not_after, leaf, signers, key: whole.key })
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// From when it counts.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it counts: the earliest end in its chain.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The chain, the leaf first.
    pub fn chain(&self) -> Vec<CertificateDer<'_>> {
        let signers = self.signers.iter().map(AsRef::as_ref);
        std::iter::once(&*self.leaf).chain(signers).map(CertificateDer::from).collect()
    }

    /// Chain and key as rustls wants them, made for one handshake: its form of a chain shares nothing.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        let chain = self.chain().into_iter().map(CertificateDer::into_owned).collect();
        Arc::new(CertifiedKey::new(chain, Arc::clone(&self.key)))
    }

    /// Signs a message: ECDSA P-256 with SHA-256 in ASN.1 for the keys that we make, else what the key's kind asks for.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let schemes = [
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
        ];
        let signer = self.key.choose_scheme(&schemes);
        let signer =
            signer.ok_or(Error::Sign(rustls::Error::General("no scheme fits the key".to_owned())))?;
        signer.sign(message).map_err(Error::Sign)
    }
}
