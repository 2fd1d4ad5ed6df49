//! The documents of a node, resolved: what policies, workloads and namespaces say, with every text parsed.

use std::collections::BTreeMap;
use std::sync::Arc;

use waxseal_common::tables::Mode;
use waxseal_common::verdict::Direction;

use super::clause::{Clause, Person, Target};
use super::pattern::IdentityPattern;
use super::ports::Ports;
use super::warning::Warning;
use crate::cidr::Cidr;
use crate::spiffe::TrustDomain;
use crate::workload::{IdentityInfo, Labels, Origin, Workload};

/// Everything that a set of files says. Applied whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    /// In document order: by file name, then by line. The first of several rules is the one that is named.
    pub policies: Vec<Arc<IdentityPolicy>>,
    /// In document order.
    pub workloads: Vec<Arc<Workload>>,
    /// The trust domain in which they were read.
    pub trust_domain: Option<TrustDomain>,
    /// The labels of namespaces, where a document tells them.
    pub namespace_labels: BTreeMap<String, Labels>,
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// At most one per node.
    pub mesh: Option<Mesh>,
    /// Documents that were read and bind nobody.
    pub silent: Vec<Silent>,
    /// What reading the files already found odd.
    pub warnings: Vec<Warning>,
    /// How many files were read.
    pub files: usize,
}

/// A document that was read and binds nobody by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// Its kind.
    pub kind: &'static str,
    /// `namespace/name`, or the name.
    pub title: String,
    /// Where it is written.
    pub origin: Origin,
    /// What became of it, in words.
    pub became: String,
}

/// What holds where no document speaks.
#[derive(Clone, Debug)]
pub struct NodeDefaults {
    /// The mode of workloads for which no document sets one.
    pub mode: Mode,
    /// Where workloads may live, unless a `Mesh` document says so.
    pub mesh: Vec<Cidr>,
    /// This node's own addresses: workloads live there whatever a `Mesh` document says.
    pub local: Vec<Cidr>,
}

/// Who may talk to the workloads it selects, and to whom they may talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPolicy {
    /// The kind of the document that says it.
    pub kind: &'static str,
    /// The namespace of the document; empty for one that lives in none.
    pub namespace: String,
    /// Unique among the policies of its kind and namespace.
    pub name: String,
    /// Tells apart the policies that one document became; 0 for the first.
    pub part: u32,
    /// Which workloads it selects.
    pub target: Target,
    /// Workloads that it does not select, although they are in the target.
    pub except: Vec<Target>,
    /// `Enforce` raises the workloads it selects; the other two take the policy out of enforcement and judge it beside.
    pub mode: Option<Mode>,
    /// Rules about sources; `None` says nothing about them.
    pub ingress: Option<Vec<Rule>>,
    /// Rules about destinations; `None` says nothing about them.
    pub egress: Option<Vec<Rule>>,
    /// Where the document says itself whether what no rule allows is denied.
    pub posture: Posture,
    /// Where it is written.
    pub origin: Origin,
}

/// What a document says about traffic that no rule allows. `None` leaves it to the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Posture {
    /// About sources.
    pub ingress: Option<bool>,
    /// About destinations.
    pub egress: Option<bool>,
}

impl IdentityPolicy {
    /// `namespace/name`, by which people know it.
    pub fn title(&self) -> String {
        if self.namespace.is_empty() {
            return self.name.clone();
        }
        format!("{}/{}", self.namespace, self.name)
    }

    /// The same with its lists no longer than what is in them: it will stay for long.
    pub(super) fn exact(mut self) -> Self {
        for rules in [&mut self.ingress, &mut self.egress].into_iter().flatten() {
            exact(rules);
            for rule in rules {
                rule.peers.iter_mut().for_each(exact);
                rule.ports.iter_mut().for_each(exact);
            }
        }
        self
    }

    /// What no other policy has: kinds and parts can share a title.
    pub(super) fn key(&self) -> String {
        format!("{} {} {}", self.kind, self.title(), self.part)
    }

    /// Whether it binds a workload.
    pub(super) fn selects<'a>(&self, workload: impl Into<Person<'a>>) -> bool {
        let person = workload.into();
        self.target.selects(person) && !self.except.iter().any(|target| target.selects(person))
    }

    /// Whether it binds a workload of this node.
    pub fn binds(&self, info: &IdentityInfo) -> bool {
        self.selects(info)
    }

    /// Its rules in one direction; `None` when it says nothing about that direction.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether it is only judged beside, and takes no part in enforcement.
    pub fn is_shadow(&self) -> bool {
        matches!(self.mode, Some(Mode::Audit | Mode::Permissive))
    }

    /// Whether the workloads it selects are denied what no rule allows: the list is empty, or some rule allows.
    pub fn denies_by_default(&self, direction: Direction) -> bool {
        let posture = match direction {
            Direction::Ingress => self.posture.ingress,
            Direction::Egress => self.posture.egress,
        };
        let by_rules =
            |rules: &[Rule]| rules.is_empty() || rules.iter().any(|rule| rule.action == Action::Allow);
        self.rules(direction).is_some_and(|rules| posture.unwrap_or_else(|| by_rules(rules)))
    }
}

