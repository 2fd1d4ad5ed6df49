use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[derive(Default)]
struct Given<'a> {
    file: Option<&'a str>,
    environment: &'a [(&'a str, &'a str)],
    set: &'a [&'a str],
    flags: &'a [(&'static str, &'a str)],
}

/// Resolves with a file of this text; never with the one of this machine.
fn resolved(given: &Given<'_>) -> Result<Resolved, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.yaml");
    fs::write(&path, given.file.unwrap_or_default()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let environment = |name: &str| {
        given.environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    let set: Vec<String> = given.set.iter().map(|text| (*text).to_owned()).collect();
    let flags: Vec<_> = given.flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    let inputs = Inputs { file: Some(&path), environment: &environment, set: &set, flags: &flags };
    resolve(&inputs).map_err(|error| error.to_string().replace(&path.display().to_string(), "FILE"))
}

#[test]
fn without_a_word_from_anybody_the_defaults_hold() {
    let Resolved { config, entries } = resolved(&Given::default()).unwrap();
    let host = |entry: &Entry| if entry.key == "node" { "HOST".to_owned() } else { entry.value.clone() };
    let shown: Vec<String> = entries.iter().map(|entry| format!("{}={}", entry.key, host(entry))).collect();
    expect_test::expect![[r"
        instance=default
        cgroup_root=(the cgroup2 mount)
        policies=/etc/waxseal/policies
        state=/var/lib/waxseal/default
        runtime=/run/waxseal/default
        bpffs=/sys/fs/bpf
        trust_domain=cluster.local
        node=HOST
        ca=own
        join_token=(none)
        leaf_lifetime=3600s
        session_lifetime=3600s
        listen=off
        mode=audit
        grace=10s
        udp_idle=120s
        managed=
        mesh=10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,169.254.0.0/16,127.0.0.0/8,fc00::/7,fe80::/10,::1/128
        uplinks=
        connections=262144
        flow_ring=1048576
        denial_ring=524288
        history=268435456
        history_age=168h
        metrics=127.0.0.1:7462
        metrics_pairs=0
        tap_from_nodes=
        log=info
    "]]
    .assert_eq(&(shown.join("\n") + "\n"));
    assert!(entries.iter().all(|entry| entry.source == Source::Default));
    assert_eq!(config.socket(), Path::new("/run/waxseal/default/agent.sock"));
    assert_eq!(config.pins(), Path::new("/sys/fs/bpf/waxseal/default/v2"));
}

#[test]
fn an_instance_has_its_own_directories_unless_they_are_given() {
    let given = Given { set: &["instance=blue", "state=/srv/state"], ..Given::default() };
    let config = resolved(&given).unwrap().config;
    assert_eq!(config.state, Path::new("/srv/state"));
    assert_eq!(config.socket(), Path::new("/run/waxseal/blue/agent.sock"));
    assert_eq!(config.pins(), Path::new("/sys/fs/bpf/waxseal/blue/v2"));
}

#[test]
fn the_ca_is_a_word_a_server_or_a_directory() {
    for (value, ca, listens) in [
        ("own", Ca::Own, false),
        ("10.0.0.1", Ca::Server("10.0.0.1:7463".into()), true),
        ("fd00::1", Ca::Server("[fd00::1]:7463".into()), true),
        ("[fd00::1]:99", Ca::Server("[fd00::1]:99".into()), true),
        ("ca.example.org", Ca::Server("ca.example.org:7463".into()), true),
        ("ca:7463", Ca::Server("ca:7463".into()), true),
        ("/etc/pki", Ca::Files("/etc/pki".into()), true),
    ] {
        let given = format!("ca={value}");
        let config = resolved(&Given { set: &[&given], ..Given::default() }).unwrap().config;
        assert_eq!((&config.ca, config.listen.is_some()), (&ca, listens), "{value}");
    }
    let given = Given { set: &["ca=10.0.0.1", "listen=off", "node=n.1"], ..Given::default() };
    let config = resolved(&given).unwrap().config;
    assert_eq!((config.listen, config.node.as_str()), (None, "n.1"));
}

#[test]
fn each_layer_covers_the_one_below() {
    let file = "# comment\nmode: permissive\ngrace: 1s\nlog: warn\nmesh: [10.0.0.0/8, fc00::/7]\nconnections: 4096\n";
    let given = Given {
        file: Some(file),
        environment: &[("WAXSEAL_GRACE", "2s"), ("WAXSEAL_LOG", "debug"), ("WAXSEAL_OTHER", "x")],
        set: &["log=trace", "mode=audit"],
        flags: &[("mode", "enforce")],
    };
    let Resolved { config, entries } = resolved(&given).unwrap();
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.grace, Duration::from_secs(2));
    assert_eq!(config.log, "trace");
    assert_eq!(config.connections, 4096);
    assert_eq!(config.mesh.len(), 2);
    let source = |key: &str| entries.iter().find(|entry| entry.key == key).unwrap().source.to_string();
    assert_eq!(source("mode"), "--mode");
    assert_eq!(source("grace"), "WAXSEAL_GRACE");
    assert_eq!(source("log"), "--set");
    assert!(source("connections").ends_with("agent.yaml:6:14"), "{}", source("connections"));
}

#[test]
fn every_slip_is_refused_with_its_place_and_a_way_out() {
    for (given, message) in [
        (
            Given { file: Some("mode: strict\n"), ..Given::default() },
            "FILE:1:7: mode: `strict` is no mode; use permissive, audit or enforce",
        ),
        (
            Given { file: Some("log: info\ntrustDomain: a\n"), ..Given::default() },
            "FILE:2:14: unknown key `trustDomain` (did you mean `trust_domain`?); the keys are",
        ),
        (Given { set: &["mode"], ..Given::default() }, "--set mode: write it as key=value"),
        (Given { set: &["x\x1b=1"], ..Given::default() }, r"--set: unknown key `x\x1b`"),
        (
            Given { set: &["instance=../x"], ..Given::default() },
            "--set: instance: `../x` is no instance name",
        ),
        (Given { set: &["instance="], ..Given::default() }, "--set: instance: `` is no instance name"),
        (Given { set: &["grace=10"], ..Given::default() }, "--set: grace: `10` is no duration"),
        (Given { set: &["grace=2h"], ..Given::default() }, "--set: grace: 7200s is more than 3600s"),
        (Given { set: &["flow_ring=5000"], ..Given::default() }, "--set: flow_ring: `5000` is no ring size"),
        (
            Given { set: &["connections=0"], ..Given::default() },
            "--set: connections: `0` is no number from 16 to",
        ),
        (Given { set: &["ca=onw"], ..Given::default() }, "--set: ca: `onw` is no CA"),
        (Given { set: &["ca=ca.local:0"], ..Given::default() }, "--set: ca: `ca.local:0` is no CA"),
        (Given { set: &["ca=a b:1"], ..Given::default() }, "--set: ca: `a b:1` is no CA"),
        (Given { set: &["node=a/b"], ..Given::default() }, "--set: node: `a/b` is no name for a node"),
        (Given { set: &["node=.."], ..Given::default() }, "--set: node: `..` is no name for a node"),
        (Given { set: &["listen=7461"], ..Given::default() }, "--set: listen: `7461` is no address"),
        (
            Given { set: &["leaf_lifetime=1s"], ..Given::default() },
            "--set: leaf_lifetime: 1s is less than 60s",
        ),
        (
            Given { set: &["leaf_lifetime=8d"], ..Given::default() },
            "--set: leaf_lifetime: 691200s is more than",
        ),
        (Given { set: &["managed=/"], ..Given::default() }, "--set: managed: `/` is no cgroup directory"),
        (
            Given { set: &["managed=/a/../b"], ..Given::default() },
            "--set: managed: `/a/../b` is no cgroup directory",
        ),
        (
            Given { set: &["mesh=10.0.0.1/8"], ..Given::default() },
            "--set: mesh: 10.0.0.1/8 has bits set past",
        ),
        (
            Given { file: Some("mode: [audit]\n"), ..Given::default() },
            "FILE:1:7: mode: takes one value, not a list",
        ),
        (
            Given { environment: &[("WAXSEAL_POLICIES", "")], ..Given::default() },
            "WAXSEAL_POLICIES: policies: is empty",
        ),
    ] {
        let error = resolved(&given).unwrap_err();
        assert!(error.starts_with(message), "{error}\n  should start with\n{message}");
    }
}

#[test]
fn a_file_with_two_equal_keys_or_no_map_is_refused_with_its_line() {
    for (file, place) in
        [("mode: audit\nmode: enforce\n", "FILE:2:"), ("- mode\n", "FILE:1:"), ("mode: {a: b}\n", "FILE:1:")]
    {
        let error = resolved(&Given { file: Some(file), ..Given::default() }).unwrap_err();
        assert!(error.starts_with(place), "{error}");
    }
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.yaml");
    fs::write(&path, "mode: permissive\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    let inputs = Inputs { file: Some(&path), environment: &|_| None, set: &[], flags: &[] };
    assert!(matches!(resolve(&inputs), Err(Error::File(FileError::Writable { mode: 0o646, .. }))));
    let inputs = Inputs { file: Some(directory.path()), ..inputs };
    assert!(matches!(resolve(&inputs), Err(Error::File(FileError::NotRegular { .. }))));
    let missing = directory.path().join("missing.yaml");
    let inputs = Inputs { file: Some(&missing), ..inputs };
    assert!(matches!(resolve(&inputs), Err(Error::File(FileError::Read { .. }))));
}

#[test]
fn a_socket_path_that_the_kernel_would_cut_is_refused() {
    let long = format!("runtime=/{}", "a".repeat(120));
    let error = resolved(&Given { set: &[&long], ..Given::default() }).unwrap_err();
    assert!(error.contains("the path of the socket in it would be 132 bytes long"), "{error}");
}
