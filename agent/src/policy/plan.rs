//! From the tables in force to the tables wanted: what to write, in which order, so that every verdict is made under one
//! of the two and never under a mixture. Pure; the datapath applies it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use waxseal_common::ids::{IdentityId, Revision, RuleId};
use waxseal_common::tables::{
    AddressEntry, AddressRow, IdentityEntry, IdentityRow, Mode, PortSet, RowEntry, RowKey, Subject,
    Versioned as _,
};

use super::compiled::{Compiled, Prefix};
use super::ports::PackedSet;

/// How many entries each map can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Of the identity map.
    pub identities: u32,
    /// Of the address map.
    pub addresses: u32,
    /// Of the row map.
    pub rows: u32,
    /// Of the map of port sets.
    pub sets: u32,
}

/// An update in three steps.
#[derive(Clone, Debug)]
pub struct Plan {
    /// To be applied first, in this order. No verdict changes.
    pub prepare: Vec<Change>,
    /// To be made the present revision next. All verdicts change at once.
    pub revision: Revision,
    /// To be applied last, once no reader can still be under the revision before. No verdict changes.
    pub cleanup: Vec<Change>,
}

/// One write to one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a port set under a number that no row uses yet.
    PutSet(u32, Arc<PackedSet>),
    /// Writes a row.
    PutRow(RowKey, RowEntry),
    /// Writes an identity.
    PutIdentity(IdentityId, IdentityEntry),
    /// Writes a prefix.
    PutAddress(Prefix, AddressEntry),
    /// Deletes a port set that no row uses any more.
    DeleteSet(u32),
    /// Deletes a row that is empty in the present revision.
    DeleteRow(RowKey),
    /// Deletes an identity.
    DeleteIdentity(IdentityId),
    /// Deletes a prefix that says the same as the one around it.
    DeleteAddress(Prefix),
}

/// The update does not fit; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the policy needs {needed} entries in the {table} map, which holds {capacity}, while old and new are both in it"
)]
pub struct PlanError {
    /// Which map.
    pub table: &'static str,
    /// How many entries old and new need together.
    pub needed: usize,
    /// How many it can hold.
    pub capacity: u32,
}

/// Plans the way from `current`, which is what the maps say now, to `wanted`. `revision` is the one after the present one.
pub fn plan(
    current: &Compiled,
    wanted: &Compiled,
    revision: Revision,
    capacity: &Capacity,
) -> Result<Plan, PlanError> {
    check_capacity(current, wanted, capacity)?;
    let mut plan = Plan { prepare: Vec::new(), revision, cleanup: Vec::new() };
    plan.sets(current, wanted);
    plan.rows(current, wanted);
    plan.identities(current, wanted);
    plan.addresses(current, wanted);
    // A set goes after the rows that name it.
    plan.cleanup.sort_by_key(|change| matches!(change, Change::DeleteSet(_)));
    Ok(plan)
}

/// An identity without a row is denied everything, as subject, and met by no rule, as peer. This row says the same.
const NO_ROW: IdentityRow = IdentityRow { peer_class: 0, ingress: CLOSED, egress: CLOSED };

const CLOSED: Subject = Subject {
    set: 0,
    shadow_set: 0,
    selected_by: RuleId::NONE,
    shadow_selected_by: RuleId::NONE,
    mode: Mode::Enforce as u8,
    flags: Subject::DENY_BY_DEFAULT,
    pad: [0; 2],
};

impl Plan {
    /// Takes back a `prepare` that was applied in part or whole, while its revision is not in force: every entry it may
    /// have touched says for good what `current` says.
    pub fn undo(&self, current: &Compiled) -> Vec<Change> {
        let mut undo: Vec<Change> =
            self.prepare.iter().filter_map(|change| self.undo_one(change, current)).collect();
        undo.sort_by_key(|change| matches!(change, Change::DeleteSet(_)));
        undo
    }

    fn undo_one(&self, change: &Change, current: &Compiled) -> Option<Change> {
        Some(match change {
            Change::PutSet(number, _) => Change::DeleteSet(*number),
            Change::PutRow(key, _) => match current.rows.get(key).copied() {
                Some(old) => Change::PutRow(*key, RowEntry { from: self.revision, new: old, old }),
                None => Change::DeleteRow(*key),
            },
            Change::PutIdentity(id, _) => match current.identities.get(id).copied() {
                Some(old) => Change::PutIdentity(*id, IdentityEntry { from: self.revision, new: old, old }),
                None => Change::DeleteIdentity(*id),
            },
            Change::PutAddress(prefix, _) => match current.addresses.get(prefix).copied() {
                Some(old) => Change::PutAddress(*prefix, AddressEntry { from: self.revision, new: old, old }),
                None => Change::DeleteAddress(*prefix),
            },
            Change::DeleteSet(_)
            | Change::DeleteRow(_)
            | Change::DeleteIdentity(_)
            | Change::DeleteAddress(_) => {
                return None;
            }
        })
    }

    fn sets(&mut self, current: &Compiled, wanted: &Compiled) {
        for (number, set) in &wanted.sets {
            if !current.sets.contains_key(number) {
                self.prepare.push(Change::PutSet(*number, Arc::clone(set)));
            }
        }
        let unused = current.sets.keys().filter(|number| !wanted.sets.contains_key(number));
        self.cleanup.extend(unused.map(|number| Change::DeleteSet(*number)));
    }

