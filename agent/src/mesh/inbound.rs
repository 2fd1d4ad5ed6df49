//! Sessions in which this node receives: made by the responder, bound to the peer node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use waxseal_common::wire::{Session, SessionKey, Spi};

use super::error::HandshakeError;
use super::host::{Ended, TableError};
use super::inner::Inner;
use super::journal::Record;
use super::message::Reason;
use super::state::{Facts, Inbound, Party, State, lifetime};
use crate::pki::Peer;

/// Sessions that one peer node can have here.
const PER_NODE: usize = 16384;
/// How long a session that was replaced goes on being believed.
const OVERLAP: Duration = Duration::from_secs(30);

/// What a handshake has proved.
pub(super) struct Agreed {
    pub(super) source: Party,
    pub(super) destination: Option<Party>,
    pub(super) proofs: Vec<Arc<Peer>>,
    pub(super) node: Arc<Peer>,
    pub(super) nonce: u64,
    pub(super) agent: SocketAddr,
    pub(super) replaces: Option<Spi>,
}

/// What the initiator is told.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) spi: Spi,
    pub(super) epoch: u64,
    pub(super) seconds: u64,
}

impl Inner {
    /// Writes the session into the kernel under a name that nobody has.
    pub(super) fn install_inbound(
        &self,
        agreed: Agreed,
        key: impl Fn(Spi, u64) -> Result<SessionKey, HandshakeError>,
    ) -> Result<Installed, HandshakeError> {
        let lasts = lifetime(&agreed.proofs, SystemTime::now(), self.options.longest);
        if lasts.is_zero() {
            return Err(HandshakeError::NoSession);
        }
        let node = self.meet(agreed.node.id(), agreed.nonce, Some(agreed.agent))?;
        let now = self.table.now();
        let epoch = self.next_epoch();
        let mut state = self.state();
        if state.peers.get(node).is_none_or(|peer| peer.inbound >= PER_NODE) {
            return Err(HandshakeError::Busy);
        }
        let facts = Facts {
            node,
            local: agreed.destination,
            remote: Some(agreed.source),
            proofs: agreed.proofs,
            made: now,
            expires: now + lasts.as_nanos() as u64,
        };
        let spi = self.write_session(&mut state, &facts, |spi| key(spi, epoch))?;
        let replaced = self.replace(&mut state, agreed.replaces, &facts, spi);
        self.journal.append(&Record::inbound(spi, &facts, replaced));
        if let Some(peer) = state.peers.get_mut(node) {
            peer.inbound += 1;
        }
        self.node.learned(false, spi.0, agreed.node.id(), now);
        state.inbound.insert(spi, Inbound { facts, replaced_by: None, dead: false, past: false });
        Ok(Installed { spi, epoch, seconds: lasts.as_secs() })
    }

    fn write_session(
        &self,
        state: &mut State,
        facts: &Facts,
        key: impl Fn(Spi) -> Result<SessionKey, HandshakeError>,
    ) -> Result<Spi, HandshakeError> {
        let number = |party: &Option<Party>| party.as_ref().map(|party| party.identity).unwrap_or_default();
        loop {
            let spi = Spi(rand::random());
            if spi.0 == 0 || state.inbound.contains_key(&spi) {
                continue;
            }
            let session = Session {
                key: key(spi)?,
                expires: facts.expires,
                made: facts.made,
                source: number(&facts.remote),
                destination: number(&facts.local),
                node: facts.node,
                ..Session::default()
            };
            match self.table.install_session(spi, &session) {
                Err(TableError::Exists(_)) => {}
                other => return other.map(|()| spi).map_err(Into::into),
            }
        }
    }

    /// Lets the session before go, after a while. Only one of the same pair and node can be replaced.
    fn replace(&self, state: &mut State, old: Option<Spi>, new: &Facts, by: Spi) -> Option<Spi> {
        let old = old?;
        let before = state.inbound.get_mut(&old)?;
        let same = before.facts.node == new.node
            && before.facts.local == new.local
            && before.facts.remote == new.remote
            && before.replaced_by.is_none()
            && !before.dead;
        if !same {
            return None;
        }
        before.replaced_by = Some(by);
        let until = self.table.now() + OVERLAP.as_nanos() as u64;
        before.facts.expires = before.facts.expires.min(until);
        self.table.shorten_session(old, until);
        Some(old)
    }

    /// Removes sessions for good: they do not exist for anybody.
    pub(super) fn forget_inbound(&self, sessions: &[Spi]) {
        let mut state = self.state();
        for spi in sessions {
            self.table.remove_session(*spi);
            state.drop_inbound(*spi);
        }
        self.journal.append_gone(sessions, &[]);
    }

    /// A peer node does not seal with these any more. Only its own sessions.
    pub(super) fn withdrawn(&self, node: u32, sessions: &[u32]) -> Result<(), Reason> {
        let sessions: Vec<Spi> = sessions.iter().copied().map(Spi).collect();
        let state = self.state();
        let theirs = |spi: &Spi| state.inbound.get(spi).is_none_or(|session| session.facts.node == node);
        if !sessions.iter().all(theirs) {
            return Err(Reason::UnknownSession);
        }
        drop(state);
        self.end_inbound(&sessions);
        Ok(())
    }

    /// Ends sessions and, by them, their connections.
    pub(super) fn end_inbound(&self, sessions: &[Spi]) {
        if sessions.is_empty() {
            return;
        }
        let mut state = self.state();
        for spi in sessions {
            self.table.remove_session(*spi);
            if let Some(session) = state.inbound.get_mut(spi) {
                session.dead = true;
                session.past = true;
            }
        }
        let ended = state.ended_with(sessions);
        drop(state);
        self.end_flows(&[], sessions);
        self.journal.append_gone(sessions, &[]);
        self.node.end(Ended { accepted: ended, ..Ended::default() });
    }
}

impl State {
    /// Forgets a session that no connection names.
    pub(super) fn drop_inbound(&mut self, spi: Spi) {
        if let Some(session) = self.inbound.remove(&spi)
            && let Some(peer) = self.peers.get_mut(session.facts.node)
        {
            peer.inbound = peer.inbound.saturating_sub(1);
        }
    }

    /// The sessions whose line ends with one of these.
    fn ended_with(&self, sessions: &[Spi]) -> std::collections::BTreeSet<Spi> {
        let is_dead = |spi: &Spi| self.heir(*spi).is_none_or(|heir| heir.dead);
        let before = self.inbound.keys().filter(|spi| is_dead(spi)).copied();
        sessions.iter().copied().filter(is_dead).chain(before).collect()
    }
}
