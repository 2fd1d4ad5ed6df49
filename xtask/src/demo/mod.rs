//! Two nodes with a router between them and real services on both: a client and redis on one, nginx and a batch job on
//! the other. The client may use the web server, the web server may use the cache, nobody else may. Everything is
//! checked, and nothing stays behind.

mod programs;
mod record;
mod shop;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::place::Place;
use crate::stage::{Agent, Authority, wait};
use crate::{build, interrupt, privilege};
use programs::Programs;
use shop::{AUTHORITY, CACHE, Caller, Shop, WEB};

/// Why root is needed.
const WHY: &str = "the demo makes cgroups and network namespaces and loads kernel programs";

/// Options of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Use what is built already. Set when this task starts itself again as root.
    #[arg(long, hide = true)]
    built: bool,
    /// Draw what one tap on both nodes has shown, as it looks on a terminal, into this SVG file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

impl Options {
    /// For a caller that has built the agent.
    pub(crate) fn built() -> Self {
        Self { built: true, record: None }
    }
}

/// `cargo xtask demo`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    privilege::must_be_possible(WHY)?;
    if !options.built {
        build::run(place, build::Profile::Debug)?;
    }
    let programs = Programs::find_or_fetch(place)?;
    let mut again = vec!["demo", "--built"];
    if let Some(path) = &options.record {
        again.extend(["--record", path.to_str().context("the file's name is no text")?]);
    }
    if privilege::again_as_root(WHY, &again)? {
        return Ok(());
    }
    interrupt::watch()?;
    let failures = show(&place.binary("debug", "waxseal"), &programs, options.record.as_deref())?;
    println!("\nEverything the demo made is gone again.");
    if failures > 0 {
        bail!("{failures} of the demo's expectations failed");
    }
    println!("The demo did what it promised.");
    Ok(())
}

fn show(binary: &Path, programs: &Programs, record: Option<&Path>) -> anyhow::Result<usize> {
    title("Two nodes with a router between them, an authority, and four workloads");
    let mut shop = Shop::build()?;
    let authority = Authority::start(binary.to_owned(), "demo-ca", shop.router(), AUTHORITY)?;
    let node = |instance: &'static str, name: &str, home: &shop::Place| {
        let mut agent = Agent::prepare(binary.to_owned(), instance, "enforce")?;
        agent.write("policies/workloads.yaml", include_str!("../../demo/workloads.yaml"))?;
        agent.write("policies/policies.yaml", include_str!("../../demo/policies.yaml"))?;
        agent.write("join-token", &authority.token(name)?)?;
        let token = agent.file("join-token");
        let more = format!(
            "node: {name}\nca: {}\njoin_token: {}\ntap_from_nodes: [ node-a ]\n",
            authority.address(),
            token.display()
        );
        agent.live_in(&home.netns, &home.cgroup, &more)?;
        agent.start()?;
        anyhow::Ok(agent)
    };
    let (a, b) = (node("demo-a", "node-a", &shop.a)?, node("demo-b", "node-b", &shop.b)?);
    shop.open([&a, &b], programs)?;
    println!("  authority        {}", authority.address());
    println!("  node-a  client   python");
    println!("  node-a  cache    redis    {CACHE}:6379");
    println!("  node-b  web      nginx    {WEB}:8080, :8081, and :6380 which hands on to the cache");
    println!("  node-b  batch    python");
    for (agent, names) in [(&a, ["shop/client", "shop/cache"]), (&b, ["shop/web", "shop/batch"])] {
        wait("the endpoints", Duration::from_secs(10), || {
            let list = agent.ask(&["endpoint", "list", "-o", "json"])?;
            Ok(names.iter().all(|name| list.contains(name)).then_some(()))
        })?;
    }
    title("What may happen (policies.yaml, the same on both nodes)");
    print!("{}", indented(include_str!("../../demo/policies.yaml")));
    let failures = happen(&shop)? + seen(&a, &b)?;
    if let Some(path) = record {
        record::draw(&a, path)?;
        println!("\nDrawn: {}", path.display());
    }
    // The agents end before the places they live in.
    drop((a, b));
    Ok(failures)
}

