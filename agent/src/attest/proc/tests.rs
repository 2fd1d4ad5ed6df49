use std::process::{Child, Command, Stdio};

use waxseal_common::ids::CgroupId;

use super::*;

/// A made-up cgroup directory that lists real processes, so that no privileges are needed.
fn facts(pids: &[u32]) -> (tempfile::TempDir, ProcFacts, Cgroup) {
    let mount = tempfile::tempdir().unwrap();
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join("\n");
    fs::create_dir(mount.path().join("web")).unwrap();
    fs::write(mount.path().join("web/cgroup.procs"), list).unwrap();
    let facts = ProcFacts::new(Tree::at(mount.path(), mount.path()));
    (mount, facts, Cgroup { id: CgroupId(9), path: "/web".into() })
}

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        Self(command.arg("60").stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_is_known_by_number_start_user_and_program() {
    let sleeper = Sleeper::start();
    let (_mount, facts, cgroup) = facts(&[sleeper.0.id()]);
    let processes = facts.processes(&cgroup).unwrap();
    let [process] = processes.as_slice() else { panic!("{processes:?}") };
    assert_eq!(process.pid, sleeper.0.id());
    assert_eq!(process.uid, Some(nix::unistd::getuid().as_raw()));
    assert!(process.started > 0);
    assert_eq!(facts.still_there(&cgroup, &processes).unwrap(), processes);

    // The child may not have reached its exec yet.
    let sleep = facts.resolve(Path::new("/usr/bin/sleep"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let found = loop {
        let found = facts.executable(process, true).unwrap().unwrap();
        if found.path.as_ref() == Some(&sleep) || std::time::Instant::now() > deadline {
            break found;
        }
    };
    assert_eq!(found.path, Some(sleep.clone()));
    let digest: [u8; 32] = Sha256::digest(fs::read(&sleep).unwrap()).into();
    assert_eq!(found.sha256, Some(digest));
    assert_eq!(facts.executable(process, true).unwrap().unwrap().sha256, Some(digest), "remembered");
    assert_eq!(facts.executable(process, false).unwrap().unwrap().sha256, None);
}

#[test]
fn a_number_that_was_reused_is_another_process() {
    let sleeper = Sleeper::start();
    let (_mount, facts, cgroup) = facts(&[sleeper.0.id()]);
    let mut process = facts.process(sleeper.0.id()).unwrap();
    assert_eq!(facts.still_there(&cgroup, &[process]).unwrap(), [process]);
    process.started -= 1;
    assert_eq!(facts.still_there(&cgroup, &[process]).unwrap(), []);
}

#[test]
fn a_process_that_left_the_cgroup_does_not_count() {
    let sleeper = Sleeper::start();
    let (mount, facts, cgroup) = facts(&[sleeper.0.id()]);
    let processes = facts.processes(&cgroup).unwrap();
    fs::write(mount.path().join("web/cgroup.procs"), "").unwrap();
    assert_eq!(facts.still_there(&cgroup, &processes).unwrap(), []);
}

#[test]
fn a_zombie_is_nobody() {
    let mut sleeper = Sleeper::start();
    let (_mount, facts, cgroup) = facts(&[sleeper.0.id()]);
    sleeper.0.kill().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !facts.processes(&cgroup).unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline);
    }
}

#[test]
fn a_deleted_program_has_no_path_but_a_digest() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("sleep");
    fs::copy("/usr/bin/sleep", &program).unwrap();
    let mut command = Command::new(&program);
    let sleeper = Sleeper(command.arg("60").spawn().unwrap());
    let (_mount, facts, _) = facts(&[]);
    let process = facts.process(sleeper.0.id()).unwrap();
    assert_eq!(facts.executable(&process, false).unwrap().unwrap().path, Some(program.clone()));
    fs::remove_file(&program).unwrap();
    // Another file at the same path is not the one that runs.
    fs::copy("/usr/bin/true", &program).unwrap();
    let found = facts.executable(&process, true).unwrap().unwrap();
    assert_eq!(found.path, None);
    let digest: [u8; 32] = Sha256::digest(fs::read("/usr/bin/sleep").unwrap()).into();
    assert_eq!(found.sha256, Some(digest));
}

#[test]
fn what_cannot_be_looked_at_is_an_error_and_what_is_gone_is_not() {
    let (mount, facts, cgroup) = facts(&[0]);
    assert!(matches!(facts.processes(&cgroup), Err(FactError::HiddenProcess)));
    fs::remove_dir_all(mount.path().join("web")).unwrap();
    let error = facts.processes(&cgroup).unwrap_err().to_string();
    assert!(error.contains("web/cgroup.procs"), "{error}");
    let gone = Process { pid: u32::MAX, started: 1, uid: Some(0) };
    assert_eq!(facts.executable(&gone, true).unwrap(), None);
    let many: Vec<u32> = (1..=MAX_PROCESSES as u32 + 1).collect();
    let (_mount, facts, cgroup) = self::facts(&many);
    assert!(matches!(facts.processes(&cgroup), Err(FactError::TooManyProcesses { .. })));
}

/// A `/proc` made of files.
fn made_up(entries: &[(&str, &str)]) -> (tempfile::TempDir, ProcFacts) {
    let proc = tempfile::tempdir().unwrap();
    for (file, text) in entries {
        let file = proc.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let tree = Tree::at(proc.path(), proc.path());
    let facts = ProcFacts::at(tree, proc.path().to_owned(), Engines::default());
    (proc, facts)
}

#[test]
fn a_hostile_name_does_not_shift_the_fields() {
    let fields = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
    let cases = [
        ("7 (web) ", Some(4242)),
        ("7 (a) S 1 (b) ) ", Some(4242)),
        ("7 (a\n) Z) ", Some(4242)),
        ("7 (web ", None),
    ];
    for (front, started) in cases {
        let (_proc, facts) =
            made_up(&[("7/stat", &format!("{front}{fields}")), ("7/status", "Uid:\t5\t5\t5\t5\n")]);
        assert_eq!(facts.process(7).map(|process| process.started), started, "{front:?}");
    }
}

#[test]
fn four_users_must_be_one() {
    let cases = [
        ("Name:\tUid:\nUid:\t5\t5\t5\t5\n", Some(5)),
        ("Uid:\t5\t0\t0\t0\n", None),
        ("Uid:\t0\t5\t0\t0\n", None),
        ("Uid:\tx\n", None),
        ("", None),
    ];
    for (status, expected) in cases {
        let (_proc, facts) = made_up(&[("7/status", status)]);
        assert_eq!(facts.uid(7), expected, "{status:?}");
    }
}

#[test]
fn the_lines_of_a_process_tell_v2_from_v1() {
    let text = "9:name=systemd:/a.service\n4:memory:/m:x\n3:cpu:/\n1:pids:/a.service\n0::/u/v\n";
    let (_proc, facts) = made_up(&[("7/cgroup", text), ("8/cgroup", "4:memory:/m\n")]);
    let (unified, legacy) = facts.placement(7).unwrap();
    assert_eq!(unified, "/u/v");
    assert_eq!(legacy.systemd.as_deref(), Some("/a.service"));
    assert_eq!(legacy.paths, ["/a.service", "/m:x"]);
    assert_eq!(facts.placement(8), None, "no v2 line");
}
