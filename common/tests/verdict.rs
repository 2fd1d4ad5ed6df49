//! Each step of a verdict, on tables that are written by hand.

use std::collections::BTreeMap;

use waxseal_common::ids::{IdentityId, RuleId};
use waxseal_common::tables::{AddressRow, IdentityRow, Mode, Outcome, RowKey, Subject, Tables};
use waxseal_common::verdict::{Direction, Judgement, Peer, Question, Reason, Verdict, decide};

const WEB: IdentityId = IdentityId(256);
const DATABASE: IdentityId = IdentityId(257);
const STRANGE: IdentityId = IdentityId(258);
const SET: u32 = 1;
const SHADOW_SET: u32 = 2;

#[derive(Default)]
struct Written {
    identities: BTreeMap<IdentityId, IdentityRow>,
    rows: BTreeMap<RowKey, Outcome>,
}

impl Tables for Written {
    fn identity(&self, identity: IdentityId) -> Option<IdentityRow> {
        self.identities.get(&identity).copied()
    }

    fn outcome(&self, key: &RowKey, _: u8, _: u16) -> Outcome {
        self.rows.get(key).copied().unwrap_or_default()
    }
}

fn tables(flags: u8, mode: Mode, rows: &[(RowKey, u32, u32)]) -> Written {
    let subject = Subject {
        set: SET,
        shadow_set: SHADOW_SET,
        selected_by: RuleId(90),
        shadow_selected_by: RuleId(91),
        mode: mode as u8,
        flags,
        ..Subject::default()
    };
    let row = |peer_class| IdentityRow { peer_class, ingress: subject, egress: subject };
    Written {
        identities: [(DATABASE, row(0)), (WEB, row(7))].into(),
        rows: rows
            .iter()
            .map(|(key, action, rule)| (*key, Outcome { action: *action, rule: RuleId(*rule) }))
            .collect(),
    }
}

fn key(set: u32, peer_class: u32, address_class: u32) -> RowKey {
    RowKey { set, peer_class, address_class }
}

fn question(peer: Peer) -> Question {
    Question {
        direction: Direction::Ingress,
        subject: DATABASE,
        peer,
        peer_address: AddressRow { class: 4, flags: 0 },
        loopback: false,
        protocol: 6,
        port: 5432,
    }
}

fn ask(tables: &Written, peer: Peer) -> Judgement {
    decide(tables, &question(peer), Mode::Enforce)
}

const WEB_CALLS: Peer = Peer::Known(WEB);
const DEFAULT_DENY: u8 = Subject::DENY_BY_DEFAULT;
const ALLOW: u32 = Outcome::ALLOW;
const DENY: u32 = Outcome::DENY;

#[test]
fn rules_bind_only_to_workloads() {
    let tables = tables(DEFAULT_DENY, Mode::Enforce, &[]);
    for id in 0..256 {
        let question = Question { subject: IdentityId(id), ..question(WEB_CALLS) };
        let judged = decide(&tables, &question, Mode::Enforce);
        assert_eq!((judged.verdict, judged.reason), (Verdict::Allow, Reason::NotAWorkload), "{id}");
    }
}

#[test]
fn loopback_within_one_workload_is_always_allowed_and_other_loopback_is_not() {
    let tables = tables(DEFAULT_DENY, Mode::Enforce, &[]);
    for (peer, loopback, verdict) in [
        (DATABASE, true, Verdict::Allow),
        (DATABASE, false, Verdict::Deny),
        (WEB, true, Verdict::Deny),
        (IdentityId::UNKNOWN, true, Verdict::Deny),
    ] {
        let question = Question { loopback, ..question(Peer::Known(peer)) };
        assert_eq!(decide(&tables, &question, Mode::Enforce).verdict, verdict, "{peer:?} {loopback}");
    }
}

#[test]
fn a_deny_in_any_row_beats_an_allow_in_any_other() {
    let places = [key(SET, 7, 4), key(SET, 7, 0), key(SET, 0, 4), key(SET, 0, 0)];
    for denied in places {
        let rows: Vec<_> = places
            .iter()
            .map(|key| (*key, if *key == denied { DENY } else { ALLOW }, key.peer_class + 1))
            .collect();
        let judged = ask(&tables(DEFAULT_DENY, Mode::Enforce, &rows), WEB_CALLS);
        assert_eq!((judged.verdict, judged.reason), (Verdict::Deny, Reason::DenyRule), "{denied:?}");
        assert_eq!(judged.rule, RuleId(denied.peer_class + 1));
    }
}

