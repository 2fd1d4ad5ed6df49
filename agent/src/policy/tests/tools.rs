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

/// Policies of a cluster alone: no document names a workload.
const CLUSTER: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: db, namespace: data }
spec:
  selector: { matchLabels: { app: db } }
  rules: [ { from: [ { source: { principals: [ a.org/ns/shop/sa/web ] } } ], to: [ { operation: { ports: [ '5432' ] } } ] } ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: out, namespace: shop }
spec:
  podSelector: { matchLabels: { app.kubernetes.io/name: web } }
  policyTypes: [ Egress ]
  egress: [ { to: [ { ipBlock: { cidr: 192.0.2.0/24 } }, { namespaceSelector: {} } ] } ]
";

#[test]
fn ends_that_no_document_names_are_imagined_from_labels_and_ids() {
    let set = read(CLUSTER).unwrap();
    for (from, to, port, expected) in [
        ("spiffe://a.org/ns/shop/sa/web", "data/app=db", "5432/tcp", "allow: shop/web "),
        ("spiffe://a.org/ns/shop/sa/web", "data/app=db", "5433/tcp", "deny: shop/web "),
        ("spiffe://a.org/ns/shop/sa/api", "data/app=db", "5432/tcp", "deny: shop/api "),
        ("spiffe://a.org/ns/shop/sa/web", "data/app=cache", "5432/tcp", "allow: shop/web "),
        ("spiffe://a.org/ns/shop/sa/web", "app=db", "1/tcp", "allow: shop/web "),
        (
            "spiffe://a.org/ns/shop/sa/web,app.kubernetes.io/name=web",
            "world@192.0.2.1",
            "1/tcp",
            "allow: shop/web ",
        ),
        ("shop/app.kubernetes.io/name=web", "world@198.51.100.1", "1/tcp", "deny: shop/imagined-0 "),
        ("shop/app.kubernetes.io/name=web", "data/app=cache", "1/tcp", "allow: shop/imagined-0 "),
        ("app.kubernetes.io/name=web,x=y", "world@198.51.100.1", "1/tcp", "allow: default/imagined-0 "),
        ("host", "data/app=db", "5432/tcp", "deny: host "),
    ] {
        let text = explained(&set, from, to, port).unwrap();
        assert!(text.starts_with(expected), "{from} to {to}: {text}");
    }
    for end in ["shop/web", "=x", "a=b,c", "spiffe://a.org", "spiffe://a.org/x,y", "a b=c/d/e@1"] {
        assert!(explained(&set, end, "host", "1/tcp").is_err(), "{end}");
    }
}

