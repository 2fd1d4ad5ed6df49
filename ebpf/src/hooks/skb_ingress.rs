//! skb_ingress: a packet has reached a socket. The listener's hook is where both ends are known; the opener's hook judges
//! the answer. An established connection costs one look-up.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use waxseal_common::flow::{FlowEvent, Hook, Kind, SealState};
use waxseal_common::ids::{IdentityId, protocol};
use waxseal_common::packet;
use waxseal_common::state::{Connection, Counter, Pending};
use waxseal_common::tables::{Subject, Tables as _};
use waxseal_common::verdict::{Direction, Judgement, Reason, Verdict};
use waxseal_common::wire::Spi;

use super::sock_ops::keep;
use super::{stateless, udp};
use crate::case::{self, Case};
use crate::ctx;
use crate::emit::{self, Chapter, Telling};
use crate::judge::{AsOf, Bench};
use crate::maps::{self, Room};
use crate::owner::Owner;
use crate::packet::Packet;

/// The packet goes on to the socket.
pub(super) const PASS: i32 = 1;
/// The packet is dropped.
pub(super) const DROP: i32 = 0;

const LISTENING: u32 = 10;
pub(super) const RAW: u32 = 3;

#[cgroup_skb]
pub(crate) fn skb_ingress(ctx: SkBuffContext) -> i32 {
    let packet = Packet(&ctx);
    let Some(settings) = maps::settings() else { return DROP };
    let cookie = packet.cookie();
    if let Some(record) = maps::connection(cookie) {
        if record.stage == Connection::OPEN && record.revision == settings.revision {
            return if record.verdict == Verdict::Deny as u8 { reset_only(&packet) } else { PASS };
        }
        let bench = Bench::open(settings);
        if record.stage == Connection::OPENING {
            return answered(&packet, &bench, cookie, record);
        }
        return again(&packet, &bench, cookie, record, Hook::SkbIngress);
    }
    unrecorded(&packet, &Bench::open(settings), cookie)
}

/// An open connection under a policy that has changed since it was judged.
#[inline(never)]
pub(super) fn again(
    packet: &Packet<'_>,
    bench: &Bench,
    cookie: u64,
    record: &mut Connection,
    hook: Hook,
) -> i32 {
    // The owner's identity may have changed with the policy.
    if let Some(endpoint) = maps::endpoint(record.cgroup) {
        record.owner = endpoint.identity;
    }
    let before = record.verdict;
    let judged = if record.owner == IdentityId::UNKNOWN {
        bench.refuse(record.owner, Reason::IdentityPending)
    } else {
        bench.again(record)
    };
    keep(record, bench.revision, judged);
    if judged.verdict.passes() {
        return PASS;
    }
    if before != Verdict::Deny as u8 {
        end(record, cookie, hook);
    }
    reset_only(packet)
}

/// What still passes on a denied connection: the reset that ends it, so that the other end need not wait for a timeout.
#[inline(never)]
pub(super) fn reset_only(packet: &Packet<'_>) -> i32 {
    let Ok(ip) = packet::ip(packet) else { return DROP };
    match packet::tcp(packet, ip.transport) {
        Ok(tcp) if tcp.resets() => PASS,
        _ => DROP,
    }
}

/// Tells the agent to end the socket.
#[inline(always)]
fn end(record: &Connection, cookie: u64, hook: Hook) {
    let flags = FlowEvent::DESTROY;
    emit::record(
        record,
        &Chapter { at: ctx::now(), cookie, sent: 0, received: 0, kind: Kind::Denied, hook, flags },
        None,
    );
}

/// The answer to our SYN: who answers is known by now, or will never be.
#[inline(never)]
fn answered(packet: &Packet<'_>, bench: &Bench, cookie: u64, record: &mut Connection) -> i32 {
    let mut case = Case::new(Hook::SkbIngress, cookie, record.cgroup, Owner::NOBODY);
    if !case::read(packet, &mut case) {
        return DROP;
    }
    if case.tcp().resets() {
        return PASS;
    }
    // Two openers who meet have no listener to judge them.
    if case.tcp().opens() {
        return DROP;
    }
    // A segment without SYN opens nothing: TCP answers a stale one with a reset, which clears what is left of an older
    // connection at the other end. Without it this socket would wait for that to be forgotten, a minute.
    if !case.tcp().answers() {
        return PASS;
    }
    let answered = record.flags & Connection::ANSWERED != 0;
    if !answered {
        record.peer = bench.stranger(&record.tuple.destination);
    }
    if !answered || record.revision != bench.revision {
        let judged = bench.again(record);
        keep(record, bench.revision, judged);
    }
    if record.verdict != Verdict::Deny as u8 {
        record.stage = Connection::OPEN;
        return PASS;
    }
    end(record, cookie, Hook::SkbIngress);
    DROP
}

