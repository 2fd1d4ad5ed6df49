//! What a person types: `cargo xtask up`, `demo`, `test`, and the steps they are made of.
//!
//! One command a file or folder. `setup` comes first in all that build. `process` starts children and shows progress,
//! `place` knows where things lie, `stage` puts things on this machine and takes them away again. Nothing here is part
//! of the product: it calls the same binaries a user would.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod build;
mod demo;
mod ebpf;
mod fuzz;
mod interrupt;
mod kernels;
mod nightly;
mod place;
mod privilege;
mod process;
mod setup;
mod stage;
mod test;
mod tidy;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::place::Place;

/// Builds, runs, shows and tests Waxseal.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Watch this host: build, start the agent in audit, open the tap. Ctrl-C removes all of it.
    Up(up::Options),
    /// Three real services, what they may do and what is refused, and why.
    Demo(demo::Options),
    /// Everything that CI runs.
    Test(test::Options),
    /// Damaged input for every parser, by libFuzzer. Without names all of them are worked.
    Fuzz(fuzz::Options),
    /// What takes too long for each change: random policies by the million, fuzzing for minutes.
    Nightly(nightly::Options),
    /// What enforcement costs.
    Bench(bench::Options),
    /// Find or install what the eBPF build needs. Changes nothing when nothing is missing.
    Setup(setup::Options),
    /// Build the kernel programs and the agent.
    Build(build::Options),
    /// Build only the kernel programs, into target/bpf/waxseal.bpf.o.
    BuildEbpf,
    /// The smoke test on Debian's 6.1 kernel, under QEMU.
    Kernels(kernels::Options),
    /// The rules of the house that no compiler checks.
    Tidy,
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    let place = Place::find()?;
    match task {
        Task::Up(options) => up::run(&place, &options),
        Task::Demo(options) => demo::run(&place, &options),
        Task::Test(options) => test::run(&place, &options),
        Task::Fuzz(options) => fuzz::run(&place, &options),
        Task::Nightly(options) => nightly::run(&place, &options),
        Task::Bench(options) => bench::run(&place, &options),
        Task::Setup(options) => setup::run(&place, &options),
        Task::Build(options) => build::run(&place, options.profile()),
        Task::BuildEbpf => ebpf::build(&place).map(drop),
        Task::Kernels(options) => kernels::run(&place, &options),
        Task::Tidy => tidy::run(&place),
    }
}
