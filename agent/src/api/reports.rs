//! What the agent tells about itself. The node fills these in; they are the documented JSON of `-o json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waxseal_common::tables::Mode;

use super::hub::TapReport;
use super::rollout::{ModeSet, WorkloadMode};
use super::sessions::MeshReport;
use crate::flows::{Time, words};
use crate::workload::Labels;

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Name of the agent on this node.
    pub instance: String,
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// The agent's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The policy revision in force.
    pub revision: u64,
    /// The set of policies.
    pub policy: PolicyReport,
    /// The node's mode and its ceiling.
    pub mode: ModeReport,
    /// Running instances of workloads that have their identity.
    pub endpoints: u64,
    /// Workloads with a number.
    pub identities: u64,
    /// Cgroups that should be an instance of a workload and are not, with the reason.
    pub unsettled: Vec<EndpointReport>,
    /// The kernel programs.
    pub programs: Vec<ProgramReport>,
    /// How full the kernel's tables are.
    pub maps: Vec<MapFill>,
    /// What the kernel counts, by name, over all CPUs. The losses of the rings are among them.
    pub counters: BTreeMap<String, u64>,
    /// The readers of flows.
    pub taps: TapReport,
    /// Other nodes, and certificates.
    #[serde(default)]
    pub mesh: MeshReport,
}

/// The set of policies in force, and what is wrong with a newer one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// The revision with which this set came into force; later ones may only follow identities that come and go.
    pub revision: u64,
    /// Where the documents are read.
    pub directory: String,
    /// How many files.
    pub files: u64,
    /// How many policies.
    pub policies: u64,
    /// How many `Workload` documents.
    pub workloads: u64,
    /// What the policies of the set are called: `namespace/name`. Escaped.
    pub names: Vec<String>,
    /// Warnings about the set in force, each with its place. Escaped.
    pub warnings: Vec<String>,
    /// When this set came into force; absent before the first one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Time>,
    /// Why the files as they are now are not in force.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<PolicyFailure>,
}

/// Why a set of files was refused. The set before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFailure {
    /// One for each slip, each with file, line and column. Escaped but for line breaks.
    pub errors: Vec<String>,
    /// When it was refused.
    pub since: Time,
}

/// The node's mode and its emergency ceiling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeReport {
    /// The mode of workloads that nothing else gives one.
    #[serde(with = "words")]
    pub default: Mode,
    /// No workload is stricter than this; `enforce` when there is no ceiling.
    #[serde(with = "words")]
    pub ceiling: Mode,
    /// When the ceiling was set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Time>,
    /// What was set at run time for workloads and namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub set: Vec<ModeSet>,
    /// Every workload that runs here; empty in `status`, which has no room for them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub workloads: Vec<WorkloadMode>,
}

/// How far a cgroup has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It is an instance of a workload.
    Ready,
    /// It lies where workloads are expected and none claims it yet: it gets nothing.
    Pending,
    /// More than one workload claims it, or its processes disagree: it gets nothing.
    Refused,
}

impl EndpointState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Pending => "pending",
            Self::Refused => "refused",
        }
    }
}

/// One cgroup that is, or should be, an instance of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// The inode number of the directory.
    pub cgroup: u64,
    /// Its path from the root of the hierarchy. Escaped.
    pub path: String,
    /// How far it has come.
    pub state: EndpointState,
    /// The workload's number, once ready.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<u32>,
    /// `namespace/name` of the workload, once ready. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload: Option<String>,
    /// How strictly its rules are applied, ceiling included.
    #[serde(with = "words::optional", skip_serializing_if = "Option::is_none", default)]
    pub mode: Option<Mode>,
    /// Why it is not ready. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// One workload's number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityReport {
    /// The number on this node.
    pub identity: u32,
    /// `namespace/name`, or the word for a reserved number. Escaped.
    pub workload: String,
    /// Absent for reserved numbers. Escaped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spiffe_id: Option<String>,
    /// What policies select it by. Escaped.
    pub labels: Labels,
    /// How many instances run.
    pub endpoints: u64,
}

/// One kernel program and where it hangs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramReport {
    /// The hook's name.
    pub name: String,
    /// Whether it is attached.
    pub attached: bool,
    /// To what. Escaped.
    pub target: String,
}

/// How full a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// The table.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries there may be.
    pub capacity: u64,
}

/// What would be decided about a connection. The explanation is the policy's own, in both its forms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// For people: each step with file and line. Escaped but for line breaks.
    pub text: String,
    /// For programs.
    pub explanation: serde_json::Value,
}
