//! Who is at the other end, in the words of Cilium.

use super::authorization::proven;
use super::cilium::{Document, Section};
use super::foreign::Object;
use super::node::Node;
use crate::policy::clause::{Clause, Test};
use crate::policy::error::Problem;
use crate::policy::ports::Ports;
use crate::policy::reader::Reader;
use crate::policy::set::{Action, AddressRange, Entity, Fields, Peer};

/// The keys of a rule about sources, and of one about destinations.
const FROM: [&str; 10] = [
    "fromEndpoints",
    "fromEntities",
    "fromCIDR",
    "fromCIDRSet",
    "fromRequires",
    "fromGroups",
    "fromNodes",
    "toPorts",
    "icmps",
    "authentication",
];
const TO: [&str; 12] = [
    "toEndpoints",
    "toEntities",
    "toCIDR",
    "toCIDRSet",
    "toRequires",
    "toGroups",
    "toNodes",
    "toServices",
    "toFQDNs",
    "toPorts",
    "icmps",
    "authentication",
];
/// Peers that nothing here can stand for.
const NOT_PEERS: [&str; 6] = ["fromGroups", "toGroups", "fromNodes", "toNodes", "toServices", "toFQDNs"];
/// The ways to name a peer, of which a rule has one.
const PEERS: [&str; 14] = [
    "fromEndpoints",
    "fromEntities",
    "fromCIDR",
    "fromCIDRSet",
    "fromGroups",
    "fromNodes",
    "toEndpoints",
    "toEntities",
    "toCIDR",
    "toCIDRSet",
    "toGroups",
    "toNodes",
    "toServices",
    "toFQDNs",
];
const AUTHENTICATION: [(&str, bool); 3] =
    [("disabled", false), ("required", true), ("test-always-fail", true)];

/// The words of Cilium.
const ENTITIES: [&str; 13] = [
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "host",
    "cluster",
    "unmanaged",
    "remote-node",
    "kube-apiserver",
    "init",
    "health",
    "ingress",
    "none",
];

type RuleParts = (Option<Vec<Peer>>, Option<Vec<Ports>>);

