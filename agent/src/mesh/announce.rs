//! UDP between nodes: the agents tell each other of a flow before its first datagram passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use waxseal_common::ids::IdentityId;
use waxseal_common::state::{Tuple, UdpFlow};
use waxseal_common::wire::{Announced, RouteKey, Spi};

use super::counters::Count;
use super::inner::Inner;
use super::message::{LinkMessage, Reason};
use super::state::{State, Waiting};

/// For how long an announcement holds.
const HOLDS: Duration = Duration::from_mins(1);
/// How long before its end an announcement of a flow that lives is made anew.
const AHEAD: Duration = Duration::from_secs(20);
/// How long a link or an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long a flow whose announcement failed goes out without an identity.
const STRANGE: Duration = Duration::from_secs(2);
/// Flows that one peer node can have announced.
const PER_NODE: usize = 16384;

/// A flow that a peer has announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    node: u32,
    spi: Spi,
    until: u64,
}

/// A flow that this node has announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The line of sessions.
    pub(super) session: u32,
    until: u64,
}

impl Sent {
    pub(super) fn new(session: u32, until: u64) -> Self {
        Self { session, until }
    }
}

/// The answer to an announcement.
pub(super) enum Answer {
    Taken,
    Refused(Reason),
}

impl Answer {
    pub(super) fn message(&self, number: u64) -> LinkMessage {
        let (refused, milliseconds) = match self {
            Self::Taken => (None, HOLDS.as_millis() as u64),
            Self::Refused(reason) => (Some(*reason), 0),
        };
        LinkMessage::Announced { number, refused, milliseconds }
    }
}

