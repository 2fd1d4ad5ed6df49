//! What is told of connections is complete: every event is delivered or counted as lost, and says the truth about bytes,
//! packets and ends.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::probe::{Door, Handle, Listen, Protocol, Request, handle};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, policy};
use waxseal_tests::tap::{Flow, Tap};

const SOON: Duration = Duration::from_secs(5);

/// Where datagrams may go: nobody is there.
const ALLOWED: &str = "10.98.0.0/16";

/// A workload that floods, in a namespace where datagrams to anywhere in 10.98.0.0/15 leave and are lost.
fn flooder(label: &str, more: &str) -> (Stage, Workload, Netns) {
    let netns = Netns::new(label);
    netns.ip(&["addr", "add", "10.97.0.1/32", "dev", "lo"]);
    netns.ip(&["route", "add", "10.98.0.0/15", "dev", "lo"]);
    // A flood is more than the usual share of one source.
    let more = format!("{more}connections: 1048576\n");
    let (stage, [caller]) =
        Stage::with(label, Settings { more: &more, ..Settings::default() }, [("shop/caller", Some(&netns))]);
    let rules = format!("  egress:\n    - to: [ {{ cidr: \"{ALLOWED}\" }} ]\n      ports: [ udp ]");
    stage.apply(&policy("flood", "shop/caller", &rules));
    (stage, caller, netns)
}

/// So many datagrams, each a flow of its own, at a rate; 0 is as fast as possible.
fn flood(caller: &Cgroup, netns: &Netns, role: &str, count: u64, rate: u64) {
    let status = Command::new(root::program("waxseal-flood"))
        .args(["end", role, &count.to_string(), &rate.to_string()])
        .args([caller.path(), &netns.path()])
        .stdout(Stdio::null())
        .status()
        .expect("waxseal-flood starts");
    assert!(status.success(), "the load: {status}");
}

/// Published flows, once there are no more.
fn published(node: &Node) -> u64 {
    let mut last = u64::MAX;
    root::wait("the agent has read everything", Duration::from_mins(1), || {
        let now = node.status()["taps"]["published"].as_u64()?;
        let quiet = now == last;
        last = now;
        std::thread::sleep(Duration::from_millis(200));
        quiet.then_some(now)
    })
}

/// What a tap was told as lost, by cause.
fn told(flows: &[Flow], cause: &str) -> u64 {
    flows
        .iter()
        .filter(|flow| flow.text("cause") == cause)
        .map(|flow| flow.text("lost").parse::<u64>().expect("a number"))
        .sum()
}

#[test]
fn at_every_load_what_was_made_is_what_was_delivered_and_what_was_counted_as_lost() {
    // The ring holds a few hundred events: at the highest load it is full.
    for (rate, count, must_lose) in [(2_000, 4_000, false), (20_000, 40_000, false), (0, 200_000, true)] {
        let more = if must_lose { "flow_ring: 64KiB\n" } else { "" };
        let (stage, caller, netns) = flooder("exact", more);
        let tap = stage.node.tap();
        let before = published(&stage.node);
        flood(&caller.cgroup, &netns, "allow", count, rate);
        let after = published(&stage.node);
        let lost = stage.node.counter("flow-events-lost");
        assert_eq!(after - before + lost, count, "rate {rate}: published and lost in the ring");
        assert_eq!(lost > 0, must_lose, "rate {rate}: {lost} lost");
        let settled = || {
            let flows = tap.all();
            let delivered = flows.iter().filter(|flow| flow.text("kind") == "opened").count() as u64;
            let slow = told(&flows, "slow-reader");
            let ring = told(&flows, "flow-ring");
            (delivered + slow == after - before && ring == lost).then_some(())
        };
        root::wait(&format!("rate {rate}: the tap accounts for all of {count}"), SOON * 4, settled);
    }
}

#[test]
fn a_stalled_reader_is_told_what_it_missed_and_slows_nobody() {
    const COUNT: u64 = 80_000;
    let (stage, caller, netns) = flooder("stalled", "");
    let (stalled, quick) = (stage.node.tap(), stage.node.tap());
    let before = published(&stage.node);
    let pid = Pid::from_raw(i32::try_from(stalled.pid()).expect("small"));
    kill(pid, Signal::SIGSTOP).expect("our own child");
    flood(&caller.cgroup, &netns, "allow", COUNT, 8_000);
    let made = published(&stage.node) - before;
    assert_eq!(made + stage.node.counter("flow-events-lost"), COUNT);
    let count = |flows: &[Flow]| flows.iter().filter(|flow| flow.text("kind") == "opened").count() as u64;
    root::wait("the quick one has everything", SOON * 18, || (count(&quick.all()) == made).then_some(()));
    assert_eq!(told(&quick.all(), "slow-reader"), 0, "the quick one lost nothing");
    kill(pid, Signal::SIGCONT).expect("our own child");
    root::wait("the stalled one accounts for everything", SOON * 4, || {
        let flows = stalled.all();
        (count(&flows) + told(&flows, "slow-reader") == made).then_some(())
    });
    assert!(told(&stalled.all(), "slow-reader") > 0, "it was stalled for longer than its queue is long");
}

