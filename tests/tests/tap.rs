//! `waxseal tap` as a person and a script use it: pipes that close, agents that restart, terminals and colours.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use waxseal_tests::node::Settings;
use waxseal_tests::probe::{Protocol, Request};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload};
use waxseal_tests::tap::{Flow, Tap};

const SOON: Duration = Duration::from_secs(10);

/// A client, a server, and where the server listens.
fn stage(label: &str) -> (Stage, [Workload; 2], std::net::SocketAddr) {
    let (stage, [client, mut server]) =
        Stage::with(label, Settings::default(), [("shop/client", None), ("shop/server", None)]);
    let (_, to) = server.probe.serve(Protocol::Tcp, "127.0.0.1:0");
    (stage, [client, server], to)
}

fn past(stage: &Stage, arguments: &[&str]) -> String {
    let output = stage.node.output(&[&["tap", "--no-follow"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_filter_is_applied_by_the_agent_to_real_flows() {
    let (stage, [mut client, _server], to) = stage("filters");
    let tap = stage.node.tap();
    assert_eq!(client.probe.talk(Protocol::Tcp, to), None);
    tap.expect("the close", SOON, Flow::closes);
    let (port, pid) = (to.port().to_string(), client.probe.pid().to_string());
    let address = to.ip().to_string();
    for (arguments, lines) in [
        (&["--verdict", "allow"][..], 1),
        (&["--verdict", "deny"], 0),
        (&["--from", "shop/client", "--to", "server"], 2),
        (&["--from", "app=client", "--port", &port], 2),
        (&["--from", "app=client,app!=client"], 0),
        (&["--from", "spiffe://*/sa/client"], 2),
        (&["--between", "shop/server"], 2),
        (&["--between", "shop/nobody"], 0),
        (&["--to", &address], 2),
        (&["--to", "192.0.2.0/24"], 0),
        (&["--protocol", "udp"], 0),
        (&["--reason", "no-policy"], 2),
        (&["--rule", "*"], 0),
        (&["--seal", "local"], 2),
        (&["--seal", "forged"], 0),
        (&["--direction", "egress,ingress"], 2),
        (&["--process", &pid], 2),
        (&["--process", "waxseal-*"], 2),
        (&["--process", "curl"], 0),
        (&["--node", "elsewhere"], 0),
        (&["--node", "elsewhere", "--not"], 2),
        (&["--since", "1m"], 2),
        (&["--until", "1m"], 0),
        (&["--last", "1"], 1),
    ] {
        let shown = past(&stage, arguments);
        assert_eq!(shown.lines().count(), lines, "{arguments:?}\n{shown}");
    }
}

#[test]
fn outputs_have_no_colour_in_a_pipe_and_have_it_on_a_terminal() {
    let (stage, [mut client, _server], to) = stage("colour");
    let tap = stage.node.tap();
    assert_eq!(client.probe.talk(Protocol::Tcp, to), None);
    tap.expect("the close", SOON, Flow::closes);
    for output in ["compact", "wide", "json", "dict"] {
        let shown = past(&stage, &["-o", output]);
        assert!(!shown.contains('\x1b') && shown.contains("shop/"), "{output}: {shown}");
    }
    // `script` gives a command a terminal of its own.
    let command = stage.node.command(&["tap", "--no-follow"]);
    let line: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let terminal = |no_colour: bool| {
        let mut script = Command::new("script");
        script.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::null()).env("TERM", "xterm");
        script.env_remove("NO_COLOR");
        if no_colour {
            script.env("NO_COLOR", "1");
        }
        String::from_utf8_lossy(&script.output().expect("script runs").stdout).into_owned()
    };
    assert!(terminal(false).contains("\x1b[32mALLOW\x1b[0m"), "{}", terminal(false));
    assert!(
        terminal(true).contains("  ALLOW  ") && !terminal(true).contains("\x1b[32m"),
        "{}",
        terminal(true)
    );
}

#[test]
fn a_pipe_that_closes_ends_the_tap_in_silence_and_so_does_an_interrupt() {
    let (stage, [mut client, _server], to) = stage("pipe");
    let start = |arguments: &[&str]| {
        let before = stage.node.status()["taps"]["readers"].as_u64();
        let child = stage
            .node
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the tap starts");
        root::wait("the tap is attached", SOON, || {
            (stage.node.status()["taps"]["readers"].as_u64() > before).then_some(())
        });
        child
    };
    for arguments in [&["tap"][..], &["tap", "-o", "json"], &["tap", "--reconnect"]] {
        let mut child = start(arguments);
        // As `head -n 1` does: one line, and the pipe is closed.
        client.probe.talk(Protocol::Tcp, to);
        let mut line = String::new();
        BufReader::with_capacity(1, child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let status = root::wait("the tap notices", SOON, || {
            client.probe.talk(Protocol::Tcp, to);
            child.try_wait().expect("our own child")
        });
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(status.success() && said.is_empty(), "{arguments:?}: {status}: {said}");
    }
    let mut child = start(&["tap"]);
    kill(Pid::from_raw(i32::try_from(child.id()).expect("small")), Signal::SIGINT).expect("our own child");
    let status = root::wait("the tap ends", SOON, || child.try_wait().expect("our own child"));
    assert!(!status.success(), "as tail -f: ended by the signal");
    root::wait("nobody is left", SOON, || {
        (stage.node.status()["taps"]["readers"].as_u64() == Some(0)).then_some(())
    });
}

#[test]
fn a_tap_that_reconnects_goes_on_after_a_restart_without_a_gap_and_without_a_line_twice() {
    let (mut stage, [mut client, _server], to) = stage("again");
    let plain = Tap::start(&mut stage.node.command(&["tap", "-o", "json"]));
    let again = Tap::start(&mut stage.node.command(&["tap", "-o", "json", "--reconnect"]));
    root::wait("both are there", SOON, || {
        (stage.node.status()["taps"]["readers"].as_u64() == Some(2)).then_some(())
    });
    let talk = |client: &mut Workload, count: usize| {
        for _ in 0..count {
            assert_eq!(client.probe.talk(Protocol::Tcp, to), None);
        }
    };
    talk(&mut client, 20);
    again.expect("the first part", SOON, Flow::closes);
    root::wait("all of it", SOON, || (again.count(Flow::closes) == 20).then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    stage.node.kill();
    // Nobody reads meanwhile; the kernel keeps what happens.
    talk(&mut client, 5);
    stage.node.start();
    talk(&mut client, 20);
    root::wait("the second part", SOON * 2, || (again.count(Flow::closes) >= 45).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(again.count(Flow::closes), 45);
    assert_eq!(plain.count(Flow::closes), 20, "one that does not reconnect has ended");
}

#[test]
fn a_tap_until_a_moment_ends_by_itself() {
    let (stage, _workloads, _to) = stage("until");
    let soon = root::run("date", &["-u", "-d", "+3 seconds", "+%Y-%m-%dT%H:%M:%SZ"]);
    let started = Instant::now();
    let output = stage.node.output(&["tap", "--until", soon.trim()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!((1..8).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[test]
fn a_summary_is_written_again_and_again() {
    let (stage, [mut client, _server], to) = stage("summary");
    let mut command = stage.node.command(&["tap", "--summary", "--every", "200ms", "-o", "json"]);
    let tap = Tap::start(&mut command);
    root::wait("the tap is there", SOON, || {
        (stage.node.status()["taps"]["readers"].as_u64() == Some(1)).then_some(())
    });
    for _ in 0..3 {
        assert_eq!(client.probe.talk(Protocol::Tcp, to), None);
    }
    let total = |flow: &Flow| flow.0["pairs"][0]["allowed"].as_u64();
    let flow = tap.expect("three of a pair", SOON, |flow| total(flow) == Some(3));
    assert_eq!(flow.0["pairs"][0]["port"], to.port());
    let shown = past(&stage, &["--summary"]);
    assert!(shown.contains("shop/client(256) → shop/server(257)"), "{shown}");
}

#[test]
fn hostile_names_of_processes_are_harmless_in_every_output() {
    let (stage, [mut client, _server], to) = stage("hostile");
    let tap = stage.node.tap();
    client.probe.must(&Request::Rename { name: "\x1b[2J\nDENY\u{202e}".to_owned() });
    assert_eq!(client.probe.talk(Protocol::Tcp, to), None);
    tap.expect("the close", SOON, Flow::closes);
    for output in ["compact", "wide", "json", "dict"] {
        let shown = past(&stage, &["-o", output]);
        assert!(shown.contains("[2J"), "{output}: {shown}");
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{output}: {shown:?}");
        assert!(!shown.contains('\u{202e}'), "{output}: {shown:?}");
    }
}