    fn rows(&mut self, current: &Compiled, wanted: &Compiled) {
        for (key, old, new) in pairs(&current.rows, &wanted.rows) {
            if old == new {
                continue;
            }
            let entry = RowEntry { from: self.revision, new: new.unwrap_or(0), old: old.unwrap_or(0) };
            if entry.new != entry.old {
                self.prepare.push(Change::PutRow(key, entry));
            }
            if new.is_none() {
                self.cleanup.push(Change::DeleteRow(key));
            }
        }
    }

    fn identities(&mut self, current: &Compiled, wanted: &Compiled) {
        for (id, old, new) in pairs(&current.identities, &wanted.identities) {
            if old == new {
                continue;
            }
            let entry =
                IdentityEntry { from: self.revision, new: new.unwrap_or(NO_ROW), old: old.unwrap_or(NO_ROW) };
            self.prepare.push(Change::PutIdentity(id, entry));
            if new.is_none() {
                self.cleanup.push(Change::DeleteIdentity(id));
            }
        }
    }

    /// Where a prefix does not exist on one side, it says there what the prefix around it says: a longest match cannot
    /// see past it.
    fn addresses(&mut self, current: &Compiled, wanted: &Compiled) {
        for (prefix, old, new) in pairs(&current.addresses, &wanted.addresses) {
            if old == new {
                continue;
            }
            let entry = AddressEntry {
                from: self.revision,
                new: wanted.covering(prefix).unwrap_or_default(),
                old: current.covering(prefix).unwrap_or_default(),
            };
            self.prepare.push(Change::PutAddress(prefix, entry));
            if new.is_none() {
                self.cleanup.push(Change::DeleteAddress(prefix));
            }
        }
    }
}

/// The keys of both in order, each with what either side says.
fn pairs<'a, K: Ord + Copy, V: Clone>(
    current: &'a BTreeMap<K, V>,
    wanted: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, Option<V>, Option<V>)> + use<'a, K, V> {
    let (mut old, mut new) = (current.iter().peekable(), wanted.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        let (key, _) = before.or(after)?;
        Some((*key, before.map(|(_, value)| value.clone()), after.map(|(_, value)| value.clone())))
    })
}

fn check_capacity(current: &Compiled, wanted: &Compiled, capacity: &Capacity) -> Result<(), PlanError> {
    let Capacity { identities, addresses, rows, sets } = *capacity;
    for (table, needed, capacity) in [
        ("identity", together(&current.identities, &wanted.identities), identities),
        ("address", together(&current.addresses, &wanted.addresses), addresses),
        ("row", together(&current.rows, &wanted.rows), rows),
        ("port set", together(&current.sets, &wanted.sets), sets),
    ] {
        if needed > capacity as usize {
            return Err(PlanError { table, needed, capacity });
        }
    }
    Ok(())
}

fn together<K: Ord + Copy, V: Clone>(current: &BTreeMap<K, V>, wanted: &BTreeMap<K, V>) -> usize {
    pairs(current, wanted).count()
}

/// What pinned maps of an earlier run of the agent hold.
#[derive(Debug, Default)]
pub struct Pinned {
    /// What is in force under the present revision. Its rules are not known; [`plan`] does not need them.
    pub compiled: Compiled,
    /// To be applied before anything else is planned: takes back what was prepared and never came into force.
    pub settle: Vec<Change>,
    /// The first number that is certainly not in these maps, for [`super::Compiler::new`].
    pub first_free: u32,
}

impl Pinned {
    /// Reads the contents of the maps as they stand, under the revision that is in force.
    pub fn read(
        revision: Revision,
        identities: impl IntoIterator<Item = (IdentityId, IdentityEntry)>,
        addresses: impl IntoIterator<Item = (Prefix, AddressEntry)>,
        rows: impl IntoIterator<Item = (RowKey, RowEntry)>,
        sets: impl IntoIterator<Item = (u32, PortSet)>,
    ) -> Self {
        let mut pinned = Self::default();
        for (id, entry) in identities {
            let row = entry.at(revision);
            pinned.compiled.identities.insert(id, row);
            if entry.from > revision {
                pinned
                    .settle
                    .push(Change::PutIdentity(id, IdentityEntry { from: revision, new: row, old: row }));
            }
        }
        for (prefix, entry) in addresses {
            let row = entry.at(revision);
            pinned.compiled.addresses.insert(prefix, row);
            if entry.from > revision {
                pinned
                    .settle
                    .push(Change::PutAddress(prefix, AddressEntry { from: revision, new: row, old: row }));
            }
        }
        for (key, entry) in rows {
            let set = entry.at(revision);
            pinned.compiled.rows.insert(key, set);
            if entry.from > revision {
                pinned.settle.push(Change::PutRow(key, RowEntry { from: revision, new: set, old: set }));
            }
        }
        pinned.compiled.sets =
            sets.into_iter().map(|(number, set)| (number, Arc::new(PackedSet::from(&set)))).collect();
        pinned.first_free = pinned.compiled.highest_number().saturating_add(1);
        pinned
    }
}

impl Compiled {
    fn highest_number(&self) -> u32 {
        let identities = self.identities.values().flat_map(|row| {
            let subjects = [row.ingress, row.egress].into_iter();
            subjects.flat_map(|subject| [subject.set, subject.shadow_set]).chain([row.peer_class])
        });
        let addresses = self.addresses.values().map(|row: &AddressRow| row.class);
        let rows = self.rows.keys().flat_map(|key| [key.set, key.peer_class, key.address_class]);
        let rules = self.named_rules().into_iter().map(|rule| rule.0);
        identities
            .chain(addresses)
            .chain(rows)
            .chain(rules)
            .chain(self.sets.keys().copied())
            .max()
            .unwrap_or(0)
    }
}