#[test]
fn a_flood_of_allowed_flows_hides_no_denial() {
    const DENIALS: u64 = 2_000;
    let (stage, caller, netns) = flooder("hidden", "flow_ring: 64KiB\n");
    let mut command = stage.node.command(&["tap", "-o", "json", "--verdict", "deny"]);
    let tap = Tap::start(&mut command);
    root::wait("the tap is there", SOON, || {
        (stage.node.status()["taps"]["readers"].as_u64() == Some(1)).then_some(())
    });
    let cgroup = &caller.cgroup;
    std::thread::scope(|scope| {
        scope.spawn(|| flood(cgroup, &netns, "allow", 200_000, 0));
        flood(&caller.cgroup, &netns, "deny", DENIALS, 4_000);
    });
    published(&stage.node);
    assert!(stage.node.counter("flow-events-lost") > 0, "the flood was too small to fill its ring");
    assert_eq!(stage.node.counter("denial-events-lost"), 0);
    root::wait("every denial is told", SOON, || {
        (tap.count(|flow| flow.is("deny")) as u64 == DENIALS).then_some(())
    });
}

/// Two namespaces with a wire, and a server and a client on it.
fn pair(label: &str) -> (Stage, Workload, Workload, SocketAddr, [Netns; 2]) {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    let (stage, [client, server]) =
        Stage::new(label, [("shop/client", Some(&here)), ("shop/server", Some(&there))]);
    (stage, client, server, SocketAddr::new(end.v4.into(), 8080), [here, there])
}

#[test]
fn a_connection_between_two_workloads_of_this_node_is_one_line_and_its_close_is_another() {
    let (stage, mut client, mut server, to, _wires) = pair("once");
    server.probe.serve(Protocol::Tcp, "0.0.0.0:8080");
    let tap = stage.node.tap();
    server.probe.serve(Protocol::Udp, "0.0.0.0:8080");
    for _ in 0..50 {
        for protocol in Protocol::BOTH {
            assert_eq!(client.probe.talk(protocol, to), None);
        }
    }
    let told = || tap.all().into_iter().filter(|flow| flow.text("port") == "8080").collect::<Vec<Flow>>();
    root::wait("everything is told", SOON, || (told().len() >= 150).then_some(()));
    let flows = told();
    for (protocol, kind, count) in [("tcp", "opened", 50), ("tcp", "closed", 50), ("udp", "opened", 50)] {
        let told = flows.iter().filter(|flow| flow.text("protocol") == protocol && flow.text("kind") == kind);
        assert_eq!(told.count(), count, "{protocol} {kind}");
    }
    assert_eq!(flows.len(), 150);
    for flow in &flows {
        assert!(flow.between("shop/client", "shop/server", 8080), "{}", flow.0);
    }
}

/// Of the packets that carry data one in 61 is lost on its way in, and sent again.
const LOSE_SOME: &str = "table inet bad { chain in { type filter hook input priority 0; \
                         meta l4proto tcp meta length > 120 numgen inc mod 61 0 drop; }; }\n";

/// How a connection of the test ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    OpenerCloses,
    OpenerResets,
    AcceptorResets,
}

