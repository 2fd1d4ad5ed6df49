//! What the node says of itself at each scrape.

use waxseal_common::state::Counter;

use super::family::{Family, Labels, number};
use crate::flows::words::Word;
use crate::flows::{Cause, Losses, Time};

/// How the node is.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Version of the agent.
    pub version: String,
    /// Release of the kernel. Escaped.
    pub kernel: String,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// The policy revision in force.
    pub revision: u64,
    /// When the set of documents came into force.
    pub policy_since: Option<Time>,
    /// Whether the documents on disk are refused.
    pub policy_refused: bool,
    /// How many policies are in force.
    pub policies: u64,
    /// Running instances of workloads.
    pub endpoints: u64,
    /// Cgroups that should be one and are not.
    pub unsettled: u64,
    /// Workloads with a number.
    pub identities: u64,
    /// Kernel programs that are attached, and that should be.
    pub programs: (u64, u64),
    /// Whether an emergency ceiling is in force.
    pub ceiling: bool,
    /// The kernel's tables.
    pub maps: Vec<Fill>,
    /// What the kernel counts.
    pub counters: Vec<(Counter, u64)>,
    /// Taps that are open.
    pub tap_readers: u64,
    /// Flows that slow taps lost.
    pub tap_lost: u64,
    /// Flows that were lost before there was anything to tell.
    pub losses: Losses,
    /// The history on disk, where one is kept.
    pub history: Option<HistoryFacts>,
}

/// How full a table is.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The table.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries there may be.
    pub capacity: u64,
}

/// How the history on disk is.
#[derive(Clone, Copy, Debug, Default)]
pub struct HistoryFacts {
    /// Bytes on disk.
    pub bytes: u64,
    /// The most there may be.
    pub limit: u64,
    /// Flows written since the start.
    pub written: u64,
    /// Flows that could not be written.
    pub lost: u64,
}

/// Where a counter of the kernel belongs: the family, and its word there. Words are never changed.
fn home(counter: Counter) -> (Home, &'static str) {
    match counter {
        Counter::Allowed => (Home::Verdicts, "allow"),
        Counter::Reported => (Home::Verdicts, "report"),
        Counter::Denied => (Home::Verdicts, "deny"),
        Counter::FlowsLost => (Home::Lost, "flows"),
        Counter::DenialsLost => (Home::Lost, "denials"),
        Counter::CgroupsLost => (Home::Lost, "cgroups"),
        Counter::NoticesLost => (Home::Lost, "notices"),
        Counter::Sealed => (Home::Seals, "written"),
        Counter::SealNoRoom => (Home::Seals, "no-room"),
        Counter::SealForged => (Home::Seals, "forged"),
        Counter::SealBlanked => (Home::Seals, "blanked"),
        Counter::WireSealed => (Home::Seals, "wire-written"),
        Counter::WireTrue => (Home::Seals, "wire-true"),
        Counter::WireForged => (Home::Seals, "wire-forged"),
        Counter::WireUnknown => (Home::Seals, "wire-unknown-session"),
        Counter::WireExpired => (Home::Seals, "wire-expired"),
        // What is left, and what will be added, is about packets.
        other => (Home::Packets, other.as_str()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Verdicts,
    Lost,
    Seals,
    Packets,
}

const HOMES: [(Home, &str, &str, &str); 4] = [
    (Home::Verdicts, "verdicts", "verdict", "Questions that the kernel programs have answered."),
    (Home::Lost, "ring_events_lost", "ring", "Events lost because a ring to the agent was full."),
    (Home::Seals, "seals", "outcome", "Seals written and checked, by outcome."),
    (Home::Packets, "packets", "event", "Packets that met a special case in the kernel programs."),
];

fn one(key: &'static str, value: &str) -> Labels {
    vec![(key, value.to_owned())]
}

impl Facts {
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families = vec![
            Family::gauge("build_info", "Which agent this is; always 1.")
                .set(vec![("version", self.version.clone()), ("kernel", self.kernel.clone())], 1.0),
            gauge("uptime_seconds", "Seconds since the agent started.", self.uptime_s),
            gauge("policy_revision", "The policy revision in force.", self.revision),
            gauge(
                "policy_refused",
                "1 while the documents on disk are refused and older ones hold.",
                u64::from(self.policy_refused),
            ),
            gauge("policies", "Policies in force.", self.policies),
            gauge("endpoints", "Running instances of workloads.", self.endpoints),
            gauge(
                "endpoints_unsettled",
                "Cgroups that should be an instance of a workload and are not.",
                self.unsettled,
            ),
            gauge("identities", "Workloads with a number on this node.", self.identities),
            gauge("programs_attached", "Kernel programs that are attached.", self.programs.0),
            gauge("programs_expected", "Kernel programs that should be attached.", self.programs.1),
            gauge(
                "mode_ceiling",
                "1 while an emergency ceiling loosens every workload.",
                u64::from(self.ceiling),
            ),
            gauge("tap_readers", "Taps that are open.", self.tap_readers),
            self.lost(),
        ];
        if let Some(since) = self.policy_since {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are below 2^53")]
            let seconds = since.0 as f64 / 1000.0;
            let help = "When the set of documents in force came into force, seconds since 1970.";
            families.push(Family::gauge("policy_loaded_timestamp_seconds", help).set(Vec::new(), seconds));
        }
        families.extend(self.maps());
        families.extend(self.counters());
        families.extend(self.history.iter().flat_map(HistoryFacts::families));
        families
    }

    fn lost(&self) -> Family {
        let mut family = Family::counter("flows_lost", "Flows that a consumer missed, by cause.");
        for cause in Cause::ALL {
            let count = match cause {
                Cause::SlowReader => self.tap_lost,
                Cause::History => self.history.map_or(0, |history| history.lost),
                other => self.losses.of(*other),
            };
            family = family.count(one("cause", cause.word()), count);
        }
        family
    }

    fn maps(&self) -> [Family; 2] {
        let used = Family::gauge("map_entries", "Entries in use in a table of the kernel.");
        let capacity = Family::gauge("map_capacity", "Entries that a table of the kernel can hold.");
        self.maps.iter().fold([used, capacity], |[used, capacity], fill| {
            let labels = one("map", &fill.name);
            [used.set(labels.clone(), number(fill.used)), capacity.set(labels, number(fill.capacity))]
        })
    }

    fn counters(&self) -> impl Iterator<Item = Family> + '_ {
        HOMES.iter().map(|(wanted, name, key, help)| {
            self.counters.iter().fold(Family::counter(name, help), |family, (counter, value)| {
                let (home, word) = home(*counter);
                if home == *wanted { family.count(one(key, word), *value) } else { family }
            })
        })
    }
}

impl HistoryFacts {
    fn families(&self) -> [Family; 3] {
        [
            gauge("history_bytes", "Bytes of the history of flows on disk.", self.bytes),
            gauge("history_limit_bytes", "The most bytes that the history may take.", self.limit),
            Family::counter("history_flows", "Flows written to the history.").count(Vec::new(), self.written),
        ]
    }
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> Family {
    Family::gauge(name, help).set(Vec::new(), number(value))
}
