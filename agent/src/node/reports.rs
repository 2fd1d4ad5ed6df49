//! What the control thread answers when asked how things are.

use std::collections::BTreeMap;
use std::path::Path;

use waxseal_common::ids::{CgroupId, IdentityId, Revision, protocol};
use waxseal_common::tables::Mode;

use super::ceiling::{self, Ceiling};
use super::control::Control;
use crate::api::{
    Command, EndpointReport, EndpointState, ExplainReport, Failure, FailureKind, IdentityReport, MapFill,
    ModeChange, ModeReport, PolicyReport, ProgramReport, Question, StatusReport,
};
use crate::attest::{Decision, Owner};
use crate::datapath::object::{HOOKS, Place};
use crate::escape::escape;
use crate::flows::{End, Identity, Look, Time, line};
use crate::policy::{self, PolicySet};

/// A path for the eye.
pub(super) fn shown(path: &Path) -> String {
    escape(&path.display().to_string()).into_owned()
}

/// An error's text, one line an item, escaped but for line breaks.
pub(super) fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| escape(line).into_owned()).collect()
}

/// Writes down what a set that has come into force holds.
pub(super) fn describe(report: &mut PolicyReport, set: &PolicySet, revision: Revision) {
    report.revision = revision.0;
    report.files = set.files as u64;
    report.policies = set.policies.len() as u64;
    report.workloads = set.workloads.len() as u64;
    report.names = set.policies.iter().map(|policy| escape(&policy.title()).into_owned()).collect();
    report.warnings = set.warnings.iter().map(|warning| escape(&warning.to_string()).into_owned()).collect();
    report.since = Some(Time::now());
}

impl Control {
    /// Answers. Somebody who has hung up is no failure.
    pub(super) fn answer(&mut self, command: Command) {
        match command {
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Endpoints(reply) => drop(reply.send(self.endpoint_reports())),
            Command::Identities(reply) => drop(reply.send(self.identity_reports())),
            Command::Mode { change, reply } => drop(reply.send(self.change_mode(change))),
            Command::Explain { question, reply } => drop(reply.send(self.explain(&question))),
            Command::ExplainFlow { cookie, reply } => drop(reply.send(self.explain_flow(cookie))),
            Command::Rollout { scope, reply } => drop(reply.send(self.rollout(&scope))),
            Command::Policy(reply) => drop(reply.send(self.policy.clone())),
            Command::Sessions(reply) => self.report_sessions(reply),
            Command::Probe { address, reply } => self.probe(address, reply),
            Command::ReachNode { node, agent, reply } => self.reach_node(node, agent, reply),
        }
    }

