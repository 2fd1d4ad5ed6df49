//! Connections that have not proved anything yet: few enough, and the oldest gives way.
//!
//! Whoever stalls is by nature the oldest, so a flood of stalled handshakes pushes out itself; an honest handshake takes
//! milliseconds. Nothing that security depends on is in here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Connections at once that have not proved who they are.
const ALL: usize = 4096;
/// The same from one address.
const PER_ADDRESS: usize = 1024;

/// Who stands at the door.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<Mutex<Standing>>);

#[derive(Debug, Default)]
struct Standing {
    next: u64,
    /// In the order in which they came. Dropping the sender sends them away.
    by_age: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
}

/// A place at the door; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Gate,
    number: u64,
    /// Ends when the place is taken away.
    pub(super) taken: oneshot::Receiver<()>,
}

/// One IPv6 subscriber has a whole /64.
pub(super) fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Gate {
    /// Lets somebody stand at the door, if need be in the place of the one who has stood there longest.
    pub(super) fn stand(&self, address: IpAddr) -> Place {
        let address = group(address);
        let (sender, taken) = oneshot::channel();
        let mut standing = self.lock();
        standing.make_room(address);
        let number = standing.next;
        standing.next += 1;
        standing.by_age.insert(number, (address, sender));
        standing.by_address.entry(address).or_default().insert(number);
        drop(standing);
        Place { gate: self.clone(), number, taken }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn make_room(&mut self, address: IpAddr) {
        let own = self.by_address.get(&address).filter(|own| own.len() >= PER_ADDRESS);
        let mut oldest = own.and_then(|own| own.first().copied());
        if oldest.is_none() && self.by_age.len() >= ALL {
            let most = self.by_address.values().max_by_key(|own| own.len());
            oldest = most.and_then(|own| own.first().copied());
        }
        if let Some(oldest) = oldest {
            self.leave(oldest);
        }
    }

    fn leave(&mut self, number: u64) {
        let Some((address, _sender)) = self.by_age.remove(&number) else { return };
        if let Some(own) = self.by_address.get_mut(&address) {
            own.remove(&number);
            if own.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.lock().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_taken(place: &mut Place) -> bool {
        place.taken.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_of_the_same_address_gives_way() {
        let gate = Gate::default();
        let mut other = gate.stand(address("10.0.0.2"));
        let mut flood: Vec<Place> = (0..PER_ADDRESS).map(|_| gate.stand(address("10.0.0.1"))).collect();
        assert!(!is_taken(&mut flood[0]));
        let mut newest = gate.stand(address("10.0.0.1"));
        assert!(is_taken(&mut flood[0]));
        assert!(!is_taken(&mut flood[1]) && !is_taken(&mut newest) && !is_taken(&mut other));
    }

    #[test]
    fn when_all_places_are_taken_whoever_has_most_gives_one() {
        let gate = Gate::default();
        let mut honest = gate.stand(address("10.9.9.9"));
        let flood: Vec<Place> =
            (0..ALL).map(|i| gate.stand(IpAddr::from([10, 0, (i % 8) as u8, 1]))).collect();
        assert!(!is_taken(&mut honest));
        assert_eq!(gate.lock().by_age.len(), ALL);
        drop(flood);
        assert_eq!(gate.lock().by_age.len(), 1);
        drop(honest);
        assert!(gate.lock().by_address.is_empty());
    }

    #[test]
    fn a_subscribers_whole_network_counts_as_one() {
        assert_eq!(group(address("2001:db8::1")), group(address("2001:db8::ffff:2")));
        assert_ne!(group(address("2001:db8:0:1::1")), group(address("2001:db8:0:2::1")));
        assert_eq!(group(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }
}
