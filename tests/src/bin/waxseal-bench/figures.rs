//! Figures: what was measured, how sure it is, and what it is against the bare kernel.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The subject that others are compared with.
pub(crate) const BARE: &str = "bare kernel";
/// A figure whose middle half is wider than this share of its median says nothing.
const WIDE: f64 = 0.15;

/// A middle, and the middle half around it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) q1: f64,
    pub(crate) q3: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let (min, max) = (quantile(&mut sorted, 0.0), quantile(&mut sorted, 1.0));
        let at = |share| quantile(&mut sorted.clone(), share);
        (!sorted.is_empty()).then(|| Self { median: at(0.5), q1: at(0.25), q3: at(0.75), min, max })
    }

    /// Too wide to mean anything.
    pub(crate) fn is_wide(&self) -> bool {
        (self.q3 - self.q1) > WIDE * self.median.abs()
    }
}

/// The value below which that share of the others lies, in between where need be.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    #[expect(clippy::cast_precision_loss, reason = "a measurement has no fifteen digits")]
    let place = share * last as f64;
    #[expect(clippy::cast_sign_loss, reason = "a share is not negative")]
    let below = place.floor() as usize;
    let (low, high) = (values[below], values[(below + 1).min(last)]);
    low + (high - low) * place.fract()
}

/// What one subject showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) subject: String,
    /// One a round; the rounds that failed are left out.
    pub(crate) samples: Vec<f64>,
    pub(crate) value: Option<Spread>,
    /// Against the bare kernel in the same round.
    pub(crate) ratio: Option<Spread>,
    /// The spread is too wide to mean anything, or there are too few rounds.
    pub(crate) unsure: bool,
    /// There is one sample, made of many: its spread is not known.
    pub(crate) single: bool,
}

/// One question and its answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) unit: String,
    /// Else less is better.
    pub(crate) more_is_better: bool,
    pub(crate) rows: Vec<Row>,
}

impl Measure {
    /// The answers of some subjects. `samples` has one value a round for each, not a number where the round failed.
    pub(crate) fn new(id: &str, title: &str, unit: &str, samples: Vec<(String, Vec<f64>)>) -> Self {
        let bare = samples.iter().find(|(subject, _)| subject == BARE).map(|(_, values)| values.clone());
        let rows =
            samples.into_iter().map(|(subject, values)| row(subject, &values, bare.as_deref())).collect();
        let more_is_better = ["/s", "Gbit/s"].iter().any(|ending| unit.ends_with(ending));
        Self { id: id.to_owned(), title: title.to_owned(), unit: unit.to_owned(), more_is_better, rows }
    }

    pub(crate) fn row(&self, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject == subject)
    }
}

fn row(subject: String, values: &[f64], bare: Option<&[f64]>) -> Row {
    let samples: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let value = Spread::of(&samples);
    let ratio = bare.filter(|_| subject != BARE).and_then(|bare| {
        let pairs: Vec<f64> = values.iter().zip(bare).map(|(own, bare)| own / bare).collect();
        Spread::of(&pairs)
    });
    let single = values.len() == 1;
    let few = samples.is_empty() || (!single && samples.len() * 2 <= values.len());
    // Rounds that go up and down together have a sure ratio.
    let unsure = few || ratio.or(value).is_none_or(|spread| spread.is_wide());
    Row { subject, samples, value, ratio, unsure, single }
}

/// All measures of a run, in the order in which they were made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) measures: Vec<Measure>,
    /// What did not work, and why.
    pub(crate) failures: BTreeMap<String, String>,
}

impl Figures {
    pub(crate) fn push(&mut self, measure: Measure) {
        self.measures.push(measure);
    }

    pub(crate) fn failed(&mut self, what: impl Into<String>, why: &anyhow::Error) {
        let what = what.into();
        crate::say(&format!("{what}: {why:#}"));
        self.failures.insert(what, format!("{why:#}"));
    }

    /// Takes over what another process has found.
    pub(crate) fn extend(&mut self, other: Self) {
        self.measures.extend(other.measures);
        self.failures.extend(other.failures);
    }

    pub(crate) fn row(&self, measure: &str, subject: &str) -> Option<&Row> {
        self.measures.iter().find(|found| found.id == measure)?.row(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_in_between() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0, f64::NAN, 5.0]).unwrap();
        assert_eq!((spread.min, spread.q1, spread.median, spread.q3, spread.max), (1.0, 2.0, 3.0, 4.0, 5.0));
        assert!(Spread::of(&[f64::NAN]).is_none());
    }

    #[test]
    fn rounds_that_drift_together_have_a_sure_ratio_and_wild_ones_are_marked() {
        let drift = vec![100.0, 200.0, 300.0];
        let half = drift.iter().map(|value| value / 2.0).collect();
        let wild = vec![100.0, 50.0, 400.0];
        let samples = vec![(BARE.to_owned(), drift), ("half".to_owned(), half), ("wild".to_owned(), wild)];
        let measure = Measure::new("x", "x", "connections/s", samples);
        let half = measure.row("half").unwrap();
        assert!((half.ratio.unwrap().median - 0.5).abs() < 1e-9 && !half.unsure);
        assert!(measure.row("wild").unwrap().unsure);
    }

    #[test]
    fn a_subject_that_failed_in_half_of_the_rounds_is_marked() {
        let samples = vec![("x".to_owned(), vec![1.0, f64::NAN, 1.0, f64::NAN])];
        let measure = Measure::new("x", "x", "ms", samples);
        assert!(measure.rows[0].unsure && !measure.more_is_better);
        assert_eq!(measure.rows[0].samples.len(), 2);
    }
}
