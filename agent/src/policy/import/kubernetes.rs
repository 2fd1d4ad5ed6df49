//! Kubernetes' `NetworkPolicy`. Peers that select pods are known by their identity instead of their address.

use std::collections::BTreeMap;

use super::foreign::{Object, no_port};
use super::labels::Requirement;
use super::metadata::{Metadata, Opened};
use super::node::{Node, Value};
use crate::policy::clause::{Clause, NamespaceLabel, Target, Test};
use crate::policy::error::Problem;
use crate::policy::ports::Ports;
use crate::policy::reader::Reader;
use crate::policy::set::{Action, Entity, Fields, IdentityPolicy, Peer, Posture, Rule};
use crate::workload::Labels;
use waxseal_common::ids::protocol;

const SCTP: u8 = 132;
const PROTOCOLS: [(&str, u8); 3] = [("TCP", protocol::TCP), ("UDP", protocol::UDP), ("SCTP", SCTP)];
const TYPES: [(&str, bool); 2] = [("Ingress", false), ("Egress", true)];
/// Every namespace carries its own name under this key.
pub(super) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

impl Reader<'_> {
    pub(crate) fn network_policy(&mut self, node: &Node) -> Option<IdentityPolicy> {
        let Opened { metadata, object, place } = self.open(node, &["spec"], true)?;
        let spec = self.must(&object, "spec")?;
        let spec = self.object(spec, &["podSelector", "ingress", "egress", "policyTypes"])?;
        let selector = self.must(&spec, "podSelector")?;
        let requirements = self.requirements(selector)?;
        let ingress = self.network_rules(&spec, "ingress", "from", &metadata.namespace)?;
        let egress = self.network_rules(&spec, "egress", "to", &metadata.namespace)?;
        let (wants_ingress, wants_egress) = self.policy_types(&spec, &egress)?;
        let (labels, clauses) = split(&requirements);
        let Metadata { name, namespace, .. } = metadata;
        Some(IdentityPolicy {
            kind: "NetworkPolicy",
            part: 0,
            target: Target { namespace: Some(namespace.clone()), labels, clauses },
            except: Vec::new(),
            mode: None,
            ingress: wants_ingress.then_some(ingress),
            egress: wants_egress.then_some(egress),
            posture: Posture { ingress: Some(true), egress: Some(true) },
            origin: self.origin(place),
            namespace,
            name,
        })
    }

    /// Which directions it is about: those it names, or ingress, and egress when there are egress rules.
    fn policy_types(&mut self, spec: &Object<'_>, egress: &[Rule]) -> Option<(bool, bool)> {
        let types = match spec.get("policyTypes") {
            Some(node) => self.list(node)?,
            None => &[],
        };
        if types.is_empty() {
            if let (true, Some(node)) = (egress.is_empty(), spec.get("egress")) {
                let text = "an empty `egress` without `policyTypes` says nothing, as in Kubernetes; add `policyTypes: [Egress]` \
                            to deny";
                self.warn(node.place, "says-nothing", text.to_owned());
            }
            return Some((true, !egress.is_empty()));
        }
        let mut found = (false, false);
        for node in types {
            let is_egress = self.one_of(node, "policy type", &TYPES)?;
            found = (found.0 || !is_egress, found.1 || is_egress);
        }
        for (key, wanted) in [("ingress", found.0), ("egress", found.1)] {
            if let (false, Some(node)) = (wanted, spec.get(key)) {
                let text = format!(
                    "`policyTypes` does not name this direction, so `{key}` says nothing, as in Kubernetes"
                );
                self.warn(node.place, "says-nothing", text);
            }
        }
        Some(found)
    }

    fn network_rules(
        &mut self,
        spec: &Object<'_>,
        section: &'static str,
        key: &'static str,
        namespace: &str,
    ) -> Option<Vec<Rule>> {
        let Some(node) = spec.get(section) else { return Some(Vec::new()) };
        let mut rules = Vec::new();
        for (index, node) in self.list(node)?.iter().enumerate() {
            let object = self.object(node, &[key, "ports"])?;
            let peers = match object.get(key) {
                Some(node) => self.network_peers(node, key, namespace)?,
                None => None,
            };
            let ports = match object.get("ports") {
                Some(node) => self.network_ports(node)?,
                None => None,
            };
            let (name, origin) = (Some(format!("{section}[{index}]")), self.origin(node.place));
            rules.push(Rule { name, action: Action::Allow, peers, ports, origin });
        }
        Some(rules)
    }

    #[expect(clippy::option_option, reason = "refused, everybody, and some peers are three things")]
    fn network_peers(
        &mut self,
        node: &Node,
        key: &'static str,
        namespace: &str,
    ) -> Option<Option<Vec<Peer>>> {
        let list = self.list(node)?;
        if list.is_empty() {
            self.empty_means_all(node, key, "everybody");
            return Some(None);
        }
        let mut peers = Vec::new();
        for node in list {
            let clauses = self.network_peer(node, namespace)?;
            let (is, origin) = (Fields::default(), self.origin(node.place));
            peers.push(Peer { is, not: None, clauses: clauses.into(), origin });
        }
        Some(Some(peers))
    }

    fn empty_means_all(&mut self, node: &Node, key: &str, whom: &str) {
        let text = format!(
            "an empty `{key}` means {whom}, as in Kubernetes and unlike elsewhere here; leave the key out to say so"
        );
        self.warn(node.place, "empty-list", text);
    }

    fn network_peer(&mut self, node: &Node, namespace: &str) -> Option<Vec<Clause>> {
        let object = self.object(node, &["podSelector", "namespaceSelector", "ipBlock"])?;
        if let Some(block) = object.get("ipBlock") {
            for (other, place) in object.among(&["podSelector", "namespaceSelector"]) {
                let other = if other == "podSelector" { "podSelector" } else { "namespaceSelector" };
                self.refuse::<()>(place, Problem::Together("ipBlock", other))?;
            }
            let block = self.object(block, &["cidr", "except"])?;
            let cidr = self.must(&block, "cidr")?;
            return Some(vec![Clause::within(vec![self.range_except(cidr, block.get("except"))?])]);
        }
        if object.is_empty() {
            return self.refuse(node.place, Problem::EmptyNetworkPeer);
        }
        let mut clauses = match object.get("namespaceSelector") {
            Some(node) => {
                let requirements = self.requirements(node)?;
                self.namespaces_of(&requirements, false)
            }
            None => vec![Clause::any(vec![Test::Namespace(namespace.to_owned())])],
        };
        if let Some(node) = object.get("podSelector") {
            let requirements = self.requirements(node)?;
            clauses.extend(requirements.iter().map(|r| r.clause(r.key)));
        }
        Some(clauses)
    }

    /// Workloads of the namespaces that have these labels. `otherwise` is what is taken for true of a namespace whose
    /// labels nobody tells.
    pub(super) fn namespaces_of(&mut self, wanted: &[Requirement<'_>], otherwise: bool) -> Vec<Clause> {
        let mut clauses = vec![Clause::any(vec![Test::Entity(Entity::AnyAuthenticated)])];
        let mut labels = Vec::new();
        for Requirement { key, values, negated, .. } in wanted {
            match (*key == NAMESPACE_NAME, values) {
                (true, Some(names)) => {
                    let tests = names.iter().cloned().map(Test::Namespace).collect();
                    clauses.push(if *negated { Clause::none(tests) } else { Clause::any(tests) });
                }
                // Every namespace has its name.
                (true, None) if *negated => clauses.push(Clause::any(Vec::new())),
                (true, None) => {}
                (false, values) => labels.push(NamespaceLabel {
                    key: (*key).to_owned(),
                    values: values.clone(),
                    negated: *negated,
                }),
            }
        }
        if let (false, Some(first)) = (labels.is_empty(), wanted.first()) {
            let origin = self.origin(first.place);
            clauses.push(Clause::any(vec![Test::NamespaceLabels { wanted: labels, otherwise, origin }]));
        }
        clauses
    }

    #[expect(clippy::option_option, reason = "refused, every port, and some ports are three things")]
    fn network_ports(&mut self, node: &Node) -> Option<Option<Vec<Ports>>> {
        let list = self.list(node)?;
        if list.is_empty() {
            self.empty_means_all(node, "ports", "every port");
            return Some(None);
        }
        let mut ports = Vec::new();
        for node in list {
            ports.extend(self.network_port(node)?);
        }
        Some(Some(ports))
    }

    #[expect(clippy::option_option, reason = "refused, left out, and some ports are three things")]
    fn network_port(&mut self, node: &Node) -> Option<Option<Ports>> {
        let object = self.object(node, &["protocol", "port", "endPort"])?;
        let protocol = match object.get("protocol") {
            Some(node) => self.one_of(node, "protocol", &PROTOCOLS)?,
            None => protocol::TCP,
        };
        let Some(port) = object.get("port") else {
            return match object.get("endPort") {
                Some(node) => self.refuse(node.place, Problem::EndPort),
                None => Some(Some(Ports::whole(protocol))),
            };
        };
        let low = match self.port(port)? {
            Ok(low) if low > 0 && matches!(port.value, Value::Number(_)) => low,
            Ok(low) if low > 0 => return self.refuse(port.place, Problem::QuotedPort),
            Ok(_) => return self.refuse(port.place, no_port(port)),
            Err(name) => {
                if let Some(node) = object.get("endPort") {
                    return self.refuse(node.place, Problem::EndPort);
                }
                self.named_port(port, name);
                return Some(None);
            }
        };
        let high = match object.get("endPort") {
            Some(node) => {
                let high = self.port_number(node)?;
                if high < low { self.refuse(node.place, Problem::EndPort)? } else { high }
            }
            None => low,
        };
        if protocol == SCTP {
            self.warn(
                node.place,
                "sctp-port",
                "ports of SCTP are not told apart here: this port is left out, which allows less".to_owned(),
            );
            return Some(None);
        }
        Some(Some(Ports { protocol, low, high }))
    }

    /// A port that has a name: nobody here knows the names.
    pub(super) fn named_port(&mut self, node: &Node, name: &str) {
        let name = crate::escape::escape(name).into_owned();
        self.warn(
            node.place,
            "named-port",
            format!("the number of the port `{name}` is not known here: it is left out, which allows less; write the number"),
        );
    }
}

/// What is asked of labels, in the two forms that a target has.
pub(super) fn split(requirements: &[Requirement<'_>]) -> (Labels, Vec<Clause>) {
    let mut labels = BTreeMap::new();
    let mut clauses = Vec::new();
    for requirement in requirements {
        match requirement.exact() {
            // A second value for the same key can only be asked for beside the first.
            Some(value) if !labels.contains_key(requirement.key) => {
                labels.insert(requirement.key, value);
            }
            _ => clauses.push(requirement.clause(requirement.key)),
        }
    }
    (labels.into_iter().collect(), clauses)
}
