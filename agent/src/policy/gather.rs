//! The objects and the mistakes of a set of files, one document at a time. Mistakes are gathered, not returned: a person
//! sees all of them at once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_saphyr::{Location, Spanned};

use super::error::{GATHERED, LoadError, LoadErrors, Problem};
use super::import::{self, PeerAuthentication};
use super::kinds::{self, Kind};
use super::nearest::nearest;
use super::reader::{Reader, shown};
use super::schema::Head;
use super::set::{IdentityPolicy, Mesh, Namespace, PolicySet, Silent};
use super::stream::Part;
use super::warning::Warning;
use crate::spiffe::TrustDomain;
use crate::workload::{Labels, Origin, Workload};

/// How deep lists may stand in lists.
const MAX_NESTING: u8 = 2;

/// What all files read so far hold.
#[derive(Debug)]
pub(super) struct Gathered<'a> {
    trust_domain: &'a TrustDomain,
    set: PolicySet,
    peer_authentication: Vec<PeerAuthentication>,
    seen: HashMap<(&'static str, String), Origin>,
    pub(super) errors: Vec<LoadError>,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(trust_domain: &'a TrustDomain) -> Self {
        Self {
            trust_domain,
            set: PolicySet::default(),
            peer_authentication: Vec::new(),
            seen: HashMap::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The set, unless there was any mistake.
    pub(super) fn finish(mut self, files: usize) -> Result<PolicySet, LoadErrors> {
        if !self.errors.is_empty() {
            self.errors.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            return Err(LoadErrors(self.errors));
        }
        self.set.files = files;
        self.set.trust_domain = Some(self.trust_domain.clone());
        self.set.warnings = self.warnings;
        import::resolve_peer_authentication(self.peer_authentication, &mut self.set);
        import::resolve_namespaces(&mut self.set);
        self.set.policies.sort_by(|a, b| a.origin.cmp(&b.origin));
        Ok(self.set)
    }

    /// Reads one document of a file, unless there are mistakes enough already.
    pub(super) fn read(&mut self, file: &Path, text: &str, part: Part<'_>) {
        self.read_nested(file, text, part, 0);
    }

    fn read_nested(&mut self, file: &Path, text: &str, part: Part<'_>, depth: u8) {
        if self.errors.len() >= GATHERED {
            return;
        }
        let mut reader = Reader::new(file, text, part, self.trust_domain);
        let mut items = Vec::new();
        match read_object(&mut reader) {
            Some(Object::List) if depth >= MAX_NESTING => {
                let _none: Option<()> = reader.refuse_start(Problem::ListItem);
            }
            Some(Object::List) => items = import::items(&mut reader),
            Some(object) => self.add(&mut reader, object),
            None => {}
        }
        self.errors.append(&mut reader.errors);
        self.warnings.append(&mut reader.warnings);
        for (item, before) in items {
            let part = Part { text: &item, lines_before: part.lines_before + before };
            self.read_nested(file, text, part, depth + 1);
        }
    }

    fn add(&mut self, reader: &mut Reader<'_>, object: Object) {
        let (kind, title, origin) = object.identity();
        if let Some(first) = self.seen.get(&(kind, title.clone())) {
            reader.refuse_at(&origin, Problem::Duplicate { kind, title, first: first.clone() });
            return;
        }
        if let (Object::Mesh(_), Some(first)) = (&object, &self.set.mesh) {
            reader.refuse_at(&origin, Problem::SecondMesh { first: first.origin.clone() });
            return;
        }
        self.seen.insert((kind, title.clone()), origin.clone());
        match object {
            Object::Policies { policies, .. } => self.set.policies.extend(policies),
            Object::PeerAuthentication(document) => self.peer_authentication.push(*document),
            Object::Workload(workload) => self.set.workloads.push(*workload),
            Object::Mesh(mesh) => self.set.mesh = Some(mesh),
            Object::Namespace((namespace, labels)) => {
                self.label_namespace(&namespace.name, labels);
                self.set.namespaces.insert(namespace.name.clone(), namespace);
            }
            Object::ClusterNamespace { name, labels, .. } => {
                let became = "tells the labels of this namespace".to_owned();
                self.set.silent.push(Silent { kind, title, origin, became });
                self.label_namespace(&name, Some(labels));
            }
            Object::List => {}
        }
    }

    /// Labels that two documents tell of one namespace add up.
    fn label_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if let Some(labels) = labels {
            self.set.namespace_labels.entry(name.to_owned()).or_default().extend(labels);
        }
    }
}

/// One document, understood.
enum Object {
    /// A document that became any number of policies.
    Policies {
        kind: &'static str,
        title: String,
        origin: Origin,
        policies: Vec<IdentityPolicy>,
    },
    PeerAuthentication(Box<PeerAuthentication>),
    Workload(Box<Workload>),
    Namespace((Namespace, Option<Labels>)),
    Mesh(Mesh),
    ClusterNamespace {
        name: String,
        labels: Labels,
        origin: Origin,
    },
    List,
}

impl Object {
    /// The policies of one document; all of them have its name and place.
    fn policies(policies: Vec<IdentityPolicy>) -> Option<Self> {
        let first = policies.first()?;
        let (kind, title, origin) = (first.kind, first.title(), first.origin.clone());
        Some(Self::Policies { kind, title, origin, policies })
    }

    fn identity(&self) -> (&'static str, String, Origin) {
        match self {
            Self::Policies { kind, title, origin, .. } => (kind, title.clone(), origin.clone()),
            Self::PeerAuthentication(document) => {
                ("PeerAuthentication", document.title(), document.origin.clone())
            }
            Self::Workload(workload) => ("Workload", workload.full_name(), workload.origin.clone()),
            Self::Namespace((namespace, _)) => {
                ("Namespace", namespace.name.clone(), namespace.origin.clone())
            }
            Self::Mesh(mesh) => ("Mesh", mesh.name.clone(), mesh.origin.clone()),
            Self::ClusterNamespace { name, origin, .. } => ("Namespace (v1)", name.clone(), origin.clone()),
            Self::List => ("List", String::new(), Origin { file: PathBuf::new(), line: 0, column: 0 }),
        }
    }
}

/// The kind of a document and where it begins.
fn read_kind(reader: &mut Reader<'_>) -> Option<(Kind, &'static str, Location)> {
    let head: Spanned<Head> = reader.parse()?;
    let place = head.referenced;
    let Head { api_version, kind } = head.value;
    let Some(written) = api_version else { return reader.refuse(place, Problem::NoApiVersion) };
    let Some((version, kinds)) = kinds::version(&written.value) else {
        let near = kinds::near(&written.value).map(str::to_owned);
        return reader.refuse(written.referenced, Problem::ApiVersion { found: shown(&written), near });
    };
    let known = kinds::names(kinds);
    let Some(kind) = kind else { return reader.refuse(place, Problem::NoKind { version, known }) };
    if let Some((name, kind)) = kinds.iter().find(|(name, _)| *name == kind.value) {
        return Some((*kind, name, place));
    }
    let near = nearest(&kind.value, known.iter().copied()).map(str::to_owned);
    reader.refuse(kind.referenced, Problem::Kind { found: shown(&kind), version, near, known })
}

fn read_object(reader: &mut Reader<'_>) -> Option<Object> {
    let (kind, name, place) = read_kind(reader)?;
    let origin = reader.origin(place);
    match kind {
        Kind::IdentityPolicy => Object::policies(vec![reader.policy(origin)?]),
        Kind::Workload => reader.workload(origin).map(Box::new).map(Object::Workload),
        Kind::Namespace => reader.namespace(origin).map(Object::Namespace),
        Kind::Mesh => reader.mesh(origin).map(Object::Mesh),
        Kind::List => Some(Object::List),
        Kind::NotAPolicy => {
            let text = format!("a {name} says nothing about connections; it is not read");
            reader.warn(place, "not-a-policy", text);
            None
        }
        _ => read_foreign(reader, kind, origin),
    }
}

fn read_foreign(reader: &mut Reader<'_>, kind: Kind, origin: Origin) -> Option<Object> {
    let node = reader.parse()?;
    let policies = match kind {
        Kind::PeerAuthentication => {
            return reader.peer_authentication(&node).map(Box::new).map(Object::PeerAuthentication);
        }
        Kind::ClusterNamespace => {
            let (name, labels) = reader.cluster_namespace(&node)?;
            return Some(Object::ClusterNamespace { name, labels, origin });
        }
        Kind::AuthorizationPolicy => vec![reader.authorization_policy(&node)?],
        Kind::NetworkPolicy => vec![reader.network_policy(&node)?],
        Kind::CiliumNetworkPolicy => reader.cilium_policy(&node, true)?,
        Kind::CiliumClusterwideNetworkPolicy => reader.cilium_policy(&node, false)?,
        _ => return None,
    };
    Object::policies(policies)
}
