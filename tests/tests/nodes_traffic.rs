//! Who may talk to whom across nodes, by name, and how fast the answer comes.

use std::net::SocketAddr;
use std::time::Duration;

use waxseal_tests::mesh::Mesh;
use waxseal_tests::probe::{Handle, Protocol, Reply, Request};
use waxseal_tests::root;
use waxseal_tests::stage::{Workload, allow_egress, allow_ingress, policy};

const SOON: Duration = Duration::from_secs(5);
/// The port that the caller may reach over both protocols, and the one that nobody may.
const OPEN: u16 = 8080;
const SHUT: u16 = 8081;

/// A caller and another workload on one node, a server on the other.
struct Scene {
    mesh: Mesh,
    caller: Workload,
    other: Workload,
    server: Workload,
    guarded: Vec<Handle>,
}

fn scene(label: &str) -> Scene {
    let (mesh, [caller, other, mut server]) =
        Mesh::new(label, [("shop/caller", 0), ("shop/other", 0), ("shop/server", 1)]);
    let mut guarded = Vec::new();
    for protocol in Protocol::BOTH {
        server.probe.serve(protocol, &format!("[::]:{OPEN}"));
        guarded.push(server.probe.serve(protocol, &format!("[::]:{SHUT}")).0);
    }
    mesh.nodes[1].apply(&allow_ingress(
        "caller",
        "shop/server",
        &caller,
        &format!("[ {OPEN}/tcp, {OPEN}/udp ]"),
    ));
    Scene { mesh, caller, other, server, guarded }
}

impl Scene {
    fn assert_unharmed(&mut self) {
        for service in self.guarded.clone() {
            assert_eq!(self.server.probe.seen(service), 0, "nothing forbidden arrived");
        }
    }
}

/// Refused by the other end's policy: an answer, and at once.
fn assert_refused(reply: &Reply, case: &str) {
    reply.assert_refused(&["ECONNREFUSED"], case);
}

#[test]
fn a_workload_reaches_another_node_by_name_and_nobody_else_does() {
    let mut scene = scene("by-name");
    let mut stranger = scene.mesh.stranger(0);
    let taps = [0, 1].map(|node| scene.mesh.nodes[node].node.tap());
    for to in scene.mesh.both(1, OPEN) {
        assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None, "{to}");
        assert_refused(&scene.other.probe.connect(Protocol::Tcp, to), &format!("another workload, {to}"));
        assert_refused(&stranger.probe.connect(Protocol::Tcp, to), &format!("nobody's process, {to}"));
    }
    for to in scene.mesh.both(1, SHUT) {
        assert_refused(&scene.caller.probe.connect(Protocol::Tcp, to), &format!("another port, {to}"));
    }
    scene.assert_unharmed();
    // Each node names both ends, and says how it knows.
    for (tap, peer) in taps.iter().zip(["node-b", "node-a"]) {
        let flow = tap.expect("the allowed connection", SOON, |flow| {
            flow.is("allow") && flow.between("shop/caller", "shop/server", OPEN)
        });
        assert_eq!(flow.text("seal"), "sealed", "{flow:?}");
        assert_eq!(flow.text("session.node"), peer, "{flow:?}");
    }
    let [_, at_server] = &taps;
    let denied = at_server.expect("the other workload's denial", SOON, |flow| {
        flow.is("deny") && flow.between("shop/other", "shop/server", OPEN)
    });
    assert_eq!(denied.text("reason"), "no-rule-matches", "{denied:?}");
    assert_eq!(denied.text("direction"), "ingress", "{denied:?}");
    let unknown = at_server.expect("the stranger's denial", SOON, |flow| {
        flow.is("deny")
            && flow.text("destination.name") == "shop/server"
            && flow.text("source.name") == "unknown"
    });
    assert_eq!(unknown.text("seal"), "none", "{unknown:?}");
}

