//! What the mesh remembers: peers, sessions in both directions, and what waits. One lock, held for look-ups only.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::state::Tuple;
use waxseal_common::wire::{Failure, RouteKey, Spi};

use super::host::{Local, Packet};
use super::peers::Peers;
use crate::pki::Peer;
use crate::spiffe::SpiffeId;

/// One end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Party {
    /// Who.
    pub(super) id: SpiffeId,
    /// This node's number for it.
    #[serde(with = "number")]
    pub(super) identity: IdentityId,
}

impl From<&Local> for Party {
    fn from(local: &Local) -> Self {
        Self { id: local.id.clone(), identity: local.identity }
    }
}

/// Identity numbers in JSON.
pub(super) mod number {
    use serde::{Deserialize, Deserializer, Serializer};
    use waxseal_common::ids::IdentityId;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(in crate::mesh) fn serialize<S: Serializer>(
        id: &IdentityId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(id.0)
    }

    pub(in crate::mesh) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<IdentityId, D::Error> {
        u32::deserialize(deserializer).map(IdentityId)
    }
}

/// What a handshake has proved. Never changes.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// This node's number for the peer node.
    pub(super) node: u32,
    /// The end on this node; `None` where only the node answered.
    pub(super) local: Option<Party>,
    /// The end on the other node; `None` where only the node answered.
    pub(super) remote: Option<Party>,
    /// All that must stay valid.
    pub(super) proofs: Vec<Arc<Peer>>,
    /// Monotonic nanoseconds.
    pub(super) made: u64,
    /// Monotonic nanoseconds.
    pub(super) expires: u64,
}

/// For how long proofs count from now on, in whole seconds and at most `longest`.
pub(super) fn lifetime(proofs: &[Arc<Peer>], now: SystemTime, longest: Duration) -> Duration {
    let ends = proofs.iter().map(|proof| proof.not_after().duration_since(now).unwrap_or_default());
    Duration::from_secs(ends.min().unwrap_or_default().min(longest).as_secs())
}

/// A session in which this node receives.
#[derive(Clone, Debug)]
pub(super) struct Inbound {
    pub(super) facts: Facts,
    /// The session that goes on for the same pair.
    pub(super) replaced_by: Option<Spi>,
    /// Its connections are to end: a certificate is no longer believed, or the peer has lost it.
    pub(super) dead: bool,
    /// It is no longer in the kernel; kept because connections name it.
    pub(super) past: bool,
}

/// A line of sessions in which this node sends: renewals keep its number.
#[derive(Clone, Debug)]
pub(super) struct Outbound {
    pub(super) facts: Facts,
    pub(super) key: RouteKey,
    pub(super) spi: Spi,
    /// Where the peer's agent answered.
    pub(super) agent: SocketAddr,
    /// Monotonic nanoseconds.
    pub(super) renew_at: u64,
    pub(super) renewing: bool,
    /// See [`Inbound::dead`].
    pub(super) dead: bool,
    /// The route names another line by now; kept because connections name this one.
    pub(super) past: bool,
}

/// A packet that waits.
pub(super) struct Waiting {
    pub(super) packet: Packet,
    pub(super) flow: Tuple,
    pub(super) since: Instant,
}

/// What is known of a destination.
pub(super) enum Route {
    /// A handshake is in flight.
    Pending(Vec<Waiting>),
    /// There is a session: its line's number.
    Ready(u32),
    /// There is none.
    Failed(Failed),
}

/// Why not, and until when that counts.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// For people; escaped.
    pub(super) detail: String,
    pub(super) since: Instant,
    pub(super) until: Instant,
}

/// Everything.
#[derive(Default)]
pub(super) struct State {
    pub(super) peers: Peers,
    pub(super) routes: HashMap<RouteKey, Route>,
    pub(super) outbound: HashMap<u32, Outbound>,
    pub(super) inbound: HashMap<Spi, Inbound>,
    pub(super) queue: Queue,
    /// Handshakes in flight.
    pub(super) pending: usize,
    /// Datagrams whose flow is being announced.
    pub(super) announcing: HashMap<Tuple, Vec<Waiting>>,
    /// Flows that this node has announced.
    pub(super) sent: HashMap<Tuple, super::announce::Sent>,
    /// Flows that peers have announced.
    pub(super) taken: HashMap<Tuple, super::announce::Taken>,
    /// One-time sessions of peers that try the path, and until when.
    pub(super) probes: HashMap<Spi, u64>,
    last_session: u32,
}

impl State {
    /// A number for a line of sessions that no other line has.
    pub(super) fn next_session(&mut self) -> u32 {
        loop {
            self.last_session = self.last_session.wrapping_add(1);
            if self.last_session != 0 && !self.outbound.contains_key(&self.last_session) {
                return self.last_session;
            }
        }
    }

    /// Numbers below are taken.
    pub(super) fn begin_after(&mut self, session: u32) {
        self.last_session = self.last_session.max(session);
    }

    /// The session that goes on for the pair of this one, following renewals.
    pub(super) fn heir(&self, spi: Spi) -> Option<&Inbound> {
        let mut found = self.inbound.get(&spi)?;
        // A line of renewals has no rings, but a bound costs nothing.
        for _ in 0..self.inbound.len() {
            match found.replaced_by.and_then(|next| self.inbound.get(&next)) {
                Some(next) => found = next,
                None => break,
            }
        }
        Some(found)
    }
}

/// How many packets wait, for whom.
#[derive(Debug, Default)]
pub(super) struct Queue {
    all: usize,
    by_peer: HashMap<Address, usize>,
}

impl Queue {
    /// Packets that may wait for one address.
    pub(super) const PER_PEER: usize = 256;
    /// Packets that may wait.
    pub(super) const ALL: usize = 4096;

    /// Takes a place; `false` when there is none.
    pub(super) fn enter(&mut self, peer: Address) -> bool {
        let own = self.by_peer.get(&peer).copied().unwrap_or(0);
        if self.all >= Self::ALL || own >= Self::PER_PEER {
            return false;
        }
        self.all += 1;
        self.by_peer.insert(peer, own + 1);
        true
    }

    /// Gives places back.
    pub(super) fn leave(&mut self, peer: Address, count: usize) {
        self.all = self.all.saturating_sub(count);
        if let Some(own) = self.by_peer.get_mut(&peer) {
            *own = own.saturating_sub(count);
            if *own == 0 {
                self.by_peer.remove(&peer);
            }
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_for_each_and_for_all() {
        let mut queue = Queue::default();
        let peer = |last: u8| Address::from_v4([10, 0, 0, last]);
        let entered = (0..300).filter(|_| queue.enter(peer(1))).count();
        assert_eq!(entered, Queue::PER_PEER);
        assert!(queue.enter(peer(2)), "another peer has its own places");
        queue.leave(peer(1), 1);
        assert!(queue.enter(peer(1)));
        for last in 3..=255 {
            while queue.enter(peer(last)) {}
        }
        assert_eq!(queue.len(), Queue::ALL);
        assert!(!queue.enter(peer(2)));
    }

    #[test]
    fn a_session_number_is_never_zero_and_never_given_twice() {
        let mut state = State::default();
        state.begin_after(u32::MAX - 1);
        assert_eq!(state.next_session(), u32::MAX);
        assert_eq!(state.next_session(), 1);
    }
}
