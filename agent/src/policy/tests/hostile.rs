//! A corpus of hostile input: what each text tries, and what must come of it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::read;
use crate::policy::PolicySet;

fn istio(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: a, namespace: shop }}\nspec: {spec}\n"
    )
}

fn cilium(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{ name: c, namespace: shop }}\nspec: {spec}\n"
    )
}

fn kubernetes(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: k, namespace: shop }}\nspec: {spec}\n"
    )
}

/// Whether some rule of the only policy allows everybody on every port.
fn allows_all(set: &PolicySet) -> bool {
    let rules = set.policies[0].ingress.iter().flatten();
    let mut open = rules.filter(|rule| rule.action == crate::policy::Action::Allow && rule.peers.is_none());
    open.any(|rule| rule.ports.is_none())
}

#[test]
fn what_is_empty_never_becomes_everything() {
    for text in [
        istio("{}"),
        istio("{ rules: [] }"),
        istio("{ rules: [ { from: [] } ] }"),
        istio("{ rules: [ { from: [ { source: {} } ] } ] }"),
        istio("{ rules: [ { from: [ { source: { principals: [] } } ] } ] }"),
        istio("{ rules: [ { to: [] } ] }"),
        istio("{ rules: [ { to: [ { operation: { ports: [] } } ] } ] }"),
        istio("{ rules: [ { when: [ { key: source.ip, values: [] } ] } ] }"),
        cilium("{ endpointSelector: {}, ingress: [ {} ] }"),
        cilium("{ endpointSelector: {}, ingress: [ { fromEndpoints: [] } ] }"),
        cilium("{ endpointSelector: {}, ingress: [ { fromCIDRSet: [] } ] }"),
        cilium("{ endpointSelector: {}, ingress: [ { toPorts: [ { ports: [] } ] } ] }"),
        kubernetes("{ podSelector: {} }"),
        kubernetes("{ podSelector: {}, ingress: [] }"),
    ] {
        let set = read(&text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert!(!allows_all(&set), "{text}");
    }
}

#[test]
fn no_version_action_field_or_word_is_guessed() {
    for text in [
        istio("{ action: Allow }"),
        istio("{ action: deny }"),
        istio("{ action: '' }"),
        istio("{ rule: [] }"),
        istio("{ rules: [ { from: [ { source: { principal: [ a ] } } ] } ] }"),
        istio("{ rules: [ { when: [ { key: source.ip, value: [ a ] } ] } ] }"),
        istio("{}").replace("istio.io/v1", "istio.io/v2"),
        istio("{}").replace("AuthorizationPolicy", "authorizationpolicy"),
        cilium(
            "{ endpointSelector: {}, ingress: [ { toPorts: [ { ports: [ { port: '80', endport: 90 } ] } ] } ] }",
        ),
        cilium(
            "{ endpointSelector: {}, ingress: [ { toPorts: [ { ports: [ { port: '80', endPort: 70 } ] } ] } ] }",
        ),
        cilium("{ endpointSelector: {}, ingressDenied: [] }"),
        cilium("{ endpointSelector: {} }").replace("cilium.io/v2", "cilium.io/v3"),
        kubernetes("{ podSelector: {}, ingress: [ { ports: [ { port: 80, endport: 90 } ] } ] }"),
        kubernetes("{ podSelector: {}, policyTypes: [ ingress ] }"),
        kubernetes("{ podSelector: {}, policyType: [ Ingress ] }"),
        kubernetes("{ podSelector: {} }").replace("metadata:", "meta:"),
        kubernetes(
            "{ podSelector: {}, ingress: [ { from: [ { podSelector: {}, namespaceSelctor: {} } ] } ] }",
        ),
        kubernetes("{ podSelector: { matchLabels: { a: no } } }").replace("no", "yes: x"),
    ] {
        assert!(read(&text).is_err(), "{text}");
    }
}

#[test]
fn nothing_is_a_regular_expression() {
    for (principal, accepted) in [
        ("a.org/ns/shop/sa/web", true),
        ("a.org/ns/sh.p/sa/web", true),
        // A prefix that ends with a dot, and no more than that.
        ("a.org/ns/.*", true),
        ("a.org/ns/[a-z]+/sa/web", false),
        ("a.org/ns/shop|data/sa/web", false),
        ("^a.org/x$", false),
        ("a.org/ns/*/sa/web", false),
        ("*a.org/*", false),
        ("a.org/%2e%2e/x", false),
        ("a.org/../x", false),
        ("a.org//x", false),
        ("", false),
    ] {
        let text = istio(&format!(
            "{{ rules: [ {{ from: [ {{ source: {{ principals: [ '{principal}' ] }} }} ] }} ] }}"
        ));
        assert_eq!(read(&text).is_ok(), accepted, "{principal}");
    }
}

#[test]
fn no_selector_leaves_its_namespace() {
    for selector in [
        "{ matchLabels: { 'k8s:io.kubernetes.pod.namespace': data } }",
        "{ matchLabels: { 'io.kubernetes.pod.namespace': data } }",
        "{ matchLabels: { 'any:io.kubernetes.pod.namespace': data } }",
        "{ matchLabels: { 'io.cilium.k8s.namespace.labels.team': red } }",
        "{ matchLabels: { 'io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name': data } }",
        "{ matchExpressions: [ { key: io.kubernetes.pod.namespace, operator: Exists } ] }",
        "{ matchExpressions: [ { key: io.kubernetes.pod.namespace, operator: In, values: [ shop, data ] } ] }",
        "{ matchExpressions: [ { key: 'k8s:io.kubernetes.pod.namespace', operator: NotIn, values: [ shop ] } ] }",
        "{ matchLabels: { 'reserved:host': '' } }",
    ] {
        let text = cilium(&format!("{{ endpointSelector: {selector}, ingress: [ {{}} ] }}"));
        assert!(read(&text).is_err(), "{selector}");
    }
    let own = cilium(
        "{ endpointSelector: { matchLabels: { 'k8s:io.kubernetes.pod.namespace': shop } }, ingress: [ {} ] }",
    );
    assert!(read(&own).is_ok());
    let cluster = own.replace("CiliumNetwork", "CiliumClusterwideNetwork");
    assert!(read(&cluster).is_err(), "a document of the cluster lives in no namespace");
}

#[test]
fn values_are_what_is_written() {
    for (text, accepted) in [
        (kubernetes("{ podSelector: { matchLabels: { a: 'no' } } }"), true),
        (kubernetes("{ podSelector: { matchLabels: { a: no } } }"), true),
        (kubernetes("{ podSelector: { matchLabels: { a: true } } }"), false),
        (kubernetes("{ podSelector: { matchLabels: { a: 1.10 } } }"), false),
        (kubernetes("{ podSelector: {}, ingress: [ { ports: [ { port: 010 } ] } ] }"), false),
        (kubernetes("{ podSelector: {}, ingress: [ { ports: [ { port: 8_0 } ] } ] }"), true),
        (kubernetes("{ podSelector: {}, ingress: [ { ports: [ { port: -80 } ] } ] }"), false),
        (kubernetes("{ podSelector: {}, ingress: [ { ports: [ { port: 65536 } ] } ] }"), false),
        (kubernetes("{ podSelector: {}, ingress: [ { ports: [ { port: 0 } ] } ] }"), false),
        (istio("{ rules: [ { to: [ { operation: { ports: [ 080 ] } } ] } ] }"), false),
        (istio("{ rules: ~ }"), false),
        (istio("{ rules: [ ~ ] }"), false),
        (cilium("{ endpointSelector: ~ }"), false),
        (cilium("{ endpointSelector: {}, ingress: ~ }"), false),
        (cilium("{ endpointSelector: {}, enableDefaultDeny: { ingress: no } }"), false),
    ] {
        let found = read(&text);
        assert_eq!(found.is_ok(), accepted, "{text}: {found:?}");
    }
    // `8_0` is the name of a port, which nobody knows: it opens nothing.
    let set = read(&kubernetes("{ podSelector: {}, ingress: [ { ports: [ { port: 8_0 } ] } ] }")).unwrap();
    assert_eq!(set.policies[0].ingress.as_ref().unwrap()[0].ports.as_deref(), Some(&[][..]));
}

#[test]
fn bombs_in_every_language_are_refused_quickly() {
    let list = |item: &str| format!("apiVersion: v1\nkind: List\nitems:\n{item}");
    let mut laughs = String::from("x0: &x0 [ a, a, a, a, a, a, a, a, a, a ]\n");
    for level in 1..10 {
        let below = vec![format!("*x{}", level - 1); 10].join(", ");
        let _infallible = writeln!(laughs, "x{level}: &x{level} [ {below} ]");
    }
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let maps = format!("{}1{}", "{ a: ".repeat(5_000), " }".repeat(5_000));
    let nested = |levels: usize| {
        let open = "{ apiVersion: v1, kind: List, items: [ ".repeat(levels);
        format!("{open}{}", " ] }".repeat(levels))
    };
    for (name, text) in [
        ("laughs in Istio", istio(&format!("{{ rules: [] }}\n{laughs}"))),
        ("laughs in Cilium", cilium(&format!("{{ endpointSelector: {{}} }}\n{laughs}"))),
        ("depth in Istio", istio(&format!("{{ rules: {deep} }}"))),
        ("depth in Cilium", cilium(&format!("{{ endpointSelector: {maps} }}"))),
        ("depth in Kubernetes", kubernetes(&format!("{{ podSelector: {maps} }}"))),
        ("lists in lists", nested(20)),
        ("lists in very many lists", nested(5_000)),
        ("many bad items", list(&"- { kind: x }\n".repeat(10_000))),
        ("items that refer to each other", list("- &a { kind: x }\n- *a\n- *a\n")),
        ("items of nothing", list(&"- ~\n".repeat(10_000))),
        (
            "many unknown keys",
            istio(&format!(
                "{{ {} }}",
                (0..20_000).map(|n| format!("k{n}: 1")).collect::<Vec<_>>().join(", ")
            )),
        ),
        (
            "many bad principals",
            istio(&format!(
                "{{ rules: [ {{ from: [ {{ source: {{ principals: [ {} ] }} }} ] }} ] }}",
                vec!["x"; 50_000].join(", ")
            )),
        ),
        ("one long key", cilium(&format!("{{ {}: 1 }}", "k".repeat(300_000)))),
    ] {
        let started = Instant::now();
        let found = read(&text).map(|set| format!("accepted: {} policies", set.policies.len()));
        let found = found.expect_err(name).to_string();
        assert!(started.elapsed() < Duration::from_secs(20), "{name} took {:?}", started.elapsed());
        assert!(found.len() < 80_000, "{name}: {} bytes", found.len());
    }
}

#[test]
fn names_from_documents_are_escaped_wherever_they_are_shown() {
    let evil = "\"\\e[2J\\u202e\\n\"";
    for text in [
        istio(&format!("{{ rules: [ {{ from: [ {{ source: {{ principals: [ {evil} ] }} }} ] }} ] }}")),
        istio(&format!("{{ {evil}: 1 }}")),
        istio(&format!("{{ action: {evil} }}")),
        istio(&format!("{{ rules: [ {{ when: [ {{ key: {evil}, values: [ a ] }} ] }} ] }}")),
        cilium(&format!("{{ endpointSelector: {{ matchLabels: {{ {evil}: a }} }} }}")),
        cilium(&format!("{{ endpointSelector: {{}}, ingress: [ {{ fromEntities: [ {evil} ] }} ] }}")),
        kubernetes(&format!(
            "{{ podSelector: {{}}, ingress: [ {{ ports: [ {{ port: 80, protocol: {evil} }} ] }} ] }}"
        )),
    ] {
        let shown = read(&text).unwrap_err().to_string();
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{shown:?}");
    }
    let named =
        kubernetes(&format!("{{ podSelector: {{}}, ingress: [ {{ ports: [ {{ port: {evil} }} ] }} ] }}"));
    let warnings = read(&named).unwrap().warnings;
    assert!(warnings[0].text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{warnings:?}");
}

#[test]
fn an_item_of_a_list_keeps_its_place_and_its_mistakes_are_its_own() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata:\n    name: a\n  \
                spec:\n    podSelector: {}\n    ingres: []\n  # a comment\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: { \
                name: b }\n  spec: { podSelector: [] }\nmetadata:\n  resourceVersion: ''\n";
    let found = read(text).unwrap_err().to_string();
    let places: Vec<&str> = found.lines().filter(|line| line.starts_with("p.yaml")).collect();
    assert_eq!(places.len(), 2, "{found}");
    assert!(places[0].starts_with("p.yaml:10:5: unknown key `ingres`, probably `ingress`"), "{found}");
    assert!(places[1].starts_with("p.yaml:15:24: expected keys with values"), "{found}");
    let good = text.replace("ingres: []", "ingress: []").replace("[] }\nmeta", "{} }\nmeta");
    let set = read(&good).unwrap();
    let origins: Vec<u32> = set.policies.iter().map(|policy| policy.origin.line).collect();
    assert_eq!(origins, [4, 12]);
}
