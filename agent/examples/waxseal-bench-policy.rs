//! Measures what policies cost: reading files, compiling, planning a change. Prints one line per figure, and ends with 1
//! when a figure misses its target.
//!
//! `waxseal-bench-policy [POLICIES] [IDENTITIES]`; 10,000 and 1,000 without arguments.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use waxseal::policy::{
    self, Capacity, Compiled, Compiler, Library, NodeDefaults, Ownership, PolicySet, parse,
};
use waxseal::spiffe::TrustDomain;
use waxseal::workload::IdentityInfo;
use waxseal_common::ids::{IdentityId, Revision};
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Peer, Question, decide};

const NAMESPACES: usize = 20;
/// Changes that are timed; numbers out of use are forgotten at some of them.
const CHANGES: usize = 40;
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

    /// The one in the middle must be good; the slowest is told, and is the machine's as often as ours.
    fn times(&mut self, what: &str, mut took: Vec<Duration>, most: Duration) {
        took.sort_unstable();
        let slowest = took.last().copied().unwrap_or_default();
        let what = format!("{what} (slowest {:.1} ms)", slowest.as_secs_f64() * 1e3);
        self.time(&what, took.get(took.len() / 2).copied().unwrap_or_default(), most);
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
    let files = texts.len().min(4000);
    let directory = write_files(&texts[..files], files)?;
    let trust_domain: TrustDomain = "a.org".parse()?;
    let (report, took) = timed(|| policy::check(std::slice::from_ref(&directory.0), &trust_domain, false));
    anyhow::ensure!(report.exit_code() == 0, "{report}");
    figures.time(&format!("policy check of {} files", report.files), took, Duration::from_secs(1));
    Ok(())
}

/// A directory that goes when it is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// Files with some documents each.
fn write_files(texts: &[String], files: usize) -> anyhow::Result<Directory> {
    let directory = std::env::temp_dir().join(format!("waxseal-bench-policy-{}-{files}", std::process::id()));
    std::fs::create_dir(&directory).context("a directory for files")?;
    let directory = Directory(directory);
    for (number, texts) in texts.chunks(texts.len().div_ceil(files)).enumerate() {
        std::fs::write(directory.0.join(format!("{number:05}.yaml")), texts.concat())?;
    }
    Ok(directory)
}

/// What the agent does at a change: read the files, compile, plan. Then one identity more.
fn updates(texts: &[String], identities: &[IdentityInfo], figures: &mut Figures) -> anyhow::Result<()> {
    let files = texts.len().min(10_000);
    let directory = write_files(texts, files)?;
    let paths = [directory.0.clone()];
    let mut library = Library::new("a.org".parse()?, Ownership::Anybody);
    let mut compiler = Compiler::new(1);
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
    let load = |library: &mut Library| library.load(&paths).map_err(|errors| anyhow::anyhow!("{errors}"));
    // Files that were written a moment ago are not trusted to show their next change.
    std::thread::sleep(Duration::from_millis(3100));
    let (set, took) = timed(|| load(&mut library));
    figures.time(&format!("read {} documents from {files} files", texts.len()), took, Duration::from_secs(4));
    let mut compiled = compiler.compile(&set?, identities, &defaults)?;

    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut most_writes = 0;
    for round in 0..CHANGES {
        let number = (round * 7919 + 11) % texts.len();
        let per_file = texts.len().div_ceil(files);
        let first = number / per_file * per_file;
        let mut some = texts[first..(first + per_file).min(texts.len())].to_vec();
        some[number - first] = document(number, identities.len(), 4444);
        std::fs::write(directory.0.join(format!("{:05}.yaml", number / per_file)), some.concat())?;
        let (set, reading) = timed(|| load(&mut library));
        let set = set?;
        let (wanted, compiling) = timed(|| compiler.compile(&set, identities, &defaults));
        let wanted = wanted?;
        let (writes, planning) = timed(|| changes(&compiled, &wanted));
        most_writes = most_writes.max(writes?);
        compiled = wanted;
        let each = [reading, compiling, planning, reading + compiling + planning];
        times.iter_mut().zip(each).for_each(|(list, took)| list.push(took));
    }
    let what = "one changed line";
    let parts = [("look at the files", 100), ("compile", 50), ("plan", 25), ("all of it", 150)];
    for ((part, most), list) in parts.into_iter().zip(times) {
        figures.times(&format!("{what}: {part}"), list, Duration::from_millis(most));
    }
    figures.number(&format!("{what}: writes to the maps"), most_writes as u64, 64, "writes");

    let set = load(&mut library)?;
    let mut people = identities.to_vec();
    let (mut most_writes, mut times) = (0, Vec::new());
    for round in 0..CHANGES {
        people.push(identity(identities.len() + round)?);
        let (wanted, took) = timed(|| -> anyhow::Result<_> {
            let wanted = compiler.compile(&set, &people, &defaults)?;
            Ok((changes(&compiled, &wanted)?, wanted))
        });
        let (writes, wanted) = wanted?;
        most_writes = most_writes.max(writes);
        times.push(took);
        compiled = wanted;
    }
    let what = "one new identity";
    figures.times(&format!("{what}: compile and plan"), times, Duration::from_millis(50));
    figures.number(&format!("{what}: writes to the maps"), most_writes as u64, 64, "writes");
    let resident = memory("VmRSS:")? >> 10;
    figures.number("memory of the process with everything kept for the next change", resident, 400, "MiB");
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

    updates(&texts, &identities, &mut figures)?;

    let few = Compiler::new(1).compile(
        &read(&texts[..texts.len().min(10)], &trust_domain)?,
        &identities,
        &defaults,
    )?;
    figures.number("one verdict, 10 policies", verdict_cost(&few, people), 20_000, "ns");
    figures.number("one verdict, all policies", verdict_cost(&compiled, people), 20_000, "ns");
    check_files(&texts, &mut figures)?;
    std::io::stdout().write_all(figures.out.as_bytes())?;
    Ok(if figures.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
