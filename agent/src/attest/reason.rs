//! Why a cgroup gets no identity, in words for the person who wrote the selectors.

use std::fmt;

use super::facts::FactError;
use crate::escape::escape;
use crate::workload::{Origin, Workload};

/// A workload and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadName {
    /// `namespace/name`.
    pub name: String,
    /// Where its document begins.
    pub origin: Origin,
}

impl WorkloadName {
    pub(super) fn of(workload: &Workload) -> Self {
        Self { name: workload.full_name(), origin: workload.origin.clone() }
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", escape(&self.name), escape(&self.origin.to_string()))
    }
}

/// What is missing for a decision.
#[derive(Debug, thiserror::Error)]
pub enum Wait {
    /// A condition is about processes and there are none.
    #[error("no process is in it yet")]
    Empty,
    /// The path fits, but no process fits the conditions on processes.
    #[error("none of its processes has the user and program that the selector asks for")]
    NoMatchingProcess,
    /// The engine knows the container, but it does not run.
    #[error("container {} is not running yet", escape(container))]
    NotRunning {
        /// Its name.
        container: String,
    },
    /// A question about the host had no answer.
    #[error(transparent)]
    Fact(FactError),
}

/// Why a cgroup may be no workload although selectors fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Two documents select it.
    #[error("two workloads select this cgroup: {first} and {second}")]
    TwoWorkloads {
        /// One of them.
        first: WorkloadName,
        /// Another one.
        second: WorkloadName,
    },
    /// Its processes are two workloads.
    #[error("two workloads share this cgroup: pid {first_pid} is {first}, pid {second_pid} is {second}")]
    TwoKinds {
        /// One of them.
        first: WorkloadName,
        /// A process of it.
        first_pid: u32,
        /// Another one.
        second: WorkloadName,
        /// A process of that.
        second_pid: u32,
        /// Whether one of them also says where it is to be.
        placed: bool,
    },
    /// Some of its processes are the workload and some are not.
    #[error("a stranger shares this cgroup: pid {pid} is {workload}, pid {stranger} is not")]
    Stranger {
        /// The workload.
        workload: WorkloadName,
        /// A process of it.
        pid: u32,
        /// A process that does not fit the selector.
        stranger: u32,
        /// Whether the workload also says where it is to be.
        placed: bool,
    },
    /// On a hybrid host, only cgroup v1 keeps two workloads apart.
    #[error(
        "two workloads share this v2 cgroup and only cgroup v1 tells them apart: {first}{} and {second} (pid {second_pid} in {})",
        Pid(*first_pid), escape(path)
    )]
    SharedHybrid {
        /// One of them.
        first: WorkloadName,
        /// A process that v1 places there; `None` when the v2 path does.
        first_pid: Option<u32>,
        /// Another one.
        second: WorkloadName,
        /// A process that v1 places there.
        second_pid: u32,
        /// Its v1 path.
        path: String,
    },
    /// On a hybrid host, a workload lives in the v2 root.
    #[error(
        "{workload} lives in the root of cgroup v2 (pid {pid}; v1 has it in {}), where no identity can be given: give it a v2 cgroup of its own",
        escape(path)
    )]
    InRoot {
        /// The workload.
        workload: WorkloadName,
        /// A process of it.
        pid: u32,
        /// Its v1 path.
        path: String,
    },
    /// The path names a container that lives elsewhere: somebody made a directory of that name.
    #[error("the path names container {}, which lives in {}", escape(container), escape(path))]
    FalseContainer {
        /// The container's name.
        container: String,
        /// Where its first process is.
        path: String,
    },
}

impl Refusal {
    /// Whether a selector pointed at this cgroup, rather than at processes wherever they are.
    pub fn is_about_the_place(&self) -> bool {
        match self {
            Self::TwoKinds { placed, .. } | Self::Stranger { placed, .. } => *placed,
            _ => true,
        }
    }
}

struct Pid(Option<u32>);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}
