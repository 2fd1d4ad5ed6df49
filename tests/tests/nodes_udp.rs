//! Datagrams between nodes: announced before the first leaves, answered, never believed from a guessed address.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use waxseal_tests::capture::Frame;
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::middle::Port;
use waxseal_tests::packet::{datagram, frame};
use waxseal_tests::probe::{Handle, Protocol, Request, Target, handle};
use waxseal_tests::root;
use waxseal_tests::stage::{Workload, allow_ingress, policy};

const OPEN: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

struct Scene {
    mesh: Mesh,
    caller: Workload,
    other: Workload,
    server: Workload,
    service: Handle,
}

fn scene(label: &str, nodes: u8) -> Scene {
    let (mesh, [caller, other, mut server]) = Mesh::with(
        label,
        Plan { nodes, ..Plan::default() },
        [("shop/caller", 0), ("shop/other", 0), ("shop/server", 1)],
    );
    let (service, _) = server.probe.serve(Protocol::Udp, &format!("[::]:{OPEN}"));
    mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, &format!("[ {OPEN}/udp ]")));
    Scene { mesh, caller, other, server, service }
}

#[test]
fn the_first_datagram_arrives_and_is_answered_and_a_forbidden_one_does_not_arrive() {
    let mut scene = scene("first", 2);
    let tap = scene.mesh.nodes[1].node.tap();
    let mut stranger = scene.mesh.stranger(0);
    for to in scene.mesh.both(1, OPEN) {
        let start = Instant::now();
        assert_eq!(scene.caller.probe.shout(to), None, "{to}: the first datagram is not lost");
        assert!(start.elapsed() < Duration::from_millis(300), "{to}: {:?}", start.elapsed());
        assert_eq!(scene.caller.probe.talk(Protocol::Udp, to), None, "{to}: connected");
        let before = scene.server.probe.seen(scene.service);
        assert!(scene.other.probe.shout(to).is_some(), "{to}: another workload");
        assert!(stranger.probe.shout(to).is_some(), "{to}: nobody's process");
        assert_eq!(scene.server.probe.seen(scene.service), before, "{to}");
    }
    let flow = tap.expect("the caller by name", SOON, |flow| {
        flow.is("allow") && flow.between("shop/caller", "shop/server", OPEN)
    });
    assert_eq!(flow.text("protocol"), "udp");
    assert_eq!(flow.text("session.node"), "node-a", "{flow:?}");
    tap.expect("the other's denial by name", SOON, |flow| {
        flow.is("deny") && flow.between("shop/other", "shop/server", OPEN)
    });
}

#[test]
fn a_flow_goes_on_for_many_datagrams_and_ends_with_the_policy() {
    let mut scene = scene("stream", 2);
    let to = scene.mesh.at(1, OPEN);
    let target = Target { protocol: Protocol::Udp, address: to, connected: true };
    let hold =
        handle(&scene.caller.probe.must(&Request::Hold { targets: vec![target], every_milliseconds: 2 }));
    root::wait("three hundred datagrams", Duration::from_secs(10), || {
        (scene.caller.probe.must(&Request::Progress { handle: hold }).count > 300).then_some(())
    });
    let held = scene.caller.probe.must(&Request::Stop { handle: hold });
    assert_eq!(held.bad, 0, "{held:?}");
    scene.mesh.nodes[1].apply(&policy("caller", "shop/server", "  ingress: []"));
    let before = scene.server.probe.seen(scene.service);
    assert!(scene.caller.probe.shout(to).is_some(), "revoked");
    assert_eq!(scene.server.probe.seen(scene.service), before);
}

#[test]
fn a_spoofed_source_opens_nothing_and_finds_no_open_door() {
    let mut scene = scene("spoofed", 3);
    let [a, b, c] = [0, 1, 2].map(|node| &scene.mesh.network.sites[node]);
    let wire = Port::open(&scene.mesh.network.router, &b.wire);
    let to = std::net::SocketAddrV4::new(b.end.v4, OPEN);
    let throw = |from: std::net::SocketAddrV4| {
        wire.send(&frame(b.end.mac, b.gate.mac, &datagram(from, to, b"spoofed")));
    };
    for port in 20_000..21_000 {
        throw(std::net::SocketAddrV4::new(a.end.v4, port));
        throw(std::net::SocketAddrV4::new(c.end.v4, port));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(scene.server.probe.seen(scene.service), 0, "nothing was announced");
    // While the caller has a flow, only its very tuple is that flow's.
    let address = SocketAddr::V4(to);
    let reply = scene.caller.probe.connect(Protocol::Udp, address);
    let (socket, own) = (handle(&reply), reply.address.unwrap());
    assert_eq!(scene.caller.probe.ask(&Request::Ping { handle: socket, milliseconds: 1000 }).errno, None);
    let before = scene.server.probe.seen(scene.service);
    for port in 20_000..21_000 {
        if port != own.port() {
            throw(std::net::SocketAddrV4::new(a.end.v4, port));
        }
        throw(std::net::SocketAddrV4::new(c.end.v4, own.port()));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(scene.server.probe.seen(scene.service), before, "another tuple is another flow");
    let pong = scene.caller.probe.ask(&Request::Ping { handle: socket, milliseconds: 1000 });
    assert_eq!(pong.errno, None, "the honest flow goes on");
}

#[test]
fn a_flood_from_a_workload_that_may_not_pushes_no_honest_flow_out() {
    let mut scene = scene("flood", 2);
    let to = scene.mesh.at(1, OPEN);
    let target = |port: u16, connected: bool| Target {
        protocol: Protocol::Udp,
        address: SocketAddr::new(to.ip(), port),
        connected,
    };
    let hold = handle(
        &scene.caller.probe.must(&Request::Hold { targets: vec![target(OPEN, true)], every_milliseconds: 5 }),
    );
    let targets = (9000..9016).map(|port| target(port, false)).chain([target(OPEN, false)]).collect();
    let hammer = handle(&scene.other.probe.must(&Request::Hammer { targets, milliseconds: 20 }));
    std::thread::sleep(Duration::from_secs(3));
    let hammered = scene.other.probe.must(&Request::Stop { handle: hammer });
    let held = scene.caller.probe.must(&Request::Stop { handle: hold });
    assert!(hammered.count > 1000, "{hammered:?}");
    assert_eq!(held.bad, 0, "{held:?}");
    // What the flood has left in the agents' queues goes first; a first datagram may be late, as on any network.
    root::wait("a new flow of the caller's finds room", Duration::from_secs(5), || {
        scene.caller.probe.shout(to).is_none().then_some(())
    });
}

#[test]
fn no_datagram_leaves_before_its_flow_is_announced() {
    let mut scene = scene("announced", 2);
    let wire = Port::open(&scene.mesh.network.router, &scene.mesh.network.sites[0].wire);
    // The other node's agent is gone before anything was agreed on.
    scene.mesh.nodes[1].node.kill();
    let to = scene.mesh.at(1, OPEN);
    let held = |frame: &Frame| !frame.is_tcp() && frame.destination() == to;
    assert!(scene.caller.probe.shout(to).is_some(), "nobody could announce it");
    // What leaves all the same carries no identity: the other node's kernel still knows no such flow.
    let _heard = wire.listen(Duration::from_millis(500), held);
    assert_eq!(scene.server.probe.seen(scene.service), 0);
    scene.mesh.nodes[1].node.start();
    root::wait("it works again", Duration::from_secs(40), || {
        scene.caller.probe.shout(to).is_none().then_some(())
    });
}
