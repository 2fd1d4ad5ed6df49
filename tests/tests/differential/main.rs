//! The kernel against the oracle: random documents, random questions; the kernel program's answer, read through the maps
//! that the agent wrote, must be what the language says.

mod world;

use std::path::{Path, PathBuf};

use waxseal::config::{self, Config, Inputs};
use waxseal::datapath::{CAPACITY, Kernel};
use waxseal::policy::reference::{Connection, judge};
use waxseal::policy::{Compiled, Compiler, NodeDefaults, PolicySet, parse, plan};
use waxseal_common::address::Address;
use waxseal_common::ids::RuleId;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Judgement, Peer, Question, Reason, Verdict, decide};
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::root;

use crate::world::{Random, connection, documents, identities};

/// How many sets of documents follow each other in the same maps, and how many questions each is asked.
const WORLDS: u64 = 260;
const QUESTIONS: usize = 500;

/// The question as the kernel program reads it, after 14 bytes of an Ethernet head.
fn packet(connection: &Connection) -> [u8; 46] {
    let Connection { direction, subject, peer, peer_ip, loopback, protocol, port } = *connection;
    let mut bytes = [0; 46];
    let question = &mut bytes[14..];
    question[0] = direction as u8;
    question[1] = protocol;
    question[3] = u8::from(loopback);
    question[4..6].copy_from_slice(&port.to_be_bytes());
    question[8..12].copy_from_slice(&subject.0.to_be_bytes());
    match peer {
        Peer::Known(peer) => question[12..16].copy_from_slice(&peer.0.to_be_bytes()),
        Peer::Unresolved => question[2] = 1,
    }
    question[16..].copy_from_slice(&Address::from(peer_ip).0);
    bytes
}

fn answer(bits: u32) -> Judgement {
    let reason = Reason::from_byte((bits >> 3 & 31) as u8);
    Judgement {
        verdict: Verdict::from_byte((bits & 7) as u8),
        reason: reason.unwrap_or_else(|| panic!("{bits:#x} holds no reason")),
        rule: RuleId(bits >> 8),
    }
}

/// What the agent's own tables say, on the host.
fn by_tables(compiled: &Compiled, connection: &Connection) -> Judgement {
    let Connection { direction, subject, peer, peer_ip, loopback, protocol, port } = *connection;
    let peer_address = compiled.address(Address::from(peer_ip));
    decide(
        compiled,
        &Question { direction, subject, peer, peer_address, loopback, protocol, port },
        Mode::Enforce,
    )
}

fn configuration(directory: &Path, instance: &str) -> Config {
    let set: Vec<String> = [("instance", instance.to_owned())]
        .into_iter()
        .chain(["policies", "state", "runtime"].map(|key| (key, directory.join(key).display().to_string())))
        .map(|(key, value)| format!("{key}={value}"))
        .chain(["connections=1024".to_owned()])
        .collect();
    let file = directory.join("agent.yaml");
    std::fs::write(&file, "").unwrap_or_else(|error| panic!("{error}"));
    let inputs = Inputs { file: Some(&file), environment: &|_| None, set: &set, flags: &[] };
    config::resolve(&inputs).unwrap_or_else(|error| panic!("{error}")).config
}

/// Removes the pins whatever happens.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_kernel_says_what_the_language_says() {
    root::require();
    let directory = tempfile::tempdir().unwrap();
    let cgroup = Cgroup::root("differential");
    let config = configuration(directory.path(), &root::unique("judge"));
    let _pins = Pins(config.instance_pins());
    let mut kernel = Kernel::open(&config, cgroup.path()).unwrap();
    let defaults = NodeDefaults {
        mode: Mode::Enforce,
        mesh: vec!["10.0.0.0/8".parse().unwrap(), "fc00::/7".parse().unwrap()],
        local: vec!["10.9.9.9/32".parse().unwrap(), "192.0.2.7/32".parse().unwrap()],
    };
    let trust_domain = "a.org".parse().unwrap();
    let mut compiler = Compiler::new(1);
    let mut current = Compiled::default();
    let mut asked = 0;
    let mut told = [0usize; 5];
    for seed in 0..WORLDS {
        let mut random = Random(seed);
        let text = documents(&mut random);
        let set: PolicySet = parse(Path::new("random.yaml"), &text, &trust_domain)
            .unwrap_or_else(|errors| panic!("seed {seed}: {errors}\n{text}"));
        let identities = identities(&mut random);
        let wanted = compiler
            .compile(&set, &identities, &defaults)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        let next = kernel.revision().unwrap().next();
        let plan =
            plan(&current, &wanted, next, &CAPACITY).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        kernel.apply(&plan, &current).unwrap();
        // Right after the flip, and again after the clean-up.
        for half in 0..2 {
            if half == 1 {
                kernel.clean(&plan).unwrap();
            }
            for _ in 0..QUESTIONS / 2 {
                let connection = connection(&mut random);
                let said = answer(kernel.run_judge(&packet(&connection)).unwrap());
                let expected = judge(&set, &identities, &defaults, &connection);
                let rule = wanted.rules.get(&said.rule);
                let case = || {
                    format!(
                        "seed {seed}, half {half}: {connection:?}\nkernel: {said:?} {rule:?}\noracle: {expected:?}\n{text}"
                    )
                };
                // A workload that is gone has a row that denies everything until the clean-up takes the row away.
                if half == 0 && expected.reason == Reason::IdentityIncomplete {
                    assert_eq!(said.verdict, Verdict::Deny, "{}", case());
                    continue;
                }
                assert!(expected.admits(&said, rule.map(|rule| &**rule)), "{}", case());
                assert_eq!(said, by_tables(&wanted, &connection), "{}", case());
                told[said.verdict as usize] += 1;
                asked += 1;
            }
        }
        current = wanted;
    }
    println!("{asked} questions; allow, would-deny, audit, defer, deny: {told:?}");
    assert!(asked >= 100_000);
    assert!(told.iter().all(|count| *count > 1000), "every verdict is met often: {told:?}");
}
