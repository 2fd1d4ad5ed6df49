//! Which policies select which workload.

use std::collections::HashMap;
use std::sync::Arc;

use waxseal_common::ids::IdentityId;

use super::set::IdentityPolicy;
use crate::workload::{IdentityInfo, Labels};

/// The policies that select one workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound {
    /// Their places in the set, in document order.
    pub(super) policies: Vec<usize>,
}

/// The policies that select each identity, and for how long that holds: while the policies are the same ones, and the
/// identity has what selectors ask for.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    policies: Vec<Arc<IdentityPolicy>>,
    known: HashMap<IdentityId, (Asked, Arc<Bound>)>,
    /// Whether the policies are those of the time before.
    pub(super) same_policies: bool,
}

/// All that a selector can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    namespace: String,
    labels: Labels,
    account: Option<String>,
}

/// Up to how many new identities every policy is tried.
const FEW: usize = 4;

impl Asked {
    fn of(identity: &IdentityInfo) -> Self {
        Self {
            namespace: identity.namespace.clone(),
            labels: identity.labels.clone(),
            account: identity.spiffe_id.service_account().map(str::to_owned),
        }
    }

    fn is_of(&self, identity: &IdentityInfo) -> bool {
        self.namespace == identity.namespace
            && self.labels == identity.labels
            && self.account.as_deref() == identity.spiffe_id.service_account()
    }
}

impl Bindings {
    /// Brings them to these policies and identities. Returns what selects each identity, in the order given.
    pub(super) fn update(
        &mut self,
        policies: &[Arc<IdentityPolicy>],
        identities: &[IdentityInfo],
    ) -> Vec<Arc<Bound>> {
        let same = policies.iter().zip(&self.policies).all(|(a, b)| Arc::ptr_eq(a, b));
        self.same_policies = same && policies.len() == self.policies.len();
        if !self.same_policies {
            self.policies = policies.to_vec();
            self.known.clear();
        }
        let mut before = std::mem::take(&mut self.known);
        let mut known: Vec<Option<_>> = identities
            .iter()
            .map(|identity| before.remove(&identity.id).filter(|(asked, _)| asked.is_of(identity)))
            .collect();
        let newcomers = known.iter().filter(|known| known.is_none()).count();
        // An index is worth its making only for many.
        let index = (newcomers > FEW).then(|| Index::new(policies));
        let mut alike: HashMap<Asked, Arc<Bound>> = HashMap::new();
        let mut found = Vec::with_capacity(identities.len());
        for (identity, known) in identities.iter().zip(&mut known) {
            let (asked, bound) = known.take().unwrap_or_else(|| {
                let asked = Asked::of(identity);
                let bound = alike.entry(asked.clone()).or_insert_with(|| {
                    let policies = match &index {
                        Some(index) => index.selecting(identity),
                        None => selecting(policies, identity),
                    };
                    Arc::new(Bound { policies })
                });
                (asked, Arc::clone(bound))
            });
            found.push(Arc::clone(&bound));
            self.known.insert(identity.id, (asked, bound));
        }
        found
    }
}

/// The places of the policies that select anybody, in document order.
pub(super) fn used(policies: usize, bound: &[Arc<Bound>]) -> Vec<usize> {
    let mut is_used = vec![false; policies];
    bound.iter().flat_map(|bound| &bound.policies).for_each(|place| is_used[*place] = true);
    (0..policies).filter(|place| is_used[*place]).collect()
}

fn selecting(policies: &[Arc<IdentityPolicy>], identity: &IdentityInfo) -> Vec<usize> {
    let selects = |place: &usize| policies[*place].selects(identity);
    (0..policies.len()).filter(selects).collect()
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
            let list = match policy.target.labels.first() {
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
            for (key, value) in identity.labels.iter() {
                found.extend(self.by_label.get(&(namespace, key, value)).into_iter().flatten());
            }
        }
        found.retain(|place| self.policies[*place].selects(identity));
        found.sort_unstable();
        found
    }
}
