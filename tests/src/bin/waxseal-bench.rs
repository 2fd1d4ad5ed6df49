//! What enforcement costs: the same load with no agent and with an agent that enforces and a tap that listens, in
//! alternating rounds, so that a slow minute of the machine is slow for both.
//!
//! `waxseal-bench [-o json] [--rounds N] [--seconds S] [--idle S]`. Needs root, and `waxseal` built beside it. The other
//! modes are the two ends of the load; the program starts them itself.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made must stop and say why")]
#![expect(clippy::print_stdout, reason = "the result goes to stdout")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use serde::Serialize;
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::root;
use waxseal_tests::stage::{document, policy};

/// Where the load is served.
const PORT: u16 = 8080;

#[derive(Clone, Copy)]
struct Plan {
    rounds: usize,
    seconds: f64,
    idle: f64,
    json: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "end") {
        return end(&arguments[1..]);
    }
    let plan = plan(&arguments)?;
    root::require();
    let report = measure(plan);
    if plan.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(())
}

fn plan(arguments: &[String]) -> Result<Plan> {
    let mut plan = Plan { rounds: 7, seconds: 1.5, idle: 10.0, json: false };
    let mut arguments = arguments.iter();
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} wants a value"))?;
        match option.as_str() {
            "-o" => plan.json = value == "json",
            "--rounds" => plan.rounds = value.parse()?,
            "--seconds" => plan.seconds = value.parse()?,
            "--idle" => plan.idle = value.parse()?,
            _ => bail!("unknown option {option}"),
        }
    }
    Ok(plan)
}

/// One measure with and without.
#[derive(Debug, Default, Serialize)]
struct Comparison {
    unit: &'static str,
    off: Vec<f64>,
    on: Vec<f64>,
    median_off: f64,
    median_on: f64,
    /// With, as a share of without: 1 costs nothing.
    ratio: f64,
}

impl Comparison {
    fn of(unit: &'static str, off: Vec<f64>, on: Vec<f64>) -> Self {
        let (median_off, median_on) = (median(&off), median(&on));
        Self { unit, off, on, median_off, median_on, ratio: median_on / median_off }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
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

fn measure(plan: Plan) -> Report {
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
    let kernel = root::run("uname", &["-r"]).trim().to_owned();
    Report { kernel, connections, throughput, events, agent: idle(&mut node, &server, plan) }
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

fn eprint_progress(done: usize, of: usize) {
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

fn start_end(role: &str, cgroup: &Cgroup, netns: &Netns, cpu: usize, more: &[&str]) -> Child {
    Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["end", role, &cpu.to_string()])
        .args([cgroup.path(), &netns.path()])
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .expect("an end of the load starts")
}

/// The first number that an end says.
fn wait_for_line(child: &mut Child) -> f64 {
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut reader = BufReader::with_capacity(1, stdout);
    let mut line = String::new();
    reader.read_line(&mut line).expect("the end of the load speaks");
    child.stdout = Some(reader.into_inner());
    line.trim().parse().unwrap_or_else(|error| panic!("the end of the load says `{line}`: {error}"))
}

fn finish<const N: usize>(children: [Child; N]) {
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// One end of the load: `ROLE CPU CGROUP NETNS [ADDRESS SECONDS]`.
fn end(arguments: &[String]) -> Result<()> {
    let [role, cpu, cgroup, netns, more @ ..] = arguments else {
        bail!("ROLE CPU CGROUP NETNS [ADDRESS SECONDS]")
    };
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0")?;
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    let mut cpus = CpuSet::new();
    cpus.set(cpu.parse()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let peer = || -> Result<(SocketAddr, Duration)> {
        let [address, seconds] = more else { bail!("ADDRESS SECONDS") };
        let address: IpAddr = address.parse()?;
        Ok((SocketAddr::new(address, PORT), Duration::from_secs_f64(seconds.parse()?)))
    };
    match role.as_str() {
        "accept" => accept_forever(),
        "connect" => peer().and_then(|(to, time)| connect_for(to, time)),
        "sink" => sink(),
        "source" => peer().and_then(|(to, time)| source(to, time)),
        _ => bail!("unknown end {role}"),
    }
}

fn accept_forever() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("0");
    loop {
        drop(listener.accept()?);
    }
}

fn connect_for(to: SocketAddr, time: Duration) -> Result<()> {
    // The first tenth warms up.
    let warm = Instant::now();
    while warm.elapsed() < time / 10 {
        connect_once(to)?;
    }
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < time {
        for _ in 0..16 {
            connect_once(to)?;
        }
        count += 16;
    }
    println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

/// Waits until the other end has accepted and closed: on one CPU the queue of the listener would soon be full otherwise.
fn connect_once(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let end = stream.read(&mut [0])?;
    anyhow::ensure!(end == 0, "the other end said something");
    Ok(())
}

fn sink() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("0");
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0u64;
    let start = Instant::now();
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        bytes += length as u64;
    }
    #[expect(clippy::cast_precision_loss, reason = "a measurement has no fifteen digits")]
    let rate = bytes as f64 / start.elapsed().as_secs_f64();
    println!("{rate}");
    Ok(())
}

fn source(to: SocketAddr, time: Duration) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let buffer = vec![0x5a; 128 * 1024];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    drop(stream);
    // The sink says the result; this end stays until it is ended.
    thread::sleep(Duration::from_hours(1));
    Ok(())
}

fn print_report(report: &Report) {
    let Report { kernel, connections, throughput, events, agent } = report;
    println!("kernel {kernel}; medians of {} alternating rounds", connections.on.len());
    println!("{:<28}{:>12}{:>12}{:>8}", "", "no agent", "enforcing", "ratio");
    for (name, comparison) in [("connect+accept+close", connections), ("one stream", throughput)] {
        let Comparison { unit, median_off, median_on, ratio, .. } = comparison;
        println!("{:<28}{median_off:>12.2}{median_on:>12.2}{ratio:>8.3}", format!("{name}, {unit}"));
    }
    println!(
        "events told {}, lost by the tap {}, by the ring {}",
        events.published, events.lost_by_tap, events.lost_by_ring
    );
    println!("agent: {:.1} MiB resident, {:.2} % of a CPU idle", agent.resident_mib, agent.idle_cpu_percent);
}
