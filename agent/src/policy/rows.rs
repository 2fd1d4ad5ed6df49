//! The rows of a rule set: which rules meet in which pair of classes, and what they say about each port.

use std::collections::HashMap;

use waxseal_common::tables::{RANGES_PER_SET, RowKey};
use waxseal_common::verdict::Direction;

use super::compile::{Classes, CompileError, Prepared, PreparedRule, Work};
use super::ports::{self, Entry};
use super::set::direction_word;

/// What rows are made of.
pub(super) struct Rows<'a> {
    pub(super) prepared: &'a Prepared<'a>,
    pub(super) peers: &'a Classes,
    pub(super) places: &'a Classes,
    /// The sets whose rows are written already.
    pub(super) sets: HashMap<(Direction, Vec<usize>), u32>,
}

/// A rule, and the place of its policy in the set.
type Placed<'a> = (usize, &'a PreparedRule<'a>);

impl Work<'_> {
    /// The number of the rule set made of these policies, whose rows are written when it is met first; 0 when they have
    /// no rule.
    pub(super) fn rule_set(
        &mut self,
        direction: Direction,
        policies: &[usize],
        rows: &mut Rows<'_>,
    ) -> Result<u32, CompileError> {
        let with_rules =
            |index: &usize| rows.prepared.rules.get(&(*index, direction)).is_some_and(|r| !r.is_empty());
        let policies: Vec<usize> = policies.iter().copied().filter(with_rules).collect();
        if policies.is_empty() {
            return Ok(0);
        }
        let key = (direction, policies);
        if let Some(number) = rows.sets.get(&key) {
            return Ok(*number);
        }
        let keys = key.1.iter().map(|index| self.policies[*index].key()).collect();
        let number = self.compiler.rule_sets.number(&(direction, keys))?;
        self.write_rows(number, direction, &key.1, rows)?;
        rows.sets.insert(key, number);
        Ok(number)
    }

    fn write_rows(
        &mut self,
        set: u32,
        direction: Direction,
        policies: &[usize],
        rows: &Rows<'_>,
    ) -> Result<(), CompileError> {
        let rules: Vec<Placed<'_>> = policies
            .iter()
            .filter_map(|index| Some((*index, rows.prepared.rules.get(&(*index, direction))?)))
            .flat_map(|(index, list)| list.iter().map(move |rule| (index, rule)))
            .collect();
        let mut contents: HashMap<RowKey, Vec<usize>> = HashMap::new();
        for (place, (_, rule)) in rules.iter().enumerate() {
            for (identity, address) in &rule.peers {
                for peer_class in rows.peers.meeting(*identity) {
                    for address_class in rows.places.meeting(*address) {
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
        let mut known: HashMap<Vec<usize>, u32> = HashMap::new();
        for (key, list) in contents {
            let number = match known.get(&list) {
                Some(number) => *number,
                None => self.port_set(direction, &rules, &list)?,
            };
            known.insert(list, number);
            self.compiled.rows.insert(key, number);
        }
        Ok(())
    }

    fn port_set(
        &mut self,
        direction: Direction,
        rules: &[Placed<'_>],
        list: &[usize],
    ) -> Result<u32, CompileError> {
        let here: Vec<Placed<'_>> = list.iter().filter_map(|place| rules.get(*place).copied()).collect();
        let entries: Vec<Entry<'_>> = here
            .iter()
            .map(|(_, rule)| Entry { rule: rule.id, action: rule.action, ports: rule.ports })
            .collect();
        let ports = ports::flatten(&entries).map_err(|ranges| {
            let mut policies: Vec<usize> = here.iter().map(|(index, _)| *index).collect();
            policies.dedup();
            CompileError::TooManyRanges {
                origin: self.policies[policies[0]].origin.clone(),
                policies: policies.iter().map(|index| self.policies[*index].title()).collect(),
                direction: direction_word(direction),
                ranges,
                limit: RANGES_PER_SET,
            }
        })?;
        let number = self.compiler.port_sets.number(&ports)?;
        self.compiled.sets.entry(number).or_insert(ports);
        Ok(number)
    }
}
