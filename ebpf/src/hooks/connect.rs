//! connect4, connect6: the source is asked before a packet exists. A denial is EPERM, in microseconds.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use waxseal_common::flow::{Hook, SealState};
use waxseal_common::ids::{CgroupId, IdentityId, NetnsId, protocol};
use waxseal_common::state::Opener;
use waxseal_common::verdict::{Direction, Judgement, Peer, Question, Reason};
use waxseal_common::wire::Asks;

use super::skb_ingress::stricter;
use crate::case::Case;
use crate::ctx::{self, Call};
use crate::emit;
use crate::judge::{Bench, remote, route_key};
use crate::maps;
use crate::notice;

/// The system call goes on.
const PASS: i32 = 1;
/// The caller gets EPERM.
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    let call = Call(&ctx);
    connect(&call, Hook::Connect4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    let call = Call(&ctx);
    connect(&call, Hook::Connect6)
}

#[inline(always)]
fn connect(call: &Call<'_>, hook: Hook) -> i32 {
    let Some(settings) = maps::settings() else { return REFUSE };
    let owner = crate::owner::of_socket(call.sock());
    if !owner.managed() {
        return PASS;
    }
    let bench = Bench::open(settings);
    let mut case = Case::new(hook, call.cookie(), CgroupId(0), owner);
    case.source = owner.identity();
    case.seal = SealState::Local;
    case.protocol = call.protocol();
    case.process = ctx::current_process();
    case.tuple.destination =
        if matches!(hook, Hook::Connect4) { call.destination4() } else { call.destination6() };
    case.tuple.destination_port = call.port();
    if case.protocol == protocol::UDP {
        let _ = maps::UDP_OPENERS.insert(case.cookie, case.process, maps::REPLACE);
    }
    let (direction, judged) = judge(&bench, call, &mut case);
    if judged.verdict.passes() {
        leave(&bench, &case, judged);
        return PASS;
    }
    case.cgroup = CgroupId(call.sock().directory().id());
    case.netns = NetnsId(call.sock().netns());
    emit::case(&case, &emit::Telling { revision: bench.revision, judged, direction, flags: 0 });
    REFUSE
}

/// Leaves what is known for the hooks that run later in the same system call.
#[inline(always)]
fn leave(bench: &Bench, case: &Case, judged: Judgement) {
    if case.protocol != protocol::UDP {
        maps::leave_opener(&Opener {
            cookie: case.cookie,
            revision: bench.revision,
            process: case.process,
            peer: if case.destination.is_workload() { case.destination } else { IdentityId::UNKNOWN },
            rule: judged.rule,
            verdict: judged.verdict as u8,
            reason: judged.reason as u8,
            pad: [0; 2],
        });
    }
}

/// Who is at the other end on another node. Without a session the SYN decides at the border: the destination may be
/// translated on the way there. The agent hears of it now, so that the handshake is under way when the SYN comes.
#[inline(always)]
fn abroad(bench: &Bench, case: &Case) -> Peer {
    let known = remote(case);
    let identity = IdentityId(known as u32);
    if identity.is_workload() {
        return Peer::Known(identity);
    }
    if known == 0 && case.protocol == protocol::TCP && bench.mesh_until > case.at {
        notice::tell(case, &route_key(case), Asks::Intent as u8);
    }
    Peer::Unresolved
}

/// Both ends, as far as they can be known before the first packet.
#[inline(always)]
fn judge(bench: &Bench, call: &Call<'_>, case: &mut Case) -> (Direction, Judgement) {
    if case.pending {
        return (Direction::Egress, bench.refuse(case.source, Reason::IdentityPending));
    }
    // Connecting to no address means this host (ip(7)).
    let loopback = case.tuple.destination.is_loopback() || case.tuple.destination.is_unspecified();
    let row = bench.address(&case.tuple.destination);
    let peer = match call.listener(&case.tuple.destination, case.tuple.destination_port) {
        Some(listener) if !listener.shared => Peer::Known(listener.owner.identity()),
        None if bench.is_remote(row) => abroad(bench, case),
        None if !row.is_local() && !loopback => Peer::Known(bench.stranger(&case.tuple.destination)),
        _ => Peer::Unresolved,
    };
    let mut question = Question {
        direction: Direction::Egress,
        subject: case.source,
        peer,
        peer_address: row,
        loopback,
        protocol: case.protocol,
        port: case.tuple.destination_port,
    };
    let egress = bench.ask(&question);
    let Peer::Known(other) = peer else { return (Direction::Egress, egress) };
    case.destination = other;
    // What the other node's rules say is the other node's business.
    if !egress.verdict.passes() || !other.is_workload() || bench.is_remote(row) {
        return (Direction::Egress, egress);
    }
    // The source address is not chosen yet; towards an address of this namespace the kernel takes the same one.
    question.direction = Direction::Ingress;
    question.subject = other;
    question.peer = Peer::Known(case.source);
    stricter(egress, bench.ask(&question))
}
