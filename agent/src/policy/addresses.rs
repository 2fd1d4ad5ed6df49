//! Address classes: which address conditions hold at which address, as few prefixes as can say it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use waxseal_common::address::Address;
use waxseal_common::tables::AddressRow;

use super::compiled::Prefix;
use super::condition::AddressCondition;
use super::set::AddressRange;
use crate::cidr::Cidr;

const V4_BITS: u8 = 96;

/// Whether a range is one of IPv4. As a person reads it, `::/0` is every IPv6 address and no IPv4 one, although the mapped
/// form puts all of them inside.
fn is_v4(cidr: Cidr) -> bool {
    cidr.length() >= V4_BITS && cidr.address().is_v4()
}

/// All IPv4 addresses.
fn all_v4() -> Cidr {
    Cidr::new(Address::from_v4([0; 4]), V4_BITS)
}

/// All addresses.
fn everything() -> Cidr {
    Cidr::new(Address::default(), 0)
}

/// What holds at each prefix: the numbers of the conditions, and whether workloads may live there. Prefixes are given in
/// order, each before those inside it.
pub(super) fn classify(
    conditions: &BTreeMap<u32, &AddressCondition>,
    mesh: &[Cidr],
) -> Vec<(Prefix, Vec<u32>, bool)> {
    let places = Places::new(conditions, mesh);
    let mut prefixes: BTreeSet<Cidr> = [everything(), all_v4()].into();
    prefixes.extend(mesh);
    for range in conditions.values().flat_map(|condition| condition.ranges()) {
        prefixes.insert(range.cidr);
        prefixes.extend(&range.except);
    }
    prefixes.into_iter().map(|cidr| (cidr.into(), places.conditions(cidr), places.in_mesh(cidr))).collect()
}

/// Leaves out the prefixes that say no more than the one around them.
pub(super) fn prune(rows: impl IntoIterator<Item = (Prefix, AddressRow)>) -> BTreeMap<Prefix, AddressRow> {
    let mut kept: BTreeMap<Prefix, AddressRow> = BTreeMap::new();
    let mut around: Vec<(Cidr, AddressRow)> = Vec::new();
    for (prefix, row) in rows {
        let cidr = Cidr::from(prefix);
        while around.last().is_some_and(|(outer, _)| !outer.covers(cidr)) {
            around.pop();
        }
        if around.last().map_or(AddressRow::default(), |(_, row)| *row) != row {
            kept.insert(prefix, row);
        }
        around.push((cidr, row));
    }
    kept
}

struct Places<'a> {
    conditions: &'a BTreeMap<u32, &'a AddressCondition>,
    by_range: HashMap<Cidr, Vec<u32>>,
    anywhere: Vec<u32>,
    mesh: BTreeSet<Cidr>,
}

impl<'a> Places<'a> {
    fn new(conditions: &'a BTreeMap<u32, &'a AddressCondition>, mesh: &[Cidr]) -> Self {
        let mut by_range: HashMap<Cidr, Vec<u32>> = HashMap::new();
        let mut anywhere = Vec::new();
        for (number, condition) in conditions {
            match condition.places() {
                Some(ranges) => {
                    for range in ranges {
                        by_range.entry(range).or_default().push(*number);
                    }
                }
                None => anywhere.push(*number),
            }
        }
        Self { conditions, by_range, anywhere, mesh: mesh.iter().copied().collect() }
    }

    /// The conditions that hold in `place` outside of the prefixes within it, sorted.
    fn conditions(&self, place: Cidr) -> Vec<u32> {
        let inside = around(place).filter_map(|cidr| self.by_range.get(&cidr)).flatten();
        let mut found: Vec<u32> =
            inside.chain(&self.anywhere).copied().filter(|n| self.is_met(*n, place)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn is_met(&self, number: u32, place: Cidr) -> bool {
        self.conditions.get(&number).is_some_and(|condition| condition.holds_in(place))
    }

    fn in_mesh(&self, place: Cidr) -> bool {
        around(place).any(|cidr| self.mesh.contains(&cidr))
    }
}

/// Every range of the same family that can hold `place`, itself included.
fn around(place: Cidr) -> impl Iterator<Item = Cidr> {
    let shortest = if is_v4(place) { V4_BITS } else { 0 };
    (shortest..=place.length()).map(move |length| Cidr::new(place.address(), length))
}

/// Whether every address of `place` is in a range and none in its holes.
pub(super) fn range_covers(range: &AddressRange, place: Cidr) -> bool {
    covers(range.cidr, place) && !range.except.iter().any(|hole| covers(*hole, place))
}

/// Whether every address of `place` is in `cidr`, as a person reads both.
pub(super) fn covers(cidr: Cidr, place: Cidr) -> bool {
    cidr.covers(place) && is_v4(cidr) == is_v4(place)
}
