//! From what a hook has gathered to a verdict: the maps as [`Tables`], and the questions that several hooks ask.
//!
//! The functions that are not inlined have a stack frame of their own: the 512 bytes of a program are soon spent. Their
//! answer travels packed in the one register that a BPF function can return.

use core::hint::black_box;

use waxseal_common::address::Address;
use waxseal_common::ids::{IdentityId, Revision, RuleId, protocol};
use waxseal_common::state::{Connection, Settings};
use waxseal_common::tables::{
    AddressRow, IdentityRow, Mode, Outcome, PortSet, RowKey, Subject, Tables, Versioned as _,
};
use waxseal_common::verdict::{Direction, Judgement, Peer, Question, Reason, Verdict, decide, under_mode};
use waxseal_common::wire::RouteKey;

use crate::case::Case;
use crate::maps;

/// The revision and the mode under which one program run judges. Read once, so that a verdict is made under one revision.
#[derive(Clone, Copy)]
pub(crate) struct Bench {
    /// The revision in force when the run began.
    pub(crate) revision: Revision,
    /// Monotonic nanoseconds until which unrecorded connections pass.
    pub(crate) grace_until: u64,
    /// The node's ceiling, as its byte: whoever needs the mode makes it, so that the verifier need not walk the whole
    /// program once for each of the three.
    ceiling: u8,
    /// The mode of cgroups that are to be workloads and are not yet, as its byte.
    mode: u8,
    /// [`Settings::mesh_until`].
    pub(crate) mesh_until: u64,
}

impl Bench {
    /// Reads the settings.
    #[inline(always)]
    pub(crate) fn open(settings: &Settings) -> Self {
        Self {
            revision: settings.revision,
            ceiling: settings.mode_ceiling,
            grace_until: settings.grace_until,
            mode: settings.mode,
            mesh_until: settings.mesh_until,
        }
    }

    /// What the tables say about an address.
    #[inline(always)]
    pub(crate) fn address(&self, address: &Address) -> AddressRow {
        let packed = look_up_address(address, self.revision.0);
        AddressRow { class: packed as u32, flags: (packed >> 32) as u32 }
    }

    /// Whether an address is this node's own.
    #[inline(always)]
    pub(crate) fn is_local(&self, address: &Address) -> bool {
        address.is_loopback() || self.address(address).is_local()
    }

    /// Whether a workload of another node may live at an address, so that a seal can matter there.
    #[inline(always)]
    pub(crate) fn is_remote(&self, row: AddressRow) -> bool {
        self.mesh_until != 0 && row.in_mesh() && !row.is_local()
    }

    /// Whether a workload may live at an address.
    #[inline(always)]
    pub(crate) fn may_be_ours(&self, address: &Address) -> bool {
        address.is_loopback() || self.address(address).in_mesh()
    }

    /// A denial that no rule took part in, under the stricter mode of its two directions.
    #[inline(always)]
    pub(crate) fn refuse(&self, identity: IdentityId, reason: Reason) -> Judgement {
        unpack(refuse(self, identity.0, reason as u8))
    }

    /// Asks.
    #[inline(always)]
    pub(crate) fn ask(&self, question: &Question) -> Judgement {
        unpack(ask(self, question))
    }

    /// Who somebody is that shows no seal, by the address alone.
    #[inline(always)]
    pub(crate) fn stranger(&self, address: &Address) -> IdentityId {
        if self.may_be_ours(address) { IdentityId::UNKNOWN } else { IdentityId::WORLD }
    }

    /// What the destination's rules say of the case.
    #[inline(always)]
    pub(crate) fn ingress(&self, case: &Case) -> Judgement {
        if case.pending {
            self.refuse(case.destination, Reason::IdentityPending)
        } else {
            unpack(ingress(self, case))
        }
    }

    /// What the source's rules say of the case, where the destination is known. `dialled` is the address that the source
    /// asked for.
    #[inline(always)]
    pub(crate) fn egress(&self, case: &Case, dialled: &Address) -> Judgement {
        unpack(egress(self, case, dialled))
    }

    /// Judges an open connection again, from its record.
    #[inline(always)]
    pub(crate) fn again(&self, record: &Connection) -> Judgement {
        unpack(again(self, record))
    }
}

