//! `waxseal mode`: the emergency ceiling of the whole node.

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::AnsiColor;
use clap::{Args, Subcommand};
use waxseal_common::tables::Mode;

use super::exit::{Ended, Exit};
use super::output::{Format, write, write_json};
use super::{Common, Output};
use crate::api::{ModeChange, ModeReport, Request};

pub(super) const AFTER_HELP: &str = "\
The ceiling can only loosen: `waxseal mode audit --all` lets everything pass on this node and reports what would have
been denied, whatever the policies say. It outlives a restart of the agent. `waxseal mode reset` ends it.
How strict a single workload is, its policies, its namespace and the configuration say.";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Show the mode of the node
    Show(Output),
    /// Let everything pass; record what would be denied
    Permissive(Ceiling),
    /// Let everything pass; report what would be denied
    Audit(Ceiling),
    /// Lift the ceiling, as `reset` does: every workload has its own mode again
    Enforce(Ceiling),
    /// Lift the ceiling: every workload has its own mode again
    Reset(Output),
}

#[derive(Debug, Args)]
struct Ceiling {
    /// Yes, for every workload of this node
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let (change, Output { output }) = match &arguments.change {
        None => (ModeChange::Show, arguments.output),
        Some(Change::Show(output)) => (ModeChange::Show, *output),
        Some(Change::Permissive(ceiling)) => (ceiling.change(Mode::Permissive)?, ceiling.output),
        Some(Change::Audit(ceiling)) => (ceiling.change(Mode::Audit)?, ceiling.output),
        Some(Change::Enforce(ceiling)) => (ceiling.change(Mode::Enforce)?, ceiling.output),
        Some(Change::Reset(output)) => (ModeChange::Reset, *output),
    };
    let report: ModeReport = common.connect()?.ask(&Request::Mode(change))?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => write(&sentence(&report))?,
    }
    warn(&report);
    Ok(Exit::Done)
}

impl Ceiling {
    fn change(&self, mode: Mode) -> Result<ModeChange, Ended> {
        if self.all {
            return Ok(if mode == Mode::Enforce { ModeChange::Reset } else { ModeChange::Ceiling { mode } });
        }
        let word = mode.as_str();
        let message = format!(
            "this would change every workload of the node; say so: waxseal mode {word} --all\n  \
             (for one workload write `mode: {word}` into its Workload document or a policy)"
        );
        Err(Ended { exit: Exit::Invalid, message })
    }
}

/// The mode in words. Shared with `waxseal status`.
pub(super) fn sentence(report: &ModeReport) -> String {
    let ModeReport { default, ceiling, since } = report;
    let mut text = format!("{} unless a workload, a policy or a namespace says otherwise", default.as_str());
    if *ceiling < Mode::Enforce {
        let _infallible = write!(text, "; CEILING {}", ceiling.as_str());
        if let Some(since) = since {
            let _infallible = write!(text, " since {since}");
        }
    }
    text.push('\n');
    text
}

/// Loud, on stderr, whenever nothing is denied.
fn warn(report: &ModeReport) {
    if report.ceiling == Mode::Enforce {
        return;
    }
    let red = AnsiColor::Red.on_default().bold();
    let ceiling = report.ceiling.as_str();
    let _nowhere_to_write = writeln!(
        anstream::stderr(),
        "{red}WARNING: the ceiling of this node is {ceiling}: NOTHING IS DENIED until `waxseal mode reset`{red:#}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_is_never_set_by_a_short_slip() {
        let ceiling = |all| Ceiling { all, output: Output { output: Format::Table } };
        let refused = ceiling(false).change(Mode::Audit).unwrap_err();
        assert_eq!(refused.exit, Exit::Invalid);
        assert!(refused.message.contains("waxseal mode audit --all"));
        assert_eq!(ceiling(true).change(Mode::Audit).unwrap(), ModeChange::Ceiling { mode: Mode::Audit });
        assert_eq!(ceiling(true).change(Mode::Enforce).unwrap(), ModeChange::Reset);
    }

    #[test]
    fn the_ceiling_is_named_only_while_there_is_one() {
        let report = |ceiling, since| ModeReport { default: Mode::Audit, ceiling, since };
        assert_eq!(
            sentence(&report(Mode::Enforce, None)),
            "audit unless a workload, a policy or a namespace says otherwise\n"
        );
        assert_eq!(
            sentence(&report(Mode::Permissive, Some(crate::flows::Time(0)))),
            "audit unless a workload, a policy or a namespace says otherwise; CEILING permissive since 1970-01-01T00:00:00.000Z\n"
        );
    }
}
