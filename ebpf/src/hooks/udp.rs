//! Datagrams. The sender's hook writes who sends into the flow table, the receiver's hook reads it there; replies to a
//! judged flow pass.

use waxseal_common::flow::{FlowEvent, Hook, SealState};
use waxseal_common::ids::{IdentityId, protocol};
use waxseal_common::state::{Counter, UdpFlow};
use waxseal_common::verdict::{Direction, Judgement, Peer, Question, Reason, Verdict};

use super::skb_ingress::{DROP, PASS, refusal, stricter};
use crate::case::{self, Case};
use crate::emit::{self, Telling};
use crate::flow::{self, REMOTE, carry, is_counted_at_opener};
use crate::judge::{Bench, pack, remote, unpack};
use crate::maps;
use crate::owner::Owner;
use crate::packet::Packet;

/// How long after the last datagram a reply still belongs to its flow. The agent removes older flows.
const REPLY_NANOSECONDS: u64 = 120_000_000_000;

/// A datagram leaves.
#[inline(never)]
pub(super) fn egress(packet: &Packet<'_>, bench: &Bench, cookie: u64, owner: Owner) -> i32 {
    let managed = owner.managed();
    let mut case = Case::new(Hook::SkbEgress, cookie, packet.cgroup(), owner);
    if !read(packet, &mut case) {
        return unparsable(bench, owner);
    }
    case.source = owner.identity();
    case.seal = SealState::Local;
    match answers(packet, bench, &mut case, true) {
        REPLY => return PASS,
        REFUSED => return DROP,
        _ => {}
    }
    if let Some(flow) = maps::udp_flow(&case.tuple)
        && flow.cgroup == case.cgroup
        && flow.source == owner.identity()
        && flow.egress_revision == bench.revision
    {
        flow.seen = case.at;
        if flow.egress_verdict == Verdict::Deny as u8 {
            return DROP;
        }
        carry(flow, packet, &case, true);
        return PASS;
    }
    if !managed {
        // Somebody unmanaged is left alone; the flow is noted only where a workload may want to know who it is.
        if bench.is_local(&case.tuple.destination) {
            let judged = Judgement::without_rule(Verdict::Allow, Reason::NotAWorkload);
            case.netns = packet.netns();
            flow::note(&case, bench.revision, judged, packet.length());
        }
        return PASS;
    }
    let judged = judge(packet, bench, &mut case);
    complete(packet, &mut case);
    let full = noted(packet, bench, &case, judged);
    conclude(bench, &mut case, judged, full)
}

/// What an event and a flow's entry say beside the judgement.
#[inline(never)]
fn complete(packet: &Packet<'_>, case: &mut Case) -> u32 {
    case.process = maps::udp_opener(case.cookie);
    case.netns = packet.netns();
    0
}

/// Keeps what was judged, where it may pass; else says why there is no room for it. Not within [`conclude`]: the stack has
/// none for both.
#[inline(never)]
fn noted(packet: &Packet<'_>, bench: &Bench, case: &Case, packed: i64) -> Option<Reason> {
    let judged = unpack(packed.unsigned_abs());
    if !judged.verdict.passes() {
        return None;
    }
    flow::note(case, bench.revision, judged, packet.length())
}

/// Tells of what was judged, and obeys it. `packed` is what [`judge`] says; nothing may pass that is `full`.
#[inline(never)]
fn conclude(bench: &Bench, case: &mut Case, packed: i64, full: Option<Reason>) -> i32 {
    let direction = if packed < 0 { Direction::Ingress } else { Direction::Egress };
    let mut judged = unpack(packed.unsigned_abs());
    if let Some(reason) = full {
        judged = bench.refuse(case.source, reason);
        // Whoever floods is told of now and then: the denials of others are not to drown in these.
        if !judged.verdict.passes() && !maps::may_tell(case.at) {
            return DROP;
        }
    }
    let passes = judged.verdict.passes();
    // Towards another node the border tells, for it knows both ends.
    if passes && case.session == REMOTE {
        return PASS;
    }
    if !passes
        && let Some(flow) = maps::udp_flow(&case.tuple)
        && flow.cgroup == case.cgroup
    {
        // Its replies end with it.
        flow.egress_verdict = Verdict::Deny as u8;
    }
    if case.session == REMOTE {
        case.session = 0;
    }
    // Towards this node the receiver's hook tells, for it knows both ends.
    let second = passes && case.destination != IdentityId::WORLD && bench.is_local(&case.tuple.destination);
    if second && !maps::both_ends() {
        return PASS;
    }
    let flags = if second { FlowEvent::SECOND } else { 0 };
    emit::case(case, &Telling { revision: bench.revision, judged, direction, flags });
    if passes { PASS } else { DROP }
}

