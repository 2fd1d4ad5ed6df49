//! Conditions on processes, and the choice between the workloads that are left.

use super::facts::{Facts, Process};
use super::reason::{Refusal, Wait, WorkloadName};
use super::{Candidate, Stop};
use crate::cgroup::Cgroup;
use crate::workload::{ExecutableSelector, Selector};

/// The one workload that the cgroup is; `None` when it is none.
pub(super) fn choose<'a>(
    cgroup: &Cgroup,
    candidates: Vec<Candidate<'a>>,
    facts: &dyn Facts,
) -> Result<Option<Candidate<'a>>, Stop> {
    let (conditional, mut certain): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.workload.selector.names_processes());
    if let [first, second, ..] = certain.as_slice() {
        return Err(two_documents(first, second));
    }
    let by_process = match judge(cgroup, &conditional, facts) {
        // A workload that the path alone decides does not wait for another one's processes.
        Err(Stop::Wait { .. }) if !certain.is_empty() => None,
        Err(stop) => return Err(stop),
        Ok(found) => found,
    };
    match (certain.pop(), by_process) {
        (Some(first), Some(index)) => Err(two_documents(&first, &conditional[index])),
        (Some(candidate), None) => Ok(Some(candidate)),
        (None, Some(index)) => Ok(conditional.into_iter().nth(index)),
        (None, None) => Ok(None),
    }
}

fn two_documents(first: &Candidate<'_>, second: &Candidate<'_>) -> Stop {
    Refusal::TwoWorkloads {
        first: WorkloadName::of(first.workload),
        second: WorkloadName::of(second.workload),
    }
    .into()
}

/// The index of the candidate that every process is.
fn judge(cgroup: &Cgroup, candidates: &[Candidate<'_>], facts: &dyn Facts) -> Result<Option<usize>, Stop> {
    if candidates.is_empty() {
        return Ok(None);
    }
    let expected = candidates.iter().any(|candidate| has_place(&candidate.workload.selector));
    let wait = |error| Stop::Wait { expected, reason: Wait::Fact(error) };
    let processes = facts.processes(cgroup).map_err(wait)?;
    let mut matched = Vec::new();
    for process in &processes {
        matched.push((process, matching(process, candidates, facts)?));
    }
    let still = facts.still_there(cgroup, &processes).map_err(wait)?;
    matched.retain(|(process, _)| still.contains(process));
    if matched.is_empty() {
        // Directories with directories in them stay empty; they are no reason to keep asking.
        let waiting = expected || facts.is_leaf(cgroup);
        return if waiting { Err(Stop::Wait { expected, reason: Wait::Empty }) } else { Ok(None) };
    }
    agree(&matched, candidates)
}

/// Whether the selector says where the workload is, not only what its processes are.
fn has_place(selector: &Selector) -> bool {
    selector.cgroup.is_some() || selector.systemd_unit.is_some() || selector.container.is_some()
}

/// The indices of the candidates that a process fits.
fn matching(process: &Process, candidates: &[Candidate<'_>], facts: &dyn Facts) -> Result<Vec<usize>, Stop> {
    let mut found = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        if fits(process, &candidate.workload.selector, facts)? {
            found.push(index);
        }
    }
    Ok(found)
}

/// Whether the conditions on processes hold for one.
pub(super) fn fits(process: &Process, selector: &Selector, facts: &dyn Facts) -> Result<bool, Stop> {
    if selector.uid.is_some() && selector.uid != process.uid {
        return Ok(false);
    }
    let Some(wanted) = &selector.executable else { return Ok(true) };
    let digest = matches!(wanted, ExecutableSelector::Sha256(_));
    let expected = has_place(selector);
    let found = facts
        .executable(process, digest)
        .map_err(|error| Stop::Wait { expected, reason: Wait::Fact(error) })?;
    Ok(found.is_some_and(|executable| match wanted {
        ExecutableSelector::Path(path) => executable.path.is_some_and(|found| found == facts.resolve(path)),
        ExecutableSelector::Sha256(digest) => executable.sha256 == Some(*digest),
    }))
}

/// All processes must be the same one workload.
fn agree(matched: &[(&Process, Vec<usize>)], candidates: &[Candidate<'_>]) -> Result<Option<usize>, Stop> {
    let name = |index: usize| WorkloadName::of(candidates[index].workload);
    let placed = |index: usize| has_place(&candidates[index].workload.selector);
    let mut owner: Option<(u32, usize)> = None;
    let mut stranger = None;
    for (process, fitting) in matched {
        match (fitting.as_slice(), owner) {
            ([], _) => stranger = Some(process.pid),
            ([first, second, ..], _) => {
                return Err(two_documents(&candidates[*first], &candidates[*second]));
            }
            ([index], None) => owner = Some((process.pid, *index)),
            ([index], Some((_, known))) if *index == known => {}
            ([index], Some((pid, known))) => {
                return Err(Refusal::TwoKinds {
                    first: name(known),
                    first_pid: pid,
                    second: name(*index),
                    second_pid: process.pid,
                    placed: placed(known) || placed(*index),
                }
                .into());
            }
        }
    }
    match (owner, stranger) {
        (Some((pid, index)), Some(stranger)) => {
            Err(Refusal::Stranger { workload: name(index), pid, stranger, placed: placed(index) }.into())
        }
        (Some((_, index)), None) => Ok(Some(index)),
        // A service starts as root and becomes what it is to be a moment later: look again.
        (None, _) => Err(Stop::Wait { expected: false, reason: Wait::NoMatchingProcess }),
    }
}
