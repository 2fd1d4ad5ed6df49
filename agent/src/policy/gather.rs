//! The objects and the mistakes of a set of files, one document at a time. Mistakes are gathered, not returned: a person
//! sees all of them at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::{Location, Spanned};

use super::error::{GATHERED, LoadError, LoadErrors, Problem};
use super::import::{self, PeerAuthentication};
use super::kinds::{self, Kind};
use super::load::excerpt;
use super::reader::{Reader, shown};
use super::schema::Head;
use super::set::{IdentityPolicy, Mesh, Namespace, PolicySet, Silent};
use super::stream::Part;
use super::warning::Warning;
use crate::nearest::nearest;
use crate::spiffe::TrustDomain;
use crate::workload::{Labels, Origin, Workload};

/// How deep lists may stand in lists.
const MAX_NESTING: u8 = 2;

/// What all files read so far hold.
#[derive(Debug)]
pub(super) struct Gathered<'a> {
    pub(super) trust_domain: &'a TrustDomain,
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

    /// Adds what one document says. `text` is the whole text of its file.
    pub(super) fn add(&mut self, text: &str, document: &Document) {
        if self.errors.len() >= GATHERED {
            return;
        }
        self.warnings.extend(document.warnings.iter().cloned());
        for object in &document.objects {
            if let Some((origin, problem)) = self.add_object(object) {
                let Origin { file, line, column } = origin;
                let file = file.to_path_buf();
                let excerpt = excerpt(text, line, column);
                self.errors.push(LoadError { file, line, column, problem, excerpt });
            }
        }
    }

    /// What is wrong with it beside the others, if anything is.
    fn add_object(&mut self, object: &Object) -> Option<(Origin, Problem)> {
        let (kind, title, origin) = object.identity();
        match self.seen.entry((kind, title)) {
            Entry::Occupied(first) => {
                let (kind, title) = first.key().clone();
                return Some((origin, Problem::Duplicate { kind, title, first: first.get().clone() }));
            }
            Entry::Vacant(place) => {
                if let (Object::Mesh(_), Some(first)) = (object, &self.set.mesh) {
                    return Some((origin, Problem::SecondMesh { first: first.origin.clone() }));
                }
                place.insert(origin);
            }
        }
        match object {
            Object::Policies { policies, .. } => self.set.policies.extend(policies.iter().cloned()),
            Object::PeerAuthentication(document) => self.peer_authentication.push((**document).clone()),
            Object::Workload(workload) => self.set.workloads.push(Arc::clone(workload)),
            Object::Mesh(mesh) => self.set.mesh = Some(mesh.clone()),
            Object::Namespace((namespace, labels)) => {
                self.label_namespace(&namespace.name, labels.as_ref());
                self.set.namespaces.insert(namespace.name.clone(), namespace.clone());
            }
            Object::ClusterNamespace { name, labels, origin } => {
                let became = "tells the labels of this namespace".to_owned();
                let title = name.clone();
                self.set.silent.push(Silent { kind, title, origin: origin.clone(), became });
                self.label_namespace(name, Some(labels));
            }
        }
        None
    }

    /// Labels that two documents tell of one namespace add up.
    fn label_namespace(&mut self, name: &str, labels: Option<&Labels>) {
        if let Some(labels) = labels {
            let known = self.set.namespace_labels.entry(name.to_owned()).or_default();
            *known = known.with(labels);
        }
    }
}

/// One document of a file, understood by itself.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// One, or as many as a list has.
    objects: Vec<Object>,
    warnings: Vec<Warning>,
}

/// Understands one document, whatever the others say. With any mistake, what it says is incomplete.
pub(super) fn understand(
    file: &Arc<Path>,
    text: &str,
    part: Part<'_>,
    trust_domain: &TrustDomain,
) -> (Document, Vec<LoadError>) {
    let mut document = Document::default();
    let mut errors = Vec::new();
    document.read(file, text, part, trust_domain, 0, &mut errors);
    (document, errors)
}

impl Document {
    fn read(
        &mut self,
        file: &Arc<Path>,
        text: &str,
        part: Part<'_>,
        trust_domain: &TrustDomain,
        depth: u8,
        errors: &mut Vec<LoadError>,
    ) {
        if errors.len() >= GATHERED {
            return;
        }
        let mut reader = Reader::new(Arc::clone(file), text, part, trust_domain);
        let mut items = Vec::new();
        match read_object(&mut reader) {
            Some(Read::List) if depth >= MAX_NESTING => {
                let _none: Option<()> = reader.refuse_start(Problem::ListItem);
            }
            Some(Read::List) => items = import::items(&mut reader),
            Some(Read::Object(object)) => {
                self.objects.reserve_exact(1);
                self.objects.push(object);
            }
            None => {}
        }
        errors.append(&mut reader.errors);
        self.warnings.append(&mut reader.warnings);
        for (item, before) in items {
            let part = Part { text: &item, lines_before: part.lines_before + before };
            self.read(file, text, part, trust_domain, depth + 1, errors);
        }
    }
}

/// What a document turned out to be.
enum Read {
    Object(Object),
    List,
}

/// One object that a document describes.
#[derive(Debug)]
enum Object {
    /// A document that became any number of policies.
    Policies {
        kind: &'static str,
        title: String,
        origin: Origin,
        policies: Vec<Arc<IdentityPolicy>>,
    },
    PeerAuthentication(Box<PeerAuthentication>),
    Workload(Arc<Workload>),
    Namespace((Namespace, Option<Labels>)),
    Mesh(Mesh),
    ClusterNamespace {
        name: String,
        labels: Labels,
        origin: Origin,
    },
}

impl Object {
    /// The policies of one document; all of them have its name and place.
    fn policies(policies: Vec<IdentityPolicy>) -> Option<Self> {
        let first = policies.first()?;
        let (kind, title, origin) = (first.kind, first.title(), first.origin.clone());
        Some(Self::Policies {
            kind,
            title,
            origin,
            policies: policies.into_iter().map(IdentityPolicy::exact).map(Arc::new).collect(),
        })
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
    let home = kinds::home(&kind.value);
    reader.refuse(kind.referenced, Problem::Kind { found: shown(&kind), version, near, home, known })
}

fn read_object(reader: &mut Reader<'_>) -> Option<Read> {
    let (kind, name, place) = read_kind(reader)?;
    let origin = reader.origin(place);
    let object = match kind {
        Kind::List => return Some(Read::List),
        Kind::IdentityPolicy => Object::policies(vec![reader.policy(origin)?]),
        Kind::Workload => reader.workload(origin).map(Arc::new).map(Object::Workload),
        Kind::Namespace => reader.namespace(origin).map(Object::Namespace),
        Kind::Mesh => reader.mesh(origin).map(Object::Mesh),
        Kind::NotAPolicy => {
            let text = format!("a {name} says nothing about connections; it is not read");
            reader.warn(place, "not-a-policy", text);
            None
        }
        _ => read_foreign(reader, kind, origin),
    };
    object.map(Read::Object)
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
