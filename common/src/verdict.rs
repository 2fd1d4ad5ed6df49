//! The only place where a verdict is made: POLICY in one function, called by every hook and by every host test.

use crate::ids::{IdentityId, RuleId};
use crate::tables::{AddressRow, Mode, Outcome, RowKey, Subject, Tables};

/// Which end of a connection is judged.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The destination's rules about the source.
    Ingress = 0,
    /// The source's rules about the destination.
    Egress = 1,
}

/// What is known of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A true seal, the owner of a socket on this node, or one of the reserved identities.
    Known(IdentityId),
    /// A destination whose owner nobody can know before it answers.
    Unresolved,
}

/// One question: may this end have this connection?
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Which end is judged.
    pub direction: Direction,
    /// The workload that is judged.
    pub subject: IdentityId,
    /// The other end.
    pub peer: Peer,
    /// What the tables say about the other end's address.
    pub peer_address: AddressRow,
    /// Whether the connection runs over a loopback address.
    pub loopback: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// The destination's port (the listener's own, after NAT); 0 for protocols without ports.
    pub port: u16,
}

/// What becomes of the connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It may be.
    Allow = 0,
    /// It may be, for the workload is permissive; enforcing, it would be denied.
    WouldDeny = 1,
    /// It may be, for the workload or one policy is in audit; enforcing, it would be denied.
    Audit = 2,
    /// Not decided yet: the destination has to answer first.
    Defer = 3,
    /// It may not be.
    Deny = 4,
}

impl Verdict {
    /// The verdict that a stored byte stands for. Anything unknown denies.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Allow,
            1 => Self::WouldDeny,
            2 => Self::Audit,
            3 => Self::Defer,
            _ => Self::Deny,
        }
    }

    /// Whether the packet in hand may pass.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Deny)
    }
}

/// Why a verdict is what it is. Shown to people by name, so a name is never reused for another meaning.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The judged end is no workload: rules bind only to workloads.
    NotAWorkload = 0,
    /// Both ends are the same workload and the address is loopback.
    SameWorkload = 1,
    /// No allow policy selects the workload in this direction, and nothing denies by default.
    NoPolicy = 2,
    /// An allow rule matches.
    AllowRule = 3,
    /// A deny rule matches.
    DenyRule = 4,
    /// Allow policies select the workload, or its namespace denies by default, and no rule allows this.
    NoRuleMatches = 5,
    /// The destination's owner is not known yet and decides.
    DestinationUnresolved = 6,
    /// A policy in audit, were it enforced, would deny this.
    AuditPolicy = 7,
    /// The workload's identity has no row in the tables: the agent has not finished, or a map was full.
    IdentityIncomplete = 8,
    /// The cgroup lies in a managed slice and is not attested yet.
    IdentityPending = 9,
    /// The connection table is full.
    TableFull = 10,
    /// The packet cannot be parsed: too many extension headers, or a head that is cut short.
    Unparsable = 11,
    /// An established connection without a record: older than the agent, or a bare ACK.
    NoRecord = 12,
    /// The other end denied it.
    RefusedByPeer = 13,
    /// The agent ended it after a change of policy.
    Destroyed = 14,
    /// The opener has proven itself to another workload than the one that listens: who listens there has changed.
    WrongDestination = 15,
    /// The session that proved the other end has ended: expired, or its certificate revoked.
    SessionEnded = 16,
    /// The source has as many UDP flows as one source may have.
    OverShare = 17,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::NotAWorkload,
        Self::SameWorkload,
        Self::NoPolicy,
        Self::AllowRule,
        Self::DenyRule,
        Self::NoRuleMatches,
        Self::DestinationUnresolved,
        Self::AuditPolicy,
        Self::IdentityIncomplete,
        Self::IdentityPending,
        Self::TableFull,
        Self::Unparsable,
        Self::NoRecord,
        Self::RefusedByPeer,
        Self::Destroyed,
        Self::WrongDestination,
        Self::SessionEnded,
        Self::OverShare,
    ];

    /// The reason that a stored byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The word for it in the tap, in JSON and in filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAWorkload => "not-a-workload",
            Self::SameWorkload => "same-workload",
            Self::NoPolicy => "no-policy",
            Self::AllowRule => "allow-rule",
            Self::DenyRule => "deny-rule",
            Self::NoRuleMatches => "no-rule-matches",
            Self::DestinationUnresolved => "destination-unresolved",
            Self::AuditPolicy => "audit-policy",
            Self::IdentityIncomplete => "identity-incomplete",
            Self::IdentityPending => "identity-pending",
            Self::TableFull => "table-full",
            Self::Unparsable => "unparsable",
            Self::NoRecord => "no-record",
            Self::RefusedByPeer => "refused-by-peer",
            Self::Destroyed => "destroyed",
            Self::WrongDestination => "wrong-destination",
            Self::SessionEnded => "session-ended",
            Self::OverShare => "over-share",
        }
    }
}

/// A verdict that must be obeyed, with all it takes to explain it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of the connection.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Which rule, policy or namespace said so.
    pub rule: RuleId,
}

impl Judgement {
    /// A judgement that no rule took part in.
    #[inline(always)]
    pub const fn without_rule(verdict: Verdict, reason: Reason) -> Self {
        Self { verdict, reason, rule: RuleId::NONE }
    }

