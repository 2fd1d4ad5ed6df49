//! The host's answers, from `/proc`, the cgroup file system and container engines.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use sha2::{Digest, Sha256};

use super::engine::Engines;
use super::facts::{Container, Executable, FactError, Facts, LegacyProcess, Process};
use super::place::ContainerClaim;
use crate::cgroup::{Cgroup, Tree};

/// The most processes of one cgroup that are looked at.
const MAX_PROCESSES: usize = 4096;
/// The largest program that is hashed, in bytes.
const MAX_EXECUTABLE: u64 = 512 << 20;
/// The most digests that are remembered.
const MAX_DIGESTS: usize = 4096;

/// The host itself.
#[derive(Debug)]
pub struct ProcFacts {
    tree: Tree,
    proc: PathBuf,
    engines: Engines,
    digests: Mutex<HashMap<Version, [u8; 32]>>,
    legacy: HashMap<String, Vec<LegacyProcess>>,
}

/// A file's contents: which file, how long, and when it was changed. The change time cannot be set back by its owner.
type Version = (u64, u64, u64, (i64, i64), (i64, i64));

impl ProcFacts {
    /// Facts about the cgroups of `tree`. Nothing is read yet: call [`ProcFacts::refresh`] before each round of decisions.
    pub fn new(tree: Tree) -> Self {
        Self::at(tree, PathBuf::from("/proc"), Engines::default())
    }

    pub(super) fn at(tree: Tree, proc: PathBuf, engines: Engines) -> Self {
        Self { tree, proc, engines, digests: Mutex::default(), legacy: HashMap::new() }
    }

    /// On hybrid hosts, reads once where cgroup v1 has every process; elsewhere does nothing.
    pub fn refresh(&mut self) {
        self.legacy.clear();
        if !self.tree.is_hybrid() {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.proc) else { return };
        for pid in entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            if let Some((unified, process)) = self.placement(pid)
                && !process.paths.is_empty()
            {
                self.legacy.entry(unified).or_default().push(process);
            }
        }
    }

    /// The v2 path of a process as seen from the mount, and its v1 paths.
    fn placement(&self, pid: u32) -> Option<(String, LegacyProcess)> {
        let text = fs::read_to_string(self.proc.join(format!("{pid}/cgroup"))).ok()?;
        let mut unified = None;
        let mut systemd = None;
        let mut paths = BTreeSet::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            if number == "0" {
                unified = self.tree.locate(path).map(str::to_owned);
                continue;
            }
            if controllers == "name=systemd" {
                systemd = Some(path.to_owned());
            }
            if path != "/" {
                paths.insert(path.to_owned());
            }
        }
        Some((unified?, LegacyProcess { pid, systemd, paths: paths.into_iter().collect() }))
    }

    fn pids(&self, cgroup: &Cgroup) -> Result<Vec<u32>, FactError> {
        let file = self.tree.directory(&cgroup.path).join("cgroup.procs");
        let text = match fs::read_to_string(&file) {
            // The threads of a threaded cgroup belong to processes of the cgroup above.
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => return Ok(Vec::new()),
            other => other.map_err(|source| FactError::Unreadable { file, source })?,
        };
        let mut pids = Vec::new();
        for pid in text.lines().filter_map(|line| line.parse().ok()) {
            if pid == 0 {
                return Err(FactError::HiddenProcess);
            }
            if pids.len() >= MAX_PROCESSES {
                return Err(FactError::TooManyProcesses { limit: MAX_PROCESSES });
            }
            pids.push(pid);
        }
        Ok(pids)
    }

    /// When a process was started; `None` when it has gone or is a zombie.
    fn started(&self, pid: u32) -> Option<u64> {
        let stat = fs::read(self.proc.join(format!("{pid}/stat"))).ok()?;
        // The name stands in parentheses and may hold anything, parentheses too: what follows the last one is ours.
        let after = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
        let mut fields = std::str::from_utf8(after).ok()?.split_ascii_whitespace();
        let state = fields.next()?;
        (!matches!(state, "Z" | "X" | "x")).then(|| fields.nth(18)?.parse().ok())?
    }

    /// The user of a process, when it has only one.
    fn uid(&self, pid: u32) -> Option<u32> {
        let status = fs::read(self.proc.join(format!("{pid}/status"))).ok()?;
        let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
        let mut uids = std::str::from_utf8(line).ok()?.split_ascii_whitespace().map(str::parse);
        let first = uids.next()?.ok()?;
        uids.all(|uid| uid == Ok(first)).then_some(first)
    }

    /// The SHA-256 of an open file, remembered by its version; `None` when it is too large.
    fn digest(&self, file: &mut File) -> io::Result<Option<[u8; 32]>> {
        let metadata = file.metadata()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let version = (metadata.dev(), metadata.ino(), metadata.size(), modified, changed);
        if metadata.size() > MAX_EXECUTABLE {
            return Ok(None);
        }
        if let Some(digest) = self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(&version) {
            return Ok(Some(*digest));
        }
        let Some(digest) = hash(&mut file.take(MAX_EXECUTABLE + 1))? else { return Ok(None) };
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.len() >= MAX_DIGESTS {
            digests.clear();
        }
        digests.insert(version, digest);
        Ok(Some(digest))
    }
}

