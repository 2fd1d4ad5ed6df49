//! The oracle: what the language says about one connection, read straight from the documents.
//!
//! Slow and plain on purpose. It shares no code with the compiler, so that a test which compares the two means something.
//! Never used to enforce.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Judgement, Peer as OtherEnd, Reason, Verdict};

use super::clause::{Target, Test, Tests};
use super::compiled::RuleInfo;
use super::reference_ends::{asked, in_range, test_met};
use super::set::{Action, Entity, Fields, IdentityPolicy, NodeDefaults, Peer, PolicySet, Rule};
use crate::workload::IdentityInfo;

/// What should become of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceVerdict {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Titles of the rules or objects of which one is to be named; empty when none is.
    pub named: BTreeSet<String>,
    /// Whether some rule asks who the destination is, so that an unknown one may be waited for: the tables remember only
    /// that there is such a rule, not whether it is about this port.
    pub may_wait: bool,
}

impl ReferenceVerdict {
    /// Whether a judgement made from the tables is right. `rule` is what its rule number stands for.
    pub fn admits(&self, judgement: &Judgement, rule: Option<&RuleInfo>) -> bool {
        if judgement.verdict == Verdict::Defer {
            return self.may_wait;
        }
        // A policy in audit is not waited for when the enforced ones let the connection pass.
        if self.may_wait && self.reason == Reason::AuditPolicy && judgement.verdict == Verdict::Allow {
            return true;
        }
        let named = match rule {
            None => self.named.is_empty(),
            Some(rule) => self.named.contains(&rule.title()),
        };
        (judgement.verdict, judgement.reason) == (self.verdict, self.reason) && named
    }

    fn plain(verdict: Verdict, reason: Reason) -> Self {
        Self { verdict, reason, named: BTreeSet::new(), may_wait: false }
    }
}

/// One connection, as seen from the end that is judged.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Which end is judged.
    pub direction: Direction,
    /// The workload that is judged.
    pub subject: IdentityId,
    /// The other end.
    pub peer: OtherEnd,
    /// Its address.
    pub peer_ip: IpAddr,
    /// Whether the connection runs over a loopback address.
    pub loopback: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// The destination's port; 0 for protocols without ports.
    pub port: u16,
}

/// Judges one end of a connection by the documents alone.
pub fn judge(
    set: &PolicySet,
    identities: &[IdentityInfo],
    defaults: &NodeDefaults,
    connection: &Connection,
) -> ReferenceVerdict {
    let Connection { direction, subject, peer, loopback, .. } = *connection;
    if !subject.is_workload() {
        return ReferenceVerdict::plain(Verdict::Allow, Reason::NotAWorkload);
    }
    if loopback && peer == OtherEnd::Known(subject) {
        return ReferenceVerdict::plain(Verdict::Allow, Reason::SameWorkload);
    }
    let Some(workload) = identities.iter().find(|identity| identity.id == subject) else {
        return ReferenceVerdict::plain(Verdict::Deny, Reason::IdentityIncomplete);
    };
    let speaking: Vec<&IdentityPolicy> = set
        .policies
        .iter()
        .map(Arc::as_ref)
        .filter(|p| selects(p, workload) && p.rules(direction).is_some())
        .collect();
    let enforced: Vec<&IdentityPolicy> =
        speaking.iter().copied().filter(|p| matches!(p.mode, None | Some(Mode::Enforce))).collect();
    let case = Case { set, identities, connection, workload };
    // Where the enforced policies deny by default, nobody waits for the sake of one in audit.
    let decisive = if case.selected_by(&enforced).is_some() { &enforced } else { &speaking };
    let may_wait = peer == OtherEnd::Unresolved && decisive.iter().any(|p| asks_who(p, direction));
    let mut verdict = case.steps(&enforced);
    if verdict.verdict == Verdict::Deny {
        verdict.verdict = match mode(set, defaults, workload, &enforced) {
            Mode::Permissive => Verdict::WouldDeny,
            Mode::Audit => Verdict::Audit,
            Mode::Enforce => Verdict::Deny,
        };
    } else if verdict.verdict == Verdict::Allow && speaking.len() > enforced.len() {
        let beside = case.steps(&speaking);
        if beside.verdict == Verdict::Deny {
            verdict = ReferenceVerdict { verdict: Verdict::Audit, reason: Reason::AuditPolicy, ..beside };
        }
    }
    ReferenceVerdict { may_wait, ..verdict }
}

