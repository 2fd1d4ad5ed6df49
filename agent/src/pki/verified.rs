//! Chains that were found good a moment ago, under the very same beliefs.
//!
//! A handshake shows its chain to TLS and to us, and a node shows its own with each of its workloads: without this, most of
//! the time of a handshake goes into signatures that were checked before. Only what was verified whole gets in, so nobody
//! without a certificate of ours can fill it; it lives and ends with one state of belief, so a revocation empties it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::verify::{Peer, Role};

/// For how long a chain need not be verified again.
const FRESH: Duration = Duration::from_mins(1);
/// How many chains are kept. When all are fresh, no more come in.
const CAPACITY: usize = 2048;

/// A chain and what it was shown as.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of every byte that the verifier looks at.
    pub(super) fn of(chain: &[CertificateDer<'_>], role: Role) -> Self {
        let mut hash = Sha256::new();
        hash.update([role as u8]);
        for certificate in chain {
            hash.update((certificate.len() as u64).to_be_bytes());
            hash.update(certificate);
        }
        Self(hash.finalize().into())
    }
}

struct Entry {
    peer: Peer,
    at: SystemTime,
    until: SystemTime,
}

impl Entry {
    /// A clock that was set back makes nothing fresh.
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.at <= now && now < self.until
    }
}

/// The chains.
#[derive(Default)]
pub(super) struct Verified(Mutex<HashMap<Fingerprint, Entry>>);

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verified").field(&self.entries().len()).finish()
    }
}

impl Verified {
    fn entries(&self) -> MutexGuard<'_, HashMap<Fingerprint, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who it was, when it was verified a moment ago and nothing in it has ended since.
    pub(super) fn find(&self, chain: &Fingerprint, now: SystemTime) -> Option<Peer> {
        self.entries().get(chain).filter(|entry| entry.is_fresh(now)).map(|entry| entry.peer.clone())
    }

    /// Keeps what was just verified, no longer than `end`: whatever else the verdict rested on ends then.
    pub(super) fn keep(&self, chain: Fingerprint, peer: &Peer, now: SystemTime, end: Option<SystemTime>) {
        let until = (now + FRESH).min(peer.not_after()).min(end.unwrap_or(peer.not_after()));
        let mut entries = self.entries();
        if entries.len() >= CAPACITY {
            entries.retain(|_, entry| entry.is_fresh(now));
        }
        if entries.len() < CAPACITY {
            entries.insert(chain, Entry { peer: peer.clone(), at: now, until });
        }
    }
}
