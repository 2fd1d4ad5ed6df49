//! What is allowed to be written and yet is probably not meant.

use waxseal_common::ids::{IdentityId, protocol};
use waxseal_common::verdict::Direction;

use super::by_namespace::ByNamespace;
use super::clause::Clause;
use super::condition::{Conditions, End};
use super::pattern::IdentityPattern;
use super::set::{Action, Entity, Fields, IdentityPolicy, Peer, PolicySet, Rule, direction_word};
use super::warning::Warning;
use crate::workload::{Origin, Workload};

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];
const DNS: u16 = 53;

/// Everything odd about a set of documents.
pub(super) fn lint(set: &PolicySet) -> Vec<Warning> {
    let mut found = Found(set.warnings.clone());
    let near = ByNamespace::new(set);
    for policy in &set.policies {
        lint_policy(&near, policy, &mut found);
    }
    lint_name_resolution(set, &near, &mut found);
    lint_probes(set, &near, &mut found);
    lint_agent(set, &mut found);
    found.0.sort_by(|a, b| a.origin.cmp(&b.origin).then_with(|| a.code.cmp(b.code)));
    found.0
}

struct Found(Vec<Warning>);

impl Found {
    fn warn(&mut self, origin: &Origin, code: &'static str, text: String) {
        self.0.push(Warning { origin: origin.clone(), code, text });
    }
}

fn lint_policy(near: &ByNamespace<'_>, policy: &IdentityPolicy, found: &mut Found) {
    let title = policy.title();
    if policy.kind == "IdentityPolicy" && policy.ingress.is_none() && policy.egress.is_none() {
        found.warn(
            &policy.origin,
            "says-nothing",
            format!("{title} has neither ingress nor egress: it changes nothing"),
        );
    }
    // Without any Workload document the workloads are not known here, and every selector would be pointed out.
    if policy.part == 0 && !near.knows_nobody() && near.selected(policy).is_empty() {
        found.warn(
            &policy.origin,
            "selects-nothing",
            format!("{title} selects no workload that is known here"),
        );
    }
    for direction in DIRECTIONS {
        let rules = policy.rules(direction).unwrap_or_default();
        lint_reach(rules, direction, found);
        for rule in rules {
            lint_rule(rule, found);
        }
    }
}

/// A deny for everybody and everything hides every allow, wherever it stands; an equal rule hides the later one.
fn lint_reach(rules: &[Rule], direction: Direction, found: &mut Found) {
    let deny_all = rules.iter().find(|rule| rule.action == Action::Deny && matches_everything(rule));
    for (index, rule) in rules.iter().enumerate() {
        let same = |other: &&Rule| {
            other.action == rule.action && other.ports == rule.ports && same_peers(other, rule)
        };
        if let Some(deny) = deny_all.filter(|deny| deny.origin != rule.origin) {
            let text = format!(
                "this {} rule is never reached: the deny rule at {} matches everything",
                direction_word(direction),
                deny.origin
            );
            found.warn(&rule.origin, "unreachable", text);
        } else if let Some(first) = rules[..index].iter().find(same) {
            found.warn(
                &rule.origin,
                "repeated",
                format!("this rule says the same as the one at {}", first.origin),
            );
        }
    }
}

fn same_peers(a: &Rule, b: &Rule) -> bool {
    let same = |a: &Peer, b: &Peer| a.is == b.is && a.not == b.not && a.clauses == b.clauses;
    match (&a.peers, &b.peers) {
        (None, None) => true,
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => false,
    }
}

fn matches_everything(rule: &Rule) -> bool {
    let everybody = Fields { entity: Some(Entity::Any), ..Fields::default() };
    rule.ports.is_none()
        && rule.peers.as_ref().is_none_or(|peers| {
            peers.iter().any(|peer| peer.is == everybody && peer.not.is_none() && peer.clauses.is_empty())
        })
}

fn lint_rule(rule: &Rule, found: &mut Found) {
    let empty_list =
        rule.peers.as_ref().is_some_and(Vec::is_empty) || rule.ports.as_ref().is_some_and(Vec::is_empty);
    // Readers of other documents say so themselves, in their words.
    if empty_list && !rule.imported() {
        found.warn(
            &rule.origin,
            "matches-nothing",
            "an empty list matches nothing, so this rule never does".to_owned(),
        );
    }
    if rule.action == Action::Allow && matches_everything(rule) {
        found.warn(&rule.origin, "allows-everything", "this rule allows everybody on every port".to_owned());
    }
    for peer in rule.peers.iter().flatten() {
        lint_peer(rule.action, peer, found);
    }
}

