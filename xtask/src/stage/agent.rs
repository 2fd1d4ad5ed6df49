//! An agent of its own instance, with all its files in one directory below /run.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{Cgroup, Netns, Service, wait};

/// How long an agent may take to load its programs and answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// An agent. Dropping it stops it and removes its pins and its files.
#[derive(Debug)]
pub(crate) struct Agent {
    binary: PathBuf,
    instance: &'static str,
    directory: PathBuf,
    netns: Option<PathBuf>,
    service: Option<Service>,
}

impl Agent {
    /// Makes the directory with its configuration. What an earlier, killed run left behind is removed first.
    pub(crate) fn prepare(binary: PathBuf, instance: &'static str, mode: &str) -> anyhow::Result<Self> {
        let directory = PathBuf::from(format!("/run/waxseal-{instance}"));
        let agent = Self { binary, instance, directory, netns: None, service: None };
        agent.remove();
        for name in ["", "policies", "state", "runtime", "logs"] {
            let path = agent.file(name);
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .with_context(|| format!("create {}", path.display()))?;
        }
        let at = agent.directory.display();
        let text = format!(
            "instance: {instance}\nmode: {mode}\npolicies: {at}/policies\nstate: {at}/state\nruntime: {at}/runtime\n"
        );
        agent.write("agent.yaml", &text)?;
        Ok(agent)
    }

    /// Makes it a node of its own: in a network namespace, for the cgroups below a directory, with further lines of
    /// configuration.
    pub(crate) fn live_in(&mut self, netns: &Netns, cgroup: &Cgroup, more: &str) -> anyhow::Result<()> {
        self.netns = Some(netns.path());
        let path = self.file("agent.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        self.write("agent.yaml", &format!("{text}cgroup_root: {}\n{more}", cgroup.path().display()))
    }

    /// A file of this agent: `agent.yaml`, `policies/NAME.yaml`, `logs/NAME`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.directory.clone() } else { self.directory.join(name) }
    }

    /// Writes a file that only root may change, as the agent demands of its policies.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))
            .with_context(|| format!("protect {}", path.display()))
    }

    /// Starts the agent and waits until it answers.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = self.file("logs/agent.log");
        let start = within(self.netns.as_deref(), command(&self.binary, &self.directory, &["agent"]));
        let service = self.service.insert(Service::start("the agent", start, &log)?);
        let (binary, directory) = (&self.binary, &self.directory);
        let started = wait("the agent to answer", PATIENCE, || {
            service.still_runs()?;
            let status = command(binary, directory, &["status"]).stdin(Stdio::null()).output()?;
            Ok(status.status.success().then_some(()))
        });
        started.with_context(|| format!("the agent's log says:\n{}", tail(&log)))
    }

    /// A command of `waxseal` for this agent.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command(&self.binary, &self.directory, arguments)
    }

    /// Runs a command of `waxseal` that must succeed, and returns what it printed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } =
            self.command(arguments).stdin(Stdio::null()).output().context("start waxseal")?;
        if !status.success() {
            bail!("waxseal {}: {status}: {}", arguments.join(" "), String::from_utf8_lossy(&stderr).trim());
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Removes the pins and the files of this instance.
    fn remove(&self) {
        let pins = Path::new("/sys/fs/bpf/waxseal").join(self.instance);
        if self.directory.join("agent.yaml").exists() {
            let removed = self.ask(&["uninstall"]);
            if let (true, Err(error)) = (pins.exists(), removed) {
                eprintln!("left behind: {}: {error:#}", pins.display());
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.stop();
        }
        self.remove();
    }
}

fn command(binary: &Path, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(arguments).arg("--config").arg(directory.join("agent.yaml"));
    command
}

/// The same command in a network namespace.
fn within(netns: Option<&Path>, command: Command) -> Command {
    let Some(netns) = netns else { return command };
    let mut inside = Command::new("nsenter");
    inside
        .arg(format!("--net={}", netns.display()))
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    inside
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}
