//! Leaves nothing behind. The measuring is done by a child; however that ends (done, failed, interrupted, killed), the
//! keeper ends what it has started and takes away what carries its number. What even a killed keeper has left is taken
//! away by the next run.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use waxseal_tests::cgroup;

/// Where runs are noted while they last: a directory for each, named by its keeper, which holds all its files.
const RUNS: &str = "/run/waxseal-bench";
/// Names that directory to the measuring child.
const PLACE: &str = "WAXSEAL_BENCH_PLACE";
/// The file in it that holds the numbers of the processes that measure.
const NUMBERS: &str = "numbers";

/// Runs the measuring as a child and cleans up after it.
pub(crate) fn keep(arguments: &[String]) -> Result<ExitCode> {
    // When the task that started this is gone, nobody waits for a result.
    set_pdeathsig(Signal::SIGTERM).context("ask for a signal")?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block().context("hold signals back")?;
    sweep_the_dead();
    let place = Path::new(RUNS).join(std::process::id().to_string());
    fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
    let mut child = Command::new(std::env::current_exe().context("this program has no path")?)
        .arg("measure")
        .args(arguments)
        .env("TMPDIR", &place)
        .env(PLACE, &place)
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
        .context("start the measuring")?;
    let ended = wait(&mut child, &signals);
    end_group(&mut child);
    for number in numbers(&place) {
        sweep(number);
    }
    forget(&place);
    match ended? {
        Ended::ByItself(status) if status.success() => Ok(ExitCode::SUCCESS),
        Ended::ByItself(status) => {
            let signal = status.signal().map(|signal| format!(", signal {signal}")).unwrap_or_default();
            bail!("the measuring failed: {status}{signal}")
        }
        Ended::Interrupted(signal) => bail!("interrupted ({signal}); everything that was made is gone again"),
    }
}

enum Ended {
    ByItself(ExitStatus),
    Interrupted(Signal),
}

fn wait(child: &mut Child, signals: &SigSet) -> Result<Ended> {
    loop {
        let signal = signals.wait().context("wait for a signal")?;
        if signal != Signal::SIGCHLD {
            return Ok(Ended::Interrupted(signal));
        }
        if let Some(status) = child.try_wait().context("wait for the measuring")? {
            return Ok(Ended::ByItself(status));
        }
    }
}

/// Everything that the measuring has started is in its process group.
fn end_group(child: &mut Child) {
    if let Ok(number) = i32::try_from(child.id()) {
        // Twice: what was just being started is not missed.
        for _ in 0..2 {
            let _ = killpg(Pid::from_raw(number), Signal::SIGKILL);
            sleep(Duration::from_millis(20));
        }
    }
    let _ = child.wait();
}

/// Notes who measures, before it makes anything.
pub(crate) fn note() -> Result<()> {
    // Whoever kills the keeper ends this too; what is left then is for the next run.
    set_pdeathsig(Signal::SIGKILL).context("ask for a signal")?;
    let place = PathBuf::from(std::env::var_os(PLACE).context("this is started by its keeper only")?);
    let mut file =
        File::options().create(true).append(true).open(place.join(NUMBERS)).context("note this run")?;
    writeln!(file, "{}", std::process::id()).context("note this run")
}

/// The processes that have measured in a run.
fn numbers(place: &Path) -> Vec<u32> {
    let text = fs::read_to_string(place.join(NUMBERS)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Takes away what runs have left whose keeper is no more.
fn sweep_the_dead() {
    let runs = fs::read_dir(RUNS).into_iter().flatten().flatten().map(|entry| entry.path());
    let dead = |place: &PathBuf| {
        let keeper = place.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        keeper.is_some_and(|keeper| !lives(keeper))
    };
    for place in runs.filter(dead) {
        for number in numbers(&place) {
            // A number is given to nobody else while a group has it.
            if !Path::new("/proc").join(number.to_string()).exists()
                && let Ok(group) = i32::try_from(number)
            {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            sweep(number);
        }
        forget(&place);
    }
}

/// Another run may be on. A number that belongs to another program by now is of a dead run.
fn lives(number: u32) -> bool {
    fs::read_to_string(format!("/proc/{number}/comm")).is_ok_and(|name| name.trim() == "waxseal-bench")
}

fn forget(place: &Path) {
    let _ = fs::remove_dir_all(place);
    // Only when no other run is on.
    let _ = fs::remove_dir(RUNS);
}

/// Takes away everything that carries the number of a run that has ended: fixtures of the tests all do.
pub(crate) fn sweep(number: u32) {
    let prefix = format!("wxt-{number}-");
    let below = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        entries
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
            .collect()
    };
    let cgroups = below(&cgroup::mount());
    for path in &cgroups {
        let _ = fs::write(path.join("cgroup.kill"), "1");
    }
    // The programs go with their pins.
    for path in below(Path::new("/sys/fs/bpf/waxseal")) {
        let _ = fs::remove_dir_all(path);
    }
    for path in cgroups {
        if let Err(error) = cgroup::remove(&path) {
            eprintln!("left behind: {}: {error}", path.display());
        }
    }
    for path in below(Path::new("/run/netns")) {
        let name = path.file_name().unwrap_or_default();
        let _ = Command::new("ip").args(["netns", "del"]).arg(name).stderr(Stdio::null()).status();
    }
}
