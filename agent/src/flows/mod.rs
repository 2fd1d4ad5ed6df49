//! A connection's record as people and programs read it.
//!
//! The kernel's [`FlowEvent`](waxseal_common::flow::FlowEvent) holds numbers; [`enrich`] turns it into a [`Flow`], which
//! holds names. All foreign text in a flow is escaped when it is made, so that every way out is safe.

mod details;
mod ended;
mod enrich;
mod filter;
mod json;
mod line;
mod look;
mod loss;
mod party;
mod pattern;
mod summary;
mod time;
mod values;
pub mod words;

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waxseal_common::flow::{Hook, Kind, SealState};
use waxseal_common::verdict::{Direction, Reason, Verdict};

use crate::workload::{Labels, Origin};

pub use details::{details, wide};
pub use ended::Ended;
pub use enrich::{Garbled, Made, Names, enrich};
pub use filter::Filter;
pub use json::{Line, NodeNews, PRESENT, json, json_lost, json_present, read};
pub use line::{bytes, header, line};
pub use look::{Look, Stamp};
pub use loss::{Cause, Loss, Losses};
pub use party::{Party, PartyError};
pub use pattern::{Pattern, PatternError};
pub use summary::Summary;
pub use time::{Clock, Time};
pub use values::{Because, Named, PortRange, Protocol, Shown, ValueError};

/// The version of the schema of [`Flow`]. Fields are added without raising it; it rises when one changes its meaning.
pub const VERSION: u32 = 1;

/// One decision, or one close. Serialized, this is the documented schema: keys are never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// [`VERSION`].
    pub v: u32,
    /// When it happened, by the wall clock.
    pub time: Time,
    /// Whether a connection was judged, has closed, or has never come to be.
    #[serde(with = "words")]
    pub kind: Kind,
    /// What became of it.
    #[serde(with = "words")]
    pub verdict: Verdict,
    /// The side whose rules decided.
    #[serde(with = "words")]
    pub direction: Direction,
    /// Why.
    #[serde(with = "words")]
    pub reason: Reason,
    /// The rule, policy or namespace that decided, where one did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<Arc<Rule>>,
    /// The opener.
    pub source: End,
    /// The acceptor.
    pub destination: End,
    /// `tcp`, `udp` or `proto/N`.
    pub protocol: Protocol,
    /// The port that the rules are about: the listener's own, which differs from the dialled one behind NAT.
    pub port: u16,
    /// The process that opened it, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub process: Option<Process>,
    /// The cgroup of the socket whose hook spoke.
    pub cgroup: Cgroup,
    /// The network namespace of that socket.
    pub netns: u32,
    /// The cookie of that socket: the same in all flows of one connection from one side.
    pub cookie: u64,
    /// The hook that spoke.
    #[serde(with = "words")]
    pub hook: Hook,
    /// Whether the source is proven by a seal or by the kernel's own record of the socket.
    pub sealed: bool,
    /// How the opener has proven itself, or why not.
    #[serde(with = "words", default = "unproven")]
    pub seal: SealState,
    /// The session between nodes under which it was opened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session: Option<Session>,
    /// Why there is no session with the other node, where one was asked for: the word of a failure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<Box<str>>,
    /// Closed and failed only: how it ended.
    #[serde(with = "words::optional", skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<Ended>,
    /// Closed only: what was carried.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub carried: Option<Box<Carried>>,
    /// Both ends are on this node, and the other one tells of it too. Only raw taps see both.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub second: bool,
    /// The policy revision under which it was judged.
    pub revision: u64,
    /// The name of the node.
    pub node: Arc<str>,
    /// The name of the agent on that node.
    pub instance: Arc<str>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Who it is.
    #[serde(flatten)]
    pub identity: Arc<Identity>,
    /// Its address, as the hook saw it.
    pub address: IpAddr,
    /// Its port, as the hook saw it.
    pub port: u16,
}

/// Who an end is, as flows show it. Shared by all flows of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The number on this node.
    #[serde(rename = "identity")]
    pub id: u32,
    /// `namespace/name`, or the word for a reserved number. Escaped.
    pub name: String,
    /// Workloads only. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spiffe_id: Option<String>,
    /// Workloads only. Escaped.
    #[serde(skip_serializing_if = "Labels::is_empty", default)]
    pub labels: Labels,
}

/// The object that decided, as flows show it. Shared by all flows it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `namespace/name` of the policy, or the name of the namespace. Escaped.
    pub policy: String,
    /// The rule's name, or its place as `#2`; absent when the whole object decided. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// `file:line:column`. Escaped.
    pub origin: String,
}

/// Who opened a connection. The name is the process's own choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// In the initial pid namespace.
    pub pid: u32,
    /// The command name, escaped.
    pub comm: Box<str>,
}

/// A session between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its number: at the opener the node's own, at the acceptor its SPI.
    pub id: u32,
    /// The name of the other node, while the agent knows it. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Arc<str>>,
    /// Nanoseconds since it was made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub age_ns: Option<u64>,
}

fn unproven() -> SealState {
    SealState::None
}

/// A cgroup v2 directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its inode number.
    pub id: u64,
    /// From the root of the hierarchy, while the agent knows it. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<Arc<str>>,
}

/// What a connection carried until it closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Bytes from the opener that the acceptor acknowledged.
    pub bytes_sent: u64,
    /// Bytes to the opener.
    pub bytes_received: u64,
    /// Nanoseconds since it was opened.
    pub duration_ns: u64,
    /// TCP segments from the opener.
    #[serde(default)]
    pub packets_sent: u32,
    /// TCP segments to the opener.
    #[serde(default)]
    pub packets_received: u32,
    /// Segments that the side which tells sent again.
    #[serde(default)]
    pub retransmits: u32,
    /// The smoothed round trip, in microseconds; absent when nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_us: Option<u32>,
}

impl Rule {
    /// A rule as flows show it.
    pub fn new(policy: &str, rule: Option<&str>, origin: &Origin) -> Self {
        let escape = |text: &str| crate::escape::escape(text).into_owned();
        Self { policy: escape(policy), rule: rule.map(escape), origin: escape(&origin.to_string()) }
    }

    /// `payments/from-checkout#checkout-may-pay`.
    pub fn title(&self) -> String {
        match &self.rule {
            None => self.policy.clone(),
            Some(place) if place.starts_with('#') => format!("{}{place}", self.policy),
            Some(name) => format!("{}#{name}", self.policy),
        }
    }
}

impl Flow {
    /// The word of the verdict column: `CLOSE` or `FAIL` for an end, else the verdict.
    pub fn shown(&self) -> Shown {
        match (self.kind, self.verdict) {
            (Kind::Closed, _) => Shown::Close,
            (Kind::Failed, _) => Shown::Fail,
            (_, Verdict::Allow | Verdict::Defer) => Shown::Allow,
            (_, Verdict::WouldDeny) => Shown::Would,
            (_, Verdict::Audit) => Shown::Audit,
            (_, Verdict::Deny) => Shown::Deny,
        }
    }
}

#[cfg(test)]
pub(crate) mod samples;