    /// The one of two that matters more: a denial before a deferral before a report before an allow. Used where both
    /// ends are judged at once; egress goes first because the source is asked first.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        if other.verdict as u8 > self.verdict as u8 { other } else { self }
    }
}

/// Answers the question. `override_mode` is the node's emergency mode; it can only loosen.
///
/// The number of look-ups is at most 5 (9 while a policy is in audit), whatever the number of rules.
#[inline(always)]
pub fn decide(tables: &impl Tables, question: &Question, override_mode: Mode) -> Judgement {
    if !question.subject.is_workload() {
        return Judgement::without_rule(Verdict::Allow, Reason::NotAWorkload);
    }
    if question.loopback && question.peer == Peer::Known(question.subject) {
        return Judgement::without_rule(Verdict::Allow, Reason::SameWorkload);
    }
    let Some(subject) = tables.subject(question.subject, question.direction) else {
        return under_mode(denied(Reason::IdentityIncomplete, RuleId::NONE), override_mode);
    };
    let peer_class = match question.peer {
        Peer::Known(identity) => tables.peer_class(identity),
        Peer::Unresolved => 0,
    };
    // First by what is enforced; then, where it would pass and a policy in audit selects the workload, with that added.
    let mut enforced = Judgement::without_rule(Verdict::Allow, Reason::NoPolicy);
    let mut shadow = false;
    loop {
        let set = if shadow { subject.shadow_set } else { subject.set };
        let base = RowKey { set, peer_class, address_class: question.peer_address.class };
        let judged = judge(tables, question, &subject, &base, shadow);
        if shadow {
            if judged.verdict == Verdict::Deny {
                return Judgement { verdict: Verdict::Audit, reason: Reason::AuditPolicy, rule: judged.rule };
            }
            return enforced;
        }
        enforced = judged;
        if judged.verdict != Verdict::Allow || !subject.has(Subject::SHADOW) {
            break;
        }
        shadow = true;
    }
    under_mode(enforced, if subject.mode() < override_mode { subject.mode() } else { override_mode })
}

/// Steps 1 to 4 of the model, for one rule set.
#[inline(always)]
fn judge(
    tables: &impl Tables,
    question: &Question,
    subject: &Subject,
    base: &RowKey,
    shadow: bool,
) -> Judgement {
    let (deny_by_default, selected_by) = if shadow {
        (subject.has(Subject::SHADOW_DENY_BY_DEFAULT), subject.shadow_selected_by)
    } else {
        (subject.has(Subject::DENY_BY_DEFAULT), subject.selected_by)
    };
    let found = if base.set == 0 { Outcome::default() } else { strongest(tables, question, base) };
    let unresolved = question.peer == Peer::Unresolved;
    if found.action == Outcome::DENY {
        return denied(Reason::DenyRule, found.rule);
    }
    if unresolved && subject.has(Subject::DENIES_IDENTITIES) {
        return Judgement::without_rule(Verdict::Defer, Reason::DestinationUnresolved);
    }
    if found.action == Outcome::ALLOW {
        return Judgement { verdict: Verdict::Allow, reason: Reason::AllowRule, rule: found.rule };
    }
    if !deny_by_default {
        return Judgement::without_rule(Verdict::Allow, Reason::NoPolicy);
    }
    if unresolved && subject.has(Subject::ALLOWS_IDENTITIES) {
        return Judgement::without_rule(Verdict::Defer, Reason::DestinationUnresolved);
    }
    denied(Reason::NoRuleMatches, selected_by)
}

/// Asks the rows for (identity, address), address alone, identity alone and neither. A deny anywhere wins; of several
/// allows, or denies, the most particular is named. The largest of the ranked answers is kept, so that the kernel's
/// verifier sees one number and not the ways that led to it.
#[inline(always)]
fn strongest(tables: &impl Tables, question: &Question, base: &RowKey) -> Outcome {
    let mut found = 0u64;
    let mut row = 0u32;
    while row < 4 {
        let peer_class = if row & 1 == 0 { base.peer_class } else { 0 };
        let address_class = if row & 2 == 0 { base.address_class } else { 0 };
        // A class of 0 is the wildcard itself: its row is asked once, in the turn where it is meant.
        let meant = (row & 1 != 0 || peer_class != 0) && (row & 2 != 0 || address_class != 0);
        if meant {
            let key = RowKey { set: base.set, peer_class, address_class };
            let Outcome { rule, action } = tables.outcome(&key, question.protocol, question.port);
            let ranked = u64::from(action) << 40 | u64::from(3 - row) << 32 | u64::from(rule.0);
            found = if ranked > found { ranked } else { found };
        }
        row += 1;
    }
    Outcome { rule: RuleId(found as u32), action: (found >> 40) as u32 }
}

#[inline(always)]
const fn denied(reason: Reason, rule: RuleId) -> Judgement {
    Judgement { verdict: Verdict::Deny, reason, rule }
}

/// What a mode makes of a judgement.
#[inline(always)]
pub const fn under_mode(judged: Judgement, mode: Mode) -> Judgement {
    let Judgement { verdict, reason, rule } = judged;
    let verdict = match (verdict, mode) {
        (Verdict::Deny, Mode::Permissive) => Verdict::WouldDeny,
        (Verdict::Deny, Mode::Audit) => Verdict::Audit,
        _ => verdict,
    };
    Judgement { verdict, reason, rule }
}
