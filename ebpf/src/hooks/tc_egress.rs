//! tc_egress: a packet leaves for another node. Here the local seal of a SYN becomes the wire seal of its session, or the
//! SYN waits for one; here first datagrams wait until the other node has heard of their flow. The local form never
//! leaves.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waxseal_common::flow::{FlowEvent, Hook, SealState};
use waxseal_common::ids::{CgroupId, IdentityId, protocol};
use waxseal_common::packet;
use waxseal_common::seal::{SealOption, Sealed, is_ours, verify};
use waxseal_common::state::{Connection, Counter, Settings, UdpFlow};
use waxseal_common::verdict::{Direction, Judgement, Peer, Question, Verdict};
use waxseal_common::wire::{Asks, Device, Failure, Opening, Route, RouteKey, named_session, wire_seal};

use super::sock_ops::keep;
use super::tc_ingress::genuine;
use crate::case::{self, Case};
use crate::emit::{self, Telling};
use crate::frame::{Frame, Glance};
use crate::judge::Bench;
use crate::maps::{self, Room};
use crate::notice;
use crate::owner::Owner;

/// On to the next program, or out. The same number for TCX and for the older classifiers.
pub(super) const NEXT: i32 = -1;
/// Dropped. TCX takes no other number for it.
pub(crate) const DROP: i32 = 2;

const ETHERNET: usize = 14;
const BARE: usize = 0;

#[classifier]
pub(crate) fn tc_egress(ctx: TcContext) -> i32 {
    leave(&Frame::<ETHERNET>(&ctx))
}

#[classifier]
pub(crate) fn tc_egress_bare(ctx: TcContext) -> i32 {
    leave(&Frame::<BARE>(&ctx))
}

#[inline(always)]
fn leave<const LINK: usize>(frame: &Frame<'_, LINK>) -> i32 {
    match frame.glance() {
        Glance::Nothing => NEXT,
        Glance::Datagram | Glance::Perhaps => look(frame),
    }
}

#[inline(never)]
fn look<const LINK: usize>(frame: &Frame<'_, LINK>) -> i32 {
    let Some(settings) = maps::settings() else { return DROP };
    let Some(room) = maps::room(Room::TcEgress) else { return DROP };
    let case = room.write(Case::new(Hook::TcEgress, 0, CgroupId(0), Owner::NOBODY));
    if !case::read(frame, case) {
        return NEXT;
    }
    if case.protocol == protocol::UDP {
        return datagram(frame, settings, case);
    }
    if case.protocol != protocol::TCP || !case.tcp().opens() {
        return NEXT;
    }
    let Some(option) = packet::seal_option(frame, case.transport, &case.tcp()) else { return NEXT };
    if named_session(&option).is_some() {
        // Written by us at a device above, or by somebody who pretends.
        let ours = frame.is_written() || probes(case, &option);
        return if ours { NEXT } else { blank(frame, case, &option) };
    }
    if !is_ours(&option) {
        return NEXT;
    }
    // A device that leads to containers of this node: the local form is what they are to see.
    let inner = maps::device(frame.device()) == Device::INNER;
    if inner && Bench::open(settings).is_local(&case.tuple.destination) {
        return NEXT;
    }
    match opener(case, &option) {
        Some(record) => seal(frame, settings, case, &option, record),
        None => blank(frame, case, &option),
    }
}

/// Whether the agent itself sends this, to see whether seals arrive: only it knows the key.
#[inline(never)]
fn probes(case: &Case, option: &SealOption) -> bool {
    let key = RouteKey {
        destination: case.tuple.destination,
        source: IdentityId::AGENT,
        port: case.tuple.destination_port,
        protocol: protocol::TCP,
        pad: 0,
    };
    let opening = Opening {
        source: case.tuple.source,
        destination: case.tuple.destination,
        source_port: case.tuple.source_port,
        destination_port: case.tuple.destination_port,
        isn: case.sequence,
    };
    maps::route(&key).is_some_and(|route| {
        route.expires > case.at
            && named_session(option) == Some(route.spi)
            && genuine(option, &route.key, &opening)
    })
}

