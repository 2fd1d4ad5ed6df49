//! Istio's `AuthorizationPolicy`, as far as it is about connections.

use waxseal_common::tables::Mode;

use super::conditions::When;
use super::foreign::Object;
use super::metadata::{Metadata, Opened};
use super::node::Node;
use super::{ROOT_NAMESPACE, node::Value};
use crate::policy::clause::{Clause, Target, Test};
use crate::policy::error::Problem;
use crate::policy::ports::{self, Ports};
use crate::policy::reader::Reader;
use crate::policy::set::{Action, Entity, Fields, IdentityPolicy, Peer, Posture, Rule};
use crate::workload::Labels;

/// What a request must be beyond its connection: nobody here reads requests.
const REQUEST_SOURCE: [&str; 4] =
    ["requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks"];
const REQUEST_OPERATION: [&str; 6] = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];

/// What a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Allow,
    Deny,
    Audit,
    Custom,
}

const ACTIONS: [(&str, Purpose); 4] = [
    ("ALLOW", Purpose::Allow),
    ("DENY", Purpose::Deny),
    ("AUDIT", Purpose::Audit),
    ("CUSTOM", Purpose::Custom),
];

/// One rule while it is read.
pub(super) struct Draft<'a> {
    purpose: Purpose,
    /// The namespace of the document.
    namespace: &'a str,
    /// Conditions about requests that were met, for one warning.
    pub(super) requests: Vec<String>,
    /// Whether the rule asks for an address of the destination.
    pub(super) own_address: bool,
}

impl Draft<'_> {
    /// Whether a condition that is left out makes the rule match less: such a rule is left out whole instead.
    fn allows(&self) -> bool {
        self.purpose == Purpose::Allow
    }

    /// Which conditions are not asked for, and why; `None` when there are none.
    fn not_honoured(&self) -> Option<String> {
        let requests = (!self.requests.is_empty())
            .then(|| format!("{} would have to be read from requests", self.requests.join(", ")));
        let own = self.own_address.then(|| {
            "when destination.ip asks for an address of the workload's own, which is not told apart"
                .to_owned()
        });
        match (requests, own) {
            (Some(requests), Some(own)) => Some(format!("{requests}; {own}")),
            (requests, own) => requests.or(own),
        }
    }

    /// The namespace of the document.
    pub(super) fn namespace(&self) -> &str {
        self.namespace
    }
}

