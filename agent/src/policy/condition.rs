//! What a peer asks of the other end, in two halves that the tables keep apart: who it is, and at which address.

use std::collections::HashMap;

use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;

use super::addresses::range_covers;
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
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Who {
    identity: Option<IdentityPattern>,
    trust_domain: Option<TrustDomain>,
    namespace: Option<String>,
    labels: Option<Labels>,
    entity: Option<Entity>,
}

/// Where the other end must be, and must not be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct AddressCondition {
    pub(super) is: Option<AddressRange>,
    pub(super) not: Option<AddressRange>,
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
        if peer.not.entity == Some(Entity::Any) {
            return None;
        }
        let mut is = Who::of(&peer.is);
        // `any` asks nothing, so that it also holds for an end that nobody knows yet.
        if is.entity == Some(Entity::Any) {
            is.entity = None;
        }
        let identity = IdentityCondition { is, not: Who::of(&peer.not) };
        let address = AddressCondition { is: peer.is.range.clone(), not: peer.not.range.clone() };
        Some(Self {
            identity: Some(identity).filter(|condition| !condition.is_empty()),
            address: Some(address).filter(|condition| condition.is.is_some() || condition.not.is_some()),
        })
    }
}

impl IdentityCondition {
    fn is_empty(&self) -> bool {
        self.is == Who::default() && self.not == Who::default()
    }

    pub(super) fn matches(&self, end: End<'_>) -> bool {
        self.is.fields().all(|field| field.matches(end)) && !self.not.fields().any(|field| field.matches(end))
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
            identity.as_ref().map(Field::Identity),
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
    /// Whether the condition holds at an address.
    pub(super) fn holds(&self, address: Address) -> bool {
        let place = Cidr::new(address, 128);
        self.is.as_ref().is_none_or(|range| range_covers(range, place))
            && !self.not.as_ref().is_some_and(|range| range_covers(range, place))
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
    /// Files a condition under its number.
    pub(super) fn insert(&mut self, number: u32, condition: &'a IdentityCondition) {
        let Who { identity, labels, namespace, .. } = &condition.is;
        let label = labels.as_ref().and_then(|labels| labels.first_key_value());
        let list = match (identity, label, namespace) {
            (Some(IdentityPattern::Exact(id)), _, _) => self.by_identity.entry(id).or_default(),
            (_, Some((key, value)), _) => self.by_label.entry((key.as_str(), value.as_str())).or_default(),
            (_, _, Some(namespace)) => self.by_namespace.entry(namespace.as_str()).or_default(),
            _ => &mut self.anything,
        };
        list.push(number);
    }

    /// The numbers of those that can hold; those left out cannot.
    pub(super) fn candidates(&self, end: End<'_>) -> Vec<u32> {
        let mut found = self.anything.clone();
        if let End::Workload(workload) = end {
            found.extend(self.by_identity.get(&workload.spiffe_id).into_iter().flatten());
            found.extend(self.by_namespace.get(workload.namespace.as_str()).into_iter().flatten());
            for (key, value) in &workload.labels {
                found.extend(self.by_label.get(&(key.as_str(), value.as_str())).into_iter().flatten());
            }
        }
        found
    }
}
