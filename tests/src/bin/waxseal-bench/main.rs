//! What enforcement costs: the same load with no agent and with an agent that enforces and a tap that listens, in
//! alternating rounds, so that a slow minute of the machine is slow for both.
//!
//! `waxseal-bench [-o json] [--part host|nodes|policies] [--rounds N] [--seconds S] [--idle S]`. Needs root, and `waxseal` built beside it. The other
//! modes are the two ends of the load; the program starts them itself.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made must stop and say why")]
#![expect(clippy::print_stdout, reason = "the result goes to stdout")]

mod ends;
mod nodes;
mod policies;

use std::fs;
use std::io::Write as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::root;
use waxseal_tests::stage::{document, policy};

use ends::{end, finish, start_end, wait_for_line};

/// Where the load is served.
pub(crate) const PORT: u16 = 8080;

#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    idle: f64,
    json: bool,
    host: bool,
    nodes: bool,
    policies: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "end") {
        return end(&arguments[1..]);
    }
    let plan = plan(&arguments)?;
    root::require();
    let report = Report {
        kernel: root::run("uname", &["-r"]).trim().to_owned(),
        host: plan.host.then(|| measure(plan)),
        nodes: plan.nodes.then(|| nodes::measure(plan)),
        policies: plan.policies.then(|| policies::measure(plan)),
    };
    if plan.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(())
}

fn plan(arguments: &[String]) -> Result<Plan> {
    let mut plan =
        Plan { rounds: 7, seconds: 1.5, idle: 10.0, json: false, host: true, nodes: true, policies: false };
    let mut arguments = arguments.iter();
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} wants a value"))?;
        match option.as_str() {
            "-o" => plan.json = value == "json",
            "--rounds" => plan.rounds = value.parse()?,
            "--seconds" => plan.seconds = value.parse()?,
            "--idle" => plan.idle = value.parse()?,
            "--part" => {
                (plan.host, plan.nodes, plan.policies) =
                    (value == "host", value == "nodes", value == "policies");
            }
            _ => bail!("unknown option {option}"),
        }
    }
    Ok(plan)
}

/// One measure with and without.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Comparison {
    unit: &'static str,
    off: Vec<f64>,
    on: Vec<f64>,
    pub(crate) median_off: f64,
    pub(crate) median_on: f64,
    /// With, as a share of without: 1 costs nothing.
    pub(crate) ratio: f64,
}

impl Comparison {
    pub(crate) fn of(unit: &'static str, off: Vec<f64>, on: Vec<f64>) -> Self {
        let (median_off, median_on) = (median(&off), median(&on));
        Self { unit, off, on, median_off, median_on, ratio: median_on / median_off }
    }
}

impl Comparison {
    /// As a row of a table.
    pub(crate) fn print(&self, name: &str) {
        let Self { unit, median_off, median_on, ratio, .. } = self;
        println!("{:<28}{median_off:>12.2}{median_on:>12.2}{ratio:>8.3}", format!("{name}, {unit}"));
    }
}

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    host: Option<Host>,
    nodes: Option<nodes::Nodes>,
    policies: Option<policies::Policies>,
}

/// On one host.
#[derive(Debug, Serialize)]
struct Host {
    connections: Comparison,
    throughput: Comparison,
    /// Events told to the tap, and lost, while the load ran.
    events: Events,
    agent: Agent,
}

#[derive(Debug, Default, Serialize)]
struct Events {
    published: u64,
    lost_by_tap: u64,
    lost_by_ring: u64,
}

