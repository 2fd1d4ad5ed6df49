//! Every text that a mistake or an oddity in a document can call forth, in one golden file that can be read through.
//! `UPDATE_EXPECT=1` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::read;
use crate::policy::lint::lint;
use crate::policy::warning::CODES;
use crate::policy::{CompileError, ExplainError, LoadError, PlanError, Ports, Problem};
use crate::workload::Origin;

/// Said about a directory; see [`super::files`].
const WARNINGS_ABOUT_FILES: [&str; 1] = ["directory-not-read"];

fn native(spec: &str) -> String {
    format!(
        "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: p, namespace: shop }}\nspec: {spec}\n"
    )
}

fn workload(spec: &str) -> String {
    format!(
        "apiVersion: waxseal.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w, namespace: shop }}\nspec: {spec}\n"
    )
}

fn istio(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: a, namespace: shop }}\nspec: {spec}\n"
    )
}

fn peer(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {spec}\n"
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

fn from(peer: &str) -> String {
    native(&format!("{{ ingress: [ {{ from: [ {{ {peer} }} ] }} ] }}"))
}

fn ports(ports: &str) -> String {
    native(&format!("{{ ingress: [ {{ ports: [ {ports} ] }} ] }}"))
}

fn source(source: &str) -> String {
    istio(&format!("{{ rules: [ {{ from: [ {{ source: {{ {source} }} }} ] }} ] }}"))
}

fn ingress(rule: &str) -> String {
    cilium(&format!("{{ endpointSelector: {{}}, ingress: [ {{ {rule} }} ] }}"))
}

fn ingress_deny(rule: &str) -> String {
    cilium(&format!("{{ endpointSelector: {{}}, ingressDeny: [ {{ {rule} }} ] }}"))
}

fn pods(rule: &str) -> String {
    kubernetes(&format!("{{ podSelector: {{}}, ingress: [ {{ {rule} }} ] }}"))
}

fn of_every_document() -> Vec<String> {
    [
        "kind: IdentityPolicy",
        "apiVersion: waxseal.dev/v1\nkind: IdentityPolicy",
        "apiVersion: security.istio.oi/v1\nkind: AuthorizationPolicy",
        "apiVersion: example.org/v1\nkind: Thing",
        "apiVersion: cilium.io/v2",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicies",
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication",
        "apiVersion: v1\nkind: NetworkPolicy",
        "apiVersion: apps/v1\nkind: Deployment",
        "apiVersion: v1\nkind: List\nitems: {}",
        "apiVersion: v1\nkind: List\nitems:\n  - &a\n    apiVersion: v1\n  - 7",
        "{ apiVersion: v1, kind: List, items: [ { kind: IdentityPolicy } ] }",
        "{ apiVersion: v1, kind: List, items: [ { apiVersion: v1, kind: List, items: [ { apiVersion: v1, kind: List, items: [] } ] } ] }",
        "a: \u{0}",
        "a: [",
        "a: 1\na: 2",
        "<<: { a: b }",
        "{{- if .Values.mesh }}\na: b\n{{- end }}",
        "a:\n\tb: c",
        "a: *",
        "a: !!binary x\n--- x",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn of_native_documents() -> Vec<String> {
    let mut texts = vec![
        native("{ ingres: [] }"),
        native("{ odd: [] }"),
        native("{ ingress: }"),
        native("{ ingress: {} }"),
        native("{ mode: enforced }"),
        native("{ mode: never }"),
        native("{ ingress: [ { action: denied } ] }"),
        native("{ ingress: [ { name: 'a#b' } ] }"),
        native("{ selector: { '': x } }"),
        native("{ selector: [ x ] }"),
        native("{ selector: { app: } }"),
        native("{ selector: { matchLabels: { app: x } } }"),
        native("{}").replace("name: p", "name: a/b"),
        native("{}").replace("spec: {}", ""),
        format!("{}---\n{}", native("{}"), native("{ ingress: [] }")),
        workload("{ selector: {} }"),
        workload("{ selector: { container: {} } }"),
        workload("{ selector: { executable: bin/x } }"),
        workload("{ selector: { cgroup: x } }"),
        workload("{ selector: { cgroup: / } }"),
        workload("{ selector: { uid: root } }"),
        workload("{ selector: { uid: 1 }, spiffeId: https://a.org/x }"),
        "apiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: { name: n }\nspec: { defaultDeny: yes }".to_owned(),
        "apiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: { name: n }\nspec: { refuse: reset }".to_owned(),
        "apiVersion: waxseal.dev/v1alpha1\nkind: Mesh\nmetadata: { name: m }\nspec: { cidrs: [], peers: [ { cidr: 10.0.0.0/8, via: x } ] }\n---\n\
         apiVersion: waxseal.dev/v1alpha1\nkind: Mesh\nmetadata: { name: o }\nspec: { cidrs: [ 10.0.0.1/8 ] }"
            .to_owned(),
        "apiVersion: waxseal.dev/v1alpha1\nkind: Mesh\nmetadata: { name: m }\nspec: { cidrs: [] }\n---\n\
         apiVersion: waxseal.dev/v1alpha1\nkind: Mesh\nmetadata: { name: o }\nspec: { cidrs: [] }"
            .to_owned(),
    ];
    texts.extend(
        [
            "",
            "not: {}",
            "labels: {}",
            "except: [ 10.0.0.1 ]",
            "cidr: 10.0.0.0/8, except: [ 11.0.0.0/8 ]",
            "cidr: 10.0.0.1/8",
            "cidr: x/8",
            "cidr: 10.0.0.0/33",
            "identity: a*b",
            "identity: shop/*",
            "identity: 'spiffe://a.org/a b*'",
            "identity: spiffe://a.org",
            "trustDomain: a/b",
            "namespace: a/b",
            "entity: all",
            "entity: word",
        ]
        .map(from),
    );
    texts.extend(["80", "http", "0/tcp", "90-80/tcp", "80/sctp", "proto/256"].map(ports));
    texts
}

fn of_odd_native_documents() -> Vec<String> {
    let lints = [
        native("{}"),
        native("{ selector: { app: nobody }, ingress: [] }"),
        native("{ ingress: [ {} ] }"),
        native("{ ingress: [ { from: [] } ] }"),
        native("{ ingress: [ { ports: [ 80/tcp ] }, { action: deny } ] }"),
        native("{ ingress: [ { ports: [ 80/tcp ] }, { ports: [ 80/tcp ] } ] }"),
        native("{ egress: [ { to: [ { namespace: shop } ], ports: [ 80/tcp ] } ] }"),
        from("identity: spiffe://a.org/ns/shop*"),
        from("not: { namespace: shop }"),
        from("entity: host, namespace: shop"),
    ];
    let known = workload("{ selector: { uid: 1 } }");
    let mut texts = lints.map(|text| format!("{text}---\n{known}")).to_vec();
    let probed = native("{ ingress: [ { from: [ { namespace: shop } ], ports: [ 80/tcp ] } ] }");
    texts.push(format!(
        "{probed}---\n{}",
        workload("{ selector: { container: { labels: { io.kubernetes.pod.namespace: shop } } } }")
    ));
    texts.push(workload("{ selector: { systemdUnit: 'wax*.service' } }"));
    texts
}

fn of_istio() -> Vec<String> {
    let mut texts = vec![
        istio("{ action: CUSTOM, provider: { name: x } }"),
        istio("{ action: Deny }"),
        istio("{ targetRefs: [ { kind: Gateway, name: g } ] }"),
        istio("{ selector: { matchExpressions: [] } }"),
        istio("{ selector: { matchLabels: { version: 1 } } }"),
        istio("{ rules: {} }"),
        istio("{ rules: [ { form: [] } ] }"),
        istio("{ rules: [ { from: [ {} ] } ] }"),
        istio("{ rules: [ { from: [ { source: } ] } ] }"),
        istio("{ rules: [ { to: [ { operation: { ports: [ http, '0', '010', '70000' ] } } ] } ] }"),
        istio("{ rules: [ { when: [ { key: source.prinicpal, values: [ x ] } ] } ] }"),
        istio("{ rules: [ { when: [ { key: source.ip } ] } ] }"),
        istio("{ rules: [ { when: [ { key: destination.ip, values: [ x ] } ] } ] }"),
        istio("{ action: DENY, rules: [ { from: [] } ] }"),
        istio("{ action: DENY, rules: [ { from: [ { source: { principals: [] } } ] } ] }"),
        istio("{}").replace("name: a,", "name: a, annotations: { istio.io/dry-run: 'yes' },"),
        peer("p", "{ mtls: { mode: ISTIO_MUTUAL } }"),
        peer("p", "{ portLevelMtls: { 80: { mode: STRICT } } }"),
        peer("p", "{ selector: { matchLabels: { app: x } }, portLevelMtls: { http: { mode: STRICT } } }"),
        // What is odd, but means something.
        istio("{ action: DENY }"),
        istio("{ rules: [ { from: [] }, { to: [ { operation: {} } ] } ] }"),
        istio(
            "{ rules: [ { from: [ { source: { requestPrincipals: [ '*' ] } } ], to: [ { operation: { methods: [ GET ] } } ] } ] }",
        ),
        istio(
            "{ action: DENY, rules: [ { to: [ { operation: { hosts: [ x ] } } ], when: [ { key: 'request.headers[a]', values: [ b ] } ] } ] }",
        ),
        istio("{ rules: [ { when: [ { key: destination.ip, values: [ 10.0.0.1 ] } ] } ] }"),
        istio(
            "{ action: DENY, rules: [ { to: [ { operation: { paths: [ /a ] } } ], when: [ { key: destination.ip, values: [ 10.0.0.1 ] } ] } ] }",
        ),
        istio("{ rules: [ { when: [ { key: source.principal, notValues: [ a.org/x ] } ] } ] }"),
        peer("young", "{}") + &peer("old", "{ mtls: { mode: STRICT } }"),
    ];
    texts.extend(
        [
            "principals: [ frontend ]",
            "principals: [ 'a*b' ]",
            "principals: [ 'spiffe://a.org/ns/shop/sa/web' ]",
            "principals: [ 'a.org/ns/shop*' ]",
            "principals: []",
            "",
            "notPrincipals: [ a.org/x ]",
            "namespaces: [ '' ]",
            "serviceAccounts: [ 'a/b/c' ]",
            "ipBlocks: [ 10.0.0.1/8 ]",
            "principal: [ x ]",
        ]
        .map(source),
    );
    texts
}

fn of_cilium() -> Vec<String> {
    let mut texts = vec![
        cilium("{ ingress: [] }"),
        cilium("{ nodeSelector: {} }"),
        cilium("{ endpointSelector: { matchLabels: { 'k8s:io.kubernetes.pod.namespace': data } } }"),
        cilium("{ endpointSelector: { matchLabels: { 'reserved:host': '' } } }"),
        cilium("{ endpointSelector: {}, enableDefaultDeny: { ingress: 'no' } }"),
        cilium("{ endpointSelector: {} }").replace("CiliumNetwork", "CiliumClusterwideNetwork"),
        cilium("{ endpointSelector: {}, ingress: [] }"),
        cilium("{ endpointSelector: {}, ingress: [ {} ] }"),
        cilium("{ endpointSelector: {}, egress: [ { toFQDNs: [ { matchName: a.example } ] } ] }"),
        cilium("{ endpointSelector: {}, egressDeny: [ { toServices: [] } ] }"),
    ];
    texts.extend(
        [
            "fromEndpoints: [ {} ], fromEntities: [ all ]",
            "fromEndpoints: [ { matchLabels: { 'container:x': y } } ]",
            "fromEndpoints: [ { matchLabels: { io.cilium.k8s.policy.cluster: y } } ]",
            "fromEndpoints: [ { matchExpressions: [ { key: a, operator: Is, values: [ b ] } ] } ]",
            "fromEndpoints: [ { matchExpressions: [ { key: a, operator: In } ] } ]",
            "fromEndpoints: [ { matchExpressions: [ { key: a, operator: Exists, values: [ b ] } ] } ]",
            "fromEndpoints: [ { matchExpressions: [ { key: io.cilium.k8s.policy.serviceaccount, operator: Exists } ] } ]",
            "fromEndpoints: [ { matchExpressions: [ { key: 'reserved:host', operator: DoesNotExist } ] } ]",
            "fromEntities: [ wrold ]",
            "fromRequires: [ {} ]",
            "toPorts: [ { ports: [ { port: '80', protocol: tcp } ] } ]",
            "toPorts: [ { ports: [ { port: '80', endPort: 79 } ] } ]",
            "toPorts: [ { ports: [ { port: 1.5 } ] } ]",
            "toPorts: [], icmps: []",
            "icmps: [ { fields: [ { family: IPv4 } ] } ]",
            "authentication: { mode: require }",
            "fromEndpoints: []",
            "fromEntities: [ host ]",
            "fromEntities: [ kube-apiserver ]",
            "fromCIDRSet: [ { cidrGroupRef: x } ]",
            "fromGroups: []",
            "fromEndpoints: [ { matchLabels: { io.cilium.k8s.namespace.labels.team: red } } ]",
            "toPorts: []",
            "toPorts: [ {} ]",
            "toPorts: [ { ports: [ { port: '80' } ], rules: { http: [] } } ]",
            "toPorts: [ { ports: [ { port: http } ] } ]",
            "toPorts: [ { ports: [ { port: '80', protocol: SCTP } ] } ]",
            "icmps: [ { fields: [ { type: 8 } ] } ]",
        ]
        .map(ingress),
    );
    texts.extend(
        [
            "fromEntities: [ kube-apiserver ]",
            "fromEndpoints: []",
            "fromCIDRSet: [ { cidrGroupRef: x } ]",
            "toPorts: [ {} ]",
            "toPorts: [ { ports: [ { port: '80' } ], rules: { http: [] } } ]",
            "toPorts: [ { ports: [ { port: http } ] } ]",
            "authentication: { mode: required }",
            "toPorts: [ { ports: [ { port: '80', protocol: SCTP } ] } ]",
            "icmps: [ { fields: [ { type: 8 } ] } ]",
        ]
        .map(ingress_deny),
    );
    texts
}

fn of_kubernetes() -> Vec<String> {
    let mut texts = vec![
        kubernetes("{ policyTypes: [ Ingress ] }"),
        kubernetes("{ podSelector: {}, policyTypes: [ ingress ] }"),
        kubernetes("{ podSelector: {}, egress: [] }"),
        kubernetes("{ podSelector: {}, egress: [ {} ], policyTypes: [ Ingress ] }"),
        kubernetes("{ podSelector: {}, ingres: [] }").replace("namespace:", "namepsace:"),
    ];
    texts.extend(
        [
            "from: [ {} ]",
            "from: [ { ipBlock: { cidr: 10.0.0.0/8 }, podSelector: {} } ]",
            "from: [ { ipBlock: { cidr: 10.0.0.0/8, except: [ 11.0.0.0/8 ] } } ]",
            "ports: [ { endPort: 80 } ]",
            "ports: [ { port: 80, protocol: HTTP } ]",
            "ports: [ { port: '80' } ]",
            "from: []",
            "ports: []",
            "ports: [ { port: http } ]",
            "ports: [ { port: 80, protocol: SCTP } ]",
            "from: [ { namespaceSelector: { matchLabels: { team: red } } } ]",
        ]
        .map(pods),
    );
    texts
}

/// What is said about a text, and the kinds of problems and warnings that it showed.
fn said(text: &str, problems: &mut BTreeSet<String>, codes: &mut BTreeSet<&'static str>) -> String {
    match read(text) {
        Err(errors) => {
            for error in &errors.0 {
                problems.insert(variant(&error.problem));
            }
            format!("{errors}\n")
        }
        Ok(set) => {
            let mut out = String::new();
            for warning in lint(&set) {
                codes.insert(warning.code);
                let _infallible = writeln!(out, "warning: {warning}");
            }
            out
        }
    }
}

/// What is said about files, about questions, and about tables that are too small. [`super::files`] and [`super::tools`] call
/// these forth.
fn about_no_document(problems: &mut BTreeSet<String>) -> String {
    let missing = || std::io::Error::from_raw_os_error(libc::ENOENT);
    let too_many_ranges = CompileError::TooManyRanges {
        policies: vec!["shop/a".to_owned(), "shop/b".to_owned()],
        origin: Origin { file: Path::new("p.yaml").into(), line: 3, column: 1 },
        direction: "ingress",
        ranges: 65,
        limit: 64,
    };
    let questions = [
        ExplainError::Unknown("shop/wbe".to_owned()),
        ExplainError::Ambiguous {
            name: "web".to_owned(),
            candidates: vec!["shop/web (256)".to_owned(), "data/web (257)".to_owned()],
        },
        ExplainError::Port(Ports::parse("http").unwrap_err()),
        ExplainError::ManyPorts("80-90/tcp".to_owned()),
        ExplainError::Compile(CompileError::NumbersUsedUp),
    ];
    let compile = [too_many_ranges, CompileError::NumbersUsedUp];
    note_all(include_str!("../explain.rs"), "ExplainError", &questions);
    note_all(include_str!("../compile.rs"), "CompileError", &compile);
    let mut list = vec![
        Problem::System { action: "open", source: missing() },
        Problem::System { action: "read", source: missing() },
        Problem::System { action: "list", source: missing() },
        Problem::NotText,
        Problem::NotAFile("a symbolic link"),
        Problem::NotAFile("a pipe"),
        Problem::Owner { owner: 1000, reader: 0 },
        Problem::WorldWritable,
        Problem::TooLarge,
        Problem::TooManyFiles,
    ];
    list.extend(questions.into_iter().map(Problem::Question));
    list.extend(compile.into_iter().map(Problem::Compile));
    let mut out = String::new();
    for problem in list {
        problems.insert(variant(&problem));
        let error =
            LoadError { file: Path::new("p.yaml").into(), line: 0, column: 0, problem, excerpt: None };
        let _infallible = writeln!(out, "{error}");
    }
    let plan = PlanError { table: "row", needed: 70_000, capacity: 65_536 };
    let _infallible = writeln!(out, "{plan}");
    out
}

/// Every variant of an enum has an example.
fn note_all(source: &str, name: &str, examples: &[impl std::fmt::Debug]) {
    let seen: BTreeSet<String> = examples.iter().map(variant).collect();
    assert_eq!(variants(source, name), seen, "{name}");
}

fn variant(value: &impl std::fmt::Debug) -> String {
    let debug = format!("{value:?}");
    debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// The variants of an enum, read from its source.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let body = source.split(&format!("pub enum {name} {{")).nth(1).unwrap();
    let body = body.split("\n}").next().unwrap();
    body.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_text_about_a_mistake_or_an_oddity_is_in_the_golden_file() {
    let (mut problems, mut codes) = (BTreeSet::new(), BTreeSet::new());
    let mut found = String::new();
    for (title, texts) in [
        ("every document", of_every_document()),
        ("native documents", of_native_documents()),
        ("native documents that are odd", of_odd_native_documents()),
        ("Istio", of_istio()),
        ("Cilium", of_cilium()),
        ("Kubernetes", of_kubernetes()),
    ] {
        let _infallible = writeln!(found, "=== {title}");
        for text in texts {
            let said = said(&text, &mut problems, &mut codes);
            assert!(!said.is_empty(), "nothing is said about:\n{text}");
            let shown = text.replace('\0', "NUL");
            let _infallible = writeln!(found, "\n{}\n{said}", shown.trim_end());
        }
    }
    let _infallible =
        write!(found, "=== files, questions and tables\n\n{}", about_no_document(&mut problems));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/policy-messages.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == found,
        "the texts changed; UPDATE_EXPECT=1 writes them anew, then look at the difference"
    );
    let missing: Vec<String> =
        variants(include_str!("../error.rs"), "Problem").difference(&problems).cloned().collect();
    assert!(missing.is_empty(), "problems without an example: {missing:?}");
    let silent: Vec<&str> = CODES
        .into_iter()
        .filter(|code| !codes.contains(code) && !WARNINGS_ABOUT_FILES.contains(code))
        .collect();
    assert!(silent.is_empty(), "warnings without an example: {silent:?}");
}
