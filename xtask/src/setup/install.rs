//! Does what the plan says, one step at a time, and looks again after each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::facts::Facts;
use super::plan::{self, DEBIAN_COMPILER, Plan, Step};
use super::{BPF_LINKER, Toolchain};
use crate::apt;
use crate::place::Place;
use crate::process::step;

/// Seconds for `rustup component add`: a machine that cannot reach its server shall not wait longer.
const RUSTUP_PATIENCE: &str = "120";

/// Installs until nothing is missing, or says what is.
pub(crate) fn until_ready(place: &Place, mut facts: Facts, mut plan: Plan) -> anyhow::Result<Toolchain> {
    let mut done: Vec<Step> = Vec::new();
    loop {
        let step = match plan {
            Plan::Ready(toolchain) => return Ok(toolchain),
            Plan::Stuck(why) => bail!("setup: {why}"),
            Plan::Missing(step) => step,
        };
        if done.contains(&step) {
            bail!(
                "setup: `{step}` was done and did not help; `cargo xtask setup --explain` shows what is found"
            );
        }
        let rustup_gone = perform(place, &facts, &step)?;
        done.push(step);
        facts = Facts::gather(place);
        if rustup_gone {
            facts.rustup = false;
        }
        plan = plan::plan(&facts);
    }
}

/// Does one step. True when rustup turned out to be of no use, and the next way is to be taken.
fn perform(place: &Place, facts: &Facts, wanted: &Step) -> anyhow::Result<bool> {
    match wanted {
        Step::AddRustSrc => {
            let mut rustup = Command::new("timeout");
            rustup.args([RUSTUP_PATIENCE, "rustup", "component", "add", "rust-src"]);
            let added =
                step(place, "rust-src", "setup: adding rust-src to the toolchain with rustup", &mut rustup);
            match added {
                Ok(()) => Ok(false),
                Err(error) if facts.apt && facts.may_install => {
                    eprintln!("setup: {error:#}; trying the Debian packages {}", DEBIAN_COMPILER.join(" "));
                    Ok(true)
                }
                Err(error) => Err(error),
            }
        }
        Step::InstallPackages(names) => apt::install(place, names).map(|()| false),
        Step::BuildLinker { cargo, rustc, llvm, library } => {
            build_linker(place, cargo, rustc, *llvm, library).map(|()| false)
        }
    }
}

/// Builds bpf-linker against the shared LLVM of the compiler itself: no LLVM package is needed, and the versions
/// cannot differ. It goes under the build directory, because it lives and dies with that compiler.
fn build_linker(place: &Place, cargo: &Path, rustc: &Path, llvm: u32, library: &Path) -> anyhow::Result<()> {
    let prefix = place.tools().join("llvm");
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("create {}", lib.display()))?;
    let link = lib.join("libLLVM.so");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
    }
    symlink(library, &link).with_context(|| format!("link {}", link.display()))?;
    let directory = library.parent().context("the LLVM library has no directory")?;

    let mut command = Command::new(cargo);
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--locked",
            "--force",
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(place.tools())
        .arg("--target-dir")
        .arg(place.tools().join("build"))
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTC", rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", directory.display()))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        // Out of the workspace, whose settings are not for this program.
        .current_dir(place.tools());
    let what = format!("setup: building bpf-linker {BPF_LINKER} with LLVM {llvm}");
    step(place, "bpf-linker", &what, &mut command)
}
