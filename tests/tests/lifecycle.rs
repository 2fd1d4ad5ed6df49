//! Agents come and go; the verdicts stay.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use waxseal_tests::netns::{End, Netns};
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::probe::{Handle, Probe, Protocol, Reply, Request, Target, handle, parse};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, allow_ingress, policy};

/// The port that the caller may reach over both protocols, and the one that it may not.
const OPEN: u16 = 8080;
const SHUT: u16 = 8081;

struct Scene {
    stage: Stage,
    caller: Workload,
    server: Workload,
    /// The services behind [`SHUT`].
    guarded: [Handle; 2],
    end: End,
    wires: (Netns, Netns),
}

fn scene(label: &str) -> Scene {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    // So that only the verdict stands between the caller and the rest of the world.
    here.default_route(&end);
    let (stage, [caller, mut server]) =
        Stage::new(label, [("shop/caller", Some(&here)), ("shop/server", Some(&there))]);
    for protocol in Protocol::BOTH {
        server.probe.serve(protocol, &format!("[::]:{OPEN}"));
    }
    let guarded = Protocol::BOTH.map(|protocol| server.probe.serve(protocol, &format!("[::]:{SHUT}")).0);
    stage.apply(&rules(&caller));
    Scene { stage, caller, server, guarded, end, wires: (here, there) }
}

/// The server lets the caller in at one port; the caller may not call documentation addresses.
fn rules(caller: &Workload) -> String {
    format!(
        "{}{}",
        allow_ingress("caller", "shop/server", caller, &format!("[ {OPEN}/tcp, {OPEN}/udp ]")),
        policy(
            "not-there",
            "shop/caller",
            "  egress:\n    - { name: all }\n    - { action: deny, to: [ { cidr: 192.0.2.0/24 } ] }"
        )
    )
}

impl Scene {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.end.v4.into(), port)
    }

    fn targets(&self, port: u16) -> Vec<Target> {
        self.end
            .both()
            .into_iter()
            .flat_map(|ip| Protocol::BOTH.map(|protocol| (SocketAddr::new(ip, port), protocol)))
            .map(|(address, protocol)| Target { protocol, address, connected: protocol == Protocol::Udp })
            .collect()
    }

    /// Long-lived connections that are allowed, over both protocols and families.
    fn hold(&mut self) -> Handle {
        let targets = self.targets(OPEN);
        handle(&self.caller.probe.must(&Request::Hold { targets, every_milliseconds: 5 }))
    }

    /// Forbidden attempts: refused at the source, and refused at the destination.
    fn hammer(&mut self) -> [Handle; 2] {
        let to_destination = [
            Target { protocol: Protocol::Tcp, address: self.at(SHUT), connected: false },
            Target { protocol: Protocol::Udp, address: self.at(SHUT), connected: false },
        ];
        let nowhere = parse("192.0.2.7:80");
        let from_source = [
            Target { protocol: Protocol::Tcp, address: nowhere, connected: false },
            Target { protocol: Protocol::Udp, address: nowhere, connected: false },
            Target { protocol: Protocol::Udp, address: nowhere, connected: true },
        ];
        [to_destination.to_vec(), from_source.to_vec()]
            .map(|targets| handle(&self.caller.probe.must(&Request::Hammer { targets, milliseconds: 20 })))
    }

    fn stop(&mut self, handle: Handle) -> Reply {
        self.caller.probe.must(&Request::Stop { handle })
    }

    fn assert_verdicts(&mut self, case: &str) {
        for protocol in Protocol::BOTH {
            let to = self.at(OPEN);
            assert_eq!(self.caller.probe.talk(protocol, to), None, "{case}: {protocol:?}");
            let reply = self.caller.probe.connect(protocol, parse("192.0.2.7:80"));
            reply.assert_refused(&["EPERM"], &format!("{case}: {protocol:?}"));
        }
        let request = Request::Connect {
            protocol: Protocol::Tcp,
            door: waxseal_tests::probe::Door::Connect,
            from: None,
            address: self.at(SHUT),
            v6_socket: false,
            milliseconds: 300,
        };
        assert!(self.caller.probe.ask(&request).errno.is_some(), "{case}");
        assert!(self.caller.probe.shout(self.at(SHUT)).is_some(), "{case}");
        for service in self.guarded {
            assert_eq!(self.server.probe.seen(service), 0, "{case}");
        }
    }
}

