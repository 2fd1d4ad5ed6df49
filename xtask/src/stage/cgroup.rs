//! Directories of the cgroup v2 tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;

/// A directory with everything below it. Dropping it ends the processes inside and removes it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A directory directly below the root. One that an earlier, killed run left behind is emptied first.
    pub(crate) fn root(name: &str) -> anyhow::Result<Self> {
        let path = mount()?.join(name);
        remove(&path);
        Self::make(path)
    }

    /// A directory inside this one.
    pub(crate) fn child(&self, name: &str) -> anyhow::Result<Self> {
        Self::make(self.path.join(name))
    }

    fn make(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Where cgroup v2 is mounted: elsewhere on a hybrid machine than on a pure one.
pub(crate) fn mount() -> anyhow::Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    mount_in(&table).context("cgroup v2 is not mounted")
}

fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Ends what runs inside and removes it. What cannot be removed is said; it harms nobody.
fn remove(path: &Path) {
    if !path.is_dir() {
        return;
    }
    // Writes to this file end the whole tree below.
    let _ = fs::write(path.join("cgroup.kill"), "1");
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let mut last = Ok(());
    for _ in 0..300 {
        last = fs::remove_dir(path);
        if last.is_ok() {
            return;
        }
        // The kernel lets go of an ended process a moment after it was ended.
        sleep(Duration::from_millis(10));
    }
    if let Err(error) = last {
        eprintln!("left behind: {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_on_pure_and_hybrid_machines() {
        let pure = "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(pure), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(mount_in(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_in(""), None);
    }
}
