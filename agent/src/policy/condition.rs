//! What a peer asks of the other end, in two halves that the tables keep apart: who it is, and at which address.

use std::collections::HashMap;

use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;

use super::addresses::range_covers;
use super::clause::{Clause, Test, Tests};
use super::pattern::IdentityPattern;
use super::set::{AddressRange, Entity, Fields, Peer};
use crate::cidr::Cidr;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{IdentityInfo, Labels};

/// One peer of a rule, halved. `None` is no condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) identity: Option<IdentityCondition>,
    pub(super) address: Option<AddressCondition>,
}

/// Who the other end must be, and must not be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct IdentityCondition {
    is: Who,
    not: Who,
    /// Negated or not, and the tests.
    clauses: Vec<(bool, Vec<Test>)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Who {
    identity: Option<Box<IdentityPattern>>,
    trust_domain: Option<TrustDomain>,
    namespace: Option<Box<str>>,
    labels: Option<Labels>,
    entity: Option<Entity>,
}

/// Where the other end must be, and must not be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AddressCondition {
    pub(super) is: Option<AddressRange>,
    pub(super) not: Option<AddressRange>,
    /// Negated or not, and the ranges.
    pub(super) clauses: Vec<(bool, Vec<AddressRange>)>,
}

/// An end as the conditions see it.
#[derive(Clone, Copy, Debug)]
pub(super) enum End<'a> {
    /// A workload with a true seal.
    Workload(&'a IdentityInfo),
    /// One of the reserved identities.
    Reserved(IdentityId),
}

impl Conditions {
    /// The conditions of a peer; `None` when it can never match.
    pub(super) fn of(peer: &Peer) -> Option<Self> {
        if peer.not().entity == Some(Entity::Any) {
            return None;
        }
        let mut is = Who::of(&peer.is);
        // `any` asks nothing, so that it also holds for an end that nobody knows yet.
        if is.entity == Some(Entity::Any) {
            is.entity = None;
        }
        let mut identity = IdentityCondition { is, not: Who::of(peer.not()), clauses: Vec::new() };
        let mut address = AddressCondition {
            is: peer.is.range.clone(),
            not: peer.not().range.clone(),
            clauses: Vec::new(),
        };
        for Clause { negated, tests } in &peer.clauses {
            match tests {
                Tests::Address(ranges) => address.clauses.push((*negated, ranges.clone())),
                Tests::Identity(tests) if tests.contains(&Test::Entity(Entity::Any)) => {
                    if *negated {
                        return None;
                    }
                }
                Tests::Identity(tests) => identity.clauses.push((*negated, tests.clone())),
            }
        }
        Some(Self {
            identity: Some(identity).filter(|condition| !condition.is_empty()),
            address: Some(address).filter(|condition| !condition.is_empty()),
        })
    }
}

impl IdentityCondition {
    fn is_empty(&self) -> bool {
        self.is == Who::default() && self.not == Who::default() && self.clauses.is_empty()
    }

    pub(super) fn matches(&self, end: End<'_>) -> bool {
        self.is.fields().all(|field| field.matches(end))
            && !self.not.fields().any(|field| field.matches(end))
            && self
                .clauses
                .iter()
                .all(|(negated, tests)| tests.iter().any(|t| test_holds(t, end)) != *negated)
    }

    /// Something it asks of which one must hold: what it can be filed under.
    fn key_tests(&self) -> Option<&[Test]> {
        let indexed = |test: &Test| {
            matches!(
                test,
                Test::Identity(IdentityPattern::Exact(_))
                    | Test::Namespace(_)
                    | Test::Label { values: Some(_), .. }
            )
        };
        let positive = self.clauses.iter().filter(|(negated, _)| !negated).map(|(_, tests)| tests.as_slice());
        positive.filter(|tests| tests.iter().all(indexed)).min_by_key(|tests| usefulness(tests))
    }
}

impl Who {
    fn of(fields: &Fields) -> Self {
        let Fields { identity, trust_domain, namespace, labels, range: _, entity } = fields.clone();
        Self { identity, trust_domain, namespace, labels, entity }
    }

    fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let Self { identity, trust_domain, namespace, labels, entity } = self;
        [
            identity.as_deref().map(Field::Identity),
            trust_domain.as_ref().map(Field::TrustDomain),
            namespace.as_deref().map(Field::Namespace),
            labels.as_ref().map(Field::Labels),
            entity.map(Field::Entity),
        ]
        .into_iter()
        .flatten()
    }
}