fn selects(policy: &IdentityPolicy, workload: &IdentityInfo) -> bool {
    let bound = |target: &Target| {
        target.namespace.as_ref().is_none_or(|namespace| *namespace == workload.namespace)
            && target.labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
            && target.clauses.iter().all(|clause| match &clause.tests {
                Tests::Identity(tests) => {
                    let mut met = tests.iter().filter(|test| test_met(test, workload.id, Some(workload)));
                    met.next().is_some() != clause.negated
                }
                Tests::Address(_) => false,
            })
    };
    bound(&policy.target) && !policy.except.iter().any(bound)
}

fn mode(
    set: &PolicySet,
    defaults: &NodeDefaults,
    workload: &IdentityInfo,
    enforced: &[&IdentityPolicy],
) -> Mode {
    if let Some(mode) = workload.mode {
        return mode;
    }
    if enforced.iter().any(|policy| policy.mode == Some(Mode::Enforce)) {
        return Mode::Enforce;
    }
    set.namespaces.get(&workload.namespace).and_then(|namespace| namespace.mode).unwrap_or(defaults.mode)
}

fn asks_who(policy: &IdentityPolicy, direction: Direction) -> bool {
    let rules = policy.rules(direction).into_iter().flatten();
    rules.filter_map(|rule| rule.peers.as_deref()).flatten().any(|peer| !matches!(who(peer), Who::Anybody))
}

/// The answer to "does it match?" about an end that may be unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    Perhaps,
    Yes,
}

enum Who {
    Anybody,
    Nobody,
    Asked,
}

/// Whether a peer asks who the other end is.
fn who(peer: &Peer) -> Who {
    let asks = |fields: &Fields, harmless: &[Entity]| {
        fields.identity.is_some()
            || fields.trust_domain.is_some()
            || fields.namespace.is_some()
            || fields.labels.is_some()
            || fields.entity.is_some_and(|entity| !harmless.contains(&entity))
    };
    let everything = |tests: &[Test]| tests.iter().any(|test| matches!(test, Test::Entity(Entity::Any)));
    let (mut asked, mut nobody) = (false, peer.not().entity == Some(Entity::Any));
    for clause in &peer.clauses {
        match &clause.tests {
            Tests::Identity(tests) if everything(tests) => nobody |= clause.negated,
            Tests::Identity(_) => asked = true,
            Tests::Address(_) => {}
        }
    }
    if nobody {
        Who::Nobody
    } else if asked || asks(&peer.is, &[Entity::Any]) || asks(peer.not(), &[]) {
        Who::Asked
    } else {
        Who::Anybody
    }
}

struct Case<'a> {
    set: &'a PolicySet,
    identities: &'a [IdentityInfo],
    connection: &'a Connection,
    workload: &'a IdentityInfo,
}

