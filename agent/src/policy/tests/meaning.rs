//! What the language means, sentence by sentence: documents, questions, answers.

use std::net::IpAddr;

use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::tables::{AddressRow, Mode, Subject};
use waxseal_common::verdict::{Direction, Peer as OtherEnd, Question, Verdict, decide};

use super::read;
use crate::policy::{CompileError, Compiled, Compiler, NodeDefaults, PolicySet, expected_identities};

/// Four workloads: a, b in namespace one, c in namespace two of another trust domain, and the one under test, `s`.
const WORKLOADS: &str = "
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: s, namespace: one, labels: { app: s } }
spec: { selector: { cgroup: /s } }
---
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: a, namespace: one, labels: { app: a, tier: front } }
spec: { selector: { cgroup: /a } }
---
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: b, namespace: one, labels: { app: b } }
spec: { selector: { cgroup: /b } }
---
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: c, namespace: two, labels: { app: a } }
spec: { selector: { cgroup: /c }, spiffeId: spiffe://b.org/c }
---
";

const ENDS: [(&str, IdentityId); 9] = [
    ("s", IdentityId(256)),
    ("a", IdentityId(257)),
    ("b", IdentityId(258)),
    ("c", IdentityId(259)),
    ("unknown", IdentityId::UNKNOWN),
    ("host", IdentityId::HOST),
    ("world", IdentityId::WORLD),
    ("unmanaged", IdentityId::UNMANAGED),
    ("agent", IdentityId::AGENT),
];

fn set(spec: &str) -> PolicySet {
    let policy =
        "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: p, namespace: one }\n";
    read(&format!("{WORKLOADS}\n{policy}spec: {spec}")).unwrap_or_else(|errors| panic!("{spec}: {errors}"))
}

fn compile(set: &PolicySet) -> Compiled {
    let defaults =
        NodeDefaults { mode: Mode::Enforce, mesh: vec!["10.0.0.0/8".parse().unwrap()], local: Vec::new() };
    Compiler::new(1).compile(set, &expected_identities(set), &defaults).unwrap()
}

fn ask(
    compiled: &Compiled,
    direction: Direction,
    peer: OtherEnd,
    ip: &str,
    protocol: u8,
    port: u16,
) -> Verdict {
    let peer_address = compiled.address(Address::from(ip.parse::<IpAddr>().unwrap()));
    let subject = IdentityId(256);
    let question = Question { direction, subject, peer, peer_address, loopback: false, protocol, port };
    decide(compiled, &question, Mode::Enforce).verdict
}

/// The ends that may call `s` on 80/tcp.
fn callers(spec: &str) -> String {
    let compiled = compile(&set(spec));
    let may = |id: &IdentityId| {
        ask(&compiled, Direction::Ingress, OtherEnd::Known(*id), "10.0.0.9", 6, 80) == Verdict::Allow
    };
    ENDS.iter().filter(|(_, id)| may(id)).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

const EVERYBODY: &str = "s a b c unknown host world unmanaged agent";

#[test]
fn a_peer_matches_whom_a_reader_would_predict() {
    for (peer, expected) in [
        ("identity: spiffe://a.org/ns/one/sa/a", "a"),
        ("identity: spiffe://a.org/ns/one/*", "s a b"),
        ("identity: '*/sa/a'", "a"),
        ("identity: '*'", "s a b c"),
        ("trustDomain: b.org", "c"),
        ("namespace: one", "s a b"),
        ("labels: { app: a }", "a c"),
        ("labels: { app: a, tier: front }", "a"),
        ("namespace: two, labels: { app: a }", "c"),
        ("namespace: two, labels: { app: b }", ""),
        ("entity: host", "host"),
        ("entity: world", "world"),
        ("entity: unmanaged", "unmanaged"),
        ("entity: any-authenticated", "s a b c"),
        ("entity: any", EVERYBODY),
        ("cidr: 10.0.0.0/8", EVERYBODY),
        ("cidr: 10.0.0.0/8, except: [10.0.0.8/30]", ""),
        ("cidr: 192.0.2.0/24", ""),
        ("'cidr': '::/0'", ""),
        ("cidr: 10.0.0.0/8, namespace: one", "s a b"),
        ("namespace: one, not: { labels: { app: a } }", "s b"),
        ("namespace: one, not: { labels: { app: a }, identity: '*/sa/b' }", "s"),
        ("not: { namespace: one }", "c unknown host world unmanaged agent"),
        ("not: { identity: '*' }", "unknown host world unmanaged agent"),
        ("not: { entity: world }", "s a b c unknown host unmanaged agent"),
        ("not: { entity: any-authenticated, namespace: one }", "unknown host world unmanaged agent"),
        ("not: { entity: any }", ""),
        ("entity: any, not: { entity: host }", "s a b c unknown world unmanaged agent"),
        ("not: { cidr: 10.0.0.0/8 }", ""),
        ("not: { cidr: 192.0.2.0/24 }", EVERYBODY),
        ("not: { cidr: 10.0.0.0/8, except: [10.0.0.9] }", EVERYBODY),
        ("namespace: one, not: { cidr: 10.0.0.9/32 }", ""),
        ("entity: host, namespace: one", ""),
    ] {
        assert_eq!(callers(&format!("{{ ingress: [ {{ from: [ {{ {peer} }} ] }} ] }}")), expected, "{peer}");
    }
}

#[test]
fn empty_matches_nothing_and_absent_matches_everything() {
    for (spec, expected) in [
        ("{ }", EVERYBODY),
        ("{ egress: [] }", EVERYBODY),
        ("{ ingress: [] }", ""),
        ("{ ingress: [ {} ] }", EVERYBODY),
        ("{ ingress: [ { from: [] } ] }", ""),
        ("{ ingress: [ { ports: [] } ] }", ""),
        ("{ ingress: [ { from: [ { namespace: one } ] }, { from: [ { namespace: two } ] } ] }", "s a b c"),
        ("{ ingress: [ { from: [ { namespace: one }, { namespace: two } ] } ] }", "s a b c"),
        (
            "{ ingress: [ { action: deny, from: [ { namespace: one } ] } ] }",
            "c unknown host world unmanaged agent",
        ),
        ("{ ingress: [ { action: deny, from: [] } ] }", EVERYBODY),
        ("{ ingress: [ { action: deny } ] }", ""),
        ("{ selector: {}, ingress: [] }", ""),
        ("{ selector: { app: s }, ingress: [] }", ""),
        ("{ selector: { app: t }, ingress: [] }", EVERYBODY),
        ("{ selector: { app: s, x: y }, ingress: [] }", EVERYBODY),
        ("{ mode: audit, ingress: [] }", ""),
    ] {
        assert_eq!(callers(spec), expected, "{spec}");
    }
}

#[test]
fn a_deny_wins_wherever_it_stands_and_however_narrow_the_allow_is() {
    let deny = "{ action: deny, from: [ { namespace: one } ], ports: [ 80-90/tcp ] }";
    let allow =
        "{ from: [ { identity: spiffe://a.org/ns/one/sa/a, cidr: 10.0.0.9/32 } ], ports: [ 80/tcp ] }";
    for list in [format!("{deny}, {allow}"), format!("{allow}, {deny}")] {
        assert_eq!(callers(&format!("{{ ingress: [ {list} ] }}")), "", "{list}");
    }
    let by_address = "{ action: deny, from: [ { cidr: 10.0.0.0/24 } ] }";
    assert_eq!(callers(&format!("{{ ingress: [ {allow}, {by_address} ] }}")), "");
}

#[test]
fn a_policy_does_not_leave_its_namespace() {
    let other = "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: p, namespace: two }\nspec: { ingress: [] }";
    let set = read(&format!("{WORKLOADS}\n{other}")).unwrap();
    let compiled = compile(&set);
    let asked = ask(&compiled, Direction::Ingress, OtherEnd::Known(IdentityId(257)), "10.0.0.9", 6, 80);
    assert_eq!(asked, Verdict::Allow);
}

#[test]
fn the_mode_is_the_workloads_then_the_policys_then_the_namespaces_then_the_nodes() {
    let namespace = |mode: &str| {
        format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: {{ name: one }}\nspec: {{ mode: {mode} }}\n"
        )
    };
    let policy = |mode: &str| {
        format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: p, namespace: one }}\nspec: {{ {mode} ingress: [] }}\n"
        )
    };
    let own = |mode: &str| WORKLOADS.replace("cgroup: /s }", &format!("cgroup: /s }}, mode: {mode}"));
    for (text, expected) in [
        (format!("{WORKLOADS}{}", policy("")), Verdict::Deny),
        (format!("{WORKLOADS}{}{}", policy(""), namespace("permissive")), Verdict::WouldDeny),
        (format!("{WORKLOADS}{}{}", policy(""), namespace("audit")), Verdict::Audit),
        (format!("{WORKLOADS}{}{}", policy("mode: enforce,"), namespace("audit")), Verdict::Deny),
        (
            format!("{}{}{}", own("permissive"), policy("mode: enforce,"), namespace("audit")),
            Verdict::WouldDeny,
        ),
        (format!("{}{}{}", own("enforce"), policy(""), namespace("audit")), Verdict::Deny),
        (format!("{WORKLOADS}{}", policy("mode: audit,")), Verdict::Audit),
        (format!("{WORKLOADS}{}", policy("mode: permissive,")), Verdict::Audit),
    ] {
        let compiled = compile(&read(&text).unwrap());
        let asked = ask(&compiled, Direction::Ingress, OtherEnd::Known(IdentityId(257)), "10.0.0.9", 6, 80);
        assert_eq!(asked, expected, "{text}");
    }
}

