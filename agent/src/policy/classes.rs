//! Which class each identity and each address is in: those that meet the same conditions are in one class. Worked out
//! again only for what is new, and for the conditions that are.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use waxseal_common::ids::IdentityId;
use waxseal_common::tables::AddressRow;

use super::addresses;
use super::compile::{CompileError, Numbers, RESERVED};
use super::compiled::Prefix;
use super::condition::{AddressCondition, End, IdentityCondition, Index};
use super::prepare::InUse;
use crate::cidr::Cidr;
use crate::workload::IdentityInfo;

/// Up to how many new identities every condition is tried.
const FEW: usize = 4;

/// The classes that meet each condition.
#[derive(Debug, Default)]
pub(super) struct Classes {
    meeting: HashMap<u32, Vec<u32>>,
    /// The conditions of each class, sorted.
    known: HashMap<u32, Vec<u32>>,
}

impl Classes {
    /// The classes under which a rule with this condition is found: 0 for one that asks nothing.
    pub(super) fn meeting(&self, condition: Option<u32>) -> &[u32] {
        match condition {
            None => &[0],
            Some(number) => self.meeting.get(&number).map_or(&[], Vec::as_slice),
        }
    }

    /// Whether anything is in this class.
    pub(super) fn contains(&self, class: u32) -> bool {
        self.known.contains_key(&class)
    }

    /// Brings the classes to these, each with its conditions. Returns the conditions that other classes meet now: those of
    /// the classes that came and went, because a class always meets the same.
    fn update(&mut self, wanted: &HashMap<u32, Vec<u32>>) -> HashSet<u32> {
        let mut changed = HashSet::new();
        let gone: Vec<u32> = self.known.keys().filter(|class| !wanted.contains_key(class)).copied().collect();
        for class in gone {
            for condition in self.known.remove(&class).into_iter().flatten() {
                if let Some(classes) = self.meeting.get_mut(&condition) {
                    classes.retain(|other| *other != class);
                    if classes.is_empty() {
                        self.meeting.remove(&condition);
                    }
                }
                changed.insert(condition);
            }
        }
        for (class, conditions) in wanted {
            if let Entry::Vacant(place) = self.known.entry(*class) {
                place.insert(conditions.clone());
                for condition in conditions {
                    self.meeting.entry(*condition).or_default().push(*class);
                }
                changed.extend(conditions);
            }
        }
        changed
    }
}

/// The identities and their classes.
#[derive(Debug, Default)]
pub(super) struct People {
    met: HashMap<IdentityId, Person>,
    of: HashMap<IdentityId, u32>,
    pub(super) classes: Classes,
}

/// An identity, and the conditions that it meets, sorted.
#[derive(Debug)]
struct Person {
    /// `None` for a reserved identity.
    info: Option<IdentityInfo>,
    met: Vec<u32>,
}

impl Person {
    /// Whether conditions cannot tell it from this one.
    fn is(&self, end: End<'_>) -> bool {
        match (&self.info, end) {
            (Some(info), End::Workload(other)) => {
                info.spiffe_id == other.spiffe_id
                    && info.namespace == other.namespace
                    && info.labels == other.labels
            }
            (None, End::Reserved(_)) => true,
            _ => false,
        }
    }
}

impl People {
    pub(super) fn of(&self, id: IdentityId) -> u32 {
        self.of.get(&id).copied().unwrap_or(0)
    }

    /// Brings the classes to these conditions and identities. Returns the conditions that other classes meet now.
    pub(super) fn update(
        &mut self,
        conditions: &InUse<IdentityCondition>,
        identities: &[IdentityInfo],
        numbers: &mut Numbers,
    ) -> Result<HashSet<u32>, CompileError> {
        let workloads = identities.iter().map(|identity| (identity.id, End::Workload(identity)));
        let ends: Vec<_> = workloads.chain(RESERVED.map(|id| (id, End::Reserved(id)))).collect();
        let is_known = |(id, end): &(IdentityId, End<'_>)| self.met.get(id).is_some_and(|p| p.is(*end));
        if !conditions.has_changed() && ends.len() == self.met.len() && ends.iter().all(is_known) {
            return Ok(HashSet::new());
        }
        self.meet(conditions, &ends);
        self.of.clear();
        let mut wanted = HashMap::new();
        for (id, _) in ends {
            let Some(person) = self.met.get(&id).filter(|person| !person.met.is_empty()) else { continue };
            let class = numbers.peer_classes.number(&person.met)?;
            wanted.entry(class).or_insert_with(|| person.met.clone());
            self.of.insert(id, class);
        }
        Ok(self.classes.update(&wanted))
    }

    /// Which conditions each end meets.
    fn meet(&mut self, conditions: &InUse<IdentityCondition>, ends: &[(IdentityId, End<'_>)]) {
        let fresh = Index::new(conditions.fresh.iter().filter_map(|n| Some((*n, conditions.get(*n)?))));
        let gone: HashSet<u32> = conditions.gone.iter().copied().collect();
        let newcomers = ends.iter().filter(|(id, end)| !self.met.get(id).is_some_and(|p| p.is(*end))).count();
        // An index of everything is worth its making only for many.
        let whole = (newcomers > FEW).then(|| Index::new(conditions.iter()));
        let mut before = std::mem::take(&mut self.met);
        for (id, end) in ends {
            let known = before.remove(id).filter(|person| person.is(*end));
            let (mut met, new) = match (known, &whole) {
                (Some(Person { met, .. }), _) => (met, fresh.candidates(*end)),
                (None, Some(whole)) => (Vec::new(), whole.candidates(*end)),
                (None, None) => (Vec::new(), conditions.iter().map(|(number, _)| number).collect()),
            };
            met.retain(|number| !gone.contains(number));
            met.extend(new.iter().filter(|n| conditions.get(**n).is_some_and(|c| c.matches(*end))));
            met.sort_unstable();
            let info = match end {
                End::Workload(info) => Some((*info).clone()),
                End::Reserved(_) => None,
            };
            self.met.insert(*id, Person { info, met });
        }
    }
}

/// The addresses and their classes.
#[derive(Debug, Default)]
pub(super) struct Places {
    mesh: Option<Vec<Cidr>>,
    /// The prefixes that say something.
    pub(super) rows: BTreeMap<Prefix, AddressRow>,
    pub(super) classes: Classes,
}

impl Places {
    /// Brings the classes to these conditions and ranges. Returns the conditions that other classes meet now.
    pub(super) fn update(
        &mut self,
        conditions: &InUse<AddressCondition>,
        mesh: &[Cidr],
        numbers: &mut Numbers,
    ) -> Result<HashSet<u32>, CompileError> {
        if !conditions.has_changed() && self.mesh.as_deref() == Some(mesh) {
            return Ok(HashSet::new());
        }
        let (mut rows, mut wanted) = (Vec::new(), HashMap::new());
        for (prefix, met, in_mesh) in addresses::classify(&conditions.iter().collect(), mesh) {
            let class = if met.is_empty() { 0 } else { numbers.address_classes.number(&met)? };
            rows.push((prefix, AddressRow { class, flags: if in_mesh { AddressRow::MESH } else { 0 } }));
            if class != 0 {
                wanted.entry(class).or_insert(met);
            }
        }
        self.rows = addresses::prune(rows);
        self.mesh = Some(mesh.to_vec());
        Ok(self.classes.update(&wanted))
    }
}
