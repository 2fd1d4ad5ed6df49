//! Datagrams. The sender's hook writes who sends into the flow table, the receiver's hook reads it there; replies to a
//! judged flow pass.

use waxseal_common::flow::Hook;
use waxseal_common::ids::{IdentityId, Revision, protocol};
use waxseal_common::state::{Counter, Tuple, UdpFlow};
use waxseal_common::verdict::{Direction, Judgement, Peer, Question, Reason, Verdict};

use super::skb_ingress::{DROP, PASS, stricter};
use crate::case::{self, Case};
use crate::ctx::Packet;
use crate::emit::{self, Telling};
use crate::judge::Bench;
use crate::maps;
use crate::owner::Owner;

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
    case.sealed = true;
    if replies(&case, owner.identity()) {
        return PASS;
    }
    if let Some(flow) = maps::udp_flow(&case.tuple)
        && flow.cgroup == case.cgroup
        && flow.source == owner.identity()
        && flow.egress_revision == bench.revision
    {
        flow.seen = case.at;
        return if flow.egress_verdict == Verdict::Deny as u8 { DROP } else { PASS };
    }
    if !managed {
        // Somebody unmanaged is left alone; the flow is noted only where a workload may want to know who it is.
        if owner.identity() != IdentityId::UNKNOWN && bench.may_be_ours(&case.tuple.destination) {
            let judged = Judgement::without_rule(Verdict::Allow, Reason::NotAWorkload);
            note(packet, &case, bench.revision, judged);
        }
        return PASS;
    }
    case.process = maps::udp_opener(cookie);
    let (direction, mut judged) = judge(packet, bench, &mut case);
    if judged.verdict.passes() && !note(packet, &case, bench.revision, judged) {
        maps::count(Counter::TableFull);
        judged = bench.refuse(case.source, Reason::TableFull);
    }
    let passes = judged.verdict.passes();
    // Towards this node the receiver's hook tells, for it knows both ends.
    if passes && case.destination != IdentityId::WORLD && bench.is_local(&case.tuple.destination) {
        return PASS;
    }
    case.netns = packet.netns();
    emit::case(&case, &Telling { revision: bench.revision, judged, direction, flags: 0 });
    if passes { PASS } else { DROP }
}

/// Both ends, as far as they can be known before the datagram arrives.
#[inline(always)]
fn judge(packet: &Packet<'_>, bench: &Bench, case: &mut Case) -> (Direction, Judgement) {
    if case.pending {
        return (Direction::Egress, bench.refuse(case.source, Reason::IdentityPending));
    }
    let loopback = case.tuple.destination.is_loopback();
    let row = bench.address(&case.tuple.destination);
    let peer = match packet.receiver(&case.tuple.destination, case.tuple.destination_port) {
        Some(receiver) if !receiver.shared => Peer::Known(receiver.owner.identity()),
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
    if !egress.verdict.passes() || !other.is_workload() {
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
    if replies(&case, owner.identity()) {
        return PASS;
    }
    case.destination = owner.identity();
    let flow = maps::udp_flow(&case.tuple);
    case.sealed = flow.is_some();
    let flow = match flow {
        Some(flow) => Some(flow),
        None if !managed => return PASS,
        None => maps::udp_unsealed(&case.tuple),
    };
    match &flow {
        Some(flow)
            if flow.ingress_revision == bench.revision
                && flow.destination == owner.identity()
                && !owner.pending() =>
        {
            return if flow.ingress_verdict == Verdict::Deny as u8 { DROP } else { PASS };
        }
        Some(flow) if case.sealed => {
            case.source = flow.source;
            case.process = flow.process;
        }
        _ => case.source = bench.stranger(&case.tuple.source),
    }
    if !managed && !case.source.is_workload() {
        return PASS;
    }
    let outward = if case.source.is_workload() {
        bench.egress(&case, &case.tuple.destination)
    } else {
        Judgement::without_rule(Verdict::Allow, Reason::NotAWorkload)
    };
    let (direction, judged) = stricter(outward, bench.ingress(&case));
    let passes = judged.verdict.passes();
    let first = match flow {
        Some(flow) => keep(flow, &case, bench.revision, judged),
        None => keep_unsealed(&case, bench.revision, judged),
    };
    if passes && !first {
        return PASS;
    }
    case.netns = packet.netns();
    emit::case(&case, &Telling { revision: bench.revision, judged, direction, flags: 0 });
    if passes { PASS } else { DROP }
}

/// Whether this answers a judged flow of which this very owner is a party.
#[inline(never)]
fn replies(case: &Case, owner: IdentityId) -> bool {
    let opened_as = case.tuple.reversed();
    let flow = match maps::udp_flow(&opened_as) {
        Some(flow) => flow,
        None => match maps::udp_unsealed(&opened_as) {
            Some(flow) => flow,
            None => return false,
        },
    };
    let denied = Verdict::Deny as u8;
    let party = flow.cgroup == case.cgroup || flow.destination == owner || flow.source == owner;
    if !party
        || flow.egress_verdict == denied
        || flow.ingress_verdict == denied
        || case.at.saturating_sub(flow.seen) > REPLY_NANOSECONDS
    {
        return false;
    }
    flow.seen = case.at;
    true
}

/// Writes who sends. `false` when the table is full.
#[inline(never)]
fn note(packet: &Packet<'_>, case: &Case, revision: Revision, judged: Judgement) -> bool {
    let flow = UdpFlow {
        egress_revision: revision,
        seen: case.at,
        cgroup: case.cgroup,
        source: case.source,
        rule: judged.rule,
        egress_verdict: judged.verdict as u8,
        reason: judged.reason as u8,
        process: case.process,
        netns: packet.netns(),
        ..UdpFlow::default()
    };
    insert(&case.tuple, &flow)
}

#[inline(always)]
fn insert(tuple: &Tuple, flow: &UdpFlow) -> bool {
    maps::UDP_FLOWS.insert(tuple, flow, maps::REPLACE).is_ok()
}

/// Keeps the receiver's judgement. `true` when it is the first of its flow, or differs from the one before, so that a
/// flow makes one line and not one for each datagram.
#[inline(always)]
fn keep(flow: &mut UdpFlow, case: &Case, revision: Revision, judged: Judgement) -> bool {
    let verdict = judged.verdict as u8;
    let first = flow.ingress_revision.0 == 0 || flow.ingress_verdict != verdict;
    flow.ingress_revision = revision;
    flow.destination = case.destination;
    flow.ingress_verdict = verdict;
    flow.reason = judged.reason as u8;
    flow.rule = judged.rule;
    flow.seen = case.at;
    first
}

/// The same for a source without identity. Always the first.
#[inline(never)]
fn keep_unsealed(case: &Case, revision: Revision, judged: Judgement) -> bool {
    let flow = UdpFlow {
        ingress_revision: revision,
        seen: case.at,
        destination: case.destination,
        rule: judged.rule,
        ingress_verdict: judged.verdict as u8,
        reason: judged.reason as u8,
        ..UdpFlow::default()
    };
    let _ = maps::UDP_UNSEALED.insert(case.tuple, flow, maps::REPLACE);
    true
}

/// The flow's key. `false` when the packet cannot be read.
#[inline(always)]
fn read(packet: &Packet<'_>, case: &mut Case) -> bool {
    if !case::read(packet, case) {
        return false;
    }
    // Every namespace has the same loopback addresses; all others belong to one.
    if case.tuple.destination.is_loopback() {
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