#[test]
fn an_unresolved_destination_is_waited_for_only_when_its_name_can_matter() {
    for (egress, expected) in [
        ("{ to: [ { namespace: one } ] }", Verdict::Defer),
        ("{ to: [ { cidr: 10.0.0.0/8 } ] }", Verdict::Allow),
        ("{ to: [ { entity: any } ] }", Verdict::Allow),
        ("{ to: [ { not: { namespace: two } } ] }", Verdict::Defer),
        ("{ to: [ { cidr: 192.0.2.0/24 } ] }", Verdict::Deny),
        ("{ action: deny, to: [ { namespace: two } ] }", Verdict::Defer),
        ("{ action: deny, to: [ { namespace: two } ] }, { to: [ { cidr: 10.0.0.0/8 } ] }", Verdict::Defer),
        ("{ action: deny, to: [ { cidr: 10.0.0.0/8 } ] }, { to: [ { namespace: two } ] }", Verdict::Deny),
    ] {
        let compiled = compile(&set(&format!("{{ egress: [ {egress} ] }}")));
        assert_eq!(
            ask(&compiled, Direction::Egress, OtherEnd::Unresolved, "10.0.0.9", 6, 80),
            expected,
            "{egress}"
        );
    }
}

#[test]
fn a_policy_in_audit_never_turns_a_denial_into_waiting() {
    let policy = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: {name}, namespace: one }}\nspec: {spec}\n"
        )
    };
    for (enforced, beside, expected) in [
        ("egress: []", "{ action: deny, to: [ { namespace: two } ] }", Verdict::Deny),
        ("egress: []", "{ to: [ { namespace: two } ] }", Verdict::Deny),
        (
            "egress: [ { action: deny, ports: [ 443/tcp ] } ]",
            "{ action: deny, to: [ { namespace: two } ] }",
            Verdict::Defer,
        ),
        ("egress: [ { action: deny, ports: [ 80/tcp ] } ]", "{ to: [ { namespace: two } ] }", Verdict::Deny),
    ] {
        let beside = policy("b", &format!("{{ mode: audit, egress: [ {beside} ] }}"));
        let text = format!("{WORKLOADS}{}{beside}", policy("a", &format!("{{ {enforced} }}")));
        let compiled = compile(&read(&text).unwrap());
        let asked = ask(&compiled, Direction::Egress, OtherEnd::Unresolved, "10.0.0.9", 6, 80);
        assert_eq!(asked, expected, "{enforced}, beside {beside}");
    }
}

