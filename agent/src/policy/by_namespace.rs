//! Which policies and workloads of a set belong together, found without trying each with each.

use std::collections::HashMap;
use std::sync::Arc;

use super::set::{IdentityPolicy, PolicySet};
use crate::workload::Workload;

/// The policies and workloads of a set, by namespace.
pub(super) struct ByNamespace<'a> {
    /// Those for every namespace are under `None`.
    policies: HashMap<Option<&'a str>, Vec<&'a IdentityPolicy>>,
    workloads: HashMap<&'a str, Vec<&'a Workload>>,
    all: &'a [Arc<Workload>],
}

impl<'a> ByNamespace<'a> {
    pub(super) fn new(set: &'a PolicySet) -> Self {
        let mut found = Self { policies: HashMap::new(), workloads: HashMap::new(), all: &set.workloads };
        for policy in &set.policies {
            found.policies.entry(policy.target.namespace.as_deref()).or_default().push(policy);
        }
        for workload in &set.workloads {
            found.workloads.entry(&workload.namespace).or_default().push(workload);
        }
        found
    }

    /// Whether no workload is known.
    pub(super) fn knows_nobody(&self) -> bool {
        self.all.is_empty()
    }

    /// The workloads that a policy selects, in document order.
    pub(super) fn selected(&self, policy: &IdentityPolicy) -> Vec<&'a Workload> {
        match policy.target.namespace.as_deref() {
            Some(namespace) => {
                let near = self.workloads.get(namespace).into_iter().flatten().copied();
                near.filter(|workload| policy.selects(*workload)).collect()
            }
            None => self.all.iter().map(Arc::as_ref).filter(|workload| policy.selects(*workload)).collect(),
        }
    }

    /// The policies that select a workload, in document order.
    pub(super) fn selecting(&self, workload: &Workload) -> Vec<&'a IdentityPolicy> {
        let namespaces = [Some(workload.namespace.as_str()), None];
        let near = namespaces.iter().filter_map(|namespace| self.policies.get(namespace)).flatten().copied();
        let mut found: Vec<&IdentityPolicy> = near.filter(|policy| policy.selects(workload)).collect();
        found.sort_by(|a, b| a.origin.cmp(&b.origin));
        found
    }
}
