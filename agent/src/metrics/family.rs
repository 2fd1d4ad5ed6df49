//! Metrics of one name, and the text they become.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// Before every name.
const PREFIX: &str = "waxseal";

/// The labels of a series.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Series of one name.
#[derive(Clone, Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    rows: Vec<(Labels, Value)>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Debug)]
enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Histogram),
}

/// Observations sorted into buckets.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    pub(super) sum: f64,
    /// Upper bounds, ascending, each with its own observations.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Family {
    /// What only grows. `_total` is added to the name.
    pub(super) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, rows: Vec::new(), kind: Kind::Counter }
    }

    /// What goes up and down.
    pub(super) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, rows: Vec::new(), kind: Kind::Gauge }
    }

    /// What is spread.
    pub(super) const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, help, rows: Vec::new(), kind: Kind::Histogram }
    }

    /// One more series of a counter.
    pub(super) fn count(mut self, labels: Labels, value: u64) -> Self {
        self.rows.push((labels, Value::Counter(value)));
        self
    }

    /// One more series of a gauge.
    pub(super) fn set(mut self, labels: Labels, value: f64) -> Self {
        self.rows.push((labels, Value::Gauge(value)));
        self
    }

    /// One more series of a histogram.
    pub(super) fn spread(mut self, labels: Labels, value: Histogram) -> Self {
        self.rows.push((labels, Value::Histogram(value)));
        self
    }
}

/// A whole number as Prometheus keeps it.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows only such numbers; beyond 2^53 the last digits do not matter"
)]
pub(super) const fn number(value: u64) -> f64 {
    value as f64
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, rows, kind } in &self.0 {
            let kind = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in rows {
                if labels.is_empty() {
                    value.encode(&mut metric)?;
                } else {
                    value.encode(&mut metric.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
            Self::Gauge(value) => metric.encode_gauge(value),
            Self::Histogram(Histogram { sum, buckets }) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
        }
    }
}

/// OpenMetrics text.
pub(super) fn encode(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Families(families)));
    let mut out = String::with_capacity(16 * 1024);
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// The older text format of Prometheus, for readers that do not ask for OpenMetrics: there a counter's whole name stands in
/// its description, and there is no mark at the end.
pub(super) fn classic(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let lines: Vec<&str> = openmetrics.lines().collect();
    for (place, line) in lines.iter().enumerate() {
        let mut words = line.splitn(4, ' ');
        let (mark, word, name, rest) = (words.next(), words.next(), words.next(), words.next());
        match (mark, word, name, rest) {
            (Some("#"), Some("EOF"), ..) => {}
            (Some("#"), Some(word @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                // The type stands below the help.
                let kind = if word == "TYPE" { Some(*line) } else { lines.get(place + 1).copied() };
                let total = if kind.is_some_and(|kind| kind.ends_with(" counter")) { "_total" } else { "" };
                out.extend(["# ", word, " ", name, total, " ", rest, "\n"]);
            }
            _ => out.extend([line, "\n"]),
        }
    }
    out
}
