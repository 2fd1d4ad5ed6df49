//! Measures what policies cost: reading files, compiling, planning a change. Prints one line per figure, and ends with 1
//! when a figure misses its target.
//!
//! `waxseal-bench-policy [POLICIES] [IDENTITIES]`; 10,000 and 1,000 without arguments.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use waxseal::policy::{self, Capacity, Compiled, Compiler, NodeDefaults, PolicySet, parse};
use waxseal::spiffe::TrustDomain;
use waxseal::workload::IdentityInfo;
use waxseal_common::ids::{IdentityId, Revision};
use waxseal_common::tables::{Mode, Tables as _};
use waxseal_common::verdict::{Direction, Peer, Question, decide};

const NAMESPACES: usize = 20;
const ROOM: Capacity = Capacity { identities: 1 << 24, addresses: 1 << 24, rows: 1 << 24, sets: 1 << 24 };

/// One document in each language in turn. Each protects one workload: another by ID, one by label, and a range of addresses
/// may call it.
fn document(number: usize, identities: usize, port: u16) -> String {
    let (subject, by_id, by_label) = (number % identities, number * 7 % identities, number * 3 % identities);
    let namespace = subject % NAMESPACES;
    let cidr = format!("192.{}.{}.0/24", number % 200, number / 200 % 256);
    let (id_namespace, label_namespace) = (by_id % NAMESPACES, by_label % NAMESPACES);
    let metadata = format!("metadata: {{ name: p{number}, namespace: n{namespace} }}");
    match number % 4 {
        0 => format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\n{metadata}\nspec:\n  selector: {{ app: a{subject} }}\n  ingress:\n    \
             - from: [ {{ identity: 'spiffe://a.org/ns/n{id_namespace}/sa/s{by_id}' }}, {{ namespace: n{label_namespace}, labels: {{ app: \
             a{by_label} }} }}, {{ cidr: {cidr} }} ]\n      ports: [ {port}/tcp ]\n"
        ),
        1 => format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{metadata}\nspec:\n  selector: {{ matchLabels: {{ app: a{subject} \
             }} }}\n  rules:\n    - from: [ {{ source: {{ principals: [ 'a.org/ns/n{id_namespace}/sa/s{by_id}' ] }} }}, {{ source: {{ ipBlocks: [ \
             {cidr} ] }} }} ]\n      to: [ {{ operation: {{ ports: [ '{port}' ] }} }} ]\n"
        ),
        2 => format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n{metadata}\nspec:\n  endpointSelector: {{ matchLabels: {{ app: a{subject} }} \
             }}\n  ingress:\n    - fromEndpoints: [ {{ matchLabels: {{ app: a{by_label}, 'k8s:io.kubernetes.pod.namespace': n{label_namespace} }} }} \
             ]\n      toPorts: [ {{ ports: [ {{ port: '{port}', protocol: TCP }} ] }} ]\n    - fromCIDR: [ {cidr} ]\n"
        ),
        _ => format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{metadata}\nspec:\n  podSelector: {{ matchLabels: {{ app: a{subject} }} \
             }}\n  ingress:\n    - from: [ {{ podSelector: {{ matchLabels: {{ app: a{by_label} }} }}, namespaceSelector: {{ matchLabels: {{ \
             kubernetes.io/metadata.name: n{label_namespace} }} }} }}, {{ ipBlock: {{ cidr: {cidr} }} }} ]\n      ports: [ {{ port: {port} }} ]\n"
        ),
    }
}

fn documents(policies: usize, identities: usize) -> Vec<String> {
    (0..policies).map(|number| document(number, identities, 1000 + (number % 30) as u16)).collect()
}

fn identity(number: usize) -> anyhow::Result<IdentityInfo> {
    let namespace = format!("n{}", number % NAMESPACES);
    Ok(IdentityInfo {
        id: IdentityId(IdentityId::FIRST_WORKLOAD.0 + number as u32),
        spiffe_id: format!("spiffe://a.org/ns/{namespace}/sa/s{number}").parse()?,
        namespace,
        name: format!("s{number}"),
        labels: [("app".to_owned(), format!("a{number}"))].into(),
        mode: None,
    })
}

/// Figures as they are printed, and whether all of them are good.
struct Figures {
    out: String,
    good: bool,
}

impl Figures {
    fn time(&mut self, what: &str, took: Duration, most: Duration) {
        let word = self.word(took <= most);
        let _infallible = writeln!(
            self.out,
            "{word:4} {what:58} {:>10.1} ms  (at most {} ms)",
            took.as_secs_f64() * 1e3,
            most.as_millis()
        );
    }

    fn number(&mut self, what: &str, found: u64, most: u64, unit: &str) {
        let word = self.word(found <= most);
        let _infallible = writeln!(self.out, "{word:4} {what:58} {found:>10} {unit}  (at most {most})");
    }

    fn word(&mut self, good: bool) -> &'static str {
        self.good &= good;
        if good { "ok" } else { "MISS" }
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed())
}

/// A line of `/proc/self/status`, in KiB.
fn memory(key: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
    Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?)
}

