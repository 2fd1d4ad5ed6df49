//! What agents say to each other: on a pair connection one question and one answer, on a link whatever comes up.
//!
//! Unknown fields are ignored, so that a version may grow; what would change the meaning gets another ALPN name.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use waxseal_common::address::Address;
use waxseal_common::ids::NetnsId;
use waxseal_common::state::Tuple;

use crate::workload::Labels;

/// The protocol by which two workloads' agents make a session.
pub const PAIR: &[u8] = b"waxseal-pair/1";
/// The protocol by which two agents keep in touch.
pub const LINK: &[u8] = b"waxseal-link/1";
/// The protocol by which one node reads the flows of another.
pub const TAP: &[u8] = b"waxseal-tap/1";

/// Labels of one workload at most.
pub(super) const MAX_LABELS: usize = 64;
/// Bytes of a label's key or value at most.
pub(super) const MAX_LABEL: usize = 512;
/// Sessions named in one message at most.
pub(super) const MAX_SESSIONS: usize = 1024;

/// Bytes, as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hex(pub(super) Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        let text: String = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes = pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?));
        match bytes.collect::<Option<Vec<u8>>>() {
            Some(bytes) if rest.is_empty() => Ok(Self(bytes)),
            _ => Err(de::Error::custom("not pairs of hexadecimal digits")),
        }
    }
}

/// A chain of certificates, the leaf first.
pub(super) fn to_hex(chain: &[CertificateDer<'_>]) -> Vec<Hex> {
    chain.iter().map(|certificate| Hex(certificate.to_vec())).collect()
}

/// The same the other way.
pub(super) fn to_chain(chain: Vec<Hex>) -> Vec<CertificateDer<'static>> {
    chain.into_iter().map(|Hex(bytes)| CertificateDer::from(bytes)).collect()
}

/// Whether labels are few and short enough to be kept.
pub(super) fn are_bounded(labels: &Labels) -> bool {
    labels.len() <= MAX_LABELS
        && labels.iter().all(|(key, value)| key.len() <= MAX_LABEL && value.len() <= MAX_LABEL)
}

/// What the initiator says when TLS stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Version of the agent, to be shown.
    pub(super) version: String,
    /// The chain of its node's certificate.
    pub(super) node: Vec<Hex>,
    /// The node's signature over this very connection.
    pub(super) signature: Hex,
    /// The labels of its workload.
    pub(super) labels: Labels,
    /// The session of this same pair that the new one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replaces: Option<u32>,
    /// Another number means that it has lost all sessions.
    pub(super) nonce: u64,
    /// Where its agent listens.
    pub(super) port: u16,
}

/// What the responder says when it has installed the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accept {
    /// See [`Hello::version`].
    pub(super) version: String,
    /// Its name for the session.
    pub(super) spi: u32,
    /// Part of the key's derivation; never twice the same from one agent.
    pub(super) epoch: u64,
    /// Seconds from now for which it believes the session.
    pub(super) seconds: u64,
    /// See [`Hello::node`].
    pub(super) node: Vec<Hex>,
    /// See [`Hello::signature`].
    pub(super) signature: Hex,
    /// The labels of its workload; none when only the node answers.
    pub(super) labels: Labels,
    /// See [`Hello::nonce`].
    pub(super) nonce: u64,
}

/// Why an agent does not do what it was asked. It is told to an authenticated peer only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It does too much already.
    Busy,
    /// The certificate shown is no workload's.
    NotAWorkload,
    /// The certificate shown is no node's.
    NotANode,
    /// The node's chain or signature is not to be believed.
    Untrusted,
    /// Too many labels, or longer ones than can be kept.
    Labels,
    /// No room in a table, or something broke.
    Internal,
    /// The session named is not one that this peer has.
    UnknownSession,
    /// Somebody else has announced that flow.
    Taken,
    /// A reason of a later version.
    #[serde(other)]
    Other,
}

impl Reason {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::NotAWorkload => "not-a-workload",
            Self::NotANode => "not-a-node",
            Self::Untrusted => "untrusted",
            Self::Labels => "labels",
            Self::Internal => "internal",
            Self::UnknownSession => "unknown-session",
            Self::Taken => "taken",
            Self::Other => "other",
        }
    }
}

/// The initiator's message on a pair connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Question {
    Hello(Box<Hello>),
}

/// The responder's message on a pair connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Answer {
    Accept(Box<Accept>),
    Refuse { reason: Reason },
}

/// The first message of both sides on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkHello {
    /// See [`Hello::version`].
    pub(super) version: String,
    /// See [`Hello::nonce`].
    pub(super) nonce: u64,
    /// See [`Hello::port`].
    pub(super) port: u16,
    /// The sender's wall clock in milliseconds since 1970.
    pub(super) time: u64,
}

/// The ends of a UDP flow as it passes between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FlowEnds {
    source: std::net::SocketAddr,
    destination: std::net::SocketAddr,
}

