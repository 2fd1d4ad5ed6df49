//! Damaged documents, thrown at every reader. Deterministic: a failing case is known by its seed.
//!
//! Each reader is worked for a few seconds; `WAXSEAL_FUZZ_SECONDS` asks for longer, `WAXSEAL_SEED` for another start.
//! Nothing may panic or take long; every message is short, escaped and has its place; and what is still accepted compiles
//! to tables that agree with the reference evaluator.

use std::path::Path;
use std::time::{Duration, Instant};

use waxseal_common::tables::Mode;

use super::differential::{from_environment, judged};
use super::world::{Random, connection};
use crate::policy::{Compiler, NodeDefaults, PolicySet, check_cases, expected_identities, parse, reference};

const NATIVE: &[&str] = &[
    include_str!("../../../../policies/01-workloads.yaml"),
    include_str!("../../../../policies/02-one-service-to-another.yaml"),
    include_str!("../../../../policies/04-outside-world.yaml"),
    include_str!("../../../../policies/05-deny-wins.yaml"),
    include_str!("../../../../policies/07-defaults.yaml"),
];
const ISTIO: &[&str] = &[
    include_str!("../../../../policies/08-istio.yaml"),
    "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: { name: a, namespace: istio-system, annotations: { istio.io/dry-run: \"true\" } }\nspec: { action: DENY, selector: { matchLabels: { app: a } }, rules: [ { from: [ { source: { notPrincipals: [ 'a.org/*' ], namespaces: [ shop ], ipBlocks: [ 10.0.0.0/8 ], requestPrincipals: [ '*' ] } } ], to: [ { operation: { ports: [ \"80\" ], notPorts: [ \"81\" ], methods: [ GET ] } } ], when: [ { key: source.ip, notValues: [ 10.1.2.3 ] }, { key: destination.port, values: [ \"80\" ] } ] } ] }\n",
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: p, namespace: istio-system, creationTimestamp: null }\nspec: { mtls: { mode: STRICT } }\n---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: q, namespace: shop }\nspec: { selector: { matchLabels: { app: a } }, portLevelMtls: { 80: { mode: DISABLE } } }\n",
];
const CILIUM: &[&str] = &[
    include_str!("../../../../policies/09-cilium.yaml"),
    "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: { name: c }\nspecs: [ { endpointSelector: { matchExpressions: [ { key: 'k8s:app', operator: NotIn, values: [ a ] } ] }, enableDefaultDeny: { ingress: false }, ingress: [ { fromEntities: [ cluster, world ], toPorts: [ { ports: [ { port: \"80\", endPort: 90, protocol: ANY } ] } ] }, { fromCIDRSet: [ { cidr: 10.0.0.0/8, except: [ 10.1.0.0/16 ] } ] } ], egressDeny: [ { toEndpoints: [ { matchLabels: { 'reserved:host': '' } } ] }, { icmps: [ { fields: [ { type: 8 } ] } ] } ] } ]\n",
];
const KUBERNETES: &[&str] = &[
    include_str!("../../../../policies/10-kubernetes.yaml"),
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: { name: shop, labels: { team: red } }\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: { name: k, namespace: data }\n  spec:\n    podSelector: {}\n    ingress:\n    - from: [ { namespaceSelector: { matchLabels: { team: red } }, podSelector: {} }, { ipBlock: { cidr: 10.0.0.0/8, except: [ 10.1.0.0/16 ] } } ]\n      ports: [ { port: 80, endPort: 90 }, { protocol: UDP, port: 53 } ]\n",
    "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":{\"name\":\"j\"},\"spec\":{\"podSelector\":{},\"egress\":[{}]}}]}",
];

/// Pieces that change the structure, and values that readers get wrong.
const PIECES: [&str; 34] = [
    "{}",
    "[]",
    "{",
    "}",
    "[",
    "]",
    ": ",
    ", ",
    "- ",
    "\n",
    "\n---\n",
    "\n...\n",
    "&a ",
    "*a",
    "!!str ",
    "!x ",
    "<<: ",
    "? ",
    "| ",
    "> ",
    "null",
    "~",
    "true",
    "no",
    "010",
    "0x1F",
    "1e9",
    "\"",
    "'",
    "#",
    "*",
    "\u{0}",
    "\u{202e}",
    "99999999999999999999",
];

/// Words that mean something somewhere.
const WORDS: [&str; 24] = [
    "ingress",
    "egress",
    "from",
    "to",
    "ports",
    "spec",
    "rules",
    "source",
    "principals",
    "not",
    "action",
    "DENY",
    "ALLOW",
    "STRICT",
    "podSelector",
    "endpointSelector",
    "fromEndpoints",
    "toPorts",
    "all",
    "world",
    "matchLabels",
    "matchExpressions",
    "0.0.0.0/0",
    "65536",
];

fn damage(random: &mut Random, text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..=random.below(4) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let (a, b) = (random.pick(&places), random.pick(&places));
        let (low, high) = (a.min(b), a.max(b));
        match random.below(8) {
            0 | 1 => text.insert_str(low, random.pick(&PIECES)),
            2 => text.insert_str(low, random.pick(&WORDS)),
            3 => {
                let end = text[low..].chars().next().map_or(low, |c| low + c.len_utf8());
                text.replace_range(low..end, "");
            }
            4 => {
                let lines: Vec<&str> = text.lines().collect();
                let gone = random.below(lines.len().max(1));
                let kept: Vec<&str> =
                    lines.iter().enumerate().filter(|(n, _)| *n != gone).map(|(_, line)| *line).collect();
                text = kept.join("\n");
            }
            5 if high - low < 200 => text.replace_range(low..high, ""),
            6 if high - low < 200 => {
                let piece = text[low..high].to_owned();
                text.insert_str(random.pick(&places), &piece);
            }
            _ => {
                let (old, new) = (random.pick(&WORDS), random.pick(&WORDS));
                text = text.replacen(old, new, 1);
            }
        }
    }
    text
}

