//! Sessions in which this node sends: installed when the responder has accepted, renewed while used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use waxseal_common::ids::IdentityId;
use waxseal_common::wire::{Route as Entry, RouteKey, Spi};

use super::error::HandshakeError;
use super::host::{Ended, Local};
use super::initiate::Agreement;
use super::inner::Inner;
use super::journal::Record;
use super::peers::Peers;
use super::state::{Facts, Failed, Outbound, Party, Route, State, lifetime};
use crate::escape::escape;
use crate::pki::Svid;
use crate::spiffe::SpiffeId;

/// How long it counts that no agent answers.
const NO_AGENT: Duration = Duration::from_secs(30);
/// The same where one has answered before: it is only away.
const AWAY: Duration = Duration::from_secs(2);
/// How long every other failure counts.
const FAILED: Duration = Duration::from_secs(5);

/// An agreement, and whose it is.
pub(super) struct Opened {
    pub(super) local: Local,
    pub(super) svid: Arc<Svid>,
    pub(super) node: Arc<Svid>,
    pub(super) agent: SocketAddr,
    pub(super) agreement: Agreement,
    /// This node's number for the workload at the other end.
    pub(super) identity: Option<IdentityId>,
}

/// `middle` +- a share of it.
pub(super) fn jitter(middle: Duration, share: f64) -> Duration {
    middle.mul_f64(rand::random_range(1.0 - share..=1.0 + share))
}

impl Inner {
    /// Writes the route into the kernel.
    pub(super) fn install_outbound(&self, key: RouteKey, opened: Opened) -> Result<u32, HandshakeError> {
        let Opened { local, svid, node, agent, agreement, identity } = opened;
        let number = self.meet(agreement.node.id(), agreement.nonce, Some(agent))?;
        let remote = identity.map(|identity| Party { id: agreement.destination.id().clone(), identity });
        let proofs = vec![
            Arc::clone(&agreement.destination),
            Arc::clone(&agreement.node),
            self.own_proof(&svid)?,
            self.own_proof(&node)?,
        ];
        let lasts = lifetime(&proofs, SystemTime::now(), self.options.longest).min(agreement.lasts);
        if lasts.is_zero() {
            return Err(HandshakeError::NoSession);
        }
        let now = self.table.now();
        let facts = Facts {
            node: number,
            local: Some(Party::from(&local)),
            remote,
            proofs,
            made: now,
            expires: now + lasts.as_nanos() as u64,
        };
        let renew_at = now + jitter(lasts / 2, 0.1).as_nanos() as u64;
        let spi = agreement.spi;
        let line = Outbound { facts, key, spi, agent, renew_at, renewing: false, dead: false, past: false };
        self.write_route(line, &agreement)
    }

    fn write_route(&self, line: Outbound, agreement: &Agreement) -> Result<u32, HandshakeError> {
        let mut state = self.state();
        let before = state.line_of(&line.key);
        // The same two on the same node: connections of the line before go on under this one.
        let same = state
            .last_line(&line.key)
            .filter(|number| state.outbound.get(number).is_some_and(|old| goes_on(old, &line)));
        let session = same.unwrap_or_else(|| state.next_session());
        let entry = Entry {
            key: agreement.key,
            expires: line.facts.expires,
            made: line.facts.made,
            spi: line.spi,
            destination: line.facts.remote.as_ref().map(|party| party.identity).unwrap_or_default(),
            session,
            node: line.facts.node,
            ..Entry::default()
        };
        self.table.put_route(&line.key, &entry)?;
        self.journal.append(&Record::outbound(session, &line));
        if let Some(old) = before.filter(|old| *old != session)
            && let Some(old) = state.outbound.get_mut(&old)
        {
            old.past = true;
        }
        self.node.learned(true, session, agreement.node.id(), line.facts.made);
        let key = line.key;
        state.outbound.insert(session, line);
        if let Some(Route::Ready(number)) = state.routes.get_mut(&key) {
            *number = session;
        }
        Ok(session)
    }

