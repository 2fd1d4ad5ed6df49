//! A compiler that remembers says the same as one that begins anew, whatever was edited in between; and files that are
//! only looked at say the same as files that are read.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use waxseal_common::ids::{IdentityId, RuleId};
use waxseal_common::tables::{IdentityRow, RowKey, Subject};

use super::differential::{from_environment, judged};
use super::world::{self, Random};
use crate::policy::{Compiled, Compiler, Library, NodeDefaults, Ownership, PackedSet, PolicySet, load};
use crate::workload::IdentityInfo;

/// Which number on one side stands for which on the other.
#[derive(Debug, Default)]
struct Pairs(BTreeMap<u32, u32>, BTreeMap<u32, u32>);

impl Pairs {
    fn pair(&mut self, a: u32, b: u32) -> bool {
        (a == 0) == (b == 0) && *self.0.entry(a).or_insert(b) == b && *self.1.entry(b).or_insert(a) == a
    }
}

/// Compares tables whose numbers differ.
#[derive(Debug, Default)]
struct Alike {
    sets: Pairs,
    peers: Pairs,
    places: Pairs,
    rules: Pairs,
}

impl Alike {
    fn subjects(&mut self, a: Subject, b: Subject) -> bool {
        let numbers = |s: Subject| {
            let Subject { set, shadow_set, selected_by, shadow_selected_by, .. } = s;
            (set, shadow_set, selected_by.0, shadow_selected_by.0)
        };
        let (a_numbers, b_numbers) = (numbers(a), numbers(b));
        self.sets.pair(a_numbers.0, b_numbers.0)
            && self.sets.pair(a_numbers.1, b_numbers.1)
            && self.rules.pair(a_numbers.2, b_numbers.2)
            && self.rules.pair(a_numbers.3, b_numbers.3)
            && (a.mode, a.flags) == (b.mode, b.flags)
    }

    fn identities(&mut self, a: IdentityRow, b: IdentityRow) -> bool {
        self.peers.pair(a.peer_class, b.peer_class)
            && self.subjects(a.ingress, b.ingress)
            && self.subjects(a.egress, b.egress)
    }

    fn port_sets(&mut self, a: &PackedSet, b: &PackedSet) -> bool {
        let outcomes = |set: &PackedSet| {
            let ranges = set.ranges.iter().map(|range| range.outcome).collect::<Vec<_>>();
            [vec![set.otherwise], ranges].concat()
        };
        let rules = outcomes(a).iter().zip(outcomes(b)).all(|(a, b)| self.rules.pair(a.rule.0, b.rule.0));
        let without_rules = |set: &PackedSet| {
            let mut set = set.clone();
            set.otherwise.rule = RuleId::NONE;
            set.ranges.iter_mut().for_each(|range| range.outcome.rule = RuleId::NONE);
            set
        };
        rules && without_rules(a) == without_rules(b)
    }

    fn rows(&mut self, a: &Compiled, b: &Compiled) -> bool {
        a.rows.len() == b.rows.len()
            && a.rows.iter().all(|(key, set)| {
                let there = RowKey {
                    set: self.sets.0.get(&key.set).copied().unwrap_or(u32::MAX),
                    peer_class: self.peers.0.get(&key.peer_class).copied().unwrap_or(0),
                    address_class: self.places.0.get(&key.address_class).copied().unwrap_or(0),
                };
                b.rows.get(&there).is_some_and(|other| self.port_sets(&a.sets[set], &b.sets[other]))
            })
    }

