//! `cargo xtask fuzz`: libFuzzer on every parser of foreign bytes, on the stable compiler.
//!
//! The targets are those of `tests/fuzz`. Everything is built once more with LLVM's coverage counters, in a build directory
//! of its own; what has been found stays in `target/fuzz/found`, what reached something new in `target/fuzz/corpus`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::available_parallelism;

use anyhow::{Context as _, bail};

use crate::place::{Place, on_path};
use crate::process::step;
use crate::{apt, setup};

/// Counters on every edge, and what was compared with what. These flags are stable; sanitizers would need a nightly
/// compiler, and this workspace has no `unsafe` to speak of on the host.
const COVERAGE: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Targets whose documents the golden file of messages has beside their seeds, by their `apiVersion`.
const LANGUAGES: &[(&str, &str)] = &[
    ("native", "waxseal.dev/"),
    ("istio", "security.istio.io/"),
    ("cilium", "cilium.io/"),
    ("kubernetes", "networking.k8s.io/"),
];

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which targets; all unless given.
    targets: Vec<String>,
    /// How long each is worked.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

impl Options {
    /// All targets.
    pub(crate) fn all(seconds: u64) -> Self {
        Self { targets: Vec::new(), seconds }
    }
}

/// `cargo xtask fuzz`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    let all = targets(place)?;
    if let Some(unknown) = options.targets.iter().find(|wanted| !all.contains(wanted)) {
        bail!("there is no target `{unknown}`; there are {}", all.join(", "));
    }
    let wanted = if options.targets.is_empty() { &all } else { &options.targets };
    let fuzzer = build(place)?;
    work(place, &fuzzer, wanted, options.seconds, None).map(drop)
}

/// Works all targets for a minute in total: as many at a time as there are processors. Returns how many they were.
pub(crate) fn for_a_minute(place: &Place) -> anyhow::Result<u64> {
    let all = targets(place)?;
    let rounds = all.len().div_ceil(at_once());
    let seconds = 60u64.div_ceil(rounds as u64);
    let fuzzer = build(place)?;
    // The same inputs each time, so that a change is judged by itself; `cargo xtask fuzz` and `nightly` look for new ones.
    work(place, &fuzzer, &all, seconds, Some(1))
}

fn at_once() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// A target is a directory of seeds; a test of `tests/fuzz` holds the two against each other.
fn targets(place: &Place) -> anyhow::Result<Vec<String>> {
    let seeds = place.root.join("tests/fuzz/seeds");
    let entries = fs::read_dir(&seeds).with_context(|| format!("read {}", seeds.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn directory(place: &Place) -> PathBuf {
    place.target.join("fuzz")
}

/// The fuzzer, which needs a C++ compiler.
fn build(place: &Place) -> anyhow::Result<PathBuf> {
    if on_path("c++").is_none() && on_path("g++").is_none() && on_path("clang++").is_none() {
        apt::install(place, &["g++"])?;
    }
    let host = setup::host()?;
    let mut command = Command::new("cargo");
    command
        .current_dir(&place.root)
        .args([
            "build",
            "--locked",
            "--profile",
            "fuzz",
            "--package",
            "waxseal-fuzz",
            "--bin",
            "waxseal-fuzz",
        ])
        // With a target named, build scripts and macros are built without the counters.
        .args(["--target", &host, "--target-dir"])
        .arg(directory(place))
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"))
        .env_remove("RUSTFLAGS");
    step(place, "build-fuzz", "building the fuzz targets", &mut command)?;
    Ok(directory(place).join(host).join("fuzz/waxseal-fuzz"))
}

fn work(
    place: &Place,
    fuzzer: &Path,
    targets: &[String],
    seconds: u64,
    seed: Option<u32>,
) -> anyhow::Result<u64> {
    let mut failed = Vec::new();
    for some in targets.chunks(at_once()) {
        let running: Vec<(&String, Child)> = some
            .iter()
            .map(|target| Ok((target, start(place, fuzzer, target, seconds, seed)?)))
            .collect::<anyhow::Result<_>>()?;
        for (target, mut child) in running {
            let status = child.wait().context("wait for a fuzzer")?;
            println!("{target:<14} {}", summary(place, target));
            if !status.success() {
                failed.push(target.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(targets.len() as u64);
    }
    for target in &failed {
        let log = fs::read(place.log(&format!("fuzz-{target}"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(30)).for_each(|line| eprintln!("  {line}"));
    }
    bail!(
        "findings in {}; the inputs are in {}. Mend it and put the input to tests/fuzz/seeds",
        failed.join(", "),
        directory(place).join("found").display()
    )
}

fn start(
    place: &Place,
    fuzzer: &Path,
    target: &str,
    seconds: u64,
    seed: Option<u32>,
) -> anyhow::Result<Child> {
    let corpus = directory(place).join("corpus").join(target);
    let found = directory(place).join("found");
    for wanted in [&corpus, &found] {
        fs::create_dir_all(wanted).with_context(|| format!("create {}", wanted.display()))?;
    }
    documents(place, target, &corpus)?;
    let log = place.log(&format!("fuzz-{target}"));
    fs::create_dir_all(log.parent().unwrap_or(Path::new("."))).context("create the directory of logs")?;
    let out = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new(fuzzer);
    command
        .arg(&corpus)
        .arg(place.root.join("tests/fuzz/seeds").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{target}-", found.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-max_len=4096", "-verbosity=1"]);
    if let Some(seed) = seed {
        command.arg(format!("-seed={seed}"));
    }
    if LANGUAGES.iter().any(|(language, _)| *language == target) {
        command.arg(format!("-dict={}", place.root.join("tests/fuzz/words.dict").display()));
    }
    command.env("WAXSEAL_FUZZ_TARGET", target).stdin(Stdio::null());
    let err = out.try_clone().context("duplicate the log's descriptor")?;
    command.stdout(out).stderr(err).spawn().with_context(|| format!("start {}", fuzzer.display()))
}

/// Every document for which there is a message is a seed of its language.
fn documents(place: &Place, target: &str, corpus: &Path) -> anyhow::Result<()> {
    let Some((_, version)) = LANGUAGES.iter().find(|(language, _)| *language == target) else {
        return Ok(());
    };
    let golden = place.root.join("tests/golden/policy-messages.txt");
    let text = fs::read_to_string(&golden).with_context(|| format!("read {}", golden.display()))?;
    for (number, block) in text.split("\n\n\n").filter(|block| block.contains(version)).enumerate() {
        let message = |line: &&str| line.starts_with("p.yaml:") || line.starts_with("warning: ");
        let document: Vec<&str> = block.lines().take_while(|line| !message(line)).collect();
        fs::write(corpus.join(format!("message-{number}.yaml")), document.join("\n"))
            .with_context(|| format!("write below {}", corpus.display()))?;
    }
    Ok(())
}

/// How many inputs were tried and how much of the code they reached, as the log says.
fn summary(place: &Place, target: &str) -> String {
    let log = fs::read(place.log(&format!("fuzz-{target}"))).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let tried = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let reached = text.lines().filter_map(|line| line.split_once("cov: ")).next_back();
    let reached = reached.and_then(|(_, rest)| rest.split_whitespace().next());
    match tried {
        Some(tried) => format!("{} inputs, {} edges reached", tried.trim(), reached.unwrap_or("?")),
        None => "ended early".to_owned(),
    }
}
