//! The steps, cheapest first, so that a slip shows early.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use super::counts::{self, Counts};
use super::{Outcome, Step, guards};
use crate::place::{Place, is_program, on_path};
use crate::process::{is_root, step};
use crate::{demo, ebpf, fuzz, kernels, setup, tidy};

/// The version of cargo-deny that is installed when none is there.
const CARGO_DENY: &str = "0.20.2";

/// All steps.
pub(super) const ALL: &[Step] = &[
    Step { name: "format", root: false, run: format },
    Step { name: "tidy", root: false, run: |place| done(tidy::run(place)) },
    Step { name: "kernel programs", root: false, run: |place| done(ebpf::build(place).map(drop)) },
    Step { name: "lint", root: false, run: lint },
    Step { name: "lint kernel programs", root: false, run: lint_kernel_programs },
    Step { name: "dependencies", root: false, run: dependencies },
    Step { name: "build", root: false, run: build },
    Step { name: "host tests", root: false, run: host_tests },
    Step { name: "guards", root: false, run: guards::run },
    Step { name: "documentation tests", root: false, run: documentation_tests },
    Step { name: "fuzz", root: false, run: fuzz },
    Step { name: "system tests", root: true, run: system_tests },
    Step { name: "kernels", root: false, run: |place| done(kernels::run(place, &kernels::Options::built())) },
    Step { name: "demo", root: true, run: |place| done(demo::run(place, &demo::Options::built())) },
];

/// We are root, or can be for a part.
pub(super) fn may_be_root() -> bool {
    is_root() || on_path("sudo").is_some()
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<Outcome> {
    result.map(|()| Outcome::Ran(Counts::success()))
}

fn cargo(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(&place.root).args(arguments);
    command
}

fn format(place: &Place) -> anyhow::Result<Outcome> {
    done(step(place, "format", "checking the format", &mut cargo(place, &["fmt", "--all", "--check"])))
}

fn lint(place: &Place) -> anyhow::Result<Outcome> {
    let arguments = [
        "clippy",
        "--workspace",
        "--exclude",
        "waxseal-ebpf",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    done(step(place, "lint", "clippy", &mut cargo(place, &arguments)))
}

/// The kernel programs are linted on the host, where clippy is; a program without `std` needs another panic strategy.
fn lint_kernel_programs(place: &Place) -> anyhow::Result<Outcome> {
    let arguments =
        ["clippy", "--package", "waxseal-ebpf", "--locked", "--", "-D", "warnings", "-C", "panic=abort"];
    done(step(place, "lint-ebpf", "clippy on the kernel programs", &mut cargo(place, &arguments)))
}

/// Licences, banned crates and sources. Advisories need a database from the network: without it that part is left out
/// and says so.
fn dependencies(place: &Place) -> anyhow::Result<Outcome> {
    let deny = cargo_deny(place)?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&deny);
        command.current_dir(&place.root).args(["--locked", "check"]).args(what);
        command
    };
    step(place, "deny", "checking licences, bans and sources", &mut check(&["bans", "licenses", "sources"]))?;
    let advisories = check(&["advisories"]).output().context("start cargo-deny")?;
    let words = String::from_utf8_lossy(&advisories.stderr);
    if advisories.status.success() {
        eprintln!("advisories: none");
    } else if words.contains("failed to fetch advisory database") || words.contains("failed to load advisory")
    {
        eprintln!("advisories: left out, the database cannot be fetched from here");
    } else {
        eprint!("{words}");
        return Ok(Outcome::Ran(Counts { passed: 1, failed: 1 }));
    }
    Ok(Outcome::Ran(Counts::success()))
}

fn cargo_deny(place: &Place) -> anyhow::Result<PathBuf> {
    let own = place.tools().join("bin/cargo-deny");
    if let Some(found) = Some(own.clone()).filter(|path| is_program(path)).or_else(|| on_path("cargo-deny")) {
        return Ok(found);
    }
    let mut command =
        cargo(place, &["install", "cargo-deny", "--locked", "--version", CARGO_DENY, "--debug", "--root"]);
    // A debug build takes a third of the time and is as right.
    command
        .arg(place.tools())
        .arg("--target-dir")
        .arg(place.tools().join("build"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    step(place, "cargo-deny", "building cargo-deny", &mut command)?;
    Ok(own)
}

fn build(place: &Place) -> anyhow::Result<Outcome> {
    let arguments = ["build", "--locked", "--package", "waxseal", "--package", "waxseal-tests"];
    done(step(place, "build", "building the agent and the tests' programs", &mut cargo(place, &arguments)))
}

fn host_tests(place: &Place) -> anyhow::Result<Outcome> {
    let packages = ["--workspace", "--exclude", "waxseal-ebpf", "--exclude", "waxseal-tests"];
    tests(place, "host-tests", "host tests", &packages, false)
}

fn documentation_tests(place: &Place) -> anyhow::Result<Outcome> {
    let mut command =
        cargo(place, &["test", "--locked", "--doc", "--package", "waxseal", "--package", "waxseal-common"]);
    let result = step(place, "doc-tests", "documentation tests", &mut command);
    counted(place, "doc-tests", result)
}

fn fuzz(place: &Place) -> anyhow::Result<Outcome> {
    fuzz::for_a_minute(place).map(|passed| Outcome::Ran(Counts { passed, failed: 0 }))
}

/// One after the other: they measure times, and there may be two processors only.
fn system_tests(place: &Place) -> anyhow::Result<Outcome> {
    tests(place, "system-tests", "system tests", &["--package", "waxseal-tests"], true)
}

fn tests(place: &Place, log: &str, what: &str, packages: &[&str], serial: bool) -> anyhow::Result<Outcome> {
    let nextest = on_path("cargo-nextest").is_some();
    let mut command = if nextest {
        cargo(
            place,
            &[
                "nextest",
                "run",
                "--locked",
                "--no-fail-fast",
                "--failure-output",
                "final",
                "--success-output",
                "never",
                // Some wait for real sockets and times on a machine that may be busy: a second chance, and the table
                // names who took it.
                "--retries",
                "1",
            ],
        )
    } else {
        cargo(place, &["test", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"])
    };
    command.args(packages);
    match (serial, nextest) {
        (true, true) => command.args(["--test-threads", "1"]),
        (true, false) => command.args(["--", "--test-threads=1"]),
        (false, _) => &mut command,
    };
    if serial && !is_root() {
        // Cargo starts the test programs through this, so that only they are root and not the compiler.
        let runner = format!("CARGO_TARGET_{}_RUNNER", setup::host()?.to_uppercase().replace('-', "_"));
        command.env(runner, "sudo -E --preserve-env=PATH");
    }
    let result = step(place, log, what, &mut command);
    counted(place, log, result)
}

/// What the runner counted. A run that failed without a failed test (it did not build) is one failure.
fn counted(place: &Place, log: &str, result: anyhow::Result<()>) -> anyhow::Result<Outcome> {
    let text = fs::read(place.log(log)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let counts = Counts::read(&text);
    match result {
        Err(error) if counts.failed == 0 => Err(error),
        Err(_) => {
            let mut remarks = counts::remarkable(&text);
            remarks.extend(counts::panics(&text));
            Ok(Outcome::Tests(counts, remarks))
        }
        Ok(()) => Ok(Outcome::Tests(counts, counts::remarkable(&text))),
    }
}
