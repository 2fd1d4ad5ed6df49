//! An agent of its own for one test: its files, its life, its answers.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::netns::Netns;
use crate::root;
use crate::tap::Tap;

/// How long an agent may take to start, or to obey.
const PATIENCE: Duration = Duration::from_secs(20);

/// What differs from test to test in an agent's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The node's default mode.
    pub mode: &'a str,
    /// How long older connections may live unrecorded.
    pub grace: &'a str,
    /// Further lines of configuration.
    pub more: &'a str,
}

impl Default for Settings<'_> {
    /// Everything is enforced; connections older than the agent have two seconds.
    fn default() -> Self {
        Self { mode: "enforce", grace: "2s", more: "" }
    }
}

/// An agent. Dropping it ends it and removes its pins.
#[derive(Debug)]
pub struct Node {
    instance: String,
    directory: TempDir,
    netns: Option<PathBuf>,
    child: Option<Child>,
    installed: bool,
}

impl Node {
    /// An agent for the cgroups below a directory; not started yet.
    pub fn new(cgroup_root: &Path, settings: Settings<'_>) -> Self {
        root::require();
        let instance = root::unique("node");
        let directory = tempfile::Builder::new().prefix("wxt-").tempdir().expect("a temporary directory");
        let at = directory.path().display();
        let Settings { mode, grace, more } = settings;
        let mut text = format!("instance: {instance}\ncgroup_root: {}\n", cgroup_root.display());
        for key in ["policies", "state", "runtime"] {
            let _ = writeln!(text, "{key}: {at}/{key}");
        }
        if !more.contains("metrics:") {
            // Agents of tests run beside each other, and there is one port of that number.
            text.push_str("metrics: off\n");
        }
        let _ = write!(text, "mode: {mode}\ngrace: {grace}\nlog: info,waxseal=debug\n{more}");
        write_private(&directory.path().join("agent.yaml"), &text);
        fs::create_dir(directory.path().join("policies")).expect("a directory for policies");
        Self { instance, directory, netns: None, child: None, installed: false }
    }

    /// Lets the agent run in a network namespace: a node of its own.
    pub fn live_in(&mut self, netns: &Netns) {
        self.netns = Some(netns.path());
    }

    /// Adds a line to the configuration, for the next start.
    pub fn configure(&self, line: &str) {
        let path = self.path("agent.yaml");
        let text = fs::read_to_string(&path).expect("our own file");
        write_private(&path, &format!("{text}\n{line}\n"));
    }

    /// Gives a key of the configuration a value, instead of the one that it has, for the next start.
    pub fn set(&self, key: &str, value: &str) {
        let path = self.path("agent.yaml");
        let text = fs::read_to_string(&path).expect("our own file");
        let head = format!("{key}:");
        let others: String =
            text.lines().filter(|line| !line.starts_with(&head)).flat_map(|line| [line, "\n"]).collect();
        write_private(&path, &format!("{others}{key}: {value}\n"));
    }