/// Takes the option away and lets the packet go on.
#[inline(never)]
pub(super) fn blank<const LINK: usize>(frame: &Frame<'_, LINK>, case: &Case, option: &SealOption) -> i32 {
    maps::count(Counter::SealBlanked);
    if frame.blank(case.transport, &case.tcp(), option) { NEXT } else { DROP }
}

/// The record of the socket that opens with this seal. A workload could have written the bytes, or copied them.
#[inline(always)]
fn opener(case: &mut Case, option: &SealOption) -> Option<&'static mut Connection> {
    let Sealed { identity, mac } = verify(maps::seal_key()?, option, case.sequence, case.at)?;
    case.source = identity;
    case.cookie = maps::opening(mac)?;
    let record = maps::connection(case.cookie)?;
    let opening = record.stage == Connection::OPENING && record.seal == mac && record.owner == identity;
    if opening { Some(record) } else { None }
}

/// What is known of the destination decides.
#[inline(never)]
fn seal<const LINK: usize>(
    frame: &Frame<'_, LINK>,
    settings: &Settings,
    case: &mut Case,
    option: &SealOption,
    record: &mut Connection,
) -> i32 {
    let key = RouteKey {
        destination: case.tuple.destination,
        source: case.source,
        port: case.tuple.destination_port,
        protocol: protocol::TCP,
        pad: 0,
    };
    let bench = &Bench::open(settings);
    let route = maps::route(&key);
    let fresh = route.as_ref().is_some_and(|route| route.expires > case.at);
    let session = route.as_ref().is_some_and(|route| route.has_session());
    if !fresh && (session || route.is_none()) && settings.mesh_until > case.at {
        return hold(frame, case, &key);
    }
    match route {
        Some(route) if session && fresh => {
            let other = Other { identity: route.destination, session: route.session, failure: 0 };
            if !allow(bench, case, record, &other) {
                return DROP;
            }
            route.opened += 1;
            maps::count(Counter::WireSealed);
            if write(frame, case, option, route) { NEXT } else { DROP }
        }
        route => {
            let failure = route.map_or(Failure::AgentAway as u16, |route| route.failure.into());
            let other = Other { identity: IdentityId::UNKNOWN, session: 0, failure };
            if !fresh && settings.mesh_until != 0 {
                notice::tell(case, &key, Asks::Renew as u8);
            }
            if !allow(bench, case, record, &other) {
                return DROP;
            }
            blank(frame, case, option)
        }
    }
}

/// Who is at the other end, or why nobody is known.
struct Other {
    identity: IdentityId,
    /// [`Route::session`]
    session: u32,
    /// A [`Failure`] as its byte.
    failure: u16,
}

#[inline(always)]
fn hold<const LINK: usize>(frame: &Frame<'_, LINK>, case: &Case, key: &RouteKey) -> i32 {
    notice::hold(frame, case, key);
    DROP
}

/// Writes the wire seal in the place of the local one.
#[inline(never)]
fn write<const LINK: usize>(
    frame: &Frame<'_, LINK>,
    case: &Case,
    option: &SealOption,
    route: &Route,
) -> bool {
    let opening = Opening {
        source: case.tuple.source,
        destination: case.tuple.destination,
        source_port: case.tuple.source_port,
        destination_port: case.tuple.destination_port,
        isn: case.sequence,
    };
    let wire = wire_seal(&route.key, route.spi, &opening);
    frame.rewrite(case.transport, &case.tcp(), option, &wire)
}

/// The source's rules about whoever is at the other end. Writes into the record what is known now; a denial is told, and
/// the caller gets a reset. `failure` says why nobody is known.
#[inline(never)]
fn allow(bench: &Bench, case: &mut Case, record: &mut Connection, other: &Other) -> bool {
    let known = other.identity.is_workload();
    // By connect(), or for an earlier copy of this SYN.
    let judged = record.session == other.session || record.flags & Connection::JUDGED != 0;
    let again = known
        && judged
        && record.revision == bench.revision
        && record.peer == other.identity
        && record.port == case.tuple.destination_port;
    record.session = other.session;
    record.flags &= (1 << Connection::FAILURE_SHIFT) - 1;
    record.flags |= other.failure << Connection::FAILURE_SHIFT;
    record.flags |= if known { Connection::ANSWERED } else { 0 };
    if again {
        return record.verdict != Verdict::Deny as u8;
    }
    record.peer = if known { other.identity } else { bench.stranger(&record.tuple.destination) };
    record.port = case.tuple.destination_port;
    if !known {
        // The answer to the SYN is then judged as a stranger's once more; nothing is lost by that.
        record.flags &= !Connection::ANSWERED;
    }
    let judged = bench.ask(&Question {
        direction: Direction::Egress,
        subject: record.owner,
        peer: Peer::Known(record.peer),
        peer_address: bench.address(&record.tuple.destination),
        loopback: false,
        protocol: protocol::TCP,
        port: record.port,
    });
    keep(record, bench.revision, judged);
    if judged.verdict.passes() {
        return true;
    }
    deny(bench, case, record, judged, other.failure);
    false
}

