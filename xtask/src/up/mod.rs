//! This host, seen by Waxseal: builds, starts an agent that only watches, and opens the tap. Ctrl-C ends all of it.
//!
//! Nothing can be refused here: the example policies are loaded in audit. What runs on this host gets a name from
//! its systemd unit, its container or its login session.

mod example;
mod names;

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;

use crate::place::Place;
use crate::stage::{Agent, cgroup_mount};
use crate::{build, interrupt, privilege};

/// Why root is needed.
const WHY: &str = "watching this host loads kernel programs";

/// Options of `cargo xtask up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Use what is built already. Set when this task starts itself again as root.
    #[arg(long, hide = true)]
    built: bool,
}

/// `cargo xtask up`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    privilege::must_be_possible(WHY)?;
    if !options.built {
        build::run(place, build::Profile::Release)?;
    }
    if privilege::again_as_root(WHY, &["up", "--built"])? {
        return Ok(());
    }
    interrupt::watch()?;
    let mut agent = Agent::prepare(place.binary("release", "waxseal"), "up", "audit")?;
    let found = names::of_this_host(&cgroup_mount()?);
    agent.write("policies/this-host.yaml", &names::documents(&found))?;
    copy_examples(place, &agent)?;
    if !found.is_empty() {
        println!("{} services, containers and sessions of this host have a name:", found.len());
    }
    for names::Named { namespace, name, cgroup } in &found {
        println!("  {:<32} {cgroup}", format!("{namespace}/{name}"));
    }
    let pair = if found.is_empty() { Some(example::Pair::prepare(&agent)?) } else { None };
    agent.start()?;
    let running = pair.map(|pair| pair.start(&agent)).transpose()?;

    println!(
        "Nothing is refused: policies are only judged (audit). Ctrl-C ends the agent and removes all of it.\n"
    );
    let result = follow(&agent);
    drop(running);
    drop(agent);
    println!("\nThe agent is gone, and with it everything it had put into the kernel.");
    result
}

/// The tap on this terminal, until it ends or somebody interrupts.
fn follow(agent: &Agent) -> anyhow::Result<()> {
    let mut tap = agent.command(&["tap"]).spawn().context("start the tap")?;
    while !interrupt::asked() {
        if let Some(status) = tap.try_wait().context("wait for the tap")? {
            anyhow::ensure!(status.success(), "the tap ended: {status}");
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    // A terminal's Ctrl-C has reached it already; a signal to this task alone has not.
    let _ = tap.kill();
    let _ = tap.wait();
    Ok(())
}

/// The example policies, with every `enforce` turned into `audit`.
fn copy_examples(place: &Place, agent: &Agent) -> anyhow::Result<()> {
    let directory = place.root.join("policies");
    for entry in fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        agent.write(&format!("policies/{name}"), &in_audit(&text))?;
    }
    Ok(())
}

fn in_audit(text: &str) -> String {
    text.replace("mode: enforce", "mode: audit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_example_enforces_when_it_is_only_shown() {
        let place = Place::find().unwrap();
        for entry in fs::read_dir(place.root.join("policies")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "yaml") {
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let shown = in_audit(&text);
            let code = shown.lines().map(|line| line.split('#').next().unwrap_or_default());
            for line in code {
                assert!(!(line.contains("mode:") && line.contains("enforce")), "{line}");
            }
        }
    }
}
