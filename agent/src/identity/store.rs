//! The file of the registry: read whole or not at all, replaced whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use serde::{Deserialize, Serialize};
use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;

use super::{Error, NUMBERS};
use crate::spiffe::SpiffeId;
use crate::workload::Labels;

/// The layout of the file. A file of another version is refused.
const VERSION: u32 = 1;
const NAME: &str = "identities.json";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// It is not the JSON that a registry writes.
    #[error("it is not what a registry writes")]
    Json(#[source] serde_json::Error),
    /// It is of another version.
    #[error("it has version {0}, this program knows version {VERSION}")]
    Version(u32),
    /// It is larger than any registry.
    #[error("it has more than {MAX_FILE} bytes")]
    TooLarge,
    /// It is a directory, a device or a pipe.
    #[error("it is not a regular file")]
    NotAFile,
    /// A number is not one of those given out.
    #[error("number {0} is out of range")]
    Range(u32),
    /// Two entries have one number, or one identity has two.
    #[error("number {0} is given twice, or its identity is")]
    Twice(u32),
}

/// One identity that has or had a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) spiffe_id: SpiffeId,
    pub(super) labels: Labels,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) mode: Option<ModeName>,
    /// When it was given back, in seconds since 1970; `None` while it is given out.
    pub(super) released: Option<u64>,
    /// It is known by a handshake with another node only; its name is made from its SPIFFE ID.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) remote: bool,
}

/// A mode as the file spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ModeName {
    Permissive,
    Audit,
    Enforce,
}

impl From<Mode> for ModeName {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Permissive => Self::Permissive,
            Mode::Audit => Self::Audit,
            Mode::Enforce => Self::Enforce,
        }
    }
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Permissive => Self::Permissive,
            ModeName::Audit => Self::Audit,
            ModeName::Enforce => Self::Enforce,
        }
    }
}

/// All that the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    version: u32,
    /// The next number that was never given out.
    pub(super) next: u32,
    pub(super) identities: Vec<Entry>,
}

/// Read first, so that a file of a later version is named as such and not as damaged.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl State {
    fn new() -> Self {
        Self { version: VERSION, next: IdentityId::FIRST_WORKLOAD.0, identities: Vec::new() }
    }

    /// The entries that are given out.
    pub(super) fn live(&self) -> impl Iterator<Item = &Entry> {
        self.identities.iter().filter(|entry| entry.released.is_none())
    }

    fn parse(text: &[u8]) -> Result<Self, Corruption> {
        let VersionOnly { version } = serde_json::from_slice(text).map_err(Corruption::Json)?;
        if version != VERSION {
            return Err(Corruption::Version(version));
        }
        let state: Self = serde_json::from_slice(text).map_err(Corruption::Json)?;
        let first = IdentityId::FIRST_WORKLOAD.0;
        if !(first..=first + NUMBERS).contains(&state.next) {
            return Err(Corruption::Range(state.next));
        }
        let mut numbers = BTreeSet::new();
        let mut identities = BTreeSet::new();
        for entry in &state.identities {
            if !(first..state.next).contains(&entry.id) {
                return Err(Corruption::Range(entry.id));
            }
            if !numbers.insert(entry.id) || !identities.insert((&entry.spiffe_id, &entry.labels)) {
                return Err(Corruption::Twice(entry.id));
            }
        }
        Ok(state)
    }
}

/// What a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasting {
    /// Everything: it is on the disk before anybody sees it.
    OnDisk,
    /// The end of the agent, not of the machine. For numbers that only the kernel's tables name: those go with it.
    ThisBoot,
}

/// Where the file is.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    file: PathBuf,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::Write { file: directory.to_owned(), source })?;
        Ok(Self { directory: directory.to_owned(), file: directory.join(NAME) })
    }

    pub(super) fn load(&self) -> Result<State, Error> {
        let corrupt = |source| Error::Corrupt { file: self.file.clone(), source };
        let read = |source| Error::Read { file: self.file.clone(), source };
        let flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::new()),
            other => other.map_err(read)?,
        };
        if !file.metadata().map_err(read)?.is_file() {
            return Err(corrupt(Corruption::NotAFile));
        }
        let mut text = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(read)?;
        if text.len() as u64 > MAX_FILE {
            return Err(corrupt(Corruption::TooLarge));
        }
        State::parse(&text).map_err(corrupt)
    }

    /// Replaces the file. After an error the old one is still there.
    pub(super) fn save(&self, state: &State, lasting: Lasting) -> Result<(), Error> {
        let new = self.file.with_extension("json.new");
        let written = self.replace(&new, state, lasting);
        if written.is_err() {
            // Room for the next try; it may not be there at all.
            let _ = fs::remove_file(&new);
        }
        written.map_err(|source| Error::Write { file: self.file.clone(), source })
    }

    fn replace(&self, new: &Path, state: &State, lasting: Lasting) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(state)?;
        text.push(b'\n');
        match fs::remove_file(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        file.write_all(&text)?;
        if lasting == Lasting::OnDisk {
            file.sync_all()?;
        }
        fs::rename(new, &self.file)?;
        if lasting == Lasting::OnDisk {
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(())
    }
}
