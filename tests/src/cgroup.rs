//! Directories in the cgroup v2 hierarchy that vanish with their guard.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::root;

/// A cgroup v2 directory. Dropping it ends the processes inside and removes it with everything below.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new directory directly under the hierarchy's root.
    pub fn root(label: &str) -> Self {
        Self::make(mount().join(root::unique(label)))
    }

    /// A new directory inside this one. `name` may name several levels.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self::make(self.path.join(name))
    }

    fn make(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("make cgroup {}: {error}", path.display()));
        Self { path }
    }

    /// Where it is in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path in the hierarchy, as selectors name it: `/` is the root.
    pub fn name(&self) -> String {
        let below = self.path.strip_prefix(mount()).expect("made below the mount");
        format!("/{}", below.display())
    }

    /// The kernel's number for it.
    pub fn id(&self) -> u64 {
        fs::metadata(&self.path).expect("the directory is there").ino()
    }

    /// Ends what runs inside and removes it now.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A directory that stays behind harms nobody; a panic while unwinding would hide the test's own message.
        let _ = remove(&self.path);
    }
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid machine.
pub fn mount() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let line = table.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2 is mounted");
    PathBuf::from(line.split(' ').nth(4).expect("mountinfo has ten fields"))
}

/// Ends what runs in a directory and removes it with everything below.
pub fn remove(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let _ = fs::write(path.join("cgroup.kill"), "1");
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    // The kernel lets go of an ended process a moment after it was ended.
    let mut last = Ok(());
    for _ in 0..300 {
        last = fs::remove_dir(path);
        if !matches!(&last, Err(error) if error.raw_os_error() == Some(libc::EBUSY)) {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    last
}
