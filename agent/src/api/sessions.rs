//! What the agent tells about its sessions with other nodes. The documented JSON of `session list -o json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sessions, links, and why there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsReport {
    /// Whether this node has to do with others at all.
    pub enabled: bool,
    /// The sessions that stand, or that connections still name.
    pub sessions: Vec<SessionReport>,
    /// Destinations without a session.
    pub failures: Vec<SessionFailure>,
    /// The other nodes.
    pub links: Vec<LinkReport>,
    /// Packets that wait for a session or an announcement.
    pub held: u64,
    /// What the agent counts of handshakes, hints and packets that wait.
    pub counters: BTreeMap<String, u64>,
}

/// What the agent has to do with other nodes, in a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshReport {
    /// Whether it has to do with any.
    pub enabled: bool,
    /// The name of this node in its certificate. Escaped.
    pub node: String,
    /// Sessions with others in which this node's workloads open connections.
    pub outbound: u64,
    /// Sessions in which they accept.
    pub inbound: u64,
    /// Destinations without a session.
    pub without: u64,
    /// Links that stand.
    pub links: u64,
    /// Other nodes that were met.
    pub nodes: u64,
    /// Packets that wait.
    pub held: u64,
    /// Handshakes.
    pub handshakes: HandshakesReport,
    /// All that is counted, by name.
    pub counters: BTreeMap<String, u64>,
    /// The certificates of this node and its workloads.
    pub certificates: Vec<CertificateReport>,
}

/// Handshakes between workloads, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakesReport {
    /// Begun here and ended with a session, renewals included.
    pub completed: u64,
    /// Begun here and failed.
    pub failed: u64,
    /// Begun by others and ended with a session.
    pub answered: u64,
    /// Begun by others and failed.
    pub refused: u64,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// Whose. Escaped.
    pub spiffe_id: String,
    /// Seconds until it ends; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_in_seconds: Option<u64>,
    /// How often renewing it has failed since it was made.
    pub failures: u32,
    /// Why it failed last. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// One end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// `namespace/name`. Escaped.
    pub name: String,
    /// Escaped.
    pub spiffe_id: String,
    /// This node's number for it.
    pub identity: u32,
}

/// Which way connections under a session go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionDirection {
    /// From this node.
    Outbound,
    /// To this node.
    Inbound,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Which way.
    pub direction: SessionDirection,
    /// Who opens connections.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<SessionEnd>,
    /// Who accepts them; absent where only the node answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destination: Option<SessionEnd>,
    /// The other node. Escaped.
    pub peer: String,
    /// Outbound: address, port and protocol as they leave.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// The receiver's name for the session.
    pub spi: u32,
    /// Since it was made.
    pub age_seconds: u64,
    /// Until it ends, unless it is renewed.
    pub expires_in_seconds: u64,
    /// Live connections that name it.
    pub connections: u32,
    /// SYNs sealed, or true seals seen.
    pub opened: u64,
    /// Inbound: seals that named it and were not true.
    pub forged: u64,
    /// It is used for no new connection: it has expired or was replaced.
    pub past: bool,
}

/// A destination without a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFailure {
    /// Who wants to open connections.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<SessionEnd>,
    /// Address, port and protocol.
    pub target: String,
    /// The word for it; `opening` while the handshake goes on.
    pub failure: String,
    /// What happened. Escaped.
    pub detail: String,
    /// Since when.
    pub age_seconds: u64,
    /// When it is tried again, if somebody asks.
    pub retry_in_seconds: u64,
}

/// One other node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Its name. Escaped.
    pub peer: String,
    /// Where its agent answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// Whether there is a link with it now.
    pub up: bool,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub age_seconds: Option<u64>,
    /// The version of its agent. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<String>,
    /// By how many milliseconds its clock is ahead; negative when it is behind.
    pub clock_ahead_ms: i64,
    /// Why there is no link. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
}
