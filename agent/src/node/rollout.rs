//! The way from looking to allow lists: how strict each workload is and who says so, modes that are set at run time, and
//! what one step more would break.

use std::collections::{BTreeSet, HashSet};

use waxseal_common::ids::IdentityId;
use waxseal_common::tables::{AddressRow, IdentityRow, Mode, Subject};
use waxseal_common::verdict::{Direction, Peer, Question, Verdict, decide};

use super::control::Control;
use super::tally::Side;
use crate::api::{
    Failure, FailureKind, Level, ModeReport, Obstacle, RolloutReport, Scope, Step, WorkloadMode,
    WorkloadRollout,
};
use crate::escape::escape;
use crate::flows::Time;
use crate::policy::{IdentityPolicy, ModeFrom, direction_word, mode_of};
use crate::workload::IdentityInfo;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Control {
    /// Every workload's mode, and what was set at run time.
    pub(super) fn modes(&self) -> ModeReport {
        let workloads = self.locals().iter().map(|info| self.workload_mode(info)).collect();
        ModeReport { workloads, ..self.mode_report() }
    }

    /// The workloads that run here.
    fn locals(&self) -> Vec<IdentityInfo> {
        let runs = |id| self.bound.values().any(|endpoint| endpoint.identity == id);
        let mut locals = self.registry.all();
        locals.retain(|info| runs(info.id));
        locals.sort_by_key(IdentityInfo::full_name);
        locals
    }

    fn workload_mode(&self, info: &IdentityInfo) -> WorkloadMode {
        let selecting: Vec<&IdentityPolicy> =
            self.set.policies.iter().map(AsRef::as_ref).filter(|policy| policy.binds(info)).collect();
        let namespace = self.set.namespaces.get(&info.namespace);
        let defaults = self.defaults();
        let of = |direction| {
            let enforced = selecting.iter().copied();
            let enforced = enforced.filter(|policy| policy.rules(direction).is_some() && !policy.is_shadow());
            mode_of(info, enforced, namespace, &defaults)
        };
        let [ingress, egress] = DIRECTIONS.map(of);
        let (own, from) = if egress.0 > ingress.0 { egress } else { ingress };
        let mut from = self.who_says(info, from);
        if ingress.0 != egress.0 {
            let looser =
                if egress.0 > ingress.0 { (ingress.0, DIRECTIONS[0]) } else { (egress.0, DIRECTIONS[1]) };
            from = format!("{from}; {} {}", direction_word(looser.1), looser.0.as_str());
        }
        let mode = own.min(self.mode_report().ceiling);
        if mode != own {
            from = format!("the ceiling; {} without it: {from}", own.as_str());
        }
        WorkloadMode { workload: escape(&info.full_name()).into_owned(), mode, from }
    }

    fn who_says(&self, info: &IdentityInfo, from: ModeFrom<'_>) -> String {
        let text = match from {
            ModeFrom::Workload => match self.overrides.workload(&info.full_name()) {
                Some(set) => format!("set for the workload at {}", set.since),
                None => "its Workload document".to_owned(),
            },
            ModeFrom::Policy(policy) => format!("policy {} ({})", policy.title(), policy.origin),
            ModeFrom::Namespace(namespace) => match self.overrides.namespace(&namespace.name) {
                Some(set) => format!("set for namespace {} at {}", namespace.name, set.since),
                None => format!("namespace {} ({})", namespace.name, namespace.origin),
            },
            ModeFrom::Node => "the node's configuration".to_owned(),
        };
        escape(&text).into_owned()
    }

    /// Sets or resets the mode of a workload or namespace.
    pub(super) fn set_mode(&mut self, level: &Level, mode: Option<Mode>) -> Result<ModeReport, Failure> {
        self.must_exist(level, mode)?;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Internal, escape(&error.to_string()).into_owned())
        };
        let changed = self.overrides.with(level, mode, Time::now());
        let changed = changed.ok_or_else(|| {
            Failure::new(
                FailureKind::Busy,
                "too many modes are set at run time; reset some, or write them into documents",
            )
        })?;
        // On disk first: what is in force after a restart is never looser or stricter than what was told.
        changed.write(&self.config.state).map_err(|error| failed(&error))?;
        let before = std::mem::replace(&mut self.overrides, changed);
        if let Err(error) = self.install(self.documents.clone()) {
            self.overrides = before;
            self.overrides.write(&self.config.state).map_err(|error| failed(&error))?;
            return Err(failed(&error));
        }
        tracing::warn!(?level, ?mode, "a mode was set at run time");
        Ok(self.modes())
    }

    fn must_exist(&self, level: &Level, mode: Option<Mode>) -> Result<(), Failure> {
        let workloads = &self.documents.workloads;
        let (is_known, what, name) = match level {
            Level::Workload(name) => {
                (workloads.iter().any(|workload| workload.full_name() == *name), "workload", name)
            }
            Level::Namespace(name) => {
                let known = self.documents.namespaces.contains_key(name)
                    || workloads.iter().any(|workload| workload.namespace == *name);
                (known, "namespace", name)
            }
        };
        let refused = |text: String| Err(Failure::new(FailureKind::Invalid, text));
        match mode {
            Some(_) if !is_known => {
                refused(format!("no document in force names the {what} {}", escape(name)))
            }
            None if !self.overrides.contains(level) => {
                refused(format!("no mode was set at run time for the {what} {}", escape(name)))
            }
            _ => Ok(()),
        }
    }

    /// What would break if these workloads went one step stricter.
    pub(super) fn rollout(&self, scope: &Scope) -> Result<RolloutReport, Failure> {
        let (mut found, dropped) = self.shared.tally.obstacles(self.policy.since);
        let Scope { namespace, workload } = scope;
        let wanted = |info: &IdentityInfo| {
            namespace.as_ref().is_none_or(|name| info.namespace == *name)
                && workload.as_ref().is_none_or(|name| info.full_name() == *name)
        };
        let locals: Vec<IdentityInfo> = self.locals().into_iter().filter(wanted).collect();
        if locals.is_empty() && (namespace.is_some() || workload.is_some()) {
            let name = workload.as_ref().or(namespace.as_ref()).map_or("", String::as_str);
            let text = format!("no workload of {} runs on this node", escape(name));
            return Err(Failure::new(FailureKind::Invalid, text));
        }
        let workloads = locals
            .iter()
            .map(|info| {
                let mode = self.workload_mode(info);
                let obstacles = found.remove(&mode.workload).unwrap_or_default();
                self.workload_rollout(info, mode, obstacles)
            })
            .collect();
        Ok(RolloutReport {
            since: self.shared.tally.since,
            policies_since: self.policy.since,
            dropped,
            workloads,
        })
    }

    fn workload_rollout(
        &self,
        info: &IdentityInfo,
        mode: WorkloadMode,
        mut obstacles: Vec<Obstacle>,
    ) -> WorkloadRollout {
        let next = self.next_step(info.id, mode.mode);
        obstacles.retain(|obstacle| next <= obstacle.what.step());
        let in_the_way = obstacles.iter().filter(|obstacle| obstacle.what.step() == next && !obstacle.stale);
        WorkloadRollout { mode, next, would_break: in_the_way.count() as u64, obstacles }
    }

    /// The workloads that run here and deny nothing by default, by direction.
    pub(super) fn open_sides(&self) -> HashSet<Side> {
        let ids: BTreeSet<IdentityId> = self.bound.values().map(|endpoint| endpoint.identity).collect();
        let rows = ids.iter().filter(|id| id.is_workload());
        let rows = rows.filter_map(|id| Some((id.0, self.compiled.identities.get(id)?)));
        let sides = rows.flat_map(|(id, row)| {
            [(id, Direction::Ingress, row.ingress), (id, Direction::Egress, row.egress)]
        });
        let open = sides.filter(|(_, _, subject)| subject.flags & Subject::DENY_BY_DEFAULT == 0);
        open.map(|(id, direction, _)| (id, direction)).collect()
    }

    fn next_step(&self, id: IdentityId, mode: Mode) -> Step {
        let row = self.compiled.identities.get(&id).copied().unwrap_or_default();
        let IdentityRow { ingress, egress, .. } = row;
        let lists = |subject: Subject| subject.flags & Subject::DENY_BY_DEFAULT != 0;
        match mode {
            Mode::Permissive => Step::Audit,
            Mode::Audit => Step::Enforce,
            Mode::Enforce if !self.denies_strangers(id) => Step::Strict,
            Mode::Enforce if !(lists(ingress) && lists(egress)) => Step::AllowLists,
            Mode::Enforce => Step::Done,
        }
    }

    /// Whether the workload denies a source inside the mesh that has not proved who it is, at a port that no rule would
    /// name.
    fn denies_strangers(&self, subject: IdentityId) -> bool {
        let question = Question {
            direction: Direction::Ingress,
            subject,
            peer: Peer::Known(IdentityId::UNKNOWN),
            peer_address: AddressRow { class: 0, flags: AddressRow::MESH },
            loopback: false,
            protocol: 6,
            port: u16::MAX,
        };
        decide(&self.compiled, &question, Mode::Enforce).verdict == Verdict::Deny
    }
}
