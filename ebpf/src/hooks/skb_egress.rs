//! skb_egress: a packet leaves a socket. Datagrams and raw packets are judged here, in the sender's own system call and
//! with the true owner; a denial is EPERM. TCP was judged at connect() and is judged again when the policy changes.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use waxseal_common::flow::Hook;
use waxseal_common::ids::protocol;
use waxseal_common::packet;
use waxseal_common::state::{Connection, Counter, Settings};
use waxseal_common::verdict::Verdict;
use waxseal_common::wire::{Asks, Device};

use super::skb_ingress::{DROP, PASS, RAW, again, older_than_we, reset_only};
use super::{stateless, udp};
use crate::case::Case;
use crate::judge::{Bench, route_key};
use crate::maps;
use crate::notice;
use crate::owner::Owner;
use crate::packet::Packet;

const ESTABLISHED: u32 = 1;
const CLOSE_WAIT: u32 = 8;

#[cgroup_skb]
pub(crate) fn skb_egress(ctx: SkBuffContext) -> i32 {
    let packet = Packet(&ctx);
    let Some(settings) = maps::settings() else { return DROP };
    let cookie = packet.cookie();
    if let Some(record) = maps::connection(cookie) {
        if record.stage == Connection::OPENING {
            // A SYN without room for its seal (Fast Open with data, MD5, a joining MPTCP subflow) would arrive as a
            // stranger's. The kernel sends one without the data next.
            let bare = record.flags & Connection::SEALS != 0 && record.seal == 0;
            if record.flags & Connection::REMOTE != 0 {
                return abroad(&packet, settings, record);
            }
            return if bare { DROP } else { PASS };
        }
        if record.revision == settings.revision {
            return if record.verdict == Verdict::Deny as u8 { reset_only(&packet) } else { PASS };
        }
        return again(&packet, &Bench::open(settings), cookie, record, Hook::SkbEgress);
    }
    unrecorded(&packet, &Bench::open(settings), cookie)
}

/// A SYN for another node. Its local seal may leave only through a device whose TC program takes it off.
#[inline(never)]
fn abroad(packet: &Packet<'_>, settings: &Settings, record: &Connection) -> i32 {
    let bare = record.seal == 0 || record.flags & Connection::NO_ROOM != 0;
    if bare {
        // With data (Fast Open) the kernel sends one without next, which has room; others never will.
        return if carries_data(packet) { DROP } else { PASS };
    }
    let device = packet.device();
    if record.netns != settings.netns || maps::device(device) != Device::NOT_COVERED {
        return PASS;
    }
    maps::count(Counter::Uncovered);
    let mut case = Case::new(Hook::SkbEgress, 0, record.cgroup, Owner::NOBODY);
    case.tuple = record.tuple;
    case.session = device;
    if settings.mesh_until > case.at && maps::may_tell(case.at) {
        notice::tell(&case, &route_key(&case), Asks::Uncovered as u8);
    }
    DROP
}

#[inline(never)]
fn carries_data(packet: &Packet<'_>) -> bool {
    let Ok(ip) = packet::ip(packet) else { return true };
    packet::tcp(packet, ip.transport).is_ok_and(|tcp| packet.length() > ip.transport + tcp.length)
}

#[inline(always)]
fn unrecorded(packet: &Packet<'_>, bench: &Bench, cookie: u64) -> i32 {
    let Some(socket) = packet.socket() else { return PASS };
    let owner = packet.owner();
    let managed = owner.managed();
    if socket.kind == RAW {
        return if managed { stateless::egress(packet, bench, cookie, owner) } else { PASS };
    }
    match socket.protocol {
        protocol::TCP if managed && matches!(socket.state, ESTABLISHED | CLOSE_WAIT) => {
            older_than_we(bench, owner)
        }
        protocol::TCP => PASS,
        protocol::UDP => udp::egress(packet, bench, cookie, owner),
        _ if managed => stateless::egress(packet, bench, cookie, owner),
        _ => PASS,
    }
}
