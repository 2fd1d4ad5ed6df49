//! Whose connection it is: the cgroup that made the socket, whatever happened to it since.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use waxseal_tests::netns::{End, Netns};
use waxseal_tests::node::Settings;
use waxseal_tests::probe::{Handle, Listen, Probe, Protocol, Request, handle, parse};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, allow_ingress, document, policy};

const SOON: Duration = Duration::from_secs(5);

fn wired() -> (Netns, Netns, End) {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    (here, there, end)
}

/// A good caller, a bad one, and a server that lets only the good one in, on port 8080 over both protocols.
struct Scene {
    stage: Stage,
    good: Workload,
    bad: Workload,
    server: Workload,
    to: SocketAddr,
    _wires: (Netns, Netns),
}

fn scene(label: &str) -> Scene {
    let (here, there, end) = wired();
    let (stage, [good, bad, mut server]) = Stage::new(
        label,
        [("shop/good", Some(&here)), ("shop/bad", Some(&here)), ("shop/server", Some(&there))],
    );
    for protocol in Protocol::BOTH {
        server.probe.serve(protocol, "[::]:8080");
    }
    stage.apply(&allow_ingress("only-good", "shop/server", &good, "[ 8080/tcp, 8080/udp ]"));
    Scene { stage, good, bad, server, to: SocketAddr::new(end.v4.into(), 8080), _wires: (here, there) }
}

fn new_socket(probe: &mut Probe, protocol: Protocol, like: SocketAddr) -> Handle {
    handle(&probe.must(&Request::Socket { protocol, like }))
}

/// Connects a socket that exists and waits for an echo over it.
fn use_socket(probe: &mut Probe, handle: Handle, address: SocketAddr) -> Option<String> {
    let reply = probe.ask(&Request::ConnectSocket { handle, address, milliseconds: 1000 });
    reply.errno.or_else(|| probe.ask(&Request::Ping { handle, milliseconds: 400 }).errno)
}

/// Hands a socket from one process to another and returns its new handle.
fn pass(from: &mut Probe, to: &mut Probe, socket: Handle) -> Handle {
    let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let path: PathBuf = directory.path().join("door");
    to.begin(&Request::Take { path: path.clone() });
    root::wait("the door", SOON, || path.exists().then_some(()));
    from.must(&Request::Give { handle: socket, path });
    handle(&to.answer())
}

#[test]
fn a_passed_socket_keeps_the_identity_of_the_cgroup_that_made_it() {
    let Scene { stage: _stage, mut good, mut bad, server: _server, to, _wires } = scene("passed");
    for protocol in Protocol::BOTH {
        let made_by_good = new_socket(&mut good.probe, protocol, to);
        let made_by_bad = new_socket(&mut bad.probe, protocol, to);
        let with_bad = pass(&mut good.probe, &mut bad.probe, made_by_good);
        let with_good = pass(&mut bad.probe, &mut good.probe, made_by_bad);
        assert!(
            use_socket(&mut good.probe, with_good, to).is_some(),
            "{protocol:?}: made by the bad, used by the good"
        );
        assert_eq!(
            use_socket(&mut bad.probe, with_bad, to),
            None,
            "{protocol:?}: made by the good, used by the bad"
        );
    }
}

#[test]
fn a_process_that_moves_takes_its_new_sockets_along_and_not_its_old_ones() {
    let Scene { stage: _stage, mut good, mut bad, server: _server, to, _wires } = scene("moved");
    for protocol in Protocol::BOTH {
        let old = new_socket(&mut bad.probe, protocol, to);
        bad.probe.must(&Request::Move { cgroup: good.cgroup.path().to_owned() });
        assert!(
            use_socket(&mut bad.probe, old, to).is_some(),
            "{protocol:?}: the old socket is still the bad one's"
        );
        assert_eq!(bad.probe.talk(protocol, to), None, "{protocol:?}: a new socket is the good one's");
        bad.probe.must(&Request::Move { cgroup: bad.cgroup.path().to_owned() });

        let old = new_socket(&mut good.probe, protocol, to);
        good.probe.must(&Request::Move { cgroup: bad.cgroup.path().to_owned() });
        assert_eq!(
            use_socket(&mut good.probe, old, to),
            None,
            "{protocol:?}: the old socket is still the good one's"
        );
        assert!(good.probe.talk(protocol, to).is_some(), "{protocol:?}: a new socket is the bad one's");
        good.probe.must(&Request::Move { cgroup: good.cgroup.path().to_owned() });
    }
}

