//! `waxseal policy explain`: the verdict on one connection, and each step that leads to it, with the place of every rule.
//!
//! The verdict comes from the tables and [`decide`]; the steps are told from the documents.

use std::sync::Arc;

use serde::Serialize;
use thiserror::Error;
use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::tables::{AddressRow, Mode, Subject};
use waxseal_common::verdict::{Direction, Judgement, Peer as OtherEnd, Question, Verdict, decide};

use super::compile::{CompileError, Compiler};
use super::compiled::{Compiled, RuleInfo};
use super::condition::{Conditions, End};
use super::describe::{ports_text, rule_text};
use super::ends::{Ended, Ends};
use super::ports::{Ports, PortsError};
use super::prepare::rule_info;
use super::set::{Action, IdentityPolicy, NodeDefaults, PolicySet, Rule, direction_word};
use crate::escape::escape;
use crate::workload::{IdentityInfo, Origin};

/// Why a question cannot be answered.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExplainError {
    /// The name of an end means nothing here.
    #[error(
        "`{0}` is no end: give namespace/name, a SPIFFE ID, labels as namespace/key=value, an identity number, an IP address, or \
         one of unknown, host, world, unmanaged; an address is added as name@address"
    )]
    Unknown(String),
    /// The name of an end means several things.
    #[error("`{name}` means {}: say which", candidates.join(" or "))]
    Ambiguous {
        /// As given.
        name: String,
        /// What it can mean.
        candidates: Vec<String>,
    },
    /// The port is none.
    #[error(transparent)]
    Port(#[from] PortsError),
    /// Several ports.
    #[error("`{0}` is more than one port; a question is about one")]
    ManyPorts(String),
    /// The documents do not fit into the tables.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// One answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The end that opens the connection.
    pub from: String,
    /// The end that is called.
    pub to: String,
    /// The port, as `8080/tcp`.
    pub port: String,
    /// What the source's policies say.
    pub egress: Side,
    /// What the destination's policies say.
    pub ingress: Side,
    /// The verdict of both together: the stricter one.
    pub verdict: &'static str,
}

/// What one end's policies say.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The steps, in the order of the language.
    pub steps: Vec<Step>,
    /// The verdict.
    pub verdict: &'static str,
    /// Why, as the tap names it.
    pub reason: &'static str,
    /// The rule or object that decided.
    pub rule: Option<RuleInfo>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// In words.
    pub text: String,
    /// Where that is written.
    pub origin: Option<Origin>,
}

/// The word for a verdict.
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::WouldDeny => "would-deny",
        Verdict::Audit => "audit",
        Verdict::Defer => "defer",
        Verdict::Deny => "deny",
    }
}

/// Answers "may `from` open a connection to `port` of `to`?" by these documents. `port` is written as in a rule.
pub fn explain(
    set: &PolicySet,
    identities: &[IdentityInfo],
    defaults: &NodeDefaults,
    from: &str,
    to: &str,
    port: &str,
) -> Result<Explanation, ExplainError> {
    let mut questions = Questions::new(set, identities);
    let asked = questions.ask(from, to, port)?;
    Ok(questions.answers(defaults)?.answer(&asked))
}

/// Questions about one set of documents. All of them are asked before the first is answered.
pub(super) struct Questions<'a> {
    set: &'a PolicySet,
    ends: Ends,
}

/// One question whose words are understood.
pub(super) struct Asked {
    from: Ended,
    to: Ended,
    port: String,
    protocol: u8,
    number: u16,
}

impl<'a> Questions<'a> {
    pub(super) fn new(set: &'a PolicySet, identities: &[IdentityInfo]) -> Self {
        Self { set, ends: Ends::new(identities, set.trust_domain.clone()) }
    }

    /// Understands a question.
    pub(super) fn ask(&mut self, from: &str, to: &str, port: &str) -> Result<Asked, ExplainError> {
        let (protocol, number) = one_port(port)?;
        let (from, to) = (self.ends.find(from)?, self.ends.find(to)?);
        Ok(Asked { from, to, port: port.to_owned(), protocol, number })
    }

