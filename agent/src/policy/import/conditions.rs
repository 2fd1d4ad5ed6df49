//! `when` of an Istio rule.

use super::authorization::Draft;
use super::foreign::Object;
use super::node::Node;
use crate::escape::escape;
use crate::nearest::nearest;
use crate::policy::clause::Clause;
use crate::policy::error::Problem;
use crate::policy::ports::Ports;
use crate::policy::reader::Reader;

/// What all conditions of a rule ask.
#[derive(Debug, Default)]
pub(super) struct When {
    pub(super) clauses: Vec<Clause>,
    /// Each list is a condition of its own.
    pub(super) ports: Vec<Vec<Ports>>,
}

const CONNECTION: [&str; 6] = [
    "source.ip",
    "source.principal",
    "source.namespace",
    "source.serviceAccount",
    "destination.ip",
    "destination.port",
];
/// Keys that are about requests, TLS or headers; those that end with `[` have a name in brackets.
const REQUEST: [&str; 8] = [
    "remote.ip",
    "connection.sni",
    "request.headers[",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[",
    "experimental.envoy.filters.",
];

impl Reader<'_> {
    pub(super) fn when(&mut self, node: &Node, draft: &mut Draft<'_>) -> Option<When> {
        let mut when = When::default();
        for node in self.list(node)? {
            let object = self.object(node, &["key", "values", "notValues"])?;
            let key_node = self.must(&object, "key")?;
            let key = self.text(key_node)?;
            if object.among(&["values", "notValues"]).is_empty() {
                return self.refuse(node.place, Problem::Missing("values"));
            }
            let about_request = REQUEST
                .iter()
                .any(|known| key == *known || known.ends_with(['[', '.']) && key.starts_with(known));
            if key == "destination.ip" {
                // Nothing that tables are asked about.
                self.destination_addresses(&object)?;
                draft.own_address = true;
            } else if about_request {
                draft.requests.push(format!("when {}", escape(key)));
            } else if CONNECTION.contains(&key) {
                self.condition(key, &object, draft, &mut when)?;
            } else {
                let known: Vec<String> =
                    CONNECTION.iter().chain(&REQUEST).map(|key| shown_key(key)).collect();
                let near = nearest(key, CONNECTION.iter().chain(&REQUEST).copied()).map(shown_key);
                let found = escape(key).into_owned();
                let problem = Problem::Word { what: "condition", found, near, known: known.join(", ") };
                return self.refuse(key_node.place, problem);
            }
        }
        Some(when)
    }

    /// A bad value is a mistake although nothing is done with the good ones.
    fn destination_addresses(&mut self, object: &Object<'_>) -> Option<()> {
        for key in ["values", "notValues"] {
            if let Some(node) = object.get(key) {
                self.blocks(node)?;
            }
        }
        Some(())
    }

    fn condition(
        &mut self,
        key: &str,
        object: &Object<'_>,
        draft: &Draft<'_>,
        when: &mut When,
    ) -> Option<()> {
        for (list, negated) in [("values", false), ("notValues", true)] {
            let Some(node) = object.get(list) else { continue };
            let empty = self.list(node)?.is_empty();
            self.empty_list(empty, node, list, draft)?;
            if key == "destination.port" {
                let ports = self.istio_ports(node, negated, draft)?;
                when.ports.push(ports);
                continue;
            }
            if key == "source.ip" {
                let ranges = self.blocks(node)?;
                when.clauses.push(if negated { Clause::outside(ranges) } else { Clause::within(ranges) });
                continue;
            }
            let tests = match key {
                "source.principal" => self.principals(node)?,
                "source.serviceAccount" => self.service_accounts(node, draft.namespace())?,
                _ => self.path_namespaces(node)?,
            };
            if negated && object.get("values").is_none() {
                self.warn_negative(object, &["notValues"]);
            }
            when.clauses.push(if negated { Clause::none(tests) } else { Clause::any(tests) });
        }
        Some(())
    }
}

fn shown_key(key: &str) -> String {
    match key.chars().next_back() {
        Some('[') => format!("{key}NAME]"),
        Some('.') => format!("{key}*"),
        _ => key.to_owned(),
    }
}