#[derive(Clone, Copy)]
enum Field<'a> {
    Identity(&'a IdentityPattern),
    TrustDomain(&'a TrustDomain),
    Namespace(&'a str),
    Labels(&'a Labels),
    Entity(Entity),
}

impl Field<'_> {
    fn matches(self, end: End<'_>) -> bool {
        match (self, end) {
            (Self::Entity(entity), end) => entity_matches(entity, end),
            (_, End::Reserved(_)) => false,
            (Self::Identity(pattern), End::Workload(workload)) => pattern.matches(&workload.spiffe_id),
            (Self::TrustDomain(domain), End::Workload(workload)) => {
                workload.spiffe_id.trust_domain() == domain
            }
            (Self::Namespace(namespace), End::Workload(workload)) => workload.namespace == namespace,
            (Self::Labels(labels), End::Workload(workload)) => carries(&workload.labels, labels),
        }
    }
}

/// The rarest first.
fn usefulness(tests: &[Test]) -> u8 {
    match tests.first() {
        Some(Test::Identity(_)) | None => 0,
        Some(Test::Label { .. }) => 1,
        _ => 2,
    }
}

fn test_holds(test: &Test, end: End<'_>) -> bool {
    match (test, end) {
        (Test::Entity(entity), end) => entity_matches(*entity, end),
        (_, End::Reserved(_)) => false,
        (test, End::Workload(workload)) => test.holds(workload.into()),
    }
}

fn entity_matches(entity: Entity, end: End<'_>) -> bool {
    match (entity, end) {
        (Entity::Any, _) => true,
        (Entity::AnyAuthenticated, end) => matches!(end, End::Workload(_)),
        (Entity::Host, End::Reserved(id)) => id == IdentityId::HOST,
        (Entity::World, End::Reserved(id)) => id == IdentityId::WORLD,
        (Entity::Unmanaged, End::Reserved(id)) => id == IdentityId::UNMANAGED,
        (Entity::Host | Entity::World | Entity::Unmanaged, End::Workload(_)) => false,
    }
}

impl AddressCondition {
    fn is_empty(&self) -> bool {
        self.is.is_none() && self.not.is_none() && self.clauses.is_empty()
    }

    /// Whether the condition holds at an address.
    pub(super) fn holds(&self, address: Address) -> bool {
        self.holds_in(Cidr::new(address, 128))
    }

    /// Whether the condition holds in `place`, outside of the ranges within it.
    pub(super) fn holds_in(&self, place: Cidr) -> bool {
        self.is.as_ref().is_none_or(|range| range_covers(range, place))
            && !self.not.as_ref().is_some_and(|range| range_covers(range, place))
            && self
                .clauses
                .iter()
                .all(|(negated, ranges)| ranges.iter().any(|r| range_covers(r, place)) != *negated)
    }

    /// Every range that it names.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &AddressRange> {
        let Self { is, not, clauses } = self;
        is.iter().chain(not).chain(clauses.iter().flat_map(|(_, ranges)| ranges))
    }

    /// Ranges of which one must hold the address; `None` when the condition can hold anywhere.
    pub(super) fn places(&self) -> Option<Vec<Cidr>> {
        let positive = self.clauses.iter().find(|(negated, _)| !negated).map(|(_, ranges)| ranges.as_slice());
        let ranges = self.is.as_ref().map(std::slice::from_ref).or(positive)?;
        let mut cidrs: Vec<Cidr> = ranges.iter().map(|range| range.cidr).collect();
        cidrs.sort_unstable();
        cidrs.dedup();
        Some(cidrs)
    }
}

/// Whether all the `wanted` labels are among those `present`.
pub(super) fn carries(present: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| present.get(key) == Some(value))
}

/// Finds the conditions that can hold for an end without trying all of them: each is filed under the rarest thing it asks.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    by_identity: HashMap<&'a SpiffeId, Vec<u32>>,
    by_label: HashMap<(&'a str, &'a str), Vec<u32>>,
    by_namespace: HashMap<&'a str, Vec<u32>>,
    anything: Vec<u32>,
}

impl<'a> Index<'a> {
    /// Files conditions under their numbers.
    pub(super) fn new(conditions: impl IntoIterator<Item = (u32, &'a IdentityCondition)>) -> Self {
        let mut index = Self::default();
        conditions.into_iter().for_each(|(number, condition)| index.insert(number, condition));
        index
    }

    fn insert(&mut self, number: u32, condition: &'a IdentityCondition) {
        let Who { identity, labels, namespace, .. } = &condition.is;
        let label = labels.as_ref().and_then(|labels| labels.first());
        let list = match (identity.as_deref(), label, namespace) {
            (Some(IdentityPattern::Exact(id)), _, _) => self.by_identity.entry(id).or_default(),
            (_, Some((key, value)), _) => self.by_label.entry((key, value)).or_default(),
            (_, _, Some(namespace)) => self.by_namespace.entry(namespace).or_default(),
            _ => match condition.key_tests() {
                Some(tests) => return self.insert_tests(number, tests),
                None => &mut self.anything,
            },
        };
        list.push(number);
    }

    fn insert_tests(&mut self, number: u32, tests: &'a [Test]) {
        for test in tests {
            match test {
                Test::Identity(IdentityPattern::Exact(id)) => {
                    self.by_identity.entry(id).or_default().push(number);
                }
                Test::Namespace(namespace) => {
                    self.by_namespace.entry(namespace.as_str()).or_default().push(number);
                }
                Test::Label { key, values: Some(values) } => {
                    for value in values {
                        self.by_label.entry((key.as_str(), value.as_str())).or_default().push(number);
                    }
                }
                _ => self.anything.push(number),
            }
        }
    }

    /// The numbers of those that can hold; those left out cannot.
    pub(super) fn candidates(&self, end: End<'_>) -> Vec<u32> {
        let mut found = self.anything.clone();
        if let End::Workload(workload) = end {
            found.extend(self.by_identity.get(&workload.spiffe_id).into_iter().flatten());
            found.extend(self.by_namespace.get(workload.namespace.as_str()).into_iter().flatten());
            for (key, value) in workload.labels.iter() {
                found.extend(self.by_label.get(&(key, value)).into_iter().flatten());
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}
