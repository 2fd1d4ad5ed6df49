//! YAML: policies of all languages, cases, lists of workloads, the configuration.

use std::fs::{File, Permissions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::sys::memfd::{MFdFlags, memfd_create};
use waxseal::config::{self, Inputs};
use waxseal::policy::{self, CheckOptions, Compiler, NodeDefaults, PolicySet, reference};
use waxseal::spiffe::TrustDomain;
use waxseal::workload::IdentityInfo;
use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Peer, Question, decide};

use crate::is_printable;

/// Workloads that stand beside the documents, so that what is accepted binds somebody.
const NEIGHBOURS: &str = include_str!("../seeds/native/workloads.yaml");

static DOMAIN: LazyLock<TrustDomain> = LazyLock::new(|| must("cluster.local".parse()));

fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Policies of any language: what is refused is refused in a few printable words with a place; what is accepted is checked,
/// explained and compiled to tables that say what the documents say.
pub(crate) fn policies(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut set = match policy::parse(Path::new("p.yaml"), text, &DOMAIN) {
        Ok(set) => set,
        Err(errors) => {
            let shown = errors.to_string();
            assert!(shown.starts_with("p.yaml:") && is_printable(&shown), "{shown:?}");
            return;
        }
    };
    let neighbours = must(policy::parse(Path::new("n.yaml"), NEIGHBOURS, &DOMAIN));
    let taken: Vec<String> = set.workloads.iter().map(|workload| workload.full_name()).collect();
    set.workloads.extend(neighbours.workloads.into_iter().filter(|w| !taken.contains(&w.full_name())));
    let options = CheckOptions { rows: true, ..CheckOptions::default() };
    let report = policy::check_set(&set, &DOMAIN, options).to_string();
    assert!(is_printable(&report), "{report:?}");
    agrees(&set, bytes);
}

/// Puts some connections to the tables and to the documents. Which ones follows from the bytes alone.
fn agrees(set: &PolicySet, bytes: &[u8]) {
    let identities = policy::expected_identities(set);
    let mesh = vec![must("10.0.0.0/8".parse())];
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh, local: Vec::new() };
    let Ok(compiled) = Compiler::new(1).compile(set, &identities, &defaults) else { return };
    let mut random = Random::new(bytes);
    for _ in 0..6 {
        let Some(connection) = connection(&mut random, &identities) else { return };
        let reference::Connection { direction, subject, peer, peer_ip, loopback, protocol, port } =
            connection;
        let peer_address = compiled.address(Address::from(peer_ip));
        let question = Question { direction, subject, peer, peer_address, loopback, protocol, port };
        let found = decide(&compiled, &question, Mode::Enforce);
        let expected = reference::judge(set, &identities, &defaults, &connection);
        let rule = compiled.rule(found.rule);
        assert!(
            expected.admits(&found, rule),
            "{connection:?}\ntables: {found:?} {rule:?}\ndocuments: {expected:?}"
        );
    }
    if let [from, .., to] = identities.as_slice() {
        let name = |info: &IdentityInfo| format!("{}/{}", info.namespace, info.name);
        let explained = policy::explain(set, &identities, &defaults, &name(from), &name(to), "80/tcp");
        let shown = explained.map_or_else(|error| error.to_string(), |explained| explained.to_string());
        assert!(is_printable(&shown), "{shown:?}");
    }
}

fn connection(random: &mut Random, identities: &[IdentityInfo]) -> Option<reference::Connection> {
    const ENDS: [(u8, u16); 7] = [(6, 80), (6, 443), (6, 8080), (6, 1), (17, 53), (1, 0), (132, 0)];
    const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.1.2.3", "192.0.2.7", "127.0.0.1", "2001:db8::1"];
    let workload = |random: &mut Random| random.pick(identities).map(|info| info.id);
    let reserved = IdentityId(random.below(5) as u32);
    let peer = match random.below(4) {
        0 => Peer::Unresolved,
        1 => Peer::Known(reserved),
        _ => Peer::Known(workload(random)?),
    };
    let (protocol, port) = *random.pick(&ENDS)?;
    Some(reference::Connection {
        direction: *random.pick(&[Direction::Ingress, Direction::Egress])?,
        subject: workload(random)?,
        peer,
        peer_ip: random.pick(&ADDRESSES)?.parse().ok()?,
        loopback: random.below(4) == 0,
        protocol,
        port,
    })
}

/// Numbers that follow from bytes.
struct Random(u64);

impl Random {
    fn new(bytes: &[u8]) -> Self {
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}

/// A file of cases, put to documents that stand still.
pub(crate) fn cases(bytes: &[u8]) {
    static SET: LazyLock<PolicySet> = LazyLock::new(|| {
        let texts = [NEIGHBOURS, include_str!("../seeds/native/policies.yaml")].join("\n---\n");
        must(policy::parse(Path::new("p.yaml"), &texts, &DOMAIN))
    });
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let shown = match policy::check_cases_text(Path::new("c.yaml"), text, &SET, &DOMAIN, &defaults) {
        Ok(report) => report.to_string(),
        Err(errors) => errors.to_string(),
    };
    assert!(is_printable(&shown), "{shown:?}");
}

/// A list of workloads.
pub(crate) fn workloads(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut set = PolicySet::default();
    match set.add_workloads_text(Path::new("w.yaml"), text, &DOMAIN) {
        Ok(()) => assert!(set.workloads.iter().all(|workload| is_printable(&workload.full_name()))),
        Err(errors) => assert!(is_printable(&errors.to_string()), "{errors}"),
    }
}

/// The configuration file, read as a file is: out of memory, by its descriptor's name.
pub(crate) fn config(bytes: &[u8]) {
    static FILE: LazyLock<Mutex<File>> = LazyLock::new(|| {
        let file = File::from(must(memfd_create(c"agent.yaml", MFdFlags::MFD_CLOEXEC)));
        must(file.set_permissions(Permissions::from_mode(0o600)));
        Mutex::new(file)
    });
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    must(file.set_len(0));
    must(file.seek(SeekFrom::Start(0)));
    must(file.write_all(bytes));
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let inputs = Inputs { file: Some(&path), environment: &|_| None, set: &[], flags: &[] };
    match config::resolve(&inputs) {
        Ok(resolved) => assert!(resolved.entries.iter().all(|entry| is_printable(&entry.value))),
        Err(error) => assert!(is_printable(&error.to_string()), "{error:?}"),
    }
}
