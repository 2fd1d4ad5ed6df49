//! What people and attackers feed the agent: each a clear message and a stable exit code, and nothing lost.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use waxseal_tests::node::Settings;
use waxseal_tests::probe::{Protocol, parse};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, assert_guarded, closed, document, hermit, policy};

const SOON: Duration = Duration::from_secs(5);

/// The set is refused, the message names the file and holds a word, and the old set stays.
fn assert_refused(stage: &Stage, workload: &mut Workload, name: &str, word: &str) {
    let start = Instant::now();
    let said = root::wait(&format!("{name} is refused"), Duration::from_secs(20), || {
        stage.node.policy_error().filter(|said| said.contains(name))
    });
    assert!(said.contains(word), "{name}: {said}\nshould hold `{word}`");
    assert!(said.len() < 16 * 1024, "{name}: a message of {} bytes", said.len());
    assert!(start.elapsed() < SOON, "{name}: refused only after {:?}", start.elapsed());
    assert_guarded(workload, name);
    let status = stage.node.status();
    assert!(status["policy"]["names"].to_string().contains("shop/closed"), "{status}");
}

fn recover(stage: &Stage, name: &str) {
    let path = stage.node.path("policies").join(name);
    let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
    removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    root::wait("the agent is content again", SOON, || stage.node.policy_error().is_none().then_some(()));
}

#[test]
fn hostile_yaml_is_refused_quickly_with_its_place_and_the_last_good_set_stays() {
    let (stage, mut workload) = hermit("yaml");
    let head =
        "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: x, namespace: shop }\n";
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = level - 1;
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", vec![format!("*a{below}"); 10].join(", "));
    }
    let deep = format!("{head}spec: {}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    let deep_maps = format!("{head}spec: {}x{}\n", "{a: ".repeat(10_000), "}".repeat(10_000));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("bomb.yaml", bomb.into_bytes(), ""),
        ("deep.yaml", deep.into_bytes(), ""),
        ("deep-maps.yaml", deep_maps.into_bytes(), ""),
        (
            "merge.yaml",
            format!("{head}spec:\n  <<: {{ mode: permissive }}\n  ingress: []\n").into_bytes(),
            "",
        ),
        ("twice.yaml", format!("{head}spec: {{ ingress: [], ingress: [ {{}} ] }}\n").into_bytes(), "ingress"),
        ("zero.yaml", format!("{head}spec: {{ mode: \"a\0b\" }}\n").into_bytes(), ""),
        ("latin.yaml", [head.as_bytes(), b"spec: { mode: \xff\xfe }\n"].concat(), ""),
        (
            "half.yaml",
            format!("{head}spec:\n  ingress:\n    - from: [ {{ identity: \"spiffe://clu").into_bytes(),
            "",
        ),
        ("empty-key.yaml", format!("{head}spec:\n  ingress:\n    - from:\n").into_bytes(), ""),
        ("bool.yaml", format!("{head}spec: {{ ingress: [ {{ action: no }} ] }}\n").into_bytes(), ""),
        (
            "octal.yaml",
            format!("{head}spec: {{ ingress: [ {{ ports: [ 0o17/tcp ] }} ] }}\n").into_bytes(),
            "0o17",
        ),
        (
            "zeros.yaml",
            format!("{head}spec: {{ ingress: [ {{ ports: [ 0080/tcp ] }} ] }}\n").into_bytes(),
            "0080",
        ),
        ("no-spec.yaml", head.as_bytes().to_vec(), "spec"),
        ("list.yaml", b"- a\n- b\n".to_vec(), ""),
        ("escape.yaml", format!("{head}spec: {{ \"mo\\x1b[31mde\": x }}\n").into_bytes(), ""),
        ("ports.yaml", many_ports(head).into_bytes(), ""),
    ];
    for (name, bytes, word) in cases {
        let path = stage.node.path("policies").join(name);
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_refused(&stage, &mut workload, name, word);
        let said = stage.node.policy_error().unwrap_or_default();
        assert!(!said.contains('\u{1b}'), "{name}: a message with an escape character");
        recover(&stage, name);
    }
}

/// More distinct port ranges than one row holds.
fn many_ports(head: &str) -> String {
    let ports: Vec<String> = (0..200).map(|number| format!("{}/tcp", 1000 + 2 * number)).collect();
    format!("{head}spec:\n  ingress:\n    - ports: [ {} ]\n", ports.join(", "))
}

