//! Random documents of other systems, and an oracle for each language: written from its reference, on the parts from which
//! the document is made, without any of the importers. What the importer, the compiler and the tables say must be that.

use std::fmt::Write as _;
use std::path::Path;

use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Peer as OtherEnd, Verdict};

use super::differential::{from_environment, judged};
use super::world::Random;
use crate::policy::reference::{self, Connection};
use crate::policy::{Compiler, NodeDefaults, expected_identities, parse};

const NAMESPACES: [&str; 3] = ["shop", "data", "pay"];
const APPS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 4] = [80, 81, 443, 5432];
const ADDRESSES: [&str; 4] = ["10.1.0.1", "10.2.0.1", "192.0.2.7", "203.0.113.9"];
const RANGES: [(&str, &[&str]); 4] = [
    ("10.0.0.0/8", &["10.1.0.1", "10.2.0.1"]),
    ("10.1.0.0/16", &["10.1.0.1"]),
    ("192.0.2.0/24", &["192.0.2.7"]),
    ("0.0.0.0/0", &["10.1.0.1", "10.2.0.1", "192.0.2.7", "203.0.113.9"]),
];

/// One end: a workload by its namespace and app, or nobody in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Workload(usize, usize),
    Reserved(IdentityId),
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    source: Who,
    ip: &'static str,
    port: u16,
    tcp: bool,
}

fn principal(namespace: usize, app: usize) -> String {
    format!("a.org/ns/{}/sa/{}", NAMESPACES[namespace], APPS[app])
}

/// A condition on a source, as it is written and as it is understood.
type Condition = (String, Holds);
/// Whether something holds for a connection.
type Holds = Box<dyn Fn(&Asked) -> bool>;
/// What a document says of a workload of its namespace: `None` when it does not bind it.
type Oracle = Box<dyn Fn(usize, usize, &Asked) -> Said>;

/// What one document says about one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    allows: bool,
    denies: bool,
    default_deny: bool,
}

fn list(items: &[String]) -> String {
    format!("[ {} ]", items.iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", "))
}

fn proven(asked: &Asked) -> bool {
    matches!(asked.source, Who::Workload(..))
}

/// One field of an Istio source.
fn istio_field(random: &mut Random) -> Condition {
    let negated = random.one_in(3);
    let turn = move |holds: bool| holds != negated;
    let key = |plain: &str, not: &str| if negated { not.to_owned() } else { plain.to_owned() };
    match random.below(4) {
        0 => {
            let (n, a) = (random.below(3), random.below(3));
            let text = format!("{}: {}", key("principals", "notPrincipals"), list(&[principal(n, a)]));
            (text, Box::new(move |asked| turn(asked.source == Who::Workload(n, a))))
        }
        1 => {
            let (n, b) = (random.below(3), random.below(3));
            let written = list(&[format!("a.org/ns/{}/*", NAMESPACES[n]), format!("*/sa/{}", APPS[b])]);
            let holds = move |asked: &Asked| matches!(asked.source, Who::Workload(x, y) if x == n || y == b);
            (
                format!("{}: {written}", key("principals", "notPrincipals")),
                Box::new(move |asked| turn(holds(asked))),
            )
        }
        2 => {
            let n = random.below(3);
            let text =
                format!("{}: {}", key("namespaces", "notNamespaces"), list(&[NAMESPACES[n].to_owned()]));
            (text, Box::new(move |asked| turn(matches!(asked.source, Who::Workload(x, _) if x == n))))
        }
        _ => {
            let (range, inside) = random.pick(&RANGES);
            let text = format!("{}: {}", key("ipBlocks", "notIpBlocks"), list(&[range.to_owned()]));
            (text, Box::new(move |asked| turn(inside.contains(&asked.ip))))
        }
    }
}

/// Fields with different keys, all of which must hold.
fn source(random: &mut Random) -> Condition {
    let (mut fields, mut tests): (Vec<String>, Vec<_>) = (Vec::new(), Vec::new());
    for _ in 0..=random.below(3) {
        let (text, test) = istio_field(random);
        let key = text.split(':').next().unwrap().to_owned();
        if !fields.iter().any(|field| field.starts_with(&format!("{key}:"))) {
            fields.push(text);
            tests.push(test);
        }
    }
    (format!("{{ {} }}", fields.join(", ")), Box::new(move |asked| tests.iter().all(|test| test(asked))))
}

