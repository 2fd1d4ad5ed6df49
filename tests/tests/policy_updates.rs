//! A change of policy: all of it or nothing, at once, and for what is open too.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use waxseal_tests::netns::{End, Netns};
use waxseal_tests::node::Settings;
use waxseal_tests::probe::{Protocol, Request, Target, handle};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, allow_egress, allow_ingress, policy};
use waxseal_tests::tap::Flow;

struct Scene {
    stage: Stage,
    caller: Workload,
    server: Workload,
    end: End,
    _wires: (Netns, Netns),
}

/// A caller, and a server on ports 8080 and 8081 over both protocols.
fn scene(label: &str, settings: Settings<'_>) -> Scene {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    let (stage, [caller, mut server]) =
        Stage::with(label, settings, [("shop/caller", Some(&here)), ("shop/server", Some(&there))]);
    for port in [8080, 8081] {
        for protocol in Protocol::BOTH {
            server.probe.serve(protocol, &format!("[::]:{port}"));
        }
    }
    Scene { stage, caller, server, end, _wires: (here, there) }
}

impl Scene {
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.end.v4.into(), port)
    }

    fn allow(&self, ports: &str) -> String {
        allow_ingress("caller", "shop/server", &self.caller, ports)
    }

    fn assert_open(&mut self, port: u16, case: &str) {
        let to = self.at(port);
        for protocol in Protocol::BOTH {
            assert_eq!(self.caller.probe.talk(protocol, to), None, "{case}: {protocol:?} {to}");
        }
    }

    fn assert_shut(&mut self, port: u16, case: &str) {
        let to = self.at(port);
        self.caller.probe.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], case);
        assert!(self.caller.probe.talk(Protocol::Udp, to).is_some(), "{case}");
    }
}

#[test]
fn an_update_leaves_no_moment_in_which_the_allowed_is_refused_or_the_forbidden_passes() {
    let mut scene = scene("atomic", Settings::default());
    scene.stage.apply(&scene.allow("[ 8080/tcp, 8080/udp ]"));
    let target = |protocol, port| Target { protocol, address: scene.at(port), connected: true };
    let held = [target(Protocol::Tcp, 8080), target(Protocol::Udp, 8080)];
    let forbidden = [target(Protocol::Tcp, 8081)];
    let seen_before = scene.server.probe.serve(Protocol::Udp, "[::]:8082").0;
    let hold =
        handle(&scene.caller.probe.must(&Request::Hold { targets: held.to_vec(), every_milliseconds: 1 }));
    let hammer =
        handle(&scene.caller.probe.must(&Request::Hammer { targets: forbidden.to_vec(), milliseconds: 100 }));
    for round in 0..12 {
        // Every round names another rule, another port set and another way to say the same.
        let text = match round % 3 {
            0 => scene.allow(&format!("[ 8080/tcp, 8080/udp, {}/tcp ]", 9000 + round)),
            1 => policy(
                "other",
                "shop/server",
                "  ingress:\n    - { from: [ { namespace: shop } ], ports: [ 8079-8080/tcp, 8080/udp ] }",
            ),
            _ => policy(
                "third",
                "shop/server",
                "  ingress:\n    - { name: all }\n    - { action: deny, ports: [ 8081/tcp, 8082/udp ] }",
            ),
        };
        scene.stage.apply(&text);
        let to = scene.at(8080);
        for attempt in 0..20 {
            let errno = scene.caller.probe.talk(Protocol::Tcp, to);
            assert_eq!(errno, None, "round {round}, attempt {attempt}");
        }
    }
    let held = scene.caller.probe.must(&Request::Stop { handle: hold });
    assert!(held.count > 500, "{held:?}");
    assert_eq!(held.bad, 0, "what stayed allowed was never cut: {held:?}");
    let hammered = scene.caller.probe.must(&Request::Stop { handle: hammer });
    assert!(hammered.count > 500, "{hammered:?}");
    assert_eq!(hammered.bad, 0, "what stayed forbidden never passed: {hammered:?}");
    assert_eq!(scene.server.probe.seen(seen_before), 0);
}

