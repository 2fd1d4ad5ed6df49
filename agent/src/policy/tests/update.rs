use std::collections::BTreeMap;

use waxseal_common::address::Address;
use waxseal_common::ids::{IdentityId, Revision};
use waxseal_common::tables::{
    AddressEntry, AddressRow, IdentityEntry, IdentityRow, Mode, Outcome, PortSet, RowEntry, RowKey, Tables,
    Versioned as _,
};
use waxseal_common::verdict::{Judgement, Question, decide};

use super::world::{self, Random};
use crate::policy::reference::Connection;
use crate::policy::{Capacity, Change, Compiled, Compiler, Pinned, PlanError, Prefix, plan};

/// The kernel's maps.
#[derive(Clone, Default)]
struct Maps {
    revision: Revision,
    identities: BTreeMap<IdentityId, IdentityEntry>,
    addresses: BTreeMap<Prefix, AddressEntry>,
    rows: BTreeMap<RowKey, RowEntry>,
    sets: BTreeMap<u32, PortSet>,
}

impl Maps {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::PutSet(number, set) => {
                assert_eq!(self.sets.insert(*number, set.unpacked()), None, "a port set is written once");
            }
            Change::PutRow(key, entry) => {
                for set in [entry.new, entry.old] {
                    assert!(
                        set == 0 || self.sets.contains_key(&set),
                        "a row names a set that is not there yet"
                    );
                }
                self.rows.insert(*key, *entry);
            }
            Change::PutIdentity(id, entry) => {
                self.identities.insert(*id, *entry);
            }
            Change::PutAddress(prefix, entry) => {
                self.addresses.insert(*prefix, *entry);
            }
            Change::DeleteSet(number) => {
                assert!(self.sets.remove(number).is_some());
            }
            Change::DeleteRow(key) => {
                assert!(self.rows.remove(key).is_some());
            }
            Change::DeleteIdentity(id) => {
                assert!(self.identities.remove(id).is_some());
            }
            Change::DeleteAddress(prefix) => {
                assert!(self.addresses.remove(prefix).is_some());
            }
        }
    }

    fn address(&self, address: Address) -> AddressRow {
        let found = (0..=128).rev().find_map(|length| self.addresses.get(&Prefix::new(address, length)));
        found.map_or(AddressRow::default(), |entry| entry.at(self.revision))
    }

    fn read(&self) -> Pinned {
        Pinned::read(
            self.revision,
            self.identities.clone(),
            self.addresses.clone(),
            self.rows.clone(),
            self.sets.clone(),
        )
    }
}

impl Tables for Maps {
    fn identity(&self, identity: IdentityId) -> Option<IdentityRow> {
        self.identities.get(&identity).map(|entry| entry.at(self.revision))
    }

    fn outcome(&self, key: &RowKey, protocol: u8, port: u16) -> Outcome {
        match self.rows.get(key).map_or(0, |entry| entry.at(self.revision)) {
            0 => Outcome::default(),
            set => self.sets.get(&set).expect("a row that is in force names a set").outcome(protocol, port),
        }
    }
}

fn ask(tables: &impl Tables, peer_address: AddressRow, connection: &Connection) -> Judgement {
    let Connection { direction, subject, peer, loopback, protocol, port, .. } = *connection;
    decide(
        tables,
        &Question { direction, subject, peer, peer_address, loopback, protocol, port },
        Mode::Enforce,
    )
}

/// What the maps must say: the same as the tables, but that a row on its way in or out denies without its own reason.
fn check(maps: &Maps, compiled: &Compiled, questions: &[Connection], when: &str) {
    for connection in questions {
        let address = Address::from(connection.peer_ip);
        let found = ask(maps, maps.address(address), connection);
        let expected = ask(compiled, compiled.address(address), connection);
        assert_eq!(maps.address(address), compiled.address(address), "{when}: {connection:?}");
        assert_eq!((found.verdict, found.rule), (expected.verdict, expected.rule), "{when}: {connection:?}");
    }
}

const ROOM: Capacity = Capacity { identities: 1000, addresses: 1000, rows: 10_000, sets: 10_000 };

fn questions(random: &mut Random, worlds: &[&[crate::workload::IdentityInfo]]) -> Vec<Connection> {
    (0..40)
        .map(|_| {
            let identities = random.pick(worlds);
            world::connection(random, identities)
        })
        .collect()
}

