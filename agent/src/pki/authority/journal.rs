//! What was issued to whom: one line for each certificate, on the disk before the certificate leaves. Only what has not
//! expired is kept, so that a revocation finds every certificate that still counts.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::pki::files::{FileError, sync_directory, write_private};
use crate::spiffe::SpiffeId;

const NAME: &str = "issued.jsonl";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// Lines that may have expired before the file is written anew, beside as many as have not.
const SLACK: usize = 1000;

/// One certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// In hex.
    pub(super) serial: String,
    /// The intermediate's, in hex.
    pub(super) issuer: String,
    pub(super) id: SpiffeId,
    /// None for the node that the authority itself runs on.
    pub(super) node: Option<String>,
    /// Seconds since 1970.
    pub(super) not_after: u64,
}

/// The file, and what was read of it so far. Whoever calls holds the authority's lock.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    inode: u64,
    /// Bytes that were read and understood.
    read: u64,
    entries: Vec<Entry>,
}

impl Journal {
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join(NAME), inode: 0, read: 0, entries: Vec::new() }
    }

    /// Reads what others have written.
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        let mut file =
            match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_CLOEXEC).open(&self.path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    *self =
                        Self { inode: 0, read: 0, entries: Vec::new(), path: std::mem::take(&mut self.path) };
                    return Ok(());
                }
                other => other.map_err(FileError::system("open", &self.path))?,
            };
        let metadata = file.metadata().map_err(FileError::system("look at", &self.path))?;
        if metadata.ino() != self.inode || metadata.len() < self.read {
            self.entries.clear();
            (self.inode, self.read) = (metadata.ino(), 0);
        }
        if metadata.len() == self.read {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.read)).map_err(FileError::system("read", &self.path))?;
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text).map_err(FileError::system("read", &self.path))?;
        self.take(&text)
    }

    /// A last line without an end was never answered for: its writer died, and the next one writes over it.
    fn take(&mut self, text: &[u8]) -> Result<(), Error> {
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let entry = serde_json::from_slice(line)
                .map_err(|source| Error::Corrupt { path: self.path.clone(), source })?;
            self.entries.push(entry);
            self.read += line.len() as u64;
        }
        Ok(())
    }

    /// Writes these; on return they are on the disk.
    pub(super) fn append(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut text = Vec::new();
        for entry in &entries {
            serde_json::to_writer(&mut text, entry)
                .map_err(|source| Error::Corrupt { path: self.path.clone(), source })?;
            text.push(b'\n');
        }
        let system = |call| FileError::system(call, &self.path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW | O_CLOEXEC)
            .open(&self.path);
        let mut file = file.map_err(system("open"))?;
        // Whatever half a line was left behind goes.
        file.set_len(self.read).map_err(system("cut"))?;
        file.seek(SeekFrom::End(0)).map_err(system("write"))?;
        file.write_all(&text).map_err(system("write"))?;
        file.sync_data().map_err(system("write"))?;
        if self.inode == 0 {
            sync_directory(&self.path)?;
            self.inode = file.metadata().map_err(system("look at"))?.ino();
        }
        self.read += text.len() as u64;
        self.entries.extend(entries);
        Ok(())
    }

    /// Certificates that still count.
    pub(super) fn live(&self, now: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| now < entry.not_after)
    }

    /// Writes the file anew without what has expired, when that is most of it.
    pub(super) fn compact(&mut self, now: u64) -> Result<(), Error> {
        let live = self.live(now).count();
        if self.entries.len() <= 2 * live + SLACK {
            return Ok(());
        }
        let mut text = Vec::new();
        for entry in self.live(now) {
            serde_json::to_writer(&mut text, entry)
                .map_err(|source| Error::Corrupt { path: self.path.clone(), source })?;
            text.push(b'\n');
        }
        write_private(&self.path, &text)?;
        self.inode = 0;
        self.read = 0;
        self.refresh()
    }
}
