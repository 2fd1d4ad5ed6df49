//! Places for several nodes on one kernel: a router, a wire from it to each node, and pods behind the nodes.
//!
//! ```text
//!   node 0 ---- wire1 ---- router ---- wire2 ---- node 1
//!     |         10.77.1.0/24           10.77.2.0/24
//!   wire11, 10.77.11.0/24
//!     |
//!    pod
//! ```
//!
//! The router has .1 on each wire, the node .2. A node has .1 on the wires to its pods. Interfaces are called as their
//! wire on both sides, so that a test may reuse numbers in another [`Network`].

use std::net::IpAddr;

use crate::netns::{End, Netns};

/// The number of a wire that leads to a pod, less the number of the node's own.
const PODS: u8 = 10;

/// Where a node lives.
#[derive(Debug)]
pub struct Site {
    /// The node's namespace. Its agent runs here too.
    pub netns: Netns,
    /// The node's end of the wire to the router.
    pub end: End,
    /// The router's end.
    pub gate: End,
    /// What the wire is called, on both sides.
    pub wire: String,
}

/// A namespace behind a node, reached through the node only.
#[derive(Debug)]
pub struct Pod {
    /// The namespace.
    pub netns: Netns,
    /// Its end of the wire to the node.
    pub end: End,
    /// The node's end.
    pub gate: End,
}

/// A router and the places around it.
#[derive(Debug)]
pub struct Network {
    /// Passes on what goes from node to node.
    pub router: Netns,
    /// The nodes' places, in order.
    pub sites: Vec<Site>,
}

impl Network {
    /// A network of this many nodes whose wires carry packets of this many bytes at most.
    pub fn new(nodes: u8, mtu: u32) -> Self {
        let router = place("router");
        router.forward();
        let sites = (1..=nodes).map(|number| Site::new(&router, number, mtu)).collect();
        Self { router, sites }
    }

    /// A pod behind a node. A node's pods are numbered from 0; at most nine nodes have pods, and each at most five.
    pub fn pod(&self, node: usize, number: u8) -> Pod {
        let site = &self.sites[node];
        let own: u8 = site.wire.trim_start_matches("wire").parse().expect("a wire has a number");
        let netns = place("pod");
        let (gate, end) = site.netns.wire(&netns, own + PODS * (number + 1));
        netns.default_route(&gate);
        site.netns.forward();
        let subnets = [format!("{}/32", end.v4), format!("{}/128", end.v6)];
        self.router.ip(&["route", "replace", &subnets[0], "via", &site.end.v4.to_string()]);
        self.router.ip(&["-6", "route", "replace", &subnets[1], "via", &site.end.v6.to_string()]);
        Pod { netns, end, gate }
    }

    /// The router's kernel passes nothing on any more; what it says of itself (ARP, ND) goes on. See [`crate::middle`].
    pub fn stop_forwarding(&self) {
        self.router.set("ipv4/ip_forward", "0");
        self.router.set("ipv6/conf/all/forwarding", "0");
    }

    /// Whether the router itself has this address.
    pub fn is_router(&self, address: IpAddr) -> bool {
        self.sites.iter().any(|site| site.gate.both().contains(&address))
    }
}

/// A namespace whose addresses can be used at once: the kernel would first ask for a second whether somebody else has
/// its link-local ones, and find no neighbours meanwhile.
fn place(label: &str) -> Netns {
    let netns = Netns::new(label);
    for scope in ["all", "default"] {
        netns.set(&format!("ipv6/conf/{scope}/accept_dad"), "0");
    }
    netns
}

impl Site {
    fn new(router: &Netns, number: u8, mtu: u32) -> Self {
        let netns = place("site");
        let (gate, end) = router.wire(&netns, number);
        let wire = format!("wire{number}");
        for side in [router, &netns] {
            side.ip(&["link", "set", &wire, "mtu", &mtu.to_string()]);
        }
        netns.default_route(&gate);
        Self { netns, end, gate, wire }
    }

    /// One packet a segment, as without segmentation offload.
    pub fn without_gso(&self) {
        self.netns.ip(&["link", "set", &self.wire, "gso_max_segs", "1"]);
    }
}