#[test]
fn a_thousand_random_moves_never_change_whose_socket_it_is() {
    let Scene { stage: _stage, good, mut bad, server: _server, to, _wires } = scene("random");
    let groups = [good.cgroup.path().to_owned(), bad.cgroup.path().to_owned()];
    let mut sockets: Vec<(Handle, usize)> = Vec::new();
    let mut place = 1;
    let mut state = 0x9e37_79b9_u32;
    for step in 0..1000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 30 {
            0 => {
                place = (state >> 16) as usize & 1;
                bad.probe.must(&Request::Move { cgroup: groups[place].clone() });
            }
            1 | 2 => sockets.push((new_socket(&mut bad.probe, Protocol::Tcp, to), place)),
            _ => {
                let Some((socket, made_in)) = sockets.pop() else { continue };
                let reply = bad.probe.ask(&Request::ConnectSocket {
                    handle: socket,
                    address: to,
                    milliseconds: 1000,
                });
                assert_eq!(
                    reply.errno.is_none(),
                    made_in == 0,
                    "step {step}: made in {made_in}, used in {place}: {reply:?}"
                );
                bad.probe.must(&Request::Close { handle: socket });
            }
        }
    }
}

#[test]
fn a_listener_is_judged_as_its_maker_whoever_accepts() {
    let (here, there, end) = wired();
    let (stage, [mut caller, mut open, mut shut]) = Stage::new(
        "accept-elsewhere",
        [("shop/caller", Some(&here)), ("shop/open", Some(&there)), ("shop/shut", Some(&there))],
    );
    stage.apply(&policy("shut", "shop/shut", "  ingress: []"));
    let quiet =
        |port| Listen { echo: false, ..Listen::echo(Protocol::Tcp, parse(&format!("0.0.0.0:{port}"))) };
    let (made_by_shut, _) = shut.probe.listen(quiet(8080));
    let (made_by_open, _) = open.probe.listen(quiet(8081));
    let with_open = pass(&mut shut.probe, &mut open.probe, made_by_shut);
    let with_shut = pass(&mut open.probe, &mut shut.probe, made_by_open);
    let at = |port| SocketAddr::new(end.v4.into(), port);
    caller.probe.connect(Protocol::Tcp, at(8080)).assert_refused(&["ECONNREFUSED"], "made by the shut one");
    caller.probe.connect(Protocol::Tcp, at(8081)).assert_open("made by the open one");
    let nobody = open.probe.ask(&Request::Accept { handle: with_open, milliseconds: 100 });
    assert_eq!(nobody.errno.as_deref(), Some("TIMEOUT"));
    let accepted = handle(&shut.probe.must(&Request::Accept { handle: with_shut, milliseconds: 1000 }));
    shut.probe.must(&Request::Send { handle: accepted, data: b"hello".to_vec() });
}

#[test]
fn each_member_of_a_reuseport_group_is_judged_as_itself() {
    let (here, there, end) = wired();
    let (stage, [mut caller, mut open, mut shut]) = Stage::new(
        "reuseport",
        [("shop/caller", Some(&here)), ("shop/open", Some(&there)), ("shop/shut", Some(&there))],
    );
    stage.apply(&policy("shut", "shop/shut", "  ingress: []"));
    let shared = Listen { reuse_port: true, ..Listen::echo(Protocol::Tcp, parse("0.0.0.0:8080")) };
    let (at_open, _) = open.probe.listen(shared);
    let (at_shut, _) = shut.probe.listen(shared);
    let to = SocketAddr::new(end.v4.into(), 8080);
    let (mut passed, mut refused) = (0, 0);
    for attempt in 0..60 {
        let reply = caller.probe.connect(Protocol::Tcp, to);
        if let Some(handle) = reply.handle {
            passed += 1;
            caller.probe.must(&Request::Ping { handle, milliseconds: 1000 });
            caller.probe.must(&Request::Close { handle });
        } else {
            refused += 1;
            reply.assert_refused(&["ECONNREFUSED"], &format!("attempt {attempt}"));
        }
    }
    assert_eq!(open.probe.seen(at_open), passed);
    assert_eq!(shut.probe.seen(at_shut), 0);
    assert!(passed > 5 && refused > 5, "the kernel chooses both: {passed} passed, {refused} refused");
}

