//! Reads a `Workload`.

use std::path::PathBuf;

use serde_saphyr::Spanned;

use super::error::Problem;
use super::reader::Reader;
use super::schema::{ContainerSpec, Document, Labelled, SelectorSpec, WorkloadSpec};
use crate::spiffe::SpiffeId;
use crate::workload::{ContainerSelector, ExecutableSelector, Glob, Origin, Selector, Workload};

impl Reader<'_> {
    pub(super) fn workload(&mut self, origin: Origin) -> Option<Workload> {
        let Document { metadata, spec, .. } = self.parse::<Document<Labelled, WorkloadSpec>>()?;
        let Labelled { name: name_text, namespace, labels, .. } = metadata;
        let WorkloadSpec { selector, spiffe_id, mode } = spec;
        let name = self.name(&name_text);
        let namespace = self.namespace_name(namespace.as_ref());
        let labels = labels.map(|labels| self.labels(&labels)).unwrap_or_default();
        let mode = self.mode(mode.as_ref());
        let selector = self.selector(selector);
        let (name, namespace) = (name?, namespace?);
        let spiffe_id = match spiffe_id {
            Some(text) => self.parsed(&text, str::parse::<SpiffeId>)?,
            None => match SpiffeId::for_workload(self.trust_domain, &namespace, &name) {
                Ok(id) => id,
                Err(error) => return self.refuse(name_text.referenced, error.into()),
            },
        };
        Some(Workload { namespace, name, labels, spiffe_id, mode, selector, origin })
    }

    fn selector(&mut self, selector: Spanned<SelectorSpec>) -> Selector {
        let mistakes = self.errors.len();
        let SelectorSpec { systemd_unit, cgroup, container, uid, executable } = selector.value;
        let found = Selector {
            systemd_unit: systemd_unit.and_then(|text| self.parsed(&text, str::parse::<Glob>)),
            cgroup: cgroup.and_then(|text| self.parsed(&text, Glob::path)),
            container: container.and_then(|container| self.container(container)).map(Box::new),
            uid,
            executable: executable.and_then(|text| self.parsed(&text, executable_of)),
        };
        if found.is_empty() && self.errors.len() == mistakes {
            let _none: Option<()> = self.refuse(selector.referenced, Problem::EmptySelector);
        }
        found
    }

    fn container(&mut self, container: Spanned<ContainerSpec>) -> Option<ContainerSelector> {
        let mistakes = self.errors.len();
        let ContainerSpec { name, image, labels } = container.value;
        let found = ContainerSelector {
            name: name.and_then(|text| self.parsed(&text, str::parse::<Glob>)),
            image: image.and_then(|text| self.parsed(&text, str::parse::<Glob>)),
            labels: labels.map(|labels| self.labels(&labels)).unwrap_or_default(),
        };
        if found == ContainerSelector::default() && self.errors.len() == mistakes {
            return self.refuse(container.referenced, Problem::EmptyContainer);
        }
        Some(found)
    }
}

/// An absolute path without `..`, or `sha256:` and a hash.
fn executable_of(text: &str) -> Result<ExecutableSelector, Problem> {
    if let Some(hex) = text.strip_prefix("sha256:") {
        return sha256(hex).map(ExecutableSelector::Sha256).ok_or(Problem::Executable);
    }
    let plain =
        text.starts_with('/') && !text.chars().any(char::is_control) && !text.split('/').any(|s| s == "..");
    if plain { Ok(ExecutableSelector::Path(PathBuf::from(text))) } else { Err(Problem::Executable) }
}

fn sha256(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}