/// What must hold of whatever a reader makes of a text. Whether it was accepted.
fn survives(text: &str, seed: u64) -> bool {
    let started = Instant::now();
    let read = parse(Path::new("p.yaml"), text, &"cluster.local".parse().unwrap());
    assert!(started.elapsed() < Duration::from_secs(5), "seed {seed} takes long:\n{text}");
    match read {
        Ok(set) => {
            agrees(&set, seed);
            true
        }
        Err(errors) => {
            let shown = errors.to_string();
            assert!(shown.starts_with("p.yaml:"), "seed {seed}: {shown}");
            assert!(
                shown.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
                "seed {seed}: {shown:?}"
            );
            assert!(shown.len() < 100_000, "seed {seed}: {} bytes", shown.len());
            false
        }
    }
}

fn agrees(set: &PolicySet, seed: u64) {
    let mut random = Random(seed);
    let identities = expected_identities(set);
    let defaults =
        NodeDefaults { mode: Mode::Enforce, mesh: vec!["10.0.0.0/8".parse().unwrap()], local: Vec::new() };
    let Ok(compiled) = Compiler::new(1).compile(set, &identities, &defaults) else { return };
    for _ in 0..4 {
        let connection = connection(&mut random, &identities);
        let found = judged(&compiled, &connection);
        let expected = reference::judge(set, &identities, &defaults, &connection);
        assert!(
            expected.admits(&found, compiled.rule(found.rule)),
            "seed {seed}: {connection:?}: {found:?} {expected:?}"
        );
    }
}

/// Damages the texts of one reader until time is up. Workloads stand beside them, so that what is accepted binds somebody.
fn work(texts: &[&str]) {
    let seconds = from_environment("WAXSEAL_FUZZ_SECONDS", 2);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut seed = from_environment("WAXSEAL_SEED", 1);
    for text in texts {
        assert!(survives(text, 0), "the good texts are accepted");
    }
    let (mut tried, mut accepted) = (0u64, 0u64);
    while Instant::now() < until {
        let mut random = Random(seed);
        let damaged = damage(&mut random, random_text(seed, texts));
        let whole = if seed.is_multiple_of(2) { format!("{damaged}\n---\n{}", NATIVE[0]) } else { damaged };
        accepted += u64::from(survives(&whole, seed));
        tried += 1;
        seed += 1;
    }
    assert!(tried > 50, "only {tried} cases in {seconds} s");
    assert!(
        accepted > 0 && accepted < tried,
        "{accepted} of {tried} accepted: the damage is too small or too large"
    );
}

fn random_text<'a>(seed: u64, texts: &[&'a str]) -> &'a str {
    texts[usize::try_from(seed).unwrap_or_default() % texts.len()]
}

#[test]
fn damaged_native_documents_do_no_harm() {
    work(NATIVE);
}

#[test]
fn damaged_istio_documents_do_no_harm() {
    work(ISTIO);
}

#[test]
fn damaged_cilium_documents_do_no_harm() {
    work(CILIUM);
}

#[test]
fn damaged_kubernetes_documents_and_lists_do_no_harm() {
    work(KUBERNETES);
}

#[test]
fn damaged_cases_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cases.yaml");
    let good = "files: [ none ]\ncases:\n  - { name: n, from: shop/web, to: 'data/app=db@10.0.0.1', port: 80/tcp, expect: deny, rule: a/b }\n";
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
    for seed in 0..300 {
        std::fs::write(&file, damage(&mut Random(seed), good)).unwrap();
        let found = check_cases(&file, &[], directory.path(), &"a.org".parse().unwrap(), &defaults);
        if let Err(errors) = found {
            assert!(!errors.0.is_empty(), "seed {seed}");
        }
    }
}
