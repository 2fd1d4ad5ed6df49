//! What was promised, held against what was found.

use serde::Serialize;

use crate::figures::{Figures, Spread};
use crate::proxies::Product;

/// A promise, and how it went.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) wanted: String,
    pub(crate) found: Option<f64>,
    pub(crate) state: State,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    Kept,
    Missed,
    /// The bound lies within the figure's middle half.
    Unsure,
    /// This run did not ask.
    NotMeasured,
}

impl State {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Missed => "MISSED",
            Self::Unsure => "cannot be told",
            Self::NotMeasured => "not measured",
        }
    }
}

/// Where the enforcing agent with a tap is.
const WITH_TAP: &str = "waxseal 10 rules + tap";
const LONG: &str = "waxseal 100,000 rules";

pub(crate) fn judge(figures: &Figures) -> Vec<Goal> {
    let ratio = |measure: &str, subject: &str| figures.row(measure, subject).and_then(|row| row.ratio);
    let value = |measure: &str, subject: &str| figures.row(measure, subject).and_then(|row| row.value);
    let against = |measure: &str| {
        let pairs = Product::ALL.iter().filter_map(|product| value(measure, product.name()));
        Some(quotient(value(measure, WITH_TAP)?, pairs.max_by(|a, b| a.median.total_cmp(&b.median))?))
    };
    let between = |measure: &str, subject: &str, other: &str| {
        Some(quotient(value(measure, subject)?, value(measure, other)?))
    };
    vec![
        at_least(
            "connections/s, enforcing and a tap attached, against bare (two nodes)",
            0.95,
            ratio("nodes-open", WITH_TAP),
        ),
        at_least("the same, 16 at a time", 0.95, ratio("nodes-open-16", WITH_TAP)),
        at_least("the same on one node", 0.95, ratio("host-open", WITH_TAP)),
        at_most("request/response latency against bare", 1.03, ratio("nodes-kept-p50", WITH_TAP)),
        at_least("throughput against bare, segmentation offload on", 0.98, ratio("nodes-stream-1", WITH_TAP)),
        at_least("throughput against bare, segmentation offload off", 0.95, ratio("nodes-bare-1", WITH_TAP)),
        at_most("cold first contact above a plain connect, p50, ms", 3.0, value("cold", "p50 above plain")),
        at_most("cold first contact above a plain connect, p99, ms", 15.0, value("cold", "p99 above plain")),
        at_most("verdict cost, 100,000 rules against 10", 1.1, between("verdict", LONG, "waxseal 10 rules")),
        at_least("connections/s against the best pair of proxies", 5.0, against("nodes-open-16")),
        at_least("throughput against the best pair of proxies", 4.0, against("nodes-stream-1")),
        at_most("memory of the agent at rest, MB", 20.0, value("memory", "at rest")),
        at_most(
            "memory of the agent, 10,000 identities and 100,000 rules, MB",
            120.0,
            value("memory", "10,000 identities, 100,000 rules"),
        ),
        at_least("handshakes/s against raw rustls", 0.7, between("handshakes", "waxseal", "raw rustls")),
        at_most("policy change to kernel, 100,000 rules loaded, p99, ms", 200.0, value("change", "p99")),
    ]
}

/// The worst and the best that two middle halves allow.
fn quotient(own: Spread, other: Spread) -> Spread {
    Spread {
        median: own.median / other.median,
        q1: own.q1 / other.q3,
        q3: own.q3 / other.q1,
        min: own.min / other.max,
        max: own.max / other.min,
    }
}

fn at_least(what: &'static str, bound: f64, found: Option<Spread>) -> Goal {
    goal(what, format!("at least {bound}"), found, |found| found >= bound)
}

fn at_most(what: &'static str, bound: f64, found: Option<Spread>) -> Goal {
    goal(what, format!("at most {bound}"), found, |found| found <= bound)
}

/// Kept or missed by the whole middle half, or it cannot be told.
fn goal(what: &'static str, wanted: String, found: Option<Spread>, keeps: impl Fn(f64) -> bool) -> Goal {
    let state = match found.map(|found| (keeps(found.q1), keeps(found.q3))) {
        None => State::NotMeasured,
        Some((true, true)) => State::Kept,
        Some((false, false)) => State::Missed,
        Some(_) => State::Unsure,
    };
    Goal { what, wanted, found: found.map(|found| found.median), state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_kept_missed_unsure_or_not_measured() {
        for (samples, state) in [
            (&[0.96, 0.97, 0.98][..], State::Kept),
            (&[0.90, 0.92, 0.94], State::Missed),
            (&[0.90, 0.96, 0.99], State::Unsure),
            (&[], State::NotMeasured),
        ] {
            assert_eq!(at_least("x", 0.95, Spread::of(samples)).state, state, "{samples:?}");
        }
        assert_eq!(at_most("x", 3.0, Spread::of(&[2.0])).state, State::Kept);
    }
}
