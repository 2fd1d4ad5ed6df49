//! Who a document is: its name, and the few things about it that matter here.

use serde_saphyr::Location;

use super::foreign::Object;
use super::node::{Node, Value};
use crate::policy::error::Problem;
use crate::policy::reader::{DEFAULT_NAMESPACE, Reader};

/// Everything that Kubernetes keeps in the metadata of an object. Most of it says nothing here.
const METADATA: [&str; 15] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The parts of metadata that say something.
#[derive(Debug)]
pub(crate) struct Metadata<'n> {
    pub(crate) name: String,
    /// Empty for a document that lives in none.
    pub(crate) namespace: String,
    /// When it was made, as written; the form sorts by time.
    pub(crate) created: Option<&'n str>,
    object: Object<'n>,
}

impl<'n> Metadata<'n> {
    /// An annotation and its place.
    pub(crate) fn annotation(&self, key: &str) -> Option<&'n Node> {
        let Value::Object(entries) = &self.object.get("annotations")?.value else { return None };
        entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| node)
    }

    /// The labels of the document itself.
    pub(crate) fn labels(&self) -> Option<&'n Node> {
        self.object.get("labels").filter(|node| !matches!(node.value, Value::Nothing))
    }
}

/// A document of another system, opened.
#[derive(Debug)]
pub(crate) struct Opened<'n> {
    pub(crate) metadata: Metadata<'n>,
    /// The whole document.
    pub(crate) object: Object<'n>,
    pub(crate) place: Location,
}

impl Reader<'_> {
    /// Opens a document that has `specs` of these names beside its metadata. `status` is what a cluster wrote into it.
    pub(crate) fn open<'n>(
        &mut self,
        node: &'n Node,
        specs: &[&str],
        namespaced: bool,
    ) -> Option<Opened<'n>> {
        let mut keys = vec!["apiVersion", "kind", "metadata"];
        keys.extend(specs);
        keys.push("status");
        let object = self.object(node, &keys)?;
        let metadata = self.must(&object, "metadata")?;
        let metadata = self.metadata(metadata, namespaced)?;
        Some(Opened { metadata, object, place: node.place })
    }

    fn metadata<'n>(&mut self, node: &'n Node, namespaced: bool) -> Option<Metadata<'n>> {
        let object = self.object(node, &METADATA)?;
        let name = self.must(&object, "name")?;
        let name = self.node_name(name);
        let namespace = match object.get("namespace") {
            Some(node) if namespaced => self.node_name(node),
            Some(node) => self.refuse(node.place, Problem::NotNamespaced),
            None if namespaced => Some(DEFAULT_NAMESPACE.to_owned()),
            None => Some(String::new()),
        };
        let created = match object.get("creationTimestamp").map(|node| &node.value) {
            Some(Value::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        Some(Metadata { name: name?, namespace: namespace?, created, object })
    }

    pub(crate) fn node_name(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        self.plain_name(text, node.place)
    }
}