fn istio(random: &mut Random, name: usize) -> (String, Oracle) {
    let (namespace, app, deny) = (random.below(3), random.below(3), random.one_in(3));
    let root = random.one_in(6);
    let (mut rules, mut tests): (Vec<String>, Vec<Holds>) = (Vec::new(), Vec::new());
    for _ in 0..=random.below(2) {
        let sources: Vec<Condition> = (0..random.below(3)).map(|_| source(random)).collect();
        let port = random.one_in(2).then(|| (random.pick(&PORTS), random.one_in(3)));
        let request = random.one_in(5);
        let mut parts = Vec::new();
        if !sources.is_empty() {
            let texts: Vec<String> =
                sources.iter().map(|(text, _)| format!("{{ source: {text} }}")).collect();
            parts.push(format!("from: [ {} ]", texts.join(", ")));
        }
        let mut operation = Vec::new();
        operation.extend(
            port.map(|(port, not)| format!("{}: [ '{port}' ]", if not { "notPorts" } else { "ports" })),
        );
        operation.extend(request.then(|| "methods: [ GET ]".to_owned()));
        if !operation.is_empty() {
            parts.push(format!("to: [ {{ operation: {{ {} }} }} ]", operation.join(", ")));
        }
        rules.push(format!("{{ {} }}", parts.join(", ")));
        tests.push(Box::new(move |asked| {
            let about_port = match port {
                None => true,
                // Of a DENY, what is no TCP is no exception.
                Some((_, true)) if !asked.tcp => deny,
                Some((port, not)) => asked.tcp && (asked.port == port) != not,
            };
            let by_source = sources.is_empty() || sources.iter().any(|(_, test)| test(asked));
            // Nobody reads requests: an ALLOW rule about them allows nothing.
            about_port && by_source && (deny || !request)
        }));
    }
    let metadata = if root { "istio-system" } else { NAMESPACES[namespace] };
    let text = format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: p{name}, namespace: {metadata} }}\nspec: {{ action: \
         {}, selector: {{ matchLabels: {{ app: {} }} }}, rules: [ {} ] }}\n",
        if deny { "DENY" } else { "ALLOW" },
        APPS[app],
        rules.join(", ")
    );
    let oracle = move |n: usize, a: usize, asked: &Asked| {
        if a != app || !root && n != namespace {
            return Said::default();
        }
        let matches = tests.iter().any(|test| test(asked));
        Said { allows: matches && !deny, denies: matches && deny, default_deny: !deny }
    };
    (text, Box::new(oracle))
}

fn strict(random: &mut Random, name: usize) -> (String, Oracle) {
    let (namespace, app, permissive) = (random.below(3), random.below(3), random.pick(&PORTS));
    // A name of its own and a selector of its own: how documents override each other is told elsewhere.
    let text = format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: s{name}, namespace: {} }}\nspec: {{ selector: {{ \
         matchLabels: {{ app: {} }} }}, mtls: {{ mode: STRICT }}, portLevelMtls: {{ {permissive}: {{ mode: PERMISSIVE }} }} }}\n",
        NAMESPACES[namespace], APPS[app]
    );
    let oracle = move |n: usize, a: usize, asked: &Asked| {
        let excepted = asked.tcp && asked.port == permissive;
        Said { denies: (n, a) == (namespace, app) && !proven(asked) && !excepted, ..Said::default() }
    };
    (text, Box::new(oracle))
}

/// A peer of Cilium or Kubernetes: workloads of a namespace or of all, by app.
fn selected(random: &mut Random, own: usize) -> (Option<usize>, Option<usize>, bool) {
    let namespace = if random.one_in(2) { Some(own) } else { Some(random.below(3)) };
    (namespace, random.one_in(2).then(|| random.below(3)), random.one_in(4))
}

fn meets((namespace, app, not): (Option<usize>, Option<usize>, bool), asked: &Asked) -> bool {
    let Who::Workload(n, a) = asked.source else { return false };
    namespace.is_none_or(|wanted| wanted == n) && app.is_none_or(|wanted| (wanted == a) != not)
}

fn expression(app: Option<usize>, not: bool) -> String {
    match (app, not) {
        (None, _) => String::new(),
        (Some(app), false) => format!("matchLabels: {{ app: {} }}", APPS[app]),
        (Some(app), true) => {
            format!("matchExpressions: [ {{ key: app, operator: NotIn, values: [ {} ] }} ]", APPS[app])
        }
    }
}