#[test]
fn a_bad_file_leaves_the_last_good_set_in_force_and_status_says_where_it_is_wrong() {
    let mut scene = scene("bad-file", Settings::default());
    let good_before = scene.allow("[ 8080/tcp, 8080/udp ]");
    scene.stage.apply(&good_before);
    let good = scene.allow("[ 8081/tcp, 8081/udp ]");
    let head =
        "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: x, namespace: shop }\n";
    for (bad, place, word) in [
        (format!("{good}---\n{head}spec:\n  ingres: []\n"), ":16:", "ingres"),
        (format!("{good}---\n{head}spec:\n  ingress: [ {{ action: permit }} ]\n"), ":16:", "permit"),
        (good.replace("v1alpha1", "v9"), ":2:", "v9"),
        (good.replace("IdentityPolicy", "IdentityPolice"), ":3:", "IdentityPolice"),
        (good.replace("8081/tcp", "8081/tpc"), ":10:", "8081/tpc"),
        (good.replace("8081/tcp", "99999/tcp"), ":10:", "99999"),
        (good.replace("spiffe://", "spiff://"), ":9:", "spiff"),
        (format!("{good}{good}"), ":", "caller"),
        (good.replace("selector:", "selector: {}\n  selector:"), ":7:", "selector"),
        ("{ not: [ yaml".to_owned(), ":", ""),
    ] {
        let revision = scene.stage.node.revision();
        let said = scene.stage.node.apply_bad("policy.yaml", &bad);
        assert!(said.contains(&format!("policy.yaml{place}")), "{said}\nshould name {place} in\n{bad}");
        assert!(said.contains(word), "{said}\nshould name {word}");
        assert_eq!(scene.stage.node.revision(), revision, "{bad}");
        scene.assert_open(8080, "the old set is in force");
        scene.assert_shut(8081, "nothing of the new set is in force");
        // Back to the good file, so that the next refusal is its own.
        scene.stage.node.write("policy.yaml", &good_before);
        root::wait("the good file is taken", Duration::from_secs(5), || {
            scene.stage.node.policy_error().is_none().then_some(())
        });
    }
}

#[test]
fn a_revoked_rule_cuts_what_is_open_within_a_second() {
    let mut scene = scene("revoke", Settings::default());
    scene.stage.apply(&scene.allow("[ 8080-8081/tcp, 8080-8081/udp ]"));
    let open = |scene: &mut Scene, protocol, port| {
        let to = scene.at(port);
        let reply = scene.caller.probe.connect(protocol, to);
        let handle = handle(&reply);
        scene.caller.probe.must(&Request::Ping { handle, milliseconds: 1000 });
        handle
    };
    let revoked = Protocol::BOTH.map(|protocol| open(&mut scene, protocol, 8080));
    let kept = Protocol::BOTH.map(|protocol| open(&mut scene, protocol, 8081));
    let tap = scene.stage.node.tap();
    scene.stage.apply(&scene.allow("[ 8081/tcp, 8081/udp ]"));
    for (protocol, socket) in Protocol::BOTH.into_iter().zip(revoked) {
        let pong = scene.caller.probe.ask(&Request::Ping { handle: socket, milliseconds: 500 });
        assert!(pong.errno.is_some(), "{protocol:?}: a revoked flow goes on");
    }
    for (protocol, socket) in Protocol::BOTH.into_iter().zip(kept) {
        let pong = scene.caller.probe.ask(&Request::Ping { handle: socket, milliseconds: 1000 });
        assert_eq!(pong.errno, None, "{protocol:?}: what is still allowed goes on");
    }
    tap.expect("the cut is told", Duration::from_secs(2), |flow| {
        flow.is("deny") && flow.text("port") == "8080" && flow.text("destination.name") == "shop/server"
    });
}

#[test]
fn a_revoked_rule_cuts_a_connection_that_says_nothing_too() {
    let mut scene = scene("revoke-idle", Settings::default());
    scene.stage.apply(&scene.allow("[ 8080/tcp ]"));
    let to = scene.at(8080);
    let idle = handle(&scene.caller.probe.connect(Protocol::Tcp, to));
    scene.caller.probe.must(&Request::Ping { handle: idle, milliseconds: 1000 });
    scene.stage.apply(&scene.allow("[ 8081/tcp ]"));
    let start = Instant::now();
    let end = scene.caller.probe.ask(&Request::Receive { handle: idle, milliseconds: 2000 });
    assert_ne!(end.errno.as_deref(), Some("TIMEOUT"), "an idle connection was not cut: {end:?}");
    assert!(start.elapsed() < Duration::from_secs(1), "cut after {:?}", start.elapsed());
}

