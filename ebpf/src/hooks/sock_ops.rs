//! sock_ops: writes the seal into the SYN, keeps the record of each connection, and tells when it opens and closes.

use aya_ebpf::macros::sock_ops as program;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::{debug, warn};
use waxseal_common::flow::{FlowEvent, Hook, Kind};
use waxseal_common::ids::{CgroupId, IdentityId, NetnsId, Revision};
use waxseal_common::seal::{OPTION_LENGTH, seal};
use waxseal_common::state::{Connection, Counter};
use waxseal_common::verdict::Verdict;
use waxseal_common::wire::Spi;

use crate::callback::Callback;
use crate::ctx;
use crate::emit::{self, Chapter};
use crate::judge::Bench;
use crate::kernel::{Directory, Sock};
use crate::maps;
use crate::owner::{self, Owner};

// Callbacks (include/uapi/linux/bpf.h, BPF_SOCK_OPS_*).
const CONNECT: u32 = 3;
const OPENED: u32 = 4;
const ACCEPTED: u32 = 5;
const STATE: u32 = 10;
const OPTION_LENGTH_ASKED: u32 = 14;
const OPTION_WRITE: u32 = 15;
// What to be called for (BPF_SOCK_OPS_*_CB_FLAG).
const CALL_ON_STATE: u32 = 1 << 2;
const CALL_ON_WRITE: u32 = 1 << 6;
const STATE_CLOSED: u32 = 7;
/// The return value says nothing here; callbacks with an answer give it through the context.
const DONE: u32 = 1;

#[program]
pub(crate) fn sock_ops(ctx: SockOpsContext) -> u32 {
    let callback = Callback(&ctx);
    match callback.op() {
        CONNECT => connect(&callback),
        OPTION_LENGTH_ASKED => reserve(&callback),
        OPTION_WRITE => write(&callback),
        OPENED => opened(&callback),
        ACCEPTED => accepted(&callback),
        STATE if callback.new_state() == STATE_CLOSED => closed(&callback),
        _ => DONE,
    }
}

/// The SYN is about to be made: a workload gets a record, and whoever can be named gets a seal, where one can matter.
#[inline(never)]
fn connect(callback: &Callback<'_>) -> u32 {
    let Some(settings) = maps::settings() else { return DONE };
    let bench = Bench::open(settings);
    let sock = callback.sock();
    let directory = sock.directory();
    let owner = owner::of_directory(directory);
    if owner.identity() == IdentityId::UNKNOWN {
        return DONE;
    }
    let mut record =
        Connection { revision: bench.revision, stage: Connection::OPENING, opener: 1, ..empty() };
    callback.read_opened(&mut record.tuple);
    // A seal that leaves this node becomes another one at the border, and only a workload has a session to make it with.
    let row = bench.address(&record.tuple.destination);
    let local = record.tuple.destination.is_loopback() || row.is_local();
    let remote = bench.is_remote(row) && owner.identity().is_workload();
    let mut flags = if local || remote { CALL_ON_WRITE } else { 0 };
    if owner.identity().is_workload() {
        record.flags = if local { Connection::SEALS } else { 0 };
        record.flags |= if remote { Connection::REMOTE } else { 0 };
        let cookie = callback.cookie();
        own(&mut record, sock, directory, owner);
        if let Some(opener) = maps::opener(cookie) {
            record.process = opener.process;
            if opener.peer.is_workload() && opener.revision == bench.revision {
                record.peer = opener.peer;
                record.rule = opener.rule;
                record.verdict = opener.verdict;
                record.reason = opener.reason;
                record.flags |= Connection::JUDGED;
            }
        }
        record.port = record.tuple.destination_port;
        // Without a record the answer to the SYN is denied: full means refused, not forgotten.
        if maps::CONNECTIONS.insert(cookie, &record, maps::REPLACE).is_err() {
            table_full(callback);
        }
        flags |= CALL_ON_STATE;
    }
    if flags != 0 {
        callback.ask_for(flags);
    }
    DONE
}

/// Not inlined: what the message takes of the stack, it takes only here.
#[inline(never)]
fn table_full(callback: &Callback<'_>) -> u32 {
    maps::count(Counter::TableFull);
    warn!(
        callback.0,
        "the table of connections is full; a connection of cookie {} is refused",
        callback.cookie()
    );
    DONE
}

#[inline(always)]
fn empty() -> Connection {
    Connection { opened: ctx::now(), ..Connection::default() }
}

#[inline(always)]
fn own(record: &mut Connection, sock: Sock, directory: Directory, owner: Owner) {
    record.cgroup = CgroupId(directory.id());
    record.owner = owner.identity();
    record.netns = NetnsId(sock.netns());
}

#[inline(always)]
fn opens(callback: &Callback<'_>) -> bool {
    callback.segment_flags() & 0x12 == 0x02
}

#[inline(never)]
fn reserve(callback: &Callback<'_>) -> u32 {
    if opens(callback) && !callback.reserve(u32::from(OPTION_LENGTH)) {
        maps::count(Counter::SealNoRoom);
        debug!(callback.0, "a SYN has no room for its seal");
        if let Some(record) = maps::connection(callback.cookie()) {
            record.flags |= Connection::NO_ROOM;
        }
    }
    DONE
}