/// Hands a question over as four numbers.
#[inline(always)]
fn ask(bench: &Bench, question: &Question) -> u64 {
    let Question { direction, subject, peer, peer_address, loopback, protocol, port } = *question;
    let (peer, unresolved) = match peer {
        Peer::Known(peer) => (peer.0, 0),
        Peer::Unresolved => (0, 1),
    };
    let AddressRow { class, flags } = peer_address;
    let what = u64::from(port)
        | u64::from(protocol) << 16
        | (direction as u64) << 24
        | unresolved << 25
        | u64::from(loopback) << 26
        | u64::from(bench.ceiling) << 32;
    let who = u64::from(subject.0) << 32 | u64::from(peer);
    waxseal_answer(what, who, u64::from(class) << 32 | u64::from(flags), bench.revision.0)
}

/// The one copy of `decide`. Global and with nothing but numbers for arguments, so that the verifier walks through it once
/// for each program and not once for each call, and with a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn waxseal_answer(what: u64, who: u64, address: u64, revision: u64) -> u64 {
    let tables = AsOf(Revision(revision));
    let question = Question {
        direction: if what & 1 << 24 == 0 { Direction::Ingress } else { Direction::Egress },
        subject: IdentityId((who >> 32) as u32),
        peer: if what & 1 << 25 == 0 { Peer::Known(IdentityId(who as u32)) } else { Peer::Unresolved },
        peer_address: AddressRow { class: (address >> 32) as u32, flags: address as u32 },
        loopback: what & 1 << 26 != 0,
        protocol: (what >> 16) as u8,
        port: what as u16,
    };
    pack(decide(&tables, &question, Mode::from_byte((what >> 32) as u8)))
}

/// There is no session with a destination, and the agent knows it.
pub(crate) const ASKED: u64 = 1 << 32;

/// Who is known to be at the other end on another node: this node's number for the workload, by a session that is good
/// now. 0 without one; [`ASKED`] where the agent has looked already and there is none.
#[inline(never)]
pub(crate) fn remote(case: &Case) -> u64 {
    let key = route_key(case);
    match maps::route(&key) {
        Some(route) if route.expires <= case.at => 0,
        Some(route) if route.has_session() => u64::from(route.destination.0) | ASKED,
        Some(_) => ASKED,
        None => 0,
    }
}

/// Where the case's source goes.
#[inline(always)]
pub(crate) fn route_key(case: &Case) -> RouteKey {
    RouteKey {
        destination: case.tuple.destination,
        source: case.source,
        port: case.tuple.destination_port,
        protocol: case.protocol,
        pad: 0,
    }
}

#[inline(never)]
fn refuse(bench: &Bench, identity: u32, reason: u8) -> u64 {
    let identity = IdentityId(identity);
    let mode = match AsOf(bench.revision).identity(identity) {
        // Who is no workload yet has a row that binds nobody; the strictest mode of the node holds.
        _ if !identity.is_workload() => bench.mode,
        Some(row) if row.ingress.mode > row.egress.mode => row.ingress.mode,
        Some(row) => row.egress.mode,
        None => bench.mode,
    };
    let mode = Mode::from_byte(if mode < bench.ceiling { mode } else { bench.ceiling });
    let reason = Reason::from_byte(reason).unwrap_or(Reason::NoRuleMatches);
    pack(under_mode(Judgement::without_rule(Verdict::Deny, reason), mode))
}

#[inline(never)]
fn look_up_address(address: &Address, revision: u64) -> u64 {
    let row = maps::address(address).map_or(AddressRow::default(), |entry| entry.at(Revision(revision)));
    u64::from(row.flags) << 32 | u64::from(row.class)
}

#[inline(always)]
fn ingress(bench: &Bench, case: &Case) -> u64 {
    ask(
        bench,
        &Question {
            direction: Direction::Ingress,
            subject: case.destination,
            peer: Peer::Known(case.source),
            peer_address: bench.address(&case.tuple.source),
            loopback: case.tuple.destination.is_loopback(),
            protocol: case.protocol,
            port: case.tuple.destination_port,
        },
    )
}

#[inline(always)]
fn egress(bench: &Bench, case: &Case, dialled: &Address) -> u64 {
    ask(
        bench,
        &Question {
            direction: Direction::Egress,
            subject: case.source,
            peer: Peer::Known(case.destination),
            peer_address: bench.address(dialled),
            loopback: case.tuple.destination.is_loopback(),
            protocol: case.protocol,
            port: case.tuple.destination_port,
        },
    )
}

