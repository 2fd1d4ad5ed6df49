//! Certificates end, are revoked, are renewed: what that does to connections, and how soon.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a scene that cannot be made must stop its test; measured times go to stdout"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use waxseal_tests::authority::Terms;
use waxseal_tests::mesh::{Mesh, Plan, node_name};
use waxseal_tests::node::Settings;
use waxseal_tests::probe::{Handle, Protocol, Request, Target, handle};
use waxseal_tests::root;
use waxseal_tests::stage::{Workload, allow_ingress};

const OPEN: u16 = 8080;
/// Within this time nobody revoked opens a connection any more, and within twice of it none of theirs lives.
const NEW_ENDS: Duration = Duration::from_secs(5);
const LIVE_ENDS: Duration = Duration::from_secs(10);

struct Scene {
    mesh: Mesh,
    caller: Workload,
    other: Workload,
    server: Workload,
}

fn scene(label: &str, plan: Plan<'_>) -> Scene {
    let (mesh, [caller, other, mut server]) =
        Mesh::with(label, plan, [("shop/caller", 0), ("shop/other", 0), ("shop/server", 1)]);
    server.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    let rules = [&caller, &other].map(|source| {
        allow_ingress(&source.name.replace('/', "-"), "shop/server", source, "[ 8000-8999/tcp ]")
    });
    mesh.nodes[1].apply(&rules.concat());
    Scene { mesh, caller, other, server }
}

impl Scene {
    fn to(&self) -> SocketAddr {
        self.mesh.at(1, OPEN)
    }

    /// Revokes, and measures until when the caller still gets in, and until when its live connection lives.
    fn assert_revoked(&mut self, arguments: &[&str], case: &str) {
        let to = self.to();
        let live = handle(&self.caller.probe.connect(Protocol::Tcp, to));
        let ping = Request::Ping { handle: live, milliseconds: 300 };
        assert_eq!(self.caller.probe.ask(&ping).errno, None, "{case}: before");
        self.mesh.authority.must(arguments);
        let start = Instant::now();
        root::wait(&format!("{case}: new connections are refused"), NEW_ENDS, || {
            self.caller.probe.talk(Protocol::Tcp, to)
        });
        println!("{case}: new ones refused after {:?}", start.elapsed());
        root::wait(
            &format!("{case}: the live one is cut"),
            LIVE_ENDS.saturating_sub(start.elapsed()),
            || self.caller.probe.ask(&ping).errno,
        );
        println!("{case}: live ones cut after {:?}", start.elapsed());
        assert!(self.caller.probe.talk(Protocol::Tcp, to).is_some(), "{case}: and it stays so");
    }
}

#[test]
fn a_revoked_workload_is_refused_within_seconds_and_its_neighbour_is_not() {
    let mut scene = scene("revoked-workload", Plan::default());
    let id = scene.caller.spiffe_id();
    let to = scene.to();
    assert_eq!(scene.other.probe.talk(Protocol::Tcp, to), None);
    scene.assert_revoked(&["revoke", "--id", &id], "workload");
    assert_eq!(scene.other.probe.talk(Protocol::Tcp, to), None, "the neighbour still may");
}

#[test]
fn a_revoked_node_takes_all_its_workloads_along() {
    let mut scene = scene("revoked-node", Plan::default());
    let to = scene.to();
    scene.assert_revoked(&["revoke", "--node", &node_name(0)], "node");
    assert!(scene.other.probe.talk(Protocol::Tcp, to).is_some(), "the neighbour may not either");
}

#[test]
fn a_rotated_intermediate_changes_nothing_and_a_revoked_one_ends_what_it_signed() {
    let mut scene = scene("intermediate", Plan::default());
    let to = scene.to();
    let target = Target { protocol: Protocol::Tcp, address: to, connected: false };
    let hold =
        handle(&scene.caller.probe.must(&Request::Hold { targets: vec![target], every_milliseconds: 10 }));
    let old = scene.mesh.authority.must(&["show", "-o", "json"]);
    scene.mesh.authority.must(&["rotate-intermediate"]);
    for _ in 0..20 {
        assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None, "while both are good");
        std::thread::sleep(Duration::from_millis(50));
    }
    let held = scene.caller.probe.must(&Request::Stop { handle: hold });
    assert_eq!(held.bad, 0, "{held:?}");
    let old: serde_json::Value = serde_json::from_str(&old).unwrap();
    let serial = old["intermediates"][0]["serial"].as_str().unwrap().to_owned();
    scene.mesh.authority.must(&["revoke", "--intermediate", &serial]);
    // Everybody asks the new one; whoever has not yet is refused.
    root::wait("the pair is back under the new intermediate", Duration::from_secs(30), || {
        scene.caller.probe.talk(Protocol::Tcp, to).is_none().then_some(())
    });
}