/// The path where the host finds the file that a process runs.
fn host_path(exe: &Path, running: &fs::Metadata) -> Option<PathBuf> {
    // The link shows the path in the process's own mount namespace: a container can have any file at any path.
    let path = fs::read_link(exe).ok()?;
    let found = fs::metadata(&path).ok()?;
    (found.dev() == running.dev() && found.ino() == running.ino()).then_some(path)
}

fn hash(file: &mut impl Read) -> io::Result<Option<[u8; 32]>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut total = 0u64;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Some(hasher.finalize().into()));
        }
        total += count as u64;
        if total > MAX_EXECUTABLE {
            return Ok(None);
        }
        hasher.update(&buffer[..count]);
    }
}

impl Facts for ProcFacts {
    fn processes(&self, cgroup: &Cgroup) -> Result<Vec<Process>, FactError> {
        Ok(self.pids(cgroup)?.into_iter().filter_map(|pid| self.process(pid)).collect())
    }

    fn still_there(&self, cgroup: &Cgroup, processes: &[Process]) -> Result<Vec<Process>, FactError> {
        let now: BTreeSet<u32> = self.pids(cgroup)?.into_iter().collect();
        // First the cgroup's list, then the start time: a number that changed hands in between has another start time.
        let same = |process: &&Process| {
            now.contains(&process.pid) && self.started(process.pid) == Some(process.started)
        };
        Ok(processes.iter().filter(same).copied().collect())
    }

    fn process(&self, pid: u32) -> Option<Process> {
        Some(Process { pid, started: self.started(pid)?, uid: self.uid(pid) })
    }

    fn executable(&self, process: &Process, digest: bool) -> Result<Option<Executable>, FactError> {
        let exe = self.proc.join(format!("{}/exe", process.pid));
        let unreadable = |source: io::Error| FactError::Unreadable { file: exe.clone(), source };
        let gone = |error: &io::Error| {
            error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
        };
        let running = match fs::metadata(&exe) {
            Err(error) if gone(&error) => return Ok(None),
            other => other.map_err(unreadable)?,
        };
        let path = host_path(&exe, &running);
        let sha256 = if digest {
            match File::open(&exe).and_then(|mut file| self.digest(&mut file)) {
                Err(error) if gone(&error) => return Ok(None),
                other => other.map_err(unreadable)?,
            }
        } else {
            None
        };
        Ok(Some(Executable { path, sha256 }))
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        path.canonicalize().unwrap_or_else(|_| path.to_owned())
    }

    fn is_leaf(&self, cgroup: &Cgroup) -> bool {
        let Ok(entries) = fs::read_dir(self.tree.directory(&cgroup.path)) else { return true };
        !entries.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    }

    fn container(&self, claim: &ContainerClaim) -> Result<Option<Container>, FactError> {
        let place = |pid| self.placement(pid).map(|(unified, _)| unified);
        self.engines.container(claim, &place)
    }

    fn legacy(&self, cgroup: &Cgroup) -> Vec<LegacyProcess> {
        self.legacy.get(&cgroup.path).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