impl From<Tuple> for FlowEnds {
    fn from(tuple: Tuple) -> Self {
        Self {
            source: (std::net::IpAddr::from(tuple.source), tuple.source_port).into(),
            destination: (std::net::IpAddr::from(tuple.destination), tuple.destination_port).into(),
        }
    }
}

impl From<FlowEnds> for Tuple {
    fn from(ends: FlowEnds) -> Self {
        Self {
            source: Address::from(ends.source.ip()),
            destination: Address::from(ends.destination.ip()),
            source_port: ends.source.port(),
            destination_port: ends.destination.port(),
            netns: NetnsId(0),
        }
    }
}

/// Everything after the hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum LinkMessage {
    /// Keep-alive; also answered.
    Ping { number: u64 },
    /// Its answer.
    Pong { number: u64 },
    /// Somebody at your address has shown a seal of a session of mine that I do not know.
    UnknownSession { spi: u32 },
    /// The session goes to a listener that is not who you believe.
    WrongDestination { spi: u32 },
    /// I have ended these sessions of mine that you seal with.
    Ended { sessions: Vec<u32> },
    /// I do not seal any more with these sessions of yours.
    Withdraw { sessions: Vec<u32> },
    /// A UDP flow under a session of yours is about to come.
    Announce { number: u64, spi: u32, flow: FlowEnds },
    /// The answer: for how many milliseconds, or why not.
    Announced {
        number: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<Reason>,
        milliseconds: u64,
    },
    /// I shall send a SYN under this one-time key, to see whether it arrives as it was sent: install it.
    Probe { number: u64, spi: u32, key: [u64; 2] },
    /// It is installed, or why not.
    Probing {
        number: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<Reason>,
    },
    /// The probe is over: how many true and untrue seals have come?
    ProbeEnd { number: u64, spi: u32 },
    /// These many.
    Probed { number: u64, opened: u64, forged: u64 },
    /// Something that a later version says.
    #[serde(other)]
    Unknown,
}

/// Whether these bytes are a message that one agent says to another, at whatever point.
pub fn is_message(bytes: &[u8]) -> bool {
    fn reads<T: de::DeserializeOwned>(bytes: &[u8]) -> bool {
        serde_json::from_slice::<T>(bytes).is_ok()
    }
    reads::<Question>(bytes)
        || reads::<Answer>(bytes)
        || reads::<LinkHello>(bytes)
        || reads::<LinkMessage>(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn messages_look_like_this_on_the_wire() {
        let tuple = Tuple {
            source: Address::from_v4([10, 0, 0, 1]),
            destination: Address::from_v4([10, 0, 0, 2]),
            source_port: 40000,
            destination_port: 53,
            netns: NetnsId(0),
        };
        let messages = [
            LinkMessage::Ping { number: 1 },
            LinkMessage::UnknownSession { spi: 7 },
            LinkMessage::Announce { number: 2, spi: 7, flow: tuple.into() },
            LinkMessage::Announced { number: 2, refused: Some(Reason::Taken), milliseconds: 0 },
            LinkMessage::Ended { sessions: vec![1, 2] },
        ];
        let lines: Vec<String> = messages.iter().map(|m| serde_json::to_string(m).unwrap()).collect();
        expect![[r#"
            {"type":"ping","number":1}
            {"type":"unknown_session","spi":7}
            {"type":"announce","number":2,"spi":7,"flow":{"source":"10.0.0.1:40000","destination":"10.0.0.2:53"}}
            {"type":"announced","number":2,"refused":"taken","milliseconds":0}
            {"type":"ended","sessions":[1,2]}
        "#]]
        .assert_eq(&(lines.join("\n") + "\n"));
        for (line, message) in lines.iter().zip(messages) {
            assert_eq!(serde_json::from_str::<LinkMessage>(line).unwrap(), message, "{line}");
        }
        let LinkMessage::Announce { flow, .. } = serde_json::from_str(&lines[2]).unwrap() else { panic!() };
        assert_eq!(Tuple::from(flow), tuple);
    }

    #[test]
    fn a_later_version_may_say_more() {
        let more: LinkMessage = serde_json::from_str(r#"{"type":"ping","number":1,"mood":"good"}"#).unwrap();
        assert_eq!(more, LinkMessage::Ping { number: 1 });
        let other: LinkMessage = serde_json::from_str(r#"{"type":"sing"}"#).unwrap();
        assert_eq!(other, LinkMessage::Unknown);
        assert_eq!(serde_json::from_str::<Reason>("\"tired\"").unwrap(), Reason::Other);
    }

    #[test]
    fn bytes_survive_the_round_trip_and_nothing_else_is_taken() {
        let bytes = Hex(vec![0, 1, 0xab, 0xff]);
        let text = serde_json::to_string(&bytes).unwrap();
        assert_eq!(text, "\"0001abff\"");
        assert_eq!(serde_json::from_str::<Hex>(&text).unwrap(), bytes);
        for wrong in ["\"0\"", "\"0g\"", "\"é\"", "1", "\"+1\""] {
            assert!(serde_json::from_str::<Hex>(wrong).is_err(), "{wrong}");
        }
    }
}
