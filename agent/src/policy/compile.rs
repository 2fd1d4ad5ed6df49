//! Documents and identities in, tables out. Pure: the same input gives the same tables, and numbers stay what they were.
//!
//! The order of work: which policies bind which workload ([`super::bind`]), which conditions their rules make
//! ([`super::prepare`]), which class each identity and address falls into ([`super::classes`]), and from that the rows of
//! each rule set ([`super::rows`]). Each step keeps what it made and works out anew only what its input touches.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use thiserror::Error;
use waxseal_common::ids::{IdentityId, RuleId};
use waxseal_common::tables::IdentityRow;
use waxseal_common::verdict::Direction;

use super::bind::{self, Bindings};
use super::classes::{People, Places};
use super::compiled::{Compiled, RuleInfo};
use super::condition::{AddressCondition, IdentityCondition};
use super::digest::Digest;
use super::intern::{Exhausted, Interner};
use super::ports::PackedSet;
use super::prepare::Prepared;
use super::rows::{Fragments, Rows};
use super::set::{IdentityPolicy, NodeDefaults, PolicySet};
use super::subject::About;
use crate::workload::{IdentityInfo, Origin};

/// The identities that every node knows.
pub(super) const RESERVED: [IdentityId; 5] =
    [IdentityId::UNKNOWN, IdentityId::HOST, IdentityId::WORLD, IdentityId::UNMANAGED, IdentityId::AGENT];

/// Why documents that are fine one by one do not fit into the tables.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CompileError {
    /// Too many separate port ranges meet.
    #[error(
        "{origin}: together the {direction} rules of {} need {ranges} port ranges for one peer; the limit is {limit}: \
         join neighbouring ports into ranges",
        policies.join(", ")
    )]
    TooManyRanges {
        /// The policies whose rules meet, as `namespace/name`.
        policies: Vec<String>,
        /// The first of them.
        origin: Origin,
        /// `ingress` or `egress`.
        direction: &'static str,
        /// How many ranges there are.
        ranges: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The agent ran for so long that a kind of number was used up; a restart begins anew.
    #[error("all numbers for compiled policy parts are used up; restart the agent")]
    NumbersUsedUp,
}

impl From<Exhausted> for CompileError {
    fn from(Exhausted: Exhausted) -> Self {
        Self::NumbersUsedUp
    }
}

/// Compiles again and again: gives what did not change the number it had, and works out only what did.
#[derive(Debug)]
pub struct Compiler {
    numbers: Numbers,
    memory: Memory,
    turn: u64,
}

/// How many compilations there are between two in which numbers that are out of use are forgotten.
const FORGET_EVERY: u64 = 16;

/// The numbers given out.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) identity_conditions: Interner<Arc<IdentityCondition>>,
    pub(super) address_conditions: Interner<Arc<AddressCondition>>,
    pub(super) peer_classes: Interner<Vec<u32>>,
    pub(super) address_classes: Interner<Vec<u32>>,
    pub(super) rule_sets: Interner<(Direction, Vec<String>)>,
    pub(super) port_sets: Interner<Arc<PackedSet>>,
    pub(super) rules: Interner<Digest>,
}

/// What the compilation before has made. Belongs to one set of documents and identities; after a failure it is empty.
#[derive(Debug, Default)]
struct Memory {
    bindings: Bindings,
    prepared: Prepared,
    people: People,
    places: Places,
    fragments: Fragments,
}

impl Compiler {
    /// A compiler whose numbers begin at `first_free`, so that none meets one that is still in a pinned map.
    pub fn new(first_free: u32) -> Self {
        let numbers = Numbers {
            identity_conditions: Interner::new(1),
            address_conditions: Interner::new(1),
            peer_classes: Interner::new(first_free),
            address_classes: Interner::new(first_free),
            rule_sets: Interner::new(first_free),
            port_sets: Interner::new(first_free),
            rules: Interner::new(first_free),
        };
        Self { numbers, memory: Memory::default(), turn: 0 }
    }