#[test]
fn a_deny_rule_on_the_other_node_is_named_there() {
    let scene = scene("deny-rule");
    let Scene { mesh, mut caller, other, mut server, .. } = scene;
    let rules = policy(
        "gate",
        "shop/server",
        &format!(
            "  ingress:\n    - {{ name: all, from: [ {{ entity: any }} ] }}\n    - {{ name: not-the-caller, action: deny, from: [ {{ identity: \"{}\" }} ] }}",
            caller.spiffe_id()
        ),
    );
    mesh.nodes[1].apply(&rules);
    let tap = mesh.nodes[1].node.tap();
    for to in mesh.both(1, OPEN) {
        assert_refused(&caller.probe.connect(Protocol::Tcp, to), &to.to_string());
    }
    let denied = tap
        .expect("a denial", SOON, |flow| flow.is("deny") && flow.between("shop/caller", "shop/server", OPEN));
    assert_eq!(denied.text("reason"), "deny-rule");
    assert_eq!(denied.text("rule.policy"), "shop/gate");
    assert_eq!(denied.text("rule.rule"), "not-the-caller");
    assert!(denied.text("rule.origin").contains("policy.yaml:"), "{denied:?}");
    let mut other = other;
    assert_eq!(other.probe.talk(Protocol::Tcp, mesh.at(1, OPEN)), None, "everybody else may");
    assert!(server.probe.connect(Protocol::Tcp, mesh.at(0, 9)).errno.is_some(), "nobody listens there");
}

#[test]
fn both_nodes_may_call_each_other_at_the_same_time() {
    let (mesh, [mut here, mut there]) = Mesh::new("both-ways", [("shop/here", 0), ("shop/there", 1)]);
    for workload in [&mut here, &mut there] {
        workload.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    }
    mesh.nodes[0].apply(&allow_ingress("there", "shop/here", &there, &format!("[ {OPEN}/tcp ]")));
    mesh.nodes[1].apply(&allow_ingress("here", "shop/there", &here, &format!("[ {OPEN}/tcp ]")));
    let request = |to: SocketAddr| Request::Connect {
        protocol: Protocol::Tcp,
        door: waxseal_tests::probe::Door::Connect,
        from: None,
        address: to,
        v6_socket: false,
        milliseconds: 2000,
    };
    for (forth, back) in mesh.both(1, OPEN).into_iter().zip(mesh.both(0, OPEN)) {
        here.probe.begin(&request(forth));
        there.probe.begin(&request(back));
        for (probe, to) in [(&mut here.probe, forth), (&mut there.probe, back)] {
            let reply = probe.answer();
            assert_eq!(reply.errno, None, "{to}");
            assert!(Duration::from_micros(reply.micros) < Reply::AT_ONCE, "{to}: {} us", reply.micros);
            let handle = waxseal_tests::probe::handle(&reply);
            assert_eq!(probe.ask(&Request::Ping { handle, milliseconds: 500 }).errno, None, "{to}");
        }
    }
}

#[test]
fn the_first_connection_waits_for_its_handshake_and_not_for_a_second() {
    let mut scene = scene("first");
    assert!(scene.mesh.sessions(0).is_empty(), "no session before the first connection");
    for to in scene.mesh.both(1, OPEN) {
        let cold = scene.caller.probe.connect(Protocol::Tcp, to);
        assert_eq!(cold.errno, None, "{to}");
        assert!(Duration::from_micros(cold.micros) < Reply::AT_ONCE, "{to}: {} us", cold.micros);
        let warm = scene.caller.probe.connect(Protocol::Tcp, to);
        assert!(Duration::from_micros(warm.micros) < Duration::from_millis(50), "{to}: {} us", warm.micros);
    }
    assert!(scene.mesh.counter(0, "held") >= 2, "the first SYNs were held");
    assert!(scene.mesh.counter(0, "wire-sealed") >= 4);
    assert!(scene.mesh.counter(1, "wire-true") >= 4);
}

