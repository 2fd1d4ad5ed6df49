//! The command line. Data goes to stdout, everything else to stderr; meaning never depends on colour.

mod agent;
mod ca;
mod configuration;
mod doctor;
mod exit;
mod generate;
mod list;
mod mode;
mod output;
mod policy;
mod report;
mod session;
mod status;
mod tap;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::{Args, Parser, Subcommand};

use crate::api::{Client, ClientError};
use crate::config::{self, Config, Inputs, Resolved};
use exit::{CODES, Exit};
use output::Format;

/// Identities for workloads, checked in the kernel.
///
/// Start by looking: `waxseal agent` gives every workload its identity and denies nothing until told to, and
/// `waxseal tap` shows who talks to whom.
#[derive(Debug, Parser)]
#[command(name = "waxseal", version, after_help = CODES, propagate_version = true, subcommand_required = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Which configuration holds.
#[derive(Debug, Args)]
struct Common {
    /// Read this configuration file instead of /etc/waxseal/agent.yaml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one value of the configuration; `waxseal config` lists the keys
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Which agent of this machine is meant
    #[arg(long, global = true, value_name = "NAME")]
    instance: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground
    Agent(agent::Arguments),
    /// Show connections as they are judged
    Tap(Box<tap::Arguments>),
    /// Show how the agent is
    Status(Output),
    /// Check whether this host can enforce, and say what to do when not
    Doctor(doctor::Arguments),
    /// The running instances of workloads
    #[command(subcommand)]
    Endpoint(list::Endpoints),
    /// The identities of this node
    #[command(subcommand)]
    Identity(list::Identities),
    /// The sessions with workloads of other nodes
    #[command(subcommand)]
    Session(session::Sessions),
    /// Check and explain policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Make and run the CA that signs the certificates of nodes and workloads
    #[command(subcommand, after_help = ca::AFTER_HELP)]
    Ca(ca::Command),
    /// Show and set how strict workloads are; loosen the whole node, in an emergency
    #[command(after_help = mode::AFTER_HELP)]
    Mode(mode::Arguments),
    /// Show what would break if workloads went one step stricter
    #[command(after_help = report::AFTER_HELP)]
    Report(report::Arguments),
    /// Show every value of the configuration and where it comes from
    #[command(after_help = configuration::after_help())]
    Config(Output),
    /// Remove every program, link and map of this instance from the kernel
    Uninstall(Output),
    /// Write completions for a shell to stdout
    Completions(generate::Completions),
    /// Write the manual page to stdout
    Man(generate::Man),
}

/// How to write.
#[derive(Clone, Copy, Debug, Args)]
struct Output {
    /// For whom to write
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    run(std::env::args_os()).into()
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _nowhere_to_write = error.print();
            return if error.use_stderr() { Exit::Invalid } else { Exit::Done };
        }
    };
    match dispatch(cli) {
        Ok(exit) => exit,
        Err(error) if exit::is_broken_pipe(&error) => Exit::Done,
        Err(error) => {
            let exit = exit::of(&error);
            complain(&error, exit.hint());
            exit
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { common, command } = cli;
    match command {
        Command::Agent(arguments) => agent::run(&common, &arguments),
        Command::Tap(arguments) => tap::run(&common, &arguments),
        Command::Status(Output { output }) => status::run(&common, output),
        Command::Doctor(arguments) => doctor::run(&common, &arguments),
        Command::Endpoint(command) => list::endpoints(&common, &command),
        Command::Identity(command) => list::identities(&common, &command),
        Command::Session(command) => session::run(&common, &command),
        Command::Policy(command) => policy::run(&common, command),
        Command::Ca(command) => ca::run(&common, command),
        Command::Mode(arguments) => mode::run(&common, &arguments),
        Command::Report(arguments) => report::run(&common, arguments),
        Command::Config(Output { output }) => configuration::run(&common, output),
        Command::Uninstall(Output { output }) => agent::uninstall(&common, output),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
    }
}

impl Common {
    /// The configuration, with the flags of a command on top.
    fn resolve(&self, flags: &[(&'static str, String)]) -> Result<Resolved, config::Error> {
        let mut flags = flags.to_vec();
        flags.extend(self.instance.clone().map(|instance| ("instance", instance)));
        config::resolve(&Inputs {
            file: self.config.as_deref(),
            environment: &|name| std::env::var(name).ok(),
            set: &self.set,
            flags: &flags,
        })
    }

    fn configuration(&self) -> Result<Config, config::Error> {
        Ok(self.resolve(&[])?.config)
    }

    /// A connection to the agent that is meant.
    fn connect(&self) -> anyhow::Result<Client> {
        Ok(connect(&self.configuration()?)?)
    }
}

fn connect(config: &Config) -> Result<Client, ClientError> {
    Client::connect(&config.socket())
}

/// The error and its causes on one line, then the hint.
fn complain(error: &anyhow::Error, hint: Option<&str>) {
    let mut out = anstream::stderr().lock();
    let red = AnsiColor::Red.on_default().bold();
    let _nowhere_to_write = writeln!(out, "{red}error{red:#}: {}", chain(error));
    if let Some(hint) = hint {
        let bold = Style::new().bold();
        let _nowhere_to_write = writeln!(out, "{bold}hint{bold:#}: {hint}");
    }
}

/// Causes that only repeat what stands before them are left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