    /// Compiles the documents for everybody who was asked about.
    pub(super) fn answers(self, defaults: &NodeDefaults) -> Result<Answers<'a>, CompileError> {
        let compiled = Compiler::new(1).compile(self.set, &self.ends.identities, defaults)?;
        Ok(Answers { set: self.set, compiled })
    }
}

/// A set of documents that answers.
pub(super) struct Answers<'a> {
    set: &'a PolicySet,
    compiled: Compiled,
}

impl Answers<'_> {
    pub(super) fn answer(&self, asked: &Asked) -> Explanation {
        let Asked { from, to, port, protocol, number } = asked;
        let world = World { set: self.set, compiled: &self.compiled, protocol: *protocol, port: *number };
        let (out, egress) = world.side(Direction::Egress, from, to);
        let (into, ingress) = world.side(Direction::Ingress, to, from);
        Explanation {
            from: from.name(&self.compiled),
            to: to.name(&self.compiled),
            port: port.clone(),
            egress,
            ingress,
            verdict: verdict_word(out.and(into).verdict),
        }
    }
}

fn one_port(text: &str) -> Result<(u8, u16), ExplainError> {
    let many = || ExplainError::ManyPorts(escape(text).into_owned());
    let ports = Ports::parse(text)?;
    let [ports] = ports.as_slice() else { return Err(many()) };
    let has_ports =
        matches!(ports.protocol, waxseal_common::ids::protocol::TCP | waxseal_common::ids::protocol::UDP);
    if ports.low != ports.high && has_ports {
        return Err(many());
    }
    Ok((ports.protocol, ports.low))
}

struct World<'a> {
    set: &'a PolicySet,
    compiled: &'a Compiled,
    protocol: u8,
    port: u16,
}

impl World<'_> {
    fn side(&self, direction: Direction, subject: &Ended, peer: &Ended) -> (Judgement, Side) {
        // A source that is not known stays so; only a destination can be waited for.
        let other = match (direction, peer.peer(self.compiled)) {
            (Direction::Ingress, OtherEnd::Unresolved) => OtherEnd::Known(IdentityId::UNKNOWN),
            (_, other) => other,
        };
        let question = Question {
            direction,
            subject: subject.workload().map_or(IdentityId::UNKNOWN, |info| info.id),
            peer: other,
            peer_address: peer
                .ip
                .map_or(AddressRow::default(), |ip| self.compiled.address(Address::from(ip))),
            loopback: peer.ip.is_some_and(|ip| Address::from(ip).is_loopback()),
            protocol: self.protocol,
            port: self.port,
        };
        let judged = decide(self.compiled, &question, Mode::Enforce);
        let mut told = Told { world: self, direction, other, peer, steps: Vec::new() };
        match subject.workload() {
            None => told.step(
                format!(
                    "{} is no workload here, and rules bind only to workloads",
                    subject.name(self.compiled)
                ),
                None,
            ),
            Some(info) => told.tell(info),
        }
        let side = Side {
            steps: told.steps,
            verdict: verdict_word(judged.verdict),
            reason: judged.reason.as_str(),
            rule: self.compiled.rule(judged.rule).cloned(),
        };
        (judged, side)
    }
}

/// The steps for one end, as they are told.
struct Told<'a> {
    world: &'a World<'a>,
    direction: Direction,
    other: OtherEnd,
    peer: &'a Ended,
    steps: Vec<Step>,
}

