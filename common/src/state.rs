//! What the maps hold beside the policy: endpoints, connections, UDP flows, settings and counters.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;
use crate::ids::{CgroupId, IdentityId, NetnsId, Revision};
use crate::seal::SealKey;
use crate::wire::Spi;

/// What the agent knows of one cgroup. Key: [`CgroupId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Endpoint {
    /// Whose it is: a workload, [`IdentityId::UNMANAGED`] or [`IdentityId::HOST`]. [`IdentityId::UNKNOWN`] is a workload that
    /// was refused (two selectors disagree, two workloads share the cgroup) and gets nothing.
    pub identity: IdentityId,
    /// [`Endpoint::MANAGED_SLICE`] or 0.
    pub flags: u32,
}

impl Endpoint {
    /// Workloads are expected below this directory: a child that is not attested yet may not open connections.
    pub const MANAGED_SLICE: u32 = 1;
}

/// How many bytes of a cgroup's name are compared with the names that workloads are expected under.
pub const NAME_BYTES: usize = 64;

/// The node's settings. One entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    /// The policy revision in force.
    pub revision: Revision,
    /// Monotonic nanoseconds until which packets of connections without a record pass.
    pub grace_until: u64,
    /// The loosest [`crate::tables::Mode`] for the whole node, as its byte: `Enforce` leaves every workload its own.
    pub mode_ceiling: u8,
    /// The strictest [`crate::tables::Mode`] that anything on this node asks for, as its byte: it holds for cgroups that
    /// are to be workloads and are not yet, or were refused.
    pub mode: u8,
    /// Zero.
    pub pad: u16,
    /// The namespace of the agent and of the devices that lead to other nodes.
    pub netns: NetnsId,
    /// Monotonic nanoseconds until which somebody answers for what the TC programs hold. An agent that lives moves it on;
    /// past it nothing is held, and who has no session goes without. 0 while the mesh is off.
    pub mesh_until: u64,
}

/// The key of the local seal. One entry, in a map of its own so that dumping the settings shows no key.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Keys {
    /// Drawn once per boot.
    pub seal: SealKey,
}

/// Name and number of a process, as the kernel gave them at the system call. The name is the workload's own choice:
/// untrusted, to be escaped before it is shown.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Process {
    /// Thread group id in the initial pid namespace; 0 when unknown.
    pub pid: u32,
    /// The command name, padded with zeros.
    pub comm: [u8; 16],
}

/// What connect() or sendmsg() leaves for the hooks that run later in the same system call. One per CPU: a hook that
/// finds another cookie has been preempted and does without a name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Opener {
    /// The socket.
    pub cookie: u64,
    /// The revision under which connect() was judged.
    pub revision: Revision,
    /// Who made the call.
    pub process: Process,
    /// The listener's owner, where both ends could be judged; 0 where not.
    pub peer: IdentityId,
    /// The rule that decided.
    pub rule: crate::ids::RuleId,
    /// Verdict and reason as their bytes.
    pub verdict: u8,
    /// See above.
    pub reason: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// The two ends of a packet as one namespace sees them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tuple {
    /// Sender's address.
    pub source: Address,
    /// Receiver's address.
    pub destination: Address,
    /// Sender's port, host order.
    pub source_port: u16,
    /// Receiver's port, host order.
    pub destination_port: u16,
    /// For loopback addresses, which every namespace has, the namespace; else 0.
    pub netns: NetnsId,
}

impl Tuple {
    /// The same two ends, seen from the other one.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            netns: self.netns,
        }
    }
}

/// A TCP connection of a workload on this node. Key: the socket's cookie. Made when the connection is opened or accepted,
/// removed when the socket closes; never evicted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Connection {
    /// The revision under which it was judged last.
    pub revision: Revision,
    /// Monotonic nanoseconds when it was opened.
    pub opened: u64,
    /// The MAC of its seal, by which the listener's hook finds the opener; 0 without one.
    pub seal: u64,
    /// The owner's cgroup.
    pub cgroup: CgroupId,
    /// As dialled (opener) or as accepted (acceptor). The opener is always the source.
    pub tuple: Tuple,
    /// The workload that owns the socket.
    pub owner: IdentityId,
    /// The other end: a true seal's identity, the listener's owner, or a reserved number.
    pub peer: IdentityId,
    /// The socket's network namespace.
    pub netns: NetnsId,
    /// [`Connection::OPENING`] or [`Connection::OPEN`].
    pub stage: u8,
    /// 1 for the opener, 0 for the acceptor.
    pub opener: u8,
    /// A [`crate::verdict::Verdict`] as its byte.
    pub verdict: u8,
    /// A [`crate::verdict::Reason`] as its byte.
    pub reason: u8,
    /// The rule that decided.
    pub rule: crate::ids::RuleId,
    /// Who opened it; zero for an acceptor.
    pub process: Process,
    /// The listener's own port, which rules are about: after NAT it differs from the tuple's.
    pub port: u16,
    /// The bits below.
    pub flags: u16,
    /// The session that sealed it between nodes: the acceptor's [`crate::wire::Spi`], the opener's
    /// [`crate::wire::Route::session`]; 0 without one.
    pub session: u32,
    /// Opener only: the cookie of the listener that has answered, so that a copy of its seal convinces no other.
    pub listener: u64,
}

