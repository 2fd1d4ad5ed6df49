//! The control thread's part: workloads of other nodes get their number and their policy; connections whose session has
//! ended are judged without it.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use waxseal_common::ids::{IdentityId, Revision};
use waxseal_common::state::Connection;
use waxseal_common::tables::{IdentityEntry, Mode};
use waxseal_common::verdict::{Judgement, Reason, Verdict};
use waxseal_common::wire::Spi;

use super::Request;
use crate::datapath::{CAPACITY, monotonic};
use crate::mesh::{Ended, Local, NotAdmitted};
use crate::node::control::{Control, LINGER};
use crate::node::settle::Error;
use crate::pki::Peer;
use crate::policy::{self, Change, Compiled};
use crate::workload::Labels;

/// For how long the kernel programs may count on this thread.
const BEAT: Duration = Duration::from_secs(5);
/// Workloads of other nodes that can have a number here at once.
const REMOTE: usize = 12 * 1024;

impl Control {
    /// Does what the mesh asks for.
    pub(in crate::node) fn serve(&mut self, request: Request) {
        match request {
            Request::Admit { peer, labels, reply } => {
                let admitted = self.admit(&peer, &labels);
                // Whoever asked has given up, perhaps.
                let _gave_up = reply.send(admitted);
            }
            Request::End(ended) => self.end_sessions(&ended),
            Request::Uncovered(device) => {
                if let Some(border) = &mut self.border
                    && let Err(error) = border.ask(device)
                {
                    tracing::error!(%error, device, "cannot cover a device that a sealed SYN wants to leave by");
                }
            }
        }
    }

    /// Tells the kernel programs that somebody answers for what they hold.
    pub(in crate::node) fn beat(&mut self) {
        if !self.config.has_mesh() {
            return;
        }
        let until = monotonic() + BEAT.as_nanos() as u64;
        if let Err(error) = self.kernel.set_mesh_until(until) {
            tracing::error!(%error, "cannot tell the kernel programs that the agent lives; nothing waits for a session");
        }
    }

    fn admit(&mut self, peer: &Peer, labels: &Labels) -> Result<IdentityId, NotAdmitted> {
        let failed = |error: &dyn std::fmt::Display| {
            NotAdmitted(crate::escape::escape(&error.to_string()).into_owned())
        };
        let domain = &self.config.trust_domain;
        let info = self.registry.assign_proven(peer, labels, domain).map_err(|error| failed(&error))?;
        if self.remote.len() >= REMOTE && !self.remote.contains_key(&info.id) {
            return Err(NotAdmitted("there are too many workloads of other nodes".to_owned()));
        }
        self.remote.insert(info.id, Instant::now());
        if self.compiled.identities.contains_key(&info.id) {
            return Ok(info.id);
        }
        self.welcome().map_err(|error| failed(&error))?;
        Ok(info.id)
    }

    /// Puts the policy for a newcomer into force.
    fn welcome(&mut self) -> Result<(), Error> {
        let set = std::mem::take(&mut self.set);
        let wanted = self.compile(&set);
        self.set = set;
        let wanted = wanted?;
        let revision = self.kernel.revision()?;
        match newcomers(&self.compiled, &wanted, revision)? {
            // Nobody names its number yet: no verdict changes, so no revision need end.
            Some(changes) => {
                self.shared.names.learn_identities(self.registry.all().iter());
                self.kernel.write_all(&changes)?;
                self.compiled = wanted;
                Ok(())
            }
            None => self.put_into_force(wanted),
        }
    }

    /// What an earlier agent has admitted and the kernel's tables still name.
    pub(in crate::node) fn remember_remote(&mut self) {
        let named = self.shared.ties.sessions.identities();
        let known = named.into_iter().filter(|id| id.is_workload() && self.registry.identity(*id).is_some());
        self.remote = known.map(|id| (id, Instant::now())).collect();
    }

    /// Takes numbers back that nothing has named for a while.
    pub(in crate::node) fn forget_remote(&mut self) {
        if self.remote.is_empty() {
            return;
        }
        let named = self.shared.ties.sessions.identities();
        for (id, used) in &mut self.remote {
            if named.contains(id) {
                *used = Instant::now();
            }
        }
        let before = self.remote.len();
        self.remote.retain(|_, used| used.elapsed() < LINGER);
        if self.remote.len() != before {
            self.settle_cgroups(&BTreeSet::new());
        }
    }

    /// Tells the mesh who runs here, and has certificates made for them.
    pub(in crate::node) fn publish(&self) {
        let running: BTreeSet<IdentityId> =
            self.bound.values().map(|endpoint| endpoint.identity).filter(|id| id.is_workload()).collect();
        let locals: HashMap<IdentityId, Local> = running
            .iter()
            .filter_map(|id| self.registry.identity(*id))
            .map(|info| (info.id, Local { identity: info.id, id: info.spiffe_id, labels: info.labels }))
            .collect();
        let ties = &self.shared.ties;
        if *ties.locals.all() == locals {
            return;
        }
        ties.credentials.keeper().want(locals.values().map(|local| local.id.clone()).collect());
        ties.locals.replace(locals);
    }

    /// Connections whose session has ended: the other end is not proven any more. What the policy does not allow to a
    /// stranger ends, the rest goes on as a stranger's.
    fn end_sessions(&self, ended: &Ended) {
        let ceiling = self.ceiling.map_or(Mode::Enforce, |ceiling| ceiling.mode);
        for (cookie, mut record) in self.kernel.connections() {
            let opener = record.opener == 1;
            let named = record.session != 0
                && if opener {
                    ended.opened.contains(&record.session)
                } else {
                    ended.accepted.contains(&Spi(record.session))
                };
            if !named || record.stage != Connection::OPEN {
                continue;
            }
            let other = if opener { record.tuple.destination } else { record.tuple.source };
            let in_mesh = self.compiled.address(other).in_mesh();
            let peer = record.peer;
            record.peer = if in_mesh { IdentityId::UNKNOWN } else { IdentityId::WORLD };
            let judged = self.judge(&record, ceiling);
            if judged.verdict == Verdict::Deny {
                record.peer = peer;
                self.end(cookie, &record, Judgement { reason: Reason::SessionEnded, ..judged });
                continue;
            }
            self.shared.ties.sessions.change_connection(cookie, |there| {
                there.peer = record.peer;
                there.session = 0;
                there.revision = Revision(0);
            });
        }
    }
}

/// The writes that a plan comes down to when all it does is to add identities; `None` when it does more.
fn newcomers(
    current: &Compiled,
    wanted: &Compiled,
    revision: Revision,
) -> Result<Option<Vec<Change>>, policy::PlanError> {
    let plan = policy::plan(current, wanted, revision.next(), &CAPACITY)?;
    if !plan.cleanup.is_empty() {
        return Ok(None);
    }
    let settled = plan.prepare.into_iter().map(|change| match change {
        Change::PutIdentity(id, entry) if !current.identities.contains_key(&id) => {
            let row = entry.new;
            Some(Change::PutIdentity(id, IdentityEntry { from: revision, new: row, old: row }))
        }
        _ => None,
    });
    Ok(settled.collect())
}