fn kubernetes(random: &mut Random, name: usize) -> (String, Oracle) {
    let (own, app) = (random.below(3), random.below(3));
    let (mut rules, mut tests): (Vec<String>, Vec<Holds>) = (Vec::new(), Vec::new());
    for _ in 0..random.below(3) {
        let peer = selected(random, own);
        let (range, inside) = random.pick(&RANGES);
        let block = random.one_in(3);
        let (low, high) = (random.pick(&PORTS), random.pick(&PORTS));
        let ports = random.one_in(2).then(|| (low.min(high), low.max(high), random.one_in(4)));
        let from = if block {
            format!("ipBlock: {{ cidr: '{range}' }}")
        } else {
            let namespace = NAMESPACES[peer.0.unwrap()];
            let other = format!(
                "namespaceSelector: {{ matchLabels: {{ kubernetes.io/metadata.name: {namespace} }} }}, podSelector: {{ {} }}",
                expression(peer.1, peer.2)
            );
            if peer.0 == Some(own) {
                format!("podSelector: {{ {} }}", expression(peer.1, peer.2))
            } else {
                other
            }
        };
        let mut rule = format!("from: [ {{ {from} }} ]");
        if let Some((low, high, udp)) = ports {
            let protocol = if udp { "UDP" } else { "TCP" };
            let _infallible =
                write!(rule, ", ports: [ {{ port: {low}, endPort: {high}, protocol: {protocol} }} ]");
        }
        rules.push(format!("{{ {rule} }}"));
        tests.push(Box::new(move |asked| {
            let about_ports =
                ports.is_none_or(|(low, high, udp)| asked.tcp != udp && (low..=high).contains(&asked.port));
            about_ports && if block { inside.contains(&asked.ip) } else { meets(peer, asked) }
        }));
    }
    let text = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: k{name}, namespace: {} }}\nspec: {{ podSelector: {{ \
         matchLabels: {{ app: {} }} }}, ingress: [ {} ] }}\n",
        NAMESPACES[own],
        APPS[app],
        rules.join(", ")
    );
    let oracle = move |n: usize, a: usize, asked: &Asked| {
        let bound = (n, a) == (own, app);
        Said { allows: bound && tests.iter().any(|test| test(asked)), denies: false, default_deny: bound }
    };
    (text, Box::new(oracle))
}

fn cilium(random: &mut Random, name: usize) -> (String, Oracle) {
    let (own, app) = (random.below(3), random.below(3));
    let wide = random.one_in(4);
    let soft = random.one_in(4);
    let mut sections: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    let mut tests: Vec<(bool, Holds)> = Vec::new();
    for _ in 0..=random.below(2) {
        let deny = random.one_in(3);
        let mut peer = selected(random, own);
        let (range, inside) = random.pick(&RANGES);
        let port = random.one_in(2).then(|| random.pick(&PORTS));
        let kind = random.below(4);
        let from = match kind {
            0 => {
                let mut asked = expression(peer.1, peer.2);
                if peer.0 != Some(own) {
                    let namespace = NAMESPACES[peer.0.unwrap()];
                    let key = "'k8s:io.kubernetes.pod.namespace'";
                    let both = format!("matchLabels: {{ {key}: {namespace}");
                    asked = match asked.strip_prefix("matchLabels: {") {
                        Some(rest) => format!("{both},{rest}"),
                        None if asked.is_empty() => format!("{both} }}"),
                        None => format!("{both} }}, {asked}"),
                    };
                } else if wide {
                    peer.0 = None;
                }
                format!("fromEndpoints: [ {{ {asked} }} ]")
            }
            1 => format!("fromCIDR: [ '{range}' ]"),
            2 => "fromEntities: [ world ]".to_owned(),
            _ => "fromEntities: [ cluster ]".to_owned(),
        };
        let mut rule = from;
        if let Some(port) = port {
            let _infallible = write!(rule, ", toPorts: [ {{ ports: [ {{ port: '{port}' }} ] }} ]");
        }
        sections[usize::from(deny)].push(format!("{{ {rule} }}"));
        let world = Who::Reserved(IdentityId::WORLD);
        let inner = [IdentityId::HOST, IdentityId::UNMANAGED].map(Who::Reserved);
        tests.push((
            deny,
            Box::new(move |asked| {
                let by_peer = match kind {
                    // A deny for everything in the whole cluster is for everything.
                    0 if wide && deny && peer.0.is_none() && peer.1.is_none() => true,
                    0 => meets(peer, asked),
                    1 => inside.contains(&asked.ip) && !proven(asked) && asked.source != inner[0],
                    2 => asked.source == world,
                    _ if deny => asked.source != world,
                    _ => proven(asked) || inner.contains(&asked.source),
                };
                by_peer && port.is_none_or(|port| asked.port == port)
            }),
        ));
    }
    let [allow, deny] = sections;
    let (kind, namespace) = if wide {
        ("CiliumClusterwideNetworkPolicy", String::new())
    } else {
        ("CiliumNetworkPolicy", format!(", namespace: {}", NAMESPACES[own]))
    };
    let mut spec = format!("endpointSelector: {{ matchLabels: {{ app: {} }} }}", APPS[app]);
    for (key, rules) in [("ingress", allow), ("ingressDeny", deny)] {
        if !rules.is_empty() {
            let _infallible = write!(spec, ", {key}: [ {} ]", rules.join(", "));
        }
    }
    if soft {
        spec.push_str(", enableDefaultDeny: { ingress: false }");
    }
    let text = format!(
        "---\napiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{ name: c{name}{namespace} }}\nspec: {{ {spec} }}\n"
    );
    let oracle = move |n: usize, a: usize, asked: &Asked| {
        if a != app || !wide && n != own {
            return Said::default();
        }
        let said = |denies: bool| tests.iter().any(|(deny, test)| *deny == denies && test(asked));
        Said { allows: said(false), denies: said(true), default_deny: !soft }
    };
    (text, Box::new(oracle))
}

