//! What stays in memory for each rule, workload and certificate. The allocator of this program counts, so the numbers are
//! the same in every run; they belong to one test, because everything in the program is counted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use waxseal::attest::{Decision, attest, fake::FakeFacts};
use waxseal::cgroup::Cgroup;
use waxseal::identity::Registry;
use waxseal::pki::{Authority, Lifetimes, Setup, Svid};
use waxseal::policy::{Compiled, Compiler, Library, NodeDefaults, Ownership, PolicySet};
use waxseal::spiffe::TrustDomain;
use waxseal_common::ids::CgroupId;
use waxseal_common::tables::Mode;

/// Counts the bytes that are in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What every additional one of something costs, in bytes: between a few and three times as many, so that what is there
/// once does not count. What `make` returns is what stays.
fn each<T>(few: usize, make: impl Fn(usize) -> T) -> usize {
    let stays = |count: usize| {
        let before = IN_USE.load(Ordering::Relaxed);
        let made = make(count);
        let after = IN_USE.load(Ordering::Relaxed);
        drop(made);
        after - before
    };
    // Whatever is made once and for all.
    stays(1);
    (stays(3 * few) - stays(few)) / (2 * few)
}

fn domain() -> TrustDomain {
    "a.org".parse().unwrap()
}

/// A policy whose rules name ten addresses each.
fn policy(peers: usize) -> String {
    let mut text =
        "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: p, namespace: shop }\n\
        spec:\n  selector: { app: w0 }\n  ingress:\n"
            .to_owned();
    for rule in 0..peers / 10 {
        let peers = (0..10).map(|peer| format!("{{ cidr: 10.{}.{}.{peer}/32 }}", rule / 250, rule % 250));
        let peers = peers.collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "    - {{ from: [ {peers} ], ports: [ {}/tcp ] }}", 1000 + rule);
    }
    text
}

fn workloads(count: usize) -> String {
    (0..count).fold(String::new(), |text, number| {
        text + &format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: Workload\nmetadata: {{ name: w{number}, namespace: shop, \
             labels: {{ app: w{number} }} }}\nspec: {{ selector: {{ cgroup: /shop/workload-{number} }} }}\n"
        )
    })
}

/// What a node keeps of its documents.
struct Kept {
    _library: Library,
    _registry: Registry,
    _decisions: Vec<Decision>,
    _compiler: Compiler,
    _compiled: Compiled,
    _set: PolicySet,
}

/// Reads the documents, judges a cgroup for each workload, gives numbers and compiles.
fn keep(directory: &Path, texts: &[(&str, String)]) -> Kept {
    for (name, text) in texts {
        fs::write(directory.join(name), text).unwrap();
    }
    let mut library = Library::new(domain(), Ownership::Anybody);
    let set = library.load(&[directory.to_owned()]).unwrap();
    let judged = |number: usize| {
        let cgroup = Cgroup { id: CgroupId(number as u64 + 2), path: format!("/shop/workload-{number}") };
        attest(&cgroup, std::slice::from_ref(&set.workloads[number]), &FakeFacts::default())
    };
    let decisions: Vec<Decision> = (0..set.workloads.len()).map(judged).collect();
    let attested = decisions.iter().filter_map(|decision| match decision {
        Decision::Attested(attested) => Some(attested),
        _ => None,
    });
    let state = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(state.path(), SystemTime::now).unwrap();
    let given = registry.assign_all(&attested.collect::<Vec<_>>());
    assert!(given.iter().all(Result::is_ok) && given.len() == set.workloads.len());
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
    let mut compiler = Compiler::new(1);
    let compiled = compiler.compile(&set, &registry.all(), &defaults).unwrap();
    assert!(!compiled.rows.is_empty());
    Kept {
        _library: library,
        _registry: registry,
        _decisions: decisions,
        _compiler: compiler,
        _compiled: compiled,
        _set: set,
    }
}

#[test]
fn a_rule_a_workload_and_a_certificate_stay_as_small_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    let rows = each(2000, |peers| {
        keep(directory.path(), &[("workloads.yaml", workloads(1)), ("list.yaml", policy(peers + 10))])
    });
    found.push(("a row of a policy", rows, 800));
    let people = each(500, |count| {
        keep(directory.path(), &[("workloads.yaml", workloads(count)), ("list.yaml", policy(10))])
    });
    found.push(("a workload", people, 1700));
    let setup = Setup { trust_domain: domain(), root_key: None, lifetimes: Lifetimes::default() };
    let home = directory.path().join("ca");
    let authority = Authority::create(&home, &setup, SystemTime::now()).unwrap();
    let own = "spiffe://a.org/waxseal/node/n".parse().unwrap();
    let issued = |count: usize| -> Vec<Arc<Svid>> {
        let ids: Vec<_> =
            (0..count).map(|n| format!("spiffe://a.org/ns/shop/sa/w{n}").parse().unwrap()).collect();
        let issued = authority.issue(&ids, &own, SystemTime::now()).unwrap();
        issued.into_iter().map(Result::unwrap).collect()
    };
    let before = issued(300);
    found.push((
        "a certificate and its key, but for what the library of keys keeps",
        each(100, issued),
        1500,
    ));
    drop(before);
    let too_large: Vec<_> = found.iter().filter(|(_, bytes, most)| bytes > most).collect();
    assert!(too_large.is_empty(), "bytes found, and at most: {too_large:?}");
}