/// A socket without a record: a listener, a datagram or raw socket, somebody unmanaged, or a connection older than we.
#[inline(always)]
fn unrecorded(packet: &Packet<'_>, bench: &Bench, cookie: u64) -> i32 {
    let Some(socket) = packet.socket() else { return PASS };
    let owner = packet.owner();
    let managed = owner.managed();
    if socket.kind == RAW {
        return if managed { stateless::ingress(packet, bench, cookie, owner) } else { PASS };
    }
    match socket.protocol {
        protocol::TCP if socket.state == LISTENING => listener(packet, bench, cookie, owner),
        protocol::TCP if !managed => PASS,
        protocol::TCP => older_than_we(bench, owner),
        protocol::UDP => udp::ingress(packet, bench, cookie, owner),
        _ if managed => stateless::ingress(packet, bench, cookie, owner),
        _ => PASS,
    }
}

/// A connection that has no record: it is older than the programs, or its table was full. It passes for a
/// short grace after the first start and is cut then.
#[inline(never)]
pub(super) fn older_than_we(bench: &Bench, owner: Owner) -> i32 {
    if ctx::now() < bench.grace_until || !bound(bench, owner) {
        return PASS;
    }
    maps::count(Counter::NoRecord);
    if bench.refuse(owner.identity(), Reason::NoRecord).verdict.passes() { PASS } else { DROP }
}

/// Whether any policy binds the owner, so that an unrecorded connection could be one that it denies.
#[inline(always)]
fn bound(bench: &Bench, owner: Owner) -> bool {
    owner.pending()
        || AsOf(bench.revision).identity(owner.identity()).is_none_or(|row| {
            row.ingress.set | row.egress.set != 0
                || (row.ingress.flags | row.egress.flags) & Subject::DENY_BY_DEFAULT != 0
        })
}

#[inline(never)]
fn listener(packet: &Packet<'_>, bench: &Bench, cookie: u64, owner: Owner) -> i32 {
    let managed = owner.managed();
    let Some(room) = maps::room(Room::Listener) else { return DROP };
    let case = room.write(Case::new(Hook::SkbIngress, cookie, packet.cgroup(), owner));
    if !case::read(packet, case) || case.protocol != protocol::TCP {
        if !managed {
            return PASS;
        }
        maps::count(Counter::Unparsable);
        return if bench.refuse(owner.identity(), Reason::Unparsable).verdict.passes() { PASS } else { DROP };
    }
    case.destination = owner.identity();
    case.netns = packet.netns();
    case.tuple.netns = case.netns;
    if !case.tcp().opens() {
        return if managed { later(bench, case) } else { PASS };
    }
    let mac = case::read_seal(packet, case);
    let opener = opener(case, mac);
    if case.source.is_workload() && opener.is_none() && !arrives(case, mac) {
        // A true seal that no connection of ours is opening with: a copy.
        maps::count(Counter::SealForged);
        case.seal = SealState::None;
    }
    if !managed && opener.is_none() {
        return PASS;
    }
    if !case.sealed() {
        case.source = bench.stranger(&case.tuple.source);
    }
    syn(bench, case, opener, mac)
}

/// The record of the socket that opens with this seal, while it waits for its answer, and from this listener if any has
/// answered yet: whoever copies a seal off the wire or out of a saved SYN convinces nobody with it.
#[inline(always)]
fn opener(case: &Case, mac: u64) -> Option<&'static mut Connection> {
    if mac == 0 {
        return None;
    }
    let record = maps::connection(maps::opening(mac)?)?;
    let first = record.flags & Connection::ANSWERED == 0 || record.listener == case.cookie;
    if record.stage == Connection::OPENING && record.seal == mac && first { Some(record) } else { None }
}

/// Whether the border has found this opening to be another node's, and no other listener has answered it. Leaves the
/// session in the case, and the workload that the opener believes to talk to as the destination, if it is another one.
#[inline(never)]
fn arrives(case: &mut Case, mac: u64) -> bool {
    let Some(arrival) = maps::arrival(mac) else { return false };
    if arrival.source != case.source || (arrival.listener != 0 && arrival.listener != case.cookie) {
        return false;
    }
    arrival.listener = case.cookie;
    case.seal = SealState::Wire;
    case.session = arrival.spi.0;
    case.mistaken = arrival.destination.is_workload() && arrival.destination != case.destination;
    true
}

