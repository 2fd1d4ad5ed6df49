//! The agent's control socket: what can be asked, who answers, and the taps.
//!
//! One request a connection, as one line of JSON; the answer is lines of JSON. The server answers taps from the [`Hub`]
//! and passes everything else to the node as a [`Command`].

mod archive;
mod client;
mod hub;
mod reports;
mod rollout;
mod server;
mod sessions;
mod socket;
mod tap;
mod tap_nodes;
mod wire;

use tokio::sync::oneshot;

use crate::report::Check;

pub use archive::{Archive, Found, View};
pub use client::{Client, ClientError, Lines, Next};
pub use hub::{Batch, Hub, Past, Replay, Tap, TapReport, TooManyTaps};
pub use reports::{
    EndpointReport, EndpointState, ExplainReport, IdentityReport, MapFill, ModeReport, PolicyFailure,
    PolicyReport, ProgramReport, StatusReport,
};
pub use rollout::{
    Level, ModeSet, Obstacle, RolloutReport, Scope, Step, What, WorkloadMode, WorkloadRollout,
};
pub use server::Server;
pub use sessions::{
    CertificateReport, HandshakesReport, LinkReport, MeshReport, SessionDirection, SessionEnd,
    SessionFailure, SessionReport, SessionsReport,
};
pub use socket::SocketError;
pub use tap_nodes::{NodeStream, answer_node};
pub use wire::{
    Answer, Failure, FailureKind, ModeChange, NodeTapRequest, ProbeRequest, Question, Request, TapRequest,
};

/// What the node is asked. It answers each, or drops the sender, which the asker is told as an internal failure.
#[derive(Debug)]
pub enum Command {
    /// How the agent is.
    Status(oneshot::Sender<StatusReport>),
    /// The running instances of workloads, and cgroups that should be one and are not.
    Endpoints(oneshot::Sender<Vec<EndpointReport>>),
    /// The identities of this node.
    Identities(oneshot::Sender<Vec<IdentityReport>>),
    /// Shows or changes modes: the node's emergency ceiling, and those of workloads and namespaces.
    Mode {
        /// What to do.
        change: ModeChange,
        /// The state afterwards.
        reply: oneshot::Sender<Result<ModeReport, Failure>>,
    },
    /// What would be decided about a connection, and why.
    Explain {
        /// Which connection.
        question: Question,
        /// The steps.
        reply: oneshot::Sender<Result<ExplainReport, Failure>>,
    },
    /// What would be decided now about a connection that was seen, and why.
    ExplainFlow {
        /// The number of its socket.
        cookie: u64,
        /// The steps.
        reply: oneshot::Sender<Result<ExplainReport, Failure>>,
    },
    /// What would break if workloads went one step stricter.
    Rollout {
        /// Which workloads.
        scope: Scope,
        /// The obstacles.
        reply: oneshot::Sender<Result<RolloutReport, Failure>>,
    },
    /// The set of policies in force, and what is wrong with a newer one.
    Policy(oneshot::Sender<PolicyReport>),
    /// The sessions with other nodes.
    Sessions(oneshot::Sender<SessionsReport>),
    /// How the way to another node is.
    Probe {
        /// An address of it.
        address: std::net::IpAddr,
        /// One for each thing that was looked at.
        reply: oneshot::Sender<Result<Vec<Check>, Failure>>,
    },
    /// A stream to the agent of another node, for a tap.
    ReachNode {
        /// Its name, which it must prove.
        node: String,
        /// Where its agent answers, if the asker knows.
        agent: Option<std::net::SocketAddr>,
        /// The stream.
        reply: oneshot::Sender<Result<NodeStream, Failure>>,
    },
}
