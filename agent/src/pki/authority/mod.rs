//! The embedded authority: a root, intermediates that sign leaves, and the list of nodes that may ask.
//!
//! Everything is in one directory. Commands and the server work on it at the same time: whoever changes something holds
//! the lock, reads what is on the disk, and replaces the file as a whole. Keys of intermediates are kept in memory by
//! whoever signs; the root's key is read when it is needed, and may be elsewhere.

mod create;
mod error;
mod issue;
mod journal;
mod nodes;
mod revoke;
mod rotate;
mod show;
mod signer;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};

pub use create::{Import, Lifetimes, Setup};
pub use error::Error;
pub(super) use issue::{Chain, Wanted};
pub(super) use nodes::key_hash;
pub use nodes::{MAX_PATTERNS, PatternError, Token, TokenError};
pub use revoke::{Revoked, Target};
pub use rotate::{OVERLAP, Rotated};
pub use show::{IntermediateReport, NodeReport, Report, RootReport};

use super::files::{FileError, private_directory};
use super::publication::Publication;
use crate::spiffe::TrustDomain;
use journal::Journal;
use signer::Signer;
use state::State;

/// How long others may hold the lock before we give up.
const PATIENCE: Duration = Duration::from_secs(10);

/// An authority in its directory.
pub struct Authority {
    directory: PathBuf,
    /// Where the root's key is, when not where the state says.
    root_key: Option<PathBuf>,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("directory", &self.directory).finish_non_exhaustive()
    }
}

struct Inner {
    state: Arc<State>,
    /// Which file that state was.
    stamp: Stamp,
    /// By serial; loaded when they first sign.
    signers: BTreeMap<String, Arc<Signer>>,
    journal: Journal,
}

/// What tells one file from the next: it is always replaced, never written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

/// A change in the making, under the lock.
struct Session<'a> {
    directory: &'a Path,
    root_key: Option<&'a Path>,
    state: Arc<State>,
    changed: bool,
    published: bool,
    signers: &'a mut BTreeMap<String, Arc<Signer>>,
    journal: &'a mut Journal,
}

impl Session<'_> {
    /// The state, to be changed; it is saved when the session ends well.
    fn change(&mut self) -> &mut State {
        self.changed = true;
        Arc::make_mut(&mut self.state)
    }

    /// The same, for changes that those who watch should see.
    fn publish(&mut self) -> &mut State {
        self.published = true;
        self.change()
    }

    fn signer(&mut self, serial: &str) -> Result<Arc<Signer>, Error> {
        if let Some(signer) = self.signers.get(serial) {
            return Ok(Arc::clone(signer));
        }
        let of = self.state.intermediates.iter().find(|one| one.serial == serial).ok_or(Error::NoSigner)?;
        let signer = Arc::new(Signer::of_intermediate(self.directory, of)?);
        self.signers.insert(serial.to_owned(), Arc::clone(&signer));
        Ok(signer)
    }

    fn root(&self) -> Result<Signer, Error> {
        Signer::of_root(self.directory, &self.state, self.root_key)
    }
}

impl Authority {
    /// Opens an authority that is there. `root_key` is where the root's key is, when not where it was at first.
    pub fn open(directory: &Path, root_key: Option<&Path>) -> Result<Self, Error> {
        if !directory.is_dir() {
            return Err(Error::Missing { directory: directory.to_owned() });
        }
        private_directory(directory)?;
        // In this order: a change in between is seen as one later.
        let stamp = stamp(directory)?;
        let state = Arc::new(State::load(directory)?);
        let journal = Journal::new(directory);
        let inner = Mutex::new(Inner { state, stamp, signers: BTreeMap::new(), journal });
        Ok(Self { directory: directory.to_owned(), root_key: root_key.map(Path::to_owned), inner })
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The trust domain it speaks for.
    pub fn trust_domain(&self) -> TrustDomain {
        self.snapshot().trust_domain.clone()
    }

    /// Which state it is in, as far as it is published.
    pub fn revision(&self) -> u64 {
        self.inner().state.revision
    }

    /// What peers are to believe.
    pub fn publication(&self) -> Publication {
        show::publication(&self.snapshot())
    }

    /// Whether somebody has changed the state on the disk since it was read; then it is read again. Meant to be called
    /// a few times a second.
    pub fn refresh(&self) -> Result<bool, Error> {
        let mut inner = self.inner();
        let stamp = stamp(&self.directory)?;
        if stamp == inner.stamp {
            return Ok(false);
        }
        let state = Arc::new(State::load(&self.directory)?);
        let published = state.revision != inner.state.revision;
        (inner.state, inner.stamp) = (state, stamp);
        Ok(published)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Arc<State> {
        Arc::clone(&self.inner().state)
    }

    /// Runs a change under the lock, on the newest state. Nothing is saved when it fails.
    fn session<T>(&self, run: impl FnOnce(&mut Session<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut inner = self.inner();
        let _lock = lock(&self.directory)?;
        let Inner { state, stamp: known, signers, journal } = &mut *inner;
        let now = stamp(&self.directory)?;
        if now != *known {
            *state = Arc::new(State::load(&self.directory)?);
            *known = now;
        }
        journal.refresh()?;
        let mut session = Session {
            directory: &self.directory,
            root_key: self.root_key.as_deref(),
            state: Arc::clone(state),
            changed: false,
            published: false,
            signers,
            journal,
        };
        let result = run(&mut session)?;
        if session.changed {
            let published = session.published;
            let mut new = session.state;
            if published {
                Arc::make_mut(&mut new).revision += 1;
            }
            new.save(&self.directory)?;
            *known = stamp(&self.directory)?;
            *state = new;
        }
        Ok(result)
    }
}

fn stamp(directory: &Path) -> Result<Stamp, Error> {
    let path = directory.join(state::NAME);
    let metadata = std::fs::metadata(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { directory: directory.to_owned() },
        _ => FileError::system("look at", &path)(source).into(),
    })?;
    Ok(Stamp {
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        length: metadata.len(),
    })
}

/// Released when dropped, or when the process dies.
fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW | O_CLOEXEC)
        .open(&path)
        .map_err(FileError::system("open", &path))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(5));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Busy { path }),
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(FileError::system("lock", &path)(source).into());
            }
        }
    }
}
