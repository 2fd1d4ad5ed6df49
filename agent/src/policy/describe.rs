//! Rules in words, and compiled tables as text in which names stand for numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use waxseal_common::ids::{IdentityId, RuleId};
use waxseal_common::tables::{AddressRow, Outcome, PortRange, RowKey, Subject};
use waxseal_common::verdict::Direction;

use super::clause::{Clause, Target, Test, Tests};
use super::compiled::Compiled;
use super::ports::{PackedSet, Ports};
use super::set::{Action, AddressRange, Fields, Peer, Rule, direction_word};
use crate::escape::escape;
use crate::workload::{IdentityInfo, Labels};

/// The word for one of the reserved identities.
pub(super) fn reserved_word(id: IdentityId) -> Option<&'static str> {
    match id {
        IdentityId::UNKNOWN => Some("unknown"),
        IdentityId::HOST => Some("host"),
        IdentityId::WORLD => Some("world"),
        IdentityId::UNMANAGED => Some("unmanaged"),
        IdentityId::AGENT => Some("agent"),
        _ => None,
    }
}

/// `app=web, tier=front`, escaped.
pub(super) fn labels_text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    escape(&pairs.join(", ")).into_owned()
}

/// What the ports of a rule are.
pub(super) fn ports_text(ports: Option<&[Ports]>) -> String {
    match ports {
        None => "every port".to_owned(),
        Some([]) => "no port".to_owned(),
        Some(ports) => {
            let others = ports.iter().filter(|ports| **ports == Ports::whole(ports.protocol));
            // All protocols but a few are a complement, and easier to read as one.
            let many = others.clone().count() > 200;
            let named = ports.iter().filter(|ports| !many || **ports != Ports::whole(ports.protocol));
            let mut texts: Vec<String> = named.map(Ports::to_string).collect();
            texts.extend(many.then(|| "every other protocol".to_owned()));
            texts.join(", ")
        }
    }
}

/// `allow from …, on …`.
pub(super) fn rule_text(rule: &Rule, direction: Direction) -> String {
    let action = match rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    };
    let preposition = preposition(direction);
    let peers = match rule.peers.as_deref() {
        None => "everybody".to_owned(),
        Some([]) => "nobody".to_owned(),
        Some(peers) => peers.iter().map(Peer::to_string).collect::<Vec<_>>().join("; or "),
    };
    format!("{action} {preposition} {peers}; {}", ports_text(rule.ports.as_deref()))
}

const fn preposition(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = field_texts(&self.is);
        parts.extend(field_texts(self.not()).into_iter().map(|text| format!("not {text}")));
        parts.extend(self.clauses.iter().map(ToString::to_string));
        if parts.is_empty() {
            return f.write_str("everybody");
        }
        f.write_str(&parts.join(" and "))
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = match &self.tests {
            Tests::Identity(tests) => tests.iter().map(ToString::to_string).collect(),
            Tests::Address(ranges) => ranges.iter().map(ToString::to_string).collect(),
        };
        let not = if self.negated { "not " } else { "" };
        match texts.as_slice() {
            [] if self.negated => f.write_str("anybody"),
            [] => f.write_str("nobody"),
            [one] => write!(f, "{not}{one}"),
            several => write!(f, "{not}({})", several.join(" or ")),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(pattern) => write!(f, "identity {pattern}"),
            Self::TrustDomain(domain) => write!(f, "trust domain {domain}"),
            Self::PathNamespace(pattern) => write!(f, "namespace {pattern} in the SPIFFE ID"),
            Self::ServiceAccount(name) => write!(f, "service account {name}"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
            Self::Label { key, values: None } => write!(f, "label {}", escape(key)),
            Self::Label { key, values: Some(values) } => {
                write!(f, "label {}={}", escape(key), escape(&values.join("|")))
            }
            Self::Entity(entity) => write!(f, "entity {}", entity.word()),
            Self::NamespaceLabels { .. } => f.write_str("labels of the namespace"),
        }
    }
}

