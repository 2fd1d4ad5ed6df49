//! Agents and nodes come and go; connections and sessions stay, and what was lost heals by itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use waxseal_tests::mesh::Mesh;
use waxseal_tests::probe::{Handle, Protocol, Request, Target, handle};
use waxseal_tests::root;
use waxseal_tests::stage::{Workload, allow_ingress};

const OPEN: u16 = 8080;
const SHUT: u16 = 8081;
const HEALED: Duration = Duration::from_secs(10);

struct Scene {
    mesh: Mesh,
    caller: Workload,
    other: Workload,
    server: Workload,
    guarded: Handle,
}

fn scene(label: &str) -> Scene {
    let (mesh, [caller, other, mut server]) =
        Mesh::new(label, [("shop/caller", 0), ("shop/other", 0), ("shop/server", 1)]);
    server.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    let (guarded, _) = server.probe.serve(Protocol::Tcp, &format!("[::]:{SHUT}"));
    mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, &format!("[ {OPEN}/tcp ]")));
    Scene { mesh, caller, other, server, guarded }
}

impl Scene {
    fn targets(&self) -> Vec<Target> {
        let target = |address: SocketAddr| Target { protocol: Protocol::Tcp, address, connected: false };
        self.mesh.both(1, OPEN).map(target).to_vec()
    }

    fn hold(&mut self) -> Handle {
        let targets = self.targets();
        handle(&self.caller.probe.must(&Request::Hold { targets, every_milliseconds: 10 }))
    }

    /// Connections that are pressed against the shut port for as long as the test lasts.
    fn hammer(&mut self) -> Handle {
        let target = |address: SocketAddr| Target { protocol: Protocol::Tcp, address, connected: false };
        let shut = self.mesh.both(1, SHUT).map(target);
        let targets = shut.into_iter().chain(self.targets()).collect();
        handle(&self.other.probe.must(&Request::Hammer { targets, milliseconds: 50 }))
    }

    fn assert_allowed(&mut self, case: &str) {
        for to in self.mesh.both(1, OPEN) {
            assert_eq!(self.caller.probe.talk(Protocol::Tcp, to), None, "{case}: {to}");
        }
    }

    fn assert_nothing_passed(&mut self, hammer: Handle, case: &str) {
        let hammered = self.other.probe.must(&Request::Stop { handle: hammer });
        assert!(hammered.count > 20, "{case}: {hammered:?}");
        assert_eq!(hammered.bad, 0, "{case}: {hammered:?}");
        assert_eq!(self.server.probe.seen(self.guarded), 0, "{case}");
    }
}

#[test]
fn restarts_of_either_agent_keep_sessions_and_connections_and_let_nothing_pass() {
    let mut scene = scene("restarts");
    scene.assert_allowed("at first");
    let hold = scene.hold();
    let hammer = scene.hammer();
    let before: Vec<u64> = (0..2)
        .map(|node| scene.mesh.counter(node, "wire-sealed") + scene.mesh.counter(node, "wire-true"))
        .collect();
    let spis = |scene: &Scene| {
        let mut numbers: Vec<u64> =
            scene.mesh.sessions(1).iter().filter_map(|session| session["spi"].as_u64()).collect();
        numbers.sort_unstable();
        numbers
    };
    let sessions = spis(&scene);
    for round in 0..6 {
        let node = round % 2;
        scene.mesh.nodes[node].node.kill();
        // A session outlives its agent: the pair goes on at once, with nobody to ask.
        scene.assert_allowed(&format!("round {round}, agent {node} is dead"));
        scene.mesh.nodes[node].node.start();
        scene.assert_allowed(&format!("round {round}, agent {node} is back"));
    }
    let kept = spis(&scene);
    assert!(sessions.iter().all(|spi| kept.contains(spi)), "{sessions:?} became {kept:?}");
    assert_eq!(before.len(), 2);
    let held = scene.caller.probe.must(&Request::Stop { handle: hold });
    assert!(held.count > 100 && held.bad == 0, "{held:?}");
    scene.assert_nothing_passed(hammer, "restarts");
}

