//! The wire seal: what the local seal becomes when a SYN leaves for another node.
//!
//! ```text
//!  0      1      2      3      4      5      6      7      8 ...                    15
//! +------+------+------+------+------+------+------+------+------+ ... +------+------+
//! | 253  | 16   | experiment  |  session index (big-end.) |  MAC (big-endian, 64 bit)  |
//! +------+------+------+------+------+------+------+------+------+ ... +------+------+
//! ```
//!
//! The session index (SPI) was chosen by the receiver and means nothing elsewhere. The MAC is SipHash-2-4 under the
//! session's key, which only the TLS session of the two workloads could have made, over both addresses, both ports, the
//! initial sequence number and the index. One key serves one pair, one direction and one epoch, so that nothing of that
//! need be in the message.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;
use crate::ids::IdentityId;
use crate::seal::{SealOption, siphash24};

/// The experiment id of the wire form. Another one than the local form's, so that neither can pass for the other.
pub const WIRE_EXPERIMENT: u16 = 0x5759;

/// The key of one session.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionKey(pub [u64; 2]);

impl core::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// Names a session at its receiver. Never 0.
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct Spi(pub u32);

/// What of a SYN the wire seal covers, as it stands on the wire between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Sender's address.
    pub source: Address,
    /// Receiver's address.
    pub destination: Address,
    /// Sender's port, host order.
    pub source_port: u16,
    /// Receiver's port, host order.
    pub destination_port: u16,
    /// Initial sequence number, host order.
    pub isn: u32,
}

/// The MAC of a SYN under a session.
#[inline(always)]
pub fn wire_mac(key: &SessionKey, spi: Spi, opening: &Opening) -> u64 {
    let [s0, s1] = words(&opening.source);
    let [d0, d1] = words(&opening.destination);
    let ports = u64::from(opening.source_port) << 48 | u64::from(opening.destination_port) << 32;
    siphash24(key.0, [s0, s1, d0, d1, ports | u64::from(opening.isn), u64::from(spi.0)])
}

/// The option as it leaves.
#[inline(always)]
pub fn wire_seal(key: &SessionKey, spi: Spi, opening: &Opening) -> SealOption {
    SealOption::new(WIRE_EXPERIMENT, spi.0, wire_mac(key, spi, opening))
}

/// The session that an option names, when it has the shape of a wire seal. Says nothing about truth.
#[inline(always)]
pub fn named_session(option: &SealOption) -> Option<Spi> {
    if option.is(WIRE_EXPERIMENT) { Some(Spi(option.number())) } else { None }
}

/// Whether the option is this session's seal on this very SYN.
#[inline(always)]
pub fn is_true(option: &SealOption, key: &SessionKey, opening: &Opening) -> bool {
    option.is(WIRE_EXPERIMENT) && option.mac() == wire_mac(key, Spi(option.number()), opening)
}

/// Little-endian, whatever the machine, so that nodes of different kinds agree.
#[inline(always)]
fn words(address: &Address) -> [u64; 2] {
    let b = address.0;
    [
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
    ]
}

/// A session at its receiver. Key: its [`Spi`]. Written by the agent before it tells the sender.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Session {
    /// Its key.
    pub key: SessionKey,
    /// Monotonic nanoseconds from which nothing is believed any more.
    pub expires: u64,
    /// Monotonic nanoseconds when it was made.
    pub made: u64,
    /// True seals so far. Counted by the kernel.
    pub opened: u64,
    /// Seals that named this session and were not true. Counted by the kernel.
    pub forged: u64,
    /// The workload that it stands for: this node's number for it.
    pub source: IdentityId,
    /// The workload of this node that it was made with; [`IdentityId::UNKNOWN`] where the node itself answered, because
    /// nothing listened at the address (it may be translated on its way in).
    pub destination: IdentityId,
    /// Openings that no listener has accepted yet. Counted by the kernel, corrected by the agent.
    pub half_open: u32,
    /// This node's number for the peer node.
    pub node: u32,
}

/// How many openings of one session may wait for their listener.
pub const HALF_OPEN_PER_SESSION: u32 = 8192;