#[test]
fn an_outage_of_the_authority_is_not_felt_before_certificates_end_and_then_they_end() {
    let mut scene = scene("outage", Plan { terms: Terms { leaf: "1m" }, ..Plan::default() });
    let to = scene.to();
    assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None);
    let live = handle(&scene.caller.probe.connect(Protocol::Tcp, to));
    let ping = Request::Ping { handle: live, milliseconds: 300 };
    // Certificates may be half as old as they get, and no older.
    let start = Instant::now();
    scene.mesh.authority.stop();
    while start.elapsed() < Duration::from_secs(25) {
        assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None, "after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    root::wait("new connections end with the certificates", Duration::from_secs(40), || {
        std::thread::sleep(Duration::from_millis(200));
        scene.caller.probe.talk(Protocol::Tcp, to)
    });
    println!("denied after {:?}", start.elapsed());
    root::wait("the live one is cut", LIVE_ENDS, || scene.caller.probe.ask(&ping).errno);
    scene.mesh.authority.serve();
    root::wait("all is well again", Duration::from_secs(30), || {
        scene.caller.probe.talk(Protocol::Tcp, to).is_none().then_some(())
    });
}

#[test]
fn an_expired_session_is_worth_nothing_also_while_both_agents_are_down() {
    let more = "session_lifetime: 6s\n";
    let settings = Settings { more, ..Settings::default() };
    let mut scene = scene("expired", Plan { settings, ..Plan::default() });
    let to = scene.to();
    assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None);
    let start = Instant::now();
    for stage in &mut scene.mesh.nodes {
        stage.node.kill();
    }
    assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None, "it lasts for as long as it was made for");
    root::wait("it ends", Duration::from_secs(7), || scene.caller.probe.talk(Protocol::Tcp, to));
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
    std::thread::sleep(Duration::from_secs(1));
    let reply = scene.caller.probe.connect(Protocol::Tcp, to);
    reply.assert_refused(&["ECONNREFUSED"], "without a session it is a stranger");
    for stage in &mut scene.mesh.nodes {
        stage.node.start();
    }
    root::wait("all is well again", Duration::from_secs(30), || {
        scene.caller.probe.talk(Protocol::Tcp, to).is_none().then_some(())
    });
}

/// Connections a second while sessions are renewed.
const RATE: u32 = 500;

#[test]
fn sessions_that_are_renewed_under_load_drop_no_connection() {
    // The whole measure: WAXSEAL_ROTATIONS=1000. Each port has a session of its own, renewed every two seconds.
    let wanted: u64 =
        std::env::var("WAXSEAL_ROTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let more = "session_lifetime: 4s\n";
    let settings = Settings { more, ..Settings::default() };
    let mut scene = scene("rotations", Plan { settings, ..Plan::default() });
    let ports = 8100..8150u16;
    for port in ports.clone() {
        scene.server.probe.serve(Protocol::Tcp, &format!("[::]:{port}"));
    }
    let targets: Vec<Target> = ports
        .map(|port| Target { protocol: Protocol::Tcp, address: scene.mesh.at(1, port), connected: false })
        .collect();
    let before = renewals(&scene);
    let start = Instant::now();
    let dialler: Handle = handle(&scene.caller.probe.must(&Request::Dial { targets, per_second: RATE }));
    root::wait(&format!("{wanted} renewals"), Duration::from_mins(3), || {
        let progress = scene.caller.probe.must(&Request::Progress { handle: dialler });
        assert_eq!(progress.bad, 0, "{progress:?}");
        std::thread::sleep(Duration::from_millis(200));
        (renewals(&scene) - before >= wanted).then_some(())
    });
    let dialled = scene.caller.probe.must(&Request::Stop { handle: dialler });
    println!("{} renewals in {:?}: {dialled:?}", renewals(&scene) - before, start.elapsed());
    assert_eq!(dialled.bad, 0, "{dialled:?}");
    assert!(dialled.count > wanted, "{dialled:?}");
    assert!(dialled.micros < 900_000, "no SYN was lost: the longest took {} us", dialled.micros);
}

/// Sessions that another took the place of, as the sender's node counts them.
fn renewals(scene: &Scene) -> u64 {
    let list = scene.mesh.nodes[0].node.json(&["session", "list"]);
    list["counters"]["sessions-renewed"].as_u64().expect("it is counted")
}
