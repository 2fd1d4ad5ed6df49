//! Debian packages, for what cargo cannot bring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::place::{Place, on_path};
use crate::process::{answer, as_root, step};

/// Installs packages. The lists are fetched first only when a name is not known.
pub(crate) fn install(place: &Place, names: &[&str]) -> anyhow::Result<()> {
    if on_path("apt-get").is_none() {
        bail!("this machine has no apt-get: install these by hand: {}", names.join(" "));
    }
    update_if_unknown(place, names)?;
    let unknown: Vec<&str> = names.iter().copied().filter(|name| !known(name)).collect();
    if !unknown.is_empty() {
        bail!("this release has no package {}", unknown.join(", "));
    }
    let what = format!("installing packages: {}", names.join(" "));
    // A package that is a service starts it; what is installed here is started by its user, elsewhere and otherwise.
    let mut command = as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "-y", "-q"]);
    step(place, "apt-install", &what, command.arg("--no-install-recommends").args(names))
}

/// Fetches packages with all they need that is not installed here, without installing anything. Needs no root.
/// Returns the files.
pub(crate) fn fetch(place: &Place, names: &[&str], directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let partial = directory.join("partial");
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    update_if_unknown(place, names)?;
    let mut command = Command::new("apt-get");
    command.args(["-q", "-y", "-o", "Debug::NoLocking=1", "-o"]);
    command.arg(format!("Dir::Cache::archives={}/", directory.display()));
    command.args(["--download-only", "--reinstall", "--no-install-recommends", "install"]).args(names);
    step(place, "apt-fetch", &format!("fetching packages: {}", names.join(" ")), &mut command)?;
    packages(directory)
}

/// Fetches one package's file alone, and returns its path.
pub(crate) fn download(place: &Place, name: &str, directory: &Path) -> anyhow::Result<PathBuf> {
    let prefix = format!("{name}_");
    let have = || {
        let files = packages(directory).ok()?;
        files
            .into_iter()
            .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
    };
    if let Some(file) = have() {
        return Ok(file);
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    update_if_unknown(place, &[name])?;
    let mut command = Command::new("apt-get");
    command.args(["download", "-q", name]).current_dir(directory);
    step(place, "apt-download", &format!("fetching package: {name}"), &mut command)?;
    have().with_context(|| format!("apt-get put no {name} into {}", directory.display()))
}

/// Unpacks a package's files below `root`.
pub(crate) fn unpack(package: &Path, root: &Path) -> anyhow::Result<()> {
    let status =
        Command::new("dpkg-deb").arg("-x").arg(package).arg(root).status().context("start dpkg-deb")?;
    ensure!(status.success(), "dpkg-deb -x {}: {status}", package.display());
    Ok(())
}

/// Fetches the package lists when a name is not known.
pub(crate) fn update_if_unknown(place: &Place, names: &[&str]) -> anyhow::Result<()> {
    if names.iter().all(|name| known(name)) {
        return Ok(());
    }
    let mut update = as_root("apt-get")?;
    step(place, "apt-update", "fetching the package lists", update.args(["update", "-q"]))
}

/// The package manager can install it.
fn known(name: &str) -> bool {
    let policy =
        answer(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", name])).unwrap_or_default();
    policy.lines().any(|line| line.trim_start().starts_with("Candidate:") && !line.ends_with("(none)"))
}

fn packages(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    Ok(files.filter(|file| file.extension().is_some_and(|ending| ending == "deb")).collect())
}
