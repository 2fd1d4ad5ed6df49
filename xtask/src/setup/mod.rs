//! Finds or installs what the eBPF build needs. Two ways, the first that fits:
//!
//! 1. the rustup toolchain with `rust-src`: `core` is built for BPF from source;
//! 2. a distribution's compiler that carries `core` for BPF (Debian's `rustc-web`).
//!
//! Both need `bpf-linker`, linked to an LLVM at least as new as the compiler's. `facts` looks, `plan` decides (pure),
//! `install` acts. When nothing is missing nothing is printed and nothing changes.

mod facts;
mod install;
mod plan;

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::place::Place;
use crate::process::answer;
use facts::Facts;
use plan::{Plan, Step};

/// The version of bpf-linker the object is known to work with.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// Options of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only say which way would be taken, and why.
    #[arg(long)]
    explain: bool,
}

/// How `core` for BPF is had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// rustup's compiler builds it from `rust-src`.
    RustSrc {
        /// The cargo of `PATH`.
        cargo: PathBuf,
        /// The compiler of `PATH`.
        rustc: PathBuf,
    },
    /// A distribution's compiler has it built.
    Prebuilt {
        /// That distribution's cargo.
        cargo: PathBuf,
        /// That distribution's compiler.
        rustc: PathBuf,
    },
}

/// Everything the eBPF build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// Who compiles.
    pub(crate) compiler: Compiler,
    /// Who links.
    pub(crate) linker: PathBuf,
}

/// `cargo xtask setup`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    let facts = Facts::gather(place);
    let plan = plan::plan(&facts);
    if options.explain {
        explain(&facts, &plan);
        return Ok(());
    }
    if let Plan::Ready(_) = plan {
        println!("setup: nothing to do");
        return Ok(());
    }
    install::until_ready(place, facts, plan).map(drop)
}

/// The toolchain, after installing what is missing. Silent when nothing is.
pub(crate) fn ensure(place: &Place) -> anyhow::Result<Toolchain> {
    let facts = Facts::gather(place);
    let plan = plan::plan(&facts);
    install::until_ready(place, facts, plan)
}

/// The host's target name, as rustc says it.
pub(crate) fn host() -> anyhow::Result<String> {
    let text = answer(Command::new("rustc").arg("-vV")).context("ask rustc for its host")?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(host.to_owned())
}

fn explain(facts: &Facts, plan: &Plan) {
    println!("{facts}");
    match plan {
        Plan::Ready(Toolchain { compiler, linker }) => {
            let way = match compiler {
                Compiler::RustSrc { .. } => "rustup with rust-src",
                Compiler::Prebuilt { .. } => "the distribution's compiler with core for BPF",
            };
            println!("way: {way}, linked by {}", linker.display());
            println!("nothing is missing");
        }
        Plan::Missing(step) => println!("next step: {step}"),
        Plan::Stuck(why) => println!("cannot go on: {why}"),
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddRustSrc => f.write_str("rustup component add rust-src"),
            Self::InstallPackages(names) => write!(f, "install Debian packages: {}", names.join(" ")),
            Self::BuildLinker { llvm, .. } => write!(f, "build bpf-linker {BPF_LINKER} with LLVM {llvm}"),
        }
    }
}
