//! What other people on the same machine can reach: the socket, the files, the terminal of whoever looks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use waxseal_tests::netns::Netns;
use waxseal_tests::node::Settings;
use waxseal_tests::probe::{Protocol, Request, parse};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, assert_guarded, closed, hermit};

const SOON: Duration = Duration::from_secs(5);

/// Runs a command of `waxseal` as an ordinary user.
fn as_nobody(stage: &Stage, arguments: &[&str]) -> Output {
    // A directory that the user can enter, with a copy of the program and of the configuration.
    let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let open = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("{error}"));
    };
    open(directory.path(), 0o755);
    let program = directory.path().join("waxseal");
    let config = directory.path().join("agent.yaml");
    for (from, to, mode) in
        [(root::program("waxseal"), &program, 0o755), (stage.node.path("agent.yaml"), &config, 0o644)]
    {
        fs::copy(from, to).unwrap_or_else(|error| panic!("{error}"));
        open(to, mode);
    }
    std::process::Command::new(&program)
        .args(arguments)
        .arg("--config")
        .arg(&config)
        .uid(1000)
        .gid(1000)
        .output()
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn an_ordinary_user_is_told_so_with_exit_code_3() {
    let mut stage = Stage::idle("nobody", Settings::default());
    stage.workload("shop/hermit", None);
    for arguments in [&["agent"][..], &["uninstall"]] {
        let output = as_nobody(&stage, arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("root"), "{arguments:?}: {said}");
    }
}

#[test]
fn the_socket_is_for_root_alone() {
    let (stage, mut workload) = hermit("socket");
    let socket = stage.node.path("runtime").join("agent.sock");
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(stage.node.path("runtime")).unwrap().mode() & 0o777, 0o700);
    for arguments in [&["status"][..], &["tap"], &["mode", "permissive", "--all"], &["endpoint", "list"]] {
        let output = as_nobody(&stage, arguments);
        assert!(matches!(output.status.code(), Some(3 | 4)), "{arguments:?}: {output:?}");
    }
    // Even where the file system would let them, the agent asks the kernel who is there.
    for path in [stage.node.path("runtime"), stage.node.path("runtime").join("..")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    for arguments in [&["status"][..], &["mode", "permissive", "--all"]] {
        let output = as_nobody(&stage, arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {output:?}");
    }
    assert_guarded(&mut workload, "nobody has changed the mode");
}

#[test]
fn no_abstract_socket_is_opened() {
    let (stage, _workload) = hermit("abstract");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", stage.node.pid())).unwrap();
    let inodes: Vec<String> = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    assert!(!inodes.is_empty(), "the agent has a socket");
    for line in fs::read_to_string("/proc/net/unix").unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(6).is_some_and(|inode| inodes.iter().any(|own| own == inode)) {
            assert!(!fields.get(7).is_some_and(|path| path.starts_with('@')), "{line}");
        }
    }
}

#[test]
fn everything_the_agent_writes_is_for_root_alone() {
    let (stage, _workload) = hermit("modes");
    let mut looked_at = 0;
    let mut directories = vec![stage.node.path("state"), stage.node.path("runtime"), stage.node.pins()];
    while let Some(directory) = directories.pop() {
        let mode = fs::metadata(&directory).unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", directory.display());
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let metadata = entry.metadata().unwrap();
            let mode = metadata.mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
            looked_at += 1;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    assert!(looked_at > 10, "{looked_at} files");
    let limits = fs::read_to_string(format!("/proc/{}/limits", stage.node.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    assert!(core.contains(" 0 "), "no core dumps: {core}");
}

#[test]
fn a_hostile_process_name_cannot_speak_to_the_terminal() {
    let here = Netns::new("here");
    let (stage, [mut workload]) = Stage::new("comm", [("shop/hermit", Some(&here))]);
    stage.apply(&closed());
    let tap = stage.node.tap();
    let names = ["a\u{1b}[31mred", "x\ny\tz", "\u{202e}olleh", "\u{1b}]0;title\u{7}", "a\"b\\c{}"];
    for (index, name) in names.iter().enumerate() {
        workload.probe.must(&Request::Rename { name: (*name).to_owned() });
        let port = 7000 + u16::try_from(index).unwrap();
        workload
            .probe
            .connect(Protocol::Tcp, parse(&format!("192.0.2.1:{port}")))
            .assert_refused(&["EPERM"], name);
        let flow = tap.expect("a denial", SOON, |flow| flow.text("port") == port.to_string());
        let shown = flow.text("process.comm");
        assert!(!shown.is_empty());
        assert!(
            !shown.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)),
            "{shown:?}"
        );
    }
    let output = stage.node.output(&["tap", "--no-follow"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("DENY")).count(), names.len(), "{text}");
    assert!(!text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
}

#[test]
fn nonsense_on_the_socket_is_answered_and_forgotten() {
    let (stage, mut workload) = hermit("nonsense");
    let socket = stage.node.path("runtime").join("agent.sock");
    let huge = vec![b'x'; 4 << 20];
    for bytes in [&b"\n"[..], b"{}\n", b"\xff\xfe\n", b"{\"request\":\"stop\"}\n", b"[[[[[[[[\n", &huge] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 64 * 1024);
    }
    // Many who say nothing do not keep the others waiting.
    let silent: Vec<UnixStream> = (0..200).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    let start = Instant::now();
    let output = stage.node.output(&["status", "-o", "json"]);
    drop(silent);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    root::wait("the agent answers again", SOON, || {
        stage.node.output(&["status", "-o", "json"]).status.success().then_some(())
    });
    assert_guarded(&mut workload, "after the nonsense");
}
