use super::*;

fn end(line: &str) -> Exit {
    run(std::iter::once("waxseal").chain(line.split_whitespace()).map(OsString::from))
}

#[test]
fn the_commands_fit_together() {
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    for (line, exit) in [
        ("--help", Exit::Done),
        ("--version", Exit::Done),
        ("tap --help", Exit::Done),
        ("mode --help", Exit::Done),
        ("config --help", Exit::Done),
        ("", Exit::Invalid),
        ("nonsense", Exit::Invalid),
        ("tap --verdict maybe", Exit::Invalid),
        ("--set mode=strict status", Exit::Invalid),
        ("--set nonsense status", Exit::Invalid),
        ("mode audit", Exit::Invalid),
        ("mode set audit", Exit::Invalid),
        ("mode set --workload a/b strict", Exit::Invalid),
        ("report --namespace a --workload a/b", Exit::Invalid),
        ("policy explain --flow 77 --from a", Exit::Invalid),
        ("policy explain --flow 77 --files x", Exit::Invalid),
        ("policy explain --from a --to b", Exit::Invalid),
        ("policy explain --from a --to b --port http", Exit::Invalid),
    ] {
        assert_eq!(end(line), exit, "{line}");
    }
}

#[test]
fn without_an_agent_every_question_ends_with_4() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = format!("--set runtime={}", directory.path().display());
    for command in [
        "status",
        "tap",
        "tap --no-follow -o json",
        "endpoint list",
        "identity list -o json",
        "mode",
        "mode audit --all",
        "mode reset",
        "mode set --workload shop/web audit",
        "mode reset --namespace shop",
        "report",
        "report --namespace shop -o json",
        "policy explain --flow 77",
        "policy get",
        "policy explain --from a/b --to c/d --port 80/tcp",
    ] {
        assert_eq!(end(&format!("{runtime} {command}")), Exit::NotReachable, "{command}");
    }
}

#[test]
fn what_needs_no_agent_works_without_one() {
    for line in ["config", "config -o json", "completions bash", "completions fish", "man"] {
        assert_eq!(end(line), Exit::Done, "{line}");
    }
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(end(&format!("man --directory {}", directory.path().display())), Exit::Done);
    assert!(directory.path().join("waxseal-tap.1").exists());
}

#[test]
fn a_ca_is_made_worked_with_and_refused_by_documented_codes() {
    let directory = tempfile::tempdir().unwrap();
    let ca = format!("--dir {}", directory.path().join("ca").display());
    let key = directory.path().join("elsewhere.key");
    for (line, exit) in [
        (format!("ca show {ca}"), Exit::Invalid),
        (format!("ca init {ca} --leaf-lifetime 1s"), Exit::Invalid),
        (format!("ca init {ca} --trust-domain a/b"), Exit::Invalid),
        (format!("ca init {ca} --trust-domain example.org --root-key {} -o json", key.display()), Exit::Done),
        (format!("ca init {ca}"), Exit::Invalid),
        (format!("ca show {ca}"), Exit::Done),
        (format!("ca show {ca} -o json"), Exit::Done),
        (format!("ca show {ca} --root"), Exit::Done),
        (format!("ca token {ca} --node n/1"), Exit::Invalid),
        (format!("ca token {ca} --node n1 --for 30d"), Exit::Invalid),
        (format!("ca token {ca} --node n1 --allow ns/shop"), Exit::Invalid),
        (format!("ca token {ca} --node n1 --allow /waxseal/**"), Exit::Invalid),
        (format!("ca token {ca} --node n1 --allow spiffe://other.org/ns/shop/*"), Exit::Invalid),
        (format!("ca token {ca} --node n1 --allow /ns/shop/sa/* /ns/x/**"), Exit::Done),
        (format!("ca token {ca} --node n1 -o json"), Exit::Done),
        (format!("ca allow {ca} --node n1 /ns/y/** --remove /ns/x/**"), Exit::Done),
        (format!("ca allow {ca} --node n2 /ns/y/**"), Exit::Invalid),
        (format!("ca allow {ca}"), Exit::Invalid),
        (format!("ca revoke {ca}"), Exit::Invalid),
        (format!("ca revoke {ca} --id spiffe://example.org/ns/shop/sa/web"), Exit::Done),
        (format!("ca allow {ca} --id spiffe://example.org/ns/shop/sa/web -o json"), Exit::Done),
        (format!("ca revoke {ca} --node n1 -o json"), Exit::Done),
        (format!("ca revoke {ca} --node n9"), Exit::Invalid),
        (format!("ca revoke {ca} --serial 00"), Exit::Invalid),
        (format!("ca rotate-intermediate {ca} --after 0"), Exit::Done),
        (format!("ca revoke {ca} --intermediate current-1"), Exit::Done),
        (format!("ca revoke {ca} --intermediate current-9"), Exit::Invalid),
    ] {
        assert_eq!(end(&line), exit, "{line}");
    }
    // The root's key was taken away.
    std::fs::rename(&key, directory.path().join("safe.key")).unwrap();
    let safe = directory.path().join("safe.key");
    for (line, exit) in [
        (format!("ca rotate-intermediate {ca}"), Exit::Invalid),
        (format!("ca revoke {ca} --intermediate current"), Exit::Invalid),
        (format!("ca revoke {ca} --intermediate current --root-key {}", safe.display()), Exit::Done),
        (format!("ca rotate-intermediate {ca} --root-key {}", safe.display()), Exit::Done),
    ] {
        assert_eq!(end(&line), exit, "{line}");
    }
}

