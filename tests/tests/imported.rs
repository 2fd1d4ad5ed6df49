//! Policies as they stand in guides to zero trust, in the languages of Istio and Cilium, between real processes.

use std::net::SocketAddr;

use serde_json::Value;
use waxseal_tests::netns::{End, Netns};
use waxseal_tests::probe::Protocol;
use waxseal_tests::stage::{Stage, Workload};

const CHECKOUT: &str = "cluster.local/ns/shop/sa/checkout";

/// Everything that may be asked of one service: by the right caller, by another workload, by somebody unproven.
struct Scene {
    stage: Stage,
    checkout: Workload,
    batch: Workload,
    stranger: Workload,
    api: Workload,
    end: End,
    _namespaces: (Netns, Netns),
}

impl Scene {
    fn new(label: &str) -> Self {
        let (here, there) = (Netns::new("here"), Netns::new("there"));
        let (_, end) = here.wire(&there, 1);
        let workloads =
            [("shop/checkout", Some(&here)), ("shop/batch", Some(&here)), ("payments/api", Some(&there))];
        let (stage, [checkout, batch, mut api]) = Stage::new(label, workloads);
        let stranger = stage.stranger(Some(&here));
        for port in [8080, 8081] {
            api.probe.serve(Protocol::Tcp, &format!("[::]:{port}"));
        }
        Self { stage, checkout, batch, stranger, api, end, _namespaces: (here, there) }
    }

    /// Whether checkout, batch and the stranger reach a port, over both families.
    fn reached(&mut self, port: u16) -> [bool; 3] {
        let mut reached = [true; 3];
        for ip in self.end.both() {
            let to = SocketAddr::new(ip, port);
            for (open, caller) in
                reached.iter_mut().zip([&mut self.checkout, &mut self.batch, &mut self.stranger])
            {
                *open &= caller.probe.talk(Protocol::Tcp, to).is_none();
            }
        }
        reached
    }

    /// What the agent says about a caller, from the documents in force.
    fn explained(&self, from: &str, port: &str) -> (String, String) {
        let arguments = ["policy", "explain", "--from", from, "--to", "payments/api", "--port", port];
        let answer: Value = self.stage.node.json(&arguments);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rule = format!(
            "{}#{}",
            text(&answer["ingress"]["rule"]["policy"]),
            text(&answer["ingress"]["rule"]["rule"])
        );
        (text(&answer["verdict"]), rule)
    }
}

fn authorization(name: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: payments\n\
         spec:\n  selector:\n    matchLabels:\n      app: api\n  action: ALLOW\n  rules:\n{rule}"
    )
}

#[test]
fn an_allow_for_one_service_account_lets_in_that_account_and_nobody_else() {
    let mut scene = Scene::new("istio-allow");
    assert_eq!(scene.reached(8080), [true; 3], "nothing is in force yet");
    let rule = format!("  - from:\n    - source:\n        principals: [\"{CHECKOUT}\"]\n");
    scene.stage.apply(&authorization("checkout", &rule));
    assert_eq!(scene.reached(8080), [true, false, false]);
    assert_eq!(scene.reached(8081), [true, false, false]);
    let allowed = ("allow".to_owned(), "payments/checkout#rules[0]".to_owned());
    assert_eq!(scene.explained("shop/checkout", "8080/tcp"), allowed);
    assert_eq!(scene.explained("shop/batch", "8080/tcp").0, "deny");
}

#[test]
fn methods_and_paths_cannot_be_honoured_so_their_rule_allows_nothing_and_a_warning_says_so() {
    let mut scene = Scene::new("istio-l7");
    let rule = format!(
        "  - from:\n    - source:\n        principals: [\"{CHECKOUT}\"]\n    to:\n    - operation:\n        methods: [\"GET\"]\n        \
         paths: [\"/info*\"]\n  - from:\n    - source:\n        principals: [\"{CHECKOUT}\"]\n    to:\n    - operation:\n        \
         ports: [\"8081\"]\n"
    );
    scene.stage.apply(&authorization("info", &rule));
    assert_eq!(scene.reached(8080), [false; 3], "only requests would tell a GET from a POST");
    assert_eq!(scene.reached(8081), [true, false, false], "the other rule of the policy stays");
    let (verdict, rule) = scene.explained("shop/checkout", "8080/tcp");
    assert_eq!((verdict.as_str(), rule.as_str()), ("deny", "payments/info#"), "the policy denies by default");
    let allowed = ("allow".to_owned(), "payments/info#rules[1]".to_owned());
    assert_eq!(scene.explained("shop/checkout", "8081/tcp"), allowed);
    let file = scene.stage.node.path("policies").join("policy.yaml");
    let report = scene.stage.node.json(&["policy", "check", file.to_str().expect("plain names")]);
    let warnings = report["warnings"].as_array().expect("a list").clone();
    let text = warnings.iter().find(|warning| warning["code"] == "request-conditions").expect("a warning");
    assert!(text["text"].as_str().is_some_and(|text| text.contains("methods, paths")), "{text}");
}

