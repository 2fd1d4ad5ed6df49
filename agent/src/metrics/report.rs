//! What other rooms report: sessions, handshakes, certificates, bundles.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::family::{Family, Histogram, number};

/// Upper bounds of the durations of handshakes, in milliseconds.
const BOUNDS: [u32; 10] = [1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000];
/// How many certificates have a series of their own; the one that expires first stands for the others.
const CERTIFICATES: usize = 64;
/// How many different words one report may use for outcomes: they come from fixed sets, and this makes sure.
const OUTCOMES: usize = 64;

/// A room that has something to report. Asked at each scrape; must answer from memory.
pub trait Reporter: Debug + Send + Sync {
    /// Tells what there is.
    fn report(&self, to: &mut Report);
}

/// Which side of a session or handshake this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// This node opens.
    Out,
    /// This node answers.
    In,
}

impl Direction {
    const fn word(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// What the rooms have told.
#[derive(Debug, Default)]
pub struct Report {
    sessions: BTreeMap<Direction, u64>,
    handshakes: BTreeMap<(Direction, &'static str), u64>,
    durations: Option<Histogram>,
    certificates: BTreeMap<String, SystemTime>,
    renewals: BTreeMap<&'static str, u64>,
    bundles: BTreeMap<String, SystemTime>,
    peers: Option<u64>,
}

impl Report {
    /// Sessions with other nodes that can be used now.
    pub fn sessions(&mut self, direction: Direction, count: u64) {
        *self.sessions.entry(direction).or_default() += count;
    }

    /// Handshakes since the start that ended so. The word is of a fixed set: `done`, or why not.
    pub fn handshakes(&mut self, direction: Direction, outcome: &'static str, count: u64) {
        if self.handshakes.len() < OUTCOMES || self.handshakes.contains_key(&(direction, outcome)) {
            *self.handshakes.entry((direction, outcome)).or_default() += count;
        }
    }

    /// How long handshakes took: the whole of it, and how many stayed within each of [`Report::bounds`], the last being
    /// all that took longer.
    pub fn handshake_durations(&mut self, sum: Duration, counts: &[u64]) {
        let bounds = BOUNDS.iter().map(|ms| f64::from(*ms) / 1000.0).chain([f64::MAX]);
        self.durations =
            Some(Histogram { sum: sum.as_secs_f64(), buckets: bounds.zip(counts.iter().copied()).collect() });
    }

    /// The upper bounds for [`Report::handshake_durations`].
    pub fn bounds() -> impl Iterator<Item = Duration> {
        BOUNDS.iter().map(|ms| Duration::from_millis(u64::from(*ms)))
    }

    /// A certificate in use and when it expires. The name is escaped.
    pub fn certificate(&mut self, name: &str, not_after: SystemTime) {
        self.certificates.insert(name.to_owned(), not_after);
    }

    /// Attempts to renew certificates since the start that ended so: `done`, or why not.
    pub fn renewals(&mut self, outcome: &'static str, count: u64) {
        if self.renewals.len() < OUTCOMES || self.renewals.contains_key(outcome) {
            *self.renewals.entry(outcome).or_default() += count;
        }
    }

    /// A trust domain whose roots are known, and when they were last confirmed.
    pub fn bundle(&mut self, trust_domain: &str, confirmed: SystemTime) {
        if self.bundles.len() < CERTIFICATES {
            self.bundles.insert(trust_domain.to_owned(), confirmed);
        }
    }

    /// Nodes with which there is a connection.
    pub fn peers(&mut self, count: u64) {
        *self.peers.get_or_insert(0) += count;
    }

    pub(super) fn families(self) -> Vec<Family> {
        let Self { sessions, handshakes, durations, certificates, renewals, bundles, peers } = self;
        let mut families = Vec::new();
        let mut family = Family::gauge("sessions", "Sessions with other nodes that can be used now.");
        for (direction, count) in &sessions {
            family = family.set(vec![("direction", direction.word().to_owned())], number(*count));
        }
        families.push(family);
        let mut family = Family::counter("handshakes", "Handshakes with other nodes, by outcome.");
        for ((direction, outcome), count) in &handshakes {
            let labels = vec![("direction", direction.word().to_owned()), ("outcome", (*outcome).to_owned())];
            family = family.count(labels, *count);
        }
        families.push(family);
        if let Some(durations) = durations {
            let help = "How long handshakes with other nodes took.";
            families
                .push(Family::histogram("handshake_duration_seconds", help).spread(Vec::new(), durations));
        }
        let mut family =
            Family::counter("certificate_renewals", "Attempts to renew certificates, by outcome.");
        for (outcome, count) in &renewals {
            family = family.count(vec![("outcome", (*outcome).to_owned())], *count);
        }
        families.push(family);
        families.push(expiries(certificates));
        let mut family = Family::gauge(
            "bundle_confirmed_timestamp_seconds",
            "When the roots of a trust domain were last confirmed, seconds since 1970.",
        );
        for (domain, confirmed) in bundles {
            family = family.set(vec![("trust_domain", domain)], seconds(confirmed));
        }
        families.push(family);
        if let Some(peers) = peers {
            let family = Family::gauge("peers", "Nodes with which there is a connection.");
            families.push(family.set(Vec::new(), number(peers)));
        }
        families
    }
}

/// Those that expire first; the first of those left out stands for them.
fn expiries(certificates: BTreeMap<String, SystemTime>) -> Family {
    let mut sorted: Vec<_> = certificates.into_iter().collect();
    sorted.sort_by_key(|(_, not_after)| *not_after);
    let mut family = Family::gauge(
        "certificate_expiry_timestamp_seconds",
        "When a certificate in use expires, seconds since 1970.",
    );
    let rest = sorted.get(CERTIFICATES).map(|(_, not_after)| *not_after);
    for (name, not_after) in sorted.into_iter().take(CERTIFICATES) {
        family = family.set(vec![("id", name)], seconds(not_after));
    }
    match rest {
        Some(first) => family.set(vec![("id", "other".to_owned())], seconds(first)),
        None => family,
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
