//! Things put on this machine for a while: cgroups, network namespaces, services, an agent. Each is a guard: what it
//! made is gone when it is dropped, and it ends only processes that it started.

mod agent;
mod authority;
mod cgroup;
mod netns;
mod service;

pub(crate) use agent::Agent;
pub(crate) use authority::Authority;
pub(crate) use cgroup::{Cgroup, mount as cgroup_mount};
pub(crate) use netns::{Netns, Router};
pub(crate) use service::{Service, port_is_open};

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::interrupt;

/// Asks until there is an answer, somebody interrupts, or time is up.
pub(crate) fn wait<T>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        interrupt::check()?;
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {what}", within.as_secs());
        }
        sleep(Duration::from_millis(20));
    }
}

/// Runs a short command; its words are the error when it fails.
fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), words.trim());
    }
    Ok(())
}
