//! Flows, counted by the words of fixed sets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use waxseal_common::flow::Kind;
use waxseal_common::ids::protocol;
use waxseal_common::verdict::{Direction, Reason, Verdict};

use super::family::{Family, Histogram, number};
use crate::flows::words::Word;
use crate::flows::{Ended, Flow};

/// Upper bounds of the durations of connections, in milliseconds; beyond the last there is no bound.
const BOUNDS: [u64; 12] = [1, 5, 10, 50, 100, 500, 1000, 5000, 30_000, 120_000, 600_000, 3_600_000];
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "other"];

/// Counts flows. Each counter is one place of a table that is never larger.
#[derive(Debug)]
pub struct FlowCounts {
    /// Kind, verdict, direction, protocol.
    judged: Box<[AtomicU64]>,
    /// Reason and direction, for denials and for what would be one.
    reasons: Box<[AtomicU64]>,
    ended: Box<[AtomicU64]>,
    bytes: [AtomicU64; 2],
    retransmits: AtomicU64,
    durations: [AtomicU64; BOUNDS.len() + 1],
    milliseconds: AtomicU64,
}

fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

const DIRECTIONS: usize = Direction::ALL.len();
const VERDICTS: usize = Verdict::ALL.len();

impl Default for FlowCounts {
    fn default() -> Self {
        Self {
            judged: zeros(Kind::ALL.len() * VERDICTS * DIRECTIONS * PROTOCOLS.len()),
            reasons: zeros(<Reason as Word>::ALL.len() * DIRECTIONS * 2),
            ended: zeros(Ended::ALL.len()),
            bytes: Default::default(),
            retransmits: AtomicU64::new(0),
            durations: Default::default(),
            milliseconds: AtomicU64::new(0),
        }
    }
}

/// The place of a value among all of its kind.
fn place<T: Word + PartialEq>(value: T) -> usize {
    T::ALL.iter().position(|other| *other == value).unwrap_or_default()
}

impl FlowCounts {
    /// Counts one.
    pub fn see(&self, flow: &Flow) {
        let protocol = match flow.protocol.0 {
            protocol::TCP => 0,
            protocol::UDP => 1,
            _ => 2,
        };
        let verdict = place(flow.kind) * VERDICTS + place(flow.verdict);
        let direction = place(flow.direction);
        add(&self.judged, (verdict * DIRECTIONS + direction) * PROTOCOLS.len() + protocol, 1);
        if let Some(stands) = stands_in_the_way(flow) {
            add(&self.reasons, (place(flow.reason) * DIRECTIONS + direction) * 2 + usize::from(stands), 1);
        }
        let is_tcp = flow.protocol.0 == protocol::TCP;
        if let Some(ended) = flow.ended.filter(|_| is_tcp) {
            add(&self.ended, place(ended), 1);
        }
        if let Some(carried) = &flow.carried {
            self.bytes[0].fetch_add(carried.bytes_sent, Relaxed);
            self.bytes[1].fetch_add(carried.bytes_received, Relaxed);
            if !is_tcp {
                return;
            }
            self.retransmits.fetch_add(u64::from(carried.retransmits), Relaxed);
            let ms = carried.duration_ns / 1_000_000;
            add(&self.durations, BOUNDS.iter().position(|bound| ms <= *bound).unwrap_or(BOUNDS.len()), 1);
            self.milliseconds.fetch_add(ms, Relaxed);
        }
    }

    pub(super) fn families(&self) -> Vec<Family> {
        let mut bytes =
            Family::counter("connection_bytes", "Bytes that ended connections and UDP flows had carried.");
        for (word, count) in ["from-opener", "to-opener"].into_iter().zip(&self.bytes) {
            bytes = bytes.count(vec![("direction", word.to_owned())], count.load(Relaxed));
        }
        let mut ended = Family::counter("connections_ended", "TCP connections that ended, by how.");
        for (word, count) in Ended::ALL.iter().zip(&self.ended) {
            ended = ended.count(vec![("how", word.word().to_owned())], count.load(Relaxed));
        }
        let retransmits =
            Family::counter("connection_retransmits", "Segments that closed TCP connections sent again.")
                .count(Vec::new(), self.retransmits.load(Relaxed));
        vec![self.judged(), self.denials(), ended, bytes, retransmits, self.durations()]
    }

    /// Only what has happened: most of the table is impossible.
    fn judged(&self) -> Family {
        let mut family = Family::counter("flows", "Flow events that the agent has read from the kernel.");
        for (index, count) in self.judged.iter().enumerate() {
            let count = count.load(Relaxed);
            let (rest, protocol) = (index / PROTOCOLS.len(), PROTOCOLS[index % PROTOCOLS.len()]);
            let direction = Direction::ALL[rest % DIRECTIONS];
            let (kind, verdict) = (rest / DIRECTIONS / VERDICTS, rest / DIRECTIONS % VERDICTS);
            if count > 0 {
                let labels = vec![
                    ("kind", Kind::ALL[kind].word().to_owned()),
                    ("verdict", Verdict::ALL[verdict].word().to_owned()),
                    ("direction", direction.word().to_owned()),
                    ("protocol", protocol.to_owned()),
                ];
                family = family.count(labels, count);
            }
        }
        family
    }

    fn denials(&self) -> Family {
        let mut family = Family::counter(
            "denials",
            "Connections denied, or that enforcing would deny (enforced=\"false\"), by reason.",
        );
        for (index, count) in self.reasons.iter().enumerate() {
            let count = count.load(Relaxed);
            let (rest, enforced) = (index / 2, index % 2 == 1);
            let (reason, direction) =
                (<Reason as Word>::ALL[rest / DIRECTIONS], Direction::ALL[rest % DIRECTIONS]);
            if count > 0 {
                let labels = vec![
                    ("reason", reason.as_str().to_owned()),
                    ("direction", direction.word().to_owned()),
                    ("enforced", enforced.to_string()),
                ];
                family = family.count(labels, count);
            }
        }
        family
    }

    fn durations(&self) -> Family {
        let bounds = BOUNDS.iter().map(|ms| number(*ms) / 1000.0).chain([f64::MAX]);
        let buckets = bounds.zip(self.durations.iter().map(|count| count.load(Relaxed))).collect();
        let sum = number(self.milliseconds.load(Relaxed)) / 1000.0;
        Family::histogram("connection_duration_seconds", "How long closed TCP connections had lived.")
            .spread(Vec::new(), Histogram { sum, buckets })
    }
}

fn add(table: &[AtomicU64], place: usize, count: u64) {
    if let Some(counter) = table.get(place) {
        counter.fetch_add(count, Relaxed);
    }
}

/// Whether it was denied, or would have been; `None` when nothing stood in its way, or when it has been counted before.
fn stands_in_the_way(flow: &Flow) -> Option<bool> {
    match (flow.kind, flow.verdict) {
        (Kind::Closed | Kind::Failed, _) | (_, Verdict::Allow | Verdict::Defer) => None,
        (_, Verdict::WouldDeny | Verdict::Audit) => Some(false),
        (_, Verdict::Deny) => Some(true),
    }
}
