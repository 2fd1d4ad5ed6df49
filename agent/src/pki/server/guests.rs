//! Who is connected: so many at once, and so many from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use super::Limits;

/// Counts connections.
#[derive(Clone, Debug)]
pub(super) struct Guests(Arc<Book>);

#[derive(Debug)]
struct Book {
    limits: Limits,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection; it is forgotten when dropped.
#[derive(Debug)]
pub(super) struct Guest {
    book: Arc<Book>,
    address: IpAddr,
}

impl Guests {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(Book { limits, present: Mutex::default() }))
    }

    /// None when there are too many.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Guest> {
        let Limits { connections, connections_of_address } = self.0.limits;
        let mut present = self.0.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.all >= connections {
            return None;
        }
        let key = neighbourhood(address);
        let here = present.by_address.get(&key).copied().unwrap_or(0);
        if here >= connections_of_address {
            return None;
        }
        present.by_address.insert(key, here + 1);
        present.all += 1;
        Some(Guest { book: Arc::clone(&self.0), address })
    }
}

impl Guest {
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut present = self.book.present.lock().unwrap_or_else(PoisonError::into_inner);
        let key = neighbourhood(self.address);
        present.all = present.all.saturating_sub(1);
        match present.by_address.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(present.by_address.remove(&key)),
        }
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_from_one_address() {
        let guests = Guests::new(Limits { connections: 3, connections_of_address: 2 });
        let admit = |text: &str| guests.admit(text.parse().unwrap());
        let first = admit("10.0.0.1").unwrap();
        let _second = admit("::ffff:10.0.0.1").unwrap();
        assert!(admit("10.0.0.1").is_none(), "an address has two");
        drop(first);
        let _third = admit("2001:db8::1").unwrap();
        let fourth = admit("2001:db8::2").unwrap();
        assert!(admit("10.0.0.9").is_none(), "three in all");
        drop(fourth);
        assert!(admit("10.0.0.9").is_some());
    }
}
