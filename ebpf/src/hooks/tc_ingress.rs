//! tc_ingress: a packet comes in from another node. A true wire seal becomes the local seal of whoever it stands for;
//! whatever is not true is blanked or dropped. A SYN that its listener denies is answered with a reset at once.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waxseal_common::flow::{Hook, SealState};
use waxseal_common::ids::{CgroupId, protocol};
use waxseal_common::packet;
use waxseal_common::seal::{SealOption, is_ours, seal};
use waxseal_common::state::{Counter, Settings};
use waxseal_common::tables::{Subject, Tables as _};
use waxseal_common::verdict::{Direction, Reason};
use waxseal_common::wire::{
    Arrival, Asks, Device, HALF_OPEN_PER_SESSION, Opening, RouteKey, Session, SessionKey, Spi, is_true,
    named_session,
};

use super::tc_egress::{DROP, NEXT, blank};
use crate::case::{self, Case};
use crate::ctx;
use crate::emit::{self, Telling};
use crate::frame::{Frame, Glance};
use crate::judge::{AsOf, Bench};
use crate::maps::{self, Room};
use crate::notice;
use crate::owner::Owner;

const ETHERNET: usize = 14;
const BARE: usize = 0;

#[classifier]
pub(crate) fn tc_ingress(ctx: TcContext) -> i32 {
    enter(&Frame::<ETHERNET>(&ctx))
}

#[classifier]
pub(crate) fn tc_ingress_bare(ctx: TcContext) -> i32 {
    enter(&Frame::<BARE>(&ctx))
}

#[inline(always)]
fn enter<const LINK: usize>(frame: &Frame<'_, LINK>) -> i32 {
    match frame.glance() {
        Glance::Perhaps => look(frame),
        Glance::Nothing | Glance::Datagram => NEXT,
    }
}

#[inline(never)]
fn look<const LINK: usize>(frame: &Frame<'_, LINK>) -> i32 {
    let Some(settings) = maps::settings() else { return DROP };
    if cuts_header(frame) {
        maps::count(Counter::FragmentsDropped);
        return DROP;
    }
    let Some(room) = maps::room(Room::TcIngress) else { return DROP };
    let case = room.write(Case::new(Hook::TcIngress, 0, CgroupId(0), Owner::NOBODY));
    if !case::read(frame, case) || case.protocol != protocol::TCP || !case.tcp().opens() {
        return NEXT;
    }
    if let Some(option) = packet::seal_option(frame, case.transport, &case.tcp()) {
        let verdict = match named_session(&option) {
            Some(spi) => check(frame, settings, case, &option, spi),
            None if is_ours(&option) => local_form(frame, case, &option),
            None => NEXT,
        };
        if verdict != NEXT {
            return verdict;
        }
    }
    refuse(frame, settings, case)
}

/// Whether a fragment cuts a TCP header in two, so that nobody at this border can read its flags or its options. No
/// sender does that for good reasons (RFC 1858, RFC 3128).
#[inline(always)]
fn cuts_header<const LINK: usize>(frame: &Frame<'_, LINK>) -> bool {
    packet::cuts_tcp_header(frame)
}

/// A seal of this node's own kind, from outside: a copy or a forgery, whatever its MAC. On a device that leads to
/// containers of this node it may be true, and their listener checks it.
#[inline(never)]
fn local_form<const LINK: usize>(frame: &Frame<'_, LINK>, case: &Case, option: &SealOption) -> i32 {
    if frame.is_written() || maps::device(frame.device()) == Device::INNER {
        NEXT
    } else {
        blank(frame, case, option)
    }
}

