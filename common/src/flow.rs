//! What the kernel says: one event per decision, one per close, one per change in the cgroup tree.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::{CgroupId, IdentityId, NetnsId, Revision, RuleId};
use crate::state::{Process, Tuple};

/// What an event tells. The byte in [`FlowEvent::kind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A connection was judged and may be (verdict allow, would-deny or audit).
    Opened = 0,
    /// A connection was judged and may not be. Comes through the ring of denials.
    Denied = 1,
    /// A connection that was opened has closed.
    Closed = 2,
    /// A connection that was judged and might be was never established: refused, unanswered, or given up.
    Failed = 3,
}

impl Kind {
    /// The kind that a stored byte stands for.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Opened),
            1 => Some(Self::Denied),
            2 => Some(Self::Closed),
            3 => Some(Self::Failed),
            _ => None,
        }
    }
}

/// The hook that speaks. Its name is the name of the program, of its file and of the word in the tap.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `connect()` over IPv4.
    Connect4 = 0,
    /// `connect()` over IPv6.
    Connect6 = 1,
    /// Unconnected datagrams over IPv4.
    Sendmsg4 = 2,
    /// Unconnected datagrams over IPv6.
    Sendmsg6 = 3,
    /// TCP's own callbacks.
    SockOps = 4,
    /// Packets that arrive at a socket.
    SkbIngress = 5,
    /// Packets that leave a socket.
    SkbEgress = 6,
    /// The agent itself.
    Agent = 7,
    /// Packets that come in from another node.
    TcIngress = 8,
    /// Packets that leave for another node.
    TcEgress = 9,
}

impl Hook {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::SockOps => "sock_ops",
            Self::SkbIngress => "skb_ingress",
            Self::SkbEgress => "skb_egress",
            Self::Agent => "agent",
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
        }
    }

    /// The hook that a stored byte stands for.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Connect4),
            1 => Some(Self::Connect6),
            2 => Some(Self::Sendmsg4),
            3 => Some(Self::Sendmsg6),
            4 => Some(Self::SockOps),
            5 => Some(Self::SkbIngress),
            6 => Some(Self::SkbEgress),
            7 => Some(Self::Agent),
            8 => Some(Self::TcIngress),
            9 => Some(Self::TcEgress),
            _ => None,
        }
    }
}

/// One decision, or one close.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowEvent {
    /// Monotonic nanoseconds.
    pub at: u64,
    /// The revision under which it was judged.
    pub revision: Revision,
    /// Cookie of the socket whose hook speaks.
    pub cookie: u64,
    /// Cgroup of the socket whose hook speaks.
    pub cgroup: CgroupId,
    /// Closed only: bytes that the opener sent and the acceptor acknowledged.
    pub bytes_sent: u64,
    /// Closed only: bytes that the opener received.
    pub bytes_received: u64,
    /// Closed only: nanoseconds since it was opened.
    pub duration: u64,
    /// The opener is always the source. As the hook that speaks sees it.
    pub tuple: Tuple,
    /// Who opened it.
    pub source: IdentityId,
    /// Who accepts it.
    pub destination: IdentityId,
    /// The rule, policy or namespace that decided.
    pub rule: RuleId,
    /// Network namespace of the socket whose hook speaks.
    pub netns: NetnsId,
    /// Denied SYN only: its sequence number in host order, for the refusal.
    pub isn: u32,
    /// The process that opened it, where known.
    pub process: Process,
    /// The listener's own port, after NAT; the destination port of the tuple where that is not known.
    pub port: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// A [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// A [`crate::verdict::Reason`].
    pub reason: u8,
    /// The [`crate::verdict::Direction`] that decided.
    pub direction: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Hook`].
    pub hook: u8,
    /// The bits below.
    pub flags: u8,
    /// A [`SealState`].
    pub seal: u8,
    /// A [`crate::wire::Failure`]: why there is no session with the other node, where one was asked for.
    pub failure: u16,
    /// The session of a connection between nodes: its number at the opener, its SPI at the acceptor; 0 without one.
    pub session: u32,
    /// Closed only: TCP segments that the opener sent, by the count of the socket whose hook speaks.
    pub packets_sent: u32,
    /// Closed only: TCP segments that the opener received, by the same count.
    pub packets_received: u32,
    /// Closed only: segments that the socket whose hook speaks sent again.
    pub retransmits: u32,
    /// Closed only: the smoothed round trip in microseconds; 0 when nothing was measured.
    pub rtt: u32,
    /// Closed and failed only: the error that the kernel left at the socket whose hook speaks, an `errno`; 0 without one.
    pub error: u32,
    /// Closed and failed only: the TCP state (`TCP_*` of the kernel) from which that socket closed.
    pub last_state: u8,
    /// Zero.
    pub pad: u8,
    /// Zero.
    pub tail: u16,
}

/// How the opener has proven itself. The byte in [`FlowEvent::seal`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealState {
    /// It has not.
    None = 0,
    /// By this node's own records.
    Local = 1,
    /// By a session between nodes.
    Wire = 2,
    /// It could not: the SYN had no room for a seal.
    NoRoom = 3,
    /// It could not: there is no session with the other node. [`FlowEvent::failure`] says why.
    NoSession = 4,
    /// It showed a seal of a session that this node does not know.
    UnknownSession = 5,
    /// It showed a seal of a known session that is not true.
    Forged = 6,
    /// It showed a seal of a session that has expired.
    Expired = 7,
}

impl SealState {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Local,
        Self::Wire,
        Self::NoRoom,
        Self::NoSession,
        Self::UnknownSession,
        Self::Forged,
        Self::Expired,
    ];

    /// What a stored byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Local => "local",
            Self::Wire => "sealed",
            Self::NoRoom => "no-room",
            Self::NoSession => "no-session",
            Self::UnknownSession => "unknown-session",
            Self::Forged => "forged",
            Self::Expired => "expired",
        }
    }
}

impl FlowEvent {
    /// The source is proven by a seal or by the socket's own kernel record, not guessed.
    pub const SEALED: u8 = 1;
    /// A SYN was dropped and nobody has told the caller: the agent answers with an RST.
    pub const REFUSE: u8 = 2;
    /// The agent must end the socket that the tuple and the namespace name.
    pub const DESTROY: u8 = 4;
    /// Both ends are on this node, and the other one tells of it too: told only while somebody asks for both views.
    pub const SECOND: u8 = 8;
}

/// What happened in the cgroup tree. The byte in [`CgroupEvent::kind`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CgroupChange {
    /// A directory was made.
    Made = 0,
    /// A directory was removed.
    Removed = 1,
    /// A task was moved into it.
    Entered = 2,
}

/// One change in the cgroup tree. The agent reads the path itself; the id is enough to know which one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CgroupEvent {
    /// Which one.
    pub cgroup: CgroupId,
    /// Its parent; 0 when unknown.
    pub parent: CgroupId,
    /// A [`CgroupChange`].
    pub kind: u32,
    /// How many bytes of `path` are in use, without the final zero. A path that fills it may be cut short.
    pub path_length: u32,
    /// The path from the root of the hierarchy, as the kernel gives it.
    pub path: [u8; 256],
}
