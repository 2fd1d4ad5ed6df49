//! What enforcement and policies cost: runs the committed benchmarks on optimized builds.

use std::ffi::{OsStr, OsString};
use std::process::Command;

use crate::place::Place;
use crate::process::{attended, step};
use crate::{build, privilege};

/// Why root is needed.
const WHY: &str = "the benchmark makes cgroups and loads kernel programs";

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What is measured
    #[arg(value_enum, default_value_t)]
    what: What,
    /// Use what is built already. Set when this task starts itself again as root.
    #[arg(long, hide = true)]
    built: bool,
    /// Handed to the benchmark.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// What enforcement costs connections
    #[default]
    Connections,
    /// What policies cost: reading, compiling, one change of ten thousand documents, verdicts in the kernel
    Policy,
}

/// `cargo xtask bench`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    match options.what {
        What::Connections => connections(place, options),
        What::Policy => policy(place, options),
    }
}

/// First what needs neither root nor kernel programs.
fn policy(place: &Place, options: &Options) -> anyhow::Result<()> {
    if !options.built {
        documents(place, options)?;
    }
    in_the_kernel(place, options, "policy", &["--part", "policies"])
}

fn documents(place: &Place, options: &Options) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(&place.root).args(["run", "--quiet", "--release", "--package", "waxseal"]);
    command.args(["--example", "waxseal-bench-policy", "--"]).args(&options.arguments);
    attended(&mut command)
}

fn connections(place: &Place, options: &Options) -> anyhow::Result<()> {
    let arguments: Vec<&OsStr> = options.arguments.iter().map(OsString::as_os_str).collect();
    in_the_kernel(place, options, "connections", &arguments)
}

fn in_the_kernel(
    place: &Place,
    options: &Options,
    what: &str,
    arguments: &[impl AsRef<OsStr>],
) -> anyhow::Result<()> {
    privilege::must_be_possible(WHY)?;
    if !options.built {
        build::run(place, build::Profile::Release)?;
        let mut command = Command::new("cargo");
        command.current_dir(&place.root).args(["build", "--release", "--package", "waxseal-tests", "--bins"]);
        step(place, "build-bench", "building the benchmark", &mut command)?;
    }
    let mut again = vec!["bench".to_owned(), what.to_owned(), "--built".to_owned(), "--".to_owned()];
    again.extend(options.arguments.iter().map(|argument| argument.to_string_lossy().into_owned()));
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    if privilege::again_as_root(WHY, &again)? {
        return Ok(());
    }
    let mut command = Command::new(place.binary("release", "waxseal-bench"));
    attended(command.current_dir(&place.root).args(arguments))
}