/// A seal that names one of our sessions.
#[inline(never)]
fn check<const LINK: usize>(
    frame: &Frame<'_, LINK>,
    settings: &Settings,
    case: &mut Case,
    option: &SealOption,
    spi: Spi,
) -> i32 {
    case.session = spi.0;
    let Some(session) = maps::session(spi) else {
        maps::count(Counter::WireUnknown);
        return unknown(settings, case);
    };
    let opening = Opening {
        source: case.tuple.source,
        destination: case.tuple.destination,
        source_port: case.tuple.source_port,
        destination_port: case.tuple.destination_port,
        isn: case.sequence,
    };
    if !genuine(option, &session.key, &opening) {
        // Also what a device does that rewrites sequence numbers and keeps the option.
        session.forged += 1;
        maps::count(Counter::WireForged);
        case.seal = SealState::Forged;
        return blank(frame, case, option);
    }
    if session.expires <= case.at {
        maps::count(Counter::WireExpired);
        return unknown(settings, case);
    }
    take_in(frame, case, option, session)
}

/// A function of its own for the sake of the stack.
#[inline(never)]
pub(super) fn genuine(option: &SealOption, key: &SessionKey, opening: &Opening) -> bool {
    is_true(option, key, opening)
}

/// No reply and no state: the sender's kernel sends again in a second, and by then its agent has heard of it.
#[inline(never)]
fn unknown(settings: &Settings, case: &Case) -> i32 {
    if settings.mesh_until > case.at && maps::may_tell(case.at) {
        let about =
            RouteKey { destination: case.tuple.source, port: case.tuple.source_port, ..RouteKey::default() };
        notice::tell(case, &about, Asks::UnknownSession as u8);
    }
    DROP
}

/// A true seal: from here on it is a local one.
#[inline(never)]
fn take_in<const LINK: usize>(
    frame: &Frame<'_, LINK>,
    case: &mut Case,
    option: &SealOption,
    session: &mut Session,
) -> i32 {
    let Some(key) = maps::seal_key() else { return DROP };
    let (local, mac) = seal(key, session.source, case.sequence, case.at);
    if maps::arrival(mac).is_none() {
        // A peer that floods fills its own share.
        if session.half_open >= HALF_OPEN_PER_SESSION {
            maps::count(Counter::HalfOpenFull);
            return DROP;
        }
        let arrival = Arrival {
            at: case.at,
            listener: 0,
            spi: Spi(case.session),
            source: session.source,
            destination: session.destination,
            pad: 0,
        };
        if maps::ARRIVALS.insert(mac, &arrival, maps::KEEP).is_err() {
            maps::count(Counter::TableFull);
            return DROP;
        }
        session.half_open += 1;
        session.opened += 1;
        maps::count(Counter::WireTrue);
    }
    case.source = session.source;
    case.seal = SealState::Wire;
    case.destination = session.destination;
    if frame.rewrite(case.transport, &case.tcp(), option, &local) { NEXT } else { DROP }
}

/// Asks the listener's rules already here, where a reset can be given: the listener's own hook can only be silent. What
/// is not certain here goes on to that hook.
#[inline(never)]
fn refuse<const LINK: usize>(frame: &Frame<'_, LINK>, settings: &Settings, case: &mut Case) -> i32 {
    let expected = case.destination;
    let here = frame.arrives_here(case);
    let port = case.tuple.destination_port;
    let listener = ctx::listener(frame.context(), protocol::TCP, &case.tuple.destination, port, here);
    let Some(listener) = listener else { return NEXT };
    if listener.shared || !listener.owner.managed() {
        return NEXT;
    }
    let bench = Bench::open(settings);
    case.pending = listener.owner.pending();
    case.destination = listener.owner.identity();
    if !case.sealed() {
        case.source = bench.stranger(&case.tuple.source);
    }
    let judged = if expected.is_workload() && expected != case.destination {
        bench.refuse(case.destination, Reason::WrongDestination)
    } else {
        bench.ingress(case)
    };
    if judged.verdict.passes() {
        return NEXT;
    }
    let silent = AsOf(bench.revision)
        .subject(case.destination, Direction::Ingress)
        .is_some_and(|subject| subject.has(Subject::REFUSE_SILENTLY));
    if !silent && !frame.can_answer(case) {
        return NEXT;
    }
    case.netns = settings.netns;
    emit::case(case, &Telling { revision: bench.revision, judged, direction: Direction::Ingress, flags: 0 });
    if silent {
        return DROP;
    }
    maps::count(Counter::RefusedAtBorder);
    frame.answer(case)
}
