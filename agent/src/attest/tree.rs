//! Who owns each directory of the hierarchy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use waxseal_common::ids::CgroupId;

use super::{Attested, Decision};
use crate::cgroup::Cgroup;
use crate::workload::Workload;

/// Who owns a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The host: the root.
    Host,
    /// Nobody that is known; left alone.
    Unmanaged,
    /// A workload: attested for this cgroup or for the nearest one above it.
    Workload(Attested),
    /// A workload is expected and not attested yet; gets nothing meanwhile.
    Pending,
    /// Refused; gets nothing.
    Refused,
}

/// Says who owns each cgroup. One without a decision of its own, or found unmanaged, belongs to the owner of its parent.
/// `cgroups` may come in any order; where a parent is not among them, the next one above counts.
pub fn assign_tree(cgroups: &[Cgroup], decisions: &BTreeMap<CgroupId, Decision>) -> Vec<(CgroupId, Owner)> {
    let mut order: Vec<&Cgroup> = cgroups.iter().collect();
    order.sort_by_key(|cgroup| cgroup.path.len());
    let mut owners: HashMap<&str, Owner> = HashMap::with_capacity(order.len());
    for cgroup in order {
        let above = ancestors(&cgroup.path).find_map(|path| owners.get(path));
        let owner = owner(cgroup, decisions.get(&cgroup.id), above);
        owners.insert(&cgroup.path, owner);
    }
    let found = |cgroup: &Cgroup| owners.get(cgroup.path.as_str()).cloned().unwrap_or(Owner::Unmanaged);
    cgroups.iter().map(|cgroup| (cgroup.id, found(cgroup))).collect()
}

fn owner(cgroup: &Cgroup, decision: Option<&Decision>, above: Option<&Owner>) -> Owner {
    if cgroup.is_root() {
        return Owner::Host;
    }
    match decision {
        Some(Decision::Attested(own)) => match above {
            Some(Owner::Workload(parent)) if !may_split(own, parent) => Owner::Workload(parent.clone()),
            _ => Owner::Workload(own.clone()),
        },
        Some(Decision::Refused { reason }) => match above {
            // Who runs what below a workload's own cgroup is that workload's affair.
            Some(Owner::Workload(parent)) if !reason.is_about_the_place() => Owner::Workload(parent.clone()),
            _ => Owner::Refused,
        },
        Some(Decision::NotYet { expected: true, .. }) => Owner::Pending,
        Some(Decision::NotYet { expected: false, .. } | Decision::Unmanaged) | None => match above {
            Some(Owner::Host) | None => Owner::Unmanaged,
            Some(above) => above.clone(),
        },
    }
}

/// Whether a part of `parent`'s tree may be another workload. A workload can often make directories below its own, name
/// them at will and run any program in them. So only what it cannot choose counts: a container engine's word, or a path
/// pattern that spells out every segment down to the parent's directory.
fn may_split(own: &Attested, parent: &Attested) -> bool {
    let pattern = own.workload().selector.cgroup.as_ref();
    let depth = parent.path().matches('/').count();
    own.confirmed || pattern.is_some_and(|glob| glob.explicit_depth() >= depth)
}

/// The directories above a path, nearest first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(parent(path), |path| parent(path))
}

fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

/// The directories below which workloads are expected, as the path patterns name them; never the root.
pub fn managed_slices(workloads: &[Arc<Workload>]) -> Vec<String> {
    let globs = workloads.iter().filter_map(|workload| workload.selector.cgroup.as_ref());
    let slices: BTreeSet<&str> =
        globs.map(crate::workload::Glob::directory).filter(|slice| *slice != "/").collect();
    slices.into_iter().map(str::to_owned).collect()
}
