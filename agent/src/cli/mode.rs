//! `waxseal mode`: how strict workloads are and who says so; modes set at run time; the emergency ceiling of the node.

use std::fmt::Write as _;
use std::io::Write as _;

use anstyle::AnsiColor;
use clap::{Args, Subcommand, ValueEnum};
use waxseal_common::tables::Mode;

use super::exit::{Ended, Exit};
use super::output::{Format, Table, write, write_json};
use super::{Common, Output};
use crate::api::{Level, ModeChange, ModeReport, ModeSet, Request, WorkloadMode};

pub(super) const AFTER_HELP: &str = "\
Who says how strict a workload is: the workload itself, else a policy with `mode: enforce`, else its namespace, else
the configuration of the node. `waxseal mode set` stands in the place of what the document of a workload or namespace
says, outlives a restart of the agent, and ends with `waxseal mode reset --workload` or `--namespace`.
The ceiling can only loosen: `waxseal mode audit --all` lets everything pass on this node and reports what would have
been denied, whatever anybody says. It outlives a restart, too. `waxseal mode reset` ends it.";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Show how strict each workload is, and who says so
    Show(Output),
    /// Set the mode of a workload or namespace
    Set(Set),
    /// Let everything pass; record what would be denied
    Permissive(Ceiling),
    /// Let everything pass; report what would be denied
    Audit(Ceiling),
    /// Lift the ceiling, as `reset` does: every workload has its own mode again
    Enforce(Ceiling),
    /// Lift the ceiling, or end what was set for a workload or namespace
    Reset(Reset),
}

#[derive(Debug, Args)]
struct Ceiling {
    /// Yes, for every workload of this node
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Set {
    #[command(flatten)]
    whose: Whose,
    /// How strict
    #[arg(value_name = "MODE")]
    mode: Strictness,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Reset {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Whose {
    /// One workload
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "namespace")]
    workload: Option<String>,
    /// The workloads of a namespace that have no mode of their own
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Strictness {
    /// Let everything pass; record what would be denied
    Permissive,
    /// Let everything pass; report what would be denied
    Audit,
    /// Deny what the rules deny
    Enforce,
}

impl From<Strictness> for Mode {
    fn from(strictness: Strictness) -> Self {
        match strictness {
            Strictness::Permissive => Self::Permissive,
            Strictness::Audit => Self::Audit,
            Strictness::Enforce => Self::Enforce,
        }
    }
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let (change, Output { output }) = match &arguments.change {
        None => (ModeChange::Show, arguments.output),
        Some(Change::Show(output)) => (ModeChange::Show, *output),
        Some(Change::Set(set)) => (set.change()?, set.output),
        Some(Change::Permissive(ceiling)) => (ceiling.change(Mode::Permissive)?, ceiling.output),
        Some(Change::Audit(ceiling)) => (ceiling.change(Mode::Audit)?, ceiling.output),
        Some(Change::Enforce(ceiling)) => (ceiling.change(Mode::Enforce)?, ceiling.output),
        Some(Change::Reset(reset)) => (reset.change(), reset.output),
    };
    let report: ModeReport = common.connect()?.ask(&Request::Mode(change))?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => write(&render(&report))?,
    }
    warn(&report);
    Ok(Exit::Done)
}

impl Whose {
    fn level(&self) -> Option<Level> {
        let workload = self.workload.clone().map(Level::Workload);
        workload.or_else(|| self.namespace.clone().map(Level::Namespace))
    }
}

impl Set {
    fn change(&self) -> Result<ModeChange, Ended> {
        let mode = Mode::from(self.mode);
        let level = self.whose.level().ok_or_else(|| Ended {
            exit: Exit::Invalid,
            message: format!(
                "for whom? waxseal mode set --workload NAMESPACE/NAME {0}, or --namespace NAMESPACE {0}",
                mode.as_str()
            ),
        })?;
        Ok(ModeChange::Set { level, mode })
    }
}

impl Reset {
    fn change(&self) -> ModeChange {
        self.whose.level().map_or(ModeChange::Reset, |level| ModeChange::Unset { level })
    }
}

impl Ceiling {
    fn change(&self, mode: Mode) -> Result<ModeChange, Ended> {
        if self.all {
            return Ok(if mode == Mode::Enforce { ModeChange::Reset } else { ModeChange::Ceiling { mode } });
        }
        let word = mode.as_str();
        let message = format!(
            "this would change every workload of the node; say so: waxseal mode {word} --all\n  \
             (for one workload: waxseal mode set --workload NAMESPACE/NAME {word})"
        );
        Err(Ended { exit: Exit::Invalid, message })
    }
}

fn render(report: &ModeReport) -> String {
    let mut out = format!("node: {}", sentence(report));
    out.push_str(&set_lines(&report.set, ""));
    if !report.workloads.is_empty() {
        let mut table = Table::new(["WORKLOAD", "MODE", "FROM"]);
        for WorkloadMode { workload, mode, from } in &report.workloads {
            table.row([workload.clone().into(), mode.as_str().into(), from.clone().into()]);
        }
        let _infallible = write!(out, "\n{}", table.render());
    }
    out
}

/// What was set at run time, a line each. Shared with `waxseal status`.
pub(super) fn set_lines(set: &[ModeSet], indent: &str) -> String {
    let mut out = String::new();
    for ModeSet { level, mode, since } in set {
        let whose = match level {
            Level::Workload(name) => format!("workload {name}"),
            Level::Namespace(name) => format!("namespace {name}"),
        };
        let _infallible = writeln!(out, "{indent}set: {whose} is {} since {since}", mode.as_str());
    }
    out
}

/// The mode in words. Shared with `waxseal status`.
pub(super) fn sentence(report: &ModeReport) -> String {
    let ModeReport { default, ceiling, since, .. } = report;
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
        let report = |ceiling, since| ModeReport {
            default: Mode::Audit,
            ceiling,
            since,
            set: vec![],
            workloads: vec![],
        };
        assert_eq!(
            sentence(&report(Mode::Enforce, None)),
            "audit unless a workload, a policy or a namespace says otherwise\n"
        );
        assert_eq!(
            sentence(&report(Mode::Permissive, Some(crate::flows::Time(0)))),
            "audit unless a workload, a policy or a namespace says otherwise; CEILING permissive since 1970-01-01T00:00:00.000Z\n"
        );
    }