impl Connection {
    /// The SYN is out; the answer decides.
    pub const OPENING: u8 = 0;
    /// Established and judged.
    pub const OPEN: u8 = 1;
    /// The listener's hook has seen the SYN and filled in the peer and the port.
    pub const ANSWERED: u16 = 1;
    /// Its SYN may not leave without a seal: the destination is on this node and must learn who calls.
    pub const SEALS: u16 = 2;
    /// connect() has judged both ends already: the listener's hook need not ask again about the same connection.
    pub const JUDGED: u16 = 8;
    /// Older than its owner's being a workload: no program tells of its end.
    pub const ADOPTED: u16 = 4;
    /// Its seal is for another node: a TC program must find it before the SYN leaves.
    pub const REMOTE: u16 = 16;
    /// A SYN of it went out without room for its seal.
    pub const NO_ROOM: u16 = 32;
    /// The upper four bits hold the [`crate::wire::Failure`] for which it has no session.
    pub const FAILURE_SHIFT: u32 = 12;
}

/// A SYN that was allowed and whose connection is not established yet, at the listener. Key: [`Tuple`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Pending {
    /// Monotonic nanoseconds of the SYN.
    pub at: u64,
    /// The revision under which it was judged.
    pub revision: Revision,
    /// The MAC of the opener's local seal; 0 when it is no workload's.
    pub opener: u64,
    /// The opener, by its true seal.
    pub source: IdentityId,
    /// The listener's owner, for whom this was judged.
    pub destination: IdentityId,
    /// The rule that decided.
    pub rule: crate::ids::RuleId,
    /// Verdict and reason as their bytes.
    pub verdict: u8,
    /// See above.
    pub reason: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// The session of an opener on another node; 0 else.
    pub session: Spi,
    /// Zero.
    pub tail: u32,
}

/// A judged UDP flow. Key: [`Tuple`] as the opener sent it. Written by the sender's hook, read by the receiver's; removed
/// by the agent when idle; never evicted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct UdpFlow {
    /// The revision under which the sender's side was judged last.
    pub egress_revision: Revision,
    /// The revision under which the receiver's side was judged last; 0 before.
    pub ingress_revision: Revision,
    /// Monotonic nanoseconds of the last datagram, either way.
    pub seen: u64,
    /// The cgroup of the socket that sent the first datagram; a datagram of another opens the flow anew.
    pub cgroup: CgroupId,
    /// Monotonic nanoseconds of the first datagram.
    pub opened: u64,
    /// Bytes of data and datagrams from the opener, counted where it sends, or where they arrive from another node.
    pub bytes_sent: u64,
    /// See above.
    pub packets_sent: u64,
    /// The same of what the opener got back.
    pub bytes_received: u64,
    /// See above.
    pub packets_received: u64,
    /// Owner of the sending socket.
    pub source: IdentityId,
    /// Owner of the receiving socket; UNKNOWN until its hook has run.
    pub destination: IdentityId,
    /// The rule that decided last.
    pub rule: crate::ids::RuleId,
    /// Verdicts of the two sides as their bytes.
    pub egress_verdict: u8,
    /// See above.
    pub ingress_verdict: u8,
    /// The reason of the stricter one.
    pub reason: u8,
    /// The bits below.
    pub flags: u8,
    /// Who opened it.
    pub process: Process,
    /// The sending socket's network namespace.
    pub netns: NetnsId,
    /// The receiving socket's network namespace.
    pub receiver_netns: NetnsId,
    /// Of a flow from another node the session under which it was announced; 0 else.
    pub session: Spi,
}

