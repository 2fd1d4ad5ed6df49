//! Who may run these tests, unique names, and the other programs of the build.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Stops a test that needs root and has none. It is never passed over in silence.
pub fn require() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes cgroups and network namespaces and loads kernel programs: it needs root (try `sudo -E cargo xtask test`)"
    );
}

/// A name that no other test of this machine has: short enough for an instance and for a namespace.
pub fn unique(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("wxt-{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A program of this build, for example `waxseal`. `WAXSEAL_BIN` names another agent.
pub fn program(name: &str) -> PathBuf {
    if name == "waxseal"
        && let Some(path) = std::env::var_os("WAXSEAL_BIN")
    {
        return path.into();
    }
    let this = std::env::current_exe().expect("this program has a path");
    // target/<profile>/deps/<test>-<hash>, or target/<profile>/<program>.
    let found =
        this.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found
        .unwrap_or_else(|| panic!("{name} is not built: run `cargo build -p waxseal -p waxseal-tests` first"))
}

/// A command for a program, in a network namespace if one is given. The process is the program itself, not its starter.
pub fn enter(netns: Option<&Path>, program: &Path) -> Command {
    let Some(netns) = netns else { return Command::new(program) };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.display())).arg("--").arg(program);
    command
}

/// Runs a program to its end and returns what it wrote; stops the test when it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    assert!(
        output.status.success(),
        "{program} {}: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program to its end, however it ends.
pub fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}

/// Asks every 10 ms until there is an answer; stops the test after `within`.
pub fn wait<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