    #[test]
    fn every_workload_is_shown_with_who_says_how_strict_it_is() {
        let workload = |name: &str, mode, from: &str| WorkloadMode {
            workload: name.to_owned(),
            mode,
            from: from.to_owned(),
        };
        let set = |level| ModeSet { level, mode: Mode::Enforce, since: crate::flows::Time(0) };
        let report = ModeReport {
            default: Mode::Permissive,
            ceiling: Mode::Enforce,
            since: None,
            set: vec![set(Level::Workload("shop/web".to_owned())), set(Level::Namespace("data".to_owned()))],
            workloads: vec![
                workload("shop/api", Mode::Permissive, "the node's configuration"),
                workload("shop/web", Mode::Enforce, "set for the workload at 1970-01-01T00:00:00.000Z"),
            ],
        };
        expect_test::expect![[r"
            node: permissive unless a workload, a policy or a namespace says otherwise
            set: workload shop/web is enforce since 1970-01-01T00:00:00.000Z
            set: namespace data is enforce since 1970-01-01T00:00:00.000Z

            WORKLOAD  MODE        FROM
            shop/api  permissive  the node's configuration
            shop/web  enforce     set for the workload at 1970-01-01T00:00:00.000Z
        "]]
        .assert_eq(&render(&report));
    }

    #[test]
    fn a_mode_is_set_for_somebody() {
        let whose = |workload: Option<&str>, namespace: Option<&str>| Whose {
            workload: workload.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
        };
        let output = Output { output: Format::Table };
        let set = |whose| Set { whose, mode: Strictness::Audit, output };
        assert_eq!(set(whose(None, None)).change().unwrap_err().exit, Exit::Invalid);
        let level = Level::Namespace("shop".to_owned());
        assert_eq!(
            set(whose(None, Some("shop"))).change().unwrap(),
            ModeChange::Set { level: level.clone(), mode: Mode::Audit }
        );
        assert_eq!(Reset { whose: whose(None, Some("shop")), output }.change(), ModeChange::Unset { level });
        assert_eq!(Reset { whose: whose(None, None), output }.change(), ModeChange::Reset);
    }
}
