//! One connection before the bench: all that a hook has gathered about it, in one place on the small stack.

use waxseal_common::flow::{Hook, SealState};
use waxseal_common::ids::{CgroupId, IdentityId, NetnsId, protocol};
use waxseal_common::packet::{self, Bytes, TcpHead};
use waxseal_common::seal::{Sealed, is_ours, verify};
use waxseal_common::state::{Counter, Process, Tuple};

use crate::ctx;
use crate::maps;
use crate::owner::Owner;
use crate::packet::Packet;

/// What is known. The opener is always the source.
pub(crate) struct Case {
    pub(crate) tuple: Tuple,
    pub(crate) at: u64,
    pub(crate) cookie: u64,
    pub(crate) cgroup: CgroupId,
    pub(crate) source: IdentityId,
    pub(crate) destination: IdentityId,
    pub(crate) netns: NetnsId,
    pub(crate) process: Process,
    /// TCP only: the sequence number, host order.
    pub(crate) sequence: u32,
    /// Where the transport header starts.
    pub(crate) transport: u32,
    /// TCP only: length of the header, 20 to 60.
    pub(crate) header: u32,
    /// TCP only: the flag byte.
    pub(crate) flags: u8,
    pub(crate) protocol: u8,
    /// How the source has proven itself, or why not.
    pub(crate) seal: SealState,
    /// Why there is no session, as in the event.
    pub(crate) failure: u16,
    /// The session between nodes, as in the event.
    pub(crate) session: u32,
    /// The opener's session was made with another workload than the one that listens.
    pub(crate) mistaken: bool,
    /// The socket's owner gets nothing yet.
    pub(crate) pending: bool,
    pub(crate) hook: Hook,
}

impl Case {
    /// A case about a socket, with nothing known yet of the other end.
    #[inline(always)]
    pub(crate) fn new(hook: Hook, cookie: u64, cgroup: CgroupId, owner: Owner) -> Self {
        Self {
            tuple: Tuple::default(),
            at: ctx::now(),
            cookie,
            cgroup,
            source: IdentityId::UNKNOWN,
            destination: IdentityId::UNKNOWN,
            netns: NetnsId(0),
            process: Process::default(),
            sequence: 0,
            transport: 0,
            header: 0,
            flags: 0,
            protocol: 0,
            seal: SealState::None,
            failure: 0,
            mistaken: false,
            session: 0,
            pending: owner.pending(),
            hook,
        }
    }

    /// The source is proven.
    #[inline(always)]
    pub(crate) fn sealed(&self) -> bool {
        matches!(self.seal, SealState::Local | SealState::Wire)
    }

    /// The TCP part in the form that `waxseal_common::packet` knows.
    #[inline(always)]
    pub(crate) fn tcp(&self) -> TcpHead {
        TcpHead {
            source_port: self.tuple.source_port,
            destination_port: self.tuple.destination_port,
            sequence: self.sequence,
            flags: self.flags,
            length: self.header,
        }
    }
}

/// Reads the heads of a packet into the case. `false` when they cannot be read.
#[inline(never)]
pub(crate) fn read(packet: &impl Bytes, case: &mut Case) -> bool {
    let Ok(ip) = packet::ip(packet) else { return false };
    case.tuple.source = ip.source;
    case.tuple.destination = ip.destination;
    case.protocol = ip.protocol;
    case.transport = ip.transport;
    if ip.protocol == protocol::TCP {
        let Ok(tcp) = packet::tcp(packet, ip.transport) else { return false };
        case.tuple.source_port = tcp.source_port;
        case.tuple.destination_port = tcp.destination_port;
        case.sequence = tcp.sequence;
        case.flags = tcp.flags;
        case.header = tcp.length;
    } else if packet::has_ports(ip.protocol) {
        let Ok((source, destination)) = packet::ports(packet, ip.transport) else { return false };
        case.tuple.source_port = source;
        case.tuple.destination_port = destination;
    }
    true
}

/// Looks for a true seal on the SYN. Its MAC is the name of the opening on this node; 0 when there is none.
#[inline(never)]
pub(crate) fn read_seal(packet: &Packet<'_>, case: &mut Case) -> u64 {
    let Some(option) = packet::seal_option(packet, case.transport, &case.tcp()) else { return 0 };
    if !is_ours(&option) {
        return 0;
    }
    let Some(key) = maps::seal_key() else { return 0 };
    let Some(Sealed { identity, mac }) = verify(key, &option, case.sequence, case.at) else {
        maps::count(Counter::SealForged);
        return 0;
    };
    case.source = identity;
    case.seal = SealState::Local;
    mac
}
