//! What can be counted, for Prometheus: `/metrics`, `/healthz` and `/readyz`.
//!
//! Everything here only reads. Labels come from fixed sets of words; what others choose (names of workloads) becomes a
//! label only where it was asked for, and then at most so many.

mod facts;
mod family;
mod flows;
mod pairs;
mod report;
mod server;

use std::sync::{Arc, Mutex, PoisonError};

pub use facts::{Facts, Fill, HistoryFacts};
pub use flows::FlowCounts;
pub use report::{Direction, Report, Reporter};
pub use server::{Asked, Node, Server, ServerError};

use crate::flows::Flow;
use family::Family;
use pairs::Pairs;

/// Everything that is counted beside what the node is asked for at each scrape.
#[derive(Debug)]
pub struct Metrics {
    flows: FlowCounts,
    pairs: Option<Mutex<Pairs>>,
    reporters: Mutex<Vec<Arc<dyn Reporter>>>,
}

impl Metrics {
    /// Counters at zero. `pairs` is how many pairs of identities get series of their own; 0 for none.
    pub fn new(pairs: usize) -> Self {
        Self {
            flows: FlowCounts::default(),
            pairs: (pairs > 0).then(|| Mutex::new(Pairs::new(pairs))),
            reporters: Mutex::default(),
        }
    }

    /// Counts a flow. Called for each.
    pub fn see(&self, flow: &Flow) {
        self.flows.see(flow);
        if let Some(pairs) = &self.pairs {
            pairs.lock().unwrap_or_else(PoisonError::into_inner).see(flow);
        }
    }

    /// Adds a room that has something to report at each scrape.
    pub fn add(&self, reporter: Arc<dyn Reporter>) {
        self.reporters.lock().unwrap_or_else(PoisonError::into_inner).push(reporter);
    }

    /// Everything as OpenMetrics text.
    pub fn text(&self, facts: &Facts) -> Result<String, std::fmt::Error> {
        family::encode(self.families(facts))
    }

    fn families(&self, facts: &Facts) -> Vec<Family> {
        let mut families = facts.families();
        families.extend(self.flows.families());
        if let Some(pairs) = &self.pairs {
            families.push(pairs.lock().unwrap_or_else(PoisonError::into_inner).family());
        }
        let mut report = Report::default();
        for reporter in self.reporters.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            reporter.report(&mut report);
        }
        families.extend(report.families());
        families
    }
}

#[cfg(test)]
mod tests;