/// One connection, and what the application has sent and received.
fn exchange(
    client: &mut Workload,
    server: &mut Workload,
    to: SocketAddr,
    listener: Handle,
    size: usize,
    ending: Ending,
) -> [u64; 2] {
    const PATIENCE: u64 = 10_000;
    // No time to linger: what is open is reset.
    let abort =
        |handle| Request::SetOption { handle, level: 1, name: 13, data: vec![1, 0, 0, 0, 0, 0, 0, 0] };
    let read = |workload: &mut Workload, handle, size: usize| {
        let mut received = 0;
        while received < size {
            let reply = workload.probe.must(&Request::Receive { handle, milliseconds: PATIENCE });
            assert!(!reply.data.is_empty(), "the stream ended after {received} of {size}");
            received += reply.data.len();
        }
        received
    };
    let address = if ending == Ending::AcceptorResets { SocketAddr::new(to.ip(), 8081) } else { to };
    let socket = handle(&client.probe.ask(&Request::Connect {
        protocol: Protocol::Tcp,
        door: Door::Connect,
        from: None,
        address,
        v6_socket: false,
        milliseconds: PATIENCE,
    }));
    client.probe.must(&Request::Send { handle: socket, data: vec![7; size] });
    if ending != Ending::AcceptorResets {
        let received = read(client, socket, size);
        if ending == Ending::OpenerResets {
            client.probe.must(&abort(socket));
        }
        client.probe.must(&Request::Close { handle: socket });
        return [size as u64, received as u64];
    }
    let accepted = handle(&server.probe.must(&Request::Accept { handle: listener, milliseconds: PATIENCE }));
    read(server, accepted, size);
    server.probe.must(&Request::Send { handle: accepted, data: vec![8; 2 * size] });
    let received = read(client, socket, 2 * size);
    server.probe.must(&abort(accepted));
    server.probe.must(&Request::Close { handle: accepted });
    client.probe.ask(&Request::Receive { handle: socket, milliseconds: PATIENCE });
    client.probe.must(&Request::Close { handle: socket });
    [size as u64, received as u64]
}

#[test]
fn a_thousand_closes_say_what_the_applications_have_counted_over_a_bad_wire_and_through_resets() {
    const CONNECTIONS: usize = 1000;
    let (stage, mut client, mut server, to, [here, there]) = pair("bytes");
    server.probe.serve(Protocol::Tcp, "0.0.0.0:8080");
    let (listener, _) = server.probe.listen(Listen {
        echo: false,
        ..Listen::echo(Protocol::Tcp, SocketAddr::from(([0, 0, 0, 0], 8081)))
    });
    [&here, &there].into_iter().for_each(|netns| netns.nft(LOSE_SOME));
    let tap = stage.node.tap();
    let mut counted = Vec::new();
    for number in 0..CONNECTIONS {
        let ending = match number % 10 {
            3 => Ending::OpenerResets,
            7 => Ending::AcceptorResets,
            _ => Ending::OpenerCloses,
        };
        let bytes = exchange(&mut client, &mut server, to, listener, 1 + number * 5, ending);
        counted.push((bytes, ending));
    }
    root::wait("every close is told", SOON * 6, || (tap.count(Flow::closes) == CONNECTIONS).then_some(()));
    let number = |flow: &Flow, key: &str| {
        flow.text(key).parse::<u64>().unwrap_or_else(|_| panic!("{key}: {}", flow.0))
    };
    let mut closes: Vec<Flow> = tap.all().into_iter().filter(Flow::closes).collect();
    closes.sort_by_key(|flow| number(flow, "bytes_sent"));
    for (flow, (bytes, ending)) in closes.iter().zip(&counted) {
        assert_eq!([number(flow, "bytes_sent"), number(flow, "bytes_received")], *bytes, "{}", flow.0);
        assert!(number(flow, "packets_sent") >= 3 && number(flow, "packets_received") >= 2, "{}", flow.0);
        assert!(number(flow, "rtt_us") > 0, "{}", flow.0);
        let ended = match ending {
            Ending::OpenerCloses => "opener-closed",
            Ending::OpenerResets => "opener-reset",
            Ending::AcceptorResets => "acceptor-reset",
        };
        assert_eq!(flow.text("ended"), ended, "{}", flow.0);
    }
    let again: u64 = closes.iter().map(|flow| number(flow, "retransmits")).sum();
    assert!(again > 10, "a bad wire, and nearly nothing was sent again: {again}");
}

