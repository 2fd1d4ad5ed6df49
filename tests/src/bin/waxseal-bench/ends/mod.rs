//! The two ends of the load. The program starts them itself, each in its cgroup and network namespace, and reads what
//! they say line by line.

mod client;
mod server;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Where a byte is said to each connection, and nothing more.
pub(crate) const OPEN: u16 = 8080;
/// Where each request is answered, over TCP and UDP.
pub(crate) const ECHO: u16 = 8081;
/// Where everything is swallowed.
pub(crate) const SINK: u16 = 8082;
/// Where a byte is said too, but where no policy lets anybody in by itself.
pub(crate) const GATE: u16 = 8085;
/// Every port over TCP that proxies pass on.
pub(crate) const PASSED: [u16; 3] = [OPEN, ECHO, SINK];
/// The bytes of a request, and of its answer.
const REQUEST: usize = 64;

/// What a client says of its load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Connections or requests.
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    /// Microseconds that one took.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// What a sink says of one stream.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Swallowed {
    pub(crate) bytes: u64,
    /// Seconds since the sink was opened.
    pub(crate) first: f64,
    pub(crate) last: f64,
    /// The time of day of the last byte, in seconds.
    pub(crate) last_seen: f64,
}

/// One running end. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct End {
    child: Child,
    lines: Receiver<String>,
}

impl End {
    /// Starts an end in a cgroup and a network namespace.
    pub(crate) fn start(role: &str, cgroup: &Path, netns: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["end", role])
            .args([cgroup, netns])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an end of the load starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (say, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if line.is_err() || say.send(line.unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that it says.
    pub(crate) fn line(&self, within: Duration) -> Result<String> {
        self.lines
            .recv_timeout(within)
            .with_context(|| format!("the end of the load said nothing for {within:?}"))
    }

    /// The next line, as what it stands for.
    pub(crate) fn told<T: for<'a> Deserialize<'a>>(&self, within: Duration) -> Result<T> {
        let line = self.line(within)?;
        serde_json::from_str(&line).with_context(|| format!("the end of the load says `{line}`"))
    }

    /// Forgets what it has said.
    pub(crate) fn drain(&self) {
        while self.lines.try_recv().is_ok() {}
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One end of the load: `ROLE CGROUP NETNS ...`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [role, cgroup, netns, more @ ..] = arguments else { bail!("ROLE CGROUP NETNS ...") };
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0").context("enter the cgroup")?;
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    match (role.as_str(), more.as_slice()) {
        ("serve", []) => server::serve(),
        ("accept", ports) => server::accept(ports),
        ("open", [to, seconds, at_once]) => client::open(to.parse()?, time(seconds)?, at_once.parse()?),
        ("kept", [to, seconds]) => client::kept(to.parse()?, time(seconds)?),
        ("datagrams", [to, seconds]) => client::datagrams(to.parse()?, time(seconds)?),
        ("source", [to, seconds, streams]) => client::source(to.parse()?, time(seconds)?, streams.parse()?),
        ("cold", addresses) => client::cold(addresses),
        ("knock", [to]) => client::knock(to.parse()?),
        ("hold", [to, count]) => client::hold(to.parse()?, count.parse()?),
        ("trickle", [to]) => client::trickle(to.parse()?),
        _ => bail!("unknown end {role}"),
    }
}

fn time(seconds: &str) -> Result<Duration> {
    Ok(Duration::from_secs_f64(seconds.parse()?))
}

/// Keeps the calling thread, and those that it starts, on one CPU; on the last one if there are fewer.
fn pin(cpu: usize) -> Result<()> {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let mut cpus = CpuSet::new();
    cpus.set(cpu.min(count - 1))?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("choose a CPU")
}

/// The time of day, in seconds.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