/// Both ends, as far as they can be known before the datagram arrives.
/// The judgement is packed, and negative when it is the receiver's.
#[inline(never)]
fn judge(packet: &Packet<'_>, bench: &Bench, case: &mut Case) -> i64 {
    let (direction, judged) = judge_ends(packet, bench, case);
    let packed = pack(judged).cast_signed();
    if matches!(direction, Direction::Ingress) { -packed } else { packed }
}

#[inline(always)]
fn judge_ends(packet: &Packet<'_>, bench: &Bench, case: &mut Case) -> (Direction, Judgement) {
    if case.pending {
        return (Direction::Egress, bench.refuse(case.source, Reason::IdentityPending));
    }
    let loopback = case.tuple.destination.is_loopback();
    let row = bench.address(&case.tuple.destination);
    let peer = match packet.receiver(&case.tuple.destination, case.tuple.destination_port) {
        Some(receiver) if !receiver.shared => Peer::Known(receiver.owner.identity()),
        None if bench.is_remote(row) => {
            case.session = REMOTE;
            match IdentityId(remote(case) as u32) {
                identity if identity.is_workload() => Peer::Known(identity),
                _ => Peer::Unresolved,
            }
        }
        // Nothing that a datagram brings back could tell later who has answered: elsewhere is a stranger.
        None if !row.is_local() && !loopback => Peer::Known(bench.stranger(&case.tuple.destination)),
        _ => Peer::Unresolved,
    };
    let egress = bench.ask(&Question {
        direction: Direction::Egress,
        subject: case.source,
        peer,
        peer_address: row,
        loopback,
        protocol: protocol::UDP,
        port: case.tuple.destination_port,
    });
    let Peer::Known(other) = peer else { return (Direction::Egress, egress) };
    case.destination = other;
    if !egress.verdict.passes() || !other.is_workload() || case.session == REMOTE {
        return (Direction::Egress, egress);
    }
    let ingress = bench.ingress(case);
    if ingress.verdict == Verdict::Deny { (Direction::Ingress, ingress) } else { (Direction::Egress, egress) }
}

/// A datagram arrives.
#[inline(never)]
pub(super) fn ingress(packet: &Packet<'_>, bench: &Bench, cookie: u64, owner: Owner) -> i32 {
    let managed = owner.managed();
    let mut case = Case::new(Hook::SkbIngress, cookie, packet.cgroup(), owner);
    if !read(packet, &mut case) {
        return unparsable(bench, owner);
    }
    case.destination = owner.identity();
    match answers(packet, bench, &mut case, false) {
        REPLY => return PASS,
        REFUSED => return DROP,
        _ => {}
    }
    let flow = maps::udp_flow(&case.tuple);
    let sealed = flow.as_ref().is_some_and(|flow| flow.source != IdentityId::UNKNOWN);
    case.seal = if sealed { SealState::Local } else { SealState::None };
    let mut flow = match flow {
        Some(flow) => Some(flow),
        None if !managed => return PASS,
        None => maps::udp_unsealed(&case.tuple),
    };
    match &mut flow {
        Some(flow)
            if flow.ingress_revision == bench.revision
                && flow.destination == owner.identity()
                && !owner.pending() =>
        {
            if flow.ingress_verdict == Verdict::Deny as u8 {
                return DROP;
            }
            flow.seen = case.at;
            if !is_counted_at_opener(flow) {
                carry(flow, packet, &case, true);
            }
            return PASS;
        }
        Some(flow) if case.sealed() => {
            case.source = flow.source;
            case.process = flow.process;
            if flow.flags & UdpFlow::ANNOUNCED != 0 {
                case.seal = SealState::Wire;
                case.session = flow.session.0;
            }
        }
        _ => case.source = bench.stranger(&case.tuple.source),
    }
    if !managed && !case.source.is_workload() {
        return PASS;
    }
    // What a workload of another node may send is that node's business.
    let outward = if case.source.is_workload() && case.session == 0 {
        bench.egress(&case, &case.tuple.destination)
    } else {
        Judgement::without_rule(Verdict::Allow, Reason::NotAWorkload)
    };
    let (direction, judged) = stricter(outward, bench.ingress(&case));
    let passes = judged.verdict.passes();
    case.netns = packet.netns();
    let first = if let Some(flow) = flow {
        if passes && !is_counted_at_opener(flow) {
            carry(flow, packet, &case, true);
        }
        flow::keep(flow, &case, bench.revision, judged)
    } else {
        flow::keep_unsealed(&case, bench.revision, judged);
        if passes && let Some(flow) = maps::udp_unsealed(&case.tuple) {
            carry(flow, packet, &case, true);
        }
        true
    };
    if passes && !first {
        return PASS;
    }
    let flags = if passes { 0 } else { refusal(bench, &case, direction) };
    emit::case(&case, &Telling { revision: bench.revision, judged, direction, flags });
    if passes { PASS } else { DROP }
}

