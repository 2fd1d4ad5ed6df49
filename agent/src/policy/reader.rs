//! Reads one document: its shape first, then the small words and names that all kinds share.

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_saphyr::{Location, MergeKeyPolicy, Options};
use waxseal_common::tables::Mode;

use super::error::{GATHERED, LoadError, Problem, YamlProblem};
use super::load::excerpt;
use super::schema::{Document, LabelMap, MeshSpec, Named, NamespaceSpec, Text};
use super::set::{Mesh, MeshPeer, Namespace, Refuse};
use super::stream::Part;
use super::warning::Warning;
use crate::cidr::Cidr;
use crate::escape::escape;
use crate::nearest::nearest;
use crate::spiffe::TrustDomain;
use crate::workload::{Labels, Origin};

/// The namespace of objects that name none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";
const MAX_NAME: usize = 253;

/// One document of one file, and the mistakes found in it.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) file: Arc<Path>,
    text: &'a str,
    part: Part<'a>,
    /// A document with any mistake is refused with its whole set, so readers may go on with whatever they have.
    pub(super) errors: Vec<LoadError>,
    /// What a person should look at.
    pub(super) warnings: Vec<Warning>,
    /// The trust domain of this node, in which names without one are.
    pub(super) trust_domain: &'a TrustDomain,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: Arc<Path>, text: &'a str, part: Part<'a>, trust_domain: &'a TrustDomain) -> Self {
        Self { file, text, part, errors: Vec::new(), warnings: Vec::new(), trust_domain }
    }

    /// Notes what a person should look at.
    pub(super) fn warn(&mut self, place: Location, code: &'static str, text: String) {
        debug_assert!(super::warning::CODES.contains(&code), "{code} is not in the list");
        if self.warnings.len() < GATHERED {
            self.warnings.push(Warning { origin: self.origin(place), code, text });
        }
    }

    /// The text of the document.
    pub(super) fn document(&self) -> &'a str {
        self.part.text
    }

    /// The document as a `T`.
    pub(super) fn parse<T: DeserializeOwned>(&mut self) -> Option<T> {
        match serde_saphyr::from_str_with_options(self.part.text, options()) {
            Ok(document) => Some(document),
            Err(error) => {
                let line = error.location().and_then(|place| {
                    self.part.text.lines().nth(usize::try_from(place.line()).ok()?.checked_sub(1)?)
                });
                let problem = Problem::Yaml(YamlProblem::new(&error, line.unwrap_or_default()));
                match error.location() {
                    Some(location) => self.refuse(location, problem),
                    None => self.refuse_line(self.part.lines_before + 1, 0, problem),
                }
            }
        }
    }

    /// Where in the file a place in the document is.
    pub(super) fn origin(&self, place: Location) -> Origin {
        Origin {
            file: Arc::clone(&self.file),
            line: place.line() as u32 + self.part.lines_before,
            column: place.column() as u32,
        }
    }

    /// Notes a mistake. Always `None`, to be returned by whoever cannot go on.
    pub(super) fn refuse<T>(&mut self, place: Location, problem: Problem) -> Option<T> {
        let origin = self.origin(place);
        self.refuse_line(origin.line, origin.column, problem)
    }

    /// [`Self::refuse`] for the whole document.
    pub(super) fn refuse_start<T>(&mut self, problem: Problem) -> Option<T> {
        self.refuse_line(self.part.lines_before + 1, 0, problem)
    }

    fn refuse_line<T>(&mut self, line: u32, column: u32, problem: Problem) -> Option<T> {
        if self.errors.len() >= GATHERED {
            return None;
        }
        let excerpt = excerpt(self.text, line, column);
        self.errors.push(LoadError { file: self.file.to_path_buf(), line, column, problem, excerpt });
        None
    }

    /// A text that some type can read.
    pub(super) fn parsed<T, E: Into<Problem>>(
        &mut self,
        text: &Text,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(&text.value) {
            Ok(value) => Some(value),
            Err(problem) => self.refuse(text.referenced, problem.into()),
        }
    }

    /// One word out of a few.
    pub(super) fn word<T: Copy>(
        &mut self,
        text: &Text,
        what: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        self.spelled(&text.value, text.referenced, what, words)
    }

    /// [`Self::word`] for a text whose place is apart.
    pub(super) fn spelled<T: Copy>(
        &mut self,
        text: &str,
        place: Location,
        what: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let near = nearest(text, words.iter().map(|(word, _)| *word)).map(str::to_owned);
        let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.refuse(place, Problem::Word { what, found: escape(text).into_owned(), near, known })
    }

    pub(super) fn mode(&mut self, text: Option<&Text>) -> Option<Mode> {
        let modes = [Mode::Permissive, Mode::Audit, Mode::Enforce].map(|mode| (mode.as_str(), mode));
        self.word(text?, "mode", &modes)
    }

    /// A name that can stand in a SPIFFE ID, in a file:line and on a terminal as it is.
    pub(super) fn name(&mut self, text: &Text) -> Option<String> {
        self.plain_name(&text.value, text.referenced)
    }

    /// [`Self::name`] for a text whose place is apart.
    pub(super) fn plain_name(&mut self, name: &str, place: Location) -> Option<String> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if plain && (1..=MAX_NAME).contains(&name.len()) && name != "." && name != ".." {
            return Some(name.to_owned());
        }
        self.refuse(place, Problem::Name(escape(name).into_owned()))
    }

    pub(super) fn namespace_name(&mut self, text: Option<&Text>) -> Option<String> {
        match text {
            Some(text) => self.name(text),
            None => Some(DEFAULT_NAMESPACE.to_owned()),
        }
    }

    pub(super) fn labels(&mut self, labels: &LabelMap) -> Labels {
        for (key, value) in &labels.value {
            let _ok = self.label(key, value, labels.referenced);
        }
        labels.value.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// Whether a label is one that can be shown.
    pub(super) fn label(&mut self, key: &str, value: &str, place: Location) -> Option<()> {
        let fits = |text: &str| text.len() <= MAX_NAME && !text.chars().any(char::is_control);
        if !key.is_empty() && fits(key) && fits(value) {
            return Some(());
        }
        let shown = escape(&format!("{key}: {value}")).into_owned();
        self.refuse(place, Problem::Label(shown))
    }

    pub(super) fn cidr(&mut self, text: &Text) -> Option<Cidr> {
        self.parsed(text, str::parse::<Cidr>)
    }

    /// What a namespace says, and its labels where they are told.
    pub(super) fn namespace(&mut self, origin: Origin) -> Option<(Namespace, Option<Labels>)> {
        let Document { metadata, spec, .. } = self.parse::<Document<Named, NamespaceSpec>>()?;
        let NamespaceSpec { mode, default_deny, refuse } = spec;
        let refusals = [("rst", Refuse::Rst), ("drop", Refuse::Drop)];
        let labels = metadata.labels.as_ref().map(|labels| self.labels(labels));
        let namespace = Namespace {
            name: self.name(&metadata.name)?,
            mode: self.mode(mode.as_ref()),
            default_deny: default_deny.unwrap_or(false),
            refuse: refuse.and_then(|text| self.word(&text, "refusal", &refusals)).unwrap_or_default(),
            origin,
        };
        Some((namespace, labels))
    }

    pub(super) fn mesh(&mut self, origin: Origin) -> Option<Mesh> {
        let Document { metadata, spec, .. } = self.parse::<Document<Named, MeshSpec>>()?;
        let MeshSpec { cidrs, peers } = spec;
        let peers = peers.unwrap_or_default().into_iter().filter_map(|peer| {
            let cidr = self.cidr(&peer.cidr)?;
            let via =
                peer.via.and_then(|text| self.parsed(&text, |t| t.parse().map_err(|_source| address_of(t))));
            Some(MeshPeer { cidr, via })
        });
        let peers = peers.collect();
        let cidrs = cidrs.iter().filter_map(|text| self.cidr(text)).collect();
        Some(Mesh { name: self.name(&metadata.name)?, cidrs, peers, origin })
    }
}

fn address_of(text: &str) -> Problem {
    Problem::Address(escape(text).into_owned())
}

/// A text as it may be shown.
pub(super) fn shown(text: &Text) -> String {
    escape(&text.value).into_owned()
}

/// Bounds for one document. A file is at most a megabyte, so these are about aliases that multiply and about depth.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 2,
            max_depth: 32,
            flow_nesting_limit: 32,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        merge_keys: MergeKeyPolicy::Error,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        emit_comments: false,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}
