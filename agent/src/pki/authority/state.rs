//! What an authority knows, as its file `ca.json` keeps it. Times are whole seconds since 1970.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::pki::files::{read_private, write_private};
use crate::spiffe::{SpiffeId, TrustDomain};

/// The layout of the file. A file of another version is refused.
const VERSION: u32 = 1;
pub(super) const NAME: &str = "ca.json";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A revocation list in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub(super) number: u64,
    pub(super) made: u64,
    pub(super) next_update: u64,
    pub(super) pem: String,
}

/// A root that peers believe. The first one signs intermediates; others are only published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RootState {
    pub(super) certificate: String,
    /// None when its key is nobody's here: then intermediates cannot be revoked.
    pub(super) list: Option<List>,
}

/// A certificate that signs leaves. Its key is in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Intermediate {
    /// In hex; also the name of the key's file.
    pub(super) serial: String,
    pub(super) certificate: String,
    /// Signers between it and the root, for an authority that was imported.
    #[serde(default)]
    pub(super) above: Vec<String>,
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    /// From when it signs; published before, so that peers know its list.
    pub(super) active_from: u64,
    pub(super) revoked: Option<u64>,
    pub(super) list: List,
    pub(super) revoked_leaves: Vec<RevokedLeaf>,
}

impl Intermediate {
    pub(super) fn is_live(&self, now: u64) -> bool {
        self.revoked.is_none() && now < self.not_after
    }
}

/// One entry of an intermediate's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokedLeaf {
    pub(super) serial: String,
    pub(super) at: u64,
    pub(super) not_after: u64,
}

/// A node that may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// Patterns of the SPIFFE IDs it may have, as written.
    pub(super) allow: Vec<String>,
    pub(super) joined: Option<u64>,
    pub(super) revoked: Option<u64>,
    /// SHA-256, in hex, of the public keys of its latest certificates of its own, the newest last.
    pub(super) keys: Vec<String>,
}

/// A token that lets a node join once. The secret itself is only in the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenState {
    pub(super) id: String,
    /// SHA-256 of the secret, in hex.
    pub(super) hash: String,
    pub(super) node: String,
    pub(super) not_after: u64,
}

/// All that the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    pub(super) trust_domain: TrustDomain,
    /// Grows with every change that those who watch should see.
    pub(super) revision: u64,
    pub(super) leaf_seconds: u64,
    pub(super) intermediate_seconds: u64,
    /// Where the root's key is when it is at hand.
    pub(super) root_key: PathBuf,
    pub(super) roots: Vec<RootState>,
    pub(super) intermediates: Vec<Intermediate>,
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) tokens: Vec<TokenState>,
    /// IDs that are not issued any more, and since when.
    pub(super) banned: BTreeMap<SpiffeId, u64>,
}

/// Read first, so that a file of a later version is named as such and not as damaged.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl State {
    pub(super) fn new(trust_domain: TrustDomain, root_key: PathBuf) -> Self {
        Self {
            version: VERSION,
            trust_domain,
            revision: 0,
            leaf_seconds: 0,
            intermediate_seconds: 0,
            root_key,
            roots: Vec::new(),
            intermediates: Vec::new(),
            nodes: BTreeMap::new(),
            tokens: Vec::new(),
            banned: BTreeMap::new(),
        }
    }

    pub(super) fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(NAME);
        let text = read_private(&path, MAX_FILE).map_err(|error| match error {
            missing if missing.is_missing() => Error::Missing { directory: directory.to_owned() },
            other => other.into(),
        })?;
        let corrupt = |source| Error::Corrupt { path: path.clone(), source };
        let VersionOnly { version } = serde_json::from_slice(&text).map_err(corrupt)?;
        if version != VERSION {
            return Err(Error::Version { path, version });
        }
        serde_json::from_slice(&text).map_err(corrupt)
    }

    pub(super) fn save(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(NAME);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Corrupt { path: path.clone(), source })?;
        text.push(b'\n');
        Ok(write_private(&path, &text)?)
    }

    /// The intermediate that signs now: the one that became active last.
    pub(super) fn signing(&self, now: u64) -> Option<&Intermediate> {
        let usable = |one: &&Intermediate| one.is_live(now) && one.active_from <= now;
        self.intermediates.iter().filter(usable).max_by_key(|one| one.active_from)
    }

    /// The newest intermediate, active or about to be.
    pub(super) fn newest(&self, now: u64) -> Option<&Intermediate> {
        self.intermediates.iter().filter(|one| one.is_live(now)).max_by_key(|one| one.active_from)
    }
}