    /// The name of this agent.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// A file or directory of this agent: `policies`, `state`, `runtime`, `agent.yaml`, `agent.log`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where its maps, programs and links are pinned.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/waxseal").join(&self.instance)
    }

    /// The directory of the pins of the map layout in use: the newest there is.
    pub fn layout_pins(&self) -> PathBuf {
        let entries = fs::read_dir(self.pins()).expect("the agent has pinned its maps");
        entries.flatten().map(|entry| entry.path()).max().expect("a layout has a directory")
    }

    /// The process number of the running agent.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent was started").id()
    }

    /// A command of `waxseal` for this agent, where the agent lives.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = root::enter(self.netns.as_deref(), &root::program("waxseal"));
        command.args(arguments).arg("--config").arg(self.path("agent.yaml")).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("waxseal runs")
    }

    /// Runs a command that must succeed and reads its answer as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.output(&[arguments, &["-o", "json"]].concat());
        assert!(
            output.status.success(),
            "waxseal {}: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("waxseal {}: {error}", arguments.join(" ")))
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) {
        self.launch();
        self.await_start();
    }

    /// Waits until the launched agent answers.
    pub fn await_start(&mut self) {
        root::wait("the agent answers", PATIENCE, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                panic!("the agent ended at once: {status}\n{}", self.log());
            }
            self.output(&["status", "-o", "json"]).status.success().then_some(())
        });
    }

    /// Starts the agent and does not wait.
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("agent.log")).expect("a log file");
        let error_log = log.try_clone().expect("the log file is open");
        let child = self.command(&["agent"]).stdout(log).stderr(error_log).spawn().expect("waxseal starts");
        self.child = Some(child);
        self.installed = true;
    }

    /// SIGKILL: no farewell.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let mut child = self.child.take().expect("the agent was started");
        root::wait("the agent stops", PATIENCE, || child.try_wait().ok().flatten());
    }

    /// Sends a signal to the running agent.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).expect("process numbers are small"));
        nix::sys::signal::kill(pid, signal).expect("the agent is our child");
    }

    /// What the agent has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// `waxseal status`.
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// The policy revision in force.
    pub fn revision(&self) -> u64 {
        self.status()["revision"].as_u64().expect("status tells the revision")
    }

    /// What is wrong with the policy files on disk; `None` while they are in force.
    pub fn policy_error(&self) -> Option<String> {
        let status = self.status();
        let errors = status["policy"]["failure"]["errors"].as_array()?;
        let lines: Vec<&str> = errors.iter().filter_map(Value::as_str).collect();
        Some(lines.join("\n"))
    }

    /// The cgroups that are no endpoint although somebody wants them to be.
    pub fn unsettled(&self, path: &str) -> Option<Value> {
        self.status()["unsettled"].as_array()?.iter().find(|endpoint| endpoint["path"] == path).cloned()
    }

    /// Puts a policy file in place, whole or not at all.
    pub fn write(&self, name: &str, text: &str) {
        let temporary = self.path("policies").join(format!(".{name}.new"));
        write_private(&temporary, text);
        fs::rename(&temporary, self.path("policies").join(name)).expect("a rename within one directory");
    }

    /// When the set of files in force came into force.
    fn policy_since(&self) -> String {
        self.status()["policy"]["since"].to_string()
    }

    /// Puts a policy file in place and waits until it is in force.
    pub fn apply(&self, name: &str, text: &str) {
        let before = self.policy_since();
        self.write(name, text);
        root::wait(&format!("the policies take effect:\n{text}"), PATIENCE, || {
            if let Some(error) = self.policy_error() {
                panic!("the agent refuses the policies: {error}\n{text}");
            }
            (self.policy_since() != before).then_some(())
        });
    }

    /// Puts a policy file in place and waits until the agent has refused it. Returns what it says.
    pub fn apply_bad(&self, name: &str, text: &str) -> String {
        self.write(name, text);
        root::wait("the agent refuses the policies", PATIENCE, || self.policy_error())
    }

    /// The endpoint of a cgroup path.
    pub fn endpoint(&self, path: &str) -> Option<Value> {
        let list = self.json(&["endpoint", "list"]);
        list["endpoints"].as_array()?.iter().find(|endpoint| endpoint["path"] == path).cloned()
    }

    /// Waits until a cgroup is an endpoint, and returns what the agent says of it.
    pub fn await_endpoint(&self, path: &str) -> Value {
        root::wait(&format!("an endpoint for {path}"), PATIENCE, || {
            self.endpoint(path).filter(|endpoint| endpoint["state"] == "ready")
        })
    }

    /// Follows what is said from now on.
    pub fn tap(&self) -> Tap {
        let before = self.tap_readers();
        let tap = Tap::start(&mut self.command(&["tap", "-o", "json"]));
        root::wait("the tap is attached", PATIENCE, || (self.tap_readers() > before).then_some(()));
        tap
    }

    fn tap_readers(&self) -> u64 {
        self.status()["taps"]["readers"].as_u64().expect("status tells the number of taps")
    }

    /// A counter from `waxseal status`.
    pub fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Resident memory of the running agent.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// Removes every pin. The agent must not run.
    pub fn uninstall(&mut self) -> Output {
        let output = self.output(&["uninstall"]);
        self.installed = !output.status.success();
        output
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let _ = writeln!(io::stderr(), "--- the end of {}'s log ---\n{}", self.instance, tail.join("\n"));
        }
        if self.installed {
            let _ = self.output(&["uninstall"]);
        }
        let _ = fs::remove_dir_all(self.pins());
    }
}

/// Writes a file that nobody else can change, as the agent demands.
pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our own file");
}