#[test]
fn an_explanation_of_imported_rules_names_their_places() {
    let set = read(CLUSTER).unwrap();
    expect![[r"
        deny: shop/api (spiffe://a.org/ns/shop/sa/api) → data/imagined-1 (spiffe://a.org/ns/data/sa/imagined-1, app=db), 5432/tcp
        egress, the rules of the source: allow, no-policy
          1. no policy with egress rules selects shop/api
          2. nothing denies by default: what no rule denies is allowed
          3. the egress rules are in mode enforce
        ingress, the rules of the destination: deny, no-rule-matches, data/db (p.yaml:1:1)
          1. data/db selects data/imagined-1 (p.yaml:1:1)
          2. data/db denies by default: what no rule allows is denied (p.yaml:1:1)
          3. data/db#rules[0] does not match: it is about identity spiffe://a.org/ns/shop/sa/web (p.yaml:6:12)
          4. the ingress rules are in mode enforce"]]
        .assert_eq(&explained(&set, "spiffe://a.org/ns/shop/sa/api", "data/app=db", "5432/tcp").unwrap());
}

const CASES: &str = "files: [ p.yaml ]
cases:
  - { from: shop/checkout, to: payments/payments, port: 8080/tcp, expect: audit, rule: shop/out }
  - { name: strangers, from: 8.8.8.8, to: payments, port: 8080/tcp, expect: deny, rule: payments/from-shop }
  - { from: payments, to: world, port: proto/47, expect: allow, rule: '-' }
";

fn tried(cases: &str) -> Result<crate::policy::CasesReport, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cases.yaml");
    std::fs::write(directory.path().join("p.yaml"), DOCUMENTS).unwrap();
    std::fs::write(&file, cases).unwrap();
    let defaults =
        NodeDefaults { mode: Mode::Enforce, mesh: vec!["10.0.0.0/8".parse().unwrap()], local: Vec::new() };
    let nowhere = directory.path().join("nowhere");
    crate::policy::check_cases(&file, &[], &nowhere, &"a.org".parse().unwrap(), &defaults)
        .map_err(|errors| errors.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

#[test]
fn cases_that_hold_are_counted_and_one_that_does_not_is_told_with_its_steps() {
    assert_eq!(tried(CASES).unwrap().to_string(), "3 cases, 0 failed\n");
    let list = CASES.replace("files: [ p.yaml ]\ncases:\n", "");
    assert!(tried(&list).unwrap_err().contains("nowhere: cannot open"), "the configured policies");
    let report = tried(
        &CASES.replace("expect: deny, rule: payments/from-shop", "expect: allow, rule: payments/other"),
    )
    .unwrap();
    assert_eq!(report.failed, 1);
    let text = report.to_string();
    let at = report.cases[1].origin.file.parent().unwrap().display().to_string();
    let text = text.replace(&format!("{at}/"), "");
    expect![[r"
        FAILED cases.yaml:4:5: strangers: world at 8.8.8.8 → payments/payments (spiffe://a.org/ns/payments/sa/payments, app=payments), 8080/tcp
          - expected allow, by payments/other
          + found    deny, by payments/from-shop
            egress, the rules of the source: allow, not-a-workload
              1. world at 8.8.8.8 is no workload here, and rules bind only to workloads
            ingress, the rules of the destination: deny, no-rule-matches, payments/from-shop (p.yaml:11:1)
              1. payments/from-shop selects payments/payments (p.yaml:11:1)
              2. payments/from-shop#2 does not match: it is about addresses in 192.0.2.0/24 (p.yaml:19:7)
              3. payments/from-shop denies by default: what no rule allows is denied (p.yaml:11:1)
              4. payments/from-shop#checkout-may-pay does not match: it is about namespace shop (p.yaml:16:7)
              5. the ingress rules are in mode enforce
        3 cases, 1 failed
    "]].assert_eq(&text);
    for (wrong, message) in [
        ("expect: audit", "expect: allowed"),
        ("port: 8080/tcp", "port: http"),
        ("from: shop/checkout", "from: nobody"),
        ("from: shop/checkout", "form: shop/checkout"),
        ("expect: allow, ", ""),
        ("cases:", "case:"),
    ] {
        let error = tried(&CASES.replacen(wrong, message, 1)).unwrap_err();
        assert!(error.starts_with("cases.yaml:"), "{error}");
    }
}

#[test]
fn the_rows_of_each_document_are_told_when_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("p.yaml");
    std::fs::write(&file, CLUSTER).unwrap();
    let report = crate::policy::check_with(
        std::slice::from_ref(&file),
        &"a.org".parse().unwrap(),
        crate::policy::CheckOptions { rows: true, ..Default::default() },
    );
    let text = report.to_string().replace(&format!("{}/", directory.path().display()), "");
    expect![[r"
        AuthorizationPolicy data/db (p.yaml:1:1)
          protects workloads of namespace data with app=db
          ingress: allow from identity spiffe://a.org/ns/shop/sa/web; 5432/tcp
          ingress: what no rule allows is denied
          | data/imagined-0 ingress: from shop/web: allow 5432/tcp (data/db#rules[0])
        NetworkPolicy shop/out (p.yaml:8:1)
          protects workloads of namespace shop with app.kubernetes.io/name=web
          egress: allow to addresses in 192.0.2.0/24; or entity any-authenticated; every port
          egress: what no rule allows is denied
          | shop/imagined-1 egress: to data/imagined-0 shop/imagined-1: allow every port (shop/out#egress[0])
          | shop/imagined-1 egress: to everybody at 192.0.2.0/24: allow every port (shop/out#egress[0])
          | shop/imagined-1 egress: to shop/web: allow every port (shop/out#egress[0])
        2 documents in 1 files, 0 warnings; tables: 5 identities, 0 address prefixes, 0 rows, 0 port sets
    "]]
    .assert_eq(&text);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["documents"][0]["rows"].as_array().unwrap().len(), 1);
}

#[test]
fn a_list_of_workloads_stands_in_for_documents() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let policy = "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: p, namespace: shop }\n\
                  spec: { selector: { app: db }, ingress: [ { from: [ { labels: { app: web } } ] } ] }\n";
    std::fs::write(path("p.yaml"), policy).unwrap();
    let domain = "a.org".parse().unwrap();
    // As a node prints it, and as a person writes it.
    for list in [
        r#"{ "v": 1, "identities": [
            { "identity": 300, "workload": "shop/web", "spiffe_id": "spiffe://a.org/ns/shop/sa/web", "labels": { "app": "web" }, "endpoints": 1 },
            { "identity": 301, "workload": "shop/db", "labels": { "app": "db" }, "endpoints": 0 } ] }"#,
        "- { workload: shop/web, labels: { app: web } }\n- workload: shop/db\n  labels: { app: db }\n",
    ] {
        std::fs::write(path("list"), list).unwrap();
        let mut set =
            crate::policy::load_from(&[path("p.yaml")], &domain, crate::policy::Ownership::Anybody).unwrap();
        set.add_workloads(&path("list"), &domain).unwrap();
        set.add_workloads(&path("list"), &domain).unwrap();
        assert_eq!(set.workloads.len(), 2, "who is known is not added again");
        let identities = expected_identities(&set);
        let defaults = NodeDefaults { mode: Mode::Enforce, mesh: vec![], local: vec![] };
        let ask = |from| {
            let told = explain(&set, &identities, &defaults, from, "shop/db", "80/tcp").unwrap();
            told.verdict
        };
        assert_eq!([ask("shop/web"), ask("shop/db")], ["allow", "deny"]);
        let options = crate::policy::CheckOptions { workloads: Some(&path("list")), ..Default::default() };
        let report = crate::policy::check_with(&[path("p.yaml")], &domain, options);
        assert_eq!(report.warnings, [], "the selector finds somebody");
    }
    for (list, expected) in [
        ("- { name: shop/web }", "list:1:5: "),
        ("- { labels: {} }", "list:1:3: "),
        ("- { workload: shop/../x }", "list:1:15: "),
        ("- { workload: shop/web, spiffe_id: web }", "list:1:36: "),
        ("{ identities: 7 }", "list:1:15: "),
    ] {
        std::fs::write(path("list"), list).unwrap();
        let mut set = PolicySet::default();
        let said = set.add_workloads(&path("list"), &domain).unwrap_err().to_string();
        assert!(said.contains(expected), "{list}: {said}");
        assert!(set.workloads.is_empty());
    }
}
