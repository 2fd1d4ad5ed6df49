//! What happens by itself: renewals, ends, refreshes, and judging anew when belief changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{MissedTickBehavior, interval};
use waxseal_common::wire::{RouteKey, Spi};

use super::counters::Count;
use super::host::{Ended, Live};
use super::inner::Inner;
use super::message::{LinkMessage, MAX_SESSIONS};
use super::outbound::jitter;
use super::state::{Facts, Route, State};

/// How often things are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often connections are compared with sessions when some have ended.
const COMPARE: u64 = 4;
/// How often what is of the past is cleaned up.
const CLEAN: u64 = 30;
/// How often flows of UDP are refreshed.
const REFRESH: u64 = 5;
/// How long a failure is shown after it has ceased to count.
const SHOWN: Duration = Duration::from_mins(5);

impl Inner {
    /// Works for ever.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut clock = interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changed = self.trust.changed();
        let mut ticks: u64 = 0;
        loop {
            tokio::select! {
                _ = clock.tick() => {
                    ticks += 1;
                    self.tick(ticks).await;
                }
                ended = changed.changed() => {
                    if ended.is_err() {
                        return;
                    }
                    let inner = Arc::clone(&self);
                    let _judged = tokio::task::spawn_blocking(move || inner.judge_all()).await;
                }
            }
        }
    }

    async fn tick(self: &Arc<Self>, ticks: u64) {
        let expired = self.expire();
        let due = self.due();
        let past = self.state().has_past();
        // At first, and now and then, connections may name what nobody remembers.
        let anyway = ticks == 2 || ticks.is_multiple_of(CLEAN);
        if !due.is_empty() || expired || anyway || (past && ticks.is_multiple_of(COMPARE)) {
            let inner = Arc::clone(self);
            let live = tokio::task::spawn_blocking(move || inner.table.live()).await.unwrap_or_default();
            self.end_unproved(&live);
            self.renew(due, &live);
            if ticks.is_multiple_of(COMPARE) {
                self.state().forget_past(&live);
            }
        }
        if ticks.is_multiple_of(REFRESH) {
            self.refresh_flows();
        }
        if ticks.is_multiple_of(CLEAN) {
            self.clean();
        }
        self.end_probes();
        self.keep_links();
    }

    /// Takes out of the kernel what has expired. Says whether there was any.
    fn expire(&self) -> bool {
        let now = self.table.now();
        let mut state = self.state();
        let sessions: Vec<Spi> = state
            .inbound
            .iter()
            .filter(|(_, session)| !session.past && session.facts.expires <= now)
            .map(|(spi, _)| *spi)
            .collect();
        for spi in &sessions {
            self.table.remove_session(*spi);
            if let Some(session) = state.inbound.get_mut(spi) {
                session.past = true;
            }
        }
        let lines: Vec<u32> = state
            .outbound
            .iter()
            .filter(|(_, line)| !line.past && line.facts.expires <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in &lines {
            self.drop_route(&mut state, *number);
        }
        drop(state);
        self.end_flows(&lines, &sessions);
        !sessions.is_empty() || !lines.is_empty()
    }

    /// The lines whose renewal is due.
    fn due(&self) -> Vec<u32> {
        let now = self.table.now();
        let state = self.state();
        let due = state.outbound.iter().filter(|(_, line)| {
            line.renew_at <= now && !line.renewing && !line.past && !line.dead && line.facts.expires > now
        });
        due.map(|(number, _)| *number).collect()
    }

    /// Renews what is used; what is not is looked at again until it expires.
    fn renew(self: &Arc<Self>, due: Vec<u32>, live: &Live) {
        let now = self.table.now();
        for number in due {
            let mut state = self.state();
            let announces = state.sent.values().any(|sent| sent.session == number);
            let Some(line) = state.outbound.get_mut(&number) else { continue };
            let opened = self.table.route(&line.key).is_some_and(|route| route.opened > 0);
            let used = opened || announces || live.opened.contains_key(&number);
            let left = Duration::from_nanos(line.facts.expires.saturating_sub(now));
            let again = (left / 4).clamp(Duration::from_secs(1), Duration::from_secs(30));
            line.renew_at = now + jitter(again, 0.2).as_nanos() as u64;
            line.renewing = used;
            let (key, spi) = (line.key, line.spi);
            drop(state);
            if used {
                let inner = Arc::clone(self);
                tokio::spawn(async move { inner.renew_one(number, key, spi).await });
            }
        }
    }

    async fn renew_one(self: Arc<Self>, number: u32, key: RouteKey, spi: Spi) {
        let renewed = match self.node.workload(key.source) {
            None => None,
            Some(local) => Some(self.attempt(&key, local, Some(spi)).await),
        };
        if let Some(line) = self.state().outbound.get_mut(&number) {
            line.renewing = false;
        }
        match renewed {
            Some(Ok(_)) => self.counters.add(Count::Renewed),
            Some(Err(error)) => {
                self.counters.add(Count::Failed);
                tracing::debug!(%error, destination = %key.destination, "a session is not renewed");
            }
            None => {}
        }
    }

    /// Ends connections whose sessions nobody vouches for any more.
    fn end_unproved(&self, live: &Live) {
        let now = self.table.now();
        let state = self.state();
        let lives = |facts: &Facts, dead: bool| !dead && facts.expires > now;
        let opened = live.opened.keys().filter(|number| {
            let line = state.outbound.get(number);
            line.is_none_or(|line| !lives(&line.facts, line.dead))
        });
        let accepted = live.accepted.keys().filter(|spi| {
            let heir = state.heir(**spi);
            heir.is_none_or(|heir| !lives(&heir.facts, heir.dead))
        });
        let ended = Ended { opened: opened.copied().collect(), accepted: accepted.copied().collect() };
        drop(state);
        if !ended.is_empty() {
            self.node.end(ended);
        }
    }

    /// Removes failures that nobody asks for any more, and shortens the record.
    fn clean(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let old: Vec<RouteKey> = state
            .routes
            .iter()
            .filter(|(_, route)| matches!(route, Route::Failed(failed) if failed.until + SHOWN < now))
            .map(|(key, _)| *key)
            .collect();
        for key in old {
            state.routes.remove(&key);
            self.table.remove_route(&key);
        }
        if self.journal.is_long() {
            self.journal.rewrite(&state.peers, state.records());
        }
    }

    /// Every peer that this node has a session with has a link.
    fn keep_links(self: &Arc<Self>) {
        let nodes: HashSet<u32> = {
            let state = self.state();
            let now = self.table.now();
            let old = now.saturating_sub(Duration::from_secs(3).as_nanos() as u64);
            let lines = state.outbound.values().filter(|line| !line.past).map(|line| line.facts.node);
            // The sender opens it, as a rule: it knows for sure where the other agent is.
            let sessions = state.inbound.values().filter(|session| !session.past && session.facts.made < old);
            lines.chain(sessions.map(|session| session.facts.node)).collect()
        };
        for node in nodes {
            self.want_link(node);
        }
    }

    /// Judges every session and link again, and ends at once what is not believed any more.
    pub(super) fn judge_all(&self) {
        let bundles = self.trust.load();
        let now = SystemTime::now();
        let all: Vec<(Option<u32>, Option<Spi>, Facts)> = {
            let state = self.state();
            let lines = state.outbound.iter().map(|(n, line)| (Some(*n), None, line.facts.clone()));
            let sessions = state.inbound.iter().map(|(spi, s)| (None, Some(*spi), s.facts.clone()));
            lines.chain(sessions).collect()
        };
        // Many sessions, few certificates.
        let mut known: HashMap<Vec<u8>, bool> = HashMap::new();
        let mut believed = |proof: &Arc<crate::pki::Peer>| {
            let leaf = proof.chain().first().map(|leaf| leaf.to_vec()).unwrap_or_default();
            *known.entry(leaf).or_insert_with(|| match proof.still_valid(&bundles, now) {
                Ok(()) => true,
                Err(refusal) => {
                    tracing::info!(id = %proof.id(), %refusal, "no longer believed");
                    false
                }
            })
        };
        let bad: Vec<_> =
            all.into_iter().filter(|(_, _, facts)| !facts.proofs.iter().all(&mut believed)).collect();
        let lines: Vec<u32> = bad.iter().filter_map(|(number, _, _)| *number).collect();
        let sessions: Vec<Spi> = bad.iter().filter_map(|(_, spi, _)| *spi).collect();
        for _ in &bad {
            self.counters.add(Count::Revoked);
        }
        self.tell_ended(&lines, &sessions);
        self.end_outbound(&lines);
        self.end_inbound(&sessions);
        for link in self.links.all() {
            if !believed(&link.peer) {
                link.close();
            }
        }
    }

    /// Tells the peers, so that they need not find out.
    fn tell_ended(&self, lines: &[u32], sessions: &[Spi]) {
        let state = self.state();
        let mut withdrawn: HashMap<u32, Vec<u32>> = HashMap::new();
        for line in lines.iter().filter_map(|number| state.outbound.get(number)) {
            withdrawn.entry(line.facts.node).or_default().push(line.spi.0);
        }
        let mut ended: HashMap<u32, Vec<u32>> = HashMap::new();
        for spi in sessions {
            if let Some(session) = state.inbound.get(spi) {
                ended.entry(session.facts.node).or_default().push(spi.0);
            }
        }
        drop(state);
        let say = |node: u32, message: LinkMessage| {
            if let Some(link) = self.links.with(node) {
                link.say(message);
            }
        };
        for (node, sessions) in withdrawn {
            for some in sessions.chunks(MAX_SESSIONS) {
                say(node, LinkMessage::Withdraw { sessions: some.to_vec() });
            }
        }
        for (node, sessions) in ended {
            for some in sessions.chunks(MAX_SESSIONS) {
                say(node, LinkMessage::Ended { sessions: some.to_vec() });
            }
        }
    }
}

impl State {
    fn has_past(&self) -> bool {
        self.inbound.values().any(|session| session.past) || self.outbound.values().any(|line| line.past)
    }

    /// Forgets what is of the past and named by no connection, nor by a session that one names.
    fn forget_past(&mut self, live: &Live) {
        let mut needed: HashSet<Spi> = HashSet::new();
        for spi in live.accepted.keys() {
            let mut next = Some(*spi);
            while let Some(spi) = next.filter(|spi| needed.insert(*spi)) {
                next = self.inbound.get(&spi).and_then(|session| session.replaced_by);
            }
        }
        let gone: Vec<Spi> = self
            .inbound
            .iter()
            .filter(|(spi, session)| session.past && !needed.contains(spi))
            .map(|(spi, _)| *spi)
            .collect();
        for spi in gone {
            self.drop_inbound(spi);
        }
        self.outbound.retain(|number, line| !line.past || live.opened.contains_key(number));
    }
}
