//! What many policies cost: a verdict in the kernel among few rows and among many, and how long it takes until a change of
//! one line, or a new workload, counts in the kernel while ten thousand documents and a thousand workloads stand beside.

use std::fmt::Write as _;
use std::fs;
use std::process::Child;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aya::sys::{Stats, enable_stats};
use serde::Serialize;
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::root;
use waxseal_tests::stage::{document, policy};

use crate::ends::{finish, line_of, start_end, wait_for_line};
use crate::{Comparison, PORT, Plan, connections, eprint_progress};

/// Workloads with rules about ranges, and ranges of each: so many rows more.
const HOLDERS: usize = 40;
const RANGES: usize = 2500;
/// Documents and workloads beside which a change is timed.
const DOCUMENTS: usize = 10_000;
const PEOPLE: usize = 1000;
/// Changes that are timed, and workloads that come new.
const CHANGES: usize = 20;
/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Policies {
    /// Among few rows, and among many.
    rows: [u64; 2],
    /// What all programs take for one connection.
    connection: Comparison,
    /// What `connect4` takes, which judges both ends.
    connect: Comparison,
    /// Milliseconds from the new file to the first connection that it forbids or allows.
    change: Vec<f64>,
    /// Milliseconds from `mkdir` to the first connection of the new workload.
    newcomer: Vec<f64>,
}

pub(crate) fn measure(plan: Plan) -> Policies {
    let (rows, connection, connect) = verdicts(plan);
    let (change, newcomer) = changes();
    Policies { rows, connection, connect, change, newcomer }
}

/// An agent, a caller and a server whose policies are about each other.
fn scene(label: &str) -> (Node, Cgroup, Cgroup, Cgroup) {
    let cgroup = Cgroup::root(label);
    let (caller, server) = (cgroup.child("workloads/caller"), cgroup.child("workloads/server"));
    let node = Node::new(cgroup.path(), Settings { more: "", ..Settings::default() });
    node.write(
        "workloads.yaml",
        &format!("{}{}", document("shop/caller", &caller.name()), document("shop/server", &server.name())),
    );
    node.write("server.yaml", &server_policy(PORT));
    (node, cgroup, caller, server)
}

fn server_policy(port: u16) -> String {
    let rules = format!(
        "  ingress:\n    - from: [ {{ namespace: shop }} ]\n      ports: [ {port}/tcp ]\n    - from: [ {{ namespace: new }} ]\n      \
         ports: [ {PORT}/tcp ]"
    );
    policy("in", "shop/server", &rules)
}

