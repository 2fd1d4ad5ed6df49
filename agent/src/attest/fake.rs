//! A host made up for tests. It answers by the same rules as the real one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::facts::{Container, Executable, FactError, Facts, LegacyProcess, Process};
use super::place::ContainerClaim;
use crate::cgroup::Cgroup;

/// Processes and containers by where they are.
#[derive(Debug, Default)]
pub struct FakeFacts {
    /// The processes of each cgroup, by its path.
    pub processes: BTreeMap<String, Vec<Process>>,
    /// The program of each process.
    pub executables: BTreeMap<u32, Executable>,
    /// The containers, by id. `None` stands for an engine that does not answer.
    pub containers: BTreeMap<String, Option<Container>>,
    /// Where cgroup v1 has the processes of a v2 cgroup, by its path.
    pub legacy: BTreeMap<String, Vec<LegacyProcess>>,
    /// Processes that go away while they are looked at.
    pub leaving: Vec<u32>,
    /// Cgroups with directories in them, by path.
    pub parents: Vec<String>,
    /// How many questions were asked that cost system calls on a real host.
    pub asked: AtomicUsize,
}

impl FakeFacts {
    /// Puts a process with one user and a program into a cgroup.
    pub fn run(&mut self, cgroup: &str, pid: u32, uid: u32, program: &str) {
        let process = Process { pid, started: u64::from(pid), uid: Some(uid) };
        self.processes.entry(cgroup.to_owned()).or_default().push(process);
        self.executables.insert(pid, Executable { path: Some(program.into()), sha256: None });
    }

    fn count(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

impl Facts for FakeFacts {
    fn processes(&self, cgroup: &Cgroup) -> Result<Vec<Process>, FactError> {
        self.count();
        Ok(self.processes.get(&cgroup.path).cloned().unwrap_or_default())
    }

    fn still_there(&self, cgroup: &Cgroup, processes: &[Process]) -> Result<Vec<Process>, FactError> {
        self.count();
        let now = self.processes.get(&cgroup.path).map_or(&[][..], Vec::as_slice);
        let stays = |process: &&Process| now.contains(process) && !self.leaving.contains(&process.pid);
        Ok(processes.iter().filter(stays).copied().collect())
    }

    fn process(&self, pid: u32) -> Option<Process> {
        self.count();
        self.processes.values().flatten().find(|process| process.pid == pid).copied()
    }

    fn executable(&self, process: &Process, digest: bool) -> Result<Option<Executable>, FactError> {
        self.count();
        let forget = |executable: &Executable| Executable {
            sha256: executable.sha256.filter(|_| digest),
            path: executable.path.clone(),
        };
        Ok(self.executables.get(&process.pid).map(forget))
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    fn is_leaf(&self, cgroup: &Cgroup) -> bool {
        !self.parents.contains(&cgroup.path)
    }

    fn container(&self, claim: &ContainerClaim) -> Result<Option<Container>, FactError> {
        self.count();
        match self.containers.get(&claim.id) {
            Some(None) => Err(FactError::NoEngine { tried: vec!["/run/docker.sock".into()] }),
            Some(Some(container)) => Ok(Some(container.clone())),
            None => Ok(None),
        }
    }

    fn legacy(&self, cgroup: &Cgroup) -> Vec<LegacyProcess> {
        self.legacy.get(&cgroup.path).cloned().unwrap_or_default()
    }
}
