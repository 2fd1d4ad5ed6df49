//! `waxseal policy check`, `explain` and `get`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::exit::{Ended, Exit};
use super::output::{Format, write, write_json};
use super::{Common, Output, connect, status};
use crate::api::{ExplainReport, PolicyReport, Question, Request};
use crate::policy::{self, CheckOptions, NodeDefaults, Ownership, Ports};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check policy files and say what each became
    Check(Check),
    /// Say what would be decided about a connection, and why
    Explain(Explain),
    /// Put the cases of a file to the policies: what should be allowed, what denied, by which rule
    Test(Test),
    /// Print the JSON Schema of the native documents, for editors
    Schema,
    /// Show the set of policies in force, and what is wrong with a newer one
    Get(Output),
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Files and directories; the configured policies directory when none is given
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Workloads that no document describes, as `waxseal identity list -o json` prints them
    #[arg(long, value_name = "FILE")]
    workloads: Option<PathBuf>,
    /// End with 1 when there are warnings
    #[arg(long)]
    strict: bool,
    /// Output for people, with compiled rows as well, or for programs
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: CheckFormat,
}

/// [`Format`] with one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// For people: what each document became, in words.
    Table,
    /// The same with the compiled rows of each document.
    Wide,
    /// For programs: one JSON object, compiled rows included.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// The cases: a list of from, to, port, expect and, if wanted, rule and name
    #[arg(value_name = "CASES.yaml")]
    cases: PathBuf,
    /// The policies; else those that the file of cases names under `files`, else the configured directory
    #[arg(long, value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The opener: namespace/name, SPIFFE ID, labels as namespace/key=value, number, address, or a word as world
    #[arg(long, value_name = "WHO", required_unless_present = "flow")]
    from: Option<String>,
    /// The acceptor
    #[arg(long, value_name = "WHO", required_unless_present = "flow")]
    to: Option<String>,
    /// The acceptor's port as in a rule: 8080/tcp, 53/udp
    #[arg(long, value_name = "PORT", value_parser = port, required_unless_present = "flow")]
    port: Option<String>,
    /// A connection that the agent has seen lately, by the `cookie` that `waxseal tap -o json` shows
    #[arg(long, value_name = "COOKIE", conflicts_with_all = ["from", "to", "port", "files"])]
    flow: Option<u64>,
    /// Explain these files instead of what the agent has in force
    #[arg(long, value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Workloads that no document describes, as `waxseal identity list -o json` prints them
    #[arg(long, value_name = "FILE", requires = "files")]
    workloads: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// The port stays as it is written; a slip in it is told before anybody is asked.
fn port(text: &str) -> Result<String, String> {
    Ports::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) fn run(common: &Common, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Check(arguments) => check(common, arguments),
        Command::Explain(arguments) => explain(common, arguments),
        Command::Test(arguments) => test(common, arguments),
        Command::Schema => {
            write(policy::SCHEMA)?;
            Ok(Exit::Done)
        }
        Command::Get(Output { output }) => get(common, output),
    }
}

fn get(common: &Common, output: Format) -> anyhow::Result<Exit> {
    let report: PolicyReport = common.connect()?.ask(&Request::Policy)?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => {
            let mut out = String::new();
            status::policy(&report, &mut out);
            for name in &report.names {
                out.push_str(name);
                out.push('\n');
            }
            write(&out)?;
        }
    }
    Ok(Exit::Done)
}

fn check(common: &Common, arguments: Check) -> anyhow::Result<Exit> {
    let Check { paths, workloads, strict, output } = arguments;
    let config = common.configuration()?;
    let paths = if paths.is_empty() { vec![config.policies] } else { paths };
    let options =
        CheckOptions { strict, rows: output != CheckFormat::Table, workloads: workloads.as_deref() };
    let report = policy::check_with(&paths, &config.trust_domain, options);
    match output {
        CheckFormat::Json => write_json(&report)?,
        CheckFormat::Table | CheckFormat::Wide => write(&report.to_string())?,
    }
    Ok(match report.exit_code() {
        0 => Exit::Done,
        1 => Exit::Failed,
        _ => Exit::Invalid,
    })
}

fn explain(common: &Common, arguments: Explain) -> anyhow::Result<Exit> {
    let Explain { from, to, port, flow, files, workloads, output: Output { output } } = arguments;
    let config = common.configuration()?;
    if let Some(cookie) = flow {
        let report: ExplainReport = connect(&config)?.ask(&Request::ExplainFlow { cookie })?;
        return answer(output, &report.explanation, &report.text);
    }
    let [from, to, port] = [from, to, port].map(Option::unwrap_or_default);
    if files.is_empty() {
        let question = Question { from, to, port };
        let report: ExplainReport = connect(&config)?.ask(&Request::Explain(question))?;
        return answer(output, &report.explanation, &report.text);
    }
    let invalid = |message: String| Ended { exit: Exit::Invalid, message };
    let mut set = policy::load_from(&files, &config.trust_domain, Ownership::Anybody)
        .map_err(|errors| invalid(errors.to_string()))?;
    if let Some(file) = workloads {
        set.add_workloads(&file, &config.trust_domain).map_err(|errors| invalid(errors.to_string()))?;
    }
    let defaults = NodeDefaults { mode: config.mode, mesh: config.mesh, local: Vec::new() };
    let identities = policy::expected_identities(&set);
    let explanation = policy::explain(&set, &identities, &defaults, &from, &to, &port)
        .map_err(|error| invalid(error.to_string()))?;
    answer(output, &explanation, &explanation.to_string())
}

fn test(common: &Common, arguments: Test) -> anyhow::Result<Exit> {
    let Test { cases, files, output: Output { output } } = arguments;
    let config = common.configuration()?;
    let defaults = NodeDefaults { mode: config.mode, mesh: config.mesh, local: Vec::new() };
    let report = policy::check_cases(&cases, &files, &config.policies, &config.trust_domain, &defaults)
        .map_err(|errors| Ended { exit: Exit::Invalid, message: errors.to_string() })?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => write(&report.to_string())?,
    }
    Ok(if report.failed == 0 { Exit::Done } else { Exit::Failed })
}

fn answer(output: Format, explanation: &impl Serialize, text: &str) -> anyhow::Result<Exit> {
    match output {
        Format::Json => write_json(explanation)?,
        Format::Table => write(&format!("{}\n", text.trim_end()))?,
    }
    Ok(Exit::Done)
}