    /// What is not alike.
    fn difference(a: &Compiled, b: &Compiled) -> Option<&'static str> {
        let mut alike = Self::default();
        let same_keys = a.identities.keys().eq(b.identities.keys());
        if !(same_keys && a.identities.iter().all(|(id, row)| alike.identities(*row, b.identities[id]))) {
            return Some("identities");
        }
        let places = a.addresses.keys().eq(b.addresses.keys())
            && a.addresses.iter().all(|(prefix, row)| {
                let other = b.addresses[prefix];
                row.flags == other.flags && alike.places.pair(row.class, other.class)
            });
        if !places {
            return Some("addresses");
        }
        if !alike.rows(a, b) {
            return Some("rows");
        }
        let rules = alike.rules.0.iter().filter(|(a, _)| **a != 0);
        let mut rules = rules.map(|(x, y)| (a.rule(RuleId(*x)), b.rule(RuleId(*y))));
        let same_rules = a.rules.len() == b.rules.len() && rules.all(|(a, b)| a.is_some() && a == b);
        let named = a.named_rules().len() == b.named_rules().len() && a.sets.len() == b.sets.len();
        if same_rules && named { None } else { Some("rules or sets") }
    }
}

/// Changes one thing, or a few.
fn edit(
    random: &mut Random,
    set: &mut PolicySet,
    identities: &mut Vec<IdentityInfo>,
    defaults: &mut NodeDefaults,
) {
    let (other, others, other_defaults) = world::world(random);
    let place = |random: &mut Random, length: usize| random.below(length.max(1));
    match random.below(9) {
        0 | 1 => {
            if let Some(policy) = other.policies.first() {
                let at = place(random, set.policies.len());
                match set.policies.get_mut(at) {
                    Some(old) => {
                        let names = (old.namespace.clone(), old.name.clone(), old.part);
                        let mut policy = (**policy).clone();
                        (policy.namespace, policy.name, policy.part) = names;
                        *old = Arc::new(policy);
                    }
                    None => set.policies.push(Arc::clone(policy)),
                }
            }
        }
        2 => {
            let at = place(random, set.policies.len());
            if at < set.policies.len() {
                set.policies.remove(at);
            }
        }
        // Read anew, and the same.
        3 => set.policies.iter_mut().for_each(|policy| *policy = Arc::new((**policy).clone())),
        4 => set.namespaces = other.namespaces,
        5 => *defaults = other_defaults,
        6 => *identities = others,
        7 => drop(identities.pop()),
        _ => {
            let next = identities.last().map_or(300, |info| info.id.0 + 1);
            identities
                .extend(others.into_iter().take(1).map(|info| IdentityInfo { id: IdentityId(next), ..info }));
        }
    }
}

#[test]
fn a_compiler_that_remembers_says_the_same_as_one_that_begins_anew() {
    let worlds = from_environment("WAXSEAL_CASES", 100_000) / 250;
    let first_seed = from_environment("WAXSEAL_SEED", 1);
    for seed in first_seed..first_seed + worlds {
        let mut random = Random(seed ^ 0xfeed_5eed);
        let (mut set, mut identities, mut defaults) = world::world(&mut random);
        let mut compiler = Compiler::new(1);
        for step in 0..24 {
            let remembered = compiler.compile(&set, &identities, &defaults).unwrap();
            let fresh = Compiler::new(1000).compile(&set, &identities, &defaults).unwrap();
            let difference = Alike::difference(&remembered, &fresh);
            assert_eq!(difference, None, "seed {seed}, step {step}\n{remembered:#?}\n{fresh:#?}");
            for _ in 0..4 {
                let connection = world::connection(&mut random, &identities);
                let (a, b) = (judged(&remembered, &connection), judged(&fresh, &connection));
                let told = |compiled: &Compiled, rule| compiled.rule(rule).cloned();
                assert_eq!(
                    (a.verdict, a.reason),
                    (b.verdict, b.reason),
                    "seed {seed}, step {step}: {connection:?}"
                );
                assert_eq!(told(&remembered, a.rule), told(&fresh, b.rule), "seed {seed}, step {step}");
            }
            (0..=random.below(2)).for_each(|_| edit(&mut random, &mut set, &mut identities, &mut defaults));
        }
    }
}