#[derive(Debug, Serialize)]
struct Agent {
    /// Mebibytes resident after the load, and idle.
    resident_mib: f64,
    /// Share of one CPU while nothing happens, in per cent.
    idle_cpu_percent: f64,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure(plan: Plan) -> Host {
    let cgroup = Cgroup::root("bench");
    let (caller, server) = (cgroup.child("workloads/caller"), cgroup.child("workloads/server"));
    let mut node = Node::new(cgroup.path(), Settings { more: "", ..Settings::default() });
    node.write(
        "workloads.yaml",
        &format!("{}{}", document("shop/caller", &caller.name()), document("shop/server", &server.name())),
    );
    let allow = |list: &str, side: &str, other: &str| {
        format!(
            "  {list}:\n    - {side}: [ {{ identity: \"spiffe://cluster.local/ns/shop/sa/{other}\" }} ]\n      ports: [ {PORT}/tcp ]"
        )
    };
    node.write(
        "policy.yaml",
        &format!(
            "{}{}",
            policy("in", "shop/server", &allow("ingress", "from", "caller")),
            policy("out", "shop/caller", &allow("egress", "to", "server"))
        ),
    );
    let mut rates = [Vec::new(), Vec::new()];
    let mut streams = [Vec::new(), Vec::new()];
    let mut events = Events::default();
    for round in 0..plan.rounds {
        // The order alternates too.
        for on in [round % 2 == 0, round % 2 != 0] {
            let tap = on.then(|| attach(&mut node, &server));
            rates[usize::from(on)].push(connections(plan, &caller, &server));
            streams[usize::from(on)].push(throughput(plan, &caller, &server));
            if let Some(tap) = tap {
                count_events(&node, &mut events);
                detach(&mut node, tap);
            }
        }
        eprint_progress(round + 1, plan.rounds);
    }
    let [off, on] = rates;
    let connections = Comparison::of("connections/s", off, on);
    let [off, on] = streams;
    let throughput = Comparison::of("Gbit/s", off, on);
    Host { connections, throughput, events, agent: idle(&mut node, &server, plan) }
}

fn attach(node: &mut Node, server: &Cgroup) -> Child {
    node.start();
    node.await_endpoint(&server.name());
    node.command(&["tap", "-o", "json"]).stdout(Stdio::null()).spawn().expect("the tap starts")
}

fn detach(node: &mut Node, mut tap: Child) {
    let _ = tap.kill();
    let _ = tap.wait();
    node.stop();
    assert!(node.uninstall().status.success(), "the agent leaves nothing behind");
}

fn count_events(node: &Node, events: &mut Events) {
    let status = node.status();
    events.published += status["taps"]["published"].as_u64().unwrap_or(0);
    events.lost_by_tap += status["taps"]["lost"].as_u64().unwrap_or(0);
    events.lost_by_ring += node.counter("flow-events-lost");
}

fn idle(node: &mut Node, server: &Cgroup, plan: Plan) -> Agent {
    node.start();
    node.await_endpoint(&server.name());
    thread::sleep(Duration::from_secs(2));
    let before = cpu_ticks(node.pid());
    thread::sleep(Duration::from_secs_f64(plan.idle));
    // A tick is a hundredth of a second.
    let idle_cpu_percent = (cpu_ticks(node.pid()) - before) / plan.idle;
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the agent runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a size");
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    Agent { resident_mib: kib / 1024.0, idle_cpu_percent }
}

fn cpu_ticks(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the agent runs");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
}

pub(crate) fn eprint_progress(done: usize, of: usize) {
    let _ = writeln!(std::io::stderr(), "round {done} of {of}");
}

/// connect() + accept() + close() a second over loopback, both ends on one CPU.
fn connections(plan: Plan, caller: &Cgroup, server: &Cgroup) -> f64 {
    // A namespace of its own: sockets that linger from the round before are not met.
    let here = Netns::new("bench");
    here.set("ipv4/ip_local_port_range", "'1024 65535'");
    let mut accept = start_end("accept", server, &here, 0, &[]);
    wait_for_line(&mut accept);
    let mut connect = start_end("connect", caller, &here, 0, &["127.0.0.1", &plan.seconds.to_string()]);
    let rate = wait_for_line(&mut connect);
    finish([connect, accept]);
    rate
}

/// Bits a second over one connection through a veth pair, each end on its own CPU.
fn throughput(plan: Plan, caller: &Cgroup, server: &Cgroup) -> f64 {
    let (here, there) = (Netns::new("bench"), Netns::new("bench"));
    let (_, end) = here.wire(&there, 1);
    let mut sink = start_end("sink", server, &there, 1, &[]);
    wait_for_line(&mut sink);
    let source = start_end("source", caller, &here, 0, &[&end.v4.to_string(), &plan.seconds.to_string()]);
    let bytes_a_second = wait_for_line(&mut sink);
    finish([source, sink]);
    bytes_a_second * 8.0 / 1e9
}

fn print_report(report: &Report) {
    println!("kernel {}", report.kernel);
    if let Some(host) = &report.host {
        print_host(host);
    }
    if let Some(nodes) = &report.nodes {
        nodes::print_report(nodes);
    }
    if let Some(policies) = &report.policies {
        policies::print_report(policies);
    }
}

fn print_host(Host { connections, throughput, events, agent }: &Host) {
    println!("one host; medians of {} alternating rounds", connections.on.len());
    println!("{:<28}{:>12}{:>12}{:>8}", "", "no agent", "enforcing", "ratio");
    for (name, comparison) in [("connect+accept+close", connections), ("one stream", throughput)] {
        comparison.print(name);
    }
    println!(
        "events told {}, lost by the tap {}, by the ring {}",
        events.published, events.lost_by_tap, events.lost_by_ring
    );
    println!("agent: {:.1} MiB resident, {:.2} % of a CPU idle", agent.resident_mib, agent.idle_cpu_percent);
}