#[test]
fn fifty_deaths_and_restarts_let_no_forbidden_attempt_pass_and_cut_no_allowed_connection() {
    let mut scene = scene("fifty");
    let hold = scene.hold();
    let hammers = scene.hammer();
    for round in 0..50 {
        scene.stage.node.kill();
        // Every other round the dead agent is missed for a while.
        if round % 2 == 0 {
            thread::sleep(Duration::from_millis(30));
        }
        scene.stage.node.start();
        assert!(scene.stage.node.policy_error().is_none(), "round {round}");
    }
    // The rounds may be faster than the attempts on a small machine: go on until there are enough.
    root::wait("a hundred thousand attempts", Duration::from_mins(2), || {
        let count: u64 = hammers
            .iter()
            .map(|handle| scene.caller.probe.must(&Request::Progress { handle: *handle }).count)
            .sum();
        (count >= 100_000).then_some(())
    });
    let [at_destination, at_source] = hammers.map(|handle| scene.stop(handle));
    let held = scene.stop(hold);
    println!("at the destination {at_destination:?}\nat the source {at_source:?}\nheld {held:?}");
    assert!(at_destination.count + at_source.count >= 100_000);
    assert_eq!(at_source.bad, 0, "the source's kernel refuses each attempt: {at_source:?}");
    for service in scene.guarded {
        assert_eq!(scene.server.probe.seen(service), 0, "nothing forbidden arrived");
    }
    assert!(held.count > 1000, "{held:?}");
    assert_eq!(held.bad, 0, "no allowed connection was lost: {held:?}");
    scene.assert_verdicts("after fifty rounds");
}

#[test]
fn a_killed_agent_leaves_its_verdicts_in_force() {
    let mut scene = scene("killed");
    scene.stage.node.kill();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        scene.assert_verdicts("without an agent");
    }
    // A refusal at the source needs no agent, and an answer from a new connection's socket does not either.
    scene.stage.node.start();
    scene.assert_verdicts("with the next agent");
    let to = scene.at(SHUT);
    scene
        .caller
        .probe
        .connect(Protocol::Tcp, to)
        .assert_refused(&["ECONNREFUSED"], "refusals are quick again");
}

#[test]
fn a_frozen_agent_changes_nothing() {
    let mut scene = scene("frozen");
    let hold = scene.hold();
    scene.stage.node.signal(Signal::SIGSTOP);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        scene.assert_verdicts("while the agent is stopped");
    }
    scene.stage.node.signal(Signal::SIGCONT);
    scene.assert_verdicts("when it goes on");
    let held = scene.stop(hold);
    assert_eq!(held.bad, 0, "{held:?}");
}

#[test]
fn a_stopped_agent_leaves_its_verdicts_too() {
    let mut scene = scene("stopped");
    scene.stage.node.stop();
    scene.assert_verdicts("after SIGTERM");
}

#[test]
fn new_interfaces_and_namespaces_are_guarded_from_their_first_packet() {
    let mut scene = scene("interfaces");
    // Wires that did not exist when the agent started, one of them from a namespace that did not exist either.
    let late = Netns::new("late");
    let mut newcomer = Probe::start(Some(scene.caller.cgroup.path()), Some(&late.path()), None);
    let ends = [2, 3].map(|number| scene.wires.0.wire(&scene.wires.1, number).1);
    let (_, late_end) = late.wire(&scene.wires.1, 4);
    for ip in ends.iter().flat_map(End::both) {
        let to = SocketAddr::new(ip, SHUT);
        scene.caller.probe.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], &to.to_string());
        assert!(scene.caller.probe.shout(to).is_some(), "{to}");
    }
    for ip in late_end.both() {
        let to = SocketAddr::new(ip, SHUT);
        newcomer.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], &to.to_string());
        assert!(newcomer.shout(to).is_some(), "{to}");
    }
    // The agent learns of new addresses a moment later; until then a caller is refused, never let through unjudged.
    let patience = Duration::from_secs(15);
    for ip in ends.iter().flat_map(End::both) {
        let to = SocketAddr::new(ip, OPEN);
        root::wait(&format!("{to} is known"), patience, || {
            scene.caller.probe.talk(Protocol::Tcp, to).is_none().then_some(())
        });
    }
    for ip in late_end.both() {
        let to = SocketAddr::new(ip, OPEN);
        root::wait(&format!("{to} is known"), patience, || {
            newcomer.talk(Protocol::Tcp, to).is_none().then_some(())
        });
    }
    for service in scene.guarded {
        assert_eq!(scene.server.probe.seen(service), 0);
    }
}