#[test]
fn an_update_changes_no_verdict_before_the_flip_and_all_of_them_at_it() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut maps = Maps::default();
        let mut compiler = Compiler::new(1);
        let mut current = Compiled::default();
        let mut before = Vec::new();
        for _ in 0..5 {
            let (set, identities, defaults) = world::world(&mut random);
            let wanted = compiler.compile(&set, &identities, &defaults).unwrap();
            let questions = questions(&mut random, &[&before, &identities]);
            let plan = plan(&current, &wanted, maps.revision.next(), &ROOM).unwrap();
            for change in &plan.prepare {
                maps.apply(change);
                // One question a step is enough: there are many steps.
                let one = random.pick(&questions);
                check(&maps, &current, &[one], &format!("seed {seed}, preparing"));
            }
            check(&maps, &current, &questions, &format!("seed {seed}, prepared"));
            maps.revision = plan.revision;
            check(&maps, &wanted, &questions, &format!("seed {seed}, in force"));
            for change in &plan.cleanup {
                maps.apply(change);
                let one = random.pick(&questions);
                check(&maps, &wanted, &[one], &format!("seed {seed}, cleaning up"));
            }
            check(&maps, &wanted, &questions, &format!("seed {seed}, cleaned up"));
            assert_eq!(maps.sets.len(), wanted.sets.len());
            assert_eq!(maps.rows.len(), wanted.rows.len());
            assert_eq!(maps.identities.len(), wanted.identities.len());
            assert_eq!(maps.addresses.len(), wanted.addresses.len());
            (current, before) = (wanted, identities);
        }
    }
}

/// Cuts an update short at a random point, and goes on as an agent would: by taking it back, or after a restart.
#[test]
fn an_update_that_is_cut_short_leaves_nothing_behind() {
    for seed in 0..400 {
        let mut random = Random(seed ^ 0xdead);
        let mut maps = Maps::default();
        let mut compiler = Compiler::new(1);
        let mut current = Compiled::default();
        let mut before = Vec::new();
        for _ in 0..4 {
            let (set, identities, defaults) = world::world(&mut random);
            let wanted = compiler.compile(&set, &identities, &defaults).unwrap();
            let questions = questions(&mut random, &[&before, &identities]);
            let plan = plan(&current, &wanted, maps.revision.next(), &ROOM).unwrap();
            let restart = random.one_in(2);
            let flip = restart && random.one_in(2);
            let prepared = if flip { plan.prepare.len() } else { random.below(plan.prepare.len() + 1) };
            plan.prepare[..prepared].iter().for_each(|change| maps.apply(change));
            if flip {
                maps.revision = plan.revision;
                let cleaned = random.below(plan.cleanup.len() + 1);
                plan.cleanup[..cleaned].iter().for_each(|change| maps.apply(change));
                (current, before) = (wanted, identities);
            }
            if restart {
                let pinned = maps.read();
                pinned.settle.iter().for_each(|change| maps.apply(change));
                check(&maps, &current, &questions, &format!("seed {seed}, settled"));
                compiler = Compiler::new(pinned.first_free);
                current = pinned.compiled;
            } else {
                let touched = crate::policy::Plan { prepare: plan.prepare[..prepared].to_vec(), ..plan };
                touched.undo(&current).iter().for_each(|change| maps.apply(change));
            }
            check(&maps, &current, &questions, &format!("seed {seed}, as before"));
        }
    }
}

#[test]
fn what_did_not_change_is_not_written_again() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let (set, identities, defaults) = world::world(&mut random);
        let mut compiler = Compiler::new(1);
        let first = compiler.compile(&set, &identities, &defaults).unwrap();
        let again = compiler.compile(&set, &identities, &defaults).unwrap();
        let plan = plan(&first, &again, Revision(2), &ROOM).unwrap();
        assert_eq!((plan.prepare, plan.cleanup), (vec![], vec![]), "seed {seed}");
        assert_eq!(first.rules, again.rules);
    }
}

#[test]
fn an_update_that_does_not_fit_beside_the_present_one_is_refused_whole() {
    let row = |set| (RowKey { set, peer_class: 0, address_class: 0 }, 1);
    let current = Compiled { rows: [row(1), row(2)].into(), ..Compiled::default() };
    let wanted = Compiled { rows: [row(2), row(3)].into(), ..Compiled::default() };
    let tight = |rows| plan(&current, &wanted, Revision(1), &Capacity { rows, ..ROOM }).map(|_| ());
    assert_eq!(tight(2), Err(PlanError { table: "row", needed: 3, capacity: 2 }));
    assert_eq!(tight(3), Ok(()));
}
