//! Who talks to whom, for those that asked for it: never more pairs than so many.

use std::collections::HashMap;

use waxseal_common::flow::Kind;
use waxseal_common::verdict::Verdict;

use super::family::Family;
use crate::flows::Flow;

/// How many times the wanted number is followed, so that whoever becomes busy later still gets on top.
const FOLLOWED: usize = 8;

/// Counts judged connections by the names of both ends.
#[derive(Debug)]
pub(super) struct Pairs {
    shown: usize,
    seen: HashMap<(String, String), Counts>,
    rest: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    passed: u64,
    denied: u64,
}

impl Counts {
    const fn see(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Deny => self.denied += 1,
            _ => self.passed += 1,
        }
    }

    const fn all(self) -> u64 {
        self.passed + self.denied
    }
}

impl Pairs {
    pub(super) fn new(shown: usize) -> Self {
        Self { shown, seen: HashMap::new(), rest: Counts::default() }
    }

    pub(super) fn see(&mut self, flow: &Flow) {
        if matches!(flow.kind, Kind::Closed | Kind::Failed) {
            return;
        }
        let full = self.seen.len() >= self.shown * FOLLOWED;
        let pair = (flow.source.identity.name.clone(), flow.destination.identity.name.clone());
        match self.seen.get_mut(&pair) {
            Some(counts) => counts.see(flow.verdict),
            None if full => self.rest.see(flow.verdict),
            None => self.seen.entry(pair).or_default().see(flow.verdict),
        }
    }

    /// The busiest, and all others together as `other`.
    pub(super) fn family(&self) -> Family {
        let mut sorted: Vec<_> = self.seen.iter().collect();
        sorted.sort_by(|(a, x), (b, y)| y.all().cmp(&x.all()).then_with(|| a.cmp(b)));
        let mut family = Family::counter(
            "pairs",
            "Connections judged, by the names of both ends; the busiest pairs only.",
        );
        let mut rest = self.rest;
        for (place, ((source, destination), counts)) in sorted.into_iter().enumerate() {
            if place < self.shown {
                family = rows(family, source, destination, *counts);
            } else {
                rest.passed += counts.passed;
                rest.denied += counts.denied;
            }
        }
        rows(family, "other", "other", rest)
    }
}

fn rows(family: Family, source: &str, destination: &str, counts: Counts) -> Family {
    let labels = |verdict: &str| {
        vec![
            ("source", source.to_owned()),
            ("destination", destination.to_owned()),
            ("verdict", verdict.to_owned()),
        ]
    };
    family.count(labels("pass"), counts.passed).count(labels("deny"), counts.denied)
}
