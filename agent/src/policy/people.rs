//! A list of workloads without documents: who else is there when files are checked and explained away from a node, for
//! example what `waxseal identity list -o json` printed there.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::error::{LoadErrors, Problem};
use super::import::Node;
use super::load::{Ownership, read, text_of};
use super::reader::{DEFAULT_NAMESPACE, Reader};
use super::set::PolicySet;
use super::stream::Part;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{Selector, Workload};

/// The keys of one workload. The last two are of the list that a node prints and say nothing here.
const KEYS: [&str; 5] = ["workload", "spiffe_id", "labels", "identity", "endpoints"];

impl PolicySet {
    /// Adds the workloads of a list that no document describes: `workload` (`namespace/name`), and if wanted `spiffe_id`
    /// and `labels`.
    pub fn add_workloads(&mut self, file: &Path, trust_domain: &TrustDomain) -> Result<(), LoadErrors> {
        let bytes = read(file, Ownership::Anybody).map_err(|problem| LoadErrors::about(file, problem))?;
        self.add_workloads_text(file, text_of(file, &bytes)?, trust_domain)
    }

    /// [`Self::add_workloads`] from a text that is at hand. `file` is the name that places are given with.
    pub fn add_workloads_text(
        &mut self,
        file: &Path,
        text: &str,
        trust_domain: &TrustDomain,
    ) -> Result<(), LoadErrors> {
        let mut reader = Reader::new(file.into(), text, Part { text, lines_before: 0 }, trust_domain);
        let found = reader.people();
        if !reader.errors.is_empty() {
            return Err(LoadErrors(reader.errors));
        }
        let known: HashSet<String> = self.workloads.iter().map(|workload| workload.full_name()).collect();
        let new = found.into_iter().flatten().filter(|workload| !known.contains(&workload.full_name()));
        self.workloads.extend(new.map(Arc::new));
        Ok(())
    }
}

impl Reader<'_> {
    fn people(&mut self) -> Option<Vec<Workload>> {
        let node: Node = self.parse()?;
        let list = if node.is_list() {
            &node
        } else {
            let object = self.object(&node, &["identities", "v"])?;
            self.must(&object, "identities")?
        };
        Some(self.list(list)?.iter().filter_map(|node| self.person(node)).collect())
    }

    fn person(&mut self, node: &Node) -> Option<Workload> {
        let object = self.object(node, &KEYS)?;
        let named = self.must(&object, "workload")?;
        let full_name = self.text(named)?.to_owned();
        let (namespace, name) = full_name.split_once('/').unwrap_or((DEFAULT_NAMESPACE, &full_name));
        let namespace = self.plain_name(namespace, named.place)?;
        let name = self.plain_name(name, named.place)?;
        let spiffe_id = match object.get("spiffe_id") {
            Some(node) => self.text(node)?.parse::<SpiffeId>().map_err(|error| (node.place, error)),
            None => SpiffeId::for_workload(self.trust_domain, &namespace, &name)
                .map_err(|error| (named.place, error)),
        };
        let spiffe_id = match spiffe_id {
            Ok(id) => id,
            Err((place, error)) => return self.refuse(place, Problem::from(error)),
        };
        let mut labels = Vec::new();
        if let Some(node) = object.get("labels") {
            for (key, value) in self.entries(node)? {
                let text = self.text(value)?;
                self.label(&key.value, text, value.place)?;
                labels.push((key.value.as_str(), text));
            }
        }
        let origin = self.origin(node.place);
        Some(Workload {
            namespace,
            name,
            labels: labels.into_iter().collect(),
            spiffe_id,
            mode: None,
            selector: Selector::default(),
            origin,
        })
    }
}
