//! Conditions in the form that imported documents need: lists of which any may hold, each list turned round or not.
//!
//! Native peers have one value per field; Istio, Cilium and Kubernetes have lists, and expressions over labels. A
//! [`Clause`] is about the identity of an end or about its address, never about both, because the tables keep them apart.

use std::collections::BTreeMap;

use super::pattern::{IdentityPattern, TextPattern};
use super::set::{AddressRange, Entity, Peer};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{IdentityInfo, Labels, Origin, Workload};

/// Holds when any of its tests does; when negated, when none does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Whether the answer is turned round.
    pub negated: bool,
    /// The tests; without any, none holds.
    pub tests: Tests,
}

/// The tests of one clause.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tests {
    /// About who an end is.
    Identity(Vec<Test>),
    /// About where an end is.
    Address(Vec<AddressRange>),
}

/// One question about who an end is. Only an end with a true seal meets any of them, except [`Test::Entity`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// Its SPIFFE ID.
    Identity(IdentityPattern),
    /// The trust domain of its SPIFFE ID.
    TrustDomain(TrustDomain),
    /// X in a SPIFFE ID whose path is `/ns/X/sa/Y`.
    PathNamespace(TextPattern),
    /// Y in a SPIFFE ID whose path is `/ns/X/sa/Y`.
    ServiceAccount(String),
    /// The namespace of the workload.
    Namespace(String),
    /// A label with one of these values; `None` is any value.
    Label {
        /// The key.
        key: String,
        /// The values.
        values: Option<Vec<String>>,
    },
    /// A word for a kind of end.
    Entity(Entity),
    /// Labels of the namespace of the workload. Stands alone in its clause, and only until all files are read: then the
    /// namespaces that have these labels are put in its place.
    NamespaceLabels {
        /// All of these must hold.
        wanted: Vec<NamespaceLabel>,
        /// What is taken for true of a namespace whose labels no document tells.
        otherwise: bool,
        /// Where it is written.
        origin: Origin,
    },
}

/// One question about the labels of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceLabel {
    /// The key.
    pub key: String,
    /// The values; `None` is any.
    pub values: Option<Vec<String>>,
    /// Whether the answer is turned round.
    pub negated: bool,
}

/// A workload as tests see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person<'a> {
    pub(super) spiffe_id: &'a SpiffeId,
    pub(super) namespace: &'a str,
    pub(super) labels: &'a Labels,
}

impl<'a> From<&'a IdentityInfo> for Person<'a> {
    fn from(info: &'a IdentityInfo) -> Self {
        Self { spiffe_id: &info.spiffe_id, namespace: &info.namespace, labels: &info.labels }
    }
}

impl<'a> From<&'a Workload> for Person<'a> {
    fn from(workload: &'a Workload) -> Self {
        Self { spiffe_id: &workload.spiffe_id, namespace: &workload.namespace, labels: &workload.labels }
    }
}

impl Peer {
    /// Ends that probably match: SPIFFE IDs that it names, or a namespace and labels.
    pub(super) fn examples(&self) -> Vec<(Option<SpiffeId>, String, Labels)> {
        let exact = |pattern: &IdentityPattern| match pattern {
            IdentityPattern::Exact(id) => Some(id.clone()),
            _ => None,
        };
        let patterns = self.clauses.iter().filter(|clause| !clause.negated).flat_map(Clause::patterns);
        let ids: Vec<SpiffeId> =
            self.is.identity.as_deref().into_iter().chain(patterns).filter_map(exact).collect();
        if !ids.is_empty() {
            let namespace = |id: &SpiffeId| id.namespace().unwrap_or("default").to_owned();
            return ids.into_iter().map(|id| (Some(id.clone()), namespace(&id), Labels::new())).collect();
        }
        let labels = self.is.labels.clone().unwrap_or_default();
        let namespace = self.is.namespace.as_deref().map(str::to_owned);
        let asked = Target { namespace, labels, clauses: self.clauses.to_vec() };
        let (namespace, labels) = asked.example();
        let says = self.is.namespace.is_some() || !labels.is_empty();
        if says { vec![(None, namespace, labels)] } else { Vec::new() }
    }
}

