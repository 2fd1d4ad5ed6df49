//! `policy explain` and `policy check` as a person sees them.

use expect_test::expect;
use waxseal_common::tables::Mode;

use super::read;
use crate::policy::{ExplainError, NodeDefaults, PolicySet, check, expected_identities, explain};

const DOCUMENTS: &str = "\
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: checkout, namespace: shop, labels: { app: checkout } }
spec: { selector: { cgroup: /checkout } }
---
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: payments, namespace: payments, labels: { app: payments } }
spec: { selector: { cgroup: /payments } }
---
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: from-shop, namespace: payments }
spec:
  ingress:
    - name: checkout-may-pay
      from: [ { namespace: shop } ]
      ports: [ 8080/tcp ]
    - action: deny
      from: [ { cidr: 192.0.2.0/24 } ]
---
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: out, namespace: shop }
spec:
  mode: audit
  egress: []
";

fn explained(set: &PolicySet, from: &str, to: &str, port: &str) -> Result<String, ExplainError> {
    let defaults =
        NodeDefaults { mode: Mode::Enforce, mesh: vec!["10.0.0.0/8".parse().unwrap()], local: Vec::new() };
    explain(set, &expected_identities(set), &defaults, from, to, port)
        .map(|explanation| explanation.to_string())
}

#[test]
fn an_explanation_tells_every_step_with_its_place() {
    let set = read(DOCUMENTS).unwrap();
    expect![[r"
        deny: shop/checkout (spiffe://a.org/ns/shop/sa/checkout, app=checkout) → payments/payments (spiffe://a.org/ns/payments/sa/payments, app=payments), 8081/tcp
        egress, the rules of the source: audit, audit-policy, shop/out (p.yaml:22:1)
          1. shop/out selects shop/checkout, and is only judged beside (p.yaml:22:1)
          2. nothing denies by default: what no rule denies is allowed
          3. the egress rules are in mode enforce
        ingress, the rules of the destination: deny, no-rule-matches, payments/from-shop (p.yaml:11:1)
          1. payments/from-shop selects payments/payments (p.yaml:11:1)
          2. payments/from-shop#2 does not match: it is about addresses in 192.0.2.0/24 (no address is given: add it as name@address) (p.yaml:19:7)
          3. payments/from-shop denies by default: what no rule allows is denied (p.yaml:11:1)
          4. payments/from-shop#checkout-may-pay does not match: it is about 8080/tcp (p.yaml:16:7)
          5. the ingress rules are in mode enforce"]]
    .assert_eq(&explained(&set, "checkout", "payments/payments", "8081/tcp").unwrap());
}

#[test]
fn the_ends_of_a_question_can_be_named_in_many_ways() {
    let set = read(DOCUMENTS).unwrap();
    for (from, to, port, first) in [
        ("shop/checkout", "payments/payments", "8080/tcp", "audit: shop/checkout "),
        ("spiffe://a.org/ns/shop/sa/checkout", "257", "8080/tcp", "audit: shop/checkout "),
        ("checkout@192.0.2.1", "payments", "8080/tcp", "deny: shop/checkout "),
        ("8.8.8.8", "payments", "8080/tcp", "deny: world at 8.8.8.8 → "),
        ("10.0.0.1", "payments", "8080/tcp", "deny: somebody inside the mesh at 10.0.0.1 → "),
        ("host", "payments", "8080/tcp", "deny: host → "),
        ("payments", "8.8.8.8", "443/tcp", "allow: payments/payments "),
        ("payments", "10.0.0.1", "icmp", ""),
        ("payments", "world", "proto/47", "allow: payments/payments "),
    ] {
        match explained(&set, from, to, port) {
            Ok(text) => assert!(text.starts_with(first) && !first.is_empty(), "{from} to {to}: {text}"),
            Err(error) => assert!(first.is_empty(), "{from} to {to}: {error}"),
        }
    }
    for (from, to, port) in [
        ("nobody", "host", "80/tcp"),
        ("host", "x@y", "80/tcp"),
        ("host", "world", "80"),
        ("host", "world", "tcp"),
    ] {
        assert!(explained(&set, from, to, port).is_err(), "{from} to {to} on {port}");
    }
}

#[test]
fn what_is_probably_not_meant_is_pointed_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("p.yaml");
    let policy = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {spec}\n"
        )
    };
    let allow = |peer: &str| format!("{{ ingress: [ {{ from: [ {{ {peer} }} ] }} ] }}");
    for (spec, expected) in [
        ("{}".to_owned(), "says-nothing"),
        ("{ selector: { app: nobody }, ingress: [] }".to_owned(), "selects-nothing"),
        ("{ ingress: [ {} ] }".to_owned(), "allows-everything"),
        (allow("entity: any"), "allows-everything"),
        ("{ ingress: [ { from: [] } ] }".to_owned(), "matches-nothing"),
        ("{ ingress: [ { ports: [] } ] }".to_owned(), "matches-nothing"),
        ("{ ingress: [ { ports: [ 80/tcp ] }, { action: deny } ] }".to_owned(), "unreachable"),
        ("{ ingress: [ { ports: [ 80/tcp ] }, { ports: [ 80/tcp ] } ] }".to_owned(), "repeated"),
        (allow("identity: spiffe://a.org/ns/shop*"), "open-prefix"),
        (allow("not: { namespace: shop }"), "matches-unauthenticated"),
        (allow("entity: host, namespace: shop"), "never-matches"),
        (allow("not: { entity: any }"), "never-matches"),
        (
            "{ egress: [ { to: [ { namespace: payments } ], ports: [ 80/tcp ] } ] }".to_owned(),
            "no-name-resolution",
        ),
        ("{ egress: [] }".to_owned(), ""),
        (allow("entity: any-authenticated, not: { namespace: shop }"), ""),
        ("{ ingress: [ { action: deny, from: [ { not: { namespace: shop } } ] } ] }".to_owned(), ""),
    ] {
        std::fs::write(&file, format!("{DOCUMENTS}{}", policy("tested", &spec))).unwrap();
        let report = check(std::slice::from_ref(&file), &"a.org".parse().unwrap(), true);
        let codes: Vec<&str> = report.warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes.join(" "), expected, "{spec}: {report}");
        assert_eq!(report.exit_code(), u8::from(!expected.is_empty()), "{spec}");
    }
}