    fn status(&self) -> StatusReport {
        let reports = self.endpoint_reports();
        let (ready, unsettled): (Vec<_>, Vec<_>) =
            reports.into_iter().partition(|report| report.state == EndpointState::Ready);
        StatusReport {
            instance: self.config.instance.clone(),
            node: escape(&nix::unistd::gethostname().unwrap_or_default().to_string_lossy()).into_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: nix::sys::utsname::uname()
                .map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned()),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            revision: self.kernel.revision().unwrap_or_default().0,
            policy: self.policy.clone(),
            mode: self.mode_report(),
            endpoints: ready.len() as u64,
            identities: self.registry.all().len() as u64,
            unsettled,
            programs: self.program_reports(),
            maps: self
                .kernel
                .fill()
                .into_iter()
                .map(|fill| MapFill { name: fill.name, used: fill.used, capacity: fill.capacity })
                .collect(),
            counters: self
                .kernel
                .counters()
                .unwrap_or_default()
                .into_iter()
                .map(|(counter, value)| (counter.as_str().to_owned(), value))
                .collect(),
            taps: self.shared.hub.report(),
            mesh: self.mesh_report(),
        }
    }

    fn program_reports(&self) -> Vec<ProgramReport> {
        let attached = |name: &str| self.config.pins().join(format!("link_{name}")).exists();
        HOOKS
            .iter()
            .filter_map(|hook| {
                let target = match hook.place {
                    Place::Cgroup(_) => shown(self.tree.root()),
                    Place::Tracepoint(name) => format!("tracepoint {name}"),
                    // Which devices have them is a report of its own.
                    Place::Border { .. } | Place::Nowhere => return None,
                };
                Some(ProgramReport { name: hook.name.to_owned(), attached: attached(hook.name), target })
            })
            .collect()
    }

    fn endpoint_reports(&self) -> Vec<EndpointReport> {
        self.owners.iter().filter_map(|(id, owner)| self.endpoint_report(*id, owner)).collect()
    }

    fn endpoint_report(&self, id: CgroupId, owner: &Owner) -> Option<EndpointReport> {
        let path = self.cgroups.get(&id).map(|cgroup| escape(&cgroup.path).into_owned())?;
        let identity = self.bound.get(&id).map(|endpoint| endpoint.identity)?;
        let reason = match self.decisions.get(&id) {
            Some(Decision::NotYet { reason, .. }) => Some(escape(&reason.to_string()).into_owned()),
            Some(Decision::Refused { reason }) => Some(escape(&reason.to_string()).into_owned()),
            _ => None,
        };
        let state = match owner {
            Owner::Workload(_) => EndpointState::Ready,
            Owner::Refused => EndpointState::Refused,
            Owner::Pending => EndpointState::Pending,
            Owner::Unmanaged if identity == IdentityId::UNKNOWN => EndpointState::Pending,
            // Somebody may want to know why the root is refused on a hybrid host.
            Owner::Host | Owner::Unmanaged
                if matches!(self.decisions.get(&id), Some(Decision::Refused { .. })) =>
            {
                EndpointState::Refused
            }
            Owner::Host | Owner::Unmanaged => return None,
        };
        let info = self.registry.identity(identity).filter(|_| state == EndpointState::Ready);
        Some(EndpointReport {
            cgroup: id.0,
            path,
            state,
            identity: info.as_ref().map(|info| info.id.0),
            workload: info.as_ref().map(|info| escape(&info.full_name()).into_owned()),
            mode: info.as_ref().map(|info| self.mode_of(info.id)),
            reason: if state == EndpointState::Ready { None } else { reason },
        })
    }

    /// The stricter mode of an identity's two directions, under the ceiling.
    fn mode_of(&self, identity: IdentityId) -> Mode {
        let own = self
            .compiled
            .identities
            .get(&identity)
            .map_or(self.config.mode, |row| row.ingress.mode().max(row.egress.mode()));
        own.min(self.mode_report().ceiling)
    }

    fn identity_reports(&self) -> Vec<IdentityReport> {
        let mut endpoints: BTreeMap<IdentityId, u64> = BTreeMap::new();
        for endpoint in self.bound.values() {
            *endpoints.entry(endpoint.identity).or_default() += 1;
        }
        self.registry
            .all()
            .into_iter()
            .map(|info| IdentityReport {
                identity: info.id.0,
                workload: escape(&info.full_name()).into_owned(),
                spiffe_id: Some(escape(info.spiffe_id.as_str()).into_owned()),
                labels: info
                    .labels
                    .iter()
                    .map(|(key, value)| (escape(key).into_owned(), escape(value).into_owned()))
                    .collect(),
                endpoints: endpoints.get(&info.id).copied().unwrap_or(0),
            })
            .collect()
    }

    pub(super) fn mode_report(&self) -> ModeReport {
        ModeReport {
            set: self.overrides.report(),
            workloads: Vec::new(),
            default: self.config.mode,
            ceiling: self.ceiling.map_or(Mode::Enforce, |ceiling| ceiling.mode),
            since: self.ceiling.map(|ceiling| ceiling.since),
        }
    }

    /// By the documents in force, for every workload that they name, whether or not it runs.
    fn explain(&self, question: &Question) -> Result<ExplainReport, Failure> {
        let defaults = self.defaults();
        let identities = policy::expected_identities(&self.set);
        let Question { from, to, port } = question;
        let explanation = policy::explain(&self.set, &identities, &defaults, from, to, port)
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        let text = explanation.to_string();
        let explanation = serde_json::to_value(explanation)
            .map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
        Ok(ExplainReport { text, explanation })
    }

    /// By the documents in force, for the ends of a connection that was seen.
    fn explain_flow(&self, cookie: u64) -> Result<ExplainReport, Failure> {
        let flow = self.shared.hub.flow(cookie).ok_or_else(|| {
            let text = format!(
                "no flow {cookie} among those that the agent still keeps; the number is what `waxseal tap -o json` calls `cookie`"
            );
            Failure::new(FailureKind::Invalid, text)
        })?;
        let known = policy::expected_identities(&self.set);
        let end = |end: &End| {
            let Identity { name, spiffe_id, labels, .. } = &*end.identity;
            let who = match spiffe_id {
                Some(id) if !known.iter().any(|info| info.full_name() == *name) => {
                    let labels = labels.iter().map(|(key, value)| format!(",{key}={value}"));
                    format!("{id}{}", labels.collect::<String>())
                }
                _ => name.clone(),
            };
            format!("{who}@{}", end.address)
        };
        let (from, to) = (end(&flow.source), end(&flow.destination));
        let has_ports = matches!(flow.protocol.0, protocol::TCP | protocol::UDP);
        let port =
            if has_ports { format!("{}/{}", flow.port, flow.protocol) } else { flow.protocol.to_string() };
        let mut report = self.explain(&Question { from, to, port })?;
        let revision = self.kernel.revision().unwrap_or_default().0;
        let now = if flow.revision == revision {
            String::new()
        } else {
            format!(
                "The policies have changed since (revision {revision} now); this is what they say today.\n"
            )
        };
        report.text = format!("{}\n{now}\n{}", line(&flow, Look::default(), Time::now()), report.text);
        Ok(report)
    }

    fn change_mode(&mut self, change: ModeChange) -> Result<ModeReport, Failure> {
        let wanted = match change {
            ModeChange::Show => return Ok(self.modes()),
            ModeChange::Set { level, mode } => return self.set_mode(&level, Some(mode)),
            ModeChange::Unset { level } => return self.set_mode(&level, None),
            ModeChange::Reset | ModeChange::Ceiling { mode: Mode::Enforce } => None,
            ModeChange::Ceiling { mode } => Some(Ceiling { mode, since: Time::now() }),
        };
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Internal, escape(&error.to_string()).into_owned())
        };
        ceiling::write(&self.config.state, wanted).map_err(|error| failed(&error))?;
        let mode = wanted.map_or(Mode::Enforce, |ceiling| ceiling.mode);
        self.kernel.set_ceiling(mode).map_err(|error| failed(&error))?;
        self.ceiling = wanted;
        if wanted.is_some() {
            tracing::warn!(?mode, "EMERGENCY CEILING: no workload is stricter than this until it is reset");
        } else {
            tracing::warn!("the ceiling is gone; every workload has its own mode again");
        }
        self.kernel.judge_again().map_err(|error| failed(&error))?;
        self.end_denied();
        Ok(self.modes())
    }
}
