//! The subjects. Each has a world of its own: two nodes with a router between them, a client on one, a server and another
//! client on the other. All worlds stand side by side, so that one can be measured right after the other.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::netns::Netns;
use waxseal_tests::network::{Network, Site};
use waxseal_tests::node::Settings;
use waxseal_tests::root;
use waxseal_tests::stage::{document, policy};

use crate::ends::{End, OPEN};
use crate::figures::BARE;
use crate::proxies::{Pair, Product, Programs};
use crate::rules;

/// How long an end may take to start.
const SOON: Duration = Duration::from_secs(10);
/// How long an agent may take to read a long list.
const LONG: Duration = Duration::from_mins(2);

/// What stands between the client and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bare,
    Waxseal { mode: &'static str, rules: usize, tap: bool },
    Nftables { rules: usize },
    Proxies(Product),
}

impl Kind {
    /// As tables and plots call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Bare => BARE.to_owned(),
            Self::Waxseal { mode: "permissive", .. } => "waxseal permissive".to_owned(),
            Self::Waxseal { rules, tap, .. } => {
                format!("waxseal {} rules{}", thousands(rules), if tap { " + tap" } else { "" })
            }
            Self::Nftables { rules } => format!("nftables {} rules", thousands(rules)),
            Self::Proxies(product) => product.name().to_owned(),
        }
    }

    /// Whether what passes may be datagrams, and may stay on one node.
    pub(crate) fn is_kernel(self) -> bool {
        !matches!(self, Self::Proxies(_))
    }

    /// The rules, for Waxseal that enforces and has no tap.
    pub(crate) fn enforced(self) -> Option<usize> {
        match self {
            Self::Waxseal { mode: "enforce", rules, tap: false } => Some(rules),
            _ => None,
        }
    }
}

/// 100000 as 100,000.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// What does the work in a world; dropped first.
#[derive(Debug)]
enum Work {
    None,
    Mesh { mesh: Box<Mesh>, _fillers: Vec<Cgroup>, tap: Option<Child> },
    Pair { _pair: Pair },
}

/// One subject in its place.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) kind: Kind,
    server: End,
    work: Work,
    /// The client on the first node, the one beside the server, the server.
    pub(crate) near: Cgroup,
    pub(crate) local: Cgroup,
    _serving: Cgroup,
    /// Agents, and the tap.
    agents: Cgroup,
    top: Vec<PathBuf>,
    network: Option<Network>,
    _home: Option<Cgroup>,
}

/// From where the server is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// Another node.
    Afar,
    /// The same node, over loopback.
    Beside,
}

impl World {
    pub(crate) fn build(kind: Kind, programs: &Programs) -> Result<Self> {
        match kind {
            Kind::Waxseal { mode, rules, tap } => Self::with_waxseal(kind, mode, rules, tap),
            _ => Self::without(kind, programs),
        }
    }

    fn without(kind: Kind, programs: &Programs) -> Result<Self> {
        let network = Network::new(2, 1500);
        prepare(&network);
        let home = Cgroup::root("plain");
        let [near, local, serving] = ["near", "local", "server"].map(|name| home.child(name));
        let server = serve(&serving, &network.sites[1])?;
        let mut top = vec![home.path().to_owned()];
        let work = match kind {
            Kind::Nftables { rules } => {
                let callers = [network.sites[0].end.v4, Ipv4Addr::LOCALHOST];
                network.sites[1].netns.nft(&rules::nft(&callers, rules));
                Work::None
            }
            Kind::Proxies(product) => {
                let ends = [&network.sites[0].netns, &network.sites[1].netns];
                let there = network.sites[1].end.v4.to_string();
                let pair = Pair::start(programs, product, ends, &there)?;
                top.push(pair.cgroup().path().to_owned());
                Work::Pair { _pair: pair }
            }
            _ => Work::None,
        };
        let agents = Cgroup::root("agents");
        let (network, home) = (Some(network), Some(home));
        Ok(Self { kind, server, work, near, local, _serving: serving, agents, top, network, _home: home })
    }

