//! What Waxseal costs, and what it replaces: the same load through the bare kernel, Waxseal, nftables and proxies, in
//! alternating rounds.
//!
//! `waxseal-bench [--quick] [--only WORD,...] [--rounds N] [--seconds S] [--out DIRECTORY] [--programs ROOT]`. Needs root, and
//! `waxseal` built beside it. `waxseal-bench end ...` is an end of the load, `waxseal-bench measure ...` what the keeper watches;
//! the program starts both itself.
//!
//! In reading order: [`keeper`] leaves nothing behind, [`world`] is what is compared ([`proxies`], [`rules`]), [`ends`] is
//! the load, [`traffic`] and the files beside it are the measures, [`figures`] what they found, [`report`] how it is said.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made must stop and say why")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the result goes to stdout, progress to stderr"
)]
#![expect(clippy::cast_precision_loss, reason = "a measurement has no fifteen digits")]

mod change;
mod cold;
mod ends;
mod figures;
mod goals;
mod keeper;
mod machine;
mod memory;
mod others;
mod proxies;
mod report;
mod rules;
mod svg;
mod traffic;
mod verdict;
mod world;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use waxseal_tests::root;

use figures::Figures;
use proxies::{Product, Programs};
use world::{Kind, World};

/// How a run goes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Of one load in one round.
    pub(crate) seconds: f64,
    only: Vec<String>,
    #[serde(skip)]
    out: Option<PathBuf>,
    #[serde(skip)]
    programs: PathBuf,
}

impl Plan {
    fn read(arguments: &[String]) -> Result<Self> {
        let quick = arguments.iter().any(|word| word == "--quick");
        let (only, seconds) = (Vec::new(), if quick { 0.15 } else { 0.8 });
        let mut plan = Self { quick, rounds: 7, seconds, only, out: None, programs: PathBuf::from("/") };
        let mut arguments = arguments.iter().filter(|word| *word != "--quick");
        while let Some(option) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{option} wants a value"))?;
            match option.as_str() {
                "--only" => plan.only = value.split(',').map(str::to_owned).collect(),
                "--rounds" => plan.rounds = value.parse()?,
                "--seconds" => plan.seconds = value.parse()?,
                "--out" => plan.out = Some(value.into()),
                "--programs" => plan.programs = value.into(),
                _ => bail!("unknown option {option}"),
            }
        }
        Ok(plan)
    }

    /// Whether a measure is asked for.
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| id.contains(word.as_str()))
    }

    /// What is compared.
    fn subjects(&self, programs: &Programs) -> Vec<Kind> {
        let enforce = |rules, tap| Kind::Waxseal { mode: "enforce", rules, tap };
        let mut kinds = vec![Kind::Bare, enforce(10, true), enforce(100_000, false)];
        if !self.quick {
            kinds.insert(1, Kind::Waxseal { mode: "permissive", rules: 10, tap: false });
            kinds.insert(2, enforce(10, false));
            kinds.insert(4, enforce(1000, false));
            kinds.extend([Kind::Nftables { rules: 10 }, Kind::Nftables { rules: 100_000 }]);
        }
        kinds.push(Kind::Nftables { rules: 1000 });
        let products = Product::ALL.into_iter().filter(|product| programs.have(*product));
        kinds.extend(products.map(Kind::Proxies));
        kinds
    }
}

/// Progress, for whoever waits.
pub(crate) fn say(what: &str) {
    eprintln!("{what}");
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((word, rest)) if word == "end" => ends::run(rest).map(|()| ExitCode::SUCCESS),
        Some((word, rest)) if word == "measure" => {
            measure(&Plan::read(rest)?, rest).map(|()| ExitCode::SUCCESS)
        }
        Some((word, [name, rest @ ..])) if word == "part" => {
            part(name, &Plan::read(rest)?).map(|()| ExitCode::SUCCESS)
        }
        _ => {
            Plan::read(&arguments)?;
            root::require();
            keeper::keep(&arguments)
        }
    }
}

