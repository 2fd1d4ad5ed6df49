//! Endpoint selectors of Cilium: labels with a source in front, some of which mean something else than a label.

use std::collections::BTreeMap;

use super::cilium::Document;
use super::kubernetes::NAMESPACE_NAME;
use super::labels::Requirement;
use super::node::{Node, Value};
use crate::policy::clause::{Clause, NamespaceLabel, Test};
use crate::policy::error::Problem;
use crate::policy::reader::Reader;
use crate::policy::set::{Action, Entity};

const NAMESPACE: [&str; 2] = ["io.kubernetes.pod.namespace", "io.cilium.k8s.policy.namespace"];
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
const CLUSTER: &str = "io.cilium.k8s.policy.cluster";

/// What a selector asks.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// Labels with exactly these values.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) clauses: Vec<Clause>,
    /// Whether it names namespaces itself.
    pub(super) names_namespace: bool,
    /// Whether it asks for one of the reserved identities.
    pub(super) reserved: bool,
}

/// What a label stands for.
enum Meaning<'a> {
    Label(&'a str),
    Namespace,
    NamespaceLabel(&'a str),
    ServiceAccount,
    Reserved(&'a str),
    Unknown(&'static str),
}

fn meaning(key: &str) -> Meaning<'_> {
    let bare = match key.split_once(':') {
        None => key,
        Some(("k8s" | "any", rest)) => rest,
        Some(("reserved", word)) => return Meaning::Reserved(word),
        Some(_) => return Meaning::Unknown("labels here have no source; `k8s:` and `any:` are understood"),
    };
    if NAMESPACE.contains(&bare) {
        Meaning::Namespace
    } else if bare == SERVICE_ACCOUNT {
        Meaning::ServiceAccount
    } else if bare == CLUSTER {
        Meaning::Unknown("clusters are not told apart here")
    } else if let Some(label) = bare.strip_prefix(NAMESPACE_LABELS) {
        if label == NAMESPACE_NAME { Meaning::Namespace } else { Meaning::NamespaceLabel(label) }
    } else {
        Meaning::Label(bare)
    }
}

impl Reader<'_> {
    /// Reads an endpoint selector: of the workloads that a policy binds, or of a peer. `action` is that of the rule; what
    /// a policy binds is read as strictly as a deny.
    pub(super) fn endpoints(
        &mut self,
        node: &Node,
        document: Document<'_>,
        binds: bool,
        action: Action,
    ) -> Option<Selected> {
        let mut selected = Selected::default();
        let mut wanted = Vec::new();
        let mut asked_at = None;
        for requirement in self.requirements(node)? {
            match meaning(requirement.key) {
                Meaning::Label(key) => selected.ask(&requirement, key),
                Meaning::Namespace | Meaning::NamespaceLabel(_) if binds && document.namespace.is_some() => {
                    self.own_namespace(&requirement, document)?;
                }
                Meaning::Namespace => {
                    selected.names_namespace = true;
                    selected.namespace(&requirement);
                }
                Meaning::NamespaceLabel(key) => {
                    selected.names_namespace = true;
                    asked_at = asked_at.or(Some(requirement.place));
                    wanted.push(NamespaceLabel {
                        key: key.to_owned(),
                        values: requirement.values.clone(),
                        negated: requirement.negated,
                    });
                }
                Meaning::ServiceAccount => self.service_account(&requirement, &mut selected)?,
                Meaning::Reserved(word) if !binds => {
                    selected.reserved = true;
                    self.reserved(word, &requirement, action, &mut selected)?;
                }
                Meaning::Reserved(_) => {
                    self.unsupported(requirement.key, requirement.place, "rules bind workloads only");
                    return None;
                }
                Meaning::Unknown(why) => {
                    self.unsupported(requirement.key, requirement.place, why);
                    return None;
                }
            }
        }
        if let Some(place) = asked_at {
            let (otherwise, origin) = (action == Action::Deny, self.origin(place));
            selected.clauses.push(Clause::any(vec![Test::NamespaceLabels { wanted, otherwise, origin }]));
        }
        Some(selected)
    }

    /// A policy of a namespace may name its own namespace, and no other.
    fn own_namespace(&mut self, requirement: &Requirement<'_>, document: Document<'_>) -> Option<()> {
        let own = document.namespace.unwrap_or_default();
        let is_name = matches!(meaning(requirement.key), Meaning::Namespace);
        if is_name && requirement.exact() == Some(own) {
            return Some(());
        }
        let key = crate::escape::escape(requirement.key).into_owned();
        self.refuse(requirement.place, Problem::LeavesNamespace { namespace: own.to_owned(), key })
    }

    fn service_account(&mut self, requirement: &Requirement<'_>, selected: &mut Selected) -> Option<()> {
        let Some(names) = &requirement.values else {
            let why = "every workload has a service account; select by its name";
            self.unsupported(requirement.key, requirement.place, why);
            return None;
        };
        let tests = names.iter().cloned().map(Test::ServiceAccount).collect();
        selected.clauses.push(if requirement.negated { Clause::none(tests) } else { Clause::any(tests) });
        Some(())
    }

    fn reserved(
        &mut self,
        word: &str,
        requirement: &Requirement<'_>,
        action: Action,
        selected: &mut Selected,
    ) -> Option<()> {
        if requirement.negated {
            let why = "an identity that is not asked for; name those that are";
            self.unsupported(requirement.key, requirement.place, why);
            return None;
        }
        let text = Node { place: requirement.place, value: Value::Text(word.to_owned()) };
        match self.entity(&text, action)? {
            Some(clauses) => selected.clauses.extend(clauses),
            None => selected.clauses.push(Clause::any(Vec::new())),
        }
        Some(())
    }
}

impl Selected {
    fn ask(&mut self, requirement: &Requirement<'_>, key: &str) {
        match requirement.exact() {
            Some(value) if !self.labels.contains_key(key) => {
                self.labels.insert(key.to_owned(), value.to_owned());
            }
            _ => self.clauses.push(requirement.clause(key)),
        }
    }

    fn namespace(&mut self, requirement: &Requirement<'_>) {
        let tests = match &requirement.values {
            Some(names) => names.iter().cloned().map(Test::Namespace).collect(),
            // Every workload is in some namespace.
            None => vec![Test::Entity(Entity::AnyAuthenticated)],
        };
        self.clauses.push(if requirement.negated { Clause::none(tests) } else { Clause::any(tests) });
    }

    /// The conditions on a peer: everything in one form.
    pub(super) fn into_clauses(self) -> Vec<Clause> {
        let label = |(key, value)| Clause::any(vec![Test::Label { key, values: Some(vec![value]) }]);
        self.labels.into_iter().map(label).chain(self.clauses).collect()
    }
}
