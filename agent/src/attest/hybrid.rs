//! Units, and what cgroup v1 shows on hybrid hosts: several workloads in one v2 cgroup cannot be told apart in the kernel.

use std::sync::Arc;

use super::containers::describes;
use super::facts::{Facts, LegacyProcess};
use super::place::{self, Units};
use super::processes::fits;
use super::reason::{Refusal, WorkloadName};
use crate::cgroup::Cgroup;
use crate::workload::{ContainerSelector, Selector, Workload};

/// Whether the condition on the unit holds, if there is one. A unit of a user's own manager counts only when the selector
/// also names that user or the place: anybody can start a user unit called `sshd.service`.
pub(super) fn unit_fits(selector: &Selector, units: Units<'_>) -> bool {
    let Some(glob) = &selector.systemd_unit else { return true };
    let users_own = units.user.is_some_and(|(uid, unit)| {
        (selector.uid == Some(uid) || selector.cgroup.is_some()) && glob.matches(unit)
    });
    users_own || glob.matches(units.system)
}

/// The same for a v2 path without a unit: cgroup v1 may place all its processes in one.
pub(super) fn legacy_unit_fits(selector: &Selector, legacy: &[LegacyProcess]) -> bool {
    selector.systemd_unit.is_none()
        || (!legacy.is_empty() && legacy.iter().all(|process| unit_of_fits(selector, process)))
}

fn unit_of_fits(selector: &Selector, process: &LegacyProcess) -> bool {
    let units = process.systemd.as_deref().and_then(place::units);
    units.is_some_and(|units| unit_fits(selector, units))
}

/// Two workloads in one v2 cgroup, or one in the root, where none can be.
pub(super) fn conflict(
    cgroup: &Cgroup,
    chosen: Option<&Arc<Workload>>,
    workloads: &[Arc<Workload>],
    legacy: &[LegacyProcess],
    facts: &dyn Facts,
) -> Option<Refusal> {
    let mut first: Option<(Option<u32>, &Arc<Workload>)> = chosen.map(|workload| (None, workload));
    for process in legacy {
        for workload in workloads.iter().filter(|workload| claims(&workload.selector, process, facts)) {
            if cgroup.is_root() {
                return Some(Refusal::InRoot {
                    workload: WorkloadName::of(workload),
                    pid: process.pid,
                    path: legacy_path(process),
                });
            }
            match first {
                Some((_, other)) if std::ptr::eq(other, workload) => {}
                Some((pid, other)) => {
                    return Some(Refusal::SharedHybrid {
                        first: WorkloadName::of(other),
                        first_pid: pid,
                        second: WorkloadName::of(workload),
                        second_pid: process.pid,
                        path: legacy_path(process),
                    });
                }
                None => first = Some((Some(process.pid), workload)),
            }
        }
    }
    None
}

/// Whether cgroup v1 places the process where the selector points and its other conditions hold. A selector about
/// processes alone points nowhere.
fn claims(selector: &Selector, process: &LegacyProcess, facts: &dyn Facts) -> bool {
    let has_place =
        selector.systemd_unit.is_some() || selector.cgroup.is_some() || selector.container.is_some();
    has_place
        && (selector.systemd_unit.is_none() || unit_of_fits(selector, process))
        && selector.cgroup.as_ref().is_none_or(|glob| process.paths.iter().any(|path| glob.matches(path)))
        && selector.container.as_ref().is_none_or(|wanted| container_fits(wanted, process, facts))
        && process_fits(selector, process, facts)
}

fn container_fits(wanted: &ContainerSelector, process: &LegacyProcess, facts: &dyn Facts) -> bool {
    let Some(claim) = process.paths.iter().find_map(|path| place::container(path)) else { return false };
    claim.user.is_none()
        && facts.container(&claim).is_ok_and(|found| found.is_some_and(|c| describes(wanted, &c)))
}

fn process_fits(selector: &Selector, process: &LegacyProcess, facts: &dyn Facts) -> bool {
    !selector.names_processes()
        || facts.process(process.pid).is_some_and(|process| fits(&process, selector, facts).unwrap_or(false))
}

fn legacy_path(process: &LegacyProcess) -> String {
    process
        .systemd
        .clone()
        .filter(|path| path != "/")
        .or_else(|| process.paths.first().cloned())
        .unwrap_or_default()
}