/// Moves a list that has room to spare to a place of its own. One that only gave the room back would lie before a hole that
/// hardly anything fits into.
fn exact<T>(list: &mut Vec<T>) {
    if list.capacity() > list.len() {
        let mut moved = Vec::with_capacity(list.len());
        moved.append(list);
        *list = moved;
    }
}

/// One line of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Shown in verdicts; without one, the rule is known by its place in the list.
    pub name: Option<String>,
    /// What a match does.
    pub action: Action,
    /// Who must be at the other end: any one of these. `None` is everybody, an empty list nobody.
    pub peers: Option<Vec<Peer>>,
    /// Which ports of which protocols. `None` is all of all, an empty list none.
    pub ports: Option<Vec<Ports>>,
    /// Where it is written.
    pub origin: Origin,
}

impl Rule {
    /// Whether it was written in another language: such a rule is named after its place, as `ingress[0]`.
    pub(super) fn imported(&self) -> bool {
        self.name.as_ref().is_some_and(|name| name.ends_with(']'))
    }
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It lets pass.
    Allow,
    /// It forbids, whatever other rules say.
    Deny,
}

/// One description of another end. It matches when every field given does and no field under `not` does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// What must hold: every field that is given.
    pub is: Fields,
    /// What must not hold: none of the fields that are given; `None` where none is, see [`Peer::not`].
    pub not: Option<Box<Fields>>,
    /// What must hold as well, in documents that have lists; a native one has none.
    pub clauses: Box<[Clause]>,
    /// Where it is written.
    pub origin: Origin,
}

/// The conditions that a peer, or its `not`, can name. `None` is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fields {
    /// The SPIFFE ID.
    pub identity: Option<Box<IdentityPattern>>,
    /// The trust domain of the SPIFFE ID.
    pub trust_domain: Option<TrustDomain>,
    /// The namespace of the workload.
    pub namespace: Option<Box<str>>,
    /// Labels that must all be on the workload.
    pub labels: Option<Labels>,
    /// Where the address must lie.
    pub range: Option<AddressRange>,
    /// A word for ends that have no SPIFFE ID, or for all that have.
    pub entity: Option<Entity>,
}

/// A field for nothing.
static NOTHING: Fields =
    Fields { identity: None, trust_domain: None, namespace: None, labels: None, range: None, entity: None };

impl Peer {
    /// What must not hold.
    pub fn not(&self) -> &Fields {
        self.not.as_deref().unwrap_or(&NOTHING)
    }
}

impl Fields {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A range of addresses with holes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// The address must lie in here.
    pub cidr: Cidr,
    /// But in none of these.
    pub except: Box<[Cidr]>,
}

/// A word for a kind of end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entity {
    /// The node itself: the root cgroup and the kernel.
    Host,
    /// No true seal and an address outside the mesh.
    World,
    /// A process of this node that belongs to no workload.
    Unmanaged,
    /// Any workload with a true seal.
    AnyAuthenticated,
    /// Everything.
    Any,
}

impl Entity {
    /// All of them, as they are written.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("host", Self::Host),
        ("world", Self::World),
        ("unmanaged", Self::Unmanaged),
        ("any-authenticated", Self::AnyAuthenticated),
        ("any", Self::Any),
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, entity)| *entity == self).map_or("", |(word, _)| word)
    }
}

/// Defaults for the workloads of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Which namespace.
    pub name: String,
    /// The mode of its workloads, where no workload or policy says otherwise.
    pub mode: Option<Mode>,
    /// Whether what no rule allows is denied, in both directions, even where no policy selects the workload.
    pub default_deny: bool,
    /// What a denied caller sees.
    pub refuse: Refuse,
    /// Where it is written.
    pub origin: Origin,
}

/// What a denied caller sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// An answer: the connection is refused at once.
    #[default]
    Rst,
    /// Nothing: the caller waits.
    Drop,
}

/// Where workloads may live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Its name; there is only one such document, so this is for people.
    pub name: String,
    /// The ranges.
    pub cidrs: Vec<Cidr>,
    /// Where the agent for a range answers, when that is not the destination address itself.
    pub peers: Vec<MeshPeer>,
    /// Where it is written.
    pub origin: Origin,
}

/// Where the agent of a range answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshPeer {
    /// The addresses it speaks for.
    pub cidr: Cidr,
    /// Its address; `None` is the destination address itself.
    pub via: Option<std::net::IpAddr>,
}

/// The word for a direction.
pub fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}
