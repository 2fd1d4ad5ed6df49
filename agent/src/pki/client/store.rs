//! What a member keeps on its disk: its own key and certificate, and what it believed last.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Error, Key, Member, svid_of};
use crate::pki::Publication;
use crate::pki::files::{FileError, private_directory, read_private, write_private};
use crate::pki::names::node_id;
use crate::pki::pem::of_certificate;
use crate::pki::svid::Svid;

const VERSION: u32 = 1;
/// Bytes of the identity's file.
const MAX_IDENTITY: u64 = 64 * 1024;
/// Bytes of the publication's file.
const MAX_PUBLICATION: u64 = 16 << 20;

/// The node's own key and certificate.
pub(super) struct Identity {
    /// Which token it came from.
    pub(super) token: String,
    pub(super) svid: Arc<Svid>,
    key: Key,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { token, svid, key: _ } = self;
        f.debug_struct("Identity").field("token", token).field("svid", svid).finish_non_exhaustive()
    }
}

impl Identity {
    pub(super) fn new(token: String, chain: &[String], key: Key) -> Result<Self, Error> {
        let svid = Arc::new(svid_of(chain.iter().map(String::as_str), &key)?);
        Ok(Self { token, svid, key })
    }
}

/// The identity's file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    token: String,
    chain: Vec<String>,
    /// PKCS #8 in PEM.
    key: String,
}

impl Drop for File {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// The directory.
#[derive(Debug)]
pub(super) struct Store {
    identity: PathBuf,
    publication: PathBuf,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Self, FileError> {
        private_directory(directory)?;
        Ok(Self { identity: directory.join("node.json"), publication: directory.join("bundle.json") })
    }

    /// The identity of an earlier start, when it is this node's.
    pub(super) fn load(&self, member: &Member) -> Result<Option<Identity>, Error> {
        let damaged = || Error::Damaged { path: self.identity.clone() };
        let text = match read_private(&self.identity, MAX_IDENTITY) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let file: File = serde_json::from_slice(&text).map_err(|_unreadable| damaged())?;
        if file.version != VERSION {
            return Err(damaged());
        }
        let mut der =
            PrivatePkcs8KeyDer::from_pem_slice(file.key.as_bytes()).map_err(|_unreadable| damaged())?;
        let key = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        der.zeroize();
        let identity =
            Identity::new(file.token.clone(), &file.chain, key).map_err(|_unreadable| damaged())?;
        let own = node_id(&member.trust_domain, &member.node).map_err(|_unreadable| damaged())?;
        Ok(Some(identity).filter(|identity| *identity.svid.id() == own))
    }

    pub(super) fn save(&self, identity: &Identity) -> Result<(), Error> {
        let Identity { token, svid, key } = identity;
        let file = File {
            version: VERSION,
            token: token.clone(),
            chain: svid.chain().iter().map(of_certificate).collect(),
            key: pem::encode(&pem::Pem::new("PRIVATE KEY", key.to_vec())),
        };
        let text = serde_json::to_vec(&file).map(Zeroizing::new);
        let text = text.map_err(|_unreadable| Error::Damaged { path: self.identity.clone() })?;
        Ok(write_private(&self.identity, &text)?)
    }

    /// What was believed last.
    pub(super) fn publication(&self) -> Result<Option<Publication>, Error> {
        let text = match read_private(&self.publication, MAX_PUBLICATION) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let read = serde_json::from_slice(&text);
        read.map(Some).map_err(|_unreadable| Error::Damaged { path: self.publication.clone() })
    }

    pub(super) fn publish(&self, publication: &Publication) -> Result<(), Error> {
        let text = serde_json::to_vec(publication);
        let text = text.map_err(|_unreadable| Error::Damaged { path: self.publication.clone() })?;
        Ok(write_private(&self.publication, &text)?)
    }
}