#[test]
fn a_revoked_egress_rule_cuts_what_is_open_too() {
    let mut scene = scene("revoke-out", Settings::default());
    scene.stage.apply(&allow_egress("out", "shop/caller", &scene.server, "[ 8080/tcp, 8080/udp ]"));
    let to = scene.at(8080);
    let [stream, datagram] = Protocol::BOTH.map(|protocol| handle(&scene.caller.probe.connect(protocol, to)));
    for socket in [stream, datagram] {
        scene.caller.probe.must(&Request::Ping { handle: socket, milliseconds: 1000 });
    }
    scene.stage.apply(&policy("out", "shop/caller", "  egress: []"));
    let cut = scene.caller.probe.ask(&Request::Receive { handle: stream, milliseconds: 1000 });
    assert_ne!(cut.errno.as_deref(), Some("TIMEOUT"), "the stream was not cut");
    let sent = scene.caller.probe.ask(&Request::Send { handle: datagram, data: b"x".to_vec() });
    assert_eq!(sent.errno.as_deref(), Some("EPERM"));
}

#[test]
fn a_set_that_does_not_fit_is_refused_whole_before_anything_is_written() {
    let mut scene = scene("capacity", Settings::default());
    scene.stage.apply(&scene.allow("[ 8080/tcp, 8080/udp ]"));
    let revision = scene.stage.node.revision();
    let maps = scene.stage.node.status()["maps"].clone();
    let capacity = |name: &str| {
        let found = maps.as_array().and_then(|maps| maps.iter().find(|map| map["name"] == name));
        found.and_then(|map| map["capacity"].as_u64()).unwrap_or_else(|| panic!("no map {name} in {maps}"))
    };
    // More address prefixes than there is room for, in files of less than a mebibyte each.
    let room = u32::try_from(capacity("addresses")).unwrap_or(u32::MAX);
    let wanted = room + 100;
    let mut files = 0u32;
    for first in (0..wanted).step_by(20_000) {
        let mut text = policy(&format!("big-{files}"), "shop/server", "  ingress:\n    - from:");
        for number in first..(first + 20_000).min(wanted) {
            let [_, a, b, c] = number.to_be_bytes();
            let _ = writeln!(text, "      - {{ cidr: 172.{}.{b}.{c}/32 }}", 16 + a % 16);
        }
        assert!(a_mebibyte(&text));
        scene.stage.node.write(&format!("big-{files}.yaml"), &text);
        files += 1;
    }
    let said = root::wait("the refusal is shown", Duration::from_mins(1), || scene.stage.node.policy_error());
    assert!(said.contains(&room.to_string()), "the refusal names the room there is: {said}");
    assert_eq!(scene.stage.node.revision(), revision);
    scene.assert_open(8080, "the old set is in force");
    scene.assert_shut(8081, "the old set is in force");
    for file in 0..files {
        fs::remove_file(scene.stage.node.path("policies").join(format!("big-{file}.yaml"))).unwrap();
    }
    root::wait("the agent recovers", Duration::from_secs(20), || {
        scene.stage.node.policy_error().is_none().then_some(())
    });
    scene.stage.apply(&scene.allow("[ 8081/tcp, 8081/udp ]"));
    scene.assert_open(8081, "the next good set");
}

fn a_mebibyte(text: &str) -> bool {
    text.len() < 1 << 20
}

#[test]
fn the_nearest_mode_decides_what_a_denial_does() {
    // Node, namespace, policy, workload: each covers the one before.
    let namespace = |mode: &str| {
        format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: {{ name: shop }}\nspec: {{ mode: {mode} }}\n"
        )
    };
    let mut scene = scene("modes", Settings { mode: "permissive", ..Settings::default() });
    let closed = policy("closed", "shop/server", "  ingress: []");
    let enforced = policy("closed", "shop/server", "  mode: enforce\n  ingress: []");
    let documents = scene.stage.documents().to_owned();
    let audited_workload = documents.replace("-server\" }", "-server\" }, mode: audit");
    assert_ne!(audited_workload, documents);
    let tap = scene.stage.node.tap();
    for (text, workloads, verdict) in [
        (closed.clone(), &documents, "would-deny"),
        (format!("{closed}{}", namespace("audit")), &documents, "audit"),
        (format!("{closed}{}", namespace("enforce")), &documents, "deny"),
        (format!("{enforced}{}", namespace("audit")), &documents, "deny"),
        (enforced.clone(), &documents, "deny"),
        (enforced, &audited_workload, "audit"),
    ] {
        // Both files at once would be two updates; the workloads first, and only when they change.
        if fs::read_to_string(scene.stage.node.path("policies").join("workloads.yaml")).unwrap() != *workloads
        {
            scene.stage.node.apply("workloads.yaml", workloads);
        }
        scene.stage.apply(&format!("# {verdict}\n{text}"));
        let reply = scene.caller.probe.connect(Protocol::Tcp, scene.at(8080));
        if let Some(handle) = reply.handle {
            assert_ne!(verdict, "deny", "{text}");
            // Or the next mode would end it, and say so.
            scene.caller.probe.must(&Request::Close { handle });
        } else {
            assert_eq!(verdict, "deny", "{text}");
            reply.assert_refused(&["ECONNREFUSED"], &text);
        }
        let revision = scene.stage.node.revision().to_string();
        let about =
            |flow: &Flow| flow.text("revision") == revision && flow.text("port") == "8080" && !flow.closes();
        let flow = tap.expect(verdict, Duration::from_secs(2), about);
        assert!(flow.is(verdict), "{verdict}: {flow:?}");
    }
}

