//! Which workload a cgroup is, and the proof of it.
//!
//! Judges one cgroup at a time against the `Workload` documents; [`assign_tree`] then says who owns each directory of the
//! hierarchy. Never gives out numbers (`identity`) and never writes anything. Path conditions cost no system call;
//! `/proc` and container engines are asked only for the few cgroups whose path fits a selector that needs them.
//! All of it blocks: from async code call it in `spawn_blocking`.

use std::sync::Arc;

use waxseal_common::ids::CgroupId;

use crate::cgroup::Cgroup;
use crate::workload::Workload;

mod containers;
mod engine;
mod facts;
pub mod fake;
mod hybrid;
mod place;
mod proc;
mod processes;
mod reason;
mod tree;

pub use engine::EngineError;
pub use facts::{Container, Executable, FactError, Facts, LegacyProcess, Process};
pub use place::{ContainerClaim, Engine};
pub use proc::ProcFacts;
pub use reason::{Refusal, Wait, WorkloadName};
pub use tree::{Owner, assign_tree, managed_slices};

/// Proof that a cgroup is a workload. Only [`attest`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    workload: Arc<Workload>,
    cgroup: CgroupId,
    path: Arc<str>,
    confirmed: bool,
}

impl Attested {
    /// The workload.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The cgroup.
    pub fn cgroup(&self) -> CgroupId {
        self.cgroup
    }

    /// The cgroup's path at that time. Untrusted text.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// What a cgroup is.
#[derive(Debug)]
pub enum Decision {
    /// It is a workload.
    Attested(Attested),
    /// No selector fits it.
    Unmanaged,
    /// It cannot be said yet; ask again soon.
    NotYet {
        /// Whether its place says that it is to be a workload. If so it gets nothing meanwhile, else it is left alone.
        expected: bool,
        /// What is missing.
        reason: Wait,
    },
    /// It would be more than one workload, or only a part of it one. It gets nothing, and somebody must be told.
    Refused {
        /// What is wrong.
        reason: Refusal,
    },
}

/// Why judging a workload stopped early.
enum Stop {
    Wait { expected: bool, reason: Wait },
    Refuse(Box<Refusal>),
}

impl From<Refusal> for Stop {
    fn from(reason: Refusal) -> Self {
        Self::Refuse(Box::new(reason))
    }
}

/// A workload whose path conditions hold.
struct Candidate<'a> {
    workload: &'a Arc<Workload>,
    /// Whether a container engine has confirmed the place.
    confirmed: bool,
}

/// Judges one cgroup. The root is never a workload.
pub fn attest(cgroup: &Cgroup, workloads: &[Arc<Workload>], facts: &dyn Facts) -> Decision {
    let legacy = facts.legacy(cgroup);
    let decided = if cgroup.is_root() {
        Ok(None)
    } else {
        candidates(cgroup, workloads, facts, &legacy)
            .and_then(|found| processes::choose(cgroup, found, facts))
    };
    // A conflict that cgroup v1 shows outweighs whatever else was found.
    let chosen = decided.as_ref().ok().and_then(|found| found.as_ref().map(|candidate| candidate.workload));
    if let Some(reason) = hybrid::conflict(cgroup, chosen, workloads, &legacy, facts) {
        return Decision::Refused { reason };
    }
    match decided {
        Ok(Some(candidate)) => Decision::Attested(Attested {
            workload: Arc::clone(candidate.workload),
            cgroup: cgroup.id,
            path: cgroup.path.as_str().into(),
            confirmed: candidate.confirmed,
        }),
        Ok(None) => Decision::Unmanaged,
        Err(Stop::Wait { expected, reason }) => Decision::NotYet { expected, reason },
        Err(Stop::Refuse(reason)) => Decision::Refused { reason: *reason },
    }
}

/// The workloads whose conditions on the path and the container hold.
fn candidates<'a>(
    cgroup: &Cgroup,
    workloads: &'a [Arc<Workload>],
    facts: &dyn Facts,
    legacy: &[LegacyProcess],
) -> Result<Vec<Candidate<'a>>, Stop> {
    let units = place::units(&cgroup.path);
    let mut container = containers::Lookup::new(cgroup, facts);
    let mut found = Vec::new();
    for workload in workloads {
        let selector = &workload.selector;
        let path_fits = selector.cgroup.as_ref().is_none_or(|glob| glob.matches(&cgroup.path));
        if selector.is_empty() || !path_fits {
            continue;
        }
        let unit_fits = match units {
            Some(units) => hybrid::unit_fits(selector, units),
            None => hybrid::legacy_unit_fits(selector, legacy),
        };
        if !unit_fits {
            continue;
        }
        match &selector.container {
            None => found.push(Candidate { workload, confirmed: false }),
            Some(wanted) if container.fits(wanted, selector)? => {
                found.push(Candidate { workload, confirmed: true });
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
