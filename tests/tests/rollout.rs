//! The way from looking to enforcing: what would break is told before it breaks, modes are set at run time, and both are
//! about the connections that were really made.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use waxseal_tests::netns::{End, Netns};
use waxseal_tests::node::Settings;
use waxseal_tests::probe::Protocol;
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, allow_ingress};

/// What a report that lacks something fails with.
const SHAPE: &str = "the report has another shape";
const SOON: Duration = Duration::from_secs(5);

struct Scene {
    stage: Stage,
    caller: Workload,
    other: Workload,
    _server: Workload,
    stranger: Workload,
    end: End,
    _wires: (Netns, Netns),
}

/// A server that only `shop/caller` may call once its rules are enforced; another workload and a stranger that call it too.
fn scene(label: &str) -> Scene {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    let settings = Settings { mode: "audit", ..Settings::default() };
    let names = [("shop/caller", Some(&here)), ("shop/other", Some(&here)), ("shop/server", Some(&there))];
    let (stage, [caller, other, mut server]) = Stage::with(label, settings, names);
    server.probe.serve(Protocol::Tcp, "[::]:8080");
    let stranger = stage.stranger(Some(&here));
    stage.apply(&allow_ingress("only-caller", "shop/server", &caller, "[ 8080/tcp ]"));
    Scene { stage, caller, other, _server: server, stranger, end, _wires: (here, there) }
}

impl Scene {
    fn at(&self) -> SocketAddr {
        SocketAddr::new(self.end.v4.into(), 8080)
    }

    fn assert_open(&mut self, case: &str) {
        let to = self.at();
        for workload in [&mut self.caller, &mut self.other, &mut self.stranger] {
            assert_eq!(workload.probe.talk(Protocol::Tcp, to), None, "{case}: {}", workload.name);
        }
    }

    /// The caller goes on, the others are refused.
    fn assert_enforced(&mut self, case: &str) {
        let to = self.at();
        assert_eq!(self.caller.probe.talk(Protocol::Tcp, to), None, "{case}");
        self.other.probe.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], case);
    }

    fn report(&self, arguments: &[&str]) -> Value {
        self.stage.node.json(&[&["report"], arguments].concat())
    }

    /// One workload of a report.
    fn reported(&self, name: &str) -> Value {
        let report = self.report(&["--workload", name]);
        let workloads = report["workloads"].as_array().unwrap_or_else(|| panic!("{SHAPE}")).clone();
        assert_eq!(workloads.len(), 1, "{report}");
        workloads[0].clone()
    }

    fn mode_of(&self, name: &str) -> (String, String) {
        let modes = self.stage.node.json(&["mode"]);
        let workloads = modes["workloads"].as_array().unwrap_or_else(|| panic!("{SHAPE}"));
        let found = workloads
            .iter()
            .find(|workload| workload["workload"] == name)
            .unwrap_or_else(|| panic!("{SHAPE}"));
        let text = |key: &str| found[key].as_str().unwrap_or_else(|| panic!("{SHAPE}")).to_owned();
        (text("mode"), text("from"))
    }
}

