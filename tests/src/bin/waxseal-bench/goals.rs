//! What was promised, held against what was found.

use serde::Serialize;

use crate::figures::{Figures, Row};
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
    /// The figure's spread is too wide to tell.
    Unsure,
    /// This run did not ask.
    NotMeasured,
}

impl State {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Missed => "MISSED",
            Self::Unsure => "spread too wide",
            Self::NotMeasured => "not measured",
        }
    }
}

/// Where the enforcing agent with a tap is.
const WITH_TAP: &str = "waxseal 10 rules + tap";
const LONG: &str = "waxseal 100,000 rules";

pub(crate) fn judge(figures: &Figures) -> Vec<Goal> {
    let ratio = |measure: &str, subject: &str| figures.row(measure, subject).and_then(of_ratio);
    let value = |measure: &str, subject: &str| figures.row(measure, subject).and_then(of_value);
    let against = |measure: &str| {
        let best =
            Product::ALL.iter().filter_map(|product| value(measure, product.name())).fold(None, better);
        value(measure, WITH_TAP)
            .zip(best)
            .map(|((own, unsure), (other, shaky))| (own / other, unsure || shaky))
    };
    let quotient = |measure: &str, subject: &str, other: &str| {
        value(measure, subject).zip(value(measure, other)).map(|((own, a), (other, b))| (own / other, a || b))
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
        at_most("verdict cost, 100,000 rules against 10", 1.1, quotient("verdict", LONG, "waxseal 10 rules")),
        at_least("connections/s against the best pair of proxies", 5.0, against("nodes-open-16")),
        at_least("throughput against the best pair of proxies", 4.0, against("nodes-stream-1")),
        at_most("memory of the agent at rest, MB", 20.0, value("memory", "at rest")),
        at_most(
            "memory of the agent, 10,000 identities and 100,000 rules, MB",
            120.0,
            value("memory", "10,000 identities, 100,000 rules"),
        ),
        at_least("handshakes/s against raw rustls", 0.7, quotient("handshakes", "waxseal", "raw rustls")),
        at_most("policy change to kernel, 100,000 rules loaded, p99, ms", 200.0, value("change", "p99")),
    ]
}

fn of_ratio(row: &Row) -> Option<(f64, bool)> {
    row.ratio.map(|spread| (spread.median, row.unsure))
}

fn of_value(row: &Row) -> Option<(f64, bool)> {
    row.value.map(|spread| (spread.median, row.unsure))
}

fn better(best: Option<(f64, bool)>, one: (f64, bool)) -> Option<(f64, bool)> {
    best.filter(|best| best.0 >= one.0).or(Some(one))
}

fn at_least(what: &'static str, bound: f64, found: Option<(f64, bool)>) -> Goal {
    goal(what, format!("at least {bound}"), found, |found| found >= bound)
}

fn at_most(what: &'static str, bound: f64, found: Option<(f64, bool)>) -> Goal {
    goal(what, format!("at most {bound}"), found, |found| found <= bound)
}

fn goal(what: &'static str, wanted: String, found: Option<(f64, bool)>, keeps: impl Fn(f64) -> bool) -> Goal {
    let state = match found {
        None => State::NotMeasured,
        Some((_, true)) => State::Unsure,
        Some((found, false)) if keeps(found) => State::Kept,
        Some(_) => State::Missed,
    };
    Goal { what, wanted, found: found.map(|(found, _)| found), state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_kept_missed_unsure_or_not_measured() {
        for (found, state) in [
            (Some((0.96, false)), State::Kept),
            (Some((0.94, false)), State::Missed),
            (Some((0.99, true)), State::Unsure),
            (None, State::NotMeasured),
        ] {
            assert_eq!(at_least("x", 0.95, found).state, state, "{found:?}");
        }
        assert_eq!(at_most("x", 3.0, Some((2.0, false))).state, State::Kept);
    }
}