/// Whom a policy selects.
pub(super) fn target_text(target: &Target, except: &[Target]) -> String {
    let Target { namespace, labels, clauses } = target;
    let place = match namespace {
        Some(namespace) => format!("of namespace {namespace}"),
        None => "of every namespace".to_owned(),
    };
    let mut asked = Vec::new();
    if !labels.is_empty() {
        asked.push(labels_text(labels));
    }
    asked.extend(clauses.iter().map(ToString::to_string));
    let mut text = match asked.as_slice() {
        [] => format!("every workload {place}"),
        asked => format!("workloads {place} with {}", asked.join(" and ")),
    };
    for (index, other) in except.iter().enumerate() {
        text.push_str(if index == 0 { ", but not " } else { ", nor " });
        text.push_str(&target_text(other, &[]));
    }
    text
}

fn field_texts(fields: &Fields) -> Vec<String> {
    let Fields { identity, trust_domain, namespace, labels, range, entity } = fields;
    [
        identity.as_ref().map(|pattern| format!("identity {pattern}")),
        trust_domain.as_ref().map(|domain| format!("trust domain {domain}")),
        namespace.as_ref().map(|namespace| format!("namespace {namespace}")),
        labels.as_ref().map(|labels| format!("labels {}", labels_text(labels))),
        range.as_ref().map(AddressRange::to_string),
        entity.map(|entity| format!("entity {}", entity.word())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "addresses in {}", self.cidr)?;
        for (index, hole) in self.except.iter().enumerate() {
            write!(f, "{} {hole}", if index == 0 { " except" } else { "," })?;
        }
        Ok(())
    }
}

impl Compiled {
    /// The rows of every rule, one line each, in which the workload that is bound is named.
    pub(super) fn lines_of_rules(&self, identities: &[IdentityInfo]) -> BTreeMap<RuleId, BTreeSet<String>> {
        let text = TableText::new(self, identities);
        let mut found: BTreeMap<RuleId, BTreeSet<String>> = BTreeMap::new();
        for identity in identities {
            let Some(row) = self.identities.get(&identity.id) else { continue };
            for (direction, subject) in [(Direction::Ingress, row.ingress), (Direction::Egress, row.egress)] {
                let sets = if subject.has(Subject::SHADOW) {
                    [subject.set, subject.shadow_set]
                } else {
                    [subject.set, 0]
                };
                for (rule, line) in sets.into_iter().flat_map(|set| text.lines(direction, set)) {
                    let line = format!("{} {}: {line}", identity.full_name(), direction_word(direction));
                    found.entry(rule).or_default().insert(line);
                }
            }
        }
        found
    }

    /// The tables as text: what each workload may do, one line per row and port range, with names for numbers. Equal
    /// tables give equal text, whatever their numbers.
    pub fn to_text(&self, identities: &[IdentityInfo]) -> String {
        let text = TableText::new(self, identities);
        let mut out = String::new();
        for identity in identities {
            let Some(row) = self.identities.get(&identity.id) else { continue };
            let _infallible = writeln!(out, "{}  {}", identity.full_name(), identity.spiffe_id);
            text.subject(&mut out, Direction::Ingress, &row.ingress);
            text.subject(&mut out, Direction::Egress, &row.egress);
        }
        out.push_str("addresses\n");
        for (prefix, row) in &self.addresses {
            let mesh = if row.flags & AddressRow::MESH == 0 { "" } else { " mesh" };
            let named = if row.class == 0 { "" } else { " named by rules" };
            let _infallible = writeln!(out, "  {prefix}{mesh}{named}");
        }
        out
    }
}

/// What class numbers stand for.
struct TableText<'a> {
    compiled: &'a Compiled,
    peers: BTreeMap<u32, BTreeSet<String>>,
    places: BTreeMap<u32, Vec<String>>,
}

impl<'a> TableText<'a> {
    fn new(compiled: &'a Compiled, identities: &[IdentityInfo]) -> Self {
        let mut peers: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for (id, row) in &compiled.identities {
            let known = identities.iter().find(|identity| identity.id == *id).map(IdentityInfo::full_name);
            let name = reserved_word(*id).map(str::to_owned).or(known).unwrap_or_else(|| id.0.to_string());
            peers.entry(row.peer_class).or_default().insert(name);
        }
        let mut places: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (prefix, row) in &compiled.addresses {
            places.entry(row.class).or_default().push(prefix.to_string());
        }
        Self { compiled, peers, places }
    }