    fn with_waxseal(kind: Kind, mode: &'static str, rules: usize, tap: bool) -> Result<Self> {
        // As a user's agent: it says less than in tests, and has its metrics.
        let settings = Settings { mode, more: "metrics: 127.0.0.1:7462\n", ..Settings::default() };
        let mut mesh = Mesh::idle("bench", Plan { settings, ..Plan::default() });
        prepare(&mesh.network);
        for stage in &mesh.nodes {
            stage.node.set("log", "info");
        }
        let near = mesh.nodes[0].cgroup.child("workloads/near");
        let [local, serving] =
            ["local", "server"].map(|name| mesh.nodes[1].cgroup.child(&format!("workloads/{name}")));
        let fillers: Vec<(String, Cgroup)> = (1..rules::subjects(rules))
            .map(|number| {
                (rules::filler(number), mesh.nodes[1].cgroup.child(&format!("workloads/filler-{number}")))
            })
            .collect();
        let named = [("shop/local", &local), ("shop/server", &serving)];
        let named = named.into_iter().chain(fillers.iter().map(|(name, cgroup)| (name.as_str(), cgroup)));
        let documents: String = named.map(|(name, cgroup)| document(name, &cgroup.name())).collect();
        mesh.nodes[1].node.write("workloads.yaml", &documents);
        mesh.nodes[0].node.write("workloads.yaml", &document("shop/near", &near.name()));
        mesh.nodes[0].node.write("policy.yaml", &leave("near"));
        mesh.nodes[1].node.write("local.yaml", &leave("local"));
        for (number, text) in lists(rules, rules::PORTS).iter().enumerate() {
            mesh.nodes[1].node.write(&format!("list-{number}.yaml"), text);
        }
        for stage in &mut mesh.nodes {
            stage.node.launch();
        }
        for stage in &mut mesh.nodes {
            stage.node.await_start();
        }
        let agents = Cgroup::root("agents");
        for stage in &mesh.nodes {
            fs::write(agents.path().join("cgroup.procs"), stage.node.pid().to_string())?;
        }
        let server = serve(&serving, &mesh.network.sites[1])?;
        let tap = tap.then(|| attach(&mesh, &agents)).transpose()?;
        let top = mesh.nodes.iter().map(|stage| stage.cgroup.path().to_owned());
        let top = top.chain([agents.path().to_owned()]).collect();
        let fillers: Vec<Cgroup> = fillers.into_iter().map(|(_, cgroup)| cgroup).collect();
        let waited = 1 + fillers.len() as u64 + 1;
        let work = Work::Mesh { mesh: Box::new(mesh), _fillers: fillers, tap };
        let world = Self {
            kind,
            server,
            work,
            near,
            local,
            _serving: serving,
            agents,
            top,
            network: None,
            _home: None,
        };
        world.await_rules(waited, rules)?;
        Ok(world)
    }

