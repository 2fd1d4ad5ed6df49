use waxseal_common::address::Address;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Judgement, Question, Verdict, decide};

use super::world::{self, Random};
use crate::policy::reference::{self, Connection};
use crate::policy::{Compiled, Compiler};

pub(super) fn judged(compiled: &Compiled, connection: &Connection) -> Judgement {
    let Connection { direction, subject, peer, peer_ip, loopback, protocol, port } = *connection;
    let peer_address = compiled.address(Address::from(peer_ip));
    let question = Question { direction, subject, peer, peer_address, loopback, protocol, port };
    decide(compiled, &question, Mode::Enforce)
}

/// `WAXSEAL_CASES` asks for another number of cases (a million in a nightly run), `WAXSEAL_SEED` for another start.
pub(super) fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn the_tables_say_what_the_documents_say() {
    let cases = from_environment("WAXSEAL_CASES", 100_000);
    let first_seed = from_environment("WAXSEAL_SEED", 1);
    let per_world = 60;
    let mut counts = [0u64; 5];
    for seed in first_seed..first_seed + cases.div_ceil(per_world) {
        let mut random = Random(seed);
        let (set, identities, defaults) = world::world(&mut random);
        let compiled =
            Compiler::new(random.below(1000) as u32).compile(&set, &identities, &defaults).unwrap();
        for _ in 0..per_world {
            let connection = world::connection(&mut random, &identities);
            let found = judged(&compiled, &connection);
            let expected = reference::judge(&set, &identities, &defaults, &connection);
            let rule = compiled.rule(found.rule);
            assert!(
                expected.admits(&found, rule),
                "seed {seed}: {connection:?}\nthe tables say {found:?} {rule:?}\nthe documents say {expected:?}\n{set:#?}\n{identities:#?}"
            );
            counts[found.verdict as usize] += 1;
        }
    }
    let total: u64 = counts.iter().sum();
    for (verdict, least) in [
        (Verdict::Allow, 20),
        (Verdict::WouldDeny, 5),
        (Verdict::Audit, 5),
        (Verdict::Defer, 1),
        (Verdict::Deny, 5),
    ] {
        let share = counts[verdict as usize] * 100 / total;
        assert!(share >= least, "too few cases end in {verdict:?}: {counts:?}");
    }
}