#[test]
fn a_strict_peer_authentication_shuts_out_whoever_has_proved_nothing() {
    let mut scene = Scene::new("istio-strict");
    scene.stage.apply(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  namespace: payments\n\
         spec:\n  mtls:\n    mode: STRICT\n",
    );
    assert_eq!(scene.reached(8080), [true, true, false]);
    let (verdict, rule) = scene.explained("unknown", "8080/tcp");
    assert_eq!((verdict.as_str(), rule.as_str()), ("deny", "payments/default#STRICT"));
    scene.stage.apply(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: api\n  namespace: payments\n\
         spec:\n  selector:\n    matchLabels:\n      app: api\n  mtls:\n    mode: STRICT\n  portLevelMtls:\n    8081:\n      \
         mode: PERMISSIVE\n",
    );
    assert_eq!(scene.reached(8080), [true, true, false]);
    assert_eq!(scene.reached(8081), [true, true, true]);
}

#[test]
fn a_principal_with_its_scheme_means_what_its_writer_meant() {
    let mut scene = Scene::new("istio-scheme");
    let rule = format!(
        "  - from:\n    - source:\n        principals: [\"spiffe://{CHECKOUT}\"]\n    to:\n    - operation:\n        ports: [\"8080\"]\n"
    );
    scene.stage.apply(&authorization("scheme", &rule));
    assert_eq!(scene.reached(8080), [true, false, false]);
    assert_eq!(scene.reached(8081), [false; 3]);
    let allowed = ("allow".to_owned(), "payments/scheme#rules[0]".to_owned());
    assert_eq!(scene.explained("shop/checkout", "8080/tcp"), allowed);
    assert_eq!(scene.explained("shop/batch", "8080/tcp").0, "deny");
}

#[test]
fn a_cilium_policy_with_its_port_as_a_text_opens_that_port_for_those_endpoints() {
    let mut scene = Scene::new("cilium");
    scene.stage.apply(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: l4\n  namespace: payments\nspec:\n  \
         endpointSelector:\n    matchLabels:\n      app: api\n  ingress:\n  - fromEndpoints:\n    - matchLabels:\n        \
         k8s:io.kubernetes.pod.namespace: shop\n        app: checkout\n    toPorts:\n    - ports:\n      - port: \"8080\"\n        \
         protocol: TCP\n",
    );
    assert_eq!(scene.reached(8080), [true, false, false]);
    assert_eq!(scene.reached(8081), [false; 3]);
    let allowed = ("allow".to_owned(), "payments/l4#ingress[0]".to_owned());
    assert_eq!(scene.explained("shop/checkout", "8080/tcp"), allowed);
    assert!(scene.api.name.ends_with("api"));
}

#[test]
fn a_folder_of_all_languages_is_one_set() {
    let mut scene = Scene::new("mixed");
    let rule = format!("  - from:\n    - source:\n        principals: [\"{CHECKOUT}\"]\n");
    scene.stage.node.write("istio.yaml", &authorization("checkout", &rule));
    scene.stage.apply(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata:\n    name: batch\n    \
         namespace: payments\n  spec:\n    podSelector:\n      matchLabels:\n        app: api\n    ingress:\n    - from:\n      - \
         namespaceSelector:\n          matchLabels:\n            kubernetes.io/metadata.name: shop\n        podSelector:\n          \
         matchLabels:\n            app: batch\n      ports:\n      - port: 8080\n- apiVersion: waxseal.dev/v1alpha1\n  kind: \
         Namespace\n  metadata:\n    name: shop\n  spec: {}\n",
    );
    assert_eq!(scene.reached(8080), [true, true, false]);
    assert_eq!(scene.reached(8081), [true, false, false]);
}