/// `what direction peer port` of each obstacle, with its count.
fn obstacles(workload: &Value) -> Vec<(String, u64)> {
    let list = workload["obstacles"].as_array().unwrap_or_else(|| panic!("{SHAPE}"));
    let mut found: Vec<(String, u64)> = list
        .iter()
        .map(|obstacle| {
            let text = |key: &str| obstacle[key].as_str().unwrap_or_default().to_owned();
            let peer = text("peer").split(' ').next().unwrap_or_default().to_owned();
            let line = format!(
                "{} {} {peer} {}/{}",
                text("what"),
                text("direction"),
                obstacle["port"],
                text("protocol")
            );
            (line, obstacle["count"].as_u64().unwrap_or_else(|| panic!("{SHAPE}")))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn the_report_names_what_enforcing_breaks_and_enforcing_breaks_just_that() {
    let mut scene = scene("rollout-report");
    scene.assert_open("in audit everything passes");
    scene.assert_open("once more");
    let server = root::wait("the denials that audit let pass are counted", SOON, || {
        let server = scene.reported("shop/server");
        let counted: u64 = obstacles(&server).iter().map(|(_, count)| count).sum();
        (counted >= 6).then_some(server)
    });
    let found = obstacles(&server);
    assert!(found.contains(&("would-deny ingress shop/other 8080/tcp".to_owned(), 2)), "{found:?}");
    let strangers =
        found.iter().filter(|(line, _)| line.contains("ingress un") || line.contains("ingress world"));
    assert!(strangers.count() >= 1, "the stranger is among them: {found:?}");
    assert!(
        !found.iter().any(|(line, _)| line.contains("shop/caller")),
        "the allowed caller is in nobody's way: {found:?}"
    );
    assert_eq!(
        (server["mode"].as_str(), server["next"].as_str()),
        (Some("audit"), Some("enforce")),
        "{server}"
    );
    assert!(server["would_break"].as_u64() >= Some(2), "{server}");
    let rules: Vec<&str> =
        server["obstacles"].as_array().unwrap().iter().filter_map(|o| o["rule"].as_str()).collect();
    assert!(
        rules.iter().any(|rule| rule.contains("shop/only-caller") && rule.contains("policy.yaml:")),
        "{rules:?}"
    );
    let whole = scene.report(&["--namespace", "shop"]);
    assert_eq!(whole["workloads"].as_array().map(Vec::len), Some(3), "{whole}");
    let nobody = scene.stage.node.output(&["report", "--workload", "shop/\u{1b}nobody"]);
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(2), "{said}");
    assert!(said.contains(r"shop/\") && !said.contains('\u{1b}'), "{said:?}");

    scene.stage.node.json(&["mode", "set", "--workload", "shop/server", "enforce"]);
    scene.assert_enforced("as the report said");
    let server = scene.reported("shop/server");
    assert_eq!(server["mode"], "enforce", "{server}");
    assert!(!obstacles(&server).iter().any(|(line, _)| line.starts_with("would-deny")), "{server}");

    // Once the documents have changed, what was seen under the old ones is not counted.
    let both = allow_ingress("only-caller", "shop/server", &scene.caller, "[ 8080/tcp ]")
        + &allow_ingress("also-other", "shop/server", &scene.other, "[ 8080/tcp ]");
    scene.stage.node.json(&["mode", "reset", "--workload", "shop/server"]);
    scene.stage.apply(&both);
    let server = scene.reported("shop/server");
    assert_eq!(server["would_break"], 0, "{server}");
    assert!(
        server["obstacles"].as_array().unwrap().iter().all(|obstacle| obstacle["stale"] == true),
        "{server}"
    );
}

#[test]
fn a_mode_that_was_set_holds_survives_a_restart_and_ends_when_it_is_reset() {
    let mut scene = scene("rollout-mode");
    assert_eq!(scene.mode_of("shop/server"), ("audit".to_owned(), "the node's configuration".to_owned()));
    scene.assert_open("before");
    scene.stage.node.json(&["mode", "set", "--namespace", "shop", "enforce"]);
    let (mode, from) = scene.mode_of("shop/server");
    assert!(mode == "enforce" && from.starts_with("set for namespace shop at 20"), "{mode} {from}");
    scene.assert_enforced("the namespace is enforced");

    scene.stage.node.json(&["mode", "set", "--workload", "shop/server", "audit"]);
    let (mode, from) = scene.mode_of("shop/server");
    assert!(mode == "audit" && from.starts_with("set for the workload at 20"), "{mode} {from}");
    scene.assert_open("a workload goes before its namespace");

    scene.stage.node.stop();
    scene.stage.node.start();
    scene.assert_open("after a restart");
    assert_eq!(scene.mode_of("shop/caller").0, "enforce");
    let status = scene.stage.node.output(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    for line in ["set: workload shop/server is audit since 20", "set: namespace shop is enforce since 20"] {
        assert!(status.contains(line), "{status}");
    }

    scene.stage.node.json(&["mode", "reset", "--workload", "shop/server"]);
    scene.assert_enforced("the namespace holds again");
    scene.stage.node.json(&["mode", "reset", "--namespace", "shop"]);
    scene.assert_open("the configuration holds again");
    assert_eq!(scene.stage.node.json(&["mode"]).get("set"), None);
    for (arguments, word) in [
        (
            &["mode", "set", "--workload", "shop/nobody", "audit"][..],
            "no document in force names the workload shop/nobody",
        ),
        (&["mode", "set", "--namespace", "nowhere", "audit"], "names the namespace nowhere"),
        (&["mode", "reset", "--workload", "shop/server"], "no mode was set at run time"),
    ] {
        let output = scene.stage.node.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn a_flow_of_the_tap_is_explained_by_its_number() {
    let mut scene = scene("rollout-flow");
    let tap = scene.stage.node.tap();
    let to = scene.at();
    assert_eq!(scene.other.probe.talk(Protocol::Tcp, to), None);
    let flow = tap.expect("the flow that audit let pass", SOON, |flow| {
        flow.is("audit") && flow.between("shop/other", "shop/server", 8080)
    });
    let cookie = flow.text("cookie");
    let output = scene.stage.node.output(&["policy", "explain", "--flow", &cookie]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for word in ["AUDIT", "shop/other", "shop/server", "policy.yaml:"] {
        assert!(said.contains(word), "{word} is missing:\n{said}");
    }
    let output = scene.stage.node.output(&["policy", "explain", "--flow", "1"]);
    assert_eq!(output.status.code(), Some(2));
}
