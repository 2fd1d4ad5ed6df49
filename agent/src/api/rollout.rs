//! What `waxseal mode` and `waxseal report` are told: how strict each workload is, who says so, and what one step more
//! would break.

use serde::{Deserialize, Serialize};
use waxseal_common::tables::Mode;
use waxseal_common::verdict::Direction;

use crate::flows::{Protocol, Time, words};

/// Whose mode is set at run time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One workload: `namespace/name`.
    Workload(String),
    /// A namespace: all its workloads that have no mode of their own.
    Namespace(String),
}

/// A mode that was set at run time, and holds in the place of what the document of that level says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeSet {
    /// For whom.
    pub level: Level,
    /// How strict.
    #[serde(with = "words")]
    pub mode: Mode,
    /// Since when.
    pub since: Time,
}

/// How strict a workload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadMode {
    /// `namespace/name`. Escaped.
    pub workload: String,
    /// The mode in force, ceiling included: the stricter one of its two directions.
    #[serde(with = "words")]
    pub mode: Mode,
    /// Who says so, in words. Escaped.
    pub from: String,
}

/// Which workloads are reported; all without either.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// Those of one namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// One: `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
}

/// What would break if workloads went one step stricter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutReport {
    /// Since when connections are counted: the start of the agent.
    pub since: Time,
    /// Since when the present documents are in force. Connections that were seen only before are stale.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policies_since: Option<Time>,
    /// Connections that were not kept because too many different ones were seen.
    pub dropped: u64,
    /// The workloads asked for.
    pub workloads: Vec<WorkloadRollout>,
}

/// One workload on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRollout {
    /// How strict it is.
    #[serde(flatten)]
    pub mode: WorkloadMode,
    /// The step after this.
    pub next: Step,
    /// How many obstacles the next step has; those that are stale are not counted.
    pub would_break: u64,
    /// Every obstacle, those of later steps too.
    pub obstacles: Vec<Obstacle>,
}

/// The steps from looking to allow lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Mode audit: what would be denied is reported.
    Audit,
    /// Mode enforce: what the rules deny is denied.
    Enforce,
    /// Sources that have not proved who they are are denied.
    Strict,
    /// What no rule allows is denied, in both directions.
    AllowLists,
    /// There is none.
    Done,
}

/// What one step would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The rules deny it, and the mode lets it pass. In the way of [`Step::Enforce`].
    WouldDeny,
    /// The source has not proved who it is. In the way of [`Step::Strict`].
    NoSeal,
    /// It passes because no rule says anything. In the way of [`Step::AllowLists`].
    NoRule,
}

/// Connections between one pair, to one port, that a step would break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// What is in the way.
    pub what: What,
    /// The other end's side: a source for `ingress`, a destination for `egress`.
    #[serde(with = "words")]
    pub direction: Direction,
    /// The other end: `namespace/name`, or a word and an address. Escaped.
    pub peer: String,
    /// The other end's SPIFFE ID, if it has proved one. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spiffe_id: Option<String>,
    /// The protocol.
    pub protocol: Protocol,
    /// The listener's port.
    pub port: u16,
    /// What denies it, with its place. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// How many connections.
    pub count: u64,
    /// The first.
    pub first: Time,
    /// The last.
    pub last: Time,
    /// None was seen since the present documents came into force.
    pub stale: bool,
}

impl What {
    /// The step that it is in the way of.
    pub const fn step(self) -> Step {
        match self {
            Self::WouldDeny => Step::Enforce,
            Self::NoSeal => Step::Strict,
            Self::NoRule => Step::AllowLists,
        }
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WouldDeny => "would-deny",
            Self::NoSeal => "no-seal",
            Self::NoRule => "no-rule",
        }
    }
}

impl Step {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
            Self::Strict => "strict",
            Self::AllowLists => "allow lists",
            Self::Done => "none",
        }
    }
}