fn verdicts(plan: Plan) -> ([u64; 2], Comparison, Comparison) {
    let (mut node, cgroup, caller, server) = scene("bench");
    let holders: Vec<Cgroup> =
        (0..HOLDERS).map(|number| cgroup.child(&format!("workloads/holder-{number}"))).collect();
    let mut people = String::new();
    for (number, holder) in holders.iter().enumerate() {
        people.push_str(&document(&format!("fill/holder-{number}"), &holder.name()));
    }
    node.write("holders.yaml", &people);
    node.start();
    node.await_endpoint(&server.name());
    node.await_endpoint(&holders.last().expect("there are some").name());
    // The kernel counts as long as this is open.
    let _counting = enable_stats(Stats::RunTime).expect("the kernel counts what programs take");
    let (mut rows, mut all, mut connects) = ([0; 2], [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..plan.rounds {
        // The order alternates.
        for many in [round % 2 == 0, round % 2 != 0] {
            let slot = usize::from(many);
            let count = if many { RANGES } else { 0 };
            for number in 0..HOLDERS {
                let name = format!("ranges-{number}.yaml");
                let last = number + 1 == HOLDERS;
                let text = ranges(number, count, round);
                if last { node.apply(&name, &text) } else { node.write(&name, &text) }
            }
            rows[slot] = table_rows(&node);
            let before = spent(&node);
            let rate = connections(plan, &caller, &server);
            let after = spent(&node);
            assert!(rate > 0.0, "connections were made");
            let [whole, connect] = after.each_since(&before);
            all[slot].push(whole);
            connects[slot].push(connect);
        }
        eprint_progress(round + 1, plan.rounds);
    }
    drop(holders);
    let compare = |[few, many]: [Vec<f64>; 2]| Comparison::of("ns", few, many);
    (rows, compare(all), compare(connects))
}

/// A policy of one workload with so many ranges, each of which is a row. The round makes each text another one.
fn ranges(number: usize, count: usize, round: usize) -> String {
    let mut rules = format!("  # {round}\n  ingress:\n    - ports: [ 9/tcp ]\n");
    if count > 0 {
        rules.push_str("    - ports: [ 80/tcp ]\n      from:\n");
    }
    for range in 0..count {
        let _ = writeln!(rules, "        - {{ cidr: 100.{}.{}.0/24 }}", range / 250, range % 250);
    }
    policy(&format!("ranges-{number}"), &format!("fill/holder-{number}"), &rules)
}

/// The rows in force, as the agent counts them.
fn table_rows(node: &Node) -> u64 {
    let status = node.status();
    let tables = status["maps"].as_array().expect("status lists the tables");
    let rows = tables.iter().find(|table| table["name"] == "rows").and_then(|table| table["used"].as_u64());
    rows.unwrap_or_else(|| panic!("status tells the rows: {}", status["maps"]))
}

/// Nanoseconds that the programs of an agent have taken.
struct Spent {
    all: u64,
    /// Of `connect4`, and how often it ran.
    connect: (u64, u64),
}

impl Spent {
    /// Nanoseconds of all programs, and of `connect4`, for each connection since then.
    #[expect(clippy::cast_precision_loss, reason = "a measurement has no fifteen digits")]
    fn each_since(&self, before: &Self) -> [f64; 2] {
        let made = (self.connect.1 - before.connect.1) as f64;
        [self.all - before.all, self.connect.0 - before.connect.0].map(|spent| spent as f64 / made)
    }
}

/// The agent holds its programs open, and the kernel says there what each has cost.
fn spent(node: &Node) -> Spent {
    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`; only `connect4` of them runs here.
    const SOCK_ADDR: u64 = 18;
    let mut programs: Vec<[u64; 4]> = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", node.pid())).expect("the agent runs").flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().parse::<u64>().ok()
        };
        let fields = [number("prog_id:"), number("prog_type:"), number("run_time_ns:"), number("run_cnt:")];
        if let [Some(id), Some(kind), Some(time), Some(count)] = fields {
            programs.push([id, kind, time, count]);
        }
    }
    programs.sort_unstable();
    programs.dedup_by_key(|[id, ..]| *id);
    let connects = programs.iter().filter(|[_, kind, ..]| *kind == SOCK_ADDR);
    Spent {
        all: programs.iter().map(|[_, _, time, _]| time).sum(),
        connect: connects.fold((0, 0), |(time, count), [_, _, more, times]| (time + more, count + times)),
    }
}

fn changes() -> (Vec<f64>, Vec<f64>) {
    let (mut node, cgroup, caller, server) = scene("bench");
    let people: Vec<Cgroup> =
        (0..PEOPLE).map(|number| cgroup.child(&format!("workloads/p{number}"))).collect();
    let new = |number: usize| format!("workloads/new-{number}");
    let mut texts: Vec<String> = people
        .iter()
        .enumerate()
        .map(|(number, person)| document(&format!("many/p{number}"), &person.name()))
        .collect();
    texts.extend(
        (0..CHANGES).map(|n| document(&format!("new/n{n}"), &format!("{}/{}", cgroup.name(), new(n)))),
    );
    texts.extend((0..DOCUMENTS).map(filler));
    for (number, some) in texts.chunks(100).enumerate() {
        node.write(&format!("many-{number}.yaml"), &some.concat());
    }
    node.start();
    root::wait("all endpoints are ready", Duration::from_mins(2), || {
        let list = node.json(&["endpoint", "list"]);
        let ready =
            list["endpoints"].as_array()?.iter().filter(|endpoint| endpoint["state"] == "ready").count();
        (ready >= PEOPLE + 2).then_some(())
    });
    let here = Netns::new("bench");
    let mut accept = start_end("accept", &server, &here, 0, &[]);
    wait_for_line(&mut accept);
    let mut watch = start_end("watch", &caller, &here, 1, &["127.0.0.1", "0"]);
    assert_eq!(outcome(&mut watch).0, "open", "the policies allow it");
    // Files that were written a moment ago are read again at each change.
    std::thread::sleep(Duration::from_secs(3));
    let change = (0..CHANGES).map(|round| {
        let open = round % 2 != 0;
        let started = now();
        node.write("server.yaml", &server_policy(if open { PORT } else { PORT + 1 }));
        let (word, at) = outcome(&mut watch);
        assert_eq!(word == "open", open, "the change counts");
        (at - started) * 1e3
    });
    let change = change.collect();
    let newcomer = (0..CHANGES)
        .map(|number| {
            // Somebody whom no rule allows, until the directory he is moved to is known as a workload's.
            let waiting = cgroup.child(&format!("strangers/s{number}"));
            let mut watch = start_end("watch", &waiting, &here, 1, &["127.0.0.1", "0"]);
            assert_eq!(outcome(&mut watch).0, "shut", "a stranger is refused");
            let started = now();
            let home = cgroup.child(&new(number));
            fs::write(home.path().join("cgroup.procs"), watch.id().to_string()).expect("root may move it");
            let (word, at) = outcome(&mut watch);
            assert_eq!(word, "open", "the new workload is allowed");
            finish([watch]);
            (at - started) * 1e3
        })
        .collect();
    finish([watch, accept]);
    (change, newcomer)
}

/// A policy about three of the many.
fn filler(number: usize) -> String {
    let rules = format!(
        "  ingress:\n    - from: [ {{ identity: \"spiffe://cluster.local/ns/many/sa/p{}\" }}, {{ namespace: many, labels: {{ app: p{} }} }} ]\n      \
         ports: [ {}/tcp ]",
        number * 7 % PEOPLE,
        number * 3 % PEOPLE,
        1000 + number % 30
    );
    policy(&format!("f{number}"), &format!("many/p{}", number % PEOPLE), &rules)
}

/// The next word of a watching end, and when it was so, in seconds.
fn outcome(watch: &mut Child) -> (String, f64) {
    let line = line_of(watch);
    let (word, at) = line.split_once(' ').unwrap_or_else(|| panic!("the end of the load says `{line}`"));
    (word.to_owned(), at.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
}

/// Seconds since 1970, which two processes agree on.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

pub(crate) fn print_report(Policies { rows: [few, many], connection, connect, change, newcomer }: &Policies) {
    println!("verdicts in the kernel; medians of {} alternating rounds", connect.on.len());
    println!("{:<28}{:>12}{:>12}{:>8}", "", format!("{few} rows"), format!("{many} rows"), "ratio");
    connect.print("connect4");
    connection.print("all programs, a connection");
    println!("{DOCUMENTS} documents, {PEOPLE} workloads; {CHANGES} times, in milliseconds");
    println!("{:<28}{:>12}{:>12}{:>8}", "", "median", "slowest", "goal");
    for (name, times, goal) in
        [("one changed line in force", change, 200), ("a new workload in force", newcomer, 50)]
    {
        let slowest = times.iter().copied().fold(0.0, f64::max);
        println!("{name:<28}{:>12.1}{slowest:>12.1}{goal:>8}", crate::median(times));
    }
}