    fn subject(&self, out: &mut String, direction: Direction, subject: &Subject) {
        let (word, mode) = (direction_word(direction), subject.mode().as_str());
        if subject.set == 0 && subject.flags == 0 {
            let _infallible = writeln!(out, "  {word}: no rules");
            return;
        }
        let default = self.default(subject.has(Subject::DENY_BY_DEFAULT), subject.selected_by);
        let silently = if subject.has(Subject::REFUSE_SILENTLY) { ", drops in silence" } else { "" };
        let waits = match (direction, subject.has(Subject::ALLOWS_IDENTITIES | Subject::DENIES_IDENTITIES)) {
            (Direction::Egress, true) => ", may wait for an answer",
            _ => "",
        };
        let _infallible = writeln!(out, "  {word}: {mode}, {default}{waits}{silently}");
        self.rows(out, direction, subject.set);
        if subject.has(Subject::SHADOW) {
            let default =
                self.default(subject.has(Subject::SHADOW_DENY_BY_DEFAULT), subject.shadow_selected_by);
            let _infallible = writeln!(out, "  {word}, judged beside: {default}");
            self.rows(out, direction, subject.shadow_set);
        }
    }

    fn default(&self, denies: bool, selected_by: RuleId) -> String {
        if denies { format!("else deny ({})", self.rule(selected_by)) } else { "else allow".to_owned() }
    }

    fn rows(&self, out: &mut String, direction: Direction, set: u32) {
        let lines: BTreeSet<String> = self
            .lines(direction, set)
            .map(|(rule, text)| format!("    {text} ({})\n", self.rule(rule)))
            .collect();
        out.extend(lines);
    }

    /// The rows of a rule set, with the rule of each.
    fn lines(&self, direction: Direction, set: u32) -> impl Iterator<Item = (RuleId, String)> {
        let preposition = preposition(direction);
        let bounds = RowKey { set, peer_class: 0, address_class: 0 }..;
        let rows = self.compiled.rows.range(bounds).take_while(move |(key, _)| key.set == set && set != 0);
        rows.flat_map(move |(key, number)| {
            let peers = self.peers.get(&key.peer_class).map(some_of).unwrap_or_default();
            let who = if key.peer_class == 0 { "everybody".to_owned() } else { peers };
            let place = match self.places.get(&key.address_class) {
                Some(prefixes) if key.address_class != 0 => format!(" at {}", prefixes.join(" ")),
                _ => String::new(),
            };
            let ports = self.compiled.sets.get(number).map(|set| outcomes(set)).unwrap_or_default();
            ports.into_iter().map(move |(range, outcome)| {
                let action = match outcome.action {
                    Outcome::ALLOW => "allow",
                    Outcome::DENY => "deny",
                    _ => "nothing",
                };
                (outcome.rule, format!("{preposition} {who}{place}: {action} {range}"))
            })
        })
    }

    fn rule(&self, rule: RuleId) -> String {
        self.compiled.rule(rule).map_or_else(|| "-".to_owned(), super::compiled::RuleInfo::title)
    }
}

/// All of a few names, the first of many.
fn some_of(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 32;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(" ");
    if names.len() > SHOWN {
        let _infallible = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

/// Every range of a set with what holds there; the rest comes last.
fn outcomes(set: &PackedSet) -> Vec<(String, Outcome)> {
    let mut found: Vec<(String, Outcome)> =
        set.ranges.iter().map(|range| (range_text(range), range.outcome)).collect();
    if set.otherwise.action != Outcome::NOTHING {
        let rest = if found.is_empty() { "every port" } else { "every other port" };
        found.push((rest.to_owned(), set.otherwise));
    }
    found
}

fn range_text(range: &PortRange) -> String {
    let split = |place: u32| ((place >> 16) as u8, place as u16);
    let ((first, low), (last, high)) = (split(range.low), split(range.high));
    if first == last {
        Ports { protocol: first, low, high }.to_string()
    } else {
        // Neighbouring protocols that are treated alike share a range.
        let low = if low == 0 { u16::MAX } else { low };
        let end = |protocol, port| match port {
            u16::MAX => Ports::whole(protocol).to_string(),
            port => Ports { protocol, low: port, high: port }.to_string(),
        };
        format!("{} to {}", end(first, low), end(last, high))
    }
}