#[test]
fn a_policy_in_audit_is_judged_beside_the_others_and_changes_nothing() {
    let mut scene = scene("shadow", Settings::default());
    let caller = scene.caller.spiffe_id();
    let rules = format!(
        "  mode: audit\n  ingress:\n    - {{ from: [ {{ identity: \"{caller}\" }} ], ports: [ 8080/tcp, 8080/udp ] }}"
    );
    scene.stage.apply(&policy("trial", "shop/server", &rules));
    let tap = scene.stage.node.tap();
    scene.assert_open(8080, "the trial would allow it");
    scene.assert_open(8081, "the trial would not, and decides nothing");
    let at = |port: &'static str| move |flow: &Flow| flow.text("port") == port && !flow.closes();
    let second = Duration::from_secs(1);
    let flow = tap.expect("a verdict for 8080", second, at("8080"));
    assert!(flow.is("allow"), "{flow:?}");
    let flow = tap.expect("a verdict for 8081", second, at("8081"));
    assert!(flow.is("audit"), "{flow:?}");
    assert_eq!(flow.text("reason"), "audit-policy", "{flow:?}");
    assert_eq!(flow.text("rule.policy"), "shop/trial", "{flow:?}");
}

#[test]
fn the_emergency_switch_lets_everything_pass_and_says_so() {
    let mut scene = scene("switch", Settings::default());
    scene.stage.apply(&policy("closed", "shop/server", "  ingress: []"));
    scene.assert_shut(8080, "enforced");
    let output = scene.stage.node.output(&["mode", "audit", "--all"]);
    assert!(output.status.success(), "{output:?}");
    scene.assert_open(8080, "the switch");
    let status = scene.stage.node.status();
    assert_eq!(status["mode"]["ceiling"], "audit", "{status}");
    // The switch outlives the agent that was told: an emergency is no time for surprises.
    scene.stage.node.kill();
    scene.stage.node.start();
    scene.assert_open(8080, "after a restart");
    let output = scene.stage.node.output(&["mode", "reset"]);
    assert!(output.status.success(), "{output:?}");
    scene.assert_shut(8080, "the switch is back");
}

#[test]
fn a_namespace_that_denies_by_default_needs_no_policy() {
    let mut scene = scene("default-deny", Settings::default());
    scene.stage.apply("apiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: { name: shop }\nspec: { defaultDeny: true }\n");
    let reply = scene.caller.probe.connect(Protocol::Tcp, scene.at(8080));
    assert!(reply.errno.is_some(), "{reply:?}");
    scene.stage.apply(&format!(
        "apiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: {{ name: shop }}\nspec: {{ defaultDeny: true }}\n{}{}",
        scene.allow("[ 8080/tcp, 8080/udp ]"),
        allow_egress("out", "shop/caller", &scene.server, "[ 8080/tcp, 8080/udp ]")
    ));
    scene.assert_open(8080, "both ends agree");
}

#[test]
fn silence_instead_of_a_refusal_where_the_namespace_asks_for_it() {
    let mut scene = scene("silent", Settings::default());
    scene.stage.apply(&format!(
        "apiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: {{ name: shop }}\nspec: {{ refuse: drop }}\n{}",
        policy("closed", "shop/server", "  ingress: []")
    ));
    let request = Request::Connect {
        protocol: Protocol::Tcp,
        door: waxseal_tests::probe::Door::Connect,
        from: None,
        address: scene.at(8080),
        v6_socket: false,
        milliseconds: 400,
    };
    assert_eq!(scene.caller.probe.ask(&request).errno.as_deref(), Some("TIMEOUT"));
}
