//! Documents and identities in, tables out. Pure: the same input gives the same tables, and numbers stay what they were.
//!
//! The order of work: which policies bind which workload ([`super::bind`]), which conditions their rules make
//! ([`super::condition`]), which class each identity and address falls into, and from that the rows of each rule set.

use std::collections::{BTreeMap, HashMap, HashSet};

use thiserror::Error;
use waxseal_common::ids::{IdentityId, RuleId};
use waxseal_common::tables::{AddressRow, IdentityRow, PortSet};
use waxseal_common::verdict::Direction;

use super::addresses;
use super::bind::Bindings;
use super::compiled::{Compiled, RuleInfo};
use super::condition::{AddressCondition, Conditions, End, IdentityCondition, Index};
use super::intern::{Exhausted, Interner};
use super::ports::Ports;
use super::rows::Rows;
use super::set::{Action, IdentityPolicy, NodeDefaults, PolicySet, Rule};
use super::subject::About;
use crate::cidr::Cidr;
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

/// Compiles again and again, and gives what did not change the number it had.
#[derive(Debug)]
pub struct Compiler {
    identity_conditions: Interner<IdentityCondition>,
    address_conditions: Interner<AddressCondition>,
    peer_classes: Interner<Vec<u32>>,
    address_classes: Interner<Vec<u32>>,
    pub(super) rule_sets: Interner<(Direction, Vec<String>)>,
    pub(super) port_sets: Interner<PortSet>,
    rules: Interner<RuleContent>,
}

/// A rule keeps its number for as long as all of this stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RuleContent {
    info: RuleInfo,
    rule: Option<Rule>,
}

impl Compiler {
    /// A compiler whose numbers begin at `first_free`, so that none meets one that is still in a pinned map.
    pub fn new(first_free: u32) -> Self {
        Self {
            identity_conditions: Interner::new(1),
            address_conditions: Interner::new(1),
            peer_classes: Interner::new(first_free),
            address_classes: Interner::new(first_free),
            rule_sets: Interner::new(first_free),
            port_sets: Interner::new(first_free),
            rules: Interner::new(first_free),
        }
    }

    /// The tables that say what `set` says, for the identities this node knows. Identities below
    /// [`IdentityId::FIRST_WORKLOAD`] are added by themselves.
    pub fn compile(
        &mut self,
        set: &PolicySet,
        identities: &[IdentityInfo],
        defaults: &NodeDefaults,
    ) -> Result<Compiled, CompileError> {
        self.begin();
        let bindings = Bindings::new(&set.policies, identities);
        let mut work = Work { compiler: self, policies: &set.policies, compiled: Compiled::default() };
        let prepared = work.prepare(&bindings)?;
        let peers = work.classify_identities(&prepared, identities)?;
        let mesh = set.mesh.as_ref().map_or(&defaults.mesh, |mesh| &mesh.cidrs);
        let places = work.classify_addresses(&prepared, mesh)?;
        work.compiled.mark_local(&defaults.local);
        let mut rows = Rows { prepared: &prepared, peers: &peers, places: &places, sets: HashMap::new() };
        for (identity, bound) in identities.iter().zip(bindings.per_identity()) {
            let namespace = set.namespaces.get(&identity.namespace);
            let about = About { identity, namespace, defaults };
            let row = IdentityRow {
                peer_class: peers.of(identity.id),
                ingress: work.subject(&about, bound, Direction::Ingress, &mut rows)?,
                egress: work.subject(&about, bound, Direction::Egress, &mut rows)?,
            };
            work.compiled.identities.insert(identity.id, row);
        }
        for id in RESERVED {
            work.compiled
                .identities
                .insert(id, IdentityRow { peer_class: peers.of(id), ..IdentityRow::default() });
        }
        Ok(work.compiled)
    }

    fn begin(&mut self) {
        let Self {
            identity_conditions,
            address_conditions,
            peer_classes,
            address_classes,
            rule_sets,
            port_sets,
            rules,
        } = self;
        identity_conditions.begin();
        address_conditions.begin();
        peer_classes.begin();
        address_classes.begin();
        rule_sets.begin();
        port_sets.begin();
        rules.begin();
    }
}

/// The rules of the policies that bind anybody, ready to be placed into rows.
#[derive(Debug, Default)]
pub(super) struct Prepared<'a> {
    pub(super) rules: HashMap<(usize, Direction), Vec<PreparedRule<'a>>>,
    identity_conditions: BTreeMap<u32, IdentityCondition>,
    address_conditions: BTreeMap<u32, AddressCondition>,
}

/// The numbers of a peer's conditions on the identity and on the address.
type PeerConditions = (Option<u32>, Option<u32>);

#[derive(Debug)]
pub(super) struct PreparedRule<'a> {
    pub(super) id: RuleId,
    pub(super) action: Action,
    pub(super) ports: Option<&'a [Ports]>,
    /// The numbers of the conditions of each peer; a rule about everybody has one without any.
    pub(super) peers: Vec<PeerConditions>,
}