/// Which workloads a policy binds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The only namespace; `None` is every one.
    pub namespace: Option<String>,
    /// All of these labels must be on the workload; empty asks nothing.
    pub labels: Labels,
    /// All of these must hold as well; they are about the identity.
    pub clauses: Vec<Clause>,
}

impl Clause {
    /// Any of these tests must hold.
    pub fn any(tests: Vec<Test>) -> Self {
        Self { negated: false, tests: Tests::Identity(tests) }
    }

    /// None of these tests may hold.
    pub fn none(tests: Vec<Test>) -> Self {
        Self { negated: true, tests: Tests::Identity(tests) }
    }

    /// The address must be in one of these ranges.
    pub fn within(ranges: Vec<AddressRange>) -> Self {
        Self { negated: false, tests: Tests::Address(ranges) }
    }

    /// The address must be in none of these ranges.
    pub fn outside(ranges: Vec<AddressRange>) -> Self {
        Self { negated: true, tests: Tests::Address(ranges) }
    }

    /// The SPIFFE IDs that it names.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &IdentityPattern> {
        let tests = match &self.tests {
            Tests::Identity(tests) => tests.as_slice(),
            Tests::Address(_) => &[],
        };
        tests.iter().filter_map(|test| match test {
            Test::Identity(pattern) => Some(pattern),
            _ => None,
        })
    }

    /// Whether it holds for a workload; one about addresses does not.
    fn selects(&self, person: Person<'_>) -> bool {
        match &self.tests {
            Tests::Identity(tests) => tests.iter().any(|test| test.holds(person)) != self.negated,
            Tests::Address(_) => false,
        }
    }
}

impl Test {
    /// Whether it holds for a workload with a true seal.
    pub(super) fn holds(&self, person: Person<'_>) -> bool {
        match self {
            Self::Identity(pattern) => pattern.matches(person.spiffe_id),
            Self::TrustDomain(domain) => person.spiffe_id.trust_domain() == domain,
            Self::PathNamespace(pattern) => person.spiffe_id.namespace().is_some_and(|n| pattern.matches(n)),
            Self::ServiceAccount(name) => person.spiffe_id.service_account() == Some(name),
            Self::Namespace(namespace) => person.namespace == namespace,
            Self::Label { key, values } => person.labels.get(key).is_some_and(|value| {
                values.as_ref().is_none_or(|values| values.iter().any(|one| one == value))
            }),
            Self::Entity(entity) => matches!(entity, Entity::Any | Entity::AnyAuthenticated),
            Self::NamespaceLabels { .. } => false,
        }
    }
}

impl Target {
    /// Every workload of one namespace, or of all.
    pub fn namespace(namespace: Option<String>) -> Self {
        Self { namespace, ..Self::default() }
    }

    /// The namespace and the labels of some workload that it probably binds.
    pub(super) fn example(&self) -> (String, Labels) {
        let mut namespace = self.namespace.clone();
        let mut labels: BTreeMap<&str, &str> = self.labels.iter().collect();
        for clause in self.clauses.iter().filter(|clause| !clause.negated) {
            let Tests::Identity(tests) = &clause.tests else { continue };
            match tests.first() {
                Some(Test::Label { key, values }) => {
                    let value = values.as_ref().and_then(|values| values.first());
                    labels.entry(key).or_insert_with(|| value.map_or("", String::as_str));
                }
                Some(Test::Namespace(name)) => namespace = namespace.or_else(|| Some(name.clone())),
                _ => {}
            }
        }
        (namespace.unwrap_or_else(|| "default".to_owned()), labels.into_iter().collect())
    }

    /// Whether it binds this workload.
    pub(super) fn selects(&self, person: Person<'_>) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == person.namespace)
            && super::condition::carries(person.labels, &self.labels)
            && self.clauses.iter().all(|clause| clause.selects(person))
    }
}
