//! The rules of policies, ready to be placed into rows. What was prepared once is used again for as long as the policy
//! stays what it is and binds anybody.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use waxseal_common::ids::RuleId;
use waxseal_common::verdict::Direction;

use super::compile::{CompileError, Numbers};
use super::compiled::RuleInfo;
use super::condition::{AddressCondition, Conditions, IdentityCondition};
use super::digest::Digest;
use super::ports::Ports;
use super::set::{Action, IdentityPolicy, Rule};

/// The numbers of a peer's conditions on the identity and on the address.
pub(super) type PeerConditions = (Option<u32>, Option<u32>);

/// One policy with numbers for what it says.
#[derive(Debug)]
pub(super) struct PreparedPolicy {
    /// No other one has it, whatever it is made from.
    pub(super) serial: u64,
    policy: Arc<IdentityPolicy>,
    ingress: Vec<PreparedRule>,
    egress: Vec<PreparedRule>,
    pub(super) infos: Vec<(RuleId, Arc<RuleInfo>)>,
}

#[derive(Debug)]
pub(super) struct PreparedRule {
    pub(super) id: RuleId,
    pub(super) action: Action,
    /// Its place in its list.
    place: usize,
    /// The numbers of the conditions of each peer; a rule about everybody has one without any.
    pub(super) peers: Vec<PeerConditions>,
}

impl PreparedPolicy {
    pub(super) fn rules(&self, direction: Direction) -> &[PreparedRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    pub(super) fn ports(&self, direction: Direction, rule: &PreparedRule) -> Option<&[Ports]> {
        self.policy.rules(direction)?.get(rule.place)?.ports.as_deref()
    }

    fn conditions(&self) -> impl Iterator<Item = PeerConditions> {
        self.ingress.iter().chain(&self.egress).flat_map(|rule| rule.peers.iter().copied())
    }
}

impl PreparedRule {
    pub(super) fn names_identities(&self) -> bool {
        self.peers.iter().any(|(identity, _)| identity.is_some())
    }
}

/// The conditions in use, how often each is, and what has changed since the compilation before.
#[derive(Debug)]
pub(super) struct InUse<C> {
    counted: HashMap<u32, (u32, Arc<C>)>,
    pub(super) fresh: Vec<u32>,
    pub(super) gone: Vec<u32>,
}

impl<C> Default for InUse<C> {
    fn default() -> Self {
        Self { counted: HashMap::new(), fresh: Vec::new(), gone: Vec::new() }
    }
}

impl<C> InUse<C> {
    pub(super) fn get(&self, number: u32) -> Option<&C> {
        self.counted.get(&number).map(|(_, condition)| &**condition)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &C)> {
        self.counted.iter().map(|(number, (_, condition))| (*number, &**condition))
    }

    /// Whether other conditions are in use than the time before.
    pub(super) fn has_changed(&self) -> bool {
        !(self.fresh.is_empty() && self.gone.is_empty())
    }

    fn begin(&mut self) {
        self.fresh.clear();
        self.gone.clear();
    }

    fn add(&mut self, number: u32, condition: Arc<C>) {
        let (count, _) = self.counted.entry(number).or_insert_with(|| {
            self.fresh.push(number);
            (0, condition)
        });
        *count += 1;
    }

    fn remove(&mut self, number: u32) {
        if let Some((count, _)) = self.counted.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.counted.remove(&number);
                self.gone.push(number);
            }
        }
    }
}

/// The policies that bind anybody, prepared, by the address of the document that each was made from.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    known: HashMap<usize, (Arc<IdentityPolicy>, Arc<PreparedPolicy>)>,
    used: Vec<usize>,
    by_place: Arc<ByPlace>,
    /// Every rule in use, and what it is called; by number.
    pub(super) infos: Vec<(RuleId, Arc<RuleInfo>)>,
    pub(super) identities: InUse<IdentityCondition>,
    pub(super) addresses: InUse<AddressCondition>,
    serial: u64,
}

/// For each policy of a set, what it was prepared to; `None` for one that binds nobody.
pub(super) type ByPlace = Vec<Option<Arc<PreparedPolicy>>>;

impl Prepared {
    /// Prepares what was not prepared before, and forgets what binds nobody any more. `used` are the places of the policies
    /// that bind anybody, `same` whether the policies are those of the time before.
    pub(super) fn update(
        &mut self,
        policies: &[Arc<IdentityPolicy>],
        used: Vec<usize>,
        same: bool,
        numbers: &mut Numbers,
    ) -> Result<Arc<ByPlace>, CompileError> {
        self.identities.begin();
        self.addresses.begin();
        if same && used == self.used {
            return Ok(Arc::clone(&self.by_place));
        }
        let by_place = self.prepare_used(policies, &used, numbers)?;
        (self.used, self.by_place) = (used, Arc::new(by_place));
        self.infos = self.known.values().flat_map(|(_, prepared)| prepared.infos.iter().cloned()).collect();
        self.infos.sort_unstable_by_key(|(id, _)| *id);
        Ok(Arc::clone(&self.by_place))
    }

