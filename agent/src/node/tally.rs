//! What passes now and would not if its workload went one step stricter, counted by pair and port. Bounded: what does not
//! fit is counted and not kept.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use waxseal_common::flow::Kind;
use waxseal_common::ids::IdentityId;
use waxseal_common::verdict::{Direction, Reason, Verdict};

use crate::api::{Obstacle, What};
use crate::flows::{Flow, Identity, Protocol, Rule, Time};

/// How many pairs are kept.
const PAIRS: usize = 8192;
/// How many addresses of ends without an identity are kept apart for one workload and port.
const ADDRESSES: usize = 32;

/// The counts.
#[derive(Debug)]
pub(super) struct Tally {
    inner: Mutex<Inner>,
    /// The workloads of this node that deny nothing by default, by direction.
    open: ArcSwap<HashSet<Side>>,
    /// Since when it counts.
    pub(super) since: Time,
}

#[derive(Debug, Default)]
struct Inner {
    pairs: HashMap<Key, Pair>,
    /// How many addresses each workload and port has.
    addresses: HashMap<Key, usize>,
    dropped: u64,
}

/// A pair and a port, from the view of one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    workload: u32,
    what: What,
    ingress: bool,
    peer: u32,
    /// Of a peer that is no workload; `None` for the many that came after [`ADDRESSES`].
    address: Option<IpAddr>,
    protocol: u8,
    port: u16,
}

#[derive(Debug)]
struct Pair {
    workload: Arc<Identity>,
    peer: Arc<Identity>,
    rule: Option<Arc<Rule>>,
    count: u64,
    first: Time,
    last: Time,
}

fn is_workload(identity: &Identity) -> bool {
    identity.id >= IdentityId::FIRST_WORKLOAD.0
}

/// A workload in one direction.
pub(super) type Side = (u32, Direction);

impl Tally {
    pub(super) fn new(since: Time) -> Self {
        Self { inner: Mutex::default(), open: ArcSwap::default(), since }
    }

    /// Learns which workloads of this node deny nothing by default, and in which direction.
    pub(super) fn learn_open(&self, open: HashSet<Side>) {
        self.open.store(Arc::new(open));
    }

    /// Counts a flow. `decider` tells the side of the rule that decided, where one did.
    pub(super) fn note(&self, flow: &Flow, decider: impl FnOnce() -> Option<Direction>) {
        if flow.kind != Kind::Opened {
            return;
        }
        match flow.verdict {
            Verdict::WouldDeny | Verdict::Audit => {
                self.count(flow, What::WouldDeny, decider().unwrap_or(flow.direction));
            }
            Verdict::Allow => self.note_unruled(flow),
            Verdict::Defer | Verdict::Deny => {}
        }
        // Whoever has no SPIFFE ID: the host and unmanaged processes of this node too.
        if !is_workload(&flow.source.identity) {
            self.count(flow, What::NoSeal, Direction::Ingress);
        }
    }

    /// An allowed connection, at each end that has no list that could have allowed it.
    fn note_unruled(&self, flow: &Flow) {
        let open = self.open.load();
        for (end, direction) in [(&flow.source, Direction::Egress), (&flow.destination, Direction::Ingress)] {
            if flow.reason != Reason::SameWorkload && open.contains(&(end.identity.id, direction)) {
                self.count(flow, What::NoRule, direction);
            }
        }
    }

    fn count(&self, flow: &Flow, what: What, direction: Direction) {
        let ingress = direction == Direction::Ingress;
        let (own, other) =
            if ingress { (&flow.destination, &flow.source) } else { (&flow.source, &flow.destination) };
        if !is_workload(&own.identity) {
            return;
        }
        let key = Key {
            workload: own.identity.id,
            what,
            ingress,
            peer: other.identity.id,
            address: (!is_workload(&other.identity)).then_some(other.address),
            protocol: flow.protocol.0,
            port: flow.port,
        };
        let rule = if what == What::WouldDeny { flow.rule.clone() } else { None };
        let (workload, peer) = (Arc::clone(&own.identity), Arc::clone(&other.identity));
        let (first, last) = (flow.time, flow.time);
        self.inner().count(key, Pair { workload, peer, rule, count: 1, first, last });
    }

    /// The obstacles of each workload by its full name, and how many connections were not kept. `since` is when the
    /// present documents came into force.
    pub(super) fn obstacles(&self, since: Option<Time>) -> (HashMap<String, Vec<Obstacle>>, u64) {
        let inner = self.inner();
        let mut found: HashMap<String, Vec<Obstacle>> = HashMap::new();
        for (key, pair) in &inner.pairs {
            found.entry(pair.workload.name.clone()).or_default().push(obstacle(key, pair, since));
        }
        for list in found.values_mut() {
            list.sort_by(|a, b| (a.what, a.stale, b.last).cmp(&(b.what, b.stale, a.last)));
        }
        (found, inner.dropped)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&mut self, mut key: Key, new: Pair) {
        if key.address.is_some() && self.pairs.len() < PAIRS && !self.pairs.contains_key(&key) {
            let group = Key { address: None, ..key };
            let addresses = self.addresses.entry(group).or_default();
            if *addresses < ADDRESSES {
                *addresses += 1;
            } else {
                key = group;
            }
        }
        let full = self.pairs.len() >= PAIRS;
        match self.pairs.get_mut(&key) {
            // A number that somebody else has got meanwhile begins anew.
            Some(pair) if pair.workload.name == new.workload.name && pair.peer.name == new.peer.name => {
                let Pair { rule, last, .. } = new;
                *pair = Pair {
                    count: pair.count + 1,
                    last: last.max(pair.last),
                    first: pair.first,
                    rule,
                    workload: new.workload,
                    peer: new.peer,
                };
            }
            Some(pair) => *pair = new,
            None if full => self.dropped += 1,
            None => drop(self.pairs.insert(key, new)),
        }
    }
}