#[test]
fn causes_are_told_once() {
    let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
    let error = anyhow::Error::new(cause).context("cannot open x: entity not found");
    assert_eq!(chain(&error), "cannot open x: entity not found");
    let error = anyhow::anyhow!("inner").context("outer");
    assert_eq!(chain(&error), "outer: inner");
}

const POLICY: &str = "\
apiVersion: waxseal.dev/v1alpha1
kind: IdentityPolicy
metadata: { name: from-checkout, namespace: payments }
spec:
  selector: { app: api }
  ingress:
    - { from: [ { namespace: shop } ], ports: [ 8080/tcp ] }
---
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: api, namespace: payments, labels: { app: api } }
spec: { selector: { systemdUnit: api.service } }
---
apiVersion: waxseal.dev/v1alpha1
kind: Workload
metadata: { name: checkout, namespace: shop }
spec: { selector: { systemdUnit: checkout.service } }
";

#[test]
fn policies_are_checked_and_explained_without_an_agent() {
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (directory.path().join("good.yaml"), directory.path().join("bad.yaml"));
    let (holds, fails) = (directory.path().join("holds.yaml"), directory.path().join("fails.yaml"));
    let case = "files: [ good.yaml ]\ncases: [ { from: shop/checkout, to: payments/api, port: 8080/tcp, expect: allow } ]";
    std::fs::write(&holds, case).unwrap();
    std::fs::write(&fails, case.replace("8080", "8081")).unwrap();
    let (holds, fails) = (holds.display(), fails.display());
    std::fs::write(&good, POLICY).unwrap();
    std::fs::write(&bad, POLICY.replace("ingress", "ingres")).unwrap();
    let (good, bad) = (good.display(), bad.display());
    let explain = "policy explain --from shop/checkout --to payments/api";
    for (line, exit) in [
        (format!("policy check {good}"), Exit::Done),
        (format!("policy check -o json {good}"), Exit::Done),
        (format!("policy check -o wide {good}"), Exit::Done),
        (format!("policy check -o long {good}"), Exit::Invalid),
        ("policy schema".to_owned(), Exit::Done),
        (format!("policy test {holds}"), Exit::Done),
        (format!("--set mode=enforce policy test {fails} -o json"), Exit::Failed),
        (format!("--set mode=enforce policy test {fails}"), Exit::Failed),
        (format!("policy test {holds} --files {bad}"), Exit::Invalid),
        (format!("policy test {good}"), Exit::Invalid),
        (format!("policy test {good}-missing"), Exit::Invalid),
        (
            format!(
                "policy explain --from spiffe://cluster.local/ns/shop/sa/new --to payments/app=api --port 8080/tcp --files {good}"
            ),
            Exit::Done,
        ),
        (format!("policy check {bad}"), Exit::Invalid),
        (format!("policy check {bad} -o json"), Exit::Invalid),
        (format!("policy check {good}-missing"), Exit::Invalid),
        (format!("--set policies={bad} policy check"), Exit::Invalid),
        (format!("{explain} --port 8080/tcp --files {good}"), Exit::Done),
        (format!("{explain} --port 8080/tcp -o json --files {good}"), Exit::Done),
        (format!("{explain} --port 8080/tcp --files {bad}"), Exit::Invalid),
        (format!("{explain} --port 8080 --files {good}"), Exit::Invalid),
        (format!("{explain} --port 1-2/tcp --files {good}"), Exit::Invalid),
        (format!("{explain}-typo --port 8080/tcp --files {good}"), Exit::Invalid),
    ] {
        assert_eq!(end(&line), exit, "{line}");
    }
}