#[test]
fn a_workload_that_may_call_only_the_server_is_refused_at_home_when_it_calls_another() {
    let (mesh, [mut caller, mut server, mut other]) =
        Mesh::new("egress", [("shop/caller", 0), ("shop/server", 1), ("shop/other", 1)]);
    let mut stranger = mesh.stranger(1);
    server.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    let (at_other, _) = other.probe.serve(Protocol::Tcp, "[::]:8082");
    let (at_stranger, _) = stranger.probe.serve(Protocol::Tcp, "[::]:8083");
    mesh.nodes[0].apply(&allow_egress("server-only", "shop/caller", &server, "[ 8080-8089/tcp ]"));
    let tap = mesh.nodes[0].node.tap();
    for to in mesh.both(1, OPEN) {
        assert_eq!(caller.probe.talk(Protocol::Tcp, to), None, "{to}");
    }
    for port in [8082, 8083, 8084] {
        for to in mesh.both(1, port) {
            // Before the handshake nobody knows who answers there; after it connect() itself knows.
            let cold = caller.probe.connect(Protocol::Tcp, to);
            cold.assert_refused(&["EPERM", "ECONNREFUSED", "ECONNABORTED"], &format!("{to}, first"));
            let warm = caller.probe.connect(Protocol::Tcp, to);
            warm.assert_refused(&["EPERM", "ECONNREFUSED", "ECONNABORTED"], &format!("{to}, again"));
        }
    }
    assert_eq!(other.probe.seen(at_other), 0);
    assert_eq!(stranger.probe.seen(at_stranger), 0);
    let denied = tap.expect("the denial at home", SOON, |flow| {
        flow.is("deny") && flow.between("shop/caller", "shop/other", 8082)
    });
    assert_eq!(denied.text("direction"), "egress", "{denied:?}");
}

#[test]
fn a_policy_by_label_holds_for_workloads_of_another_node() {
    let mut scene = scene("labels");
    let rules = policy(
        "labels",
        "shop/server",
        &format!("  ingress:\n    - from: [ {{ labels: {{ app: other }} }} ]\n      ports: [ {OPEN}/tcp ]"),
    );
    scene.mesh.nodes[1].apply(&rules);
    for to in scene.mesh.both(1, OPEN) {
        assert_eq!(scene.other.probe.talk(Protocol::Tcp, to), None, "{to}");
        assert_refused(&scene.caller.probe.connect(Protocol::Tcp, to), &to.to_string());
    }
}

#[test]
fn a_changed_policy_holds_for_live_connections_across_nodes() {
    let mut scene = scene("changed");
    let to = scene.mesh.at(1, OPEN);
    let reply = scene.caller.probe.connect(Protocol::Tcp, to);
    let handle = waxseal_tests::probe::handle(&reply);
    assert_eq!(scene.caller.probe.ask(&Request::Ping { handle, milliseconds: 500 }).errno, None);
    scene.mesh.nodes[1].apply(&policy("caller", "shop/server", "  ingress: []"));
    root::wait("the live connection ends", SOON, || {
        scene.caller.probe.ask(&Request::Ping { handle, milliseconds: 100 }).errno
    });
    assert_refused(&scene.caller.probe.connect(Protocol::Tcp, to), "afterwards");
}

#[test]
fn sessions_are_listed_on_both_nodes_with_pair_peer_and_times() {
    let mut scene = scene("listed");
    for to in scene.mesh.both(1, OPEN) {
        assert_eq!(scene.caller.probe.connect(Protocol::Tcp, to).errno, None, "{to}");
    }
    for (node, peer) in [(0, "node-b"), (1, "node-a")] {
        let session = scene.mesh.await_session(node, "caller to server", |session| {
            session["source"]["name"] == "shop/caller" && session["destination"]["name"] == "shop/server"
        });
        assert_eq!(session["peer"], peer, "{session}");
        assert!(session["spi"].as_u64().is_some_and(|spi| spi != 0), "{session}");
        let left = session["expires_in_seconds"].as_u64().unwrap_or(0);
        assert!((60..=3600).contains(&left), "{session}");
        assert!(session["connections"].as_u64().is_some_and(|count| count > 0), "{session}");
    }
    let text = String::from_utf8(scene.mesh.nodes[0].node.output(&["session", "list"]).stdout).unwrap();
    assert!(text.contains("shop/server") && text.contains("node-b"), "{text}");
}
