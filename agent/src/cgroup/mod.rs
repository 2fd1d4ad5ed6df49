//! The cgroup v2 hierarchy: where it is mounted, which directories it has, and whether the host's layout can carry
//! identities at all.
//!
//! Reads only; never makes or changes a cgroup. Everything here blocks: from async code call it in `spawn_blocking`.

use std::fmt::Write;
use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use waxseal_common::ids::CgroupId;

mod layout;
mod mounts;

pub use layout::layout_checks;
pub use mounts::{Hierarchy, Mounts};

/// The most directories a scan looks at. The shallow ones come first, so that what a workload makes below itself cannot
/// hide the others.
pub const MAX_CGROUPS: usize = 1 << 17;
/// The deepest directory a scan looks at, in segments below its root.
pub const MAX_DEPTH: usize = 64;

/// Why the hierarchy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/proc` does not say what is mounted.
    #[error("read {}", file.display())]
    Mountinfo {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No cgroup v2 mount.
    #[error("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
    /// A directory that is given as a cgroup is none.
    #[error("{} is not in a cgroup v2 hierarchy", path.display())]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// A directory cannot be read, or does not exist.
    #[error("read {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// One directory of the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cgroup {
    /// Its number.
    pub id: CgroupId,
    /// `/` and the path below the cgroup v2 mount. Untrusted: a workload may name its own children.
    pub path: String,
}

impl Cgroup {
    /// Whether this is the root, where kernel threads and the host's own processes live.
    pub fn is_root(&self) -> bool {
        self.id == CgroupId::ROOT || self.path == "/"
    }
}

/// What a scan found, parents before their children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The directories, the root of the scan first.
    pub cgroups: Vec<Cgroup>,
    /// Whether [`MAX_CGROUPS`] and [`MAX_DEPTH`] sufficed for all.
    pub complete: bool,
}

/// Where the cgroup v2 hierarchy is mounted, on unified and on hybrid hosts.
pub fn find_cgroup2() -> Result<PathBuf, Error> {
    Mounts::read()
        .and_then(|mounts| mounts.cgroup2().map(|mount| mount.point.clone()).ok_or(Error::NotMounted))
}

/// The part of the hierarchy that an agent looks after.
#[derive(Clone, Debug)]
pub struct Tree {
    mount: Hierarchy,
    root: PathBuf,
    legacy: bool,
}

impl Tree {
    /// The subtree at `root`, which must lie in a cgroup v2 mount; the whole mount without one.
    pub fn open(root: Option<&Path>) -> Result<Self, Error> {
        let mounts = Mounts::read()?;
        let legacy = mounts.has_legacy();
        let Some(root) = root else {
            let mount = mounts.cgroup2().ok_or(Error::NotMounted)?.clone();
            return Ok(Self { root: mount.point.clone(), mount, legacy });
        };
        let root = root.canonicalize().map_err(|source| Error::Read { path: root.to_owned(), source })?;
        match mounts.cgroup2_of(&root) {
            Some(mount) => Ok(Self { mount: mount.clone(), root, legacy }),
            None => Err(Error::NotCgroup2 { path: root }),
        }
    }

    /// A tree at any directory, without asking what is mounted there; for tests without privileges.
    pub fn at(mount: &Path, root: &Path) -> Self {
        let mount = Hierarchy { point: mount.to_owned(), root: "/".to_owned(), controllers: None };
        Self { mount, root: root.to_owned(), legacy: false }
    }

    /// The mount point of the hierarchy.
    pub fn mount(&self) -> &Path {
        &self.mount.point
    }

    /// The directory whose subtree this is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether cgroup v1 hierarchies are mounted beside it.
    pub fn is_hybrid(&self) -> bool {
        self.legacy
    }

    /// A path as `/proc/PID/cgroup` shows it, seen from the mount; `None` when it lies outside.
    pub fn locate<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.mount.root == "/" {
            return Some(path);
        }
        match path.strip_prefix(&self.mount.root)? {
            "" => Some("/"),
            below if below.starts_with('/') => Some(below),
            _ => None,
        }
    }

    /// All directories of the subtree. One that vanishes midway is left out; one that appears midway may be missing.
    pub fn scan(&self) -> Result<Scan, Error> {
        let metadata = stat(&self.root)?;
        let first = Cgroup { id: CgroupId(metadata.ino()), path: self.path_below_mount(&self.root)? };
        let mut level = if metadata.nlink() == LEAF { Vec::new() } else { vec![first.path.clone()] };
        let mut found = Scan { cgroups: vec![first], complete: true };
        for _ in 0..MAX_DEPTH {
            let mut deeper = Vec::new();
            for parent in &level {
                self.children(parent, &mut found, &mut deeper);
                if found.cgroups.len() >= MAX_CGROUPS {
                    found.complete = false;
                    return Ok(found);
                }
            }
            level = deeper;
            if level.is_empty() {
                return Ok(found);
            }
        }
        found.complete = false;
        Ok(found)
    }

    /// Adds the directories in `parent` to `found`, and those that have directories themselves to `deeper`.
    fn children(&self, parent: &str, found: &mut Scan, deeper: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(self.directory(parent)) else { return };
        for entry in entries.flatten().filter(is_directory) {
            let Ok(metadata) = entry.metadata() else { continue };
            let name = readable(entry.file_name().as_bytes());
            let path = if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") };
            // The number of links tells leaves apart, and most cgroups are leaves: no need to list their files.
            if metadata.nlink() != LEAF {
                deeper.push(path.clone());
            }
            found.cgroups.push(Cgroup { id: CgroupId(entry.ino()), path });
        }
    }

    /// The number of the directory at `path`, which starts at the mount.
    pub fn id_of(&self, path: &str) -> Result<CgroupId, Error> {
        stat(&self.directory(path)).map(|metadata| CgroupId(metadata.ino()))
    }

    /// The path of the directory with this number, found by looking through the subtree; `None` when it is gone.
    pub fn path_of(&self, id: CgroupId) -> Result<Option<String>, Error> {
        Ok(self.scan()?.cgroups.into_iter().find(|cgroup| cgroup.id == id).map(|cgroup| cgroup.path))
    }

    /// The directory in the file system for a path that starts at the mount.
    pub fn directory(&self, path: &str) -> PathBuf {
        self.mount.point.join(path.trim_start_matches('/'))
    }

    fn path_below_mount(&self, directory: &Path) -> Result<String, Error> {
        let below = directory
            .strip_prefix(&self.mount.point)
            .ok()
            .ok_or_else(|| Error::NotCgroup2 { path: directory.to_owned() })?;
        Ok(format!("/{}", readable(below.as_os_str().as_bytes())))
    }
}

/// The links of a directory without directories in it: its name and its `.`.
const LEAF: u64 = 2;

fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn stat(path: &Path) -> Result<fs::Metadata, Error> {
    let metadata =
        fs::symlink_metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if metadata.is_dir() { Ok(metadata) } else { Err(Error::NotCgroup2 { path: path.to_owned() }) }
}

/// The name as text; bytes that are no UTF-8 become `\x..`, so that two names never become one by losing them.
fn readable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
