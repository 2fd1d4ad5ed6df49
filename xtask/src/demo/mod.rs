//! Three real services, each in its own cgroup and network namespace: nginx, redis and a Python client. The client may
//! use the web server, the web server may use the cache, the client may not use the cache. Everything is checked, and
//! nothing stays behind.

mod programs;
mod shop;

use std::time::Duration;

use anyhow::{bail, ensure};

use crate::place::Place;
use crate::stage::{Agent, wait};
use crate::{build, interrupt, privilege};
use programs::Programs;
use shop::{CACHE, Shop, WEB};

/// Why root is needed.
const WHY: &str = "the demo makes cgroups and network namespaces and loads kernel programs";

/// Options of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Use what is built already. Set when this task starts itself again as root.
    #[arg(long, hide = true)]
    built: bool,
}

impl Options {
    /// For a caller that has built the agent.
    pub(crate) fn built() -> Self {
        Self { built: true }
    }
}

/// `cargo xtask demo`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    privilege::must_be_possible(WHY)?;
    if !options.built {
        build::run(place, build::Profile::Debug)?;
    }
    let programs = Programs::find_or_fetch(place)?;
    if privilege::again_as_root(WHY, &["demo", "--built"])? {
        return Ok(());
    }
    interrupt::watch()?;
    let mut agent = Agent::prepare(place.binary("debug", "waxseal"), "demo", "enforce")?;
    let failures = show(&mut agent, &programs)?;
    drop(agent);
    println!("\nEverything the demo made is gone again.");
    if failures > 0 {
        bail!("{failures} of the demo's expectations failed");
    }
    println!("The demo did what it promised.");
    Ok(())
}

fn show(agent: &mut Agent, programs: &Programs) -> anyhow::Result<usize> {
    title("Three services, each in its own cgroup and network namespace");
    agent.write("policies/workloads.yaml", include_str!("../../demo/workloads.yaml"))?;
    agent.write("policies/policies.yaml", include_str!("../../demo/policies.yaml"))?;
    let mut shop = Shop::build()?;
    agent.start()?;
    shop.open(agent, programs)?;
    println!("  client  python   10.77.0.30");
    println!("  web     nginx    10.77.0.10:8080, and :6380 which hands on to the cache");
    println!("  cache   redis    10.77.0.20:6379");
    wait("three endpoints", Duration::from_secs(10), || {
        let list = agent.ask(&["endpoint", "list", "-o", "json"])?;
        Ok(["shop/client", "shop/web", "shop/cache"].iter().all(|name| list.contains(name)).then_some(()))
    })?;
    title("What may happen (policies.yaml)");
    print!("{}", indented(include_str!("../../demo/policies.yaml")));

    let mut failures = 0;
    title("What happens");
    failures +=
        attempt(&shop, "client -> web:8080", ["http", WEB, "8080"], "answered: hello from the web server")?;
    failures += attempt(&shop, "client -> web:6380 -> cache", ["redis", WEB, "6380"], "answered: +PONG")?;
    failures += attempt(&shop, "client -> cache:6379", ["redis", CACHE, "6379"], "refused: ")?;
    interrupt::check()?;

    title("What the tap saw (waxseal tap)");
    failures += tap(agent)?;
    title("Why the last one was refused (waxseal policy explain)");
    let words = agent.ask(&[
        "policy",
        "explain",
        "--from",
        "shop/client",
        "--to",
        "shop/cache",
        "--port",
        "6379/tcp",
    ])?;
    print!("{}", indented(&words));
    failures += expect("the explanation names the policy", words.contains("cache-from-web"));
    Ok(failures)
}

/// One question of the client, and the start of the expected answer.
fn attempt(shop: &Shop, name: &str, question: [&str; 3], expected: &str) -> anyhow::Result<usize> {
    let answer = shop.client(question)?;
    println!("  {name:<30} {answer}");
    let mut failures = expect(&format!("{name}: expected `{expected}`"), answer.starts_with(expected));
    if let Some((_, time)) = answer.split_once(" after ") {
        let milliseconds: f64 = time.trim_end_matches(" ms").parse().unwrap_or(f64::MAX);
        failures += expect("a refusal takes no more than a second", milliseconds < 1000.0);
    }
    Ok(failures)
}

/// Prints the flows and looks for the three that matter.
fn tap(agent: &Agent) -> anyhow::Result<usize> {
    let wanted = [("ALLOW", "client", "web"), ("ALLOW", "web", "cache"), ("DENY", "client", "cache")];
    let seen = |text: &str, (verdict, from, to): (&str, &str, &str)| {
        text.lines().any(|line| {
            let words = line.contains(verdict) && line.contains(from) && line.contains(to);
            words && line.find(from) < line.rfind(to)
        })
    };
    // The ring is read within milliseconds; a busy machine may take longer.
    let text = wait("the flows", Duration::from_secs(5), || {
        let text = agent.ask(&["tap", "--no-follow", "--last", "100"])?;
        Ok(wanted.iter().all(|flow| seen(&text, *flow)).then_some(text))
    });
    let text = match text {
        Ok(text) => text,
        Err(_) => agent.ask(&["tap", "--no-follow", "--last", "100"])?,
    };
    print!("{}", indented(&text));
    ensure!(!text.is_empty(), "the tap is empty");
    Ok(wanted.iter().map(|flow| expect(&format!("the tap shows {flow:?}"), seen(&text, *flow))).sum())
}

/// Counts and names what is not as it should be.
fn expect(what: &str, truth: bool) -> usize {
    if !truth {
        println!("  NOT AS EXPECTED: {what}");
    }
    usize::from(!truth)
}

fn title(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.len()));
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}
