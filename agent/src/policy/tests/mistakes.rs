//! What is refused, and in which words. A document is hostile until it is read: none of this may be silently ignored.

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::read;

const POLICY: &str = "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: p }\n";

fn refused(text: &str) -> String {
    match read(text) {
        Ok(set) => panic!("accepted: {text:?}: {set:?}"),
        Err(errors) => errors.to_string(),
    }
}

fn check(spec: &str, expected: &Expect) {
    let text = refused(&format!("{POLICY}{spec}"));
    let first: Vec<&str> = text.lines().filter(|line| line.starts_with("p.yaml")).collect();
    expected.assert_eq(&first.join("\n"));
}

#[test]
fn a_mistake_is_shown_with_its_place_and_its_line() {
    expect![[r"
        p.yaml:7:7: unknown key `fromm`, probably `from`; allowed here: name, action, from, ports
              7 |     - fromm: []
                |       ^"]]
    .assert_eq(&refused(&format!("# why\n{POLICY}spec:\n  ingress:\n    - fromm: []\n")));
}

#[test]
fn all_mistakes_of_all_documents_are_shown_at_once() {
    let text = format!(
        "{POLICY}spec: {{ mode: no, ingress: [ {{ ports: [ 80, 010/tcp ] }} ] }}\n---\nkind: X\n---\n{{\n"
    );
    let found = refused(&text);
    let first: Vec<&str> = found.lines().filter(|line| line.starts_with("p.yaml")).collect();
    expect![[r"
        p.yaml:4:15: unknown mode `no`; known: permissive, audit, enforce
        p.yaml:4:41: `80` does not say which protocol: write `80/tcp` or `80/udp`
        p.yaml:4:45: `010` is no port; ports are 1 to 65535, in decimal digits without leading zeros
        p.yaml:6:1: `apiVersion` is missing; write `apiVersion: waxseal.dev/v1alpha1`
        p.yaml:8:1: unclosed bracket '{'"]]
    .assert_eq(&first.join("\n"));
}

#[test]
fn nothing_that_is_written_is_ignored() {
    for (spec, expected) in [
        (
            "spec: { ingres: [] }",
            expect![
                "p.yaml:4:9: unknown key `ingres`, probably `ingress`; allowed here: selector, mode, ingress, egress"
            ],
        ),
        (
            "spec: {}\nstatus: {}",
            expect!["p.yaml:5:1: unknown key `status`; allowed here: apiVersion, kind, metadata, spec"],
        ),
        ("spec: {}\nspec: {}", expect!["p.yaml:5:1: the key `spec` is given twice"]),
        ("spec: { mode: audit, mode: enforce }", expect!["p.yaml:4:22: the key `mode` is given twice"]),
        ("spec: { selector: { a: b, a: c } }", expect!["p.yaml:4:27: the key `a` is given twice"]),
        (
            "spec: { ingress: [ { to: [] } ] }",
            expect!["p.yaml:4:22: unknown key `to`; allowed here: name, action, from, ports"],
        ),
        (
            "spec: { egress: [ { from: [] } ] }",
            expect!["p.yaml:4:21: unknown key `from`; allowed here: name, action, to, ports"],
        ),
        (
            "spec: { ingress: [ { ports: [ 80/tcp ], endPort: 90 } ] }",
            expect!["p.yaml:4:41: unknown key `endPort`; allowed here: name, action, from, ports"],
        ),
        (
            "spec: { <<: { mode: audit } }",
            expect!["p.yaml:4:9: merge keys (`<<`) are not read; write the keys out"],
        ),
        (
            "spec: { ingress: [ { from: [ { not: { not: { namespace: a } } } ] } ] }",
            expect![
                "p.yaml:4:39: unknown key `not`; allowed here: identity, trustDomain, namespace, labels, cidr, except, entity"
            ],
        ),
        ("spec: !!python/object {}", expect!["p.yaml:4:23: unsupported tag `!!python/object`"]),
        (
            "extra: 1",
            expect!["p.yaml:4:1: unknown key `extra`; allowed here: apiVersion, kind, metadata, spec"],
        ),
        ("", expect!["p.yaml:3:1: `spec` is missing"]),
    ] {
        check(spec, &expected);
    }
}

#[test]
fn a_key_without_a_value_is_neither_absent_nor_empty() {
    let list =
        "expected a list, as `[ a, b ]`; for one that matches nothing write `[]`, for none leave the key out";
    for spec in [
        "spec: { ingress: }",
        "spec: { ingress: null }",
        "spec: { ingress: ~ }",
        "spec: { ingress: {} }",
        "spec: { ingress: [ { from: } ] }",
        "spec: { ingress: [ { ports: } ] }",
        "spec: { ingress: [ { from: { entity: any } } ] }",
        "spec: { ingress: [ { ports: 80/tcp } ] }",
        "spec: { ingress: [ { from: [ { cidr: 10.0.0.0/8, except: } ] } ] }",
    ] {
        let found = refused(&format!("{POLICY}{spec}"));
        assert!(found.contains(list), "{spec}: {found}");
    }
    for spec in [
        "spec:",
        "spec: { selector: }",
        "spec: { mode: }",
        "spec: { ingress: [ ~ ] }",
        "spec: { ingress: [ { from: [ ~ ] } ] }",
        "spec: { ingress: [ { from: [ { labels: } ] } ] }",
        "spec: { ingress: [ { from: [ { namespace: } ] } ] }",
        "spec: { ingress: [ { from: [ { namespace: one, not: } ] } ] }",
        "spec: { ingress: [ { action: } ] }",
        "spec: { selector: { app: } }",
    ] {
        refused(&format!("{POLICY}{spec}"));
    }
}

#[test]
fn a_word_is_what_it_says_and_never_another_type() {
    for (spec, expected) in [
        ("spec: { mode: no }", expect!["p.yaml:4:15: unknown mode `no`; known: permissive, audit, enforce"]),
        (
            "spec: { mode: Enforce }",
            expect![
                "p.yaml:4:15: unknown mode `Enforce`, probably `enforce`; known: permissive, audit, enforce"
            ],
        ),
        ("spec: { mode: \"\" }", expect!["p.yaml:4:15: unknown mode ``; known: permissive, audit, enforce"]),
        ("spec: { mode: [ audit ] }", expect!["p.yaml:4:15: expected a text"]),
        (
            "spec: { ingress: [ { action: Deny } ] }",
            expect!["p.yaml:4:30: unknown action `Deny`, probably `deny`; known: allow, deny"],
        ),
        (
            "spec: { ingress: [ { action: true } ] }",
            expect!["p.yaml:4:30: unknown action `true`; known: allow, deny"],
        ),
        ("spec: { selector: [ app ] }", expect!["p.yaml:4:19: expected keys with values"]),
        ("spec: { selector: { app: { x: y } } }", expect!["p.yaml:4:26: expected a text"]),
        (
            "spec: { ingress: [ { from: [ { entity: all } ] } ] }",
            expect![
                "p.yaml:4:40: unknown entity `all`; known: host, world, unmanaged, any-authenticated, any"
            ],
        ),
        (
            "spec: { ingress: [ { name: \"a#b\" } ] }",
            expect![
                "p.yaml:4:28: `a#b` is no rule name; rule names are 1 to 128 printable ASCII characters without `#`"
            ],
        ),
    ] {
        check(spec, &expected);
    }
    let set = read(&format!("{POLICY}spec: {{ selector: {{ a: no, b: 010, c: 1.10, d: 0x1F }} }}")).unwrap();
    let labels: Vec<&str> = set.policies[0].target.labels.iter().map(|(_, value)| value).collect();
    assert_eq!(labels, ["no", "010", "1.10", "0x1F"], "a label is the text that was written");
}

#[test]
fn a_peer_that_says_nothing_or_too_much_is_refused() {
    for (peer, expected) in [
        (
            "",
            expect!["p.yaml:4:30: this says nothing about the other end; for everybody write `entity: any`"],
        ),
        ("not: {}", expect!["p.yaml:4:37: an empty `not` excludes nothing; leave it out"]),
        (
            "labels: {}",
            expect![
                "p.yaml:4:40: empty labels ask for nothing; for every workload write `entity: any-authenticated`"
            ],
        ),
        ("except: [ 10.0.0.1 ]", expect!["p.yaml:4:40: `except` makes holes in a `cidr`, and there is none"]),
        (
            "cidr: 10.0.0.0/8, except: [ 11.0.0.0/8 ]",
            expect!["p.yaml:4:60: 11.0.0.0/8 is not inside 10.0.0.0/8"],
        ),
        ("cidr: \"::/0\", except: [ 11.0.0.0/8 ]", expect!["p.yaml:4:56: 11.0.0.0/8 is not inside ::/0"]),
        (
            "cidr: 10.0.0.1/8",
            expect!["p.yaml:4:38: 10.0.0.1/8 has bits set past its length; the range is 10.0.0.0/8"],
        ),
        (
            "identity: a*b",
            expect![
                "p.yaml:4:42: `*` may stand once, at the beginning or at the end; there are no other patterns"
            ],
        ),
        (
            "identity: spiffe://a.org",
            expect!["p.yaml:4:42: a workload's SPIFFE ID needs a path after the trust domain"],
        ),
        (
            "identity: cluster.local/ns/a/sa/b",
            expect![[r#"p.yaml:4:42: a SPIFFE ID starts with "spiffe://""#]],
        ),
        (
            "trustDomain: a/b",
            expect!["p.yaml:4:45: '/' (byte 1) cannot be in a trust domain: use a-z 0-9 . - _"],
        ),
        (
            "namespace: a/b",
            expect![
                "p.yaml:4:43: `a/b` is no name; names are 1 to 253 of A-Z a-z 0-9 . _ - and neither `.` nor `..`"
            ],
        ),
    ] {
        check(&format!("spec: {{ ingress: [ {{ from: [ {{ {peer} }} ] }} ] }}"), &expected);
    }
}

#[test]
fn another_version_or_kind_is_refused() {
    for (text, expected) in [
        ("kind: X", "`apiVersion` is missing; write `apiVersion: waxseal.dev/v1alpha1`"),
        (
            "apiVersion: v2\nkind: Pod",
            "unknown apiVersion `v2`; known: waxseal.dev/v1alpha1, security.istio.io/v1, security.istio.io/v1beta1, \
             cilium.io/v2, networking.k8s.io/v1",
        ),
        (
            "apiVersion: waxseal.dev/v1\nkind: IdentityPolicy",
            "unknown apiVersion `waxseal.dev/v1`, probably `waxseal.dev/v1alpha1`; known: waxseal.dev/v1alpha1, ",
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication",
            "unknown kind `RequestAuthentication` of security.istio.io/v1; known: ",
        ),
        (
            "apiVersion: waxseal.dev/v1alpha1",
            "`kind` is missing; known kinds of waxseal.dev/v1alpha1: IdentityPolicy, Workload, Namespace, Mesh",
        ),
        (
            "apiVersion: waxseal.dev/v1alpha1\nkind: identitypolicy",
            "unknown kind `identitypolicy` of waxseal.dev/v1alpha1, probably `IdentityPolicy`; known: IdentityPolicy, Workload, \
             Namespace, Mesh",
        ),
        ("[]", "expected keys with values"),
        ("text", "expected keys with values"),
        ("~", "expected keys with values"),
        ("? [a]\n: b", "p.yaml:1:"),
    ] {
        let found = refused(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn an_object_that_is_defined_twice_names_both_places() {
    let text = refused(&format!("{POLICY}spec: {{}}\n---\n{POLICY}spec: {{ ingress: [] }}\n"));
    assert!(
        text.starts_with("p.yaml:6:1: IdentityPolicy default/p is already defined at p.yaml:1:1\n"),
        "{text}"
    );
    let mesh = |name| {
        format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: Mesh\nmetadata: {{ name: {name} }}\nspec: {{ cidrs: [] }}\n"
        )
    };
    let text = refused(&format!("{}{}", mesh("a"), mesh("b")));
    assert!(text.contains("there is already a Mesh document at p.yaml:2:1; a node has one"), "{text}");
    let kinds = format!("{POLICY}spec: {{}}\n{}", mesh("p"));
    assert!(read(&kinds).is_ok(), "the same name for another kind");
}

#[test]
fn a_workload_that_claims_everything_or_nothing_is_refused() {
    let workload = "apiVersion: waxseal.dev/v1alpha1\nkind: Workload\nmetadata: { name: w }\n";
    for (spec, expected) in [
        ("{ selector: {} }", "an empty selector would claim every process"),
        ("{ }", "`selector` is missing"),
        ("{ selector: { cgroup: / } }", "the root cgroup belongs to the host"),
        ("{ selector: { cgroup: a } }", "a cgroup path starts with `/`"),
        ("{ selector: { container: {} } }", "an empty container selector asks for nothing"),
        ("{ selector: { executable: bin/a } }", "an executable is an absolute path or `sha256:`"),
        ("{ selector: { executable: 'sha256:12' } }", "an executable is an absolute path or `sha256:`"),
        ("{ selector: { executable: /a/../b } }", "an executable is an absolute path or `sha256:`"),
        ("{ selector: { uid: -1 } }", "expected a user's number"),
        ("{ selector: { uid: 4294967296 } }", "expected a user's number"),
        ("{ selector: { uid: root } }", "expected a user's number"),
        ("{ selector: { uid: } }", "expected a user's number"),
        ("{ selector: { systemdUnit: '' } }", "the pattern is empty"),
        ("{ selector: { uid: 1 }, spiffeId: 'spiffe://a.org/%2e' }", "cannot be in a SPIFFE ID path"),
    ] {
        let found = refused(&format!("{workload}spec: {spec}"));
        assert!(found.contains(expected), "{spec}: {found}");
    }
}

#[test]
fn names_cannot_smuggle_anything() {
    for name in
        ["a/b", "..", ".", "''", "a b", "'a\\n'", "\"a\\e[2J\"", "\"\\u202e\"", "'%2e'", &"a".repeat(254)]
    {
        let found = refused(&format!(
            "apiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: {{ name: {name} }}\nspec: {{}}"
        ));
        assert!(found.contains("is no name"), "{name}: {found}");
        assert!(found.chars().all(|c| c == '\n' || !c.is_control()), "{found:?}");
    }
}

#[test]
fn what_is_half_written_is_refused() {
    let whole = format!(
        "{POLICY}spec:\n  ingress:\n    - from: [ {{ namespace: shop }} ]\n      ports: [ 80/tcp ]\n"
    );
    for end in 1..whole.len() {
        // A text that is cut after a whole line can be a shorter document. No reader can know, so files are to be replaced
        // by renaming.
        let whole_lines =
            whole[..end].trim_end_matches(' ').ends_with('\n') || whole[end..].starts_with('\n');
        assert!(read(&whole[..end]).is_err() || whole_lines, "{:?}", &whole[..end]);
    }
}

/// The bounds that keep a small file from costing much.
#[test]
fn bombs_are_refused_quickly() {
    let mut billion = String::from("a: &a [ x, x, x, x, x, x, x, x, x, x ]\n");
    for level in b'b'..=b'j' {
        let (this, below) = (char::from(level), char::from(level - 1));
        let _infallible =
            writeln!(billion, "{this}: &{this} [ {} ]", vec![format!("*{below}"); 10].join(", "));
    }
    let deep_flow = format!("spec: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_maps = format!("spec: {}1{}", "{a: ".repeat(10_000), "}".repeat(10_000));
    let mut deep_block = String::from("spec:\n");
    for depth in 0..1_000 {
        let _infallible = writeln!(deep_block, "{}a:", " ".repeat(depth + 1));
    }
    let aliases = format!("spec: &a {{}}\nx: [ {} ]\n", vec!["*a"; 100_000].join(", "));
    let long_key = format!("{}: 1\n", "k".repeat(500_000));
    let many_keys = (0..60_000).map(|key| format!("k{key}: 1")).collect::<Vec<_>>().join("\n");
    let anchors = (0..50_000).map(|n| format!("&a{n} x")).collect::<Vec<_>>().join(", ");
    for (name, text) in [
        ("a billion laughs", billion),
        ("deep lists", deep_flow),
        ("deep maps", deep_maps),
        ("deep indentation", deep_block),
        ("many aliases", aliases),
        ("a long key", long_key),
        ("many keys", many_keys),
        ("many anchors", format!("spec: [ {anchors} ]")),
        ("an alias to itself", "spec: &a [ *a ]".to_owned()),
        ("many bad documents", "---\na: b\n".repeat(20_000)),
        (
            "many mistakes on one line",
            format!("spec: {{ ingress: [ {{ ports: [ {} ] }} ] }}", vec!["1"; 100_000].join(", ")),
        ),
    ] {
        let started = std::time::Instant::now();
        let found = refused(&format!("{POLICY}{text}"));
        assert!(started.elapsed().as_secs() < 20, "{name} took {:?}", started.elapsed());
        assert!(found.len() < 50_000, "{name}: the message has {} bytes", found.len());
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    for (text, expected) in [
        ("a: \u{0}b", "p.yaml:1:4: contains a NUL character"),
        ("a: b\nc: \u{1}", "p.yaml:2:4: "),
        ("a: \"\u{7f}\"", "p.yaml:1:5: unexpected character"),
        ("a:\tb: c", "p.yaml:1:"),
        ("\u{feff}\u{feff}a: b", "p.yaml:1:"),
    ] {
        let found = refused(text);
        assert!(found.starts_with(expected), "{text:?}: {found}");
    }
    assert!(read(&format!("\u{feff}{POLICY}spec: {{}}")).is_ok(), "one byte order mark is fine");
    assert!(
        read(&format!("{POLICY}spec: {{}}").replace('\n', "\r\n")).is_ok(),
        "so are the line ends of another system"
    );
}

/// Characters that change the structure. Quotes, block texts and comments are left out: they may rightly swallow a key.
const DAMAGE: &[u8] = b"{}[]:,-&*!%@` \n\tab0\0";

/// Random damage to a good text: whatever comes out is refused or is one of the few things it can mean; nothing panics,
/// and what is accepted never has a rule without the conditions that were written.
#[test]
fn random_damage_neither_panics_nor_widens() {
    let good = format!(
        "{POLICY}spec:\n  selector: {{ app: x }}\n  ingress:\n    - name: r\n      from: [ {{ namespace: shop, not: {{ labels: {{ a: b }} }} }} ]\n      ports: [ 80/tcp ]\n"
    );
    let mut random = super::world::Random(7);
    let mut accepted = 0;
    for _ in 0..3_000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.pick(DAMAGE),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.pick(DAMAGE)),
            }
        }
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if let Ok(set) = read(&text) {
            accepted += 1;
            for rule in set.policies.iter().filter_map(|policy| policy.ingress.as_ref()).flatten() {
                assert!(rule.peers.is_some() || !text.contains("from:"), "{text}");
                assert!(rule.ports.is_some() || !text.contains("ports:"), "{text}");
            }
        }
    }
    assert!(accepted > 50, "{accepted}");
}