#[inline(always)]
fn again(bench: &Bench, record: &Connection) -> u64 {
    let opener = record.opener == 1;
    let other = if opener { &record.tuple.destination } else { &record.tuple.source };
    ask(
        bench,
        &Question {
            direction: if opener { Direction::Egress } else { Direction::Ingress },
            subject: record.owner,
            peer: Peer::Known(record.peer),
            peer_address: bench.address(other),
            loopback: other.is_loopback(),
            protocol: protocol::TCP,
            port: record.port,
        },
    )
}

/// Packs a judgement. The bytes go through memory, where the verifier forgets which of the constants each one was: it
/// walks on once instead of once for each.
#[inline(always)]
pub(crate) fn pack(judged: Judgement) -> u64 {
    let Judgement { verdict, reason, rule } = judged;
    let verdict = black_box(verdict as u8 | FORGET) & !FORGET;
    let reason = black_box(reason as u8 | FORGET) & !FORGET;
    u64::from(black_box(rule.0)) << 16 | u64::from(reason) << 8 | u64::from(verdict)
}

/// A zero byte is the one that the verifier remembers.
const FORGET: u8 = 0x80;

/// The opposite of [`pack`].
#[inline(always)]
pub(crate) fn unpack(answer: u64) -> Judgement {
    Judgement {
        verdict: Verdict::from_byte(answer as u8),
        reason: Reason::from_byte((answer >> 8) as u8).unwrap_or(Reason::NoRuleMatches),
        rule: RuleId((answer >> 16) as u32),
    }
}

/// The maps as of one revision.
pub(crate) struct AsOf(pub(crate) Revision);

impl Tables for AsOf {
    #[inline(always)]
    fn identity(&self, identity: IdentityId) -> Option<IdentityRow> {
        let mut row = IdentityRow::default();
        if look_up_identity(identity.0, self.0.0, &mut row) { Some(row) } else { None }
    }

    #[inline(always)]
    fn subject(&self, identity: IdentityId, direction: Direction) -> Option<Subject> {
        let mut subject = Subject::default();
        let found = look_up_subject(identity.0, self.0.0, direction as u32, &mut subject);
        if found { Some(subject) } else { None }
    }

    #[inline(always)]
    fn peer_class(&self, identity: IdentityId) -> u32 {
        waxseal_peer_class(u64::from(identity.0), self.0.0) as u32
    }

    #[inline(always)]
    fn outcome(&self, key: &RowKey, protocol: u8, port: u16) -> Outcome {
        let RowKey { set, peer_class, address_class } = *key;
        let classes = u64::from(peer_class) << 32 | u64::from(address_class);
        let packed =
            waxseal_outcome(u64::from(set), classes, self.0.0, PortSet::place(protocol, port).into());
        Outcome { rule: RuleId(packed as u32), action: (packed >> 32) as u32 }
    }
}

// The look-ups are functions of their own for the verifier's sake too: whatever way it has walked inside, it comes back
// to one and the same state.

#[inline(never)]
fn look_up_identity(identity: u32, revision: u64, row: &mut IdentityRow) -> bool {
    let Some(entry) = maps::identity(IdentityId(identity)) else { return false };
    *row = entry.at(Revision(revision));
    true
}

#[inline(never)]
fn look_up_subject(identity: u32, revision: u64, direction: u32, subject: &mut Subject) -> bool {
    let Some(entry) = maps::identity(IdentityId(identity)) else { return false };
    let row = if entry.from <= Revision(revision) { &entry.new } else { &entry.old };
    *subject = if direction == Direction::Ingress as u32 { row.ingress } else { row.egress };
    true
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn waxseal_peer_class(identity: u64, revision: u64) -> u64 {
    maps::identity(IdentityId(identity as u32))
        .map_or(0, |entry| entry.at(Revision(revision)).peer_class.into())
}

/// The action in the upper half, the rule in the lower one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn waxseal_outcome(set: u64, classes: u64, revision: u64, place: u64) -> u64 {
    let key = RowKey { set: set as u32, peer_class: (classes >> 32) as u32, address_class: classes as u32 };
    let Some(row) = maps::row(&key) else { return 0 };
    let Some(set) = maps::port_set(row.at(Revision(revision))) else { return 0 };
    let Outcome { rule, action } = set.outcome((place >> 16) as u8, place as u16);
    u64::from(action) << 32 | u64::from(rule.0)
}