#[test]
fn of_several_allows_the_most_particular_is_named() {
    let rows = [
        (key(SET, 0, 0), ALLOW, 1),
        (key(SET, 7, 0), ALLOW, 2),
        (key(SET, 0, 4), ALLOW, 3),
        (key(SET, 7, 4), ALLOW, 4),
    ];
    for known in 1..=rows.len() {
        let judged = ask(&tables(DEFAULT_DENY, Mode::Enforce, &rows[..known]), WEB_CALLS);
        assert_eq!(judged.rule, RuleId(known as u32));
    }
}

#[test]
fn what_no_rule_allows_is_denied_only_where_something_denies_by_default() {
    let judged = ask(&tables(DEFAULT_DENY, Mode::Enforce, &[]), WEB_CALLS);
    assert_eq!(judged, Judgement { verdict: Verdict::Deny, reason: Reason::NoRuleMatches, rule: RuleId(90) });
    assert_eq!(ask(&tables(0, Mode::Enforce, &[]), WEB_CALLS).reason, Reason::NoPolicy);
}

#[test]
fn an_identity_without_a_row_is_denied_and_as_a_peer_matched_by_no_identity_rule() {
    let open = tables(DEFAULT_DENY, Mode::Enforce, &[(key(SET, 7, 0), ALLOW, 1)]);
    let unknown = Question { subject: STRANGE, ..question(WEB_CALLS) };
    assert_eq!(decide(&open, &unknown, Mode::Enforce).reason, Reason::IdentityIncomplete);
    assert_eq!(ask(&open, Peer::Known(STRANGE)).reason, Reason::NoRuleMatches);
}

#[test]
fn a_mode_changes_what_a_denial_does_and_a_ceiling_only_loosens() {
    let modes = [Mode::Permissive, Mode::Audit, Mode::Enforce];
    let made = [Verdict::WouldDeny, Verdict::Audit, Verdict::Deny];
    for (own, mode) in modes.into_iter().enumerate() {
        for (ceiling, over) in modes.into_iter().enumerate() {
            let judged = decide(&tables(DEFAULT_DENY, mode, &[]), &question(WEB_CALLS), over);
            assert_eq!(judged.verdict, made[own.min(ceiling)], "{mode:?} under {over:?}");
        }
    }
}

#[test]
fn an_unresolved_destination_is_decided_where_the_answer_cannot_matter_and_deferred_where_it_can() {
    let allow_by_address = [(key(SET, 0, 4), ALLOW, 1)];
    for (flags, rows, verdict) in [
        (0, &[][..], Verdict::Allow),
        (DEFAULT_DENY, &[][..], Verdict::Deny),
        (DEFAULT_DENY, &allow_by_address[..], Verdict::Allow),
        (DEFAULT_DENY | Subject::ALLOWS_IDENTITIES, &[][..], Verdict::Defer),
        (DEFAULT_DENY | Subject::DENIES_IDENTITIES, &allow_by_address[..], Verdict::Defer),
        (Subject::DENIES_IDENTITIES, &[][..], Verdict::Defer),
    ] {
        let judged = ask(&tables(flags, Mode::Enforce, rows), Peer::Unresolved);
        assert_eq!(judged.verdict, verdict, "{flags:#b} {rows:?}");
    }
}

#[test]
fn a_policy_in_audit_is_reported_and_never_denies() {
    let flags = Subject::SHADOW | Subject::SHADOW_DENY_BY_DEFAULT;
    let judged = ask(&tables(flags, Mode::Enforce, &[]), WEB_CALLS);
    assert_eq!(judged, Judgement { verdict: Verdict::Audit, reason: Reason::AuditPolicy, rule: RuleId(91) });
    let allowed = [(key(SHADOW_SET, 7, 0), ALLOW, 5)];
    assert_eq!(ask(&tables(flags, Mode::Enforce, &allowed), WEB_CALLS).verdict, Verdict::Allow);
}

#[test]
fn every_reason_survives_its_byte_and_has_a_word_of_its_own() {
    let words: std::collections::BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words.len(), Reason::ALL.len());
    for (byte, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(Reason::from_byte(byte as u8), Some(*reason));
        assert_eq!(*reason as usize, byte);
    }
    assert_eq!(Reason::from_byte(Reason::ALL.len() as u8), None);
}

#[test]
fn an_unknown_verdict_byte_denies() {
    for byte in 5..=u8::MAX {
        assert_eq!(Verdict::from_byte(byte), Verdict::Deny);
    }
}