    fn prepare_used(
        &mut self,
        policies: &[Arc<IdentityPolicy>],
        used: &[usize],
        numbers: &mut Numbers,
    ) -> Result<ByPlace, CompileError> {
        let mut before = std::mem::take(&mut self.known);
        let mut by_place: ByPlace = vec![None; policies.len()];
        let mut others = Vec::new();
        for place in used.iter().copied() {
            let Some(policy) = policies.get(place) else { continue };
            let key = address(policy);
            let known = before.remove(&key).or_else(|| self.known.get(&key).cloned());
            match known {
                Some((document, prepared)) => self.keep(place, document, prepared, &mut by_place),
                None => others.push((place, policy)),
            }
        }
        // What is left was changed, or is gone, or was made anew to say the same.
        let left: Vec<_> = before.into_values().map(|(_, prepared)| prepared).collect();
        let mut by_name: HashMap<_, _> =
            left.iter().map(|prepared| (name(&prepared.policy), prepared)).collect();
        let mut again = HashSet::new();
        for (place, policy) in others {
            let same = by_name.remove(&name(policy)).filter(|prepared| prepared.policy == *policy);
            let prepared = match same {
                Some(prepared) => {
                    again.insert(prepared.serial);
                    Arc::clone(prepared)
                }
                None => Arc::new(self.prepare(policy, numbers)?),
            };
            self.keep(place, Arc::clone(policy), prepared, &mut by_place);
        }
        for (identity, place) in
            left.iter().filter(|prepared| !again.contains(&prepared.serial)).flat_map(|p| p.conditions())
        {
            if let Some(number) = identity {
                self.identities.remove(number);
            }
            if let Some(number) = place {
                self.addresses.remove(number);
            }
        }
        Ok(by_place)
    }

    fn keep(
        &mut self,
        place: usize,
        document: Arc<IdentityPolicy>,
        prepared: Arc<PreparedPolicy>,
        by_place: &mut ByPlace,
    ) {
        by_place[place] = Some(Arc::clone(&prepared));
        self.known.insert(address(&document), (document, prepared));
    }

    fn prepare(
        &mut self,
        policy: &Arc<IdentityPolicy>,
        numbers: &mut Numbers,
    ) -> Result<PreparedPolicy, CompileError> {
        self.serial += 1;
        let mut prepared = PreparedPolicy {
            serial: self.serial,
            policy: Arc::clone(policy),
            ingress: Vec::new(),
            egress: Vec::new(),
            infos: Vec::new(),
        };
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut list = Vec::new();
            for (place, rule) in policy.rules(direction).into_iter().flatten().enumerate() {
                let info = rule_info(policy, direction, place, rule);
                let id = RuleId(numbers.rules.number(&Digest::of(&(&info, Some(rule))))?);
                prepared.infos.push((id, Arc::new(info)));
                let peers = self.peers(rule, numbers)?;
                list.push(PreparedRule { id, action: rule.action, place, peers });
            }
            match direction {
                Direction::Ingress => prepared.ingress = list,
                Direction::Egress => prepared.egress = list,
            }
        }
        Ok(prepared)
    }

    fn peers(&mut self, rule: &Rule, numbers: &mut Numbers) -> Result<Vec<PeerConditions>, CompileError> {
        let Some(peers) = &rule.peers else { return Ok(vec![(None, None)]) };
        let mut list = Vec::with_capacity(peers.len());
        for Conditions { identity, address } in peers.iter().filter_map(Conditions::of) {
            let mut found = (None, None);
            if let Some(condition) = identity.map(Arc::new) {
                let number = numbers.identity_conditions.number(&condition)?;
                self.identities.add(number, condition);
                found.0 = Some(number);
            }
            if let Some(condition) = address.map(Arc::new) {
                let number = numbers.address_conditions.number(&condition)?;
                self.addresses.add(number, condition);
                found.1 = Some(number);
            }
            list.push(found);
        }
        Ok(list)
    }
}

/// A document is the same for as long as it is at its place: whoever looks by it holds it too.
fn address(policy: &Arc<IdentityPolicy>) -> usize {
    Arc::as_ptr(policy).addr()
}

fn name(policy: &IdentityPolicy) -> (&'static str, &str, &str, u32) {
    (policy.kind, &policy.namespace, &policy.name, policy.part)
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
