//! Everything that must hold before a change is good: `cargo xtask test`, which is also what CI runs.

mod counts;
mod guards;
mod steps;

use std::env;
use std::time::Instant;

use anyhow::bail;

use crate::place::Place;
use counts::Counts;

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Without the older kernel under QEMU.
    #[arg(long)]
    quick: bool,
    /// Only the steps whose name holds this.
    #[arg(long)]
    only: Option<String>,
}

/// How a step ended.
#[derive(Debug)]
enum Outcome {
    /// It ran. Steps that are not tests count as one.
    Ran(Counts),
    /// Tests ran, and what is to be said of those that did not pass at once.
    Tests(Counts, Vec<String>),
    /// It could not run here, and why.
    Left(String),
}

/// One step.
struct Step {
    name: &'static str,
    /// Needs root, or sudo.
    root: bool,
    run: fn(&Place) -> anyhow::Result<Outcome>,
}

/// One row of the table at the end.
struct Row {
    name: &'static str,
    seconds: f64,
    outcome: Outcome,
}

/// `cargo xtask test`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    let wanted = |step: &&Step| {
        let asked = options.only.as_ref().is_none_or(|only| step.name.contains(only.as_str()));
        asked && !(options.quick && step.name == "kernels")
    };
    let strict = env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    let mut rows = Vec::new();
    for step in steps::ALL.iter().filter(wanted) {
        let start = Instant::now();
        let outcome = perform(place, step, strict);
        rows.push(Row { name: step.name, seconds: start.elapsed().as_secs_f64(), outcome });
    }
    report(&rows)
}

fn perform(place: &Place, step: &Step, strict: bool) -> Outcome {
    eprintln!("== {}", step.name);
    if step.root && !steps::may_be_root() {
        let why = "needs root, and there is no sudo".to_owned();
        if !strict {
            return Outcome::Left(why);
        }
        eprintln!("{}: {why}; in CI nothing may be left out", step.name);
        return Outcome::Ran(Counts::failure());
    }
    match (step.run)(place) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("{}: {error:#}", step.name);
            Outcome::Ran(Counts::failure())
        }
    }
}

fn report(rows: &[Row]) -> anyhow::Result<()> {
    let mut sum = Counts::default();
    println!("\n{:<24} {:>8}  result", "step", "seconds");
    for Row { name, seconds, outcome } in rows {
        let words = match outcome {
            Outcome::Ran(counts) | Outcome::Tests(counts, _) => {
                sum = sum.plus(counts);
                counts.to_string()
            }
            Outcome::Left(why) => format!("left out: {why}"),
        };
        println!("{name:<24} {seconds:>8.1}  {words}");
    }
    for Row { name, outcome, .. } in rows {
        if let Outcome::Tests(_, remarks) = outcome
            && !remarks.is_empty()
        {
            println!("\n{name}:\n  {}", remarks.join("\n  "));
        }
    }
    println!("\n{sum}");
    if sum.failed > 0 {
        bail!("not everything passed");
    }
    Ok(())
}