    /// The tables that say what `set` says, for the identities this node knows. Identities below
    /// [`IdentityId::FIRST_WORKLOAD`] are added by themselves.
    pub fn compile(
        &mut self,
        set: &PolicySet,
        identities: &[IdentityInfo],
        defaults: &NodeDefaults,
    ) -> Result<Compiled, CompileError> {
        // Whatever fails leaves no half-changed memory behind.
        let mut memory = std::mem::take(&mut self.memory);
        let compiled = memory.compile(&mut self.numbers, set, identities, defaults)?;
        self.memory = memory;
        self.turn += 1;
        if self.turn.is_multiple_of(FORGET_EVERY) {
            self.forget(&compiled);
        }
        Ok(compiled)
    }

    /// Forgets the numbers of what is out of use.
    fn forget(&mut self, compiled: &Compiled) {
        let Memory { prepared, people, places, fragments, .. } = &self.memory;
        let numbers = &mut self.numbers;
        numbers.identity_conditions.retain(|number| prepared.identities.get(number).is_some());
        numbers.address_conditions.retain(|number| prepared.addresses.get(number).is_some());
        numbers.peer_classes.retain(|number| people.classes.contains(number));
        numbers.address_classes.retain(|number| places.classes.contains(number));
        let sets: HashSet<u32> = fragments.numbers().collect();
        numbers.rule_sets.retain(|number| sets.contains(&number));
        numbers.port_sets.retain(|number| compiled.sets.contains_key(&number));
        numbers.rules.retain(|number| compiled.rules.contains_key(&RuleId(number)));
    }
}

impl Memory {
    fn compile(
        &mut self,
        numbers: &mut Numbers,
        set: &PolicySet,
        identities: &[IdentityInfo],
        defaults: &NodeDefaults,
    ) -> Result<Compiled, CompileError> {
        let bound = self.bindings.update(&set.policies, identities);
        let used = bind::used(set.policies.len(), &bound);
        let same = self.bindings.same_policies;
        let by_place = self.prepared.update(&set.policies, used, same, numbers)?;
        let changed_peers = self.people.update(&self.prepared.identities, identities, numbers)?;
        let mesh = set.mesh.as_ref().map_or(&defaults.mesh, |mesh| &mesh.cidrs);
        let changed_places = self.places.update(&self.prepared.addresses, mesh, numbers)?;
        self.fragments.begin();
        let rows = Rows {
            policies: &set.policies,
            prepared: &by_place,
            peers: &self.people.classes,
            places: &self.places.classes,
            changed_peers,
            changed_places,
            fragments: std::mem::take(&mut self.fragments),
        };
        let mut work = Work { numbers, policies: &set.policies, rows, deniers: BTreeMap::new() };
        let mut rows_of = BTreeMap::new();
        for (identity, bound) in identities.iter().zip(&bound) {
            let namespace = set.namespaces.get(&identity.namespace);
            let about = About { identity, namespace, defaults };
            let row = IdentityRow {
                peer_class: self.people.of(identity.id),
                ingress: work.subject(&about, bound, Direction::Ingress)?,
                egress: work.subject(&about, bound, Direction::Egress)?,
            };
            rows_of.insert(identity.id, row);
        }
        for id in RESERVED {
            rows_of.insert(id, IdentityRow { peer_class: self.people.of(id), ..IdentityRow::default() });
        }
        let Work { rows: Rows { mut fragments, .. }, deniers, .. } = work;
        fragments.end();
        self.fragments = fragments;
        Ok(self.tables(rows_of, deniers, defaults))
    }

    fn tables(
        &self,
        identities: BTreeMap<IdentityId, IdentityRow>,
        deniers: BTreeMap<RuleId, Arc<RuleInfo>>,
        defaults: &NodeDefaults,
    ) -> Compiled {
        let (rows, sets) = self.fragments.tables();
        let mut rules: BTreeMap<RuleId, Arc<RuleInfo>> = self.prepared.infos.iter().cloned().collect();
        rules.extend(deniers);
        let mut compiled = Compiled { identities, addresses: self.places.rows.clone(), rows, sets, rules };
        compiled.mark_local(&defaults.local);
        compiled
    }
}

/// One compilation under way.
pub(super) struct Work<'a> {
    pub(super) numbers: &'a mut Numbers,
    pub(super) policies: &'a [Arc<IdentityPolicy>],
    pub(super) rows: Rows<'a>,
    /// The objects that deny by default.
    pub(super) deniers: BTreeMap<RuleId, Arc<RuleInfo>>,
}
