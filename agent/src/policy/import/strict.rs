//! What all `PeerAuthentication` documents say together: which workloads deny sources that have not proved who they are,
//! and on which ports.
//!
//! The most particular document holds: one for the workload, then one for its namespace, then one for the mesh; the oldest
//! of one level. So each document becomes deny rules for exactly the workloads for which it decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::policy::clause::{Clause, Target, Test};
use crate::policy::ports::{self, Ports};
use crate::policy::set::{Action, Entity, Fields, IdentityPolicy, Peer, PolicySet, Posture, Rule, Silent};
use crate::policy::warning::Warning;
use crate::workload::{Labels, Origin};

/// Whether a source must have proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutual {
    Strict,
    Optional,
}

/// One document as written.
#[derive(Clone, Debug)]
pub(crate) struct PeerAuthentication {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Whether it is in the root namespace.
    pub(crate) everywhere: bool,
    /// Empty for a whole namespace, or the mesh.
    pub(crate) selector: Labels,
    /// `None` inherits.
    pub(crate) mode: Option<Mutual>,
    /// `None` inherits.
    pub(crate) ports: BTreeMap<u16, Option<Mutual>>,
    pub(crate) created: Option<String>,
    pub(crate) origin: Origin,
}

impl PeerAuthentication {
    /// Old before young; without dates, or with equal ones, by name, as Istio does.
    fn age(&self) -> (&str, String) {
        (self.created.as_deref().unwrap_or_default(), format!("{}.{}", self.name, self.namespace))
    }

    fn target(&self) -> Target {
        let namespace = (!self.everywhere).then(|| self.namespace.clone());
        Target { namespace, labels: self.selector.clone(), clauses: Vec::new() }
    }

    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The document of a whole namespace or of the mesh, where it says anything.
type Decider<'a> = Option<(&'a PeerAuthentication, Mutual)>;

/// Adds to a set what these documents say together.
pub(crate) fn resolve(mut documents: Vec<PeerAuthentication>, set: &mut PolicySet) {
    documents.sort_by(|a, b| a.age().cmp(&b.age()));
    let (wide, narrow): (Vec<_>, Vec<_>) =
        documents.iter().partition(|document| document.selector.is_empty());
    let mut mesh: Decider<'_> = None;
    let mut namespaces: BTreeMap<&str, (&PeerAuthentication, Option<Mutual>)> = BTreeMap::new();
    let mut older: BTreeMap<Option<&str>, &PeerAuthentication> = BTreeMap::new();
    for document in wide {
        let level = (!document.everywhere).then_some(document.namespace.as_str());
        if let Some(first) = older.get(&level) {
            set.warnings.push(overshadowed(document, first));
        } else if level.is_some() {
            namespaces.insert(&document.namespace, (document, document.mode));
        } else {
            mesh = document.mode.map(|mode| (document, mode));
        }
        older.entry(level).or_insert(document);
    }
    let mut written = Written { set, parts: BTreeMap::new(), said: BTreeSet::new() };
    let levels = Levels { mesh, namespaces, narrow };
    levels.whole_mesh(&mut written);
    levels.whole_namespaces(&mut written);
    for (place, document) in levels.narrow.iter().enumerate() {
        levels.workloads(place, document, &mut written);
    }
    let said = std::mem::take(&mut written.said);
    for document in documents.iter().filter(|document| !said.contains(&document.title())) {
        set.silent.push(Silent {
            kind: "PeerAuthentication",
            title: document.title(),
            origin: document.origin.clone(),
            became: "asks nothing of sources: the other rules decide".to_owned(),
        });
    }
}

fn overshadowed(document: &PeerAuthentication, first: &PeerAuthentication) -> Warning {
    Warning {
        origin: document.origin.clone(),
        code: "overshadowed",
        text: format!(
            "this has no effect: {} ({}) is about the same workloads and older",
            first.title(),
            first.origin
        ),
    }
}

struct Levels<'a> {
    mesh: Decider<'a>,
    namespaces: BTreeMap<&'a str, (&'a PeerAuthentication, Option<Mutual>)>,
    narrow: Vec<&'a PeerAuthentication>,
}

impl<'a> Levels<'a> {
    /// The workloads that documents with a selector speak for, as far as they can be in this namespace.
    fn spoken_for(&self, namespace: Option<&str>) -> Vec<Target> {
        let near = self.narrow.iter().filter(|document| {
            namespace.is_none_or(|name| document.everywhere || document.namespace == name)
        });
        near.map(|document| document.target()).collect()
    }

