//! What telling costs: events a second from the kernel to `waxseal tap -o json`, what is lost on the way, and how much
//! processor time an event takes, with a tap attached and without.
//!
//! `waxseal-flood [-o json] [--events N] [--rate N,N,...]`. Needs root, and `waxseal` built beside it. A rate of 0 is as
//! fast as one processor can. The other mode, `waxseal-flood end ...`, is the load; the program starts it itself.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made must stop and say why")]
#![expect(clippy::print_stdout, reason = "the result goes to stdout")]

mod load;
mod reader;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::root;
use waxseal_tests::stage::{document, policy};

/// The range that the load may call, and the one that it may not.
const MORE: &str = "connections: 4194304\nmetrics: off\n";

struct Plan {
    events: u64,
    rates: Vec<u64>,
    json: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "end") {
        return load::run(&arguments[1..]);
    }
    let plan = plan(&arguments)?;
    root::require();
    let mut rows = Vec::new();
    for rate in &plan.rates {
        for tap in [false, true] {
            let row = measure(plan.events, *rate, tap);
            if !plan.json {
                row.print();
            }
            rows.push(row);
        }
    }
    if plan.json {
        println!("{}", serde_json::to_string(&rows)?);
    }
    Ok(())
}

fn plan(arguments: &[String]) -> Result<Plan> {
    let mut plan = Plan { events: 1_000_000, rates: vec![20_000, 100_000, 200_000, 0], json: false };
    let mut arguments = arguments.iter();
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} wants a value"))?;
        match option.as_str() {
            "-o" => plan.json = value == "json",
            "--events" => plan.events = value.parse()?,
            "--rate" => plan.rates = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            _ => bail!("unknown option {option}"),
        }
    }
    Ok(plan)
}

/// One load.
#[derive(Debug, Default, Serialize)]
struct Row {
    /// Asked for; 0 is as fast as it goes.
    rate: u64,
    tap: bool,
    /// Events that the load made, and how many a second.
    made: u64,
    made_per_second: f64,
    /// Denials among them, made meanwhile by another process.
    denials_made: u64,
    denials_seen: u64,
    published: u64,
    delivered: u64,
    lost_by_ring: u64,
    lost_by_tap: u64,
    lost_by_history: u64,
    /// Processor time of the agent for one event, in microseconds; and of the tap.
    agent_us: f64,
    tap_us: f64,
}

impl Row {
    fn print(&self) {
        let asked = if self.rate == 0 { "most".to_owned() } else { self.rate.to_string() };
        println!(
            "asked {asked:>7}/s, tap {:<5} made {} at {:.0}/s; published {}, delivered {}; lost by ring {}, tap {}, history {}; \
             denials {} of {}; agent {:.2} us, tap {:.2} us an event",
            self.tap,
            self.made,
            self.made_per_second,
            self.published,
            self.delivered,
            self.lost_by_ring,
            self.lost_by_tap,
            self.lost_by_history,
            self.denials_seen,
            self.denials_made,
            self.agent_us,
            self.tap_us
        );
    }
}

fn measure(events: u64, rate: u64, tap: bool) -> Row {
    let cgroup = Cgroup::root("flood");
    let caller = cgroup.child("workloads/caller");
    let netns = Netns::new("flood");
    load::route(&netns);
    let mut node = Node::new(cgroup.path(), Settings { more: MORE, ..Settings::default() });
    node.write("workloads.yaml", &document("shop/caller", &caller.name()));
    let allow = format!("  egress:\n    - to: [ {{ cidr: \"{}\" }} ]\n      ports: [ udp ]", load::ALLOWED);
    node.write("policy.yaml", &policy("flood", "shop/caller", &allow));
    node.start();
    node.await_endpoint(&caller.name());
    let reader = tap.then(|| reader::Reader::start(&node));
    let before = cpu_seconds(node.pid());
    let started = Instant::now();
    let end = |role: &str, count: u64, rate: u64| {
        Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["end", role, &count.to_string(), &rate.to_string()])
            .args([caller.path(), &netns.path()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the load starts")
    };
    let denials = end("deny", events / 500, rate / 500);
    let allowed = end("allow", events, rate);
    let (made, denials_made) = (load::made(allowed), load::made(denials));
    let seconds = started.elapsed().as_secs_f64();
    let lost_by_ring = settle(&node);
    let status = node.status();
    let number = |path: &str| status["taps"][path].as_u64().unwrap_or(0);
    let published = number("published");
    let agent = cpu_seconds(node.pid()) - before;
    let seen = reader.map(|reader| reader.finish(published)).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a measurement has no fifteen digits")]
    let per = |seconds: f64| seconds * 1e6 / (published.max(1) as f64);
    Row {
        rate,
        tap,
        made,
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        made_per_second: made as f64 / seconds,
        denials_made,
        denials_seen: seen.denials,
        published,
        delivered: seen.delivered,
        lost_by_ring,
        lost_by_tap: number("lost"),
        lost_by_history: seen.lost_by_history,
        agent_us: per(agent),
        tap_us: per(seen.cpu),
    }
}

/// Waits until nothing is published any more; what the ring has lost.
fn settle(node: &Node) -> u64 {
    let mut last = u64::MAX;
    root::wait("the agent has read everything", Duration::from_mins(1), || {
        let now = node.status()["taps"]["published"].as_u64()?;
        let quiet = now == last;
        last = now;
        std::thread::sleep(Duration::from_millis(300));
        quiet.then_some(())
    });
    node.counter("flow-events-lost") + node.counter("denial-events-lost")
}

/// Seconds of processor time that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    // A tick is a hundredth of a second.
    ticks / 100.0
}