#[test]
fn a_second_instance_does_not_disturb_the_first() {
    let mut first = scene("first");
    let hold = first.hold();
    for _ in 0..2 {
        let mut second = scene("second");
        second.assert_verdicts("the second");
        first.assert_verdicts("the first beside the second");
        second.stage.node.kill();
        let output = second.stage.node.uninstall();
        assert!(output.status.success(), "{output:?}");
        first.assert_verdicts("the first after the second");
    }
    let held = first.stop(hold);
    assert_eq!(held.bad, 0, "{held:?}");
}

#[test]
fn a_second_agent_of_the_same_name_gives_up_with_exit_code_5_and_disturbs_nothing() {
    let mut scene = scene("twice");
    let pid = scene.stage.node.status()["pid"].clone();
    let output = scene.stage.node.output(&["agent"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("already runs"), "{said}");
    assert_eq!(scene.stage.node.status()["pid"], pid);
    scene.assert_verdicts("the first agent goes on");
}

#[test]
fn uninstall_removes_every_pin_and_nothing_else() {
    let mut scene = scene("uninstall");
    let pins = scene.stage.node.pins();
    assert!(pins.is_dir(), "{} while it runs", pins.display());
    let mode = std::fs::metadata(&pins).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{} is {mode:o}", pins.display());
    scene.stage.node.stop();
    let output = scene.stage.node.uninstall();
    assert!(output.status.success(), "{output:?}");
    assert!(!pins.exists());
    let to = scene.at(SHUT);
    for protocol in Protocol::BOTH {
        assert_eq!(scene.caller.probe.talk(protocol, to), None, "nothing is judged any more: {protocol:?}");
    }
    let again = scene.stage.node.output(&["uninstall"]);
    assert!(again.status.success(), "a second time there is nothing to do: {again:?}");
}

#[test]
fn an_upgrade_swaps_the_programs_and_keeps_links_connections_and_verdicts() {
    let mut scene = scene("upgrade");
    let hold = scene.hold();
    let hammers = scene.hammer();
    let before = pinned(&scene.stage.node);
    assert!(!before.is_empty());
    // The next version is another file; its programs are loaded anew.
    let directory = tempfile::tempdir().unwrap();
    let next = directory.path().join("waxseal-next");
    std::fs::copy(root::program("waxseal"), &next).unwrap();
    for _ in 0..5 {
        scene.stage.node.stop();
        let arguments = ["agent", "--config"];
        let mut child = std::process::Command::new(&next)
            .args(arguments)
            .arg(scene.stage.node.path("agent.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let up = || scene.stage.node.output(&["status", "-o", "json"]).status.success().then_some(());
        root::wait("the next version answers", Duration::from_secs(20), up);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)
            .unwrap();
        root::wait("it stops", Duration::from_secs(20), || child.try_wait().ok().flatten());
        scene.stage.node.start();
    }
    assert_eq!(pinned(&scene.stage.node), before, "the same pins");
    for handle in hammers {
        scene.stop(handle);
    }
    for service in scene.guarded {
        assert_eq!(scene.server.probe.seen(service), 0);
    }
    let held = scene.stop(hold);
    assert_eq!(held.bad, 0, "{held:?}");
    scene.assert_verdicts("after the upgrades");
}

/// Names of everything that is pinned, sorted.
fn pinned(node: &Node) -> Vec<String> {
    let mut names = Vec::new();
    let mut directories = vec![node.pins()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            }
            names.push(entry.path().display().to_string());
        }
    }
    names.sort();
    names
}

#[test]
fn an_agent_that_lost_its_policies_keeps_the_last_ones() {
    let mut scene = scene("lost");
    scene.stage.node.kill();
    scene.stage.node.write("policy.yaml", "{ not yaml");
    scene.stage.node.start();
    assert!(scene.stage.node.policy_error().is_some());
    scene.assert_verdicts("with a broken file at start");
}

#[test]
fn a_first_start_with_a_broken_file_is_refused_and_leaves_nothing_behind() {
    let mut stage = Stage::idle("first-bad", Settings::default());
    let mut workload = stage.workload("shop/alone", None);
    let (_, address) = workload.probe.serve(Protocol::Tcp, "127.0.0.1:0");
    stage.node.write("workloads.yaml", stage.documents());
    stage.node.write("policy.yaml", "{ not yaml");
    let output = stage.node.output(&["agent"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("policy.yaml:1:"), "{said}");
    assert_eq!(workload.probe.talk(Protocol::Tcp, address), None, "nothing is judged");
    stage.node.write("policy.yaml", &policy("closed", "shop/alone", "  egress: []"));
    stage.node.start();
    stage.node.await_endpoint(&workload.cgroup.name());
    let reply = workload.probe.connect(Protocol::Tcp, parse("192.0.2.1:80"));
    reply.assert_refused(&["EPERM"], "once the file is good");
}
