//! The lines on the socket.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use waxseal_common::tables::Mode;

use super::rollout::{Level, Scope};
use crate::flows::{Filter, VERSION, words};

/// The most bytes of a request, newline included.
pub(super) const REQUEST_LIMIT: usize = 64 * 1024;

/// The first and only line that a client sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Answered with a [`super::StatusReport`].
    Status,
    /// Answered with a list of [`super::EndpointReport`].
    Endpoints,
    /// Answered with a list of [`super::IdentityReport`].
    Identities,
    /// Answered with a [`super::ModeReport`].
    Mode(ModeChange),
    /// Answered with a [`super::ExplainReport`].
    Explain(Question),
    /// Answered with a [`super::ExplainReport`].
    ExplainFlow {
        /// The number of its socket, as flows show it.
        cookie: u64,
    },
    /// Answered with a [`super::RolloutReport`].
    Rollout(Scope),
    /// Answered with a [`super::PolicyReport`].
    Policy,
    /// Answered with a [`super::SessionsReport`].
    Sessions,
    /// Answered with the checks of the way to another node.
    Probe(ProbeRequest),
    /// Answered with flows, one a line, until either side closes.
    Tap(Box<TapRequest>),
    /// The same of another node, whose agent is asked by this one.
    TapNode(Box<NodeTapRequest>),
}

/// What to do with modes. The node's emergency ceiling is the loosest mode, which holds for every workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModeChange {
    /// Nothing; only show it.
    Show,
    /// No workload is stricter than this until it is reset. `Enforce` leaves every workload its own mode.
    Ceiling {
        /// The loosest mode.
        #[serde(with = "words")]
        mode: Mode,
    },
    /// Every workload has its own mode again.
    Reset,
    /// Sets the mode of a workload or namespace, whatever its document says.
    Set {
        /// For whom.
        level: Level,
        /// How strict.
        #[serde(with = "words")]
        mode: Mode,
    },
    /// What the documents say holds again for a workload or namespace.
    Unset {
        /// For whom.
        level: Level,
    },
}

/// A connection that somebody asks about. The two ends as people name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The opener.
    pub from: String,
    /// The acceptor.
    pub to: String,
    /// The acceptor's port, as in a rule: `8080/tcp`.
    pub port: String,
}

/// Which way to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeRequest {
    /// An address of the other node.
    pub address: std::net::IpAddr,
}

/// Which flows, and from when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TapRequest {
    /// Which flows.
    pub filter: Filter,
    /// How many flows of the past come first: the newest that the filter wants. All when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<usize>,
    /// Whether to go on with the present.
    pub follow: bool,
    /// Whether a line tells where the past ends, and an empty one every two seconds that nothing has come: for those that
    /// read several taps at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub marked: bool,
}

/// Another node, and which of its flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeTapRequest {
    /// Its name, which its agent must prove.
    pub node: String,
    /// Where its agent answers; needed for nodes that this one has not met.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<std::net::SocketAddr>,
    /// What is asked of it.
    pub tap: TapRequest,
}

/// The answer to every request but an accepted tap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// What was asked for.
    Ok(T),
    /// Why there is none.
    Error(Failure),
}

/// An answer as a line: with the version in front.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) v: u32,
    #[serde(flatten)]
    pub(super) answer: Answer<T>,
}

/// Why the agent does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// The situation, for programs.
    pub kind: FailureKind,
    /// The situation, for people.
    pub message: String,
}

/// Situations in which the agent refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request cannot be understood, or names what does not exist.
    Invalid,
    /// The asker may not.
    NotPermitted,
    /// Too many askers at once.
    Busy,
    /// The kernel lacks what it takes.
    Unsupported,
    /// The agent failed.
    Internal,
}

impl Failure {
    /// A failure with its message, which must be escaped where it holds foreign text.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Appends one line.
pub(super) fn line<T: Serialize>(answer: Answer<T>, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, &Envelope { v: VERSION, answer })?;
    out.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn requests_look_like_this_on_the_wire() {
        let tap = TapRequest { last: Some(3), follow: true, ..TapRequest::default() };
        let other = NodeTapRequest {
            node: "beta".into(),
            agent: Some(([10, 0, 0, 2], 7461).into()),
            tap: TapRequest { marked: true, ..TapRequest::default() },
        };
        let question = Question { from: "a".into(), to: "b".into(), port: "80/tcp".into() };
        let requests = [
            Request::Status,
            Request::Mode(ModeChange::Ceiling { mode: Mode::Audit }),
            Request::Mode(ModeChange::Reset),
            Request::Mode(ModeChange::Set { level: Level::Workload("shop/web".into()), mode: Mode::Enforce }),
            Request::Mode(ModeChange::Unset { level: Level::Namespace("shop".into()) }),
            Request::Rollout(Scope { namespace: Some("shop".into()), workload: None }),
            Request::ExplainFlow { cookie: 77 },
            Request::Explain(question),
            Request::Tap(Box::new(tap)),
            Request::TapNode(Box::new(other)),
        ];
        let lines: Vec<String> =
            requests.iter().map(|request| serde_json::to_string(request).unwrap()).collect();
        expect![[r#"
            {"request":"status"}
            {"request":"mode","change":"ceiling","mode":"audit"}
            {"request":"mode","change":"reset"}
            {"request":"mode","change":"set","level":{"workload":"shop/web"},"mode":"enforce"}
            {"request":"mode","change":"unset","level":{"namespace":"shop"}}
            {"request":"rollout","namespace":"shop"}
            {"request":"explain_flow","cookie":77}
            {"request":"explain","from":"a","to":"b","port":"80/tcp"}
            {"request":"tap","filter":{},"last":3,"follow":true}
            {"request":"tap_node","node":"beta","agent":"10.0.0.2:7461","tap":{"filter":{},"follow":false,"marked":true}}
        "#]]
        .assert_eq(&(lines.join("\n") + "\n"));
        for (line, request) in lines.iter().zip(requests) {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request, "{line}");
        }
    }

    #[test]
    fn answers_look_like_this_on_the_wire() {
        let mut out = Vec::new();
        line(Answer::Ok(vec![1, 2]), &mut out).unwrap();
        line::<()>(Answer::Error(Failure::new(FailureKind::Busy, "64 taps are open")), &mut out).unwrap();
        expect![[r#"
            {"v":1,"ok":[1,2]}
            {"v":1,"error":{"kind":"busy","message":"64 taps are open"}}
        "#]]
        .assert_eq(std::str::from_utf8(&out).unwrap());
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"request":"stop"}"#,
            r#"{"request":"tap","folow":true}"#,
            r#"{"request":"mode"}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
