//! What a run found: a table, a JSON file, a page, and a plot for each measure.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::Plan;
use crate::figures::{Figures, Measure, Row, Spread};
use crate::goals::{Goal, judge};
use crate::machine::Machine;
use crate::svg;

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    command: String,
    plan: Plan,
    machine: Machine,
    seconds: f64,
    goals: Vec<Goal>,
    #[serde(flatten)]
    figures: Figures,
}

impl Run {
    pub(crate) fn new(plan: &Plan, machine: Machine, figures: Figures, seconds: f64) -> Self {
        let command = format!("cargo xtask bench{}", if plan.quick { " --quick" } else { "" });
        Self { command, plan: plan.clone(), machine, seconds, goals: judge(&figures), figures }
    }

    /// The table.
    pub(crate) fn print(&self) {
        println!("{}", self.machine.line());
        println!(
            "{} rounds of {} s each; `{}`, {:.0} s",
            self.plan.rounds, self.plan.seconds, self.command, self.seconds
        );
        for measure in &self.figures.measures {
            println!("\n{}, {}", measure.title, measure.unit);
            for row in &measure.rows {
                println!("  {}", line(row));
            }
        }
        println!("\ngoals");
        for Goal { what, wanted, found, state } in &self.goals {
            let found = found.map_or_else(|| "-".to_owned(), number);
            println!("  {what:<70} {wanted:<14} {found:>9}  {}", state.word());
        }
        if !self.figures.failures.is_empty() {
            println!("\nwhat did not work");
        }
        for (what, why) in &self.figures.failures {
            println!("  {what}: {why}");
        }
        println!("\n(?) marks a figure whose middle half is wider than 15 % of it: it says nothing.");
    }

    /// The files.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let put = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        put("run.json", &(serde_json::to_string_pretty(self)? + "\n"))?;
        put("RESULTS.md", &self.page())?;
        for measure in &self.figures.measures {
            put(&format!("{}.svg", measure.id), &svg::plot(measure))?;
        }
        Ok(())
    }

    fn page(&self) -> String {
        let mut text = format!(
            "# Results\n\nWritten by `{}` in {:.0} s: {} rounds of {} s each. [BENCHMARKS.md](BENCHMARKS.md) says how to read it.\n\n{}\n\n## Goals\n\n\
             | measure | goal | found | |\n| --- | --- | --- | --- |\n",
            self.command,
            self.seconds,
            self.plan.rounds,
            self.plan.seconds,
            self.machine.line()
        );
        for Goal { what, wanted, found, state } in &self.goals {
            let found = found.map_or_else(|| "-".to_owned(), number);
            let _ = writeln!(text, "| {what} | {wanted} | {found} | {} |", state.word());
        }
        for measure in &self.figures.measures {
            text.push_str(&section(measure));
        }
        if !self.figures.failures.is_empty() {
            text.push_str("\n## What did not work\n\n");
        }
        for (what, why) in &self.figures.failures {
            let _ = writeln!(text, "- {what}: {}", why.replace('\n', " ").trim());
        }
        text
    }
}

fn section(measure: &Measure) -> String {
    let mut text = format!("\n## {}\n\n", measure.title);
    let _ = writeln!(text, "![{}]({}.svg)\n", measure.title, measure.id);
    let _ = writeln!(
        text,
        "| {} | median | middle half | against bare | |\n| --- | --- | --- | --- | --- |",
        measure.unit
    );
    for row in &measure.rows {
        let (value, around, ratio) = cells(row);
        let _ = writeln!(text, "| {} | {value} | {around} | {ratio} | {} |", row.subject, remark(row));
    }
    text
}

fn cells(row: &Row) -> (String, String, String) {
    let middle = |spread: &Spread| format!("{} – {}", number(spread.q1), number(spread.q3));
    let value = row.value.map_or_else(|| "-".to_owned(), |spread| number(spread.median));
    let around = row.value.filter(|_| !row.single).map_or_else(String::new, |spread| middle(&spread));
    let ratio = row.ratio.map_or_else(String::new, |spread| {
        format!("{:.3} ({:.3} – {:.3})", spread.median, spread.q1, spread.q3)
    });
    (value, around, ratio)
}

/// What a reader must know before believing it.
fn remark(row: &Row) -> &'static str {
    match (row.value.is_none(), row.unsure, row.single) {
        (true, ..) => "failed",
        (_, true, _) => "(?)",
        (_, _, true) => "one sample",
        _ => "",
    }
}

fn line(row: &Row) -> String {
    let (value, around, ratio) = cells(row);
    format!("{:<34} {value:>12}  {around:<24} {ratio:<26} {}", row.subject, remark(row)).trim_end().to_owned()
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        #[expect(clippy::cast_sign_loss, reason = "the sign is written in front")]
        let whole = size.round() as usize;
        format!("{}{}", if value < 0.0 { "-" } else { "" }, crate::world::thousands(whole))
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}