    /// Waits until the workloads and their rules are in the kernel, and the near one is let in.
    fn await_rules(&self, endpoints: u64, rules: usize) -> Result<()> {
        let Some(mesh) = self.mesh() else { return Ok(()) };
        root::wait("the rules are in the kernel", LONG, || {
            let status = mesh.nodes[1].node.status();
            let rows = status["maps"].as_array()?.iter().find(|map| map["name"] == "rows")?;
            let full = rows["used"].as_u64()? >= rules as u64;
            (full && status["endpoints"].as_u64()? >= endpoints).then_some(())
        });
        for from in [From::Afar, From::Beside] {
            let start = std::time::Instant::now();
            while let Err(error) = self.client("open", from, OPEN, &["0.01", "1"]).line(SOON) {
                if start.elapsed() > LONG {
                    return Err(error.context("the client is not let in"));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn mesh(&self) -> Option<&Mesh> {
        match &self.work {
            Work::Mesh { mesh, .. } => Some(mesh),
            _ => None,
        }
    }

    fn network(&self) -> &Network {
        match (&self.work, &self.network) {
            (Work::Mesh { mesh, .. }, _) => &mesh.network,
            (_, Some(network)) => network,
            _ => unreachable!("a world has a network"),
        }
    }

    pub(crate) fn netns(&self, from: From) -> &Netns {
        &self.network().sites[usize::from(from == From::Beside)].netns
    }

    /// Where a client calls a port of the server.
    pub(crate) fn address(&self, from: From, port: u16) -> SocketAddr {
        let beside = from == From::Beside || matches!(self.work, Work::Pair { .. });
        let ip = if beside { Ipv4Addr::LOCALHOST } else { self.network().sites[1].end.v4 };
        SocketAddr::new(IpAddr::V4(ip), port)
    }

    /// Starts a client.
    pub(crate) fn client(&self, role: &str, from: From, port: u16, more: &[&str]) -> End {
        let cgroup = if from == From::Afar { &self.near } else { &self.local };
        let to = self.address(from, port).to_string();
        End::start(role, cgroup.path(), &self.netns(from).path(), &[&[to.as_str()], more].concat())
    }

    pub(crate) fn server(&self) -> &End {
        &self.server
    }

    /// Seconds of processor time that everything here has used: both ends, and whatever is between them.
    pub(crate) fn cpu(&self) -> f64 {
        self.top.iter().map(|path| usage(path)).sum()
    }

    /// One packet a segment, as without segmentation offload, or as many as the kernel likes.
    pub(crate) fn offload(&self, on: bool) {
        let segments = if on { "65535" } else { "1" };
        for site in &self.network().sites {
            site.netns.ip(&["link", "set", &site.wire, "gso_max_segs", segments]);
        }
    }

    /// The policies of the server with these ports for its callers.
    pub(crate) fn list(&self, ports: &str) -> Option<String> {
        let Kind::Waxseal { rules, .. } = self.kind else { return None };
        lists(rules, ports).into_iter().next()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Work::Mesh { tap: Some(tap), .. } = &mut self.work {
            let _ = tap.kill();
            let _ = tap.wait();
        }
        let _ = fs::write(self.agents.path().join("cgroup.kill"), "1");
    }
}

/// Seconds of processor time of a cgroup and all below it.
fn usage(path: &std::path::Path) -> f64 {
    let stat = fs::read_to_string(path.join("cpu.stat")).unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    line.and_then(|number| number.parse::<f64>().ok()).map_or(f64::NAN, |micros| micros / 1e6)
}

/// Room for as many connections as a short while brings.
fn prepare(network: &Network) {
    for site in &network.sites {
        site.netns.set("ipv4/ip_local_port_range", "'10000 65535'");
        site.netns.set("ipv4/tcp_tw_reuse", "1");
    }
}

fn serve(cgroup: &Cgroup, site: &Site) -> Result<End> {
    let server = End::start("serve", cgroup.path(), &site.netns.path(), &[]);
    server.line(SOON).context("the server")?;
    Ok(server)
}

fn id(name: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{name}")
}

/// A client may call the server.
fn leave(name: &str) -> String {
    let to = id("server");
    let rules =
        format!("  egress:\n    - to: [ {{ identity: \"{to}\" }} ]\n      ports: {}", rules::WITH_GATE);
    policy(&format!("{name}-leaves"), &format!("shop/{name}"), &rules)
}

fn lists(rules: usize, ports: &str) -> Vec<String> {
    rules::waxseal("shop/server", &["near", "local"].map(id), rules, ports)
}

/// Follows what both nodes say.
fn attach(mesh: &Mesh, agents: &Cgroup) -> Result<Child> {
    let node = &mesh.nodes[1].node;
    let tap = node.command(&["tap", "-o", "json"]).stdout(Stdio::null()).spawn().context("start a tap")?;
    fs::write(agents.path().join("cgroup.procs"), tap.id().to_string())?;
    let start = std::time::Instant::now();
    while node.status()["taps"]["readers"].as_u64() != Some(1) {
        if start.elapsed() > SOON {
            bail!("the tap is not attached");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(tap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(10, "10"), (1000, "1,000"), (100_000, "100,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
