//! `waxseal doctor --peer`: the way to another node, whole, changed, or without an agent at its end.

use waxseal_tests::capture::Frame;
use waxseal_tests::mesh::Mesh;
use waxseal_tests::middle::{Middle, Way};

/// What each check says, by its name.
fn doctor(mesh: &Mesh, address: &str) -> (Option<i32>, serde_json::Value) {
    let output = mesh.nodes[0].node.output(&["doctor", "--peer", address, "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let named = report["checks"].as_array().into_iter().flatten();
    let checks =
        named.map(|check| (check["name"].as_str().unwrap_or_default().to_owned(), check["status"].clone()));
    (output.status.code(), checks.collect::<serde_json::Map<_, _>>().into())
}

fn peer(mesh: &Mesh) -> [String; 2] {
    mesh.network.sites[1].end.both().map(|ip| ip.to_string())
}

#[test]
fn a_sealed_syn_arrives_as_it_was_sent_on_a_clean_path() {
    let (mesh, []) = Mesh::new("clean", []);
    for address in peer(&mesh) {
        let (code, checks) = doctor(&mesh, &address);
        assert_eq!(checks["peer"], "ok", "{checks}");
        assert_eq!(checks["clocks"], "ok", "{checks}");
        assert_eq!(checks["sealed SYN"], "ok", "{checks}");
        assert_eq!(code, Some(0));
    }
}

#[test]
fn a_path_that_strips_or_changes_seals_is_named() {
    type Change = fn(&Frame) -> Vec<Frame>;
    let stripped: Change = |frame| vec![frame.stripped()];
    let changed: Change = |frame| frame.seal().and_then(|seal| frame.flips(seal).pop()).into_iter().collect();
    for (what, change) in [("stripped", stripped), ("changed", changed)] {
        let (mesh, []) = Mesh::new("stripping", []);
        let _middle = Middle::start(&mesh.network, move |way, frame| {
            let sealed = way == Way::Forth && frame.opens() && frame.seal().is_some();
            if sealed { change(frame) } else { vec![frame.clone()] }
        });
        let (code, checks) = doctor(&mesh, &peer(&mesh)[0]);
        assert_eq!(checks["peer"], "ok", "{what}: {checks}");
        assert_eq!(checks["sealed SYN"], "fail", "{what}: {checks}");
        assert_eq!(code, Some(1), "{what}");
    }
}

#[test]
fn a_machine_without_an_agent_is_named() {
    let (mut mesh, []) = Mesh::new("absent", []);
    mesh.nodes[1].node.kill();
    let (code, checks) = doctor(&mesh, &peer(&mesh)[0]);
    assert_eq!(checks.as_object().unwrap().len(), 1, "{checks}");
    assert_eq!(code, Some(1));
}