/// What [`answers`] says: the packet answers no flow, it answers one that is allowed, or one that is not any more.
const NO_REPLY: u32 = 0;
const REPLY: u32 = 1;
const REFUSED: u32 = 2;

/// Whether the packet answers a judged flow: sent by the very owner that received it, in the namespace where it arrived,
/// or arriving at the very owner that opened it. Under a new policy the flow is judged again first.
#[inline(never)]
fn answers(packet: &Packet<'_>, bench: &Bench, case: &mut Case, outward: bool) -> u32 {
    // As it was opened.
    reverse(case);
    let answer = answers_opening(packet, bench, case, outward);
    reverse(case);
    answer
}

#[inline(always)]
fn reverse(case: &mut Case) {
    core::mem::swap(&mut case.tuple.source, &mut case.tuple.destination);
    core::mem::swap(&mut case.tuple.source_port, &mut case.tuple.destination_port);
}

#[inline(always)]
fn answers_opening(packet: &Packet<'_>, bench: &Bench, case: &mut Case, outward: bool) -> u32 {
    let flow = match maps::udp_flow(&case.tuple) {
        Some(flow) => flow,
        None => match maps::udp_unsealed(&case.tuple) {
            Some(flow) => flow,
            None => return NO_REPLY,
        },
    };
    let party = if outward {
        flow.ingress_revision.0 != 0
            && flow.destination == case.source
            && flow.receiver_netns == packet.netns()
    } else {
        flow.cgroup == case.cgroup && flow.netns == packet.netns()
    };
    if !party || case.pending || case.at.saturating_sub(flow.seen) > REPLY_NANOSECONDS {
        return NO_REPLY;
    }
    if flow.ingress_revision.0 != 0 && flow.ingress_revision != bench.revision {
        judge_flow(bench, case, flow);
    }
    let denied = Verdict::Deny as u8;
    if flow.egress_verdict == denied || flow.ingress_verdict == denied {
        return REFUSED;
    }
    if is_counted_at_opener(flow) != outward {
        carry(flow, packet, case, false);
    }
    REPLY
}

/// Judges both sides of a flow again, as it was opened.
#[inline(always)]
fn judge_flow(bench: &Bench, case: &mut Case, flow: &mut UdpFlow) {
    let (source, destination) = (case.source, case.destination);
    case.source = flow.source;
    case.destination = flow.destination;
    flow.ingress_verdict = bench.ingress(case).verdict as u8;
    if flow.flags & UdpFlow::ANNOUNCED == 0 {
        flow.egress_verdict = bench.egress(case, &case.tuple.destination).verdict as u8;
    }
    flow.ingress_revision = bench.revision;
    case.source = source;
    case.destination = destination;
}

/// The flow's key. `false` when the packet cannot be read.
#[inline(always)]
fn read(packet: &Packet<'_>, case: &mut Case) -> bool {
    if !case::read(packet, case) {
        return false;
    }
    // Every namespace has the same loopback addresses; all others belong to one.
    if case.tuple.destination.is_loopback() || case.tuple.source.is_loopback() {
        case.tuple.netns = packet.netns();
    }
    true
}

#[inline(always)]
fn unparsable(bench: &Bench, owner: Owner) -> i32 {
    if !owner.managed() {
        return PASS;
    }
    maps::count(Counter::Unparsable);
    if bench.refuse(owner.identity(), Reason::Unparsable).verdict.passes() { PASS } else { DROP }
}
