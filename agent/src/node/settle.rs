//! From documents and cgroups to what the kernel's tables say: decides who is who, compiles, plans, applies, binds. All
//! or nothing: whatever fails, what was in force stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use waxseal_common::ids::{CgroupId, IdentityId};
use waxseal_common::state::Endpoint;
use waxseal_common::tables::Mode;

use super::adopt::Survey;
use super::control::{Control, LINGER};
use crate::attest::{Attested, Decision, Owner, assign_tree, attest, managed_slices};
use crate::cidr::Cidr;
use crate::datapath::{CAPACITY, NamePattern};
use crate::policy::{self, Compiled, NodeDefaults, PolicySet};
use crate::workload::{IdentityInfo, Workload};
use crate::{datapath, identity};

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum Error {
    /// A number cannot be given out or kept.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The documents are good one by one and cannot be put together.
    #[error(transparent)]
    Compile(#[from] policy::CompileError),
    /// The tables are too small.
    #[error(transparent)]
    Plan(#[from] policy::PlanError),
    /// The kernel refuses a change.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
}

impl Error {
    /// Whether whoever wrote the documents can mend it.
    pub const fn is_about_documents(&self) -> bool {
        matches!(self, Self::Compile(_) | Self::Plan(_))
    }
}

/// Who owns what, worked out and not in force yet.
struct Settled {
    owners: BTreeMap<CgroupId, Owner>,
    endpoints: BTreeMap<CgroupId, Endpoint>,
    used: BTreeSet<IdentityId>,
}

/// Whether a path is a slice or lies below it.
fn is_within(path: &str, slice: &str) -> bool {
    path.strip_prefix(slice.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The number of a workload; nobody's when it cannot be given out, and then this one workload gets nothing.
fn number(
    given: Option<Result<IdentityInfo, identity::Error>>,
    attested: &Attested,
    used: &mut BTreeSet<IdentityId>,
) -> IdentityId {
    match given {
        Some(Ok(info)) => {
            used.insert(info.id);
            info.id
        }
        Some(Err(error)) => {
            let path = crate::escape::escape(attested.path()).into_owned();
            tracing::error!(%error, path, "a workload gets nothing because it cannot have a number");
            IdentityId::UNKNOWN
        }
        None => IdentityId::UNKNOWN,
    }
}

/// How the directories of service units and containers are called that some document may mean.
fn expected(workloads: &[Arc<Workload>]) -> BTreeSet<NamePattern> {
    let units =
        workloads.iter().filter_map(|workload| workload.selector.systemd_unit.as_ref()).map(
            |unit| match unit.as_str().split_once(['*', '?']) {
                None => NamePattern::Name(unit.as_str().to_owned()),
                Some((prefix, _)) => NamePattern::Prefix(prefix.to_owned()),
            },
        );
    // A pattern that may be anything would hold everything.
    let units = units.filter(|unit| *unit != NamePattern::Prefix(String::new()));
    let engines = ["docker-", "libpod-", "cri-containerd-", "crio-"];
    let containers = workloads.iter().any(|workload| workload.selector.container.is_some());
    let engines =
        engines.into_iter().filter(|_| containers).map(|prefix| NamePattern::Prefix(prefix.to_owned()));
    units.chain(engines).collect()
}

/// How many cgroups that are gone are remembered at most.
const LINGERING: usize = 8192;

impl Control {
    /// Judges every cgroup anew under a new set of documents, with the modes that were set at run time, and puts it into
    /// force.
    pub(super) fn install(&mut self, documents: PolicySet) -> Result<(), Error> {
        let set = self.overrides.applied(&documents);
        // Who is who does not follow from policies.
        let known = set.workloads == self.set.workloads && self.cgroups.keys().eq(self.decisions.keys());
        let decisions = if known {
            std::mem::take(&mut self.decisions)
        } else {
            self.registry.refresh(&set.workloads)?;
            self.facts.refresh();
            let judged = self.cgroups.values();
            judged.map(|cgroup| (cgroup.id, attest(cgroup, &set.workloads, &self.facts))).collect()
        };
        let settled = self.settle(&set, &decisions);
        if known || settled.is_ok() {
            self.decisions = decisions;
        }
        settled?;
        self.set = set;
        self.documents = documents;
        Ok(())
    }

    /// Judges some cgroups anew under the set in force.
    pub(super) fn judge_cgroups(&mut self, ids: &BTreeSet<CgroupId>) -> Result<(), Error> {
        self.facts.refresh();
        for id in ids {
            match self.cgroups.get(id) {
                Some(cgroup) => {
                    let decision = attest(cgroup, &self.set.workloads, &self.facts);
                    self.decisions.insert(*id, decision);
                }
                None => drop(self.decisions.remove(id)),
            }
        }
        let (set, decisions) = (std::mem::take(&mut self.set), std::mem::take(&mut self.decisions));
        let settled = self.settle(&set, &decisions);
        self.set = set;
        self.decisions = decisions;
        settled
    }

    fn settle(&mut self, set: &PolicySet, decisions: &BTreeMap<CgroupId, Decision>) -> Result<(), Error> {
        let mut settled = self.who_is_who(set, decisions);
        self.linger(&mut settled);
        settled.used.extend(self.remote.keys());
        let wanted = self.compile(set)?;
        self.put_into_force(wanted)?;
        self.kernel.set_pending_mode(self.strictest(set))?;
        self.kernel.expect(&expected(&set.workloads))?;
        self.bind(&settled.endpoints)?;
        let released = self.registry.retain(&settled.used)?;
        if !released.is_empty() {
            let wanted = self.compile(set)?;
            self.put_into_force(wanted)?;
        }
        self.owners = settled.owners;
        self.untidy = true;
        self.publish();
        self.shared.tally.learn_open(self.open_sides());
        Ok(())
    }

    /// Keeps what a cgroup that is gone was bound to, and its identity, for as long as its sockets may live.
    fn linger(&mut self, settled: &mut Settled) {
        let gone: Vec<CgroupId> =
            self.bound.keys().filter(|id| !settled.endpoints.contains_key(id)).copied().collect();
        self.leaving.retain(|id, _| !settled.endpoints.contains_key(id));
        for id in gone {
            let since = *self.leaving.entry(id).or_insert_with(Instant::now);
            let endpoint = self.bound.get(&id).filter(|endpoint| endpoint.identity.is_workload());
            let known = endpoint.filter(|endpoint| self.registry.identity(endpoint.identity).is_some());
            match known {
                Some(endpoint) if since.elapsed() < LINGER && self.leaving.len() < LINGERING => {
                    settled.used.insert(endpoint.identity);
                    settled.endpoints.insert(id, *endpoint);
                }
                _ => drop(self.leaving.remove(&id)),
            }
        }
    }

    /// The strictest mode that anything asks for: it holds for whoever is to be a workload and is not yet.
    fn strictest(&self, set: &PolicySet) -> Mode {
        let policies = set.policies.iter().filter_map(|policy| policy.mode);
        let workloads = set.workloads.iter().filter_map(|workload| workload.mode);
        let namespaces = set.namespaces.values().filter_map(|namespace| namespace.mode);
        policies.chain(workloads).chain(namespaces).fold(self.config.mode, Mode::max)
    }

    fn who_is_who(&mut self, set: &PolicySet, decisions: &BTreeMap<CgroupId, Decision>) -> Settled {
        let mut slices = managed_slices(&set.workloads);
        slices.extend(self.config.managed.iter().cloned());
        let cgroups: Vec<_> = self.cgroups.values().cloned().collect();
        let mut settled =
            Settled { owners: BTreeMap::new(), endpoints: BTreeMap::new(), used: BTreeSet::new() };
        let owners = assign_tree(&cgroups, decisions);
        let workloads = owners.iter().filter_map(|(_, owner)| match owner {
            Owner::Workload(attested) => Some(attested),
            _ => None,
        });
        let attested: Vec<&Attested> = workloads.collect();
        let mut numbers = self.registry.assign_all(&attested).into_iter();
        for (id, owner) in owners {
            let path = self.cgroups.get(&id).map_or_else(String::new, |cgroup| cgroup.path.clone());
            let identity = match &owner {
                Owner::Workload(attested) => number(numbers.next(), attested, &mut settled.used),
                Owner::Host => IdentityId::HOST,
                // Below a slice that the configuration calls managed, nobody is left alone.
                Owner::Unmanaged if self.is_strictly_managed(&path) => IdentityId::UNKNOWN,
                Owner::Unmanaged => IdentityId::UNMANAGED,
                Owner::Pending | Owner::Refused => IdentityId::UNKNOWN,
            };
            let managed = slices.iter().any(|slice| is_within(&path, slice));
            let flags = if managed { Endpoint::MANAGED_SLICE } else { 0 };
            settled.endpoints.insert(id, Endpoint { identity, flags });
            settled.owners.insert(id, owner);
        }
        settled
    }

    fn is_strictly_managed(&self, path: &str) -> bool {
        self.config.managed.iter().any(|slice| path != slice.trim_end_matches('/') && is_within(path, slice))
    }

    /// What holds where no document speaks.
    pub(super) fn defaults(&self) -> NodeDefaults {
        let local = self.local.iter().map(|address| Cidr::new(*address, 128)).collect();
        NodeDefaults { mode: self.config.mode, mesh: self.config.mesh.clone(), local }
    }

    pub(super) fn compile(&mut self, set: &PolicySet) -> Result<Compiled, Error> {
        let defaults = self.defaults();
        Ok(self.compiler.compile(set, &self.registry.all(), &defaults)?)
    }

    /// Plans and applies; then ends what has become denied.
    pub(super) fn put_into_force(&mut self, wanted: Compiled) -> Result<(), Error> {
        let revision = self.kernel.revision()?.next();
        let plan = policy::plan(&self.compiled, &wanted, revision, &CAPACITY)?;
        if plan.prepare.is_empty() && revision.0 > 1 {
            self.compiled = wanted;
            // An agent that was killed in the middle may have left something.
            return Ok(self.kernel.clean(&plan)?);
        }
        // Names first: an event under the new revision may come before the next line runs.
        self.shared.names.learn_identities(self.registry.all().iter());
        self.shared.names.learn_rules(&wanted.rules);
        self.kernel.apply(&plan, &self.compiled)?;
        self.compiled = wanted;
        self.kernel.clean(&plan)?;
        tracing::info!(revision = revision.0, changes = plan.prepare.len(), "policy revision in force");
        self.end_denied();
        Ok(())
    }

    /// Tells the kernel who owns each cgroup. Whoever becomes a workload keeps its connections, with a record.
    fn bind(&mut self, endpoints: &BTreeMap<CgroupId, Endpoint>) -> Result<(), Error> {
        let changed: Vec<(CgroupId, Endpoint)> = endpoints
            .iter()
            .filter(|(id, endpoint)| self.bound.get(id) != Some(endpoint))
            .map(|(id, endpoint)| (*id, *endpoint))
            .collect();
        let gone: Vec<CgroupId> =
            self.bound.keys().filter(|id| !endpoints.contains_key(id)).copied().collect();
        for id in gone {
            self.kernel.unbind(id)?;
            self.bound.remove(&id);
        }
        if changed.is_empty() {
            return Ok(());
        }
        let populated =
            changed.iter().any(|(id, endpoint)| endpoint.identity.is_workload() && self.is_populated(*id));
        if populated {
            self.adopt(endpoints)?;
        }
        let others = changed.iter().any(|(id, _)| self.bound.contains_key(id));
        for (id, endpoint) in changed {
            self.kernel.bind(id, endpoint)?;
            self.bound.insert(id, endpoint);
        }
        self.look_soon = true;
        if populated {
            // Whatever was opened between the first look and the binding.
            self.adopt(endpoints)?;
        }
        if populated || others {
            self.kernel.judge_again()?;
            self.end_denied();
        }
        Ok(())
    }

    fn is_populated(&self, id: CgroupId) -> bool {
        self.cgroups.get(&id).is_some_and(|cgroup| {
            let events = self.tree.directory(&cgroup.path).join("cgroup.events");
            std::fs::read_to_string(events).is_ok_and(|events| events.contains("populated 1"))
        })
    }

    fn adopt(&mut self, endpoints: &BTreeMap<CgroupId, Endpoint>) -> Result<(), Error> {
        let survey = Survey::take();
        let owner = |cgroup: CgroupId| endpoints.get(&cgroup).map(|endpoint| endpoint.identity);
        for (cookie, record) in survey.records(owner, |address| self.compiled.address(address)) {
            self.kernel.adopt(cookie, &record)?;
            self.adopted.insert(cookie);
        }
        Ok(())
    }
}