impl Told<'_> {
    fn step(&mut self, text: String, origin: Option<&Origin>) {
        self.steps.push(Step { text, origin: origin.cloned() });
    }

    fn tell(&mut self, subject: &IdentityInfo) {
        let direction = self.direction;
        let speaking: Vec<&IdentityPolicy> = self
            .world
            .set
            .policies
            .iter()
            .map(Arc::as_ref)
            .filter(|policy| policy.selects(subject))
            .filter(|policy| policy.rules(direction).is_some())
            .collect();
        if speaking.is_empty() {
            self.step(
                format!("no policy with {} rules selects {}", direction_word(direction), subject.full_name()),
                None,
            );
        }
        for policy in &speaking {
            let beside = if policy.is_shadow() { ", and is only judged beside" } else { "" };
            self.step(
                format!("{} selects {}{beside}", policy.title(), subject.full_name()),
                Some(&policy.origin),
            );
        }
        self.rules(&speaking, Action::Deny);
        self.default(subject);
        self.rules(&speaking, Action::Allow);
        self.mode(subject);
    }

    /// Every rule with this action, and whether and why it matches.
    fn rules(&mut self, policies: &[&IdentityPolicy], action: Action) {
        let direction = self.direction;
        for policy in policies {
            for (place, rule) in policy.rules(direction).into_iter().flatten().enumerate() {
                if rule.action != action {
                    continue;
                }
                let title = rule_info(policy, direction, place, rule).title();
                let text = match self.mismatch(rule) {
                    None => format!("{title} matches: {}", rule_text(rule, direction)),
                    Some(why) => format!("{title} does not match: {why}"),
                };
                self.step(text, Some(&rule.origin));
            }
        }
    }

    /// Why a rule does not match.
    fn mismatch(&self, rule: &Rule) -> Option<String> {
        let World { protocol, port, .. } = *self.world;
        if let Some(ports) = &rule.ports
            && !ports.iter().any(|ports| ports.contains(protocol, port))
        {
            return Some(format!("it is about {}", ports_text(Some(ports))));
        }
        let peers = rule.peers.as_ref()?;
        let conditions: Vec<Conditions> = peers.iter().filter_map(Conditions::of).collect();
        let address = |c: &Conditions| match (&c.address, self.peer.ip) {
            (None, _) => true,
            (Some(condition), Some(ip)) => condition.holds(Address::from(ip)),
            (Some(_), None) => false,
        };
        let end = match (self.other, self.peer.workload()) {
            (_, Some(info)) => Some(End::Workload(info)),
            (OtherEnd::Known(id), None) => Some(End::Reserved(id)),
            (OtherEnd::Unresolved, None) => None,
        };
        let identity = |c: &Conditions| match (&c.identity, end) {
            (None, _) => true,
            (Some(condition), Some(end)) => condition.matches(end),
            (Some(_), None) => false,
        };
        if conditions.iter().any(|c| address(c) && identity(c)) {
            return None;
        }
        let place = if self.peer.ip.is_none() && conditions.iter().any(|c| c.address.is_some()) {
            " (no address is given: add it as name@address)"
        } else if end.is_none() && conditions.iter().any(|c| c.identity.is_some() && address(c)) {
            " (nobody knows who is there before it answers)"
        } else {
            ""
        };
        let list: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let whom = if list.is_empty() { "nobody".to_owned() } else { list.join("; or ") };
        Some(format!("it is about {whom}{place}"))
    }

    fn default(&mut self, subject: &IdentityInfo) {
        let Some(row) = self.row(subject) else { return };
        if !row.has(Subject::DENY_BY_DEFAULT) {
            self.step("nothing denies by default: what no rule denies is allowed".to_owned(), None);
            return;
        }
        let decider = self.world.compiled.rule(row.selected_by);
        let (title, origin) =
            decider.map_or(("a policy".to_owned(), None), |rule| (rule.title(), Some(&rule.origin)));
        self.step(format!("{title} denies by default: what no rule allows is denied"), origin);
    }

    fn mode(&mut self, subject: &IdentityInfo) {
        let Some(row) = self.row(subject) else { return };
        self.step(
            format!("the {} rules are in mode {}", direction_word(self.direction), row.mode().as_str()),
            None,
        );
    }

    fn row(&self, subject: &IdentityInfo) -> Option<Subject> {
        let row = self.world.compiled.identities.get(&subject.id)?;
        Some(match self.direction {
            Direction::Ingress => row.ingress,
            Direction::Egress => row.egress,
        })
    }
}
