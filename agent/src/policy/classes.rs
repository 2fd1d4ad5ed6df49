//! Which class each identity and each address is in: those that meet the same conditions are in one class. Worked out
//! again only for what is new, and for the conditions that are.

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

/// The classes that meet each condition.
#[derive(Debug, Default)]
pub(super) struct Classes {
    meeting: HashMap<u32, Vec<u32>>,
    pub(super) known: HashSet<u32>,
}

impl Classes {
    /// The classes under which a rule with this condition is found: 0 for one that asks nothing.
    pub(super) fn meeting(&self, condition: Option<u32>) -> &[u32] {
        match condition {
            None => &[0],
            Some(number) => self.meeting.get(&number).map_or(&[], Vec::as_slice),
        }
    }

    fn add(&mut self, class: u32, conditions: &[u32]) {
        if self.known.insert(class) {
            for condition in conditions {
                self.meeting.entry(*condition).or_default().push(class);
            }
        }
    }

    /// The conditions that other classes meet than did before.
    fn changed_since(&self, before: &Self) -> HashSet<u32> {
        let is_other = |number: &&u32| self.meeting.get(number) != before.meeting.get(number);
        self.meeting.keys().chain(before.meeting.keys()).filter(is_other).copied().collect()
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
        let before = std::mem::take(&mut self.classes);
        self.of.clear();
        for (id, _) in ends {
            let Some(person) = self.met.get(&id).filter(|person| !person.met.is_empty()) else { continue };
            let class = numbers.peer_classes.number(&person.met)?;
            self.classes.add(class, &person.met);
            self.of.insert(id, class);
        }
        Ok(self.classes.changed_since(&before))
    }

    /// Which conditions each end meets.
    fn meet(&mut self, conditions: &InUse<IdentityCondition>, ends: &[(IdentityId, End<'_>)]) {
        let fresh = Index::new(conditions.fresh.iter().filter_map(|n| Some((*n, conditions.get(*n)?))));
        let gone: HashSet<u32> = conditions.gone.iter().copied().collect();
        let mut whole: Option<Index<'_>> = None;
        let mut before = std::mem::take(&mut self.met);
        for (id, end) in ends {
            let known = before.remove(id).filter(|person| person.is(*end));
            let (mut met, index) = match known {
                Some(Person { met, .. }) => (met, &fresh),
                None => (Vec::new(), &*whole.get_or_insert_with(|| Index::new(conditions.iter()))),
            };
            met.retain(|number| !gone.contains(number));
            let new = index.candidates(*end);
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
        let before = std::mem::take(&mut self.classes);
        let mut rows = Vec::new();
        for (prefix, met, in_mesh) in addresses::classify(&conditions.iter().collect(), mesh) {
            let class = if met.is_empty() { 0 } else { numbers.address_classes.number(&met)? };
            self.classes.add(class, &met);
            rows.push((prefix, AddressRow { class, flags: if in_mesh { AddressRow::MESH } else { 0 } }));
        }
        self.rows = addresses::prune(rows);
        self.mesh = Some(mesh.to_vec());
        Ok(self.classes.changed_since(&before))
    }
}