    /// Writes down that there is no session, so that nothing waits for one.
    pub(super) fn install_failure(&self, peers: &Peers, key: RouteKey, error: &HandshakeError) -> Failed {
        let failure = error.failure();
        let lasts = match error {
            HandshakeError::NoAgent { agent, .. } if peers.at(agent.ip()).is_some() => AWAY,
            HandshakeError::NoAgent { .. } => NO_AGENT,
            _ => FAILED,
        };
        let lasts = jitter(lasts, 0.2);
        let now = self.table.now();
        let entry = Entry {
            expires: now + lasts.as_nanos() as u64,
            made: now,
            failure: failure as u8,
            ..Entry::default()
        };
        if let Err(error) = self.table.put_route(&key, &entry) {
            tracing::warn!(%error, "cannot write down that a handshake has failed; its packets are dropped");
        }
        let since = Instant::now();
        Failed { failure, detail: escape(&error.to_string()).into_owned(), since, until: since + lasts }
    }

    /// Notes that a node has proved itself. When it has lost its memory, whatever was agreed with it ends.
    pub(super) fn meet(
        &self,
        id: &SpiffeId,
        nonce: u64,
        agent: Option<SocketAddr>,
    ) -> Result<u32, HandshakeError> {
        let mut state = self.state();
        let met = state.peers.meet(id, nonce, agent).ok_or(HandshakeError::Busy)?;
        if met.changed {
            self.journal.append_peer(&state.peers, met.number);
        }
        let lost = met.lost.then(|| state.of_node(met.number));
        drop(state);
        if let Some((lines, sessions)) = lost {
            tracing::info!(node = %id, "a peer has started anew; its sessions are gone");
            self.end_outbound(&lines);
            self.end_inbound(&sessions);
        }
        Ok(met.number)
    }

    /// A peer does not know these sessions any more. Only its own. The connections stay: it will seal anew.
    pub(super) fn forget_routes(&self, node: u32, sessions: &[u32]) -> bool {
        let mut state = self.state();
        let theirs = state.lines_of(node, sessions);
        for number in &theirs {
            self.drop_route(&mut state, *number);
        }
        drop(state);
        self.journal.append_gone(&[], &theirs);
        !theirs.is_empty()
    }

    pub(super) fn drop_route(&self, state: &mut State, number: u32) {
        let Some(line) = state.outbound.get_mut(&number) else { return };
        line.past = true;
        let key = line.key;
        if matches!(state.routes.get(&key), Some(Route::Ready(current)) if *current == number) {
            state.routes.remove(&key);
            self.table.remove_route(&key);
        }
    }

    /// Ends lines of sessions and, by them, their connections.
    pub(super) fn end_outbound(&self, lines: &[u32]) {
        if lines.is_empty() {
            return;
        }
        let mut state = self.state();
        for number in lines {
            self.drop_route(&mut state, *number);
            if let Some(line) = state.outbound.get_mut(number) {
                line.dead = true;
            }
        }
        drop(state);
        self.end_flows(lines, &[]);
        self.journal.append_gone(&[], lines);
        self.node.end(Ended { opened: lines.iter().copied().collect(), ..Ended::default() });
    }
}

/// Whether a new session carries on an old line.
fn goes_on(old: &Outbound, new: &Outbound) -> bool {
    !old.dead
        && old.facts.node == new.facts.node
        && old.facts.local == new.facts.local
        && old.facts.remote == new.facts.remote
}

impl State {
    /// The line that a destination has.
    pub(super) fn line_of(&self, key: &RouteKey) -> Option<u32> {
        match self.routes.get(key) {
            Some(Route::Ready(number)) => Some(*number),
            _ => None,
        }
    }

    /// The line that a destination has, or had last and has connections of.
    pub(super) fn last_line(&self, key: &RouteKey) -> Option<u32> {
        self.line_of(key).or_else(|| {
            let of_key = self.outbound.iter().filter(|(_, line)| line.key == *key && !line.dead);
            of_key.max_by_key(|(_, line)| line.facts.made).map(|(number, _)| *number)
        })
    }

    /// The lines of a node whose sessions are called so.
    pub(super) fn lines_of(&self, node: u32, sessions: &[u32]) -> Vec<u32> {
        let named = self
            .outbound
            .iter()
            .filter(|(_, line)| line.facts.node == node && !line.past && sessions.contains(&line.spi.0));
        named.map(|(number, _)| *number).collect()
    }

    /// All that was agreed with a node.
    pub(super) fn of_node(&self, node: u32) -> (Vec<u32>, Vec<Spi>) {
        let lines = self.outbound.iter().filter(|(_, line)| line.facts.node == node).map(|(n, _)| *n);
        let sessions = self.inbound.iter().filter(|(_, s)| s.facts.node == node).map(|(spi, _)| *spi);
        (lines.collect(), sessions.collect())
    }
}
