//! `waxseal tap` over several nodes: who may read whom, in which order, and what happens when a node is away.

use std::time::Duration;

use serde_json::Value;
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::node::Settings;
use waxseal_tests::probe::Protocol;
use waxseal_tests::root;
use waxseal_tests::stage::Workload;
use waxseal_tests::tap::{Flow, Tap};

const SOON: Duration = Duration::from_secs(20);
const PORT: u16 = 8080;

/// A client on the first node, a server on the second one; the second lets the first read its flows.
fn scene(label: &str) -> (Mesh, Workload, Workload) {
    let settings = Settings { more: "tap_from_nodes: [ node-a ]\n", ..Settings::default() };
    let plan = Plan { settings, ..Plan::default() };
    let (mesh, [mut client, mut server]) = Mesh::with(label, plan, [("shop/client", 0), ("shop/server", 1)]);
    server.probe.serve(Protocol::Tcp, &format!("[::]:{PORT}"));
    assert_eq!(client.probe.talk(Protocol::Tcp, mesh.at(1, PORT)), None);
    mesh.await_session(0, "the client's", |session| session["peer"] == "node-b");
    (mesh, client, server)
}

/// The lines of a tap that ends, and whether it was content.
fn past(mesh: &Mesh, node: usize, arguments: &[&str]) -> (Vec<Flow>, bool) {
    let output = mesh.nodes[node].node.output(&[&["tap", "--no-follow", "-o", "json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| Flow(serde_json::from_str(line).unwrap_or(Value::Null))).collect();
    (lines, output.status.success())
}

fn both_are_read(mesh: &Mesh) -> bool {
    mesh.nodes.iter().all(|stage| stage.node.status()["taps"]["readers"].as_u64() == Some(1))
}

fn by(flows: &[Flow], node: &str) -> usize {
    flows.iter().filter(|flow| flow.text("node") == node && !flow.text("kind").is_empty()).count()
}

fn assert_in_order(flows: &[Flow]) {
    let times: Vec<String> =
        flows.iter().map(|flow| flow.text("time")).filter(|time| !time.is_empty()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn the_flows_of_several_nodes_come_in_order_of_time_and_only_where_the_node_lets_them() {
    let (mesh, mut client, _server) = scene("merged");
    let tap = Tap::start(&mut mesh.nodes[0].node.command(&["tap", "--all-nodes", "-o", "json"]));
    root::wait("both are read", SOON, || both_are_read(&mesh).then_some(()));
    for _ in 0..30 {
        assert_eq!(client.probe.talk(Protocol::Tcp, mesh.at(1, PORT)), None);
    }
    let closes = |flows: &[Flow], node: &str| {
        flows.iter().filter(|flow| flow.closes() && flow.text("node") == node).count()
    };
    root::wait("both ends of each", SOON, || {
        let all = tap.all();
        (closes(&all, "node-a") == 30 && closes(&all, "node-b") == 30).then_some(())
    });
    assert_in_order(&tap.all());
    drop(tap);

    // The past, by the same filters, which run over there.
    let (all, content) = past(&mesh, 0, &["--all-nodes"]);
    assert!(content && by(&all, "node-a") > 60 && by(&all, "node-b") > 60, "{}", all.len());
    assert_in_order(&all);
    let (closed, _) = past(&mesh, 0, &["--all-nodes", "--verdict", "close", "--direction", "ingress"]);
    assert_eq!((by(&closed, "node-a"), by(&closed, "node-b")), (0, 31));
    let (last, _) = past(&mesh, 0, &["--all-nodes", "--last", "5"]);
    assert_eq!(
        last.iter().map(|flow| flow.text("time")).collect::<Vec<_>>(),
        all.iter().skip(all.len() - 5).map(|flow| flow.text("time")).collect::<Vec<_>>()
    );
    // By name: what it tells, and what goes to it by our own telling.
    let (named, content) = past(&mesh, 0, &["--node", "node-b"]);
    assert!(content && by(&named, "node-b") > 60 && by(&named, "node-a") > 60);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let compact = mesh.nodes[0].node.output(&["tap", "--no-follow", "--all-nodes"]);
    let compact = lines(&String::from_utf8(compact.stdout).unwrap());
    assert!(compact.iter().any(|line| line.contains("  node-a        ALLOW    out")), "{compact:#?}");
    assert!(compact.iter().any(|line| line.contains("  node-b        ALLOW    in ")), "{compact:#?}");

    // The first node lets nobody but itself: the second one is told so, and sees its own.
    let (own, content) = past(&mesh, 1, &["--all-nodes"]);
    assert!(!content && by(&own, "node-b") > 60 && by(&own, "node-a") == 0);
    let refusal = own.iter().find(|flow| !flow.text("unreachable").is_empty()).expect("a refusal");
    assert_eq!(
        (refusal.text("node").as_str(), refusal.text("unreachable").as_str()),
        (
            "node-a",
            "node-a does not let node-b read its flows; `tap_from_nodes: [node-b]` in the configuration of node-a would"
        )
    );
    assert!(mesh.nodes[0].node.log().contains("may not read the flows of this one"));

    // Whom nobody has met, and who is not who he is said to be.
    let elsewhere = format!("node-z={}", mesh.at(1, 7461));
    for (term, why) in [
        ("node-z", "this node has not met node-z"),
        (elsewhere.as_str(), "/waxseal/node/node-b instead of node-z"),
    ] {
        let (lines, content) = past(&mesh, 0, &["--node", term]);
        let said: Vec<String> = lines.iter().map(|line| line.text("unreachable")).collect();
        assert!(!content && said.iter().any(|said| said.contains(why)), "{term}: {said:?}");
    }
}

#[test]
fn a_node_that_goes_away_is_named_and_read_again_when_it_is_back() {
    let (mut mesh, mut client, _server) = scene("away");
    let tap = Tap::start(&mut mesh.nodes[0].node.command(&["tap", "--node", "node-b", "-o", "json"]));
    root::wait("both are read", SOON, || both_are_read(&mesh).then_some(()));
    let told = |flow: &Flow| flow.text("node") == "node-b" && flow.closes();
    assert_eq!(client.probe.talk(Protocol::Tcp, mesh.at(1, PORT)), None);
    tap.expect("the other node tells", SOON, told);
    mesh.nodes[1].node.kill();
    let away = tap.expect("it is named", SOON, |flow| !flow.text("unreachable").is_empty());
    assert_eq!(away.text("node"), "node-b");
    assert_eq!(client.probe.talk(Protocol::Tcp, mesh.at(1, PORT)), None, "verdicts go on");
    tap.expect("the own node tells all the while", SOON, |flow| {
        flow.text("node") == "node-a" && flow.closes()
    });
    mesh.nodes[1].node.start();
    root::wait("it is said that it is back", SOON * 2, || {
        let news = tap.all().into_iter().rfind(|flow| flow.0.get("unreachable").is_some())?;
        news.0["unreachable"].is_null().then_some(())
    });
    assert_eq!(client.probe.talk(Protocol::Tcp, mesh.at(1, PORT)), None);
    root::wait("and what it saw meanwhile", SOON, || (tap.count(told) >= 3).then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(tap.count(told), 3, "nothing twice");
}
