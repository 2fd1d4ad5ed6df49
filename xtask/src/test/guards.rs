//! Regressions that show without a clock: how many instructions known work takes, counted by valgrind and compared with
//! tests/golden/instructions.txt. The unoptimized build is counted, which the other steps have made already: what is guarded
//! is the amount of work, not how well a compiler packs it. (What the kernel's verifier counts is guarded by a system test.)
//!
//! `UPDATE_EXPECT=1` writes the counts of this machine.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use super::Outcome;
use super::counts::Counts;
use crate::apt;
use crate::place::{Place, on_path};
use crate::process::step;

/// The work, and how often it is done: once to warm up, then once more for the difference.
const CASES: [(&str, u32, u32); 6] = [
    ("decide", 200, 2200),
    ("seal", 50, 550),
    ("packet", 200, 2200),
    ("parse", 1, 3),
    ("compile", 1, 3),
    ("plan", 1, 5),
];
/// By how much a count may differ, in per cent: hash tables are seeded anew in each process, and compilers differ.
const TOLERANCE: u64 = 10;
/// Relative to the root.
const GOLDEN: &str = "tests/golden/instructions.txt";
const HEAD: &str =
    "# Instructions that known work takes in an unoptimized build: see xtask/src/test/guards.rs.\n";

/// Counts and compares.
pub(super) fn run(place: &Place) -> anyhow::Result<Outcome> {
    if on_path("valgrind").is_none() {
        if on_path("apt-get").is_none() {
            return Ok(Outcome::Left("needs valgrind".to_owned()));
        }
        apt::install(place, &["valgrind", "libc6-dbg"])?;
    }
    let mut command = Command::new("cargo");
    command.current_dir(&place.root).args([
        "build",
        "--locked",
        "--package",
        "waxseal",
        "--example",
        "waxseal-guard",
    ]);
    step(place, "build-guard", "building the work to be counted", &mut command)?;
    let mut found = Vec::new();
    for (case, few, many) in CASES {
        let (first, second) = (count(place, case, few)?, count(place, case, many)?);
        found.push((case, second.saturating_sub(first) / u64::from(many - few)));
    }
    let golden = place.root.join(GOLDEN);
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&golden, text(&found)).with_context(|| format!("write {}", golden.display()))?;
    }
    compare(&found, &golden)
}

fn text(found: &[(&str, u64)]) -> String {
    found.iter().fold(HEAD.to_owned(), |mut text, (case, count)| {
        let _infallible = writeln!(text, "{case} {count}");
        text
    })
}

fn compare(found: &[(&str, u64)], golden: &Path) -> anyhow::Result<Outcome> {
    let kept = fs::read_to_string(golden).with_context(|| format!("read {}", golden.display()))?;
    let mut counts = Counts::default();
    for (case, count) in found {
        let expected = expected(&kept, case).with_context(|| format!("{GOLDEN} has no line for {case}"))?;
        let verdict = judge(*count, expected);
        eprintln!(
            "  {case:<8} {count:>12} instructions, {expected:>12} expected{}",
            verdict.unwrap_or_default()
        );
        counts = counts.plus(&if verdict.is_none() { Counts::success() } else { Counts::failure() });
    }
    if counts.failed > 0 {
        eprintln!("  if that is meant: UPDATE_EXPECT=1 cargo xtask test --only guards");
    }
    Ok(Outcome::Ran(counts))
}

fn expected(golden: &str, case: &str) -> Option<u64> {
    let line = golden.lines().find_map(|line| line.strip_prefix(case)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// What is wrong with a count, if anything. Less work is told too, so that the line is kept true.
fn judge(found: u64, expected: u64) -> Option<&'static str> {
    let margin = expected * TOLERANCE / 100;
    if found > expected + margin {
        Some(": MORE WORK")
    } else if found + margin < expected {
        Some(": LESS WORK, keep it by updating the line")
    } else {
        None
    }
}

/// Instructions of one run.
fn count(place: &Place, case: &str, times: u32) -> anyhow::Result<u64> {
    let program = place.binary("debug", "examples/waxseal-guard");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.args([case, &times.to_string()]).output().context("start valgrind")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case} under valgrind: {}\n{words}", output.status);
    let Some(count) = collected(&words) else {
        bail!("valgrind does not say how much it has counted:\n{words}")
    };
    Ok(count)
}

/// `==123== Collected : 456`.
fn collected(words: &str) -> Option<u64> {
    let line = words.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_and_less_work_is_found_and_noise_is_not() {
        let golden = format!("{HEAD}decide 1000\nseal 20\n");
        assert_eq!((expected(&golden, "decide"), expected(&golden, "dec")), (Some(1000), None));
        for (found, wrong) in [(1000, false), (1100, false), (1101, true), (900, false), (899, true)] {
            assert_eq!(judge(found, 1000).is_some(), wrong, "{found}");
        }
    }

    #[test]
    fn what_valgrind_says_is_understood() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 4567\n==7==\n"), Some(4567));
        assert_eq!(collected("==7== Command: x\n"), None);
    }
}