impl Reader<'_> {
    /// The peers and ports of a rule. `Some(None)` is a rule that is left out because it could only allow.
    #[expect(clippy::option_option, reason = "refused, left out, and read are three things")]
    pub(super) fn cilium_rule(
        &mut self,
        node: &Node,
        section: Section,
        document: Document<'_>,
    ) -> Option<Option<RuleParts>> {
        let keys: &[&str] = if section.egress { &TO } else { &FROM };
        let object = self.object(node, keys)?;
        for (key, place) in object.among(&["fromRequires", "toRequires"]) {
            self.unsupported(key, place, "it narrows other rules, and Cilium has given it up");
        }
        let ways = object.among(&PEERS);
        if let [(first, _), (second, place), ..] = ways.as_slice() {
            let known = |key: &str| PEERS.iter().copied().find(|known| *known == key).unwrap_or_default();
            return self.refuse(*place, Problem::Together(known(first), known(second)));
        }
        if let Some((key, place)) = object.among(&NOT_PEERS).first() {
            let what = "what it names is not known here by an identity or an address";
            if section.action == Action::Deny {
                self.unsupported(key, *place, what);
                return None;
            }
            let text =
                format!("this rule is left out, which allows less: `{key}` cannot be honoured, {what}");
            self.warn(*place, "unknown-peers", text);
            return Some(None);
        }
        if object.is_empty() {
            let text =
                "an empty rule matches nothing, as in Cilium; it only makes the direction deny by default";
            self.warn(node.place, "matches-nothing", text.to_owned());
            return Some(Some((Some(Vec::new()), None)));
        }
        let peers = match ways.first() {
            Some((key, _)) => self.cilium_peers(&object, key, section, document)?,
            None => None,
        };
        let peers = self.authenticated(&object, peers, section)?;
        let Some(ports) = self.cilium_ports(&object, section)? else { return Some(None) };
        let origin = self.origin(node.place);
        let peer = |clauses: Vec<Clause>| Peer {
            is: Fields::default(),
            not: None,
            clauses: clauses.into(),
            origin: origin.clone(),
        };
        Some(Some((peers.map(|peers| peers.into_iter().map(peer).collect()), ports)))
    }

    #[expect(clippy::option_option, reason = "refused, everybody, and some peers are three things")]
    fn cilium_peers(
        &mut self,
        rule: &Object<'_>,
        key: &str,
        section: Section,
        document: Document<'_>,
    ) -> Option<Option<Vec<Vec<Clause>>>> {
        let Some(node) = rule.get(key) else { return Some(None) };
        let list = self.list(node)?;
        if list.is_empty() {
            let known = PEERS.iter().copied().find(|known| *known == key).unwrap_or_default();
            if section.action == Action::Deny {
                return self.refuse(node.place, Problem::EmptyDeny(known));
            }
            self.warn(node.place, "matches-nothing", format!("an empty `{key}` matches nothing"));
        }
        let mut peers = Vec::new();
        for node in list {
            if key.ends_with("Endpoints") {
                peers.push(self.endpoint_peer(node, document, section.action)?);
            } else if key.ends_with("Entities") {
                peers.extend(self.entity(node, section.action)?);
            } else if key.ends_with("CIDRSet") {
                peers.extend(self.cidr_set(node, section.action)?);
            } else {
                let text = self.text(node)?;
                peers.push(outsiders(self.range_of(text, node.place)?));
            }
        }
        Some(Some(peers))
    }

    /// Endpoints are workloads; those of the document's own namespace, unless the selector names others.
    fn endpoint_peer(&mut self, node: &Node, document: Document<'_>, action: Action) -> Option<Vec<Clause>> {
        let selected = self.endpoints(node, document, false, action)?;
        if selected.reserved {
            return Some(selected.into_clauses());
        }
        let mut clauses = match document.namespace {
            Some(namespace) if !selected.names_namespace => {
                vec![Clause::any(vec![Test::Namespace(namespace.to_owned())])]
            }
            // A deny of everything in a document of the whole cluster is a deny of everything.
            None if action == Action::Deny && selected.labels.is_empty() && selected.clauses.is_empty() => {
                return Some(Vec::new());
            }
            _ => vec![proven()],
        };
        clauses.extend(selected.into_clauses());
        Some(clauses)
    }

    /// What an entity is here; `Some(None)` is one that is left out because it could only allow.
    #[expect(clippy::option_option, reason = "refused, left out, and conditions are three things")]
    pub(super) fn entity(&mut self, node: &Node, action: Action) -> Option<Option<Vec<Clause>>> {
        let any = |entity| Clause::any(vec![Test::Entity(entity)]);
        let word = self.text(node)?;
        Some(Some(match word {
            "all" => Vec::new(),
            "world" => vec![any(Entity::World)],
            "world-ipv4" => vec![any(Entity::World), Clause::within(vec![whole("0.0.0.0/0")?])],
            "world-ipv6" => vec![any(Entity::World), Clause::within(vec![whole("::/0")?])],
            "host" => {
                let text = "`host` is the root cgroup and the kernel here; system services, as the kubelet with its probes, are \
                            workloads or `unmanaged`";
                self.warn(node.place, "host-is-narrow", text.to_owned());
                match action {
                    Action::Allow => vec![any(Entity::Host)],
                    Action::Deny => {
                        vec![Clause::any(vec![Test::Entity(Entity::Host), Test::Entity(Entity::Unmanaged)])]
                    }
                }
            }
            "unmanaged" => vec![any(Entity::Unmanaged)],
            // Everything inside: nobody who is denied may slip out by proving nothing.
            "cluster" if action == Action::Deny => vec![Clause::none(vec![Test::Entity(Entity::World)])],
            "cluster" => vec![Clause::any(vec![
                Test::TrustDomain(self.trust_domain.clone()),
                Test::Entity(Entity::Host),
                Test::Entity(Entity::Unmanaged),
            ])],
            "remote-node" | "kube-apiserver" | "init" | "health" | "ingress" | "none" => {
                let why = "nothing here tells this entity apart";
                if action == Action::Deny {
                    self.unsupported(word, node.place, why);
                    return None;
                }
                let text = format!("`{word}` is left out, which allows less: {why}");
                self.warn(node.place, "unknown-peers", text);
                return Some(None);
            }
            _ => return self.spelled(word, node.place, "entity", &ENTITIES.map(|word| (word, ()))).and(None),
        }))
    }

    #[expect(clippy::option_option, reason = "refused, left out, and conditions are three things")]
    fn cidr_set(&mut self, node: &Node, action: Action) -> Option<Option<Vec<Clause>>> {
        let object = self.object(node, &["cidr", "except", "cidrGroupRef", "cidrGroupSelector"])?;
        if let Some((key, place)) = object.among(&["cidrGroupRef", "cidrGroupSelector"]).first() {
            let why = "groups of addresses are not read";
            if action == Action::Deny {
                self.unsupported(key, *place, why);
                return None;
            }
            let text =
                format!("this range is left out, which allows less: `{key}` cannot be honoured, {why}");
            self.warn(*place, "unknown-peers", text);
            return Some(None);
        }
        let cidr = self.must(&object, "cidr")?;
        Some(Some(outsiders(self.range_except(cidr, object.get("except"))?)))
    }

    /// `authentication: { mode: required }`: the source must have proved who it is.
    #[expect(clippy::option_option, reason = "refused, everybody, and some peers are three things")]
    fn authenticated(
        &mut self,
        rule: &Object<'_>,
        peers: Option<Vec<Vec<Clause>>>,
        section: Section,
    ) -> Option<Option<Vec<Vec<Clause>>>> {
        let Some(node) = rule.get("authentication") else { return Some(peers) };
        if section.action == Action::Deny {
            self.unsupported("authentication", node.place, "a deny asks for no proof");
            return None;
        }
        let object = self.object(node, &["mode"])?;
        let mode = self.must(&object, "mode")?;
        let required = self.one_of(mode, "mode", &AUTHENTICATION)?;
        if self.text(mode)? == "test-always-fail" {
            return Some(Some(Vec::new()));
        }
        if !required {
            return Some(peers);
        }
        let peers = peers.unwrap_or_else(|| vec![Vec::new()]);
        Some(Some(
            peers
                .into_iter()
                .map(|mut clauses| {
                    clauses.push(proven());
                    clauses
                })
                .collect(),
        ))
    }
}

/// Cilium's ranges are about the world outside: an endpoint is known by its identity, whatever its address.
fn outsiders(range: AddressRange) -> Vec<Clause> {
    vec![
        Clause::within(vec![range]),
        Clause::none(vec![Test::Entity(Entity::AnyAuthenticated), Test::Entity(Entity::Host)]),
    ]
}

fn whole(text: &str) -> Option<AddressRange> {
    Some(AddressRange { cidr: text.parse().ok()?, except: Box::default() })
}
