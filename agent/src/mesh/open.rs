//! From what the kernel asks to a session: one handshake for each destination, however many packets wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, timeout};
use waxseal_common::ids::protocol;
use waxseal_common::wire::{Announced, Asks, RouteKey, Spi};

use super::Target;
use super::counters::Count;
use super::error::HandshakeError;
use super::host::{Ask, Local};
use super::initiate::Initiator;
use super::inner::Inner;
use super::outbound::Opened;
use super::state::{Failed, Route, State, Waiting};

/// How long an initiator tries.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits for its turn, when many ask for the same agent.
const QUEUE: Duration = Duration::from_secs(10);
/// How long a packet waits. TCP sends its SYN again by itself after a second.
const HOLD: Duration = Duration::from_secs(1);
/// How often packets that have waited too long are looked for.
const PRUNE: Duration = Duration::from_millis(250);
/// Handshakes in flight for one workload.
const PER_WORKLOAD: usize = 512;
/// Handshakes in flight.
const IN_FLIGHT: usize = 2048;
/// Destinations that one workload may have here: a scan must not fill the table for others.
const DESTINATIONS: usize = 16384;

/// What to do with an ask, once the lock is gone.
enum Next {
    Nothing,
    Release(Waiting),
    Strangers(Vec<Waiting>, Instant),
    Announce(Waiting, u32),
    Open(Local, Option<(u32, Spi)>),
}

impl Inner {
    /// Does what a kernel program asks for.
    pub(super) fn ask(self: &Arc<Self>, ask: Ask) {
        match ask.asks {
            Asks::Intent | Asks::Hold | Asks::Renew => self.want(ask),
            Asks::UnknownSession => self.tell_unknown(ask.spi, ask.route.destination),
            Asks::Uncovered => {}
        }
    }

    fn want(self: &Arc<Self>, ask: Ask) {
        let Ask { asks, route: key, flow, packet, .. } = ask;
        let waiting = packet.map(|packet| Waiting { packet, flow, since: Instant::now() });
        let next = self.judge(&mut self.state(), &key, asks, waiting);
        match next {
            Next::Nothing => {}
            Next::Release(waiting) => self.release(waiting),
            Next::Strangers(waiting, until) => self.release_strangers(&key, waiting, until),
            Next::Announce(waiting, session) => self.announce(key, waiting, session),
            Next::Open(local, replaces) => {
                let inner = Arc::clone(self);
                tokio::spawn(async move { inner.open(key, local, replaces).await });
            }
        }
    }

    /// What is known of the destination decides. Begins a handshake by making the route pending.
    fn judge(&self, state: &mut State, key: &RouteKey, asks: Asks, waiting: Option<Waiting>) -> Next {
        match state.routes.get(key) {
            Some(Route::Pending(_)) => {
                self.hold(state, key, waiting);
                return Next::Nothing;
            }
            Some(Route::Ready(number)) => {
                let number = *number;
                let written = self.table.route(key).filter(|route| route.expires > self.table.now());
                let line = state.outbound.get(&number);
                if written.is_some_and(|route| line.is_some_and(|line| line.spi == route.spi)) {
                    return match waiting {
                        Some(waiting) if key.protocol == protocol::UDP => Next::Announce(waiting, number),
                        Some(waiting) => Next::Release(waiting),
                        None => Next::Nothing,
                    };
                }
                // The kernel does not have it, or no longer.
            }
            Some(Route::Failed(failed)) if failed.until > Instant::now() => {
                let until = failed.until;
                if asks == Asks::Renew || self.table.route(key).is_some() {
                    return Next::Strangers(waiting.into_iter().collect(), until);
                }
            }
            Some(Route::Failed(_)) | None => {}
        }
        self.begin(state, key, waiting)
    }

