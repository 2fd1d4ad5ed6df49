//! Builds the kernel programs, then the agent, which finds the object in the build directory and takes it inside.

use std::env;
use std::process::Command;

use crate::ebpf;
use crate::place::Place;
use crate::process::step;

/// Which build of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Fast to build.
    Debug,
    /// Fast to run.
    Release,
}

/// Options of `cargo xtask build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The optimized build.
    #[arg(long)]
    release: bool,
}

impl Options {
    /// The profile asked for.
    pub(crate) fn profile(&self) -> Profile {
        if self.release { Profile::Release } else { Profile::Debug }
    }
}

/// Builds both. Kernel programs that somebody else has built can be named by `WAXSEAL_EBPF_OBJECT`.
pub(crate) fn run(place: &Place, profile: Profile) -> anyhow::Result<()> {
    match env::var_os("WAXSEAL_EBPF_OBJECT") {
        Some(given) => eprintln!("taking the kernel programs from {}", given.display()),
        None => drop(ebpf::build(place)?),
    }
    let mut command = Command::new("cargo");
    command.current_dir(&place.root).args(["build", "--package", "waxseal"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    step(place, "build", "building the agent", &mut command)
}