impl Inner {
    /// Announces the flow of a datagram that waits; others of the same flow wait with it.
    pub(super) fn announce(self: &Arc<Self>, key: RouteKey, waiting: Waiting, session: u32) {
        let flow = waiting.flow;
        let mut state = self.state();
        if !state.queue.enter(key.destination) {
            return self.counters.add(Count::HeldNoRoom);
        }
        if let Some(others) = state.announcing.get_mut(&flow) {
            others.push(waiting);
            return;
        }
        state.announcing.insert(flow, vec![waiting]);
        drop(state);
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let lasts = inner.announce_flow(flow, session).await;
            let held = {
                let mut state = inner.state();
                let held = state.announcing.remove(&flow).unwrap_or_default();
                state.queue.leave(key.destination, held.len());
                held
            };
            match lasts {
                Some(()) => held.into_iter().for_each(|waiting| inner.release(waiting)),
                None => inner.release_strangers(&key, held, Instant::now() + STRANGE),
            }
        });
    }

    /// Tells the peer of a flow, and when it has taken it lets the flow out.
    async fn announce_flow(self: &Arc<Self>, flow: Tuple, session: u32) -> Option<()> {
        let told = self.tell_of(flow, session).await;
        self.counters.add(if told.is_some() { Count::Announced } else { Count::AnnounceFailed });
        let lasts = told?;
        let until = self.table.now() + lasts.as_nanos() as u64;
        let announced = Announced { until, session, pad: 0 };
        if let Err(error) = self.table.announce(&flow, &announced) {
            tracing::warn!(%error, "a UDP flow cannot be let out");
            return None;
        }
        self.state().sent.insert(flow, Sent { session, until });
        Some(())
    }

    async fn tell_of(self: &Arc<Self>, flow: Tuple, session: u32) -> Option<Duration> {
        let (node, spi) = {
            let state = self.state();
            let line = state.outbound.get(&session).filter(|line| !line.dead)?;
            (line.facts.node, line.spi)
        };
        let link = self.link(node, PATIENCE).await?;
        let question = |number| LinkMessage::Announce { number, spi: spi.0, flow: flow.into() };
        match link.ask(question, PATIENCE).await? {
            LinkMessage::Announced { refused: None, milliseconds, .. } => {
                Some(Duration::from_millis(milliseconds).min(HOLDS))
            }
            LinkMessage::Announced { refused: Some(Reason::UnknownSession), .. } => {
                self.forget_routes(node, &[spi.0]);
                None
            }
            _ => None,
        }
    }

    /// A peer announces a flow under a session that it has here. The entry is written before the answer.
    pub(super) fn take_flow(&self, node: u32, spi: Spi, flow: Tuple) -> Answer {
        let now = self.table.now();
        let mut state = self.state();
        let answer = match state.may_announce(node, spi, &flow, now) {
            Err(reason) => Answer::Refused(reason),
            Ok(source) => self.write_flow(&mut state, Taken { node, spi, until: now }, &flow, source),
        };
        let taken = matches!(answer, Answer::Taken);
        self.counters.add(if taken { Count::FlowsTaken } else { Count::FlowsRefused });
        answer
    }

    fn write_flow(&self, state: &mut State, taken: Taken, flow: &Tuple, source: IdentityId) -> Answer {
        let there = self.table.flow(flow);
        let entry = match there {
            // Somebody on this node has it: the address is no other node's.
            Some(there) if there.flags & UdpFlow::ANNOUNCED == 0 => return Answer::Refused(Reason::Taken),
            Some(there) if there.source == source => {
                UdpFlow { session: taken.spi, seen: taken.until, ..there }
            }
            _ => UdpFlow {
                source,
                session: taken.spi,
                seen: taken.until,
                flags: UdpFlow::ANNOUNCED,
                ..UdpFlow::default()
            },
        };
        if let Err(error) = self.table.put_flow(flow, &entry) {
            tracing::warn!(%error, "a flow that a peer announces has no room");
            return Answer::Refused(Reason::Internal);
        }
        let until = taken.until + 2 * HOLDS.as_nanos() as u64;
        if state.taken.insert(*flow, Taken { until, ..taken }).is_none()
            && let Some(peer) = state.peers.get_mut(taken.node)
        {
            peer.flows += 1;
        }
        Answer::Taken
    }

    /// Announces flows anew that live, and forgets the others.
    pub(super) fn refresh_flows(self: &Arc<Self>) {
        let now = self.table.now();
        let due: Vec<(Tuple, Sent)> = {
            let state = self.state();
            let soon = now + AHEAD.as_nanos() as u64;
            state
                .sent
                .iter()
                .filter(|(_, sent)| sent.until < soon)
                .map(|(flow, sent)| (*flow, *sent))
                .collect()
        };
        for (flow, sent) in due {
            let seen = self.table.flow(&flow).map_or(0, |flow| flow.seen);
            let lives = now.saturating_sub(seen) < HOLDS.as_nanos() as u64;
            if lives && sent.until > now {
                let inner = Arc::clone(self);
                tokio::spawn(async move { inner.announce_flow(flow, sent.session).await });
            } else if sent.until <= now {
                self.table.withdraw(&flow);
                self.state().sent.remove(&flow);
            }
        }
        self.state().forget_taken(now);
    }

    /// Ends the flows of sessions that have ended.
    pub(super) fn end_flows(&self, lines: &[u32], sessions: &[Spi]) {
        let mut state = self.state();
        let sent: Vec<Tuple> = state
            .sent
            .iter()
            .filter(|(_, sent)| lines.contains(&sent.session))
            .map(|(flow, _)| *flow)
            .collect();
        for flow in sent {
            self.table.withdraw(&flow);
            state.sent.remove(&flow);
        }
        let taken: Vec<Tuple> = state
            .taken
            .iter()
            .filter(|(_, taken)| sessions.contains(&taken.spi))
            .map(|(flow, _)| *flow)
            .collect();
        for flow in taken {
            self.table.remove_flow(&flow);
            state.drop_taken(&flow);
        }
    }
}

impl State {
    /// Whether this node may announce that flow, and as whom.
    fn may_announce(&self, node: u32, spi: Spi, flow: &Tuple, now: u64) -> Result<IdentityId, Reason> {
        let session = self.inbound.get(&spi).ok_or(Reason::UnknownSession)?;
        let facts = &session.facts;
        let own = facts.node == node && !session.dead && !session.past && facts.expires > now;
        let source = facts.remote.as_ref().filter(|_| own).ok_or(Reason::UnknownSession)?;
        match self.taken.get(flow) {
            Some(taken) if taken.node != node && taken.until > now => return Err(Reason::Taken),
            Some(taken) if taken.node == node => {}
            _ if self.peers.get(node).is_none_or(|peer| peer.flows >= PER_NODE) => return Err(Reason::Busy),
            _ => {}
        }
        Ok(source.identity)
    }

    fn forget_taken(&mut self, now: u64) {
        let old: Vec<Tuple> =
            self.taken.iter().filter(|(_, taken)| taken.until <= now).map(|(flow, _)| *flow).collect();
        for flow in old {
            self.drop_taken(&flow);
        }
    }

    fn drop_taken(&mut self, flow: &Tuple) {
        if let Some(taken) = self.taken.remove(flow)
            && let Some(peer) = self.peers.get_mut(taken.node)
        {
            peer.flows = peer.flows.saturating_sub(1);
        }
    }
}