/// A SYN at its listener: the one place where both ends are known, so both are judged here.
#[inline(always)]
fn syn(bench: &Bench, case: &mut Case, opener: Option<&'static mut Connection>, mac: u64) -> i32 {
    let known = opener.as_ref().and_then(|opener| judged_by_connect(bench, case, opener));
    let (direction, mut judged) = match known {
        Some(judged) => (Direction::Egress, judged),
        None => judge_syn(bench, case, opener.as_deref()),
    };
    if judged.verdict.passes() && case.sealed() && case.destination.is_workload() {
        let pending = Pending {
            at: case.at,
            revision: bench.revision,
            opener: if opener.is_some() || case.session != 0 { mac } else { 0 },
            source: case.source,
            destination: case.destination,
            rule: judged.rule,
            verdict: judged.verdict as u8,
            reason: judged.reason as u8,
            pad: [0; 2],
            session: Spi(case.session),
            tail: 0,
        };
        if maps::PENDING.insert(case.tuple, &pending, maps::REPLACE).is_err() {
            maps::count(Counter::TableFull);
            judged = bench.refuse(case.destination, Reason::TableFull);
        }
    }
    if let Some(opener) = opener {
        opener.peer = case.destination;
        opener.port = case.tuple.destination_port;
        // What connect() said counts for the first SYN; a retransmission is asked anew.
        opener.flags = (opener.flags | Connection::ANSWERED) & !Connection::JUDGED;
        opener.listener = case.cookie;
        keep(opener, bench.revision, judged);
        case.process = opener.process;
    }
    if judged.verdict.passes() {
        return PASS;
    }
    let flags = refusal(bench, case, direction);
    emit::case(case, &Telling { revision: bench.revision, judged, direction, flags });
    DROP
}

/// What connect() has found out about this very connection, under this revision: both ends, one address, one port. An
/// address that was translated on the way, or a source address of its own, asks again.
#[inline(always)]
fn judged_by_connect(bench: &Bench, case: &Case, opener: &Connection) -> Option<Judgement> {
    let same = opener.flags & Connection::JUDGED != 0
        && opener.revision == bench.revision
        && opener.peer == case.destination
        && opener.port == case.tuple.destination_port
        && opener.tuple.destination == case.tuple.destination
        && case.tuple.source == case.tuple.destination
        && !case.pending;
    if !same {
        return None;
    }
    Some(Judgement {
        verdict: Verdict::from_byte(opener.verdict),
        reason: Reason::from_byte(opener.reason).unwrap_or(Reason::NoRuleMatches),
        rule: opener.rule,
    })
}

#[inline(always)]
fn judge_syn(bench: &Bench, case: &Case, opener: Option<&Connection>) -> (Direction, Judgement) {
    if case.mistaken {
        return (Direction::Ingress, bench.refuse(case.destination, Reason::WrongDestination));
    }
    // What a workload of another node may open is that node's business.
    let egress = if case.source.is_workload() && case.session == 0 {
        let dialled = opener.map_or(&case.tuple.destination, |opener| &opener.tuple.destination);
        bench.egress(case, dialled)
    } else {
        Judgement::without_rule(Verdict::Allow, Reason::NotAWorkload)
    };
    stricter(egress, bench.ingress(case))
}

/// Whether the caller is told: [`FlowEvent::REFUSE`], unless the namespace of the workload wants its callers left in the
/// dark.
#[inline(never)]
pub(super) fn refusal(bench: &Bench, case: &Case, direction: Direction) -> u8 {
    let silent = matches!(direction, Direction::Ingress)
        && AsOf(bench.revision)
            .subject(case.destination, Direction::Ingress)
            .is_some_and(|subject| subject.has(Subject::REFUSE_SILENTLY));
    if silent { 0 } else { FlowEvent::REFUSE }
}

/// Of the two ends' judgements the stricter one, and whose it is; of two allows the one that a rule made, so that the
/// line names it.
#[inline(always)]
pub(super) fn stricter(egress: Judgement, ingress: Judgement) -> (Direction, Judgement) {
    let inward = ingress.verdict as u8 > egress.verdict as u8
        || (egress.verdict as u8 == Verdict::Allow as u8 && ingress.reason as u8 == Reason::AllowRule as u8);
    if inward { (Direction::Ingress, ingress) } else { (Direction::Egress, egress) }
}

/// A segment at the listener that opens nothing: the ACK that completes a handshake, or one that pretends to (SYN
/// cookies make the kernel believe it). Only an allowed SYN, or a source that needs no seal, may complete.
#[inline(always)]
fn later(bench: &Bench, case: &mut Case) -> i32 {
    match maps::pending(&case.tuple) {
        Some(pending)
            if pending.revision == bench.revision
                && pending.destination == case.destination
                && pending.verdict != Verdict::Deny as u8 =>
        {
            return PASS;
        }
        Some(pending) => case.source = pending.source,
        None => case.source = bench.stranger(&case.tuple.source),
    }
    if bench.ingress(case).verdict.passes() {
        return PASS;
    }
    // No event: nobody has proven anything, and a flood of these must not hide the denials that matter.
    maps::count(Counter::NoRecord);
    DROP
}
