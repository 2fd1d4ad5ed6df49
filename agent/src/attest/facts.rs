//! What attestation may ask about the host. The real answers are in `proc.rs` and `engine.rs`, made-up ones in `fake.rs`.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use super::place::ContainerClaim;
use crate::cgroup::Cgroup;
use crate::workload::Labels;

/// Why a question has no answer now. Asking again later may help.
#[derive(Debug, thiserror::Error)]
pub enum FactError {
    /// A file of the kernel cannot be read.
    #[error("read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A process is in another pid namespace, where the agent cannot look.
    #[error("a process of it is hidden in another pid namespace; run the agent in the host's")]
    HiddenProcess,
    /// More processes than are looked at for one decision.
    #[error("it holds more than {limit} processes")]
    TooManyProcesses {
        /// How many are looked at.
        limit: usize,
    },
    /// No container engine can be asked.
    #[error("no container engine listens on {}", sockets(tried))]
    NoEngine {
        /// The sockets that were tried.
        tried: Vec<PathBuf>,
    },
    /// The engine does not answer as it should.
    #[error("container engine at {}: {source}", socket.display())]
    Engine {
        /// Its socket.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: super::engine::EngineError,
    },
}

fn sockets(tried: &[PathBuf]) -> String {
    tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// A process, told from any other that may ever have its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since boot.
    pub started: u64,
    /// Its user; `None` when its real, effective, saved and file system users differ.
    pub uid: Option<u32>,
}

/// The program of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executable {
    /// Where the host has this very file; `None` when it was deleted or replaced, or is in a container only.
    pub path: Option<PathBuf>,
    /// Its SHA-256, when that was asked for and the file is not too large.
    pub sha256: Option<[u8; 32]>,
}

/// A container as its engine describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name, without the leading slash.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// Its labels.
    pub labels: Labels,
    /// The cgroup v2 path of its first process; `None` while it does not run.
    pub cgroup: Option<String>,
}

/// Where cgroup v1 has a process that shares a v2 cgroup with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyProcess {
    /// Its number.
    pub pid: u32,
    /// Its path in the hierarchy of systemd.
    pub systemd: Option<String>,
    /// Its paths in all v1 hierarchies, the root left out.
    pub paths: Vec<String>,
}

/// The questions. Every answer may block for a short, bounded time: from async code, attest in `spawn_blocking`.
pub trait Facts: Debug {
    /// The living processes of exactly this cgroup, threads and zombies left out.
    fn processes(&self, cgroup: &Cgroup) -> Result<Vec<Process>, FactError>;
    /// Those of `processes` that are still the same ones and still there: to be asked after everything else, so that
    /// nothing is believed of a number that was reused midway.
    fn still_there(&self, cgroup: &Cgroup, processes: &[Process]) -> Result<Vec<Process>, FactError>;
    /// The process with this number now, if there is one.
    fn process(&self, pid: u32) -> Option<Process>;
    /// The program of a process; `None` when it has gone or has none. `digest` asks for the SHA-256 too.
    fn executable(&self, process: &Process, digest: bool) -> Result<Option<Executable>, FactError>;
    /// The file that a path on the host finally names.
    fn resolve(&self, path: &Path) -> PathBuf;
    /// Whether the cgroup has no directories in it.
    fn is_leaf(&self, cgroup: &Cgroup) -> bool;
    /// What the engine says about a container; `None` when no engine knows it.
    fn container(&self, claim: &ContainerClaim) -> Result<Option<Container>, FactError>;
    /// On hybrid hosts, where cgroup v1 has the processes of this v2 cgroup. Empty elsewhere.
    fn legacy(&self, cgroup: &Cgroup) -> Vec<LegacyProcess>;
}
