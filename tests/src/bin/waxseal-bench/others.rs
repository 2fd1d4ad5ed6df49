//! Measurements that are programs of their own: the flood of events, and what is measured without a kernel. They are asked
//! here so that one run says everything.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use waxseal_tests::root;

use crate::Plan;
use crate::figures::{Figures, Measure};

/// Events from the kernel to `waxseal tap -o json`, as fast as they come.
pub(crate) fn events(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let (events, times) = if plan.quick { ("100000", 1) } else { ("1000000", 3) };
    let [mut told, mut agent, mut lost] = [const { Vec::new() }; 3];
    for _ in 0..times {
        let text = ask(Command::new(root::program("waxseal-flood"))
            .args(["-o", "json", "--events", events, "--rate", "0"]))?;
        let rows: Vec<Value> = serde_json::from_str(&text).context("the flood's answer")?;
        let row = rows.iter().find(|row| row["tap"] == true).context("no row with a tap")?;
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        told.push(number("made_per_second") * number("delivered") / number("published").max(1.0));
        agent.push(number("agent_us"));
        lost.push((number("lost_by_ring") + number("lost_by_tap")) / number("made") * 100.0);
    }
    figures.push(Measure::new(
        "events",
        "events told to a tap",
        "events/s",
        vec![("waxseal tap".to_owned(), told)],
    ));
    let rows =
        vec![("processor time of the agent for one, µs".to_owned(), agent), ("lost, %".to_owned(), lost)];
    figures.push(Measure::new("events-cost", "what an event costs", "see the rows", rows));
    Ok(())
}

/// What policies cost without a kernel.
pub(crate) fn policies(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let mut command = example("waxseal-bench-policy")?;
    if plan.quick {
        command.args(["1000", "200"]);
    }
    // It fails when a target of its own is missed; that is told elsewhere.
    let output = command.output().context("start the measurement of policies")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<(String, Vec<f64>)> = text.lines().filter_map(line).collect();
    if rows.is_empty() {
        bail!("it says nothing: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    figures.push(Measure::new("policies", "policies: reading, compiling, changing", "as in the row", rows));
    Ok(())
}

/// `ok   what it is          12.3 ms  (at most 4000 ms)`.
fn line(line: &str) -> Option<(String, Vec<f64>)> {
    let (_, rest) = line.split_once(' ')?;
    let (found, _) = rest.rsplit_once("  (at most")?;
    let mut words: Vec<&str> = found.split_whitespace().collect();
    let unit = words.pop()?;
    let number = words.pop()?.parse().ok()?;
    Some((format!("{}, {unit}", words.join(" ")), vec![number]))
}

/// Handshakes of two agents in one process, and of rustls alone beside them.
pub(crate) fn handshakes(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let mut command = example("waxseal-bench-handshakes")?;
    let text = ask(command.arg(plan.rounds.to_string()).arg(if plan.quick { "0.2" } else { "1.0" }))?;
    let rows: Vec<(String, Vec<f64>)> = serde_json::from_str(&text).context("its answer")?;
    figures.push(Measure::new(
        "handshakes",
        "handshakes between two agents in one process",
        "handshakes/s",
        rows,
    ));
    Ok(())
}

fn example(name: &str) -> Result<Command> {
    let this = std::env::current_exe().context("this program has no path")?;
    let path: PathBuf = this.with_file_name("examples").join(name);
    if !path.is_file() {
        bail!("{name} is not built: run `cargo build --release -p waxseal --examples` first");
    }
    Ok(Command::new(path))
}

fn ask(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_policies_measurement_is_read() {
        let text = "ok   compile them for 1000 identities                                 12.3 ms  (at most 2000 ms)";
        assert_eq!(line(text), Some(("compile them for 1000 identities, ms".to_owned(), vec![12.3])));
        assert_eq!(line("nothing"), None);
    }
}
