//! Cilium's policies. A policy that selects a workload in a direction makes it deny there what no rule allows.

use super::cilium_labels::Selected;
use super::foreign::Object;
use super::metadata::{Metadata, Opened};
use super::node::Node;
use crate::policy::clause::Target;
use crate::policy::reader::Reader;
use crate::policy::set::{Action, IdentityPolicy, Posture, Rule};

const SPEC: [&str; 10] = [
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "labels",
    "description",
    "log",
];

/// The document that a rule stands in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'a> {
    pub(super) kind: &'static str,
    /// `None` for a document of the whole cluster.
    pub(super) namespace: Option<&'a str>,
}

/// One list of rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) action: Action,
    pub(super) egress: bool,
}

const SECTIONS: [Section; 4] = [
    Section { name: "ingress", action: Action::Allow, egress: false },
    Section { name: "ingressDeny", action: Action::Deny, egress: false },
    Section { name: "egress", action: Action::Allow, egress: true },
    Section { name: "egressDeny", action: Action::Deny, egress: true },
];

impl Reader<'_> {
    /// A document becomes one policy for each of its specs.
    pub(crate) fn cilium_policy(&mut self, node: &Node, namespaced: bool) -> Option<Vec<IdentityPolicy>> {
        let Opened { metadata, object, place } = self.open(node, &["spec", "specs"], namespaced)?;
        let Metadata { name, namespace, .. } = metadata;
        let document = Document {
            kind: if namespaced { "CiliumNetworkPolicy" } else { "CiliumClusterwideNetworkPolicy" },
            namespace: namespaced.then_some(namespace.as_str()),
        };
        let mut specs: Vec<&Node> = object.get("spec").into_iter().collect();
        if let Some(list) = object.get("specs") {
            specs.extend(self.list(list)?);
        }
        if specs.is_empty() {
            self.must(&object, "spec")?;
        }
        let mut policies = Vec::new();
        for (part, spec) in specs.into_iter().enumerate() {
            let Some(spec) = self.cilium_spec(spec, document) else { continue };
            let Spec { target, ingress, egress, posture } = spec;
            policies.push(IdentityPolicy {
                kind: document.kind,
                namespace: namespace.clone(),
                name: name.clone(),
                part: part as u32,
                target,
                except: Vec::new(),
                mode: None,
                ingress,
                egress,
                posture,
                origin: self.origin(place),
            });
        }
        Some(policies)
    }

    fn cilium_spec(&mut self, node: &Node, document: Document<'_>) -> Option<Spec> {
        let object = self.object(node, &SPEC)?;
        if let Some((key, place)) = object.among(&["nodeSelector"]).first() {
            self.unsupported(key, *place, "rules bind workloads, not nodes");
            return None;
        }
        let selector = self.must(&object, "endpointSelector")?;
        let target = self.endpoint_target(selector, document)?;
        let (mut ingress, mut egress) = (Vec::new(), Vec::new());
        let (mut speaks_in, mut speaks_out) = (false, false);
        for section in SECTIONS {
            let Some(node) = object.get(section.name) else { continue };
            let list = self.list(node)?;
            if list.is_empty() {
                let text = format!(
                    "an empty `{}` says nothing, as in Cilium; write `- {{}}` to deny by default",
                    section.name
                );
                self.warn(node.place, "says-nothing", text);
            }
            let rules = self.cilium_rules(list, section, document)?;
            if section.egress {
                egress.extend(rules);
                speaks_out |= !list.is_empty();
            } else {
                ingress.extend(rules);
                speaks_in |= !list.is_empty();
            }
        }
        let posture = self.default_deny(&object, speaks_in, speaks_out)?;
        let says = |speaks: bool, posture: Option<bool>| speaks || posture == Some(true);
        Some(Spec {
            target,
            ingress: says(speaks_in, posture.ingress).then_some(ingress),
            egress: says(speaks_out, posture.egress).then_some(egress),
            posture,
        })
    }

    /// A direction with rules denies by default, unless the document says otherwise.
    fn default_deny(&mut self, spec: &Object<'_>, ingress: bool, egress: bool) -> Option<Posture> {
        let mut posture = Posture { ingress: Some(ingress), egress: Some(egress) };
        let Some(node) = spec.get("enableDefaultDeny") else { return Some(posture) };
        let object = self.object(node, &["ingress", "egress"])?;
        if let Some(node) = object.get("ingress") {
            posture.ingress = Some(self.boolean(node)?);
        }
        if let Some(node) = object.get("egress") {
            posture.egress = Some(self.boolean(node)?);
        }
        Some(posture)
    }

    fn cilium_rules(&mut self, list: &[Node], section: Section, document: Document<'_>) -> Option<Vec<Rule>> {
        let mut rules = Vec::new();
        for (index, node) in list.iter().enumerate() {
            let Some((peers, ports)) = self.cilium_rule(node, section, document)? else { continue };
            rules.push(Rule {
                name: Some(format!("{}[{index}]", section.name)),
                action: section.action,
                peers,
                ports,
                origin: self.origin(node.place),
            });
        }
        Some(rules)
    }

    /// Whom a policy selects. A document of a namespace cannot name another, whatever the selector says.
    fn endpoint_target(&mut self, node: &Node, document: Document<'_>) -> Option<Target> {
        let Selected { labels, clauses, .. } = self.endpoints(node, document, true, Action::Deny)?;
        Some(Target {
            namespace: document.namespace.map(str::to_owned),
            labels: labels.into_iter().collect(),
            clauses,
        })
    }
}

struct Spec {
    target: Target,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
    posture: Posture,
}
