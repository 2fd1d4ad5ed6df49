//! One agent, and workloads with names, ready for a test.

use std::fmt::Write as _;

use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::node::{Node, Settings};
use crate::probe::{Probe, Protocol, parse};
use crate::root;

/// A workload: a cgroup, a namespace, a process that does what it is told.
#[derive(Debug)]
pub struct Workload {
    /// What the test asks.
    pub probe: Probe,
    /// Where it lives. After the probe, so that the process ends first.
    pub cgroup: Cgroup,
    /// `namespace/name`.
    pub name: String,
}

impl Workload {
    /// The SPIFFE ID that it has unless its document says otherwise.
    pub fn spiffe_id(&self) -> String {
        let (namespace, name) = self.name.split_once('/').unwrap_or(("default", &self.name));
        format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")
    }
}

/// An agent and the cgroup subtree that it guards.
#[derive(Debug)]
pub struct Stage {
    /// The agent.
    pub node: Node,
    /// The top of its subtree. After the agent, so that the agent ends first.
    pub cgroup: Cgroup,
    documents: String,
}

impl Stage {
    /// A subtree, its agent with the default settings of tests, and workloads: `namespace/name` and where they live.
    pub fn new<const N: usize>(label: &str, workloads: [(&str, Option<&Netns>); N]) -> (Self, [Workload; N]) {
        Self::with(label, Settings::default(), workloads)
    }

    /// The same with settings.
    pub fn with<const N: usize>(
        label: &str,
        settings: Settings<'_>,
        workloads: [(&str, Option<&Netns>); N],
    ) -> (Self, [Workload; N]) {
        let mut stage = Self::idle(label, settings);
        let workloads = workloads.map(|(name, netns)| stage.workload(name, netns));
        stage.node.write("workloads.yaml", &stage.documents);
        stage.node.start();
        for workload in &workloads {
            stage.node.await_endpoint(&workload.cgroup.name());
        }
        (stage, workloads)
    }

    /// A subtree and an agent that is not started.
    pub fn idle(label: &str, settings: Settings<'_>) -> Self {
        root::require();
        let cgroup = Cgroup::root(label);
        let node = Node::new(cgroup.path(), settings);
        Self { node, cgroup, documents: String::new() }
    }

    /// The same for a node with a namespace of its own.
    pub fn idle_in(label: &str, settings: Settings<'_>, netns: &Netns) -> Self {
        let mut stage = Self::idle(label, settings);
        stage.node.live_in(netns);
        stage
    }

    /// Writes the `Workload` documents of everything made until now, for the agent's next start or look.
    pub fn write_documents(&self) {
        self.node.write("workloads.yaml", &self.documents);
    }

    /// A workload whose document is not written to the policies yet: see [`Stage::documents`].
    pub fn workload(&mut self, name: &str, netns: Option<&Netns>) -> Workload {
        // In a directory of their own: what is below it is expected to be a workload (see `managed` in the agent).
        let cgroup = self.cgroup.child(&format!("workloads/{}", name.replace('/', "-")));
        self.documents.push_str(&document(name, &cgroup.name()));
        let path = netns.map(Netns::path);
        let probe = Probe::start(Some(cgroup.path()), path.as_deref(), None);
        Workload { probe, cgroup, name: name.to_owned() }
    }

    /// A process that no document names: in a cgroup of the subtree, but nobody's workload.
    pub fn stranger(&self, netns: Option<&Netns>) -> Workload {
        let cgroup = self.cgroup.child(&format!("strangers/{}", root::unique("stranger")));
        let path = netns.map(Netns::path);
        let probe = Probe::start(Some(cgroup.path()), path.as_deref(), None);
        Workload { probe, cgroup, name: "unmanaged".to_owned() }
    }

    /// The `Workload` documents of everything made until now.
    pub fn documents(&self) -> &str {
        &self.documents
    }

    /// Puts policies in force.
    pub fn apply(&self, text: &str) {
        self.node.apply("policy.yaml", text);
    }
}

/// A `Workload` document: selected by its cgroup, labelled `app: <name>`.
pub fn document(name: &str, cgroup: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "---\napiVersion: waxseal.dev/v1alpha1\nkind: Workload\n\
         metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}\n\
         spec: {{ selector: {{ cgroup: \"{cgroup}\" }} }}\n"
    )
}

/// An `IdentityPolicy` for the workload `namespace/app`. `rules` is the rest of the document's `spec`, indented by two.
pub fn policy(name: &str, subject: &str, rules: &str) -> String {
    let (namespace, app) = subject.split_once('/').unwrap_or(("default", subject));
    let mut text = format!(
        "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\n\
         metadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  selector: {{ app: {app} }}\n"
    );
    let _ = writeln!(text, "{rules}");
    text
}

/// A policy that lets one workload reach ports of another: `ports` is a YAML list, for example `[ 8080/tcp ]`.
pub fn allow_ingress(name: &str, subject: &str, source: &Workload, ports: &str) -> String {
    let rules = format!(
        "  ingress:\n    - name: may-enter\n      from: [ {{ identity: \"{}\" }} ]\n      ports: {ports}",
        source.spiffe_id()
    );
    policy(name, subject, &rules)
}

/// A policy that lets a workload call ports of another, and nothing else.
pub fn allow_egress(name: &str, subject: &str, destination: &Workload, ports: &str) -> String {
    let rules = format!(
        "  egress:\n    - name: may-leave\n      to: [ {{ identity: \"{}\" }} ]\n      ports: {ports}",
        destination.spiffe_id()
    );
    policy(name, subject, &rules)
}

/// One workload that may call nobody.
pub fn hermit(label: &str) -> (Stage, Workload) {
    let (stage, [workload]) = Stage::new(label, [("shop/hermit", None)]);
    stage.apply(&closed());
    (stage, workload)
}

/// The policy of [`hermit`].
pub fn closed() -> String {
    policy("closed", "shop/hermit", "  egress: []")
}

/// Fails unless the workload of [`hermit`] is refused over TCP and UDP.
pub fn assert_guarded(workload: &mut Workload, case: &str) {
    for protocol in Protocol::BOTH {
        workload.probe.connect(protocol, parse("192.0.2.1:80")).assert_refused(&["EPERM"], case);
    }
}