impl UdpFlow {
    /// It goes to another node: it may leave when the agents have told each other of it.
    pub const REMOTE: u8 = 1;
    /// It comes from another node, whose agent has announced it.
    pub const ANNOUNCED: u8 = 2;
    /// A TC program has judged it with whoever is at the other end, and has told of it.
    pub const TOLD: u8 = 4;
}

/// What is counted, per CPU. The discriminant is the index in the map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Questions answered with allow.
    Allowed = 0,
    /// Questions answered with audit or would-deny.
    Reported = 1,
    /// Questions answered with deny.
    Denied = 2,
    /// Flow events lost because the ring was full.
    FlowsLost = 3,
    /// Denial events lost because their ring was full.
    DenialsLost = 4,
    /// Cgroup events lost because their ring was full; the agent rescans.
    CgroupsLost = 5,
    /// Connections refused because a connection table was full.
    TableFull = 6,
    /// Seals whose MAC was not true.
    SealForged = 7,
    /// SYNs of workloads without room for the seal (Fast Open, MD5, MPTCP join).
    SealNoRoom = 8,
    /// Seals written.
    Sealed = 9,
    /// Packets denied because they could not be parsed.
    Unparsable = 10,
    /// Packets of connections without a record.
    NoRecord = 11,
    /// SYNs that left for another node under a session's seal.
    WireSealed = 12,
    /// SYNs from another node whose seal was true.
    WireTrue = 13,
    /// Seals of a known session that were not true: forged, or changed on the way.
    WireForged = 14,
    /// SYNs that named a session this node does not know; dropped, and the sender is told.
    WireUnknown = 15,
    /// SYNs whose session had expired; dropped, and the sender is told.
    WireExpired = 16,
    /// Options of ours that were blanked because they may not pass this border.
    SealBlanked = 17,
    /// First packets that wait for a handshake or an announcement.
    Held = 18,
    /// First packets lost because the ring to the agent was full, or because they were too long to be held.
    NoticesLost = 19,
    /// Fragments dropped because they cut a TCP header.
    FragmentsDropped = 20,
    /// SYNs dropped because too many of their session wait for a listener.
    HalfOpenFull = 21,
    /// Sealed SYNs dropped because the device has no TC programs yet.
    Uncovered = 22,
    /// Denied SYNs that a TC program has answered with a reset.
    RefusedAtBorder = 23,
    /// UDP flows refused because their source had its share of the table.
    OverShare = 24,
}

impl Counter {
    /// How many counters there are.
    pub const COUNT: u32 = 25;

    /// All of them, in the order of the map.
    pub const ALL: [Self; 25] = [
        Self::Allowed,
        Self::Reported,
        Self::Denied,
        Self::FlowsLost,
        Self::DenialsLost,
        Self::CgroupsLost,
        Self::TableFull,
        Self::SealForged,
        Self::SealNoRoom,
        Self::Sealed,
        Self::Unparsable,
        Self::NoRecord,
        Self::WireSealed,
        Self::WireTrue,
        Self::WireForged,
        Self::WireUnknown,
        Self::WireExpired,
        Self::SealBlanked,
        Self::Held,
        Self::NoticesLost,
        Self::FragmentsDropped,
        Self::HalfOpenFull,
        Self::Uncovered,
        Self::RefusedAtBorder,
        Self::OverShare,
    ];

    /// The word for it in `waxseal status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Reported => "reported",
            Self::Denied => "denied",
            Self::FlowsLost => "flow-events-lost",
            Self::DenialsLost => "denial-events-lost",
            Self::CgroupsLost => "cgroup-events-lost",
            Self::TableFull => "table-full",
            Self::SealForged => "seal-forged",
            Self::SealNoRoom => "seal-no-room",
            Self::Sealed => "sealed",
            Self::Unparsable => "unparsable",
            Self::NoRecord => "no-record",
            Self::WireSealed => "wire-sealed",
            Self::WireTrue => "wire-true",
            Self::WireForged => "wire-forged",
            Self::WireUnknown => "wire-unknown",
            Self::WireExpired => "wire-expired",
            Self::SealBlanked => "seal-blanked",
            Self::Held => "held",
            Self::NoticesLost => "notices-lost",
            Self::FragmentsDropped => "fragments-dropped",
            Self::HalfOpenFull => "half-open-full",
            Self::Uncovered => "uncovered",
            Self::RefusedAtBorder => "refused-at-border",
            Self::OverShare => "over-share",
        }
    }
}
