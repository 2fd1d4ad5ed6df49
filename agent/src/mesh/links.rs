//! The links of this node: one for each peer that it has sessions with, opened again when it breaks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;
use waxseal_common::address::Address;
use waxseal_common::wire::Spi;

use super::HANDSHAKE;
use super::counters::Count;
use super::error::HandshakeError;
use super::initiate::connect;
use super::inner::Inner;
use super::link::Link;
use super::message::{LINK, LinkMessage, MAX_SESSIONS};
use super::outbound::jitter;
use super::target::link_name;
use crate::pki::{Role, Svid, client_config, peer_of};

/// How long before a certificate's end its link is made anew.
const FRESH: Duration = Duration::from_secs(90);
/// How long one waits after the first failure; doubled with each further one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(15);

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    slots: Mutex<HashMap<u32, Slot>>,
    changed: watch::Sender<u64>,
}

/// What this node has with one peer.
#[derive(Debug, Default)]
struct Slot {
    link: Option<Arc<Link>>,
    opening: bool,
    failures: u32,
    retry: Option<Instant>,
    /// Why the last attempt failed; escaped.
    failure: Option<String>,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new link in, unless the one that is there is the one to keep. Both ends decide alike: of two that were
    /// opened at once stays the one whose opener has the smaller name.
    pub(super) fn enter(&self, link: &Arc<Link>, own: Option<&Svid>) -> bool {
        let mut slots = self.lock();
        let slot = slots.entry(link.node).or_default();
        let live = slot.link.as_ref().filter(|old| !old.is_closed() && old.nonce == link.nonce);
        if let Some(old) = live
            && old.ours != link.ours
        {
            let ours = own.is_some_and(|own| own.id() < link.peer.id());
            if link.ours != ours {
                return false;
            }
        }
        if let Some(old) = slot.link.replace(Arc::clone(link)) {
            old.close();
        }
        slot.opening &= !link.ours;
        slot.failures = 0;
        slot.failure = None;
        drop(slots);
        self.changed.send_modify(|count| *count += 1);
        true
    }

    pub(super) fn leave(&self, link: &Arc<Link>) {
        if let Some(slot) = self.lock().get_mut(&link.node)
            && slot.link.as_ref().is_some_and(|there| Arc::ptr_eq(there, link))
        {
            slot.link = None;
        }
    }

    /// The link with a node.
    pub(super) fn with(&self, node: u32) -> Option<Arc<Link>> {
        self.lock().get(&node)?.link.clone().filter(|link| !link.is_closed())
    }

    /// Every link that stands.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.lock().values().filter_map(|slot| slot.link.clone()).collect()
    }

    /// Why there is no link with a node.
    pub(super) fn failure(&self, node: u32) -> Option<String> {
        self.lock().get(&node)?.failure.clone()
    }

    fn at(&self, address: IpAddr) -> Option<Arc<Link>> {
        self.all().into_iter().find(|link| link.remote.ip().to_canonical() == address)
    }

    /// Whether somebody should open one now; who asks then does.
    fn begin(&self, node: u32) -> bool {
        let mut slots = self.lock();
        let slot = slots.entry(node).or_default();
        let stale = |link: &Arc<Link>| {
            let left = link.peer.not_after().duration_since(SystemTime::now()).unwrap_or_default();
            link.is_closed() || (link.ours && left < FRESH && link.since.elapsed() > FRESH)
        };
        let missing = slot.link.as_ref().is_none_or(stale);
        let due = slot.retry.is_none_or(|retry| retry <= Instant::now());
        let begin = missing && due && !slot.opening;
        slot.opening |= begin;
        begin
    }

    fn opened(&self, node: u32, failure: Option<String>) {
        if let Some(slot) = self.lock().get_mut(&node) {
            slot.opening = false;
            let waits = RETRY.saturating_mul(1 << slot.failures.min(5)).min(RETRY_MOST);
            slot.retry = Some(Instant::now() + jitter(waits, 0.2));
            if failure.is_some() {
                slot.failures += 1;
                slot.failure = failure;
            }
        }
    }
}

impl Inner {
    /// Sees to it that there is a link with the node of a session.
    pub(super) fn want_link_for(self: &Arc<Self>, session: u32) {
        let node = self.state().outbound.get(&session).map(|line| line.facts.node);
        if let Some(node) = node {
            self.want_link(node);
        }
    }

    /// Opens a link with a node when there is none and it is known where its agent answers.
    pub(super) fn want_link(self: &Arc<Self>, node: u32) {
        let Some(agent) = self.state().peers.get(node).and_then(|peer| peer.agent) else { return };
        if self.links.begin(node) {
            let inner = Arc::clone(self);
            tokio::spawn(async move {
                let ended = inner.open_link(agent).await;
                let failure = ended.err().map(|error| crate::escape::escape(&error.to_string()).into_owned());
                if let Some(failure) = &failure {
                    inner.counters.add(Count::LinksFailed);
                    tracing::debug!(%agent, failure, "a link ended");
                }
                inner.links.opened(node, failure);
            });
        }
    }

