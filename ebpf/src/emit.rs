//! Tells the agent what was decided, and counts what could not be told.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use waxseal_common::flow::{FlowEvent, Hook, Kind, SealState};
use waxseal_common::ids::{Revision, protocol};
use waxseal_common::state::{Connection, Counter};
use waxseal_common::verdict::{Direction, Judgement, Verdict};

use crate::case::Case;
use crate::maps;

/// How much may wait in the ring before the agent is woken although it drains by the clock.
const WAKE_BYTES: u64 = 1 << 18;

/// What an event says beside its connection.
pub(crate) struct Telling {
    pub(crate) revision: Revision,
    pub(crate) judged: Judgement,
    pub(crate) direction: Direction,
    /// Those of [`FlowEvent`].
    pub(crate) flags: u8,
}

/// A connection that was judged, from what the hook has gathered.
#[inline(never)]
pub(crate) fn case(case: &Case, telling: &Telling) -> u32 {
    let Telling { revision, judged, direction, flags } = telling;
    if *flags & FlowEvent::SECOND == 0 {
        count(judged.verdict);
    }
    let denial = !judged.verdict.passes();
    let reserved = if denial { maps::DENIALS.reserve(0) } else { maps::FLOWS.reserve(0) };
    let Some(mut entry) = reserved else { return lost(denial) };
    entry.write(FlowEvent {
        at: case.at,
        revision: *revision,
        cookie: case.cookie,
        cgroup: case.cgroup,
        tuple: case.tuple,
        source: case.source,
        destination: case.destination,
        rule: judged.rule,
        netns: case.netns,
        isn: case.sequence,
        process: case.process,
        port: case.tuple.destination_port,
        kind: if denial { Kind::Denied as u8 } else { Kind::Opened as u8 },
        verdict: judged.verdict as u8,
        reason: judged.reason as u8,
        direction: *direction as u8,
        protocol: case.protocol,
        hook: case.hook as u8,
        flags: if case.sealed() { *flags | FlowEvent::SEALED } else { *flags },
        seal: case.seal as u8,
        failure: case.failure,
        session: case.session,
        ..FlowEvent::default()
    });
    entry.submit(wake(denial));
    1
}

/// What a record's event says beside the record itself.
pub(crate) struct Chapter {
    pub(crate) at: u64,
    pub(crate) cookie: u64,
    /// Bytes that the opener sent, and received.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) kind: Kind,
    pub(crate) hook: Hook,
    /// Those of [`FlowEvent`].
    pub(crate) flags: u8,
}

/// How a connection ended, as its socket counted.
pub(crate) struct Ending {
    /// Segments that the socket sent, and received.
    pub(crate) out: u32,
    pub(crate) into: u32,
    pub(crate) retransmits: u32,
    /// Microseconds.
    pub(crate) rtt: u32,
    /// An errno.
    pub(crate) error: u32,
    pub(crate) last_state: u8,
}

/// A connection's record as an event: it opened, it closed, or it is denied by a new policy.
#[inline(never)]
pub(crate) fn record(record: &Connection, chapter: &Chapter, ending: Option<&Ending>) -> u32 {
    let Chapter { at, cookie, sent, received, kind, hook, flags } = chapter;
    let denial = matches!(kind, Kind::Denied);
    if !matches!(kind, Kind::Closed | Kind::Failed) && *flags & FlowEvent::SECOND == 0 {
        count(Verdict::from_byte(record.verdict));
    }
    let reserved = if denial { maps::DENIALS.reserve(0) } else { maps::FLOWS.reserve(0) };
    let Some(mut entry) = reserved else { return lost(denial) };
    let opener = record.opener == 1;
    let sealed = opener || record.peer.is_workload();
    let event = entry.write(FlowEvent {
        at: *at,
        revision: record.revision,
        cookie: *cookie,
        cgroup: record.cgroup,
        bytes_sent: *sent,
        bytes_received: *received,
        duration: at.saturating_sub(record.opened),
        tuple: record.tuple,
        source: if opener { record.owner } else { record.peer },
        destination: if opener { record.peer } else { record.owner },
        rule: record.rule,
        netns: record.netns,
        process: record.process,
        port: record.port,
        kind: *kind as u8,
        verdict: record.verdict,
        reason: record.reason,
        direction: if opener { Direction::Egress as u8 } else { Direction::Ingress as u8 },
        protocol: protocol::TCP,
        hook: *hook as u8,
        flags: if sealed { *flags | FlowEvent::SEALED } else { *flags },
        seal: seal(record) as u8,
        failure: record.flags >> Connection::FAILURE_SHIFT,
        session: record.session,
        ..FlowEvent::default()
    });
    if let Some(ending) = ending {
        event.packets_sent = if opener { ending.out } else { ending.into };
        event.packets_received = if opener { ending.into } else { ending.out };
        event.retransmits = ending.retransmits;
        event.rtt = ending.rtt;
        event.error = ending.error;
        event.last_state = ending.last_state;
    }
    entry.submit(wake(denial));
    1
}

/// How the opener of a recorded connection has proven itself.
#[inline(always)]
fn seal(record: &Connection) -> SealState {
    if record.session != 0 {
        SealState::Wire
    } else if record.flags & Connection::NO_ROOM != 0 {
        SealState::NoRoom
    } else if record.flags & Connection::REMOTE != 0 {
        SealState::NoSession
    } else if record.opener == 1 || record.peer.is_workload() {
        SealState::Local
    } else {
        SealState::None
    }
}

#[inline(always)]
fn count(verdict: Verdict) {
    maps::count(match verdict {
        Verdict::Allow | Verdict::Defer => Counter::Allowed,
        Verdict::WouldDeny | Verdict::Audit => Counter::Reported,
        Verdict::Deny => Counter::Denied,
    });
}

#[inline(always)]
fn lost(denial: bool) -> u32 {
    maps::count(if denial { Counter::DenialsLost } else { Counter::FlowsLost });
    0
}

/// Whether to wake the agent: for a denial the ring's own rule holds, since a caller may be waiting for the refusal. For
/// another event never while the agent drains by the clock, unless much waits.
#[inline(always)]
fn wake(denial: bool) -> u64 {
    if denial || !maps::polling() {
        return 0;
    }
    u64::from(if maps::flows_waiting() > WAKE_BYTES { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}
