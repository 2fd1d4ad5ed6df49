//! The compiled policy: what the maps hold, in ordinary collections, and what its numbers mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use waxseal_common::address::Address;
use waxseal_common::ids::{IdentityId, RuleId};
use waxseal_common::tables::{AddressRow, IdentityRow, Outcome, RowKey, Tables};
use waxseal_common::verdict::Direction;

use super::ports::PackedSet;
use super::set::direction_word;
use crate::cidr::Cidr;
use crate::workload::Origin;

/// The tables of one set of documents for one set of identities.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// One row for each known identity and each reserved one.
    pub identities: BTreeMap<IdentityId, IdentityRow>,
    /// What addresses are, by longest prefix.
    pub addresses: BTreeMap<Prefix, AddressRow>,
    /// Which port set holds for which rule set, peer class and address class.
    pub rows: BTreeMap<RowKey, u32>,
    /// The port sets by number.
    pub sets: BTreeMap<u32, Arc<PackedSet>>,
    /// What the rule numbers in rows and port sets mean.
    pub rules: BTreeMap<RuleId, Arc<RuleInfo>>,
}

/// An address prefix as the map holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The first address; the bits past the length are zero.
    pub address: Address,
    /// How many bits count: 0 to 128; for IPv4 96 more than people write.
    pub length: u8,
}

/// The object that a rule number stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RuleInfo {
    /// `namespace/name` of a policy, or the name of a namespace.
    pub policy: String,
    /// The kind of the document.
    pub kind: &'static str,
    /// The name of the rule, or its place as `#2`; `None` when the whole object is meant.
    pub rule: Option<String>,
    /// The list the rule is in.
    #[serde(serialize_with = "direction")]
    pub direction: RuleDirection,
    /// Where it is written.
    pub origin: Origin,
}

/// [`Direction`] with the order that a map key needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleDirection {
    /// About sources.
    Ingress,
    /// About destinations.
    Egress,
}

impl From<Direction> for RuleDirection {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

impl From<RuleDirection> for Direction {
    fn from(direction: RuleDirection) -> Self {
        match direction {
            RuleDirection::Ingress => Self::Ingress,
            RuleDirection::Egress => Self::Egress,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn direction<S: Serializer>(direction: &RuleDirection, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(direction_word((*direction).into()))
}

impl RuleInfo {
    /// `payments/from-checkout#checkout-may-pay`.
    pub fn title(&self) -> String {
        match &self.rule {
            None => self.policy.clone(),
            Some(rule) if rule.starts_with('#') => format!("{}{rule}", self.policy),
            Some(rule) => format!("{}#{rule}", self.policy),
        }
    }
}

impl fmt::Display for RuleInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.title(), self.origin)
    }
}

impl Prefix {
    /// The first `length` bits of an address.
    pub fn new(address: Address, length: u8) -> Self {
        Cidr::new(address, length).into()
    }
}

impl From<Cidr> for Prefix {
    fn from(cidr: Cidr) -> Self {
        Self { address: cidr.address(), length: cidr.length() }
    }
}

impl From<Prefix> for Cidr {
    fn from(prefix: Prefix) -> Self {
        Self::new(prefix.address, prefix.length)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Cidr::from(*self).fmt(f)
    }
}

impl Compiled {
    /// Says of single addresses that they are this node's own.
    pub(super) fn mark_local(&mut self, addresses: &[Cidr]) {
        for prefix in addresses.iter().map(|cidr| Prefix::from(*cidr)) {
            let AddressRow { class, flags } = self.covering(prefix).unwrap_or_default();
            let row = AddressRow { class, flags: flags | AddressRow::MESH | AddressRow::LOCAL };
            self.addresses.insert(prefix, row);
        }
    }

    /// What the tables say about an address: the row of the longest prefix that holds it.
    pub fn address(&self, address: Address) -> AddressRow {
        self.covering(Prefix { address, length: 128 }).unwrap_or_default()
    }

    /// The row of the longest prefix that holds all of `prefix`, itself included.
    pub(super) fn covering(&self, prefix: Prefix) -> Option<AddressRow> {
        (0..=prefix.length)
            .rev()
            .find_map(|length| self.addresses.get(&Prefix::new(prefix.address, length)).copied())
    }

    /// What a rule number means.
    pub fn rule(&self, rule: RuleId) -> Option<&RuleInfo> {
        self.rules.get(&rule).map(Arc::as_ref)
    }

    /// The rules that the rows and subjects name.
    pub(super) fn named_rules(&self) -> BTreeSet<RuleId> {
        let subjects = self.identities.values().flat_map(|row| [row.ingress, row.egress]);
        let selectors = subjects.flat_map(|subject| [subject.selected_by, subject.shadow_selected_by]);
        let sets = self
            .sets
            .values()
            .flat_map(|set| set.ranges.iter().map(|range| range.outcome.rule).chain([set.otherwise.rule]));
        selectors.chain(sets).filter(|rule| *rule != RuleId::NONE).collect()
    }
}

impl Tables for Compiled {
    fn identity(&self, identity: IdentityId) -> Option<IdentityRow> {
        self.identities.get(&identity).copied()
    }

    fn outcome(&self, key: &RowKey, protocol: u8, port: u16) -> Outcome {
        let set = self.rows.get(key).and_then(|set| self.sets.get(set));
        set.map_or(Outcome::default(), |set| set.unpacked().outcome(protocol, port))
    }
}
