//! One workload's flood of datagrams takes its share of the table of flows, and leaves room for everybody else.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use waxseal_tests::netns::Netns;
use waxseal_tests::node::Settings;
use waxseal_tests::probe::Protocol;
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, policy};

/// Entries in the table of flows.
const TABLE: u64 = 4096;

#[test]
fn a_flood_takes_its_share_of_the_table_and_is_told_of_and_everybody_else_goes_on() {
    let netns = Netns::new("shares");
    netns.ip(&["addr", "add", "10.97.0.1/32", "dev", "lo"]);
    netns.ip(&["route", "add", "10.98.0.0/16", "dev", "lo"]);
    let more = format!("connections: {TABLE}\n");
    let (stage, [mut flooder, mut client, mut server]) = Stage::with(
        "shares",
        Settings { more: &more, ..Settings::default() },
        [("shop/flooder", Some(&netns)), ("shop/client", Some(&netns)), ("shop/server", Some(&netns))],
    );
    let rules = "  egress:\n    - to: [ { cidr: \"10.98.0.0/16\" } ]\n      ports: [ udp ]";
    stage.apply(&policy("flood", "shop/flooder", rules));
    let tap = stage.node.tap();
    // Each to an address of its own, as many as one source may have.
    let status = Command::new(root::program("waxseal-flood"))
        .args(["end", "allow", &(TABLE / 2).to_string(), "0"])
        .args([flooder.cgroup.path(), &netns.path()])
        .stdout(Stdio::null())
        .status()
        .expect("waxseal-flood starts");
    assert!(status.success(), "the load: {status}");
    let refused = (0..100).filter(|number| {
        let to: SocketAddr = format!("10.98.250.{number}:53").parse().expect("an address");
        flooder.probe.shout(to).as_deref() == Some("EPERM")
    });
    // Two processors may have counted one flow together.
    assert!(refused.count() >= 90);

    let status = stage.node.status();
    let tables = status["maps"].as_array().expect("a list");
    let flows = tables.iter().find(|table| table["name"] == "udp-flows").expect("the table of flows");
    let used = flows["used"].as_u64().expect("a number");
    assert!((TABLE / 2 - 64..=TABLE / 2 + 64).contains(&used), "{used} of {TABLE}");
    assert!(stage.node.counter("over-share") >= 90, "{}", stage.node.counter("over-share"));
    assert_eq!(stage.node.counter("table-full"), 0);
    tap.expect("the refusal is told", Duration::from_secs(5), |flow| {
        flow.text("reason") == "over-share" && flow.text("verdict") == "deny"
    });

    server.probe.serve(Protocol::Udp, "10.97.0.1:5353");
    let to: SocketAddr = "10.97.0.1:5353".parse().expect("an address");
    for _ in 0..50 {
        assert_eq!(client.probe.talk(Protocol::Udp, to), None, "somebody else's flow");
    }
}
