//! What needs root says so, and asks sudo for that part only.

use std::env;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::place::on_path;
use crate::process::{attended, is_root};

/// Starts this program again as root when we are not. True when that was done, and succeeded.
pub(crate) fn again_as_root(why: &str, arguments: &[&str]) -> anyhow::Result<bool> {
    if is_root() {
        return Ok(false);
    }
    must_be_possible(why)?;
    eprintln!("{why}: that needs root, so sudo is asked for that part");
    let this = env::current_exe().context("this program has no path")?;
    let mut sudo = Command::new("sudo");
    sudo.arg("--").arg("env");
    // sudo clears the environment; these say where things are.
    for name in ["PATH", "CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR"] {
        if let Ok(value) = env::var(name) {
            sudo.arg(format!("{name}={value}"));
        }
    }
    attended(sudo.arg(this).args(arguments))?;
    Ok(true)
}

/// An error when we are not root and cannot become it. To be asked before long work that would be in vain.
pub(crate) fn must_be_possible(why: &str) -> anyhow::Result<()> {
    if !is_root() && on_path("sudo").is_none() {
        bail!("{why}: that needs root, and there is no sudo here. Run this task as root");
    }
    Ok(())
}
