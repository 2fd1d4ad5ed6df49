//! Entries of the tables of UDP flows: who sends, what was judged, and what was carried.

use waxseal_common::ids::{IdentityId, Revision};
use waxseal_common::state::{Counter, UdpFlow};
use waxseal_common::verdict::{Judgement, Reason};

use crate::case::Case;
use crate::maps;
use crate::packet::Packet;

/// In the place of a session: the datagram goes to another node, and the border finds its session.
pub(crate) const REMOTE: u32 = u32::MAX;
/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;

/// Whether the opener's own hooks count what a flow carries: its socket is on this node.
#[inline(always)]
pub(crate) fn is_counted_at_opener(flow: &UdpFlow) -> bool {
    flow.flags & UdpFlow::ANNOUNCED == 0 && flow.source != IdentityId::UNKNOWN
}

/// Counts a datagram from the opener, or back to it. Without a lock, which would cost every packet: of two that two CPUs
/// count in the same instant, one may be missed.
#[inline(always)]
pub(crate) fn carry(flow: &mut UdpFlow, packet: &Packet<'_>, case: &Case, forth: bool) {
    let length = u64::from(packet.length().saturating_sub(case.transport + UDP_HEADER));
    if flow.opened == 0 {
        flow.opened = case.at;
    }
    if forth {
        flow.bytes_sent += length;
        flow.packets_sent += 1;
    } else {
        flow.bytes_received += length;
        flow.packets_received += 1;
    }
}

/// Writes who sends, from which namespace, and what: `length` is the datagram's, from the IP header on, and 0 where nothing
/// is counted. Says why not, when the table or the source's share of it is full.
#[inline(never)]
pub(crate) fn note(case: &Case, revision: Revision, judged: Judgement, length: u32) -> Option<Reason> {
    let before = maps::udp_flow(&case.tuple);
    if before.is_none() && !maps::take_udp_share(case.source) {
        maps::count(Counter::OverShare);
        return Some(Reason::OverShare);
    }
    let mut flow = UdpFlow {
        egress_revision: revision,
        seen: case.at,
        cgroup: case.cgroup,
        opened: case.at,
        source: case.source,
        rule: judged.rule,
        egress_verdict: judged.verdict as u8,
        reason: judged.reason as u8,
        process: case.process,
        netns: case.netns,
        flags: if case.session == REMOTE { UdpFlow::REMOTE } else { 0 },
        ..UdpFlow::default()
    };
    // Judged again it is still the same flow.
    if let Some(before) = before
        && before.cgroup == case.cgroup
        && before.source == case.source
    {
        flow.opened = before.opened;
        flow.bytes_sent = before.bytes_sent;
        flow.packets_sent = before.packets_sent;
        flow.bytes_received = before.bytes_received;
        flow.packets_received = before.packets_received;
    }
    if length > 0 {
        flow.bytes_sent += u64::from(length.saturating_sub(case.transport + UDP_HEADER));
        flow.packets_sent += 1;
    }
    if maps::UDP_FLOWS.insert(case.tuple, &flow, maps::REPLACE).is_ok() {
        return None;
    }
    maps::count(Counter::TableFull);
    Some(Reason::TableFull)
}

/// Keeps the receiver's judgement. `true` when it is the first of its flow, or differs from the one before, so that a
/// flow makes one line and not one for each datagram.
#[inline(always)]
pub(crate) fn keep(flow: &mut UdpFlow, case: &Case, revision: Revision, judged: Judgement) -> bool {
    let verdict = judged.verdict as u8;
    let first = flow.ingress_revision.0 == 0 || flow.ingress_verdict != verdict;
    flow.ingress_revision = revision;
    flow.destination = case.destination;
    flow.receiver_netns = case.netns;
    flow.ingress_verdict = verdict;
    flow.reason = judged.reason as u8;
    flow.rule = judged.rule;
    flow.seen = case.at;
    first
}

/// The same for a source without identity. Always the first.
#[inline(never)]
pub(crate) fn keep_unsealed(case: &Case, revision: Revision, judged: Judgement) -> u32 {
    let flow = UdpFlow {
        ingress_revision: revision,
        seen: case.at,
        destination: case.destination,
        receiver_netns: case.netns,
        rule: judged.rule,
        ingress_verdict: judged.verdict as u8,
        reason: judged.reason as u8,
        ..UdpFlow::default()
    };
    let _ = maps::UDP_UNSEALED.insert(case.tuple, flow, maps::REPLACE);
    0
}