/// Where a workload of this node goes on another: finds a [`Route`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RouteKey {
    /// The destination as it leaves the node, after this node's own translations.
    pub destination: Address,
    /// The workload of this node.
    pub source: IdentityId,
    /// The destination's port, host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// What is known of a destination on another node, for one workload of this one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Route {
    /// The session's key; zero without a session.
    pub key: SessionKey,
    /// Monotonic nanoseconds from which this is not true any more.
    pub expires: u64,
    /// Monotonic nanoseconds when it was learnt.
    pub made: u64,
    /// SYNs sealed so far. Counted by the kernel.
    pub opened: u64,
    /// The receiver's name for the session; 0 without a session.
    pub spi: Spi,
    /// The workload at the other end: this node's number for it. [`IdentityId::UNKNOWN`] where only the node answered.
    pub destination: IdentityId,
    /// This node's own number for the session, by which connections name it; never 0 where there is one.
    pub session: u32,
    /// This node's number for the peer node.
    pub node: u32,
    /// A [`Failure`] as its byte where there is no session.
    pub failure: u8,
    /// Zero.
    pub pad: [u8; 7],
}

impl Route {
    /// Whether there is a session.
    #[inline(always)]
    pub const fn has_session(&self) -> bool {
        self.spi.0 != 0
    }
}

/// Why there is no session with a destination. Shown to people by name.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nothing is wrong.
    None = 0,
    /// No agent answers there: the address or its port refuses.
    NoAgent = 1,
    /// The handshake did not end in time.
    Timeout = 2,
    /// The peer's certificate is not to be trusted.
    Untrusted = 3,
    /// The peer does not trust ours, or does not want to answer for that address.
    Refused = 4,
    /// This workload has no certificate at present.
    NoCertificate = 5,
    /// Too many handshakes at once.
    Busy = 6,
    /// The peer speaks another version, or nonsense.
    Protocol = 7,
    /// This node could not take it: a table is full, a number cannot be given.
    Internal = 8,
    /// This node's own agent is away.
    AgentAway = 9,
}

impl Failure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::NoAgent,
        Self::Timeout,
        Self::Untrusted,
        Self::Refused,
        Self::NoCertificate,
        Self::Busy,
        Self::Protocol,
        Self::Internal,
        Self::AgentAway,
    ];

    /// The failure that a stored byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoAgent => "no-agent",
            Self::Timeout => "timeout",
            Self::Untrusted => "untrusted",
            Self::Refused => "refused",
            Self::NoCertificate => "no-certificate",
            Self::Busy => "busy",
            Self::Protocol => "protocol",
            Self::Internal => "internal",
            Self::AgentAway => "agent-away",
        }
    }
}

/// A SYN from another node whose wire seal was true, on its way to a listener. Key: the MAC of the local seal that it
/// carries from there on. Only a true seal makes an entry; never evicted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Arrival {
    /// Monotonic nanoseconds.
    pub at: u64,
    /// The cookie of the listener that has answered, so that a copy of the seal convinces no other; 0 before.
    pub listener: u64,
    /// The session.
    pub spi: Spi,
    /// The workload that opens.
    pub source: IdentityId,
    /// [`Session::destination`].
    pub destination: IdentityId,
    /// Zero.
    pub pad: u32,
}

/// A UDP flow that the agents have told each other about. Key: the [`crate::state::Tuple`] as it leaves.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Announced {
    /// Monotonic nanoseconds until which it may go out without asking again.
    pub until: u64,
    /// [`Route::session`]; 0 where the datagrams go out without an identity.
    pub session: u32,
    /// Zero.
    pub pad: u32,
}

/// Where a device leads. The value in the map of covered devices.
#[derive(Clone, Copy, Debug)]
pub struct Device;

impl Device {
    /// It has no TC programs.
    pub const NOT_COVERED: u32 = 0;
    /// To other nodes: no local seal passes, either way.
    pub const UPLINK: u32 = 1;
    /// To other nodes and perhaps to containers of this one too: local seals pass towards this node's own addresses.
    pub const INNER: u32 = 2;
}

/// What a TC program tells the agent. The byte in [`Notice::kind`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asks {
    /// connect() goes to another node and there is no session yet: make one, the SYN is coming.
    Intent = 0,
    /// The frame was dropped and waits: send it again when there is an answer.
    Hold = 1,
    /// What is known of the destination is old; it was used once more, nothing waits.
    Renew = 2,
    /// Somebody has shown a seal of a session that this node does not know.
    UnknownSession = 3,
    /// A sealed SYN was dropped because its device is not covered.
    Uncovered = 4,
}

impl Asks {
    /// What a stored byte stands for.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Intent),
            1 => Some(Self::Hold),
            2 => Some(Self::Renew),
            3 => Some(Self::UnknownSession),
            4 => Some(Self::Uncovered),
            _ => None,
        }
    }
}

