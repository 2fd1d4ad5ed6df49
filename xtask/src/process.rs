//! Starting children: quiet ones with a log and a clock, and ones that are asked a question.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::interrupt;
use crate::place::{Place, on_path};

/// How often a running step is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How often a step says that it still runs, when the output is not a terminal.
const NEWS: Duration = Duration::from_secs(30);
/// How many lines of a failed step's log are shown.
const TAIL: usize = 40;

/// Runs a long child with its output in a log file, and says how long it has been running. The end of the log is
/// shown when it fails.
pub(crate) fn step(place: &Place, name: &str, what: &str, command: &mut Command) -> anyhow::Result<()> {
    let log = place.log(name);
    let status = logged(&log, what, command)?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        eprintln!("  {line}");
    }
    bail!("{what}: {status}; the whole log is in {}", log.display());
}

fn logged(log: &Path, what: &str, command: &mut Command) -> anyhow::Result<ExitStatus> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let err = out.try_clone().context("duplicate the log's descriptor")?;
    let start = Instant::now();
    let mut clock = Clock::start(what);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    loop {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            clock.finish(status.success(), start.elapsed());
            return Ok(status);
        }
        if interrupt::asked() {
            let _ = child.kill();
            let _ = child.wait();
        }
        clock.tick(start.elapsed());
        sleep(POLL);
    }
}

/// The line that shows a step's seconds.
struct Clock<'a> {
    what: &'a str,
    terminal: bool,
    told: Duration,
}

impl<'a> Clock<'a> {
    fn start(what: &'a str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        if !terminal {
            eprintln!("{what} ...");
        }
        Self { what, terminal, told: Duration::ZERO }
    }

    fn tick(&mut self, elapsed: Duration) {
        if self.terminal && elapsed.as_secs() != self.told.as_secs() {
            eprint!("\r{} ... {} s", self.what, elapsed.as_secs());
            let _ = std::io::stderr().flush();
            self.told = elapsed;
        } else if !self.terminal && elapsed.saturating_sub(self.told) >= NEWS {
            eprintln!("{} ... still running, {} s", self.what, elapsed.as_secs());
            self.told = elapsed;
        }
    }

    fn finish(&self, success: bool, elapsed: Duration) {
        let start = if self.terminal { "\r" } else { "" };
        let verdict = if success { "done" } else { "FAILED" };
        eprintln!("{start}{}: {verdict}, {:.1} s", self.what, elapsed.as_secs_f64());
    }
}

/// Runs a child on this terminal and asks for success.
pub(crate) fn attended(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    if status.success() {
        return Ok(());
    }
    bail!("{}: {status}", command.get_program().display());
}

/// The output of a child that succeeded, without the last line end. `None` when it cannot start or fails.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// This process may do everything.
pub(crate) fn is_root() -> bool {
    answer(Command::new("id").arg("-u")).is_some_and(|user| user == "0")
}

/// A program that runs as root: through sudo when we are not.
pub(crate) fn as_root(program: &str) -> anyhow::Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if on_path("sudo").is_none() {
        bail!("`{program}` needs root, and there is no sudo: run this as root");
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}