impl PreparedRule<'_> {
    pub(super) fn names_identities(&self) -> bool {
        self.peers.iter().any(|(identity, _)| identity.is_some())
    }
}

/// Which classes meet a condition, and which class an identity is in.
#[derive(Debug, Default)]
pub(super) struct Classes {
    meeting: HashMap<u32, Vec<u32>>,
    of: HashMap<IdentityId, u32>,
    known: HashSet<u32>,
}

impl Classes {
    pub(super) fn of(&self, id: IdentityId) -> u32 {
        self.of.get(&id).copied().unwrap_or(0)
    }

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
}

/// One compilation under way.
pub(super) struct Work<'a> {
    pub(super) compiler: &'a mut Compiler,
    pub(super) policies: &'a [IdentityPolicy],
    pub(super) compiled: Compiled,
}

impl<'a> Work<'a> {
    pub(super) fn number_rule(
        &mut self,
        info: RuleInfo,
        rule: Option<&Rule>,
    ) -> Result<RuleId, CompileError> {
        let content = RuleContent { info, rule: rule.cloned() };
        let id = RuleId(self.compiler.rules.number(&content)?);
        self.compiled.rules.insert(id, content.info);
        Ok(id)
    }

    fn prepare(&mut self, bindings: &Bindings) -> Result<Prepared<'a>, CompileError> {
        let mut prepared = Prepared::default();
        for index in bindings.used() {
            let Some(policy) = self.policies.get(index) else { continue };
            for direction in [Direction::Ingress, Direction::Egress] {
                let Some(rules) = policy.rules(direction) else { continue };
                let mut list = Vec::with_capacity(rules.len());
                for (place, rule) in rules.iter().enumerate() {
                    let id = self.number_rule(rule_info(policy, direction, place, rule), Some(rule))?;
                    let peers = self.prepare_peers(rule, &mut prepared)?;
                    list.push(PreparedRule { id, action: rule.action, ports: rule.ports.as_deref(), peers });
                }
                prepared.rules.insert((index, direction), list);
            }
        }
        Ok(prepared)
    }

    fn prepare_peers(
        &mut self,
        rule: &Rule,
        prepared: &mut Prepared<'_>,
    ) -> Result<Vec<PeerConditions>, CompileError> {
        let Some(peers) = &rule.peers else { return Ok(vec![(None, None)]) };
        let mut list = Vec::with_capacity(peers.len());
        for Conditions { identity, address } in peers.iter().filter_map(Conditions::of) {
            let mut numbers = (None, None);
            if let Some(condition) = identity {
                let number = self.compiler.identity_conditions.number(&condition)?;
                prepared.identity_conditions.insert(number, condition);
                numbers.0 = Some(number);
            }
            if let Some(condition) = address {
                let number = self.compiler.address_conditions.number(&condition)?;
                prepared.address_conditions.insert(number, condition);
                numbers.1 = Some(number);
            }
            list.push(numbers);
        }
        Ok(list)
    }

    fn classify_identities(
        &mut self,
        prepared: &Prepared<'_>,
        identities: &[IdentityInfo],
    ) -> Result<Classes, CompileError> {
        let mut index = Index::default();
        for (number, condition) in &prepared.identity_conditions {
            index.insert(*number, condition);
        }
        let mut classes = Classes::default();
        let workloads = identities.iter().map(|identity| (identity.id, End::Workload(identity)));
        for (id, end) in workloads.chain(RESERVED.map(|id| (id, End::Reserved(id)))) {
            let mut met = index.candidates(end);
            met.retain(|number| prepared.identity_conditions.get(number).is_some_and(|c| c.matches(end)));
            if met.is_empty() {
                continue;
            }
            let class = self.compiler.peer_classes.number(met.as_slice())?;
            classes.add(class, &met);
            classes.of.insert(id, class);
        }
        Ok(classes)
    }

    fn classify_addresses(
        &mut self,
        prepared: &Prepared<'_>,
        mesh: &[Cidr],
    ) -> Result<Classes, CompileError> {
        let conditions = prepared.address_conditions.iter().map(|(number, c)| (*number, c)).collect();
        let mut classes = Classes::default();
        let mut rows = Vec::new();
        for (prefix, met, in_mesh) in addresses::classify(&conditions, mesh) {
            let class =
                if met.is_empty() { 0 } else { self.compiler.address_classes.number(met.as_slice())? };
            classes.add(class, &met);
            rows.push((prefix, AddressRow { class, flags: if in_mesh { AddressRow::MESH } else { 0 } }));
        }
        self.compiled.addresses = addresses::prune(rows);
        Ok(classes)
    }
}

/// What a rule is called.
pub(super) fn rule_info(
    policy: &IdentityPolicy,
    direction: Direction,
    place: usize,
    rule: &Rule,
) -> RuleInfo {
    RuleInfo {
        policy: policy.title(),
        kind: policy.kind,
        rule: Some(rule.name.clone().unwrap_or_else(|| format!("#{}", place + 1))),
        direction: direction.into(),
        origin: rule.origin.clone(),
    }
}
