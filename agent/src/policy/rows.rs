//! The rows of a rule set: which rules meet in which pair of classes, and what they say about each port.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use waxseal_common::tables::{PortSet, RANGES_PER_SET, RowKey};
use waxseal_common::verdict::Direction;

use super::classes::Classes;
use super::compile::{CompileError, Numbers};
use super::ports::{self, Entry, PackedSet};
use super::prepare::{ByPlace, PreparedPolicy, PreparedRule};
use super::set::{IdentityPolicy, direction_word};

/// A rule set is known by the policies that it is made of.
type Key = (Direction, Vec<u64>);

/// The rows of one rule set.
#[derive(Debug)]
struct Fragment {
    set: u32,
    rows: Vec<(RowKey, u32)>,
    sets: Vec<(u32, Arc<PackedSet>)>,
}

/// The rule sets in use; those whose policies and classes have not changed keep their rows.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    before: HashMap<Key, Fragment>,
    now: HashMap<Key, Fragment>,
}

/// What rows are made of.
pub(super) struct Rows<'a> {
    pub(super) policies: &'a [Arc<IdentityPolicy>],
    pub(super) prepared: &'a ByPlace,
    pub(super) peers: &'a Classes,
    pub(super) places: &'a Classes,
    /// The conditions that other classes meet than did the time before.
    pub(super) changed_peers: HashSet<u32>,
    pub(super) changed_places: HashSet<u32>,
    pub(super) fragments: Fragments,
}

/// A rule, and its policy.
type Placed<'a> = (usize, &'a PreparedPolicy, &'a PreparedRule);

impl Fragments {
    /// Begins a compilation.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// Ends it: forgets what was not asked for.
    pub(super) fn end(&mut self) {
        self.before = HashMap::new();
    }

    /// The numbers of the rule sets in use.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.now.values().map(|fragment| fragment.set)
    }

    /// All rows, and the port sets that they name.
    pub(super) fn tables(&self) -> (BTreeMap<RowKey, u32>, BTreeMap<u32, Arc<PackedSet>>) {
        let mut fragments: Vec<&Fragment> = self.now.values().collect();
        fragments.sort_unstable_by_key(|fragment| fragment.set);
        let rows = fragments.iter().flat_map(|fragment| fragment.rows.iter().copied()).collect();
        let mut sets: Vec<(u32, &Arc<PackedSet>)> = fragments
            .iter()
            .flat_map(|fragment| fragment.sets.iter().map(|(number, set)| (*number, set)))
            .collect();
        sets.sort_unstable_by_key(|(number, _)| *number);
        sets.dedup_by_key(|(number, _)| *number);
        (rows, sets.into_iter().map(|(number, set)| (number, Arc::clone(set))).collect())
    }
}

impl Rows<'_> {
    /// The number of the rule set made of these policies, whose rows are worked out when it is met first; 0 when they
    /// have no rule.
    pub(super) fn rule_set(
        &mut self,
        direction: Direction,
        policies: &[usize],
        numbers: &mut Numbers,
    ) -> Result<u32, CompileError> {
        let prepared = self.prepared;
        let with_rules: Vec<(usize, &PreparedPolicy)> = policies
            .iter()
            .filter_map(|place| Some((*place, prepared.get(*place)?.as_deref()?)))
            .filter(|(_, policy)| !policy.rules(direction).is_empty())
            .collect();
        if with_rules.is_empty() {
            return Ok(0);
        }
        let key = (direction, with_rules.iter().map(|(_, policy)| policy.serial).collect());
        if let Some(fragment) = self.fragments.now.get(&key) {
            return Ok(fragment.set);
        }
        let old = self.fragments.before.remove(&key);
        let untouched = old.filter(|_| !self.is_touched(direction, &with_rules));
        let fragment = if let Some(fragment) = untouched {
            fragment
        } else {
            let names = with_rules.iter().map(|(place, _)| self.policies[*place].key()).collect();
            let set = numbers.rule_sets.number(&(direction, names))?;
            self.fragment(set, direction, &with_rules, numbers)?
        };
        let number = fragment.set;
        self.fragments.now.insert(key, fragment);
        Ok(number)
    }

    fn is_touched(&self, direction: Direction, policies: &[(usize, &PreparedPolicy)]) -> bool {
        if self.changed_peers.is_empty() && self.changed_places.is_empty() {
            return false;
        }
        let mut conditions =
            policies.iter().flat_map(|(_, policy)| policy.rules(direction)).flat_map(|rule| &rule.peers);
        conditions.any(|(identity, address)| {
            identity.is_some_and(|number| self.changed_peers.contains(&number))
                || address.is_some_and(|number| self.changed_places.contains(&number))
        })
    }

    fn fragment(
        &self,
        set: u32,
        direction: Direction,
        policies: &[(usize, &PreparedPolicy)],
        numbers: &mut Numbers,
    ) -> Result<Fragment, CompileError> {
        let rules: Vec<Placed<'_>> = policies
            .iter()
            .flat_map(|(place, policy)| policy.rules(direction).iter().map(|rule| (*place, *policy, rule)))
            .collect();
        let mut fragment = Fragment { set, rows: Vec::new(), sets: Vec::new() };
        let mut known: HashMap<Vec<usize>, u32> = HashMap::new();
        for (key, list) in self.contents(set, &rules) {
            let number = if let Some(number) = known.get(&list) {
                *number
            } else {
                let ports = Arc::new(PackedSet::from(&self.port_set(direction, &rules, &list)?));
                let number = numbers.port_sets.number(&ports)?;
                fragment.sets.push((number, ports));
                number
            };
            known.insert(list, number);
            fragment.rows.push((key, number));
        }
        fragment.rows.shrink_to_fit();
        fragment.sets.shrink_to_fit();
        Ok(fragment)
    }

    /// Which rules meet in which row, by their places in the list.
    fn contents(&self, set: u32, rules: &[Placed<'_>]) -> BTreeMap<RowKey, Vec<usize>> {
        let mut contents: BTreeMap<RowKey, Vec<usize>> = BTreeMap::new();
        for (place, (_, _, rule)) in rules.iter().enumerate() {
            for (identity, address) in &rule.peers {
                for peer_class in self.peers.meeting(*identity) {
                    for address_class in self.places.meeting(*address) {
                        let key = RowKey { set, peer_class: *peer_class, address_class: *address_class };
                        let list = contents.entry(key).or_default();
                        // Two peers of one rule can meet in one row.
                        if list.last() != Some(&place) {
                            list.push(place);
                        }
                    }
                }
            }
        }
        contents
    }

    fn port_set(
        &self,
        direction: Direction,
        rules: &[Placed<'_>],
        list: &[usize],
    ) -> Result<PortSet, CompileError> {
        let here: Vec<Placed<'_>> = list.iter().filter_map(|place| rules.get(*place).copied()).collect();
        let entries: Vec<Entry<'_>> = here
            .iter()
            .map(|(_, policy, rule)| Entry {
                rule: rule.id,
                action: rule.action,
                ports: policy.ports(direction, rule),
            })
            .collect();
        ports::flatten(&entries).map_err(|ranges| {
            let mut policies: Vec<usize> = here.iter().map(|(place, ..)| *place).collect();
            policies.dedup();
            CompileError::TooManyRanges {
                origin: self.policies[policies[0]].origin.clone(),
                policies: policies.iter().map(|index| self.policies[*index].title()).collect(),
                direction: direction_word(direction),
                ranges,
                limit: RANGES_PER_SET,
            }
        })
    }
}