#[test]
fn a_cgroup_made_anew_at_an_old_path_is_a_new_endpoint() {
    let (here, there, end) = wired();
    let (mut stage, [mut server]) = Stage::new("anew", [("shop/server", Some(&there))]);
    server.probe.serve(Protocol::Tcp, "[::]:8080");
    let to = SocketAddr::new(end.v4.into(), 8080);
    let mut first = stage.workload("shop/worker", Some(&here));
    stage.node.apply("workloads.yaml", stage.documents());
    let before = stage.node.await_endpoint(&first.cgroup.name());
    let old_id = first.cgroup.id();
    stage.apply(&allow_ingress("worker", "shop/server", &first, "[ 8080/tcp ]"));
    assert_eq!(first.probe.talk(Protocol::Tcp, to), None);

    // The process leaves with one socket of the old cgroup; the directory is removed and made again.
    let old_socket = new_socket(&mut first.probe, Protocol::Tcp, to);
    let refuge = stage.cgroup.child("strangers/refuge");
    first.probe.must(&Request::Move { cgroup: refuge.path().to_owned() });
    let path = first.cgroup.path().to_owned();
    fs::remove_dir(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_ne!(first.cgroup.id(), old_id, "the kernel does not reuse the number");
    let name = first.cgroup.name();
    let after = root::wait("the new directory is attested", SOON, || {
        stage
            .node
            .endpoint(&name)
            .filter(|found| found["state"] == "ready" && found["cgroup"] != before["cgroup"])
    });
    assert_eq!(after["identity"], before["identity"], "the same workload keeps its number");
    let mut second = Probe::start(Some(&path), Some(&here.path()), None);
    assert_eq!(second.talk(Protocol::Tcp, to), None, "the new one is known");
    // The old socket keeps the identity it had or has none; it never becomes somebody else's.
    let errno = use_socket(&mut first.probe, old_socket, to);
    assert!(matches!(errno.as_deref(), None | Some("ECONNREFUSED" | "EPERM")), "{errno:?}");
    drop(second);
}

#[test]
fn nested_cgroups_inherit_the_nearest_workload_above_them() {
    let (here, there, end) = wired();
    let mut stage = Stage::idle("nested", Settings::default());
    let mut server = stage.workload("shop/server", Some(&there));
    let outer = stage.workload("shop/outer", Some(&here));
    let child = outer.cgroup.child("a/b/c");
    let inner = outer.cgroup.child("inner");
    let inner_document = document("shop/inner", &inner.name());
    stage.node.write("workloads.yaml", &format!("{}{inner_document}", stage.documents()));
    stage.node.write("policy.yaml", &allow_ingress("outer", "shop/server", &outer, "[ 8080/tcp, 8080/udp ]"));
    stage.node.start();
    stage.node.await_endpoint(&server.cgroup.name());
    stage.node.await_endpoint(&inner.name());
    for protocol in Protocol::BOTH {
        server.probe.serve(protocol, "[::]:8080");
    }
    let to = SocketAddr::new(end.v4.into(), 8080);
    let late = outer.cgroup.child("late/later");
    for (directory, may) in [(&child, true), (&late, true), (&inner, false)] {
        let mut probe = Probe::start(Some(directory.path()), Some(&here.path()), None);
        // The agent hears of a new directory a moment after it was made.
        let settled = |errno: Option<String>| errno.is_none() == may;
        for protocol in Protocol::BOTH {
            root::wait(&format!("{protocol:?} from {} is {may}", directory.name()), SOON, || {
                settled(probe.talk(protocol, to)).then_some(())
            });
        }
    }
    drop(inner);
}

#[test]
fn a_new_cgroup_in_a_managed_slice_gets_nothing_until_it_is_known() {
    let (here, there, end) = wired();
    let mut stage = Stage::idle("pending", Settings::default());
    let mut server = stage.workload("shop/server", Some(&there));
    let slice = stage.cgroup.child("managed");
    stage.node.configure(&format!("managed: [ \"{}\" ]", slice.name()));
    stage.node.write("workloads.yaml", stage.documents());
    stage.node.start();
    stage.node.await_endpoint(&server.cgroup.name());
    let (service, _) = server.probe.serve(Protocol::Tcp, "[::]:8080");
    stage.apply(&policy("known", "shop/server", "  ingress:\n    - from: [ { entity: any-authenticated } ]"));
    let mut open = stage.stranger(Some(&there));
    let (open_service, _) = open.probe.serve(Protocol::Tcp, "[::]:8081");
    let to = SocketAddr::new(end.v4.into(), 8080);
    let open_to_all = SocketAddr::new(end.v4.into(), 8081);
    for round in 0..5 {
        let unknown = slice.child(&format!("unknown-{round}"));
        let mut probe = Probe::start(Some(unknown.path()), Some(&here.path()), None);
        for to in [to, open_to_all] {
            probe
                .connect(Protocol::Tcp, to)
                .assert_refused(&["EPERM"], &format!("round {round}: who is this? {to}"));
            assert_eq!(probe.shout(to).as_deref(), Some("EPERM"), "round {round}: {to}");
        }
    }
    assert_eq!(server.probe.seen(service), 0);
    assert_eq!(open.probe.seen(open_service), 0);
}

#[test]
fn connections_older_than_the_agent_are_cut_after_the_grace_unless_policy_allows_them() {
    let (here, there, end) = wired();
    let mut stage = Stage::idle("older", Settings { grace: "1s", ..Settings::default() });
    let mut caller = stage.workload("shop/caller", Some(&here));
    let mut server = stage.workload("shop/server", Some(&there));
    server.probe.serve(Protocol::Tcp, "[::]:8080");
    let to = SocketAddr::new(end.v4.into(), 8080);
    let old = handle(&caller.probe.connect(Protocol::Tcp, to));
    caller.probe.must(&Request::Ping { handle: old, milliseconds: 500 });
    stage.node.write("workloads.yaml", stage.documents());
    stage.node.write("policy.yaml", &policy("closed", "shop/server", "  ingress: []"));
    stage.node.start();
    stage.node.await_endpoint(&server.cgroup.name());
    root::wait("the old connection is cut", Duration::from_secs(6), || {
        caller.probe.ask(&Request::Ping { handle: old, milliseconds: 300 }).errno
    });
    caller
        .probe
        .connect(Protocol::Tcp, to)
        .assert_refused(&["ECONNREFUSED"], "the old listener is guarded too");
    stage.apply(&allow_ingress("closed", "shop/server", &caller, "[ 8080/tcp ]"));
    assert_eq!(caller.probe.talk(Protocol::Tcp, to), None, "the old listener serves whom it may");
}

#[test]
fn numbers_and_names_are_the_same_after_a_restart() {
    let here = Netns::new("here");
    let (mut stage, [first, second]) =
        Stage::new("stable", [("shop/first", Some(&here)), ("shop/second", Some(&here))]);
    let numbers = |stage: &Stage| {
        [&first, &second]
            .map(|workload| stage.node.await_endpoint(&workload.cgroup.name())["identity"].clone())
    };
    let before = numbers(&stage);
    assert_ne!(before[0], before[1]);
    stage.node.stop();
    // Documents in another order, and a third workload in front.
    let third = stage.cgroup.child("workloads/third");
    let documents: Vec<String> =
        [("shop/third", &third), ("shop/second", &second.cgroup), ("shop/first", &first.cgroup)]
            .iter()
            .map(|(name, cgroup)| document(name, &cgroup.name()))
            .collect();
    stage.node.write("workloads.yaml", &documents.concat());
    stage.node.start();
    stage.node.await_endpoint(&third.name());
    assert_eq!(numbers(&stage), before, "after a stop");
    stage.node.kill();
    stage.node.start();
    assert_eq!(numbers(&stage), before, "after SIGKILL");
}

#[test]
fn a_cgroup_that_two_workloads_claim_is_refused_loudly_and_gets_nothing() {
    let (here, there, end) = wired();
    let mut stage = Stage::idle("claimed", Settings::default());
    let mut server = stage.workload("shop/server", Some(&there));
    let mut claimed = stage.workload("shop/one", Some(&here));
    let second = document("shop/two", &claimed.cgroup.name());
    stage.node.write("workloads.yaml", &format!("{}{second}", stage.documents()));
    stage.node.write(
        "policy.yaml",
        &policy("sees-all", "shop/server", "  ingress:\n    - from: [ { entity: any-authenticated } ]"),
    );
    stage.node.start();
    stage.node.await_endpoint(&server.cgroup.name());
    server.probe.serve(Protocol::Tcp, "[::]:8080");
    let refusal = root::wait("the refusal is shown", SOON, || stage.node.unsettled(&claimed.cgroup.name()));
    assert_eq!(refusal["state"], "refused", "{refusal}");
    let reason = refusal["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("shop/one") && reason.contains("shop/two"), "{refusal}");
    let mut open = stage.stranger(Some(&there));
    open.probe.serve(Protocol::Tcp, "[::]:8081");
    for port in [8080, 8081] {
        let reply = claimed.probe.connect(Protocol::Tcp, SocketAddr::new(end.v4.into(), port));
        reply.assert_refused(&["EPERM"], &format!("who claims two names has none: {port}"));
    }
}

#[test]
fn processes_of_different_workloads_in_one_cgroup_are_refused_loudly() {
    let mut stage = Stage::idle("hybrid", Settings::default());
    let shared = stage.cgroup.child("workloads/shared");
    let by_uid = |name: &str, uid: u32| {
        document(name, &shared.name())
            .replace("} }\n", &format!(", uid: {uid} }} }}\n"))
            .replace("\" , uid", "\", uid")
    };
    stage.node.write("workloads.yaml", &format!("{}{}", by_uid("shop/one", 1001), by_uid("shop/two", 1002)));
    let _one = Probe::start(Some(shared.path()), None, Some(1001));
    let _two = Probe::start(Some(shared.path()), None, Some(1002));
    let server = stage.workload("shop/server", None);
    stage.node.write("more.yaml", stage.documents());
    stage.node.start();
    stage.node.await_endpoint(&server.cgroup.name());
    let refusal = root::wait("the refusal is shown", SOON, || stage.node.unsettled(&shared.name()));
    assert_eq!(refusal["state"], "refused", "{refusal}");
    let reason = refusal["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("shop/one") && reason.contains("shop/two"), "{refusal}");
}