#[test]
fn a_peer_that_has_forgotten_everything_is_met_anew_within_seconds() {
    for lost in [1, 0] {
        let mut scene = scene("reboot");
        scene.assert_allowed("before");
        let hammer = scene.hammer();
        let node = &mut scene.mesh.nodes[lost].node;
        node.kill();
        assert!(node.uninstall().status.success(), "as a reboot would");
        node.start();
        for workload in [&scene.caller, &scene.server] {
            if workload.cgroup.path().starts_with(scene.mesh.nodes[lost].cgroup.path()) {
                scene.mesh.nodes[lost].node.await_endpoint(&workload.cgroup.name());
            }
        }
        let start = Instant::now();
        for to in scene.mesh.both(1, OPEN) {
            root::wait(&format!("node {lost} is met anew at {to}"), HEALED, || {
                scene.caller.probe.talk(Protocol::Tcp, to).is_none().then_some(())
            });
        }
        println!("node {lost}: healed after {:?}", start.elapsed());
        let hammered = scene.other.probe.must(&Request::Stop { handle: hammer });
        // While nothing was installed on the server's node, nothing was judged there.
        if lost == 0 {
            assert_eq!(hammered.bad, 0, "{hammered:?}");
        }
    }
}

#[test]
fn an_agent_that_is_frozen_holds_nobody_up_for_long() {
    let mut scene = scene("frozen");
    scene.assert_allowed("before");
    scene.mesh.nodes[0].node.signal(nix::sys::signal::Signal::SIGSTOP);
    scene.assert_allowed("known pairs go on while the sender's agent is stopped");
    // A pair that is not known yet has nobody who could prove it: it is refused, once nobody answers for what is held.
    std::thread::sleep(Duration::from_secs(6));
    let to = scene.mesh.at(1, SHUT);
    let reply = scene.caller.probe.connect(Protocol::Tcp, to);
    assert!(reply.errno.is_some(), "{reply:?}");
    scene.mesh.nodes[0].node.signal(nix::sys::signal::Signal::SIGCONT);
    scene.assert_allowed("afterwards");
    scene.mesh.nodes[1].node.signal(nix::sys::signal::Signal::SIGSTOP);
    scene.assert_allowed("known pairs go on while the receiver's agent is stopped");
    scene.mesh.nodes[1].node.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(scene.server.probe.seen(scene.guarded), 0);
}

#[test]
fn a_node_whose_agent_never_ran_is_a_stranger_and_is_told_apart_at_once() {
    let mut scene = scene("no-agent");
    let gate = scene.mesh.network.sites[0].gate;
    let mut outside = waxseal_tests::probe::Probe::start(None, Some(&scene.mesh.network.router.path()), None);
    outside.serve(Protocol::Tcp, "[::]:8080");
    let tap = scene.mesh.nodes[0].node.tap();
    for ip in gate.both() {
        let to = SocketAddr::new(ip, 8080);
        let reply = scene.caller.probe.connect(Protocol::Tcp, to);
        assert_eq!(reply.errno, None, "{to}: whom nothing forbids, nobody hinders");
        assert!(
            Duration::from_micros(reply.micros) < Duration::from_millis(500),
            "{to}: {} us",
            reply.micros
        );
    }
    let flow = tap.expect("a flow to somebody unknown", Duration::from_secs(5), |flow| {
        flow.is("allow") && flow.text("source.name") == "shop/caller" && flow.text("port") == "8080"
    });
    assert_eq!(flow.text("seal"), "no-session", "{flow:?}");
    let list = scene.mesh.nodes[0].node.json(&["session", "list"]);
    assert!(list["failures"].to_string().contains("no-agent"), "{list}");
    // From outside nobody has a name either.
    let reply = outside.connect(Protocol::Tcp, scene.mesh.at(1, OPEN));
    reply.assert_refused(&["ECONNREFUSED"], "from a machine without an agent");
}
