//! What documents of every kind mean, row by row: documents, a connection, the verdict, the rule that decides. Written
//! from the references of the documents, and asked of the tables and of the reference evaluator, which must agree.

mod cilium;
mod istio;
mod kubernetes;
mod native;
mod strict;

use std::fmt::Write as _;
use std::net::IpAddr;

use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Judgement, Peer as OtherEnd, Question, decide};

use crate::policy::reference::{self, Connection};
use crate::policy::{
    Compiled, Compiler, NodeDefaults, PolicySet, Ports, expected_identities, parse, verdict_word,
};
use crate::workload::IdentityInfo;

/// Documents, and what they say about connections: `in` or `out` (which end is judged), source, destination with port,
/// verdict, the rule or object that decides (`-` for none). An end is a word of the world below, with `@address` when its
/// own is not meant.
#[derive(Clone, Copy)]
struct Group {
    about: &'static str,
    documents: &'static str,
    rows: &'static str,
}

/// Name, namespace, labels, SPIFFE ID, address.
const WORKLOADS: [(&str, &str, &str, &str, &str); 8] = [
    ("web", "shop", "app: web, tier: front", "spiffe://cluster.local/ns/shop/sa/web", "10.0.0.1"),
    ("api", "shop", "app: api, tier: back", "spiffe://cluster.local/ns/shop/sa/api", "10.0.0.2"),
    ("batch", "shop", "app: batch", "spiffe://cluster.local/ns/shop/sa/batch", "10.0.0.3"),
    ("db", "data", "app: db, tier: back", "spiffe://cluster.local/ns/data/sa/db", "10.0.1.1"),
    ("cache", "data", "app: cache", "spiffe://cluster.local/ns/data/sa/cache", "10.0.1.2"),
    ("pay", "payments", "app: pay, tier: front", "spiffe://cluster.local/ns/payments/sa/pay", "10.0.2.1"),
    ("twin", "ext", "app: web, tier: front", "spiffe://partner.org/ns/shop/sa/web", "10.0.3.1"),
    ("odd", "ext", "app: odd", "spiffe://cluster.local/robots/odd", "10.0.3.2"),
];

const RESERVED: [(&str, IdentityId, &str); 5] = [
    ("unknown", IdentityId::UNKNOWN, "10.9.9.9"),
    ("host", IdentityId::HOST, "10.0.0.254"),
    ("world", IdentityId::WORLD, "203.0.113.9"),
    ("world6", IdentityId::WORLD, "2001:db8::9"),
    ("unmanaged", IdentityId::UNMANAGED, "10.0.0.254"),
];

fn world() -> String {
    let mut text = String::new();
    for (name, namespace, labels, id, _) in WORKLOADS {
        let _infallible = write!(
            text,
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: {name}, namespace: {namespace}, \
             labels: {{ {labels} }} }}\nspec: {{ selector: {{ cgroup: /{name} }}, spiffeId: \"{id}\" }}\n"
        );
    }
    text
}

/// What all rows of a group are asked of.
struct Asked {
    set: PolicySet,
    identities: Vec<IdentityInfo>,
    defaults: NodeDefaults,
    compiled: Compiled,
}

impl Asked {
    fn new(documents: &str) -> Self {
        let text = format!("{documents}\n{}", world());
        let set = parse("p.yaml".as_ref(), &text, &"cluster.local".parse().unwrap())
            .unwrap_or_else(|errors| panic!("{errors}\n{documents}"));
        let identities = expected_identities(&set);
        let mesh = vec!["10.0.0.0/8".parse().unwrap()];
        let defaults = NodeDefaults { mode: Mode::Enforce, mesh, local: Vec::new() };
        let compiled = Compiler::new(1).compile(&set, &identities, &defaults).unwrap();
        Self { set, identities, defaults, compiled }
    }

    fn end(&self, text: &str) -> (IdentityId, IpAddr) {
        let (name, at) = text.split_once('@').map_or((text, None), |(name, at)| (name, Some(at)));
        let known = WORKLOADS.iter().find(|workload| workload.0 == name).map(|workload| {
            let info = self.identities.iter().find(|info| info.name == name).unwrap();
            (info.id, workload.4)
        });
        let reserved = RESERVED.iter().find(|end| end.0 == name).map(|end| (end.1, end.2));
        let (id, own) = known.or(reserved).unwrap_or_else(|| panic!("nobody is `{name}`"));
        (id, at.unwrap_or(own).parse().unwrap())
    }

    fn row(&self, row: &str) -> Row<'_> {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [direction, from, to, verdict, rule] = words.as_slice() else { panic!("no row: {row}") };
        let (to, port) = to.rsplit_once(':').unwrap();
        let ports = Ports::parse(port).unwrap()[0];
        let (source, destination) = (self.end(from), self.end(to));
        let (direction, (subject, _), (peer, peer_ip)) = match *direction {
            "in" => (Direction::Ingress, destination, source),
            "out" => (Direction::Egress, source, destination),
            other => panic!("no direction: {other}"),
        };
        let connection = Connection {
            direction,
            subject,
            peer: OtherEnd::Known(peer),
            peer_ip,
            loopback: false,
            protocol: ports.protocol,
            port: if ports.low == ports.high { ports.low } else { 0 },
        };
        Row { asked: self, connection, expected: format!("{verdict} {rule}") }
    }
}

struct Row<'a> {
    asked: &'a Asked,
    connection: Connection,
    expected: String,
}

impl Row<'_> {
    fn judged(&self) -> Judgement {
        let Connection { direction, subject, peer, peer_ip, loopback, protocol, port } = self.connection;
        let peer_address = self.asked.compiled.address(Address::from(peer_ip));
        let question = Question { direction, subject, peer, peer_address, loopback, protocol, port };
        decide(&self.asked.compiled, &question, Mode::Enforce)
    }

    /// What is wrong with the row, if anything is.
    fn mistake(&self) -> Option<String> {
        let judged = self.judged();
        let rule = self.asked.compiled.rule(judged.rule);
        let title = rule.map_or_else(|| "-".to_owned(), crate::policy::RuleInfo::title);
        let found = format!("{} {title}", verdict_word(judged.verdict));
        let Asked { set, identities, defaults, .. } = self.asked;
        let reference = reference::judge(set, identities, defaults, &self.connection);
        if !reference.admits(&judged, rule) {
            return Some(format!("the tables say {found}, the documents {reference:?}"));
        }
        (found != self.expected).then(|| format!("found {found}"))
    }
}

#[test]
fn documents_of_every_kind_mean_what_their_references_say() {
    let groups = [native::GROUPS, istio::GROUPS, strict::GROUPS, cilium::GROUPS, kubernetes::GROUPS].concat();
    let (mut rows, mut wrong) = (0, Vec::new());
    for Group { about, documents, rows: lines } in groups {
        let asked = Asked::new(documents);
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            rows += 1;
            if let Some(mistake) = asked.row(line).mistake() {
                wrong.push(format!("{about}: {line}: {mistake}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows >= 300, "only {rows} rows");
}