#[test]
fn a_namespace_can_deny_by_default_and_in_silence() {
    let namespace = "---\napiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: { name: one }\nspec: { defaultDeny: true, refuse: drop }";
    let compiled = compile(&read(&format!("{WORKLOADS}{namespace}")).unwrap());
    for direction in [Direction::Ingress, Direction::Egress] {
        assert_eq!(
            ask(&compiled, direction, OtherEnd::Known(IdentityId(257)), "10.0.0.9", 6, 80),
            Verdict::Deny
        );
    }
    let row = compiled.identities[&IdentityId(256)];
    assert!(row.ingress.has(Subject::REFUSE_SILENTLY) && row.egress.has(Subject::REFUSE_SILENTLY));
    let namer = &compiled.rules[&row.ingress.selected_by];
    assert_eq!((namer.kind, namer.policy.as_str(), namer.rule.as_deref()), ("Namespace", "one", None));
    assert_eq!(compiled.identities[&IdentityId(259)].ingress.flags, 0, "another namespace");
}

#[test]
fn ports_decide_per_protocol_and_icmp_is_both_of_them() {
    let spec = "{ ingress: [ { ports: [ 80/tcp, 9000-9100/tcp, 53/udp, icmp, proto/47 ] }, { action: deny, ports: [ 9050/tcp ] } ] }";
    let compiled = compile(&set(spec));
    for (protocol, port, expected) in [
        (6, 80, true),
        (6, 81, false),
        (6, 9000, true),
        (6, 9050, false),
        (6, 9051, true),
        (6, 9100, true),
        (6, 9101, false),
        (17, 53, true),
        (17, 80, false),
        (6, 53, false),
        (1, 0, true),
        (58, 0, true),
        (47, 0, true),
        (132, 0, false),
    ] {
        let asked =
            ask(&compiled, Direction::Ingress, OtherEnd::Known(IdentityId(257)), "10.0.0.9", protocol, port);
        assert_eq!(asked == Verdict::Allow, expected, "{port} of protocol {protocol}");
    }
}

