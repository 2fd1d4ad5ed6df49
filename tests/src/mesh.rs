//! Several nodes that trust one authority, and workloads on them, ready for a test.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::authority::{Authority, Terms};
use crate::netns::Netns;
use crate::network::Network;
use crate::node::{Settings, write_private};
use crate::root;
use crate::stage::{Stage, Workload};

/// How long a session may take to be seen.
const SOON: Duration = Duration::from_secs(10);

/// What differs from test to test.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// How many nodes.
    pub nodes: u8,
    /// The most that a packet may hold on any wire between them.
    pub mtu: u32,
    /// The agents' settings.
    pub settings: Settings<'a>,
    /// The authority's terms.
    pub terms: Terms<'a>,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { nodes: 2, mtu: 1500, settings: Settings::default(), terms: Terms::default() }
    }
}

/// The nodes, the authority and the network between them.
#[derive(Debug)]
pub struct Mesh {
    /// The nodes, in order. Before all else, so that the agents end first.
    pub nodes: Vec<Stage>,
    /// Who signs.
    pub authority: Authority,
    /// What lies between.
    pub network: Network,
}

impl Mesh {
    /// Two nodes with the default settings of tests, and workloads: `namespace/name` and the node where each runs.
    pub fn new<const N: usize>(label: &str, workloads: [(&str, usize); N]) -> (Self, [Workload; N]) {
        Self::with(label, Plan::default(), workloads)
    }

    /// The same as planned.
    pub fn with<const N: usize>(
        label: &str,
        plan: Plan<'_>,
        workloads: [(&str, usize); N],
    ) -> (Self, [Workload; N]) {
        let mut mesh = Self::idle(label, plan);
        let workloads = workloads.map(|(name, node)| mesh.workload(name, node, None));
        mesh.start(&workloads);
        (mesh, workloads)
    }

    /// Nodes that have a token each and are not started.
    pub fn idle(label: &str, plan: Plan<'_>) -> Self {
        root::require();
        let network = Network::new(plan.nodes, plan.mtu);
        let mut authority = Authority::new(&network.router, network.sites[0].gate.v4.into(), plan.terms);
        authority.serve();
        let nodes = (0..usize::from(plan.nodes)).map(|number| {
            let name = node_name(number);
            let stage =
                Stage::idle_in(&format!("{label}-{name}"), plan.settings, &network.sites[number].netns);
            join(&stage, &authority, &name);
            stage
        });
        Self { nodes: nodes.collect(), authority, network }
    }

    /// Lets a node that was not started yet belong to an authority of its own: the same names, other keys.
    pub fn defect(&self, node: usize) -> Authority {
        let address = self.network.sites[node].gate.v4.into();
        let mut authority = Authority::new(&self.network.router, address, Terms::default());
        authority.serve();
        join(&self.nodes[node], &authority, &node_name(node));
        authority
    }

    /// A workload on a node: in the node's own namespace, or in another one.
    pub fn workload(&mut self, name: &str, node: usize, netns: Option<&Netns>) -> Workload {
        let netns = netns.unwrap_or(&self.network.sites[node].netns);
        self.nodes[node].workload(name, Some(netns))
    }

    /// Starts all nodes and waits until each of these workloads is known.
    pub fn start(&mut self, workloads: &[Workload]) {
        for stage in &mut self.nodes {
            stage.write_documents();
            stage.node.launch();
        }
        for stage in &mut self.nodes {
            stage.node.await_start();
        }
        for workload in workloads {
            self.home(workload).node.await_endpoint(&workload.cgroup.name());
        }
    }

    /// The node where a workload runs.
    pub fn home(&self, workload: &Workload) -> &Stage {
        let inside = |stage: &&Stage| workload.cgroup.path().starts_with(stage.cgroup.path());
        self.nodes.iter().find(inside).expect("a workload runs on a node")
    }

    /// A process on a node that no document names.
    pub fn stranger(&self, node: usize) -> Workload {
        self.nodes[node].stranger(Some(&self.network.sites[node].netns))
    }

    /// A port of a node's IPv4 address.
    pub fn at(&self, node: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.network.sites[node].end.v4.into(), port)
    }

    /// A port of a node's addresses of both families.
    pub fn both(&self, node: usize, port: u16) -> [SocketAddr; 2] {
        self.network.sites[node].end.both().map(|ip| SocketAddr::new(ip, port))
    }

    /// What `waxseal session list` says on a node.
    pub fn sessions(&self, node: usize) -> Vec<Value> {
        let list = self.nodes[node].node.json(&["session", "list"]);
        list["sessions"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a node has a session that fits.
    pub fn await_session(&self, node: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        root::wait(&format!("a session on {}: {what}", node_name(node)), SOON, || {
            self.sessions(node).into_iter().find(|session| wanted(session))
        })
    }

    /// A counter on a node.
    pub fn counter(&self, node: usize, name: &str) -> u64 {
        self.nodes[node].node.counter(name)
    }
}

/// The name of a node: `node-a`, `node-b`, ...
pub fn node_name(number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number).expect("there are few nodes"));
    format!("node-{letter}")
}

/// Tells a node where its authority is, and hands it a token.
fn join(stage: &Stage, authority: &Authority, name: &str) {
    stage.node.set("node", name);
    stage.node.set("ca", &authority.address().to_string());
    let token = stage.node.path("join-token");
    write_private(&token, &authority.token(name, "/ns/shop/sa/*"));
    stage.node.set("join_token", &token.display().to_string());
}