/// Tells of a denied SYN in the words of its socket: after translation the caller would not know it.
#[inline(always)]
fn deny(bench: &Bench, case: &mut Case, record: &Connection, judged: Judgement, failure: u16) {
    case.seal = if record.session == 0 { SealState::NoSession } else { SealState::Wire };
    case.session = record.session;
    case.failure = failure;
    case.tuple = record.tuple;
    case.cgroup = record.cgroup;
    case.netns = record.netns;
    case.process = record.process;
    case.destination = record.peer;
    let flags = FlowEvent::REFUSE;
    emit::case(case, &Telling { revision: bench.revision, judged, direction: Direction::Egress, flags });
}

/// A datagram of a flow that goes to another node leaves when the other node has heard of it.
#[inline(never)]
fn datagram<const LINK: usize>(frame: &Frame<'_, LINK>, settings: &Settings, case: &mut Case) -> i32 {
    let Some(flow) = maps::udp_flow(&case.tuple) else { return NEXT };
    if flow.flags & UdpFlow::REMOTE == 0 || settings.mesh_until == 0 {
        return NEXT;
    }
    let key = RouteKey {
        destination: case.tuple.destination,
        source: flow.source,
        port: case.tuple.destination_port,
        protocol: protocol::UDP,
        pad: 0,
    };
    let announced = maps::announced(&case.tuple).filter(|announced| announced.until > case.at);
    let Some(announced) = announced else {
        if settings.mesh_until > case.at {
            notice::hold_datagram(frame, case, &key);
            return DROP;
        }
        return judge_flow(settings, case, flow, None);
    };
    let route = maps::route(&key).map(|route| &*route);
    let route = route.filter(|route| announced.session == 0 || route.session == announced.session);
    judge_flow(settings, case, flow, route)
}

/// Judges a flow once under each policy, with whoever is at the other end, and tells of it.
#[inline(always)]
fn judge_flow(settings: &Settings, case: &mut Case, flow: &mut UdpFlow, route: Option<&Route>) -> i32 {
    let bench = Bench::open(settings);
    let (peer, session, failure) = match route {
        Some(route) => (route.destination, route.session, route.failure),
        None => (IdentityId::UNKNOWN, 0, Failure::Timeout as u8),
    };
    let peer = if peer.is_workload() { peer } else { bench.stranger(&case.tuple.destination) };
    let denied = Verdict::Deny as u8;
    if flow.egress_revision == bench.revision && flow.flags & UdpFlow::TOLD != 0 && flow.destination == peer {
        return if flow.egress_verdict == denied { DROP } else { NEXT };
    }
    case.source = flow.source;
    case.destination = peer;
    case.cgroup = flow.cgroup;
    case.netns = flow.netns;
    case.process = flow.process;
    case.session = session;
    case.failure = u16::from(failure);
    case.seal = if session == 0 { SealState::NoSession } else { SealState::Wire };
    let judged = bench.egress(case, &case.tuple.destination);
    flow.destination = peer;
    flow.egress_revision = bench.revision;
    flow.egress_verdict = judged.verdict as u8;
    flow.reason = judged.reason as u8;
    flow.rule = judged.rule;
    flow.flags |= UdpFlow::TOLD;
    let passes = judged.verdict.passes();
    let flags = if passes { 0 } else { FlowEvent::REFUSE };
    emit::case(case, &Telling { revision: bench.revision, judged, direction: Direction::Egress, flags });
    if passes { NEXT } else { DROP }
}