#[test]
fn a_mesh_document_replaces_the_default_ranges_and_families_do_not_mix() {
    let mesh = "---\napiVersion: waxseal.dev/v1alpha1\nkind: Mesh\nmetadata: { name: m }\nspec: { cidrs: [ '::/0', 10.1.0.0/16 ] }";
    let with = compile(&read(&format!("{WORKLOADS}{mesh}")).unwrap());
    let without = compile(&read(WORKLOADS).unwrap());
    let in_mesh =
        |compiled: &Compiled, ip: &str| compiled.address(ip.parse::<IpAddr>().unwrap().into()).in_mesh();
    for (ip, expected_with, expected_without) in [
        ("10.1.2.3", true, true),
        ("10.2.2.3", false, true),
        ("8.8.8.8", false, false),
        ("2001:db8::1", true, false),
        ("::1", true, false),
    ] {
        assert_eq!((in_mesh(&with, ip), in_mesh(&without, ip)), (expected_with, expected_without), "{ip}");
    }
}

#[test]
fn prefixes_that_say_nothing_new_are_left_out() {
    let compiled = compile(&set("{ egress: [ { to: [ { cidr: 10.0.0.0/8 }, { cidr: 10.1.0.0/16 } ] } ] }"));
    let found: Vec<String> = compiled.addresses.keys().map(ToString::to_string).collect();
    assert_eq!(found, ["10.0.0.0/8", "10.1.0.0/16"]);
    let nothing = compile(&set("{ egress: [] }"));
    let row = AddressRow { class: 0, flags: AddressRow::MESH };
    assert_eq!(nothing.addresses.values().copied().collect::<Vec<_>>(), [row]);
}

#[test]
fn too_many_port_ranges_name_the_policies_that_meet() {
    let ports: Vec<String> = (0..65).map(|i| format!("{}/tcp", 1000 + 2 * i)).collect();
    let set = set(&format!("{{ ingress: [ {{ ports: [ {} ] }} ] }}", ports.join(", ")));
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: vec![], local: Vec::new() };
    let error = Compiler::new(1).compile(&set, &expected_identities(&set), &defaults).unwrap_err();
    let CompileError::TooManyRanges { policies, ranges, .. } = &error else { panic!("{error}") };
    assert_eq!((policies.as_slice(), *ranges), (["one/p".to_owned()].as_slice(), 65));
    assert!(error.to_string().starts_with("p.yaml:"), "{error}");
}

#[test]
fn identities_that_no_rule_tells_apart_share_a_class() {
    let compiled = compile(&set("{ ingress: [ { from: [ { namespace: one } ] } ] }"));
    let class = |id: u32| compiled.identities[&IdentityId(id)].peer_class;
    assert_eq!((class(256), class(257)), (class(257), class(258)));
    assert_ne!(class(256), 0);
    assert_eq!((class(259), class(0), class(2)), (0, 0, 0));
}
