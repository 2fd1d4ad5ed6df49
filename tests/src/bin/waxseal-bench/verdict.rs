//! What the kernel programs cost by the kernel's own clock, against the number of rules.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::Plan;
use crate::ends::{OPEN, Told};
use crate::figures::{Figures, Measure};
use crate::world::{From, World};

const LONG: Duration = Duration::from_secs(20);
/// The programs that ask for a verdict when a connection opens, and those that only pass it on.
const PROGRAMS: [&str; 4] = ["connect4", "sock_ops", "skb_ingress", "skb_egress"];

/// Nanoseconds and runs of each program until now, all agents together.
type Clocks = BTreeMap<String, (Duration, u64)>;

pub(crate) fn measure(plan: &Plan, worlds: &[World], figures: &mut Figures) -> Result<()> {
    let enforcing: Vec<&World> = worlds.iter().filter(|world| world.kind.enforced().is_some()).collect();
    // The kernel counts for as long as this is open.
    let counting = enable_stats(Stats::RunTime).context("let the kernel count")?;
    let mut all: BTreeMap<(&str, usize), Vec<f64>> = BTreeMap::new();
    for _ in 0..plan.rounds {
        for (number, world) in enforcing.iter().enumerate() {
            let before = clocks();
            let client = world.client("open", From::Beside, OPEN, &[&plan.seconds.to_string(), "1"]);
            let told: Told = client.told(LONG)?;
            let after = clocks();
            let mut sum = 0.0;
            for program in PROGRAMS {
                let (spent, runs) = since(&before, &after, program);
                sum += spent;
                all.entry((program, number)).or_default().push(spent / runs);
            }
            all.entry(("all", number)).or_default().push(sum / (told.count as f64 * 1.1));
        }
    }
    drop(counting);
    let names: Vec<String> = enforcing.iter().map(|world| world.kind.name()).collect();
    let mut rows = |what: &'static str| -> Vec<(String, Vec<f64>)> {
        let of = |(number, name): (usize, &String)| {
            (name.clone(), all.remove(&(what, number)).unwrap_or_default())
        };
        names.iter().enumerate().map(of).collect()
    };
    let title = "kernel programs, one connection on one node";
    figures.push(Measure::new("verdict", title, "ns", rows("all")));
    for program in PROGRAMS {
        let title = format!("{program}, one run");
        figures.push(Measure::new(&format!("verdict-{program}"), &title, "ns", rows(program)));
    }
    Ok(())
}

fn clocks() -> Clocks {
    let mut clocks = Clocks::new();
    for program in loaded_programs().flatten() {
        let Some(name) = program.name_as_str() else { continue };
        let of = clocks.entry(name.to_owned()).or_default();
        of.0 += program.run_time();
        of.1 += program.run_count();
    }
    clocks
}

/// Nanoseconds and runs in between.
fn since(before: &Clocks, after: &Clocks, program: &str) -> (f64, f64) {
    let none = (Duration::ZERO, 0);
    let (before, after) = (before.get(program).unwrap_or(&none), after.get(program).unwrap_or(&none));
    ((after.0.saturating_sub(before.0)).as_nanos() as f64, after.1.saturating_sub(before.1) as f64)
}