#[test]
fn a_raw_tap_hears_both_ends_and_nobody_else_does() {
    let (stage, mut client, mut server, to, _wires) = pair("raw");
    server.probe.serve(Protocol::Tcp, "0.0.0.0:8080");
    server.probe.serve(Protocol::Udp, "0.0.0.0:8080");
    let plain = stage.node.tap();
    let before = stage.node.counter("allowed");
    let raw = Tap::start(&mut stage.node.command(&["tap", "--raw", "-o", "json"]));
    root::wait("both are there", SOON, || {
        (stage.node.status()["taps"]["readers"].as_u64() == Some(2)).then_some(())
    });
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..20 {
        for protocol in Protocol::BOTH {
            assert_eq!(client.probe.talk(protocol, to), None);
        }
    }
    let on_port = |tap: &Tap, protocol: &str, kind: &str, second: &str| {
        tap.count(|flow| {
            flow.text("port") == "8080"
                && flow.text("protocol") == protocol
                && flow.text("kind") == kind
                && flow.text("second") == second
        })
    };
    root::wait("both views of each", SOON, || {
        let both = |protocol: &str, kind: &str| {
            on_port(&raw, protocol, kind, "") == 20 && on_port(&raw, protocol, kind, "true") == 20
        };
        (both("tcp", "opened") && both("tcp", "closed") && both("udp", "opened")).then_some(())
    });
    for (protocol, kind) in [("tcp", "opened"), ("tcp", "closed"), ("udp", "opened")] {
        assert_eq!(on_port(&plain, protocol, kind, ""), 20, "{protocol} {kind}");
    }
    assert_eq!(plain.count(|flow| flow.text("second") == "true"), 0);
    // Both ends of a close agree on what was carried.
    let bytes = |second: &str| -> u64 {
        let all = raw.all();
        let closes = all.iter().filter(|flow| flow.closes() && flow.text("second") == second);
        closes.map(|flow| flow.text("bytes_sent").parse::<u64>().expect("a number")).sum()
    };
    assert_eq!(bytes(""), bytes("true"));
    let past = stage.node.output(&["tap", "--no-follow", "--raw", "-o", "json"]);
    assert!(!String::from_utf8_lossy(&past.stdout).contains("\"second\""), "the past has one line for each");
    assert_eq!(stage.node.counter("allowed") - before, 40, "nothing is counted twice");
    drop(raw);
    root::wait("it has gone", SOON, || {
        (stage.node.status()["taps"]["readers"].as_u64() == Some(1)).then_some(())
    });
    std::thread::sleep(Duration::from_millis(200));
    let published = stage.node.status()["taps"]["published"].as_u64();
    assert_eq!(client.probe.talk(Protocol::Tcp, to), None);
    root::wait("one open and one close", SOON, || {
        (stage.node.status()["taps"]["published"].as_u64() == published.map(|before| before + 2))
            .then_some(())
    });
}

#[test]
fn a_udp_flow_ends_when_it_is_idle_and_says_what_it_carried() {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    let settings = Settings { more: "udp_idle: 10s\n", ..Settings::default() };
    let (stage, [mut client, mut server]) =
        Stage::with("idle", settings, [("shop/client", Some(&here)), ("shop/server", Some(&there))]);
    let to = SocketAddr::new(end.v4.into(), 8080);
    server.probe.serve(Protocol::Udp, "0.0.0.0:8080");
    let tap = stage.node.tap();
    let socket = handle(&client.probe.must(&Request::Socket { protocol: Protocol::Udp, like: to }));
    client.probe.must(&Request::ConnectSocket { handle: socket, address: to, milliseconds: 1000 });
    let mut sent = 0;
    for size in [1, 100, 1000, 20] {
        client.probe.must(&Request::Send { handle: socket, data: vec![7; size] });
        let reply = client.probe.must(&Request::Receive { handle: socket, milliseconds: 5000 });
        assert_eq!(reply.data.len(), size);
        sent += size;
        if size == 100 {
            // Judged again under another policy it is still the same flow.
            stage.apply(&policy("again", "shop/client", "  egress:\n    - to: [ { cidr: \"10.0.0.0/8\" } ]"));
        }
    }
    let close = tap.expect("its end", SOON * 8, |flow| flow.closes() && flow.text("protocol") == "udp");
    assert!(close.between("shop/client", "shop/server", 8080), "{}", close.0);
    for (key, value) in
        [("bytes_sent", sent), ("bytes_received", sent), ("packets_sent", 4), ("packets_received", 4)]
    {
        assert_eq!(close.text(key), value.to_string(), "{key}: {}", close.0);
    }
    assert_eq!(close.text("ended"), "idle");
    assert!(close.text("duration_ns").parse::<u64>().expect("a number") > 0);
    assert_eq!(
        tap.count(|flow| flow.closes() && flow.text("protocol") == "udp"),
        1,
        "one line for both ends"
    );
}