/// Seals the SYN. Runs again for each retransmission, with the same sequence number and perhaps another minute.
#[inline(never)]
fn write(callback: &Callback<'_>) -> u32 {
    if !opens(callback) {
        return DONE;
    }
    let Some(key) = maps::seal_key() else { return DONE };
    let Some(isn) = callback.sequence() else { return DONE };
    let cookie = callback.cookie();
    let record = maps::connection(cookie);
    let identity = match &record {
        Some(record) => record.owner,
        None => owner::of_socket(callback.sock()).identity(),
    };
    let (option, mac) = seal(key, identity, isn, ctx::now());
    if !callback.write(&option) {
        maps::count(Counter::SealNoRoom);
        return DONE;
    }
    maps::count(Counter::Sealed);
    if let Some(record) = record
        && record.seal != mac
    {
        forget_opening(record);
        record.flags &= !Connection::NO_ROOM;
        record.seal = mac;
        // Should this fail, the listener's hook takes the seal for a copy.
        if maps::OPENINGS.insert(mac, cookie, maps::REPLACE).is_err() {
            maps::count(Counter::TableFull);
        }
    }
    DONE
}

#[inline(always)]
fn forget_opening(record: &mut Connection) {
    if record.seal != 0 {
        let _ = maps::OPENINGS.remove(record.seal);
        record.seal = 0;
    }
}

/// Established at the opener; skb_ingress has judged the SYN-ACK.
#[inline(never)]
fn opened(callback: &Callback<'_>) -> u32 {
    let cookie = callback.cookie();
    let Some(record) = maps::connection(cookie) else {
        callback.ask_for(0);
        return DONE;
    };
    callback.ask_for(CALL_ON_STATE);
    forget_opening(record);
    tell(record, cookie, 0);
    DONE
}

#[inline(always)]
fn tell(record: &Connection, cookie: u64, flags: u8) {
    emit::record(
        record,
        &Chapter {
            at: ctx::now(),
            cookie,
            sent: 0,
            received: 0,
            kind: Kind::Opened,
            hook: Hook::SockOps,
            flags,
        },
        None,
    );
}

/// Established at the acceptor: what the SYN proved becomes the new socket's record.
#[inline(never)]
fn accepted(callback: &Callback<'_>) -> u32 {
    let sock = callback.sock();
    let directory = sock.directory();
    let owner = owner::of_directory(directory);
    if !owner.identity().is_workload() {
        return DONE;
    }
    let cookie = callback.cookie();
    let mut record = Connection { stage: Connection::OPEN, ..empty() };
    own(&mut record, sock, directory, owner);
    callback.read_accepted(&mut record.tuple);
    record.tuple.netns = record.netns;
    record.port = record.tuple.destination_port;
    let proven = prove(&mut record);
    if maps::CONNECTIONS.insert(cookie, &record, maps::REPLACE).is_err() {
        return table_full(callback);
    }
    callback.ask_for(CALL_ON_STATE);
    // An opener on this node tells of the connection itself; two lines for one help nobody.
    if !proven {
        tell(&record, cookie, 0);
    } else if maps::both_ends() {
        tell(&record, cookie, FlowEvent::SECOND);
    }
    DONE
}

/// Takes over what the listener's hook has found out about the SYN, or judges a source that showed no seal. `true` when
/// the opener is a workload of this node.
#[inline(always)]
fn prove(record: &mut Connection) -> bool {
    let pending = maps::pending(&record.tuple).filter(|pending| pending.destination == record.owner);
    let Some(pending) = pending else {
        let Some(settings) = maps::settings() else { return false };
        let bench = Bench::open(settings);
        record.peer = bench.stranger(&record.tuple.source);
        let judged = bench.again(record);
        keep(record, bench.revision, judged);
        return false;
    };
    record.revision = pending.revision;
    record.peer = pending.source;
    record.verdict = pending.verdict;
    record.reason = pending.reason;
    record.rule = pending.rule;
    record.session = pending.session.0;
    let local = pending.opener != 0 && pending.session.0 == 0;
    record.flags = if local { Connection::ANSWERED } else { 0 };
    let _ = maps::PENDING.remove(record.tuple);
    if pending.session.0 != 0 {
        arrived(pending.opener, pending.session);
    }
    local
}

/// An opening from another node has found its listener.
#[inline(never)]
fn arrived(mac: u64, spi: Spi) -> u32 {
    if maps::ARRIVALS.remove(mac).is_ok()
        && let Some(session) = maps::session(spi)
    {
        session.half_open = session.half_open.saturating_sub(1);
    }
    0
}

/// Writes a judgement into a record.
#[inline(always)]
pub(super) fn keep(record: &mut Connection, revision: Revision, judged: waxseal_common::verdict::Judgement) {
    record.revision = revision;
    record.verdict = judged.verdict as u8;
    record.reason = judged.reason as u8;
    record.rule = judged.rule;
}

/// The socket is gone.
#[inline(never)]
fn closed(callback: &Callback<'_>) -> u32 {
    let cookie = callback.cookie();
    let Some(record) = maps::connection(cookie) else { return DONE };
    forget_opening(record);
    let opener = record.opener == 1;
    let open = record.stage == Connection::OPEN;
    // Whoever was denied has been told of already.
    let failed = !open && Verdict::from_byte(record.verdict).passes();
    let second = !opener && record.flags & Connection::ANSWERED != 0;
    let tells = if opener { open || failed } else { !second || maps::both_ends() };
    if tells {
        let ending = callback.ending();
        let (acknowledged, received) = callback.bytes(opener, &ending);
        let (sent, received) = if opener { (acknowledged, received) } else { (received, acknowledged) };
        emit::record(
            record,
            &Chapter {
                at: ctx::now(),
                cookie,
                sent,
                received,
                kind: if open { Kind::Closed } else { Kind::Failed },
                hook: Hook::SockOps,
                flags: if second { FlowEvent::SECOND } else { 0 },
            },
            Some(&ending),
        );
    }
    let _ = maps::CONNECTIONS.remove(cookie);
    DONE
}
