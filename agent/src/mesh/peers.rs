//! The other nodes: a number for each, where its agent answers, and whether it still has its sessions.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::spiffe::SpiffeId;

/// Nodes that can have a number.
pub(super) const NODES: usize = 16384;

/// One other node.
#[derive(Clone, Debug)]
pub(super) struct Peering {
    pub(super) id: SpiffeId,
    /// Where its agent answers, as far as known.
    pub(super) agent: Option<SocketAddr>,
    /// Its memory: another number means that it has lost its sessions.
    pub(super) nonce: Option<u64>,
    /// Sessions in which this node receives from it.
    pub(super) inbound: usize,
    /// UDP flows that it has announced.
    pub(super) flows: usize,
}

/// The other nodes by number.
#[derive(Debug, Default)]
pub(super) struct Peers {
    by_id: HashMap<SpiffeId, u32>,
    known: HashMap<u32, Peering>,
    last: u32,
}

/// What a meeting has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) number: u32,
    /// It has another memory than last time.
    pub(super) lost: bool,
    /// Something is new and must be written down.
    pub(super) changed: bool,
}

impl Peers {
    /// Notes that a node has proved itself. `None` when there are too many.
    pub(super) fn meet(&mut self, id: &SpiffeId, nonce: u64, agent: Option<SocketAddr>) -> Option<Met> {
        let number = match self.by_id.get(id) {
            Some(number) => *number,
            None => self.add(id.clone())?,
        };
        let peering = self.known.get_mut(&number)?;
        let lost = peering.nonce.is_some_and(|known| known != nonce);
        let moved = agent.is_some() && agent != peering.agent;
        let changed = peering.nonce != Some(nonce) || moved;
        peering.nonce = Some(nonce);
        peering.agent = agent.or(peering.agent);
        Some(Met { number, lost, changed })
    }

    fn add(&mut self, id: SpiffeId) -> Option<u32> {
        if self.known.len() >= NODES {
            return None;
        }
        self.last += 1;
        self.restore(self.last, id, None, None);
        Some(self.last)
    }

    /// Takes one from an earlier run.
    pub(super) fn restore(
        &mut self,
        number: u32,
        id: SpiffeId,
        nonce: Option<u64>,
        agent: Option<SocketAddr>,
    ) {
        self.last = self.last.max(number);
        self.by_id.insert(id.clone(), number);
        self.known.insert(number, Peering { id, agent, nonce, inbound: 0, flows: 0 });
    }

    pub(super) fn get(&self, number: u32) -> Option<&Peering> {
        self.known.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Peering> {
        self.known.get_mut(&number)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Peering)> {
        self.known.iter().map(|(number, peering)| (*number, peering))
    }

    /// The node whose agent answers at that address.
    pub(super) fn at(&self, address: IpAddr) -> Option<u32> {
        self.all().find(|(_, peer)| peer.agent.is_some_and(|agent| agent.ip() == address)).map(|(n, _)| n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_number_and_a_new_memory_is_noticed() {
        let mut peers = Peers::default();
        let (a, b) =
            ("spiffe://d/waxseal/node/a".parse().unwrap(), "spiffe://d/waxseal/node/b".parse().unwrap());
        let agent: SocketAddr = "10.0.0.2:7461".parse().unwrap();
        assert_eq!(peers.meet(&a, 7, Some(agent)), Some(Met { number: 1, lost: false, changed: true }));
        assert_eq!(peers.meet(&b, 8, None), Some(Met { number: 2, lost: false, changed: true }));
        assert_eq!(peers.meet(&a, 7, None), Some(Met { number: 1, lost: false, changed: false }));
        assert_eq!(peers.meet(&a, 9, None), Some(Met { number: 1, lost: true, changed: true }));
        assert_eq!(peers.at(agent.ip()), Some(1));
        assert_eq!(peers.get(1).unwrap().agent, Some(agent));
    }
}