#[test]
fn connections_that_nobody_takes_are_told_with_how_they_failed() {
    let (stage, mut client, _server, to, _wires) = pair("failed");
    let tap = stage.node.tap();
    client.probe.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], "nobody listens");
    let flow = tap.expect("the refusal", SOON, |flow| flow.text("kind") == "failed");
    assert_eq!(flow.text("ended"), "refused", "{}", flow.0);
    assert_eq!(flow.text("source.name"), "shop/client", "{}", flow.0);
    // Nobody has this address on the wire: the neighbour does not answer.
    let nowhere = SocketAddr::new(Ipv4Addr::new(10, 77, 1, 99).into(), 8080);
    let reply = client.probe.connect(Protocol::Tcp, nowhere);
    assert!(reply.errno.is_some(), "{reply:?}");
    let flow = tap.expect("the silence", SOON * 2, |flow| {
        flow.text("kind") == "failed" && flow.text("destination.address") == "10.77.1.99"
    });
    assert!(["unreachable", "given-up"].contains(&flow.text("ended").as_str()), "{}", flow.0);
}

#[test]
fn history_survives_a_kill_and_is_searched_by_the_same_filters() {
    let (mut stage, caller, netns) = flooder("history", "");
    flood(&caller.cgroup, &netns, "allow", 10_000, 5_000);
    flood(&caller.cgroup, &netns, "deny", 10, 0);
    published(&stage.node);
    // What waits in memory is written four times a second.
    std::thread::sleep(Duration::from_secs(1));
    stage.node.kill();
    stage.node.start();
    let tap = |arguments: &[&str]| {
        let all = [&["tap", "--no-follow", "-o", "json"], arguments].concat();
        let output = stage.node.output(&all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(tap(&["--from", "shop/caller"]).lines().count(), 10_010);
    assert_eq!(tap(&["--verdict", "deny"]).lines().count(), 10);
    assert_eq!(tap(&["--verdict", "deny", "--last", "3"]).lines().count(), 3);
    assert_eq!(tap(&["--to", "10.98.0.1", "--port", "1024-1033"]).lines().count(), 10);
    assert_eq!(tap(&["--since", "1h", "--until", "30m"]).lines().count(), 0);
    let directory = stage.node.path("state/flows");
    for (path, mode) in std::iter::once((directory.clone(), 0o700)).chain(
        std::fs::read_dir(&directory).expect("the history").flatten().map(|entry| (entry.path(), 0o600)),
    ) {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(&path).expect("our own file").mode() & 0o7777;
        assert_eq!(found, mode, "{}", path.display());
    }
}

/// A small file system. Dropping it unmounts it.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(at: std::path::PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).expect("a directory");
        let options = format!("size={size},mode=0700");
        root::run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &at.display().to_string()]);
        Self(at)
    }

    fn resize(&self, size: &str) {
        root::run("mount", &["-o", &format!("remount,size={size}"), &self.0.display().to_string()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_history_and_nothing_else() {
    let netns = Netns::new("full");
    netns.ip(&["addr", "add", "10.97.0.1/32", "dev", "lo"]);
    netns.ip(&["route", "add", "10.98.0.0/15", "dev", "lo"]);
    let more = "history: 64MiB\n";
    let mut stage = Stage::idle("full", Settings { more, ..Settings::default() });
    let disk = Disk::mount(stage.node.path("state"), "3m");
    let caller = stage.workload("shop/caller", Some(&netns));
    stage.node.write("workloads.yaml", stage.documents());
    stage.node.start();
    stage.node.await_endpoint(&caller.cgroup.name());
    let tap = stage.node.tap();
    let before = published(&stage.node);
    flood(&caller.cgroup, &netns, "allow", 40_000, 20_000);
    let made = published(&stage.node) - before + stage.node.counter("flow-events-lost");
    assert_eq!(made, 40_000, "the agent reads on");
    root::wait("flows are told all the while", SOON * 6, || {
        let flows = tap.all();
        let delivered = flows.iter().filter(|flow| flow.text("kind") == "opened").count() as u64;
        (delivered + told(&flows, "slow-reader") == published(&stage.node) - before).then_some(())
    });
    root::wait("the log says it", SOON, || {
        stage.node.log().contains("the history of flows cannot be written").then_some(())
    });
    // Somebody makes room, and the history goes on; what is missing is told where it is missing.
    disk.resize("64m");
    flood(&caller.cgroup, &netns, "allow", 41_000, 20_000);
    published(&stage.node);
    let output = stage.node.output(&["tap", "--no-follow", "-o", "json", "--since", "1h"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let lost: u64 = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("{\"v\":1,\"lost\":")?
                .strip_suffix(",\"cause\":\"history\"}")?
                .parse::<u64>()
                .ok()
        })
        .sum();
    let found = text.lines().filter(|line| line.contains("\"kind\"")).count() as u64;
    assert!(lost > 0);
    assert_eq!(found + lost, stage.node.status()["taps"]["published"].as_u64().expect("a number"));
}