fn read(texts: &[String], trust_domain: &TrustDomain) -> anyhow::Result<PolicySet> {
    parse(Path::new("many.yaml"), &texts.concat(), trust_domain).map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// The writes of a plan, those that clean up included.
fn changes(current: &Compiled, wanted: &Compiled) -> anyhow::Result<usize> {
    let plan = policy::plan(current, wanted, Revision(2), &ROOM)?;
    Ok(plan.prepare.len() + plan.cleanup.len())
}

/// Nanoseconds for one verdict, over all workloads.
fn verdict_cost(compiled: &Compiled, identities: usize) -> u64 {
    const ROUNDS: u32 = 200_000;
    let first = IdentityId::FIRST_WORKLOAD.0;
    let question = |round: u32| Question {
        direction: Direction::Ingress,
        subject: IdentityId(first + round % identities as u32),
        peer: Peer::Known(IdentityId(first + round * 7 % identities as u32)),
        peer_address: waxseal_common::tables::AddressRow::default(),
        loopback: false,
        protocol: 6,
        port: 1000 + (round % 30) as u16,
    };
    let (allowed, took) = timed(|| {
        let judged = (0..ROUNDS).map(|round| decide(compiled, &question(round), Mode::Enforce).verdict);
        judged.filter(|verdict| verdict.passes()).count()
    });
    std::hint::black_box(allowed);
    (took.as_nanos() / u128::from(ROUNDS)) as u64
}

fn check_files(texts: &[String], figures: &mut Figures) -> anyhow::Result<()> {
    const FILES: usize = 4000;
    let directory = std::env::temp_dir().join(format!("waxseal-bench-policy-{}", std::process::id()));
    std::fs::create_dir(&directory).context("a directory for files")?;
    for (number, text) in texts.iter().take(FILES).enumerate() {
        std::fs::write(directory.join(format!("{number:05}.yaml")), text)?;
    }
    let trust_domain: TrustDomain = "a.org".parse()?;
    let (report, took) = timed(|| policy::check(std::slice::from_ref(&directory), &trust_domain, false));
    std::fs::remove_dir_all(&directory)?;
    anyhow::ensure!(report.exit_code() == 0, "{report}");
    figures.time(&format!("policy check of {} files", report.files), took, Duration::from_secs(1));
    Ok(())
}

fn main() -> anyhow::Result<ExitCode> {
    let argument = |place: usize, default: usize| {
        std::env::args().nth(place).map_or(Ok(default), |text| text.parse::<usize>())
    };
    let (policies, people) = (argument(1, 10_000)?, argument(2, 1_000)?);
    let mut figures = Figures { out: String::new(), good: true };
    let trust_domain: TrustDomain = "a.org".parse()?;
    let texts = documents(policies, people);
    let before = memory("VmRSS:")?;
    let (set, took) = timed(|| read(&texts, &trust_domain));
    let set = set?;
    figures.time(&format!("read {policies} policies of four languages"), took, Duration::from_secs(4));

    let identities = (0..people).map(identity).collect::<anyhow::Result<Vec<_>>>()?;
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
    let mut compiler = Compiler::new(1);
    let (compiled, took) = timed(|| compiler.compile(&set, &identities, &defaults));
    let compiled = compiled?;
    figures.time(&format!("compile them for {people} identities"), took, Duration::from_secs(2));
    let used = memory("VmHWM:")?.saturating_sub(before) >> 10;
    figures.number("memory of documents and tables at their peak", used, 200, "MiB");
    figures.number("rows", compiled.rows.len() as u64, 1 << 20, "rows");

    let mut changed = texts.clone();
    changed[policies / 2] = document(policies / 2, people, 4444);
    let (wanted, took) = timed(|| -> anyhow::Result<_> {
        let set = read(&changed, &trust_domain)?;
        Ok(compiler.compile(&set, &identities, &defaults)?)
    });
    let wanted = wanted?;
    figures.time("one changed line: read and compile anew", took, Duration::from_secs(6));
    let (writes, took) = timed(|| changes(&compiled, &wanted));
    figures.time("one changed line: plan", took, Duration::from_millis(200));
    figures.number("one changed line: writes to the maps", writes? as u64, 64, "writes");

    let mut more = identities.clone();
    more.push(identity(people)?);
    let (grown, took) = timed(|| compiler.compile(&set, &more, &defaults));
    figures.time("one new identity: compile", took, Duration::from_secs(2));
    let again = compiler.compile(&set, &identities, &defaults)?;
    figures.number("one new identity: writes to the maps", changes(&again, &grown?)? as u64, 64, "writes");

    let few = Compiler::new(1).compile(
        &read(&texts[..texts.len().min(10)], &trust_domain)?,
        &identities,
        &defaults,
    )?;
    figures.number("one verdict, 10 policies", verdict_cost(&few, people), 20_000, "ns");
    figures.number("one verdict, all policies", verdict_cost(&compiled, people), 20_000, "ns");
    std::hint::black_box(compiled.peer_class(IdentityId::WORLD));
    check_files(&texts, &mut figures)?;
    std::io::stdout().write_all(figures.out.as_bytes())?;
    Ok(if figures.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