impl Reader<'_> {
    pub(crate) fn authorization_policy(&mut self, node: &Node) -> Option<IdentityPolicy> {
        let Opened { metadata, object, place } = self.open(node, &["spec"], true)?;
        let empty = Node { place, value: Value::Object(Vec::new()) };
        let spec = object.get("spec").unwrap_or(&empty);
        let spec =
            self.object(spec, &["selector", "targetRef", "targetRefs", "rules", "action", "provider"])?;
        for (key, place) in spec.among(&["targetRef", "targetRefs", "provider"]) {
            self.unsupported(
                key,
                place,
                "it is about gateways and services, not about the workloads of this node",
            );
        }
        let purpose = match spec.get("action") {
            Some(node) => self.one_of(node, "action", &ACTIONS)?,
            None => Purpose::Allow,
        };
        if let (Purpose::Custom, Some(node)) = (purpose, spec.get("action")) {
            self.unsupported("action: CUSTOM", node.place, "another program would decide");
        }
        let selector = match spec.get("selector") {
            Some(node) => self.workload_selector(node)?,
            None => Labels::new(),
        };
        let rules = match spec.get("rules") {
            Some(node) => self.authorization_rules(node, purpose, &metadata.namespace)?,
            None => Vec::new(),
        };
        let mode = self.dry_run(&metadata, purpose);
        if rules.is_empty() && purpose != Purpose::Allow {
            self.warn(
                place,
                "says-nothing",
                "without rules this policy matches nothing and has no effect".to_owned(),
            );
        }
        let says_nothing = rules.is_empty() && purpose != Purpose::Allow;
        let Metadata { name, namespace, .. } = metadata;
        Some(IdentityPolicy {
            kind: "AuthorizationPolicy",
            part: 0,
            target: Target { labels: selector, ..self.mesh_target(&namespace) },
            except: Vec::new(),
            mode,
            ingress: (!says_nothing).then_some(rules),
            egress: None,
            posture: Posture { ingress: Some(purpose == Purpose::Allow), egress: None },
            origin: self.origin(place),
            namespace,
            name,
        })
    }

    /// The namespace of a document, or every one for a document in the root namespace.
    #[expect(clippy::unused_self, reason = "the root namespace is a setting that a reader may come to hold")]
    pub(super) fn mesh_target(&self, namespace: &str) -> Target {
        Target::namespace((namespace != ROOT_NAMESPACE).then(|| namespace.to_owned()))
    }

    /// `selector: { matchLabels: … }`.
    pub(super) fn workload_selector(&mut self, node: &Node) -> Option<Labels> {
        let object = self.object(node, &["matchLabels"])?;
        let Some(labels) = object.get("matchLabels") else { return Some(Labels::new()) };
        let found = self.match_labels(labels)?;
        Some(found.iter().filter_map(|r| Some((r.key.to_owned(), r.exact()?.to_owned()))).collect())
    }

    pub(super) fn unsupported(&mut self, field: &str, place: serde_saphyr::Location, why: &'static str) {
        let field = crate::escape::escape(field).into_owned();
        let _none: Option<()> = self.refuse(place, Problem::Unsupported { field, why });
    }

    fn dry_run(&mut self, metadata: &Metadata<'_>, purpose: Purpose) -> Option<Mode> {
        let audit = (purpose == Purpose::Audit).then_some(Mode::Audit);
        let Some(node) = metadata.annotation("istio.io/dry-run") else { return audit };
        match &node.value {
            Value::Text(text) if text == "true" => Some(Mode::Audit),
            Value::Text(text) if text == "false" => audit,
            _ => self.refuse(node.place, Problem::DryRun),
        }
    }

    fn authorization_rules(&mut self, node: &Node, purpose: Purpose, namespace: &str) -> Option<Vec<Rule>> {
        let rules = self.list(node)?;
        let mut found = Vec::new();
        for (index, node) in rules.iter().enumerate() {
            let mut draft = Draft { purpose, namespace, requests: Vec::new(), own_address: false };
            let rule = self.authorization_rule(node, index, &mut draft);
            let Some(why) = draft.not_honoured() else {
                found.extend(rule);
                continue;
            };
            if draft.allows() {
                let text = format!("rules[{index}] is left out, which allows less: {why}");
                self.warn(node.place, "request-conditions", text);
            } else {
                let text = format!("rules[{index}] matches more than it says: {why}");
                self.warn(node.place, "request-conditions", text);
                found.extend(rule);
            }
        }
        Some(found)
    }

    fn authorization_rule(&mut self, node: &Node, index: usize, draft: &mut Draft<'_>) -> Option<Rule> {
        let object = self.object(node, &["from", "to", "when"])?;
        let sources = match object.get("from") {
            Some(node) => Some(self.sources(node, draft)?),
            None => None,
        };
        let mut ports = match object.get("to") {
            Some(node) => self.operations(node, draft)?,
            None => None,
        };
        let when = match object.get("when") {
            Some(node) => self.when(node, draft)?,
            None => When::default(),
        };
        for list in when.ports {
            ports = Some(match ports {
                Some(ports) => ports::both(&ports, &list),
                None => list,
            });
        }
        let origin = self.origin(node.place);
        let peer = |clauses: Vec<Clause>| Peer {
            is: Fields::default(),
            not: None,
            clauses: clauses.into(),
            origin: origin.clone(),
        };
        let peers = match sources {
            Some(sources) => {
                Some(sources.into_iter().map(|s| peer([s, when.clauses.clone()].concat())).collect())
            }
            None if when.clauses.is_empty() => None,
            None => Some(vec![peer(when.clauses)]),
        };
        let action = if draft.allows() { Action::Allow } else { Action::Deny };
        Some(Rule { name: Some(format!("rules[{index}]")), action, peers, ports, origin })
    }

    /// Each source as its conditions, all of which must hold. A source that can never match is left out.
    fn sources(&mut self, node: &Node, draft: &mut Draft<'_>) -> Option<Vec<Vec<Clause>>> {
        let list = self.list(node)?;
        self.empty_list(list.is_empty(), node, "from", draft)?;
        let mut found = Vec::new();
        for node in list {
            let object = self.object(node, &["source"])?;
            let source = self.must(&object, "source")?;
            found.extend(self.source(source, draft)?);
        }
        Some(found)
    }

    #[expect(clippy::option_option, reason = "refused, never matching, and conditions are three things")]
    fn source(&mut self, node: &Node, draft: &mut Draft<'_>) -> Option<Option<Vec<Clause>>> {
        let object = self.object(node, &SOURCE)?;
        if object.is_empty() {
            self.never(node, "source");
            return Some(None);
        }
        draft.requests.extend(object.among(&REQUEST_SOURCE).into_iter().map(|(key, _)| key.to_owned()));
        let mut clauses = Vec::new();
        let namespace = draft.namespace;
        for (key, negative, read) in IDENTITIES {
            for (key, negated) in [(key, false), (negative, true)] {
                let Some(node) = object.get(key) else { continue };
                let tests = read(self, node, namespace)?;
                self.empty_list(tests.is_empty(), node, key, draft)?;
                clauses.push(if negated { Clause::none(tests) } else { Clause::any(tests) });
            }
        }
        for (key, make) in [("ipBlocks", Clause::within as fn(_) -> _), ("notIpBlocks", Clause::outside)] {
            let Some(node) = object.get(key) else { continue };
            let ranges = self.blocks(node)?;
            self.empty_list(ranges.is_empty(), node, key, draft)?;
            clauses.push(make(ranges));
        }
        if object.among(&["principals", "namespaces", "serviceAccounts"]).is_empty() {
            self.warn_negative(&object, &["notPrincipals", "notNamespaces", "notServiceAccounts"]);
        }
        Some(Some(clauses))
    }

    fn never(&mut self, node: &Node, key: &str) {
        self.warn(node.place, "never-matches", format!("an empty `{key}` never matches, as in Istio"));
    }

    /// An empty list matches nothing: that is strict in an ALLOW, and would undo a DENY.
    pub(super) fn empty_list(
        &mut self,
        empty: bool,
        node: &Node,
        key: &'static str,
        draft: &Draft<'_>,
    ) -> Option<()> {
        if !empty || !self.errors.is_empty() {
            return Some(());
        }
        if !draft.allows() {
            return self.refuse(node.place, Problem::EmptyDeny(key));
        }
        self.warn(node.place, "matches-nothing", format!("an empty `{key}` matches nothing"));
        Some(())
    }

    /// The ports of all operations together; `None` when some operation asks nothing about ports.
    #[expect(clippy::option_option, reason = "refused, every port, and some ports are three things")]
    fn operations(&mut self, node: &Node, draft: &mut Draft<'_>) -> Option<Option<Vec<Ports>>> {
        let list = self.list(node)?;
        self.empty_list(list.is_empty(), node, "to", draft)?;
        let mut together = Some(Vec::new());
        for node in list {
            let object = self.object(node, &["operation"])?;
            let node = self.must(&object, "operation")?;
            let operation = self.object(node, &OPERATION)?;
            if operation.is_empty() {
                self.never(node, "operation");
                continue;
            }
            draft.requests.extend(operation.among(&REQUEST_OPERATION).into_iter().map(|(k, _)| k.to_owned()));
            match self.operation_ports(&operation, draft)? {
                Some(ports) => together = together.map(|list: Vec<Ports>| [list, ports].concat()),
                None => together = None,
            }
        }
        Some(together)
    }

    #[expect(clippy::option_option, reason = "refused, every port, and some ports are three things")]
    fn operation_ports(&mut self, operation: &Object<'_>, draft: &Draft<'_>) -> Option<Option<Vec<Ports>>> {
        let mut ports: Option<Vec<Ports>> = None;
        for (key, negated) in [("ports", false), ("notPorts", true)] {
            let Some(node) = operation.get(key) else { continue };
            let list = self.istio_ports(node, negated, draft)?;
            self.empty_list(list.is_empty(), node, key, draft)?;
            ports = Some(match ports {
                Some(ports) => ports::both(&ports, &list),
                None => list,
            });
        }
        Some(ports)
    }

    /// Ports as texts of digits. Istio's are those of TCP.
    pub(super) fn istio_ports(
        &mut self,
        node: &Node,
        negated: bool,
        draft: &Draft<'_>,
    ) -> Option<Vec<Ports>> {
        let list = self.list(node)?;
        let mut numbers = Vec::new();
        for node in list {
            numbers.extend(self.port_number(node));
        }
        if negated && !numbers.is_empty() {
            return Some(ports::but_tcp(&numbers, !draft.allows()));
        }
        Some(numbers.into_iter().map(Ports::tcp).collect())
    }
}

type ReadTests = fn(&mut Reader<'_>, &Node, &str) -> Option<Vec<Test>>;

const IDENTITIES: [(&str, &str, ReadTests); 3] = [
    ("principals", "notPrincipals", |reader, node, _| reader.principals(node)),
    ("namespaces", "notNamespaces", |reader, node, _| reader.path_namespaces(node)),
    ("serviceAccounts", "notServiceAccounts", |reader, node, namespace| {
        reader.service_accounts(node, namespace)
    }),
];

const SOURCE: [&str; 12] = [
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];

const OPERATION: [&str; 8] =
    ["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"];

/// Sources that have proved who they are.
pub(super) fn proven() -> Clause {
    Clause::any(vec![Test::Entity(Entity::AnyAuthenticated)])
}
