//! Between two nodes: what the first connection of a pair waits for its handshake, and what later ones cost.
//!
//! The plain path is the same kind of path beside it: a router, two wires, two namespaces, and no agent anywhere near.

use std::fmt::Write as _;

use serde::Serialize;
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::mesh::Mesh;
use waxseal_tests::network::Network;
use waxseal_tests::stage::{Workload, policy};

use crate::ends::{finish, line_of, start_end, wait_for_line};
use crate::{Comparison, PORT, Plan, eprint_progress};

/// Callers on one node, each of which calls every server once: two hundred pairs.
const CALLERS: usize = 20;
/// Servers on the other.
const SERVERS: usize = 10;
/// Where the first server serves, the others above it.
const FIRST_PORT: u16 = 9000;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Nodes {
    cold: Cold,
    warm: Comparison,
}

/// First connections, in milliseconds.
#[derive(Debug, Serialize)]
struct Cold {
    pairs: usize,
    plain_median: f64,
    median: f64,
    p99: f64,
    /// Above a plain connection's median.
    median_above: f64,
    p99_above: f64,
}

/// A place for both ends of the load without an agent.
struct Plain {
    network: Network,
    cgroup: Cgroup,
}

pub(crate) fn measure(plan: Plan) -> Nodes {
    let plain = Plain { network: Network::new(2, 1500), cgroup: Cgroup::root("plain") };
    let mut mesh = Mesh::idle("bench", waxseal_tests::mesh::Plan::default());
    let callers: Vec<Workload> =
        (0..CALLERS).map(|number| mesh.workload(&format!("shop/caller-{number}"), 0, None)).collect();
    let servers: Vec<Workload> =
        (0..SERVERS).map(|number| mesh.workload(&format!("shop/server-{number}"), 1, None)).collect();
    mesh.start(&[]);
    for workload in callers.iter().chain(&servers) {
        mesh.home(workload).node.await_endpoint(&workload.cgroup.name());
    }
    mesh.nodes[1].apply(&rules(&callers, &servers));
    let cold = cold(&plain, &mesh, &callers, &servers);
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..plan.rounds {
        for on in [round % 2 == 0, round % 2 != 0] {
            let rate = if on {
                let sites = &mesh.network.sites;
                let ends = [(&callers[0].cgroup, &sites[0]), (&servers[0].cgroup, &sites[1])];
                connections(plan, ends)
            } else {
                let sites = &plain.network.sites;
                connections(plan, [(&plain.cgroup, &sites[0]), (&plain.cgroup, &sites[1])])
            };
            rates[usize::from(on)].push(rate);
        }
        eprint_progress(round + 1, plan.rounds);
    }
    let [off, on] = rates;
    Nodes { cold, warm: Comparison::of("connections/s", off, on) }
}

/// Every server lets every caller in, by name.
fn rules(callers: &[Workload], servers: &[Workload]) -> String {
    let mut sources = String::new();
    for caller in callers {
        let _ = write!(sources, "{{ identity: \"{}\" }}, ", caller.spiffe_id());
    }
    let rule = format!("  ingress:\n    - from: [ {sources} ]\n      ports: [ {PORT}/tcp, 9000-9999/tcp ]");
    servers.iter().map(|server| policy(&server.name.replace('/', "-"), &server.name, &rule)).collect()
}

fn cold(plain: &Plain, mesh: &Mesh, callers: &[Workload], servers: &[Workload]) -> Cold {
    let ports: Vec<u16> = (FIRST_PORT..).take(servers.len()).collect();
    let numbers: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    // Plain first: the same number of connections, from as many processes.
    let [here, there] = [0, 1].map(|side| &plain.network.sites[side]);
    let mut accept = start_end("accept", &plain.cgroup, &there.netns, 1, &numbers);
    wait_for_line(&mut accept);
    let mut plainly = Vec::new();
    for _ in callers {
        plainly.extend(connect_each(&plain.cgroup, here, there, &ports));
    }
    finish([accept]);
    let [here, there] = [0, 1].map(|side| &mesh.network.sites[side]);
    let accepting: Vec<_> = servers
        .iter()
        .zip(&numbers)
        .map(|(server, port)| {
            let mut accept = start_end("accept", &server.cgroup, &there.netns, 1, &[port]);
            wait_for_line(&mut accept);
            accept
        })
        .collect();
    let mut sealed = Vec::new();
    for caller in callers {
        sealed.extend(connect_each(&caller.cgroup, here, there, &ports));
    }
    for accept in accepting {
        finish([accept]);
    }
    let plain_median = quantile(&mut plainly, 50);
    let (median, p99) = (quantile(&mut sealed, 50), quantile(&mut sealed, 99));
    Cold {
        pairs: sealed.len(),
        plain_median,
        median,
        p99,
        median_above: median - plain_median,
        p99_above: p99 - plain_median,
    }
}

/// How long one connection to each port took, in milliseconds.
fn connect_each(
    cgroup: &Cgroup,
    here: &waxseal_tests::network::Site,
    there: &waxseal_tests::network::Site,
    ports: &[u16],
) -> Vec<f64> {
    let addresses: Vec<String> = ports.iter().map(|port| format!("{}:{port}", there.end.v4)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut end = start_end("cold", cgroup, &here.netns, 0, &addresses);
    let line = line_of(&mut end);
    finish([end]);
    let times: Vec<f64> = line.split(' ').filter_map(|word| word.parse::<f64>().ok()).collect();
    assert_eq!(times.len(), ports.len(), "every first connection is made: {line}");
    times.into_iter().map(|micros| micros / 1000.0).collect()
}

/// connect() + accept() + close() a second.
fn connections(plan: Plan, [near, far]: [(&Cgroup, &waxseal_tests::network::Site); 2]) -> f64 {
    near.1.netns.set("ipv4/ip_local_port_range", "'1024 65535'");
    near.1.netns.set("ipv4/tcp_tw_reuse", "1");
    let mut accept = start_end("accept", far.0, &far.1.netns, 0, &[]);
    wait_for_line(&mut accept);
    let address = far.1.end.v4.to_string();
    let mut connect = start_end("connect", near.0, &near.1.netns, 0, &[&address, &plan.seconds.to_string()]);
    let rate = wait_for_line(&mut connect);
    finish([connect, accept]);
    rate
}

fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(index).copied().unwrap_or(f64::NAN)
}

pub(crate) fn print_report(Nodes { cold, warm }: &Nodes) {
    println!("\ntwo nodes with a router between them");
    println!(
        "first connection of {} pairs: p50 {:.2} ms and p99 {:.2} ms above a plain one ({:.2} ms)",
        cold.pairs, cold.median_above, cold.p99_above, cold.plain_median
    );
    println!("{:<28}{:>12}{:>12}{:>8}", "", "no agent", "enforcing", "ratio");
    warm.print("later connections");
}