/// How much of a SYN's frame a [`Notice`] holds: the longest link header, IPv6, some extension headers, TCP with all its
/// options. A power of two, for the kernel's verifier.
pub const SYN_FRAME: usize = 256;
/// How much of a datagram's frame a [`HeldDatagram`] holds; a power of two. A longer first datagram is lost, and counted.
pub const DATAGRAM_FRAME: usize = 2048;

/// Something for the agent to do, with the frame that waits for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Notice {
    /// Monotonic nanoseconds.
    pub at: u64,
    /// About which workload and destination; of an unknown session only the address, which is the sender's.
    pub route: RouteKey,
    /// The sender's address and port as they leave.
    pub source: Address,
    /// The device.
    pub device: u32,
    /// Bytes of the frame that are in use; the frame begins with the link header.
    pub length: u32,
    /// [`Asks::UnknownSession`] only: which.
    pub spi: Spi,
    /// Host order.
    pub source_port: u16,
    /// An [`Asks`].
    pub kind: u8,
    /// Zero.
    pub pad: u8,
    /// The cookie of the opener's socket; 0 for datagrams.
    pub cookie: u64,
    /// Where in the frame the IP header begins.
    pub network: u32,
    /// Where in the frame the transport header begins.
    pub transport: u32,
    /// The frame.
    pub frame: [u8; SYN_FRAME],
}

/// A first datagram that waits until its flow is announced.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HeldDatagram {
    /// As for a SYN; its own frame stays empty.
    pub notice: Notice,
    /// The frame, [`Notice::length`] bytes of it in use.
    pub frame: [u8; DATAGRAM_FRAME],
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;
    use std::net::IpAddr;

    use siphasher::sip::SipHasher24;
    use zerocopy::IntoBytes as _;

    use super::*;

    extern crate std;

    const KEY: SessionKey = SessionKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);

    fn opening(source: &str, destination: &str) -> Opening {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        Opening {
            source: address(source),
            destination: address(destination),
            source_port: 40001,
            destination_port: 8080,
            isn: 0xdead_beef,
        }
    }

    #[test]
    fn the_mac_is_siphash_2_4_of_everything_in_order() {
        let opening = opening("10.1.2.3", "fd00::9");
        let mut oracle = SipHasher24::new_with_keys(KEY.0[0], KEY.0[1]);
        oracle.write(&opening.source.0);
        oracle.write(&opening.destination.0);
        oracle.write(&opening.isn.to_le_bytes());
        oracle.write(&opening.destination_port.to_le_bytes());
        oracle.write(&opening.source_port.to_le_bytes());
        oracle.write(&u64::from(77u32).to_le_bytes());
        assert_eq!(wire_mac(&KEY, Spi(77), &opening), oracle.finish());
    }

    #[test]
    fn a_seal_is_true_for_its_own_syn_only() {
        let mine = opening("10.1.2.3", "10.1.2.4");
        let option = wire_seal(&KEY, Spi(77), &mine);
        assert_eq!(named_session(&option), Some(Spi(77)));
        assert!(is_true(&option, &KEY, &mine));
        let reflected = Opening {
            source: mine.destination,
            destination: mine.source,
            source_port: mine.destination_port,
            destination_port: mine.source_port,
            ..mine
        };
        let others = [
            opening("10.1.2.5", "10.1.2.4"),
            opening("10.1.2.3", "10.1.2.5"),
            Opening { source_port: 40002, ..mine },
            Opening { destination_port: 8081, ..mine },
            Opening { isn: 1, ..mine },
            reflected,
        ];
        for other in others {
            assert!(!is_true(&option, &KEY, &other), "{other:?}");
        }
        assert!(!is_true(&option, &SessionKey([1, 2]), &mine), "another key");
    }

    #[test]
    fn no_changed_bit_is_believed() {
        let mine = opening("10.1.2.3", "10.1.2.4");
        let option = wire_seal(&KEY, Spi(77), &mine);
        for bit in 0..128 {
            let mut bytes = [0u8; 16];
            bytes.copy_from_slice(option.as_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let forged = SealOption::read_from_bytes(&bytes).unwrap();
            assert!(!is_true(&forged, &KEY, &mine), "bit {bit}");
        }
    }

    #[test]
    fn the_local_form_is_no_wire_form() {
        let (local, _) = crate::seal::seal(&crate::seal::SealKey(KEY.0), IdentityId(300), 1, 1);
        assert_eq!(named_session(&local), None);
        assert!(!crate::seal::is_ours(&wire_seal(&KEY, Spi(77), &opening("10.1.2.3", "10.1.2.4"))));
    }
}