#[test]
fn a_byte_order_mark_is_no_reason_to_misread_a_file() {
    let (stage, mut workload) = hermit("bom");
    let text =
        format!("\u{feff}{}", policy("marked", "shop/hermit", "  ingress: []").trim_start_matches("---\n"));
    stage.node.write("marked.yaml", &text);
    root::wait("read or refused, never half", SOON, || {
        let status = stage.node.status();
        let taken = status["policy"]["names"].to_string().contains("shop/marked");
        (taken || stage.node.policy_error().is_some()).then_some(())
    });
    assert_guarded(&mut workload, "with a byte order mark");
}

#[test]
fn files_that_are_no_honest_files_are_refused_unread() {
    let (stage, mut workload) = hermit("files");
    let policies = stage.node.path("policies");
    let outside = stage.node.path("outside.yaml");
    fs::write(&outside, closed()).unwrap();

    symlink(&outside, policies.join("link.yaml")).unwrap();
    assert_refused(&stage, &mut workload, "link.yaml", "");
    recover(&stage, "link.yaml");

    symlink("/dev/zero", policies.join("device.yaml")).unwrap();
    assert_refused(&stage, &mut workload, "device.yaml", "");
    recover(&stage, "device.yaml");

    root::run("mkfifo", &[&policies.join("pipe.yaml").display().to_string()]);
    assert_refused(&stage, &mut workload, "pipe.yaml", "");
    recover(&stage, "pipe.yaml");

    fs::create_dir(policies.join("directory.yaml")).unwrap();
    assert_refused(&stage, &mut workload, "directory.yaml", "");
    recover(&stage, "directory.yaml");

    let path = policies.join("writable.yaml");
    fs::write(&path, policy("w", "shop/hermit", "  ingress: []")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert_refused(&stage, &mut workload, "writable.yaml", "");
    recover(&stage, "writable.yaml");

    fs::write(&path, policy("w", "shop/hermit", "  ingress: []")).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
    assert_refused(&stage, &mut workload, "writable.yaml", "");
    recover(&stage, "writable.yaml");

    // A hundred mebibytes, most of them a hole.
    let file = File::create(policies.join("huge.yaml")).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.set_len(100 << 20).unwrap();
    assert_refused(&stage, &mut workload, "huge.yaml", "");
    recover(&stage, "huge.yaml");
}

#[test]
fn other_files_in_the_directory_are_nobody_s_business() {
    let (stage, mut workload) = hermit("other-files");
    for name in ["README.md", "policy.yaml~", ".policy.yaml.swp", "policy.yaml.bak"] {
        fs::write(stage.node.path("policies").join(name), "{ not yaml").unwrap();
    }
    stage.apply(&format!("{}{}", closed(), policy("more", "shop/hermit", "  ingress: []")));
    assert_guarded(&mut workload, "with other files beside");
}

#[test]
fn the_directory_may_vanish_and_return() {
    let (stage, mut workload) = hermit("vanish");
    let policies = stage.node.path("policies");
    let away = stage.node.path("away");
    fs::rename(&policies, &away).unwrap();
    root::wait("the agent misses it", SOON, || stage.node.policy_error());
    assert_guarded(&mut workload, "without the directory");
    fs::rename(&away, &policies).unwrap();
    root::wait("the agent has it back", SOON, || stage.node.policy_error().is_none().then_some(()));
    stage.apply(&policy("closed", "shop/hermit", "  egress:\n    - name: all"));
    let errno = workload.probe.connect(Protocol::Udp, parse("127.0.0.1:9")).errno;
    assert_eq!(errno, None, "the new set counts");
}

#[test]
fn a_cgroup_that_vanishes_at_once_does_no_harm() {
    let (stage, mut workload) = hermit("flicker");
    for number in 0..300 {
        let path = stage.cgroup.path().join(format!("workloads/flicker-{number}"));
        fs::create_dir(&path).unwrap();
        if number % 3 == 0 {
            fs::create_dir(path.join("child")).unwrap();
            fs::remove_dir(path.join("child")).unwrap();
        }
        fs::remove_dir(&path).unwrap();
    }
    root::wait("nothing is left of them", SOON, || {
        let status = stage.node.status();
        (status["unsettled"].as_array()?.is_empty() && status["endpoints"] == 1).then_some(())
    });
    assert_guarded(&mut workload, "after the flicker");
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let mut stage = Stage::idle("full", Settings::default());
    let mut workload = stage.workload("shop/hermit", None);
    let state = stage.node.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    root::run("mount", &["-t", "tmpfs", "-o", "size=64k,mode=0700", "none", &state.display().to_string()]);
    let _mounted = Mounted(state.clone());
    stage.node.write("workloads.yaml", stage.documents());
    stage.node.write("policy.yaml", &closed());
    stage.node.start();
    let known = stage.node.await_endpoint(&workload.cgroup.name());
    let before = fs::read(state.join("identities.json")).unwrap();
    fill(&state.join("filler"));
    // A new workload needs a new number, which cannot be remembered: it gets none.
    let second = stage.cgroup.child("workloads/second");
    let both = format!("{}{}", stage.documents(), document("shop/second", &second.name()));
    stage.node.write("workloads.yaml", &both);
    root::wait("the full disk is told", SOON, || {
        let status = stage.node.status().to_string();
        (status.contains("No space left") || stage.node.log().contains("No space left")).then_some(())
    });
    assert_eq!(fs::read(state.join("identities.json")).unwrap(), before, "the old file is whole");
    assert_guarded(&mut workload, "with a full disk");
    fs::remove_file(state.join("filler")).unwrap();
    stage.node.kill();
    stage.node.start();
    assert_eq!(stage.node.await_endpoint(&workload.cgroup.name())["identity"], known["identity"]);
    stage.node.await_endpoint(&second.name());
    stage.node.kill();
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the agent of a failed test may still be inside.
        let _ = root::output("umount", &["-l", &self.0.display().to_string()]);
    }
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap_or_else(|error| panic!("{error}"));
    while file.write_all(&[0; 512]).is_ok() {}
}