    fn begin(&self, state: &mut State, key: &RouteKey, waiting: Option<Waiting>) -> Next {
        let Some(local) = self.node.workload(key.source) else {
            // It has ended meanwhile, or is on its way.
            return Next::Nothing;
        };
        let now = Instant::now();
        let own = state.routes.iter().filter(|(other, _)| other.source == key.source);
        let (mut pending, mut count) = (0, 0);
        for (_, route) in own {
            count += 1;
            pending += usize::from(matches!(route, Route::Pending(_)));
        }
        let in_flight = state.pending;
        let allowed = pending < PER_WORKLOAD
            && in_flight < IN_FLIGHT
            && (count < DESTINATIONS || self.forget_failures(state, key.source))
            && self.limits().workloads.take(key.source, now);
        if !allowed {
            return self.too_many(state, key, waiting);
        }
        let replaces = state
            .last_line(key)
            .and_then(|number| state.outbound.get(&number).map(|line| (number, line.spi)));
        state.routes.insert(*key, Route::Pending(Vec::new()));
        state.pending += 1;
        self.counters.add(Count::Begun);
        self.hold(state, key, waiting);
        Next::Open(local, replaces)
    }

    /// Makes room among a workload's destinations: failures are only remembered to save work.
    fn forget_failures(&self, state: &mut State, source: waxseal_common::ids::IdentityId) -> bool {
        let now = Instant::now();
        let old: Vec<RouteKey> = state
            .routes
            .iter()
            .filter(|(key, route)| {
                key.source == source && matches!(route, Route::Failed(failed) if failed.until <= now)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in &old {
            state.routes.remove(key);
            self.table.remove_route(key);
        }
        !old.is_empty()
    }

    fn too_many(&self, state: &mut State, key: &RouteKey, waiting: Option<Waiting>) -> Next {
        self.counters.add(Count::Failed);
        self.begun.note::<()>(&Err(HandshakeError::Busy), Duration::ZERO);
        if state.routes.len() >= DESTINATIONS * 3 {
            return Next::Nothing;
        }
        let failed = self.install_failure(&state.peers, *key, &HandshakeError::Busy);
        let until = failed.until;
        state.routes.insert(*key, Route::Failed(failed));
        Next::Strangers(waiting.into_iter().collect(), until)
    }

    /// Keeps a packet until the handshake ends.
    fn hold(&self, state: &mut State, key: &RouteKey, waiting: Option<Waiting>) {
        let Some(waiting) = waiting else { return };
        if !state.queue.enter(key.destination) {
            self.counters.add(Count::HeldNoRoom);
            return;
        }
        if let Some(Route::Pending(held)) = state.routes.get_mut(key) {
            held.push(waiting);
        }
    }

    /// Runs one handshake to its end, whatever it is.
    async fn open(self: Arc<Self>, key: RouteKey, local: Local, replaces: Option<(u32, Spi)>) {
        let attempt = self.attempt(&key, local, replaces.map(|(_, spi)| spi));
        tokio::pin!(attempt);
        let mut clock = interval(PRUNE);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                ended = &mut attempt => break ended,
                _ = clock.tick() => self.prune(&key),
            }
        };
        self.finish(&key, ended);
    }

    /// One handshake in its turn, within its time. Installs the session.
    pub(super) async fn attempt(
        &self,
        key: &RouteKey,
        local: Local,
        replaces: Option<Spi>,
    ) -> Result<u32, HandshakeError> {
        let began = Instant::now();
        let ended = self.attempt_in_turn(key, local, replaces).await;
        self.begun.note(&ended, began.elapsed());
        ended
    }

    async fn attempt_in_turn(
        &self,
        key: &RouteKey,
        local: Local,
        replaces: Option<Spi>,
    ) -> Result<u32, HandshakeError> {
        let turn = timeout(QUEUE, self.lane(self.agent_for(key.destination))).await;
        let _place = turn.map_err(|_elapsed| HandshakeError::Busy)?;
        let made = timeout(PATIENCE, self.make(key, local, replaces)).await;
        made.unwrap_or(Err(HandshakeError::Late))
    }