#[test]
fn a_report_says_what_each_document_became() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("p.yaml");
    std::fs::write(&file, DOCUMENTS).unwrap();
    let report = check(std::slice::from_ref(&file), &"a.org".parse().unwrap(), false);
    let text = report.to_string().replace(&format!("{}/", directory.path().display()), "");
    expect![[r"
        Workload shop/checkout (p.yaml:1:1)
          is spiffe://a.org/ns/shop/sa/checkout
          carries app=checkout
          found by cgroup /checkout
          selected by shop/out
        Workload payments/payments (p.yaml:6:1)
          is spiffe://a.org/ns/payments/sa/payments
          carries app=payments
          found by cgroup /payments
          selected by payments/from-shop
        IdentityPolicy payments/from-shop (p.yaml:11:1)
          protects every workload of namespace payments (known: payments/payments)
          ingress: allow from namespace shop; 8080/tcp
          ingress: deny from addresses in 192.0.2.0/24; every port
          ingress: what no rule allows is denied
        IdentityPolicy shop/out (p.yaml:22:1)
          protects every workload of namespace shop (known: shop/checkout)
          is only judged beside: it denies nothing
          egress: what no rule allows is denied
        4 documents in 1 files, 0 warnings; tables: 7 identities, 1 address prefixes, 2 rows, 2 port sets
    "]]
    .assert_eq(&text);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["documents"][2]["name"], "payments/from-shop");
    assert_eq!(json["documents"][2]["origin"]["line"], 11);
    std::fs::write(&file, "kind: x").unwrap();
    let report = check(&[file], &"a.org".parse().unwrap(), false);
    assert_eq!(report.exit_code(), 2);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["errors"][0]["line"], 1);
    assert_eq!(
        json["errors"][0]["problem"],
        "`apiVersion` is missing; write `apiVersion: waxseal.dev/v1alpha1`"
    );
}
