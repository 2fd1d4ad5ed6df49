//! `cargo xtask nightly`: what takes too long for each change. Random documents by the million, and every fuzz target for
//! minutes.

use std::process::Command;

use crate::fuzz;
use crate::place::Place;
use crate::process::attended;

/// Options of `cargo xtask nightly`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Random documents and connections, of which each must mean the same in the tables, by the reference evaluator, and,
    /// for documents of other systems, by their own rules.
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// How long each fuzz target is worked; 0 for none.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// The first random world; another one asks other questions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// `cargo xtask nightly`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command
        .current_dir(&place.root)
        .args(["test", "--locked", "--package", "waxseal", "--lib", "policy::tests"])
        .env("WAXSEAL_CASES", options.cases.to_string())
        .env("WAXSEAL_SEED", options.seed.to_string())
        .env("WAXSEAL_FUZZ_SECONDS", "30");
    attended(&mut command)?;
    if options.seconds > 0 {
        fuzz::run(place, &fuzz::Options::all(options.seconds))?;
    }
    Ok(())
}