fn measure(plan: &Plan, arguments: &[String]) -> Result<()> {
    keeper::note()?;
    let started = Instant::now();
    let programs = Programs(plan.programs.clone());
    let mut figures = Figures::default();
    let machine = machine::describe(&programs);
    let worlds = build(plan, &programs, &mut figures);
    say(&format!("{} worlds stand after {:.1} s", worlds.len(), started.elapsed().as_secs_f64()));
    traffic::measure(&worlds, plan, &mut figures);
    of_worlds(plan, &worlds, &mut figures);
    drop(worlds);
    apart(plan, arguments, &mut figures);
    let run = report::Run::new(plan, machine, figures, started.elapsed().as_secs_f64());
    run.print();
    if let Some(out) = &plan.out {
        run.write(out)?;
    }
    Ok(())
}

/// Runs one part of the measuring. What fails is said, and the rest goes on.
fn attempt(id: &str, figures: &mut Figures, work: impl FnOnce(&mut Figures) -> Result<()>) {
    if let Err(error) = work(figures) {
        figures.failed(id, &error);
    }
    say(&format!("{id}: done"));
}

/// What is asked of the agents of the worlds, rather than of packets.
fn of_worlds(plan: &Plan, worlds: &[World], figures: &mut Figures) {
    if plan.wants("verdict") {
        attempt("verdict", figures, |figures| verdict::measure(plan, worlds, figures));
    }
    if plan.wants("change") {
        attempt("change", figures, |figures| change::policy_file(plan, worlds, figures));
    }
    if plan.wants("memory") {
        attempt("memory of connections", figures, |figures| memory::connections(worlds, figures));
    }
}

/// What builds a stage of its own. Each is a process of its own: one that is stopped by a panic stops no other.
const PARTS: [&str; 6] = ["memory", "cold", "revocation", "events", "handshakes", "policies"];

fn apart(plan: &Plan, arguments: &[String], figures: &mut Figures) {
    for part in PARTS.into_iter().filter(|part| plan.wants(part)) {
        attempt(part, figures, |figures| {
            let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
            let child = command.args(["part", part]).args(arguments).stdout(Stdio::piped()).spawn()?;
            let number = child.id();
            let output = child.wait_with_output().context("wait for a part");
            keeper::sweep(number);
            let output = output?;
            anyhow::ensure!(output.status.success(), "{}", output.status);
            figures.extend(serde_json::from_slice(&output.stdout).context("what a part says")?);
            Ok(())
        });
    }
}

/// One of the parts, in its own process.
fn part(name: &str, plan: &Plan) -> Result<()> {
    keeper::note()?;
    let mut figures = Figures::default();
    match name {
        "memory" => memory::measure(plan, &mut figures),
        "cold" => cold::measure(plan, &mut figures)?,
        "revocation" => change::revocation(plan, &mut figures)?,
        "events" => others::events(plan, &mut figures)?,
        "handshakes" => others::handshakes(plan, &mut figures)?,
        "policies" => others::policies(plan, &mut figures)?,
        _ => bail!("there is no part {name}"),
    }
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// All worlds at once: most of the time each waits for something.
fn build(plan: &Plan, programs: &Programs, figures: &mut Figures) -> Vec<World> {
    let kinds = plan.subjects(programs);
    let built: Vec<(Kind, Result<World>)> = thread::scope(|scope| {
        let threads: Vec<_> =
            kinds.iter().map(|kind| (*kind, scope.spawn(|| World::build(*kind, programs)))).collect();
        threads
            .into_iter()
            .map(|(kind, thread)| (kind, thread.join().expect("no panic is survived")))
            .collect()
    });
    let mut worlds = Vec::new();
    for (kind, world) in built {
        match world {
            Ok(world) => worlds.push(world),
            Err(error) => figures.failed(kind.name(), &error),
        }
    }
    worlds
}