    /// Opens a link and runs it until it ends.
    async fn open_link(self: &Arc<Self>, agent: SocketAddr) -> Result<(), HandshakeError> {
        let node = self.certificates.node().ok_or(HandshakeError::NoNodeCertificate)?;
        let name = link_name().ok_or(HandshakeError::NoName)?;
        let tls = client_config(&self.trust, &node, LINK);
        let opened = timeout(HANDSHAKE, connect(agent, tls, name, LINK)).await;
        let stream = opened.map_err(|_elapsed| HandshakeError::Late)??;
        let peer = peer_of(stream.get_ref().1, &self.trust.load(), Role::Server, SystemTime::now())?;
        self.counters.add(Count::LinksMade);
        self.run_link(stream, peer, agent, true).await
    }

    /// A link with the agent at that address, opened if need be.
    pub(super) async fn link_to(self: &Arc<Self>, agent: SocketAddr) -> Result<Arc<Link>, HandshakeError> {
        let mut changed = self.links.changed.subscribe();
        let inner = Arc::clone(self);
        let mut opening = tokio::spawn(async move { inner.open_link(agent).await });
        let found = async {
            loop {
                changed.borrow_and_update();
                if let Some(link) = self.links.at(agent.ip().to_canonical()) {
                    return Ok(link);
                }
                tokio::select! {
                    ended = &mut opening => return match ended {
                        Ok(Err(error)) => Err(error),
                        _ => self.links.at(agent.ip().to_canonical()).ok_or(HandshakeError::Late),
                    },
                    changed = changed.changed() => changed.map_err(|_closed| HandshakeError::Late)?,
                }
            }
        };
        timeout(HANDSHAKE, found).await.unwrap_or(Err(HandshakeError::Late))
    }

    /// A link with a node, waited for.
    pub(super) async fn link(self: &Arc<Self>, node: u32, within: Duration) -> Option<Arc<Link>> {
        let mut changed = self.links.changed.subscribe();
        let found = async {
            loop {
                changed.borrow_and_update();
                if let Some(link) = self.links.with(node) {
                    return Some(link);
                }
                self.want_link(node);
                changed.changed().await.ok()?;
            }
        };
        timeout(within, found).await.ok().flatten()
    }

    /// Somebody at that address seals with a session of ours that does not exist: tells the node there.
    pub(super) fn tell_unknown(self: &Arc<Self>, spi: Spi, address: Address) {
        let ip = IpAddr::from(address).to_canonical();
        let known = self.links.at(ip).map(|link| link.node);
        let node = known.or_else(|| self.state().peers.at(ip));
        if let Some(link) = node.and_then(|node| self.links.with(node)) {
            return link.say(LinkMessage::UnknownSession { spi: spi.0 });
        }
        // A link will do: what the other side learns first is that our memory is another.
        if !self.limits().hints.take(address, Instant::now()) {
            return;
        }
        let (inner, agent) = (Arc::clone(self), self.agent_for(address));
        tokio::spawn(async move {
            match node {
                Some(node) => inner.want_link(node),
                None => {
                    if let Err(error) = inner.open_link(agent).await {
                        tracing::debug!(%error, %agent, "no agent to tell of an unknown session");
                    }
                }
            }
        });
    }

    /// A connection under a session came to a listener that its sender did not mean.
    pub(super) fn tell_wrong(&self, spi: Spi) {
        let node = self.state().inbound.get(&spi).map(|session| session.facts.node);
        if let Some(link) = node.and_then(|node| self.links.with(node)) {
            link.say(LinkMessage::WrongDestination { spi: spi.0 });
        }
    }

    /// What a peer says on its link. It is believed only about what is its own.
    pub(super) fn heard(self: &Arc<Self>, link: &Arc<Link>, message: LinkMessage) {
        let node = link.node;
        match message {
            LinkMessage::Ping { number } => link.say(LinkMessage::Pong { number }),
            LinkMessage::Pong { .. } | LinkMessage::Unknown => {}
            LinkMessage::UnknownSession { spi } | LinkMessage::WrongDestination { spi } => {
                let taken = self.forget_routes(node, &[spi]);
                self.counters.add(if taken { Count::Hints } else { Count::HintsRefused });
            }
            LinkMessage::Ended { sessions } => {
                let lines = self.state().lines_of(node, bounded(&sessions));
                self.counters.add(if lines.is_empty() { Count::HintsRefused } else { Count::Hints });
                self.end_outbound(&lines);
            }
            LinkMessage::Withdraw { sessions } => {
                let taken = self.withdrawn(node, bounded(&sessions)).is_ok();
                self.counters.add(if taken { Count::Hints } else { Count::HintsRefused });
            }
            LinkMessage::Announce { number, spi, flow } => {
                let answer = self.take_flow(node, Spi(spi), flow.into());
                link.say(answer.message(number));
            }
            LinkMessage::Probe { number, spi, key } => link.say(self.probe_begins(number, Spi(spi), key)),
            LinkMessage::ProbeEnd { number, spi } => link.say(self.probe_ends(number, Spi(spi))),
            LinkMessage::Announced { number, .. }
            | LinkMessage::Probing { number, .. }
            | LinkMessage::Probed { number, .. } => link.answered(number, message),
        }
    }
}

fn bounded(sessions: &[u32]) -> &[u32] {
    &sessions[..sessions.len().min(MAX_SESSIONS)]
}
