//! Modes that were set at run time. They hold in the place of what the documents of their level say, survive a restart in
//! a file of their own, and end when they are reset.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waxseal_common::tables::Mode;

use super::Error;
use crate::api::{Level, ModeSet};
use crate::flows::{Time, words};
use crate::policy::{Namespace, PolicySet, Refuse};
use crate::workload::Origin;

/// How many may be set at once.
const MOST: usize = 4096;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Overrides {
    /// By `namespace/name`.
    workloads: BTreeMap<String, Override>,
    /// By name.
    namespaces: BTreeMap<String, Override>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Override {
    #[serde(with = "words")]
    mode: Mode,
    pub(super) since: Time,
}

fn file(state: &Path) -> PathBuf {
    state.join("modes.json")
}

impl Overrides {
    /// Reads them; none when there is no file.
    pub(super) fn read(state: &Path) -> Result<Self, Error> {
        let path = file(state);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.map_err(|source| Error::File { call: "read", path: path.clone(), source })?,
        };
        serde_json::from_str(&text).map_err(|error| Error::File { call: "parse", path, source: error.into() })
    }

    /// Writes them. The file is whole or the one before, whatever happens.
    pub(super) fn write(&self, state: &Path) -> Result<(), Error> {
        let path = file(state);
        let fresh = path.with_extension("new");
        serde_json::to_string(self)
            .map_err(io::Error::from)
            .and_then(|text| {
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&fresh, &path)
            })
            .map_err(|source| Error::File { call: "write", path, source })
    }

    /// The same with one more, or one less. `None` when there are as many as there may be.
    pub(super) fn with(&self, level: &Level, mode: Option<Mode>, now: Time) -> Option<Self> {
        let mut changed = self.clone();
        let (list, name) = match level {
            Level::Workload(name) => (&mut changed.workloads, name),
            Level::Namespace(name) => (&mut changed.namespaces, name),
        };
        match mode {
            Some(mode) => drop(list.insert(name.clone(), Override { mode, since: now })),
            None => drop(list.remove(name)),
        }
        (changed.workloads.len() + changed.namespaces.len() <= MOST).then_some(changed)
    }

    pub(super) fn workload(&self, full_name: &str) -> Option<Override> {
        self.workloads.get(full_name).copied()
    }

    pub(super) fn namespace(&self, name: &str) -> Option<Override> {
        self.namespaces.get(name).copied()
    }

    pub(super) fn contains(&self, level: &Level) -> bool {
        match level {
            Level::Workload(name) => self.workloads.contains_key(name),
            Level::Namespace(name) => self.namespaces.contains_key(name),
        }
    }

    /// For people and programs. Names are escaped.
    pub(super) fn report(&self) -> Vec<ModeSet> {
        let shown = |name: &str| crate::escape::escape(name).into_owned();
        let workloads = self.workloads.iter().map(|(name, set)| (Level::Workload(shown(name)), set));
        let namespaces = self.namespaces.iter().map(|(name, set)| (Level::Namespace(shown(name)), set));
        let set = |(level, set): (Level, &Override)| ModeSet { level, mode: set.mode, since: set.since };
        workloads.chain(namespaces).map(set).collect()
    }

    /// The documents as if they said what was set.
    pub(super) fn applied(&self, documents: &PolicySet) -> PolicySet {
        let mut set = documents.clone();
        for workload in set.workloads.iter_mut().filter(|_| !self.workloads.is_empty()) {
            if let Some(set) = self.workload(&workload.full_name()) {
                Arc::make_mut(workload).mode = Some(set.mode);
            }
        }
        for (name, override_) in &self.namespaces {
            let unwritten = || Namespace {
                name: name.clone(),
                mode: None,
                default_deny: false,
                refuse: Refuse::default(),
                origin: Origin { file: Path::new("waxseal mode set").into(), line: 0, column: 0 },
            };
            set.namespaces.entry(name.clone()).or_insert_with(unwritten).mode = Some(override_.mode);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTS: &str = "---\napiVersion: waxseal.dev/v1alpha1\nkind: Workload\nmetadata: { name: web, namespace: shop }\n\
        spec: { selector: { cgroup: /a }, mode: enforce }\n---\napiVersion: waxseal.dev/v1alpha1\nkind: Namespace\n\
        metadata: { name: data }\nspec: { defaultDeny: true, mode: enforce }\n";

    /// Name, mode, whether it denies by default.
    type Told = (String, Option<Mode>, bool);

    fn modes(set: &PolicySet) -> (Option<Mode>, Vec<Told>) {
        let namespaces = set.namespaces.values();
        let namespaces = namespaces.map(|n| (n.name.clone(), n.mode, n.default_deny)).collect();
        (set.workloads[0].mode, namespaces)
    }

    #[test]
    fn what_was_set_stands_in_the_place_of_what_is_written_until_it_is_reset() {
        let state = tempfile::tempdir().unwrap();
        let documents =
            crate::policy::parse(Path::new("p.yaml"), DOCUMENTS, &"a.org".parse().unwrap()).unwrap();
        let web = Level::Workload("shop/web".to_owned());
        let mut overrides = Overrides::read(state.path()).unwrap();
        let levels = [web.clone(), Level::Namespace("data".to_owned()), Level::Namespace("shop".to_owned())];
        for level in &levels {
            overrides = overrides.with(level, Some(Mode::Audit), Time(5)).unwrap();
        }
        overrides.write(state.path()).unwrap();
        let overrides = Overrides::read(state.path()).unwrap();
        assert_eq!(overrides.report().len(), 3);
        let namespace = |name: &str, mode, deny| (name.to_owned(), Some(mode), deny);
        assert_eq!(
            modes(&overrides.applied(&documents)),
            (
                Some(Mode::Audit),
                vec![namespace("data", Mode::Audit, true), namespace("shop", Mode::Audit, false)]
            )
        );
        let mut overrides = overrides;
        for level in &levels {
            assert!(overrides.contains(level));
            overrides = overrides.with(level, None, Time(6)).unwrap();
        }
        assert_eq!(overrides, Overrides::default());
        assert_eq!(modes(&overrides.applied(&documents)), modes(&documents));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_new_beginning() {
        let state = tempfile::tempdir().unwrap();
        for text in
            ["", "{", r#"{"workloads":{},"namespaces":{},"x":1}"#, r#"{"workloads":{"a":{"mode":"open"}}}"#]
        {
            fs::write(file(state.path()), text).unwrap();
            assert!(Overrides::read(state.path()).is_err(), "{text}");
        }
    }
}
