//! What the caller is told when the handshake fails, and how soon; and that one who stalls stalls nobody else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::probe::{Probe, Protocol, Request, Target, handle};
use waxseal_tests::root;
use waxseal_tests::stage::{Workload, allow_egress, allow_ingress};

const OPEN: u16 = 8080;
const AGENT: u16 = 7461;
const SOON: Duration = Duration::from_secs(5);

struct Scene {
    mesh: Mesh,
    caller: Workload,
    server: Workload,
}

/// A caller that may call only the server, by name.
fn scene(label: &str) -> Scene {
    let (mesh, [caller, mut server]) = Mesh::new(label, [("shop/caller", 0), ("shop/server", 1)]);
    server.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    mesh.nodes[0].apply(&allow_egress("server-only", "shop/caller", &server, "[ 8000-8999/tcp ]"));
    mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, &format!("[ {OPEN}/tcp ]")));
    Scene { mesh, caller, server }
}

impl Scene {
    /// The caller is refused within `most`, and the flow says why.
    fn assert_failed(&mut self, to: SocketAddr, reason: &str, most: Duration) {
        let tap = self.mesh.nodes[0].node.tap();
        let start = Instant::now();
        let reply = self.caller.probe.connect(Protocol::Tcp, to);
        let took = start.elapsed();
        assert!(reply.errno.as_deref().is_some_and(|errno| errno != "TIMEOUT"), "{reason}: {reply:?}");
        assert!(took < most, "{reason}: {took:?}");
        let flow = tap.expect(&format!("a denial because of {reason}"), SOON, |flow| {
            flow.is("deny") && flow.text("source.name") == "shop/caller" && flow.text("failure") == reason
        });
        assert_eq!(flow.text("direction"), "egress", "{flow:?}");
    }
}

#[test]
fn a_machine_without_an_agent_is_an_error_at_once() {
    let mut scene = scene("nobody");
    let gate = scene.mesh.network.sites[0].gate;
    for ip in gate.both() {
        scene.assert_failed(SocketAddr::new(ip, OPEN), "no-agent", Duration::from_millis(500));
    }
}

#[test]
fn a_node_of_another_authority_is_an_error_at_once_and_gets_nothing() {
    let mut mesh = Mesh::idle("foreign", Plan { nodes: 3, ..Plan::default() });
    // The third node has the same trust domain and the same names, and another root.
    let _other_root = mesh.defect(2);
    let [caller, server, mut impostor, mut guest] =
        [("shop/caller", 0), ("shop/server", 1), ("shop/server", 2), ("shop/caller", 2)]
            .map(|(name, node)| mesh.workload(name, node, None));
    mesh.start(&[]);
    let (service, _) = impostor.probe.serve(Protocol::Tcp, "[::]:8080");
    let mut scene = Scene { mesh, caller, server };
    let (own, _) = scene.server.probe.serve(Protocol::Tcp, "[::]:8080");
    let rules = allow_egress("server-only", "shop/caller", &scene.server, "[ 8000-8999/tcp ]");
    scene.mesh.nodes[0].apply(&rules);
    scene.mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &scene.caller, "[ 8080/tcp ]"));
    scene.assert_failed(scene.mesh.at(2, OPEN), "untrusted", Duration::from_secs(1));
    assert_eq!(impostor.probe.seen(service), 0, "the name alone is worth nothing");
    // And the other way: its caller has the right name, and nobody's word for it.
    let reply = guest.probe.connect(Protocol::Tcp, scene.mesh.at(1, OPEN));
    reply.assert_refused(&["ECONNREFUSED"], "a caller of the other authority");
    assert_eq!(scene.server.probe.seen(own), 0);
}

#[test]
fn an_agent_that_cannot_be_reached_is_named_after_a_few_seconds() {
    let mut scene = scene("silent");
    scene.mesh.network.router.nft(&format!(
        "table inet wall {{
           chain pass {{ type filter hook forward priority 0; tcp dport {AGENT} drop; }}
         }}"
    ));
    let to = scene.mesh.at(1, OPEN);
    let start = Instant::now();
    let tap = scene.mesh.nodes[0].node.tap();
    let reply = scene.caller.probe.ask(&Request::Connect {
        protocol: Protocol::Tcp,
        door: waxseal_tests::probe::Door::Connect,
        from: None,
        address: to,
        v6_socket: false,
        milliseconds: 9000,
    });
    assert!(reply.errno.as_deref().is_some_and(|errno| errno != "TIMEOUT"), "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    tap.expect("a denial that names it", SOON, |flow| {
        flow.is("deny") && flow.text("source.name") == "shop/caller" && flow.text("failure") == "timeout"
    });
}

#[test]
fn a_failed_handshake_is_tried_again_and_heals() {
    let mut scene = scene("heals");
    let to = scene.mesh.at(1, OPEN);
    scene.mesh.nodes[1].node.stop();
    let reply = scene.caller.probe.connect(Protocol::Tcp, to);
    assert!(reply.errno.is_some(), "{reply:?}");
    scene.mesh.nodes[1].node.start();
    root::wait("it works again", Duration::from_secs(45), || {
        scene.caller.probe.talk(Protocol::Tcp, to).is_none().then_some(())
    });
}

#[test]
fn two_thousand_stalled_handshakes_hold_nobody_up() {
    let mut scene = scene("stalled");
    let at_agent = scene.mesh.at(1, AGENT);
    let router = scene.mesh.network.router.path();
    let mut idlers: Vec<Probe> = (0..4).map(|_| Probe::start(None, Some(&router), None)).collect();
    let start = Instant::now();
    for idler in &mut idlers {
        for _ in 0..500 {
            // Refused ones are as good: what counts is whom else it hurts.
            let reply = idler.connect(Protocol::Tcp, at_agent);
            if let Some(handle) = reply.handle {
                idler.ask(&Request::Send { handle, data: vec![22, 3, 1] });
            }
        }
    }
    println!("2000 stalled after {:?}", start.elapsed());
    let to = scene.mesh.at(1, OPEN);
    let reply = scene.caller.probe.connect(Protocol::Tcp, to);
    assert_eq!(reply.errno, None, "{reply:?}");
    assert!(Duration::from_micros(reply.micros) < Duration::from_millis(500), "{} us", reply.micros);
    // And the agent lets go of them.
    let target = Target { protocol: Protocol::Tcp, address: to, connected: false };
    let hold =
        handle(&scene.caller.probe.must(&Request::Hold { targets: vec![target], every_milliseconds: 20 }));
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", scene.mesh.nodes[1].node.pid())).unwrap().count();
    root::wait("the stalled ones are cut", Duration::from_secs(10), || (descriptors() < 200).then_some(()));
    let held = scene.caller.probe.must(&Request::Stop { handle: hold });
    assert_eq!(held.bad, 0, "{held:?}");
}
