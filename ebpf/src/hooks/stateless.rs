//! Packets that belong to no connection we keep: ICMP, SCTP, GRE, raw sockets. Each is judged by itself.

use waxseal_common::flow::{Hook, SealState};
use waxseal_common::ids::protocol;
use waxseal_common::state::Counter;
use waxseal_common::verdict::{Direction, Judgement, Reason};

use super::skb_ingress::{DROP, PASS};
use crate::case::{self, Case};
use crate::emit::{self, Telling};
use crate::flow;
use crate::judge::Bench;
use crate::maps;
use crate::owner::Owner;
use crate::packet::Packet;

/// A packet that arrives at a managed socket.
#[inline(never)]
pub(super) fn ingress(packet: &Packet<'_>, bench: &Bench, cookie: u64, owner: Owner) -> i32 {
    let mut case = Case::new(Hook::SkbIngress, cookie, packet.cgroup(), owner);
    if !case::read(packet, &mut case) {
        return unparsable(bench, owner);
    }
    case.source = bench.stranger(&case.tuple.source);
    case.destination = owner.identity();
    let judged = bench.ingress(&case);
    if judged.verdict.passes() || (!case.pending && answers(bench, &mut case)) {
        return PASS;
    }
    deny(packet, bench, &mut case, judged, Direction::Ingress)
}

/// A packet that leaves a managed socket.
#[inline(never)]
pub(super) fn egress(packet: &Packet<'_>, bench: &Bench, cookie: u64, owner: Owner) -> i32 {
    let mut case = Case::new(Hook::SkbEgress, cookie, packet.cgroup(), owner);
    if !case::read(packet, &mut case) {
        return unparsable(bench, owner);
    }
    case.source = owner.identity();
    case.seal = SealState::Local;
    case.destination = bench.stranger(&case.tuple.destination);
    let judged = if case.pending {
        bench.refuse(case.source, Reason::IdentityPending)
    } else {
        bench.egress(&case, &case.tuple.destination)
    };
    if judged.verdict.passes() {
        if case.protocol != protocol::UDP {
            return PASS;
        }
        case.netns = packet.netns();
        return if flow::note(&case, bench.revision, judged, 0).is_none() { PASS } else { DROP };
    }
    deny(packet, bench, &mut case, judged, Direction::Egress)
}

/// Whether a packet without ports, such as an echo reply, answers what this workload is expressly allowed to send.
#[inline(always)]
fn answers(bench: &Bench, case: &mut Case) -> bool {
    if case.tuple.destination_port != 0 {
        return false;
    }
    core::mem::swap(&mut case.source, &mut case.destination);
    let outward = bench.egress(case, &case.tuple.source);
    core::mem::swap(&mut case.source, &mut case.destination);
    outward.reason as u8 == Reason::AllowRule as u8
}

#[inline(always)]
fn deny(packet: &Packet<'_>, bench: &Bench, case: &mut Case, judged: Judgement, direction: Direction) -> i32 {
    case.netns = packet.netns();
    emit::case(case, &Telling { revision: bench.revision, judged, direction, flags: 0 });
    DROP
}

#[inline(always)]
fn unparsable(bench: &Bench, owner: Owner) -> i32 {
    maps::count(Counter::Unparsable);
    if bench.refuse(owner.identity(), Reason::Unparsable).verdict.passes() { PASS } else { DROP }
}