    /// The handshake and what it needs.
    async fn make(&self, key: &RouteKey, local: Local, replaces: Option<Spi>) -> Result<u32, HandshakeError> {
        let svid = self.svid_of(&local.id).await?;
        let node = self.certificates.node().ok_or(HandshakeError::NoNodeCertificate)?;
        let agent = self.agent_for(key.destination);
        let target = Target { address: key.destination, port: key.port, protocol: key.protocol };
        let initiator = || Initiator {
            trust: &self.trust,
            svid: &svid,
            node: &node,
            target,
            agent,
            labels: local.labels.clone(),
            replaces,
            nonce: self.nonce,
            port: self.options.port,
        };
        let agreement = match initiator().run().await {
            // It may have been pushed from the door by a flood of others.
            Err(HandshakeError::HungUp(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                initiator().run().await?
            }
            other => other?,
        };
        let identity = if agreement.destination.is_node() {
            None
        } else {
            let peer = Arc::clone(&agreement.destination);
            Some(self.node.admit(peer, agreement.labels.clone()).await?)
        };
        self.install_outbound(*key, Opened { local, svid, node, agent, agreement, identity })
    }

    fn finish(self: &Arc<Self>, key: &RouteKey, ended: Result<u32, HandshakeError>) {
        let mut state = self.state();
        state.pending = state.pending.saturating_sub(1);
        let next = match &ended {
            Ok(session) => Route::Ready(*session),
            Err(error) => Route::Failed(self.install_failure(&state.peers, *key, error)),
        };
        let until = if let Route::Failed(Failed { until, .. }) = &next { Some(*until) } else { None };
        let held = match state.routes.insert(*key, next) {
            Some(Route::Pending(held)) => held,
            _ => Vec::new(),
        };
        state.queue.leave(key.destination, held.len());
        drop(state);
        match (ended, until) {
            (Ok(session), _) => {
                self.counters.add(Count::Opened);
                for waiting in held {
                    if key.protocol == protocol::UDP {
                        self.announce(*key, waiting, session);
                    } else {
                        self.release(waiting);
                    }
                }
                self.want_link_for(session);
            }
            (Err(error), until) => {
                self.counters.add(Count::Failed);
                tracing::debug!(%error, destination = %key.destination, port = key.port, "no session");
                self.release_strangers(key, held, until.unwrap_or_else(Instant::now));
            }
        }
    }

    fn prune(&self, key: &RouteKey) {
        let mut state = self.state();
        let Some(Route::Pending(held)) = state.routes.get_mut(key) else { return };
        let before = held.len();
        held.retain(|waiting| waiting.since.elapsed() < HOLD);
        let dropped = before - held.len();
        state.queue.leave(key.destination, dropped);
        for _ in 0..dropped {
            self.counters.add(Count::HeldTooLong);
        }
    }

    /// Sends a packet on.
    pub(super) fn release(&self, waiting: Waiting) {
        if waiting.since.elapsed() >= HOLD {
            return self.counters.add(Count::HeldTooLong);
        }
        match (waiting.packet)() {
            Ok(()) => self.counters.add(Count::Released),
            Err(error) => {
                self.counters.add(Count::ReleaseFailed);
                tracing::debug!(%error, "a packet that waited cannot be sent on");
            }
        }
    }

    /// Sends packets on for which there is no session: the kernel judges them as a stranger's.
    pub(super) fn release_strangers(&self, key: &RouteKey, held: Vec<Waiting>, until: Instant) {
        for waiting in held {
            if key.protocol == protocol::UDP {
                let lasts = until.saturating_duration_since(Instant::now());
                let until = self.table.now() + lasts.as_nanos() as u64;
                let strange = Announced { until, session: 0, pad: 0 };
                if let Err(error) = self.table.announce(&waiting.flow, &strange) {
                    tracing::debug!(%error, "a datagram cannot be let out");
                }
            }
            self.release(waiting);
        }
    }
}
