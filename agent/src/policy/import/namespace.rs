//! The labels of namespaces: where documents tell them, and what selectors that ask for them come down to.

use std::sync::Arc;

use super::metadata::Opened;
use super::node::Node;
use crate::policy::clause::{Clause, Test, Tests};
use crate::policy::reader::Reader;
use crate::policy::set::{IdentityPolicy, PolicySet};
use crate::policy::warning::Warning;
use crate::workload::Labels;

impl Reader<'_> {
    /// The name and the labels of a namespace of a cluster.
    pub(crate) fn cluster_namespace(&mut self, node: &Node) -> Option<(String, Labels)> {
        let Opened { metadata, .. } = self.open(node, &["spec"], false)?;
        let mut labels = Vec::new();
        if let Some(node) = metadata.labels() {
            for (key, value) in self.entries(node)? {
                let text = self.text(value)?;
                self.label(&key.value, text, value.place)?;
                labels.push((key.value.as_str(), text));
            }
        }
        Some((metadata.name, labels.into_iter().collect()))
    }
}

/// Whether any clause of a policy is about the labels of namespaces.
fn asks_labels(policy: &IdentityPolicy) -> bool {
    let rules = policy.ingress.iter().chain(&policy.egress).flatten();
    let peers = rules.flat_map(|rule| rule.peers.iter().flatten());
    let clauses = policy.target.clauses.iter().chain(peers.flat_map(|peer| &peer.clauses));
    let tests = clauses.filter_map(|clause| match &clause.tests {
        Tests::Identity(tests) => tests.first(),
        Tests::Address(_) => None,
    });
    tests.into_iter().any(|test| matches!(test, Test::NamespaceLabels { .. }))
}

/// Puts the names of namespaces in the place of questions about their labels.
pub(crate) fn resolve_namespaces(set: &mut PolicySet) {
    let known = std::mem::take(&mut set.namespace_labels);
    let mut resolve = |clause: &mut Clause| {
        let Tests::Identity(tests) = &mut clause.tests else { return };
        let [Test::NamespaceLabels { wanted, otherwise, origin }] = tests.as_slice() else { return };
        let holds = |labels: &Labels| {
            wanted.iter().all(|wanted| {
                let value = labels.get(&wanted.key);
                let has = value.is_some_and(|v| {
                    wanted.values.as_ref().is_none_or(|values| values.iter().any(|one| one == v))
                });
                has != wanted.negated
            })
        };
        // Nobody told the labels of the other namespaces: whatever is stricter is taken for true.
        let named = known.iter().filter(|(_, labels)| holds(labels) != *otherwise);
        let named: Vec<Test> = named.map(|(name, _)| Test::Namespace(name.clone())).collect();
        if !known.values().any(&holds) {
            set.warnings.push(Warning {
                origin: origin.clone(),
                code: "no-such-namespace",
                text: "no namespace is known to have these labels; add the `kind: Namespace` documents (apiVersion: v1) \
                       of your namespaces, or select by `kubernetes.io/metadata.name`"
                    .to_owned(),
            });
        }
        *clause = Clause { negated: *otherwise, tests: Tests::Identity(named) };
    };
    for policy in set.policies.iter_mut().filter(|policy| asks_labels(policy)) {
        let policy = Arc::make_mut(policy);
        policy.target.clauses.iter_mut().for_each(&mut resolve);
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
            for peer in rule.peers.iter_mut().flatten() {
                peer.clauses.iter_mut().for_each(&mut resolve);
            }
        }
    }
    set.namespace_labels = known;
}