#[test]
fn a_broken_register_of_identities_is_named_and_never_renumbered() {
    let (mut stage, [workload]) = Stage::new("register", [("shop/hermit", None)]);
    stage.node.stop();
    let register = stage.node.path("state").join("identities.json");
    let good = fs::read(&register).unwrap();
    fs::write(&register, &good[..good.len() / 2]).unwrap();
    let output = stage.node.output(&["agent"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("identities.json"), "{said}");
    assert_eq!(
        fs::read(&register).unwrap(),
        &good[..good.len() / 2],
        "left as it was, for a person to look at"
    );
    fs::write(&register, &good).unwrap();
    stage.node.start();
    stage.node.await_endpoint(&workload.cgroup.name());
}

#[test]
fn a_stale_socket_is_replaced_and_a_busy_one_is_respected() {
    let mut stage = Stage::idle("busy", Settings::default());
    let workload = stage.workload("shop/hermit", None);
    stage.node.write("workloads.yaml", stage.documents());
    let runtime = stage.node.path("runtime");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    // Left over from a process that is gone.
    drop(UnixListener::bind(runtime.join("agent.sock")).unwrap());
    stage.node.start();
    stage.node.await_endpoint(&workload.cgroup.name());
    let output = stage.node.output(&["agent"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    stage.node.status();
}

#[test]
fn wrong_words_on_the_command_line_are_exit_code_2_and_a_missing_agent_is_4() {
    let stage = Stage::idle("usage", Settings::default());
    for arguments in [
        &["statos"][..],
        &["status", "--no-such-flag"],
        &["mode", "strict", "--all"],
        &["tap", "--port", "x"],
    ] {
        let output = stage.node.output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    for arguments in [&["status"][..], &["tap"], &["endpoint", "list"], &["identity", "list"], &["mode"]] {
        let output = stage.node.output(arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    let bad = stage.node.path("bad.yaml");
    fs::write(&bad, "trustDomain: x\n").unwrap();
    let output = std::process::Command::new(root::program("waxseal"))
        .args(["agent", "--config"])
        .arg(&bad)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.yaml:1:"), "{output:?}");
}

#[test]
fn policy_check_says_the_same_offline_with_stable_exit_codes() {
    let directory = tempfile::tempdir().unwrap();
    let check = |text: &str, more: &[&str]| {
        let path = directory.path().join("p.yaml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = std::process::Command::new(root::program("waxseal"));
        command.args(["policy", "check"]).args(more).arg(&path).output().unwrap()
    };
    let good = format!("{}{}", document("shop/hermit", "/shop/hermit"), closed());
    let output = check(&good, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let nobody = format!(
        "{}{}",
        document("shop/hermit", "/shop/hermit"),
        policy("closed", "shop/nobody", "  egress: []")
    );
    assert_eq!(check(&nobody, &[]).status.code(), Some(0), "a warning alone");
    assert_eq!(check(&nobody, &["--strict"]).status.code(), Some(1), "a warning counts");
    let output = check(&good.replace("egress", "egres"), &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("p.yaml:12:"), "{said}");
}