impl Case<'_> {
    /// Steps 1 to 4 of the model.
    fn steps(&self, policies: &[&IdentityPolicy]) -> ReferenceVerdict {
        let (denied, denying) = self.strongest(policies, Action::Deny);
        let (allowed, allowing) = self.strongest(policies, Action::Allow);
        let selector = self.selected_by(policies);
        let named = |verdict, reason, named| ReferenceVerdict { verdict, reason, named, may_wait: false };
        let wait = ReferenceVerdict::plain(Verdict::Defer, Reason::DestinationUnresolved);
        if denied == Match::Yes {
            return named(Verdict::Deny, Reason::DenyRule, denying);
        }
        if denied == Match::Perhaps && (allowed != Match::No || selector.is_none()) {
            return wait;
        }
        if allowed == Match::Yes {
            return named(Verdict::Allow, Reason::AllowRule, allowing);
        }
        let Some(selector) = selector else {
            return ReferenceVerdict::plain(Verdict::Allow, Reason::NoPolicy);
        };
        if allowed == Match::Perhaps {
            return wait;
        }
        named(Verdict::Deny, Reason::NoRuleMatches, [selector].into())
    }

    /// The first policy that allows something, or an empty list, or a namespace that denies by default.
    fn selected_by(&self, policies: &[&IdentityPolicy]) -> Option<String> {
        for policy in policies {
            let said = match self.connection.direction {
                Direction::Ingress => (&policy.ingress, policy.posture.ingress),
                Direction::Egress => (&policy.egress, policy.posture.egress),
            };
            let denies = match said {
                (None, _) => false,
                (Some(_), Some(posture)) => posture,
                (Some(rules), None) => {
                    rules.is_empty() || rules.iter().any(|rule| rule.action == Action::Allow)
                }
            };
            if denies {
                return Some(policy.title());
            }
        }
        let namespace = self.set.namespaces.get(&self.workload.namespace)?;
        namespace.default_deny.then(|| namespace.name.clone())
    }

    /// How surely some rule with this action matches, and the titles of those that surely do.
    fn strongest(&self, policies: &[&IdentityPolicy], action: Action) -> (Match, BTreeSet<String>) {
        let mut best = Match::No;
        let mut titles = BTreeSet::new();
        for policy in policies {
            for (place, rule) in policy.rules(self.connection.direction).into_iter().flatten().enumerate() {
                if rule.action != action {
                    continue;
                }
                let matched = self.matches(rule);
                best = best.max(matched);
                if matched == Match::Yes {
                    let name = match &rule.name {
                        Some(name) => format!("#{name}"),
                        None => format!("#{}", place + 1),
                    };
                    titles.insert(format!("{}{name}", policy.title()));
                }
            }
        }
        (best, titles)
    }

    fn matches(&self, rule: &Rule) -> Match {
        let Connection { protocol, port, .. } = *self.connection;
        let ports = rule.ports.as_ref();
        if ports.is_some_and(|list| {
            !list.iter().any(|p| p.protocol == protocol && p.low <= port && port <= p.high)
        }) {
            return Match::No;
        }
        match &rule.peers {
            None => Match::Yes,
            Some(peers) => peers.iter().map(|peer| self.peer_matches(peer)).max().unwrap_or(Match::No),
        }
    }

    fn peer_matches(&self, peer: &Peer) -> Match {
        let ip = self.connection.peer_ip;
        let inside = peer.is.range.as_ref().is_none_or(|range| in_range(range, ip));
        let excluded = peer.not().range.as_ref().is_some_and(|range| in_range(range, ip));
        let elsewhere = peer.clauses.iter().any(|clause| match &clause.tests {
            Tests::Address(ranges) => ranges.iter().any(|range| in_range(range, ip)) == clause.negated,
            Tests::Identity(_) => false,
        });
        if !inside || excluded || elsewhere {
            return Match::No;
        }
        match who(peer) {
            Who::Anybody => Match::Yes,
            Who::Nobody => Match::No,
            Who::Asked => self.identity_matches(peer),
        }
    }

    fn identity_matches(&self, peer: &Peer) -> Match {
        let id = match self.connection.peer {
            OtherEnd::Unresolved => return Match::Perhaps,
            OtherEnd::Known(id) => id,
        };
        let info = self.identities.iter().find(|identity| identity.id == id);
        if info.is_none() && id.0 > IdentityId::AGENT.0 {
            // An identity that this node has never heard of meets no condition, not even a negative one.
            return Match::No;
        }
        let met = asked(&peer.is, id, info).into_iter().flatten().all(|met| met);
        let excluded = asked(peer.not(), id, info).into_iter().flatten().any(|met| met);
        let refused = peer.clauses.iter().any(|clause| match &clause.tests {
            Tests::Identity(tests) => tests.iter().any(|test| test_met(test, id, info)) == clause.negated,
            Tests::Address(_) => false,
        });
        if met && !excluded && !refused { Match::Yes } else { Match::No }
    }
}
