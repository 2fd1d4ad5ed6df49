//! Which policies select which workload.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::set::IdentityPolicy;
use crate::workload::{IdentityInfo, Labels};

/// The policies that select one workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound {
    /// Their places in the set, in document order.
    pub(super) policies: Vec<usize>,
}

/// The policies that select each identity.
#[derive(Debug)]
pub(super) struct Bindings {
    /// One for each different namespace and label set.
    groups: Vec<Bound>,
    /// For each identity, in the order given, its group.
    of_identity: Vec<usize>,
}

impl Bindings {
    pub(super) fn new(policies: &[Arc<IdentityPolicy>], identities: &[IdentityInfo]) -> Self {
        let index = Index::new(policies);
        let mut known: HashMap<(&str, &Labels, Option<&str>), usize> = HashMap::new();
        let mut groups = Vec::new();
        let mut of_identity = Vec::with_capacity(identities.len());
        for identity in identities {
            // All that a selector can ask for.
            let account = identity.spiffe_id.service_account();
            let key = (identity.namespace.as_str(), &identity.labels, account);
            let group = *known.entry(key).or_insert_with(|| {
                groups.push(Bound { policies: index.selecting(identity) });
                groups.len() - 1
            });
            of_identity.push(group);
        }
        Self { groups, of_identity }
    }

    /// For each identity, in the order given.
    pub(super) fn per_identity(&self) -> impl Iterator<Item = &Bound> {
        self.of_identity.iter().map(|group| &self.groups[*group])
    }

    /// The policies that select anybody, in document order.
    pub(super) fn used(&self) -> BTreeSet<usize> {
        self.groups.iter().flat_map(|group| group.policies.iter().copied()).collect()
    }
}

/// Policies by namespace and by the first label they ask for, so that a workload does not try all of them. A policy for
/// every namespace is under `None`.
struct Index<'a> {
    policies: &'a [Arc<IdentityPolicy>],
    whole_namespace: HashMap<Option<&'a str>, Vec<usize>>,
    by_label: HashMap<(Option<&'a str>, &'a str, &'a str), Vec<usize>>,
}

impl<'a> Index<'a> {
    fn new(policies: &'a [Arc<IdentityPolicy>]) -> Self {
        let mut index = Self { policies, whole_namespace: HashMap::new(), by_label: HashMap::new() };
        for (place, policy) in policies.iter().enumerate() {
            let namespace = policy.target.namespace.as_deref();
            let list = match policy.target.labels.first_key_value() {
                None => index.whole_namespace.entry(namespace).or_default(),
                Some((key, value)) => index.by_label.entry((namespace, key, value)).or_default(),
            };
            list.push(place);
        }
        index
    }

    fn selecting(&self, identity: &IdentityInfo) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        for namespace in [Some(identity.namespace.as_str()), None] {
            found.extend(self.whole_namespace.get(&namespace).into_iter().flatten());
            for (key, value) in &identity.labels {
                found.extend(
                    self.by_label.get(&(namespace, key.as_str(), value.as_str())).into_iter().flatten(),
                );
            }
        }
        found.retain(|place| self.policies[*place].selects(identity));
        found.sort_unstable();
        found
    }
}