    fn whole_mesh(&self, written: &mut Written<'_>) {
        let Some((document, mode)) = self.mesh else { return };
        let mut except = self.spoken_for(None);
        except.extend(self.deciding_namespaces().map(|name| Target::namespace(Some(name.to_owned()))));
        written.add(document, Target::namespace(None), except, mode, &[]);
    }

    fn deciding_namespaces(&self) -> impl Iterator<Item = &'a str> {
        self.namespaces.iter().filter(|(_, (_, mode))| mode.is_some()).map(|(name, _)| *name)
    }

    fn whole_namespaces(&self, written: &mut Written<'_>) {
        for (name, (document, mode)) in &self.namespaces {
            if let Some(mode) = mode {
                let except = self.spoken_for(Some(name));
                written.add(document, Target::namespace(Some((*name).to_owned())), except, *mode, &[]);
            }
        }
    }

    /// A document with a selector, once for each namespace whose own document it may inherit from.
    fn workloads(&self, place: usize, document: &'a PeerAuthentication, written: &mut Written<'_>) {
        let older: Vec<Target> = self.narrow.iter().take(place).map(|document| document.target()).collect();
        let inherited: Vec<&str> = if document.everywhere {
            self.deciding_namespaces().collect()
        } else {
            vec![document.namespace.as_str()]
        };
        for namespace in &inherited {
            let target = Target { namespace: Some((*namespace).to_owned()), ..document.target() };
            Self::workload(document, target, older.clone(), self.above(namespace), written);
        }
        if document.everywhere {
            let others = inherited.iter().map(|name| Target::namespace(Some((*name).to_owned())));
            let except = older.into_iter().chain(others).collect();
            Self::workload(document, document.target(), except, self.mesh, written);
        }
    }

    /// What holds in a namespace apart from documents with selectors.
    fn above(&self, namespace: &str) -> Decider<'a> {
        match self.namespaces.get(namespace) {
            Some((document, Some(mode))) => Some((document, *mode)),
            _ => self.mesh,
        }
    }

    fn workload(
        document: &'a PeerAuthentication,
        target: Target,
        except: Vec<Target>,
        above: Decider<'a>,
        written: &mut Written<'_>,
    ) {
        let (decider, mode) = match (document.mode, above) {
            (Some(mode), _) => (document, mode),
            (None, Some(above)) => above,
            (None, None) => (document, Mutual::Optional),
        };
        let ports: Vec<(u16, Mutual)> = document
            .ports
            .iter()
            .map(|(port, mutual)| (*port, mutual.unwrap_or(mode)))
            .filter(|(_, mutual)| *mutual != mode)
            .collect();
        let named = if ports.is_empty() { decider } else { document };
        written.add(named, target, except, mode, &ports);
    }
}

struct Written<'a> {
    set: &'a mut PolicySet,
    /// How many policies each document became.
    parts: BTreeMap<String, u32>,
    /// The documents that became any.
    said: BTreeSet<String>,
}

impl Written<'_> {
    /// Adds one policy, unless it asks nothing. `ports` are those where the opposite of `mode` holds.
    fn add(
        &mut self,
        document: &PeerAuthentication,
        target: Target,
        except: Vec<Target>,
        mode: Mutual,
        ports: &[(u16, Mutual)],
    ) {
        let numbers: Vec<u16> = ports.iter().map(|(port, _)| *port).collect();
        let strict = match (mode, numbers.as_slice()) {
            (Mutual::Strict, []) => None,
            (Mutual::Strict, but) => Some(ports::but_tcp(but, true)),
            (Mutual::Optional, []) => return,
            (Mutual::Optional, only) => Some(only.iter().copied().map(Ports::tcp).collect()),
        };
        let part = self.parts.entry(document.title()).or_default();
        self.set.policies.push(Arc::new(IdentityPolicy {
            kind: "PeerAuthentication",
            namespace: document.namespace.clone(),
            name: document.name.clone(),
            part: *part,
            target,
            except,
            mode: None,
            ingress: Some(vec![unproven(&document.origin, strict)]),
            egress: None,
            posture: Posture { ingress: Some(false), egress: None },
            origin: document.origin.clone(),
        }));
        *part += 1;
        self.said.insert(document.title());
    }
}

/// Denies sources that have not proved who they are.
fn unproven(origin: &Origin, ports: Option<Vec<Ports>>) -> Rule {
    let clauses = vec![Clause::none(vec![Test::Entity(Entity::AnyAuthenticated)])];
    let peer = Peer { is: Fields::default(), not: None, clauses: clauses.into(), origin: origin.clone() };
    Rule {
        name: Some("STRICT".to_owned()),
        action: Action::Deny,
        peers: Some(vec![peer]),
        ports,
        origin: origin.clone(),
    }
}