fn lint_peer(action: Action, peer: &Peer, found: &mut Found) {
    if never_matches(peer) {
        let text = "this peer never matches: no end has both a SPIFFE ID and that entity, or `not` excludes everything";
        found.warn(&peer.origin, "never-matches", text.to_owned());
        return;
    }
    for fields in [&peer.is, peer.not()] {
        if let Some(IdentityPattern::Prefix(prefix)) = fields.identity.as_deref()
            && !prefix.ends_with('/')
        {
            found.warn(&peer.origin, "open-prefix", open_prefix(prefix));
        }
    }
    for pattern in peer.clauses.iter().flat_map(Clause::patterns) {
        if let IdentityPattern::Prefix(prefix) = pattern
            && !prefix.ends_with('/')
        {
            found.warn(&peer.origin, "open-prefix", open_prefix(prefix.trim_start_matches("spiffe://")));
        }
    }
    let asks_who = asks_for_workload(&peer.is) || peer.is.entity.is_some_and(|entity| entity != Entity::Any);
    if action == Action::Allow && !asks_who && asks_for_workload(peer.not()) {
        let text = "a peer with nothing but `not` also matches ends without a SPIFFE ID; add `entity: any-authenticated` \
                    if that is not meant";
        found.warn(&peer.origin, "matches-unauthenticated", text.to_owned());
    }
}

fn open_prefix(prefix: &str) -> String {
    format!(
        "`{prefix}*` also matches longer names, as `{prefix}-test`; end it with `/*` if that is not meant"
    )
}

fn asks_for_workload(fields: &Fields) -> bool {
    let Fields { identity, trust_domain, namespace, labels, range: _, entity: _ } = fields;
    identity.is_some() || trust_domain.is_some() || namespace.is_some() || labels.is_some()
}

fn never_matches(peer: &Peer) -> bool {
    let no_workload = matches!(peer.is.entity, Some(Entity::Host | Entity::World | Entity::Unmanaged));
    let excluded = peer.not().entity.is_some() && peer.not().entity == peer.is.entity;
    peer.not().entity == Some(Entity::Any) || excluded || no_workload && asks_for_workload(&peer.is)
}

/// A workload that may call only whom rules allow, and no rule lets it ask for names.
fn lint_name_resolution(set: &PolicySet, near: &ByNamespace<'_>, found: &mut Found) {
    for workload in &set.workloads {
        let mut policies = near.selecting(workload);
        policies.retain(|policy| !policy.is_shadow());
        let Some(denier) = policies.iter().find(|policy| policy.denies_by_default(Direction::Egress)) else {
            continue;
        };
        let rules = policies.iter().filter_map(|policy| policy.rules(Direction::Egress)).flatten();
        let allows: Vec<&Rule> = rules.filter(|rule| rule.action == Action::Allow).collect();
        // A workload that may call nobody is shut off on purpose.
        if !allows.is_empty() && !allows.into_iter().any(covers_dns) {
            let text =
                format!("{} may not look up names: no egress rule allows {DNS}/udp", workload.full_name());
            found.warn(&denier.origin, "no-name-resolution", text);
        }
    }
}

/// Whether a kubelet runs it, by the labels that a kubelet gives to containers.
fn is_of_kubelet(workload: &Workload) -> bool {
    let container = workload.selector.container.as_ref();
    container
        .is_some_and(|container| container.labels.iter().any(|(key, _)| key.starts_with("io.kubernetes.")))
}

/// A container of a kubelet that only named workloads may call: who looks after its health is none of them.
fn lint_probes(set: &PolicySet, near: &ByNamespace<'_>, found: &mut Found) {
    for workload in set.workloads.iter().filter(|workload| is_of_kubelet(workload)) {
        let mut policies = near.selecting(workload);
        policies.retain(|policy| !policy.is_shadow());
        let Some(denier) = policies.iter().find(|policy| policy.denies_by_default(Direction::Ingress)) else {
            continue;
        };
        let rules = policies.iter().filter_map(|policy| policy.rules(Direction::Ingress)).flatten();
        let allows: Vec<&Rule> = rules.filter(|rule| rule.action == Action::Allow).collect();
        if !allows.is_empty() && !allows.into_iter().any(admits_host) {
            let text = format!(
                "no ingress rule of {} lets the kubelet of this node probe its health: allow `entity: host` if it does",
                workload.full_name()
            );
            found.warn(&denier.origin, "no-health-probes", text);
        }
    }
}

fn admits_host(rule: &Rule) -> bool {
    let host = End::Reserved(IdentityId::HOST);
    let admits = |conditions: Conditions| conditions.identity.is_none_or(|condition| condition.matches(host));
    rule.peers.as_ref().is_none_or(|peers| peers.iter().filter_map(Conditions::of).any(admits))
}

/// The units that an agent is likely to run as.
const AGENT_UNITS: [&str; 3] = ["waxseal.service", "waxseal-agent.service", "waxseal@default.service"];

/// A workload that the agent itself would be: rules would cut the port at which other agents reach it.
fn lint_agent(set: &PolicySet, found: &mut Found) {
    for workload in &set.workloads {
        let unit = workload.selector.systemd_unit.as_ref();
        let meant = unit.and_then(|unit| AGENT_UNITS.into_iter().find(|name| unit.matches(name)));
        if let Some(name) = meant {
            let text = format!(
                "{} also selects the agent itself ({name}): its policies could cut the agent off from other agents",
                workload.full_name()
            );
            found.warn(&workload.origin, "selects-the-agent", text);
        }
    }
}

fn covers_dns(rule: &Rule) -> bool {
    rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|ports| ports.contains(protocol::UDP, DNS)))
}
