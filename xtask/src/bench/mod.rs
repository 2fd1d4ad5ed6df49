//! What Waxseal costs and what it replaces: builds everything optimized, fetches the competitors, and runs the
//! measurements, which are a program of the tests' package.

mod programs;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::Place;
use crate::process::{attended, step};
use crate::{ebpf, interrupt, privilege};

/// Why root is needed.
const WHY: &str = "the benchmark makes cgroups and network namespaces and loads kernel programs";

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What is measured
    #[arg(value_enum, default_value_t)]
    what: What,
    /// Three minutes instead of twenty-five: fewer subjects, shorter rounds. The results go to target/bench
    #[arg(long)]
    quick: bool,
    /// Only measures whose name holds one of these words, separated by commas. The results go to target/bench
    #[arg(long)]
    only: Option<String>,
    /// Use what is built already. Set when this task starts itself again as root.
    #[arg(long, hide = true)]
    built: bool,
    /// Handed to the benchmark.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Everything, side by side
    #[default]
    All,
    /// Only what policies cost: reading, compiling, one change of ten thousand documents. Needs no root
    Policy,
}

/// `cargo xtask bench`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    match options.what {
        What::All => everything(place, options),
        What::Policy => policy(place, options),
    }
}

/// Neither root nor kernel programs are needed.
fn policy(place: &Place, options: &Options) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(&place.root).args(["run", "--quiet", "--release", "--package", "waxseal"]);
    command.args(["--example", "waxseal-bench-policy", "--"]).args(&options.arguments);
    attended(&mut command)
}

fn everything(place: &Place, options: &Options) -> anyhow::Result<()> {
    privilege::must_be_possible(WHY)?;
    interrupt::watch()?;
    if !options.built {
        build_all(place)?;
        programs::fetch(place)?;
    }
    let again = again(options);
    if privilege::again_as_root(WHY, &again.iter().map(String::as_str).collect::<Vec<_>>())? {
        return Ok(());
    }
    let out = options.out(place);
    let mut command = Command::new(place.binary("release", "waxseal-bench"));
    command.current_dir(&place.root).arg("--out").arg(&out).arg("--programs").arg(programs::root(place));
    if options.quick {
        command.arg("--quick");
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    watched(command.args(&options.arguments))?;
    give_back(&out);
    println!("\nThe results with their plots are in {}.", out.display());
    Ok(())
}

impl Options {
    /// Only whole runs replace what is committed.
    fn out(&self, place: &Place) -> PathBuf {
        let whole = !self.quick && self.only.is_none();
        if whole { place.root.join("docs/bench") } else { place.target.join("bench") }
    }
}

/// What this task is started with when it starts itself again as root.
fn again(options: &Options) -> Vec<String> {
    let mut again = vec!["bench".to_owned(), "--built".to_owned()];
    again.extend(options.quick.then(|| "--quick".to_owned()));
    again.extend(options.only.iter().flat_map(|only| ["--only".to_owned(), only.clone()]));
    again.push("--".to_owned());
    again.extend(options.arguments.iter().map(|argument| argument.to_string_lossy().into_owned()));
    again
}

/// In one go: cargo would build the agent again for each choice of targets.
fn build_all(place: &Place) -> anyhow::Result<()> {
    if std::env::var_os("WAXSEAL_EBPF_OBJECT").is_none() {
        ebpf::build(place)?;
    }
    let mut command = Command::new("cargo");
    command.current_dir(&place.root).args(["build", "--release", "--package", "waxseal"]);
    command.args(["--package", "waxseal-tests", "--bins", "--examples"]);
    step(place, "build-bench", "building the agent and the benchmark", &mut command)
}

/// Runs it on this terminal. Whoever interrupts us interrupts it, and it is waited for: it cleans up before it ends.
fn watched(command: &mut Command) -> anyhow::Result<()> {
    let mut child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().context("wait for the benchmark")? {
            interrupt::check()?;
            if status.success() {
                return Ok(());
            }
            bail!("the benchmark: {status}");
        }
        if interrupt::asked() && !told {
            told = true;
            tell(&child);
        }
        sleep(Duration::from_millis(50));
    }
}

fn tell(child: &Child) {
    if let Ok(number) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
    }
}

/// What root has written belongs to whoever asked sudo.
fn give_back(directory: &Path) {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(user), Some(group)) = (number("SUDO_UID"), number("SUDO_GID")) else { return };
    let files = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files.chain([directory.to_path_buf()]) {
        let _ = chown(path, Some(user), Some(group));
    }
}