/// Traffic in both directions, allowed and refused.
fn happen(shop: &Shop) -> anyhow::Result<usize> {
    title("What happens");
    let mut failures = 0;
    for (name, caller, question, expected) in [
        (
            "a to b: client -> web:8080",
            Caller::Client,
            ["http", WEB, "8080"],
            "answered: hello from the web server",
        ),
        ("b to a: client -> web:6380 -> cache", Caller::Client, ["redis", WEB, "6380"], "answered: +PONG"),
        ("a to b: client -> web:8081", Caller::Client, ["http", WEB, "8081"], "refused: ECONNREFUSED"),
        ("b to a: batch -> cache:6379", Caller::Batch, ["redis", CACHE, "6379"], "refused: ECONNREFUSED"),
        ("on a: client -> cache:6379", Caller::Client, ["redis", CACHE, "6379"], "refused: "),
    ] {
        failures += attempt(shop, name, caller, question, expected)?;
        interrupt::check()?;
    }
    Ok(failures)
}

/// What the nodes say of it.
fn seen(a: &Agent, b: &Agent) -> anyhow::Result<usize> {
    let mut failures = 0;
    title("What node-b's tap saw (waxseal tap)");
    let wanted = [("ALLOW", "client", "web"), ("DENY", "client", "web"), ("ALLOW", "web", "cache")];
    failures += tap(b, &[], &wanted)?;
    title("What both nodes saw (waxseal tap --all-nodes, on node-a)");
    let wanted = [("ALLOW", "client", "web"), ("DENY", "client", "web"), ("DENY", "batch", "cache")];
    failures += tap(a, &["--all-nodes"], &wanted)?;
    title("The sessions that sealed it (waxseal session list, on node-a)");
    let sessions = a.ask(&["session", "list"])?;
    print!("{}", indented(&sessions));
    failures += expect("the sessions name the other node", sessions.contains("node-b"));
    title("Why the batch job was refused (waxseal policy explain, on node-a)");
    let arguments = ["policy", "explain", "--from", "shop/batch", "--to", "shop/cache", "--port", "6379/tcp"];
    let words = a.ask(&arguments)?;
    print!("{}", indented(&words));
    failures += expect("the explanation names the policy", words.contains("cache-from-web"));
    Ok(failures)
}

/// One question of a caller, and the start of the expected answer.
fn attempt(
    shop: &Shop,
    name: &str,
    caller: Caller,
    question: [&str; 3],
    expected: &str,
) -> anyhow::Result<usize> {
    let answer = shop.ask(caller, question)?;
    println!("  {name:<38} {answer}");
    let mut failures = expect(&format!("{name}: expected `{expected}`"), answer.starts_with(expected));
    if let Some((_, time)) = answer.split_once(" after ") {
        let milliseconds: f64 = time.trim_end_matches(" ms").parse().unwrap_or(f64::MAX);
        failures += expect("a refusal takes no more than a second", milliseconds < 1000.0);
    }
    Ok(failures)
}

/// Prints the flows and looks for those that matter.
fn tap(agent: &Agent, more: &[&str], wanted: &[(&str, &str, &str)]) -> anyhow::Result<usize> {
    let seen = |text: &str, (verdict, from, to): (&str, &str, &str)| {
        text.lines().any(|line| {
            let words = line.contains(verdict) && line.contains(from) && line.contains(to);
            words && line.find(from) < line.rfind(to)
        })
    };
    let ask = || agent.ask(&[&["tap", "--no-follow", "--last", "100"], more].concat());
    // The ring is read within milliseconds; a busy machine may take longer.
    let text = wait("the flows", Duration::from_secs(5), || {
        let text = ask()?;
        Ok(wanted.iter().all(|flow| seen(&text, *flow)).then_some(text))
    });
    let text = match text {
        Ok(text) => text,
        Err(_) => ask()?,
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
