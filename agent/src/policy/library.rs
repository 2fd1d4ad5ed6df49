//! The files of a node, read again and again: what did not change is only looked at, not opened.
//!
//! A file counts as unchanged while its inode, size, owner, mode and both times are what they were when it was read, and
//! it had been left alone for a while by then: a file system whose clock is coarse shows no difference between two
//! writes that follow each other closely. Whatever differs is opened, checked and read as [`super::load`] does it, and
//! of its documents only those with another text or another place are parsed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::{GATHERED, LoadError, LoadErrors, Problem};
use super::gather::{Document, Gathered, understand};
use super::load::{Ownership, about, list_all, read_stamped, text_of};
use super::set::PolicySet;
use super::stream::{self, Part};
use crate::spiffe::TrustDomain;

/// How long a file must have been left alone when it is read, for its times to tell the next change.
const LEFT_ALONE: Duration = Duration::from_secs(2);

/// Files and what they said when they were read last.
#[derive(Debug)]
pub struct Library {
    trust_domain: TrustDomain,
    ownership: Ownership,
    kept: HashMap<OsString, Kept>,
}

/// One file.
#[derive(Debug)]
struct Kept {
    /// `None` to read it again in any case.
    stamp: Option<Stamp>,
    text: Arc<str>,
    /// One for each part of the text; `None` where there are mistakes.
    documents: Vec<Option<Arc<Document>>>,
}

/// By what a changed file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    place: (u64, u64),
    size: u64,
    owner: (u32, u32),
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            owner: (metadata.uid(), metadata.gid()),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it was left alone for long enough before `now`. Nobody can set the time of a change.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        i64::try_from(now.saturating_sub(LEFT_ALONE.as_secs())).is_ok_and(|then| self.changed.0 < then)
    }
}

impl Library {
    /// No files yet.
    pub fn new(trust_domain: TrustDomain, ownership: Ownership) -> Self {
        Self { trust_domain, ownership, kept: HashMap::new() }
    }

    /// Reads all `.yaml` and `.yml` files of the directories, and the files given by name.
    pub fn load(&mut self, paths: &[PathBuf]) -> Result<PolicySet, LoadErrors> {
        let trust_domain = self.trust_domain.clone();
        let mut gathered = Gathered::new(&trust_domain);
        let files = list_all(paths, &mut gathered);
        let mut before = std::mem::take(&mut self.kept);
        for file in &files {
            if gathered.errors.len() >= GATHERED {
                break;
            }
            let old = before.remove(file.as_os_str());
            match self.file(file, old, &mut gathered.errors) {
                Ok(kept) => {
                    kept.documents.iter().flatten().for_each(|document| gathered.add(&kept.text, document));
                    self.kept.insert(file.clone().into_os_string(), kept);
                }
                Err(LoadErrors(mut errors)) => gathered.errors.append(&mut errors),
            }
        }
        if gathered.errors.len() >= GATHERED {
            self.kept.extend(before);
        }
        gathered.finish(files.len())
    }

    /// The files that were read last and their texts.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &Arc<str>)> {
        self.kept.iter().map(|(path, kept)| (Path::new(path), &kept.text))
    }

    fn file(&self, path: &Path, old: Option<Kept>, errors: &mut Vec<LoadError>) -> Result<Kept, LoadErrors> {
        if let Some(kept) = old.as_ref().filter(|kept| kept.stamp.is_some()) {
            let metadata = std::fs::symlink_metadata(path).map_err(|source| {
                LoadErrors(vec![about(path, Problem::System { action: "open", source })])
            })?;
            if kept.stamp == Some(Stamp::of(&metadata)) {
                return old.ok_or_else(|| LoadErrors(Vec::new()));
            }
        }
        let now = SystemTime::now();
        let (bytes, stamp) =
            read_stamped(path, self.ownership).map_err(|problem| LoadErrors(vec![about(path, problem)]))?;
        let text = text_of(path, &bytes)?;
        let stamp = stamp.filter(|stamp| stamp.is_settled(now));
        match old {
            Some(old) if *old.text == *text && old.documents.iter().all(Option::is_some) => {
                Ok(Kept { stamp, ..old })
            }
            old => Ok(self.parse(path, text.into(), old.as_ref(), stamp, errors)),
        }
    }

    /// Parses what is new in a text.
    fn parse(
        &self,
        path: &Path,
        text: Arc<str>,
        old: Option<&Kept>,
        stamp: Option<Stamp>,
        errors: &mut Vec<LoadError>,
    ) -> Kept {
        let known: HashMap<Part<'_>, &Arc<Document>> = old.map_or_else(HashMap::new, |old| {
            let parts = stream::documents(&old.text).into_iter().zip(&old.documents);
            parts.filter_map(|(part, document)| Some((part, document.as_ref()?))).collect()
        });
        let path: Arc<Path> = path.into();
        let documents: Vec<Option<Arc<Document>>> = stream::documents(&text)
            .into_iter()
            .map(|part| match known.get(&part) {
                Some(document) => Some(Arc::clone(document)),
                // Enough is wrong already.
                None if errors.len() >= GATHERED => None,
                None => {
                    let (document, mut mistakes) = understand(&path, &text, part, &self.trust_domain);
                    let is_good = mistakes.is_empty();
                    errors.append(&mut mistakes);
                    is_good.then(|| Arc::new(document))
                }
            })
            .collect();
        let stamp = stamp.filter(|_| documents.iter().all(Option::is_some));
        Kept { stamp, text, documents }
    }
}
