//! The objects and the mistakes of a set of files, one document at a time. Mistakes are gathered, not returned: a person
//! sees all of them at once.

use std::collections::HashMap;
use std::path::Path;

use serde_saphyr::Spanned;

use super::error::{GATHERED, LoadError, LoadErrors, Problem};
use super::reader::{Reader, shown};
use super::schema::{API_VERSION, Head};
use super::set::{IdentityPolicy, Mesh, Namespace, PolicySet};
use super::stream::Part;
use super::warning::Warning;
use crate::spiffe::TrustDomain;
use crate::workload::{Origin, Workload};

/// What all files read so far hold.
#[derive(Debug)]
pub(super) struct Gathered<'a> {
    trust_domain: &'a TrustDomain,
    set: PolicySet,
    seen: HashMap<(&'static str, String), Origin>,
    pub(super) errors: Vec<LoadError>,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(trust_domain: &'a TrustDomain) -> Self {
        Self {
            trust_domain,
            set: PolicySet::default(),
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
        self.set.warnings = self.warnings;
        Ok(self.set)
    }

    /// Reads one document of a file, unless there are mistakes enough already.
    pub(super) fn read(&mut self, file: &Path, text: &str, part: Part<'_>) {
        if self.errors.len() >= GATHERED {
            return;
        }
        let mut reader = Reader::new(file, text, part);
        if let Some(object) = read_object(&mut reader, self.trust_domain) {
            self.add(&mut reader, object);
        }
        self.errors.append(&mut reader.errors);
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
        self.seen.insert((kind, title), origin);
        match object {
            Object::Policy(policy) => self.set.policies.push(*policy),
            Object::Workload(workload) => self.set.workloads.push(*workload),
            Object::Mesh(mesh) => self.set.mesh = Some(mesh),
            Object::Namespace(namespace) => {
                self.set.namespaces.insert(namespace.name.clone(), namespace);
            }
        }
    }
}

/// One document, understood.
enum Object {
    Policy(Box<IdentityPolicy>),
    Workload(Box<Workload>),
    Namespace(Namespace),
    Mesh(Mesh),
}

impl Object {
    fn identity(&self) -> (&'static str, String, Origin) {
        match self {
            Self::Policy(policy) => (policy.kind, policy.title(), policy.origin.clone()),
            Self::Workload(workload) => ("Workload", workload.full_name(), workload.origin.clone()),
            Self::Namespace(namespace) => ("Namespace", namespace.name.clone(), namespace.origin.clone()),
            Self::Mesh(mesh) => ("Mesh", mesh.name.clone(), mesh.origin.clone()),
        }
    }
}

fn read_object(reader: &mut Reader<'_>, trust_domain: &TrustDomain) -> Option<Object> {
    let head: Spanned<Head> = reader.parse()?;
    let place = head.referenced;
    let Head { api_version, kind } = head.value;
    match &api_version {
        None => reader.refuse(place, Problem::NoApiVersion)?,
        Some(version) if version.value != API_VERSION => {
            reader.refuse(version.referenced, Problem::ApiVersion(shown(version)))?;
        }
        Some(_) => {}
    }
    let Some(kind) = kind else { return reader.refuse(place, Problem::NoKind) };
    let origin = reader.origin(place);
    match kind.value.as_str() {
        "IdentityPolicy" => reader.policy(origin).map(Box::new).map(Object::Policy),
        "Workload" => reader.workload(origin, trust_domain).map(Box::new).map(Object::Workload),
        "Namespace" => reader.namespace(origin).map(Object::Namespace),
        "Mesh" => reader.mesh(origin).map(Object::Mesh),
        _ => reader.refuse(kind.referenced, Problem::Kind { found: shown(&kind) }),
    }
}
