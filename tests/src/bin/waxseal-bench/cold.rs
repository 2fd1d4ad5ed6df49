//! First contact between two nodes: what the very first connection of a pair of workloads waits for its handshake.
//!
//! The plain path is the same kind of path beside it: a router, two wires, two namespaces, and no agent anywhere near.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::mesh::Mesh;
use waxseal_tests::network::{Network, Site};
use waxseal_tests::stage::{Workload, policy};

use crate::Plan;
use crate::ends::End;
use crate::figures::{Figures, Measure, quantile};

/// Callers on one node, each of which calls every server once: two hundred pairs.
const CALLERS: usize = 20;
/// Servers on the other.
const SERVERS: usize = 10;
/// Where the first server serves, the others above it.
const FIRST_PORT: u16 = 9000;
const LONG: Duration = Duration::from_secs(30);

/// Each pass is a mesh of its own: a pair meets for the first time only once.
pub(crate) fn measure(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let passes = if plan.quick { 1 } else { 5 };
    let mut answers = [const { Vec::new() }; 5];
    for _ in 0..passes {
        let (mut plain, mut sealed) = pass()?;
        let (before, at) = (quantile(&mut plain, 0.5), |values: &mut [f64], share| quantile(values, share));
        let (p50, p99) = (at(&mut sealed, 0.5), at(&mut sealed, 0.99));
        for (answer, found) in answers.iter_mut().zip([p50 - before, p99 - before, p50, p99, before]) {
            answer.push(found);
        }
    }
    let names = ["p50 above plain", "p99 above plain", "p50", "p99", "plain p50"];
    let rows = names.iter().map(|name| (*name).to_owned()).zip(answers).collect();
    figures.push(Measure::new(
        "cold",
        "first contact of 200 pairs of workloads between two nodes",
        "ms",
        rows,
    ));
    Ok(())
}

/// How long each first connection took: without an agent, and with.
fn pass() -> Result<(Vec<f64>, Vec<f64>)> {
    let (network, cgroup) = (Network::new(2, 1500), Cgroup::root("plain"));
    let mut mesh = Mesh::idle("cold", waxseal_tests::mesh::Plan::default());
    for stage in &mesh.nodes {
        stage.node.set("log", "info");
    }
    let callers: Vec<Workload> =
        (0..CALLERS).map(|number| mesh.workload(&format!("shop/caller-{number}"), 0, None)).collect();
    let servers: Vec<Workload> =
        (0..SERVERS).map(|number| mesh.workload(&format!("shop/server-{number}"), 1, None)).collect();
    mesh.start(&[]);
    for workload in callers.iter().chain(&servers) {
        mesh.home(workload).node.await_endpoint(&workload.cgroup.name());
    }
    mesh.nodes[1].apply(&rules(&callers, &servers));
    let ports: Vec<String> = (FIRST_PORT..).take(SERVERS).map(|port| port.to_string()).collect();
    let mut accepting = Vec::new();
    for (server, port) in servers.iter().zip(&ports) {
        accepting.push(accept(&server.cgroup, &mesh.network.sites[1], &[port])?);
    }
    accepting.push(accept(
        &cgroup,
        &network.sites[1],
        &ports.iter().map(String::as_str).collect::<Vec<_>>(),
    )?);
    let (mut plain, mut sealed) = (Vec::new(), Vec::new());
    for caller in &callers {
        plain.extend(connect_each(&cgroup, &network, &ports)?);
        sealed.extend(connect_each(&caller.cgroup, &mesh.network, &ports)?);
    }
    Ok((plain, sealed))
}

fn accept(cgroup: &Cgroup, site: &Site, ports: &[&str]) -> Result<End> {
    let end = End::start("accept", cgroup.path(), &site.netns.path(), ports);
    end.line(LONG)?;
    Ok(end)
}

/// Every server lets every caller in, by name.
fn rules(callers: &[Workload], servers: &[Workload]) -> String {
    let mut sources = String::new();
    for caller in callers {
        let _ = write!(sources, "{{ identity: \"{}\" }}, ", caller.spiffe_id());
    }
    let rule = format!("  ingress:\n    - from: [ {sources} ]\n      ports: [ 9000-9999/tcp ]");
    servers.iter().map(|server| policy(&server.name.replace('/', "-"), &server.name, &rule)).collect()
}

/// How long one connection to each port took, in milliseconds.
fn connect_each(cgroup: &Cgroup, network: &Network, ports: &[String]) -> Result<Vec<f64>> {
    let addresses: Vec<String> =
        ports.iter().map(|port| format!("{}:{port}", network.sites[1].end.v4)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let end = End::start("cold", cgroup.path(), &network.sites[0].netns.path(), &addresses);
    let times: Vec<f64> = end.told(LONG)?;
    ensure!(times.len() == ports.len(), "a first connection was not made");
    Ok(times.into_iter().map(|micros| micros / 1000.0).collect())
}