fn obstacle(key: &Key, pair: &Pair, since: Option<Time>) -> Obstacle {
    let Pair { peer, rule, count, first, last, .. } = pair;
    let shown = match key.address {
        Some(address) => format!("{} {address}", peer.name),
        None if is_workload(peer) => peer.name.clone(),
        None => format!("{} (other addresses)", peer.name),
    };
    Obstacle {
        what: key.what,
        direction: if key.ingress { Direction::Ingress } else { Direction::Egress },
        peer: shown,
        spiffe_id: peer.spiffe_id.clone(),
        protocol: Protocol(key.protocol),
        port: key.port,
        rule: rule.as_ref().map(|rule| format!("{} ({})", rule.title(), rule.origin)),
        count: *count,
        first: *first,
        last: *last,
        stale: since.is_some_and(|since| *last < since),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::samples::{allowed, flow};

    fn sample() -> Flow {
        flow(&allowed())
    }

    fn stranger(number: u32) -> Flow {
        let mut flow = Flow { sealed: false, ..sample() };
        flow.source.identity = Arc::new(Identity {
            id: 2,
            name: "world".into(),
            spiffe_id: None,
            labels: crate::workload::Labels::new(),
        });
        flow.source.address = IpAddr::from(number.to_be_bytes());
        flow
    }

    fn shown(tally: &Tally, since: Option<Time>) -> Vec<String> {
        let (found, _) = tally.obstacles(since);
        let mut lines: Vec<String> = found
            .iter()
            .flat_map(|(workload, list)| list.iter().map(move |obstacle| (workload, obstacle)))
            .map(|(workload, o)| {
                format!(
                    "{workload} {} {:?} {} {} x{} stale {}",
                    o.what.as_str(),
                    o.direction,
                    o.peer,
                    o.port,
                    o.count,
                    o.stale
                )
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_a_stricter_step_would_break_is_counted_once_a_pair_and_port() {
        let tally = Tally::new(Time(0));
        tally.note(&sample(), || Some(Direction::Egress));
        assert!(shown(&tally, None).is_empty(), "a connection that a rule allows is in nobody's way");
        for (verdict, reason, decider) in [
            (Verdict::Audit, Reason::NoRuleMatches, Some(Direction::Ingress)),
            (Verdict::WouldDeny, Reason::DenyRule, Some(Direction::Egress)),
            (Verdict::WouldDeny, Reason::IdentityIncomplete, None),
        ] {
            tally.note(&Flow { verdict, reason, ..sample() }, || decider);
        }
        tally.learn_open([(257, Direction::Ingress), (256, Direction::Ingress)].into());
        tally.note(&sample(), || Some(Direction::Egress));
        tally.note(&stranger(1), || None);
        tally.note(&Flow { kind: Kind::Closed, ..stranger(1) }, || None);
        assert_eq!(
            shown(&tally, None),
            [
                "payments/api no-rule Ingress shop/checkout 8080 x1 stale false",
                "payments/api no-rule Ingress world 0.0.0.1 8080 x1 stale false",
                "payments/api no-seal Ingress world 0.0.0.1 8080 x1 stale false",
                "payments/api would-deny Ingress shop/checkout 8080 x1 stale false",
                "shop/checkout would-deny Egress payments/api 8080 x2 stale false",
            ]
        );
        let later = Time(sample().time.0 + 1);
        assert!(shown(&tally, Some(later)).iter().all(|line| line.ends_with("stale true")));
    }

    #[test]
    fn a_flood_of_addresses_becomes_one_line_and_the_table_stays_bounded() {
        let tally = Tally::new(Time(0));
        (0..1000).for_each(|number| tally.note(&stranger(number), || None));
        let lines = shown(&tally, None);
        assert_eq!(lines.len(), ADDRESSES + 1);
        assert!(lines.contains(
            &"payments/api no-seal Ingress world (other addresses) 8080 x968 stale false".to_owned()
        ));
        for port in 0..u16::MAX {
            tally.note(&Flow { port, ..stranger(1) }, || None);
        }
        let (found, dropped) = tally.obstacles(None);
        let kept: u64 = found.values().flatten().map(|obstacle| obstacle.count).sum();
        assert_eq!(found.values().map(Vec::len).sum::<usize>(), PAIRS);
        assert_eq!(kept + dropped, 1000 + u64::from(u16::MAX));
        assert!(tally.inner().addresses.len() <= 2 * PAIRS);
    }
}