fn world() -> String {
    let mut text = String::new();
    for namespace in NAMESPACES {
        for app in APPS {
            let _infallible = write!(
                text,
                "---\napiVersion: waxseal.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: {app}, namespace: {namespace}, labels: {{ app: {app} }} \
                 }}\nspec: {{ selector: {{ cgroup: /{namespace}-{app} }} }}\n"
            );
        }
    }
    text
}

fn asked(random: &mut Random) -> Asked {
    let source = if random.one_in(3) {
        let ids = [IdentityId::UNKNOWN, IdentityId::HOST, IdentityId::WORLD, IdentityId::UNMANAGED];
        Who::Reserved(random.pick(&ids))
    } else {
        Who::Workload(random.below(3), random.below(3))
    };
    Asked { source, ip: random.pick(&ADDRESSES), port: random.pick(&PORTS), tcp: !random.one_in(4) }
}

fn number(namespace: usize, app: usize) -> IdentityId {
    IdentityId(IdentityId::FIRST_WORKLOAD.0 + (namespace * APPS.len() + app) as u32)
}

/// What all documents together say, by the model of the language.
fn expected(oracles: &[Oracle], namespace: usize, app: usize, asked: &Asked) -> Verdict {
    let said: Vec<Said> = oracles.iter().map(|oracle| oracle(namespace, app, asked)).collect();
    if said.iter().any(|said| said.denies) {
        Verdict::Deny
    } else if said.iter().any(|said| said.allows) || !said.iter().any(|said| said.default_deny) {
        Verdict::Allow
    } else {
        Verdict::Deny
    }
}

#[test]
fn random_documents_of_other_systems_mean_what_their_oracles_say() {
    let cases = from_environment("WAXSEAL_CASES", 40_000);
    let first_seed = from_environment("WAXSEAL_SEED", 1);
    let per_set = 100;
    let workloads = world();
    let mut denied = 0;
    for seed in first_seed..first_seed + cases.div_ceil(per_set) {
        let mut random = Random(seed);
        let (mut text, mut oracles) = (workloads.clone(), Vec::new());
        let makers = [istio, istio, strict, kubernetes, cilium];
        let mut made_strict = false;
        for name in 0..=random.below(4) {
            let maker = random.below(makers.len());
            if maker == 2 && std::mem::replace(&mut made_strict, true) {
                continue;
            }
            let (document, oracle) = makers[maker](&mut random, name);
            text.push_str(&document);
            oracles.push(oracle);
        }
        let set = parse(Path::new("p.yaml"), &text, &"a.org".parse().unwrap())
            .unwrap_or_else(|errors| panic!("seed {seed}: {errors}\n{text}"));
        let identities = expected_identities(&set);
        let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
        let compiled = Compiler::new(1).compile(&set, &identities, &defaults).unwrap();
        for _ in 0..per_set {
            let (namespace, app, asked) = (random.below(3), random.below(3), asked(&mut random));
            let peer = match asked.source {
                Who::Workload(n, a) => number(n, a),
                Who::Reserved(id) => id,
            };
            let connection = Connection {
                direction: Direction::Ingress,
                subject: number(namespace, app),
                peer: OtherEnd::Known(peer),
                peer_ip: asked.ip.parse().unwrap(),
                loopback: false,
                protocol: if asked.tcp { 6 } else { 17 },
                port: asked.port,
            };
            let found = judged(&compiled, &connection);
            let wanted = expected(&oracles, namespace, app, &asked);
            let documents = text.split("kind: Workload").last().unwrap();
            assert_eq!(found.verdict, wanted, "seed {seed}: {asked:?} to {namespace}/{app}:\n{documents}");
            let reference = reference::judge(&set, &identities, &defaults, &connection);
            assert!(
                reference.admits(&found, compiled.rule(found.rule)),
                "seed {seed}: {asked:?}: {reference:?}"
            );
            denied += u64::from(wanted == Verdict::Deny);
        }
    }
    assert!(denied * 100 > cases * 10 && denied * 100 < cases * 90, "{denied} of {cases} denied");
}