fn document(name: &str, port: usize) -> String {
    format!(
        "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: {name} }}\nspec: {{ ingress: [ {{ ports: [ {port}/tcp ] }} ] }}\n"
    )
}

/// What a set says, places included.
fn said(set: &PolicySet) -> impl PartialEq + Debug + use<> {
    let policies = set.policies.iter().map(|policy| (**policy).clone()).collect::<Vec<_>>();
    (policies, set.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), set.files)
}

fn age(path: &Path) {
    let old = SystemTime::now() - Duration::from_hours(1);
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
}

#[test]
fn files_that_are_only_looked_at_say_what_files_that_are_read_say() {
    let directory = tempfile::tempdir().unwrap();
    let paths = [directory.path().to_owned()];
    let domain = "a.org".parse().unwrap();
    let mut library = Library::new("a.org".parse().unwrap(), Ownership::Trusted);
    let mut random = Random(7);
    for step in 0..300 {
        let path = directory.path().join(format!("{}.yaml", random.below(4)));
        let name = |random: &mut Random| format!("p{}", random.below(9));
        match random.below(6) {
            0 => drop(fs::remove_file(&path)),
            1 => fs::write(&path, "kind: [").unwrap(),
            2 => {
                // Another text of the same length, with the old times.
                let text = fs::read_to_string(&path).unwrap_or_default();
                let digit = text.rfind("/tcp").map(|at| at - 1);
                if let Some(at) = digit {
                    let mut bytes = text.into_bytes();
                    bytes[at] = b'0' + random.below(10) as u8;
                    fs::write(&path, bytes).unwrap();
                    age(&path);
                }
            }
            _ => {
                let texts: Vec<String> = (0..random.below(4))
                    .map(|_| document(&name(&mut random), 80 + random.below(9)))
                    .collect();
                fs::write(&path, texts.concat()).unwrap();
            }
        }
        let (again, anew) = (library.load(&paths), load(&paths, &domain));
        match (again, anew) {
            (Ok(again), Ok(anew)) => assert_eq!(said(&again), said(&anew), "step {step}"),
            (Err(again), Err(anew)) => assert_eq!(again.to_string(), anew.to_string(), "step {step}"),
            other => panic!("step {step}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_was_left_alone_is_not_opened_again_and_its_owner_and_mode_still_count() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let paths = [directory.path().to_owned()];
    let file = |name: &str| directory.path().join(name);
    for name in ["a", "b"] {
        fs::write(file(&format!("{name}.yaml")), document(name, 80)).unwrap();
    }
    // Longer than a file must have been left alone.
    std::thread::sleep(Duration::from_millis(3100));
    let mut library = Library::new("a.org".parse().unwrap(), Ownership::Trusted);
    let first = library.load(&paths).unwrap();
    let second = library.load(&paths).unwrap();
    for (first, second) in first.policies.iter().zip(&second.policies) {
        assert!(Arc::ptr_eq(first, second), "{} was parsed again", second.name);
    }
    let read_at = |name: &str| fs::metadata(file(name)).unwrap().accessed().unwrap();
    let before = read_at("a.yaml");
    fs::write(file("b.yaml"), document("b", 81)).unwrap();
    let third = library.load(&paths).unwrap();
    assert!(Arc::ptr_eq(&first.policies[0], &third.policies[0]));
    assert_ne!(first.policies[1], third.policies[1]);
    assert_eq!(read_at("a.yaml"), before);
    fs::set_permissions(file("a.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    let refused = library.load(&paths).unwrap_err().to_string();
    assert!(refused.contains("a.yaml"), "{refused}");
    fs::set_permissions(file("a.yaml"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(file("b.yaml")).unwrap();
    std::os::unix::fs::symlink(file("a.yaml"), file("b.yaml")).unwrap();
    let refused = library.load(&paths).unwrap_err().to_string();
    assert!(refused.contains("symbolic link"), "{refused}");
}
