//! What can be wrong with a set of files: every mistake of every file, each with its place.

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};
use thiserror::Error;

use super::load::{MAX_FILE_BYTES, MAX_FILES};
use super::pattern::PatternError;
use super::ports::PortsError;
pub use super::yaml_problem::YamlProblem;
use crate::cidr::CidrError;
use crate::spiffe;
use crate::workload::{GlobError, Origin};

/// How many mistakes are gathered. Whoever has made as many wants to see the first.
pub(super) const GATHERED: usize = 256;
/// How many mistakes are printed; the rest is counted.
const PRINTED: usize = 64;

/// All mistakes of a set of files. The set is applied whole or not at all.
#[derive(Debug, Error, Serialize)]
#[serde(transparent)]
pub struct LoadErrors(
    /// In the order of files and lines; never empty.
    pub Vec<LoadError>,
);

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().take(PRINTED).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        match self.0.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// One mistake.
#[derive(Debug, Error, Serialize)]
pub struct LoadError {
    /// The file, or the directory.
    pub file: PathBuf,
    /// The line, from 1; 0 when the whole file is meant.
    pub line: u32,
    /// The column, from 1; 0 when the whole line or file is meant.
    pub column: u32,
    /// What is wrong.
    #[source]
    #[serde(serialize_with = "in_words")]
    pub problem: Problem,
    /// The line as it stands in the file, escaped and cut, with its mark; `None` when the file has no such line.
    pub excerpt: Option<Excerpt>,
}

/// A line of a file with the place of a mistake.
#[derive(Debug, Serialize)]
pub struct Excerpt {
    /// The line, escaped and cut.
    pub text: String,
    /// How many characters of `text` stand before the mistake.
    pub before: usize,
}

fn in_words<S: Serializer>(problem: &Problem, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(problem)
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        write!(f, ": {}", self.problem)?;
        if let Some(Excerpt { text, before }) = &self.excerpt {
            write!(f, "\n  {:>5} | {text}\n        | {:before$}^", self.line, "")?;
        }
        Ok(())
    }
}

/// What can be wrong. Foreign text inside is escaped.
#[derive(Debug, Error)]
pub enum Problem {
    /// The system refuses to open, list or read it.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried: "open", "read", "list".
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A symbolic link, a directory, a pipe, a socket or a device.
    #[error("is {0}, not a regular file; it is not read")]
    NotAFile(&'static str),
    /// Somebody else can change it.
    #[error(
        "belongs to user {owner}; a policy file must belong to root or to the user who reads it (user {reader})"
    )]
    Owner {
        /// Whose it is.
        owner: u32,
        /// Who reads it.
        reader: u32,
    },
    /// Anybody can change it.
    #[error("is writable for everybody; run `chmod o-w` on it")]
    WorldWritable,
    /// It is too big to be a policy.
    #[error("is larger than {MAX_FILE_BYTES} bytes; split it into several files")]
    TooLarge,
    /// The directory is too full.
    #[error(
        "more than {MAX_FILES} policy files; one file can hold several documents, with `---` between them"
    )]
    TooManyFiles,
    /// Some byte is no text.
    #[error("is not UTF-8 text; save it as UTF-8")]
    NotText,
    /// A NUL character.
    #[error("contains a NUL character")]
    Nul,
    /// It is no YAML, or not the shape that its kind has.
    #[error("{0}")]
    Yaml(YamlProblem),
    /// No `apiVersion`.
    #[error("`apiVersion` is missing; write `apiVersion: {}`", super::schema::API_VERSION)]
    NoApiVersion,
    /// An `apiVersion` that is not read here.
    #[error("unknown apiVersion `{found}`{}; known: {}", meant(near.as_deref()), super::kinds::versions().join(", "))]
    ApiVersion {
        /// As written.
        found: String,
        /// What was probably meant.
        near: Option<String>,
    },
    /// No `kind`.
    #[error("`kind` is missing; known kinds of {version}: {}", known.join(", "))]
    NoKind {
        /// The `apiVersion`.
        version: &'static str,
        /// The kinds it has here.
        known: Vec<&'static str>,
    },
    /// A `kind` that this version does not have.
    #[error(
        "unknown kind `{found}` of {version}{}{}; known: {}",
        meant(near.as_deref()),
        home.map(|home| format!(", it is one of {home}")).unwrap_or_default(),
        known.join(", ")
    )]
    Kind {
        /// As written.
        found: String,
        /// The `apiVersion`.
        version: &'static str,
        /// What was probably meant.
        near: Option<String>,
        /// The version that has this kind.
        home: Option<&'static str>,
        /// The kinds it has here.
        known: Vec<&'static str>,
    },
    /// The same object twice.
    #[error("{kind} {title} is already defined at {first}")]
    Duplicate {
        /// The kind.
        kind: &'static str,
        /// `namespace/name`, or the name.
        title: String,
        /// The other place.
        first: Origin,
    },
    /// Two `Mesh` documents.
    #[error("there is already a Mesh document at {first}; a node has one")]
    SecondMesh {
        /// The other place.
        first: Origin,
    },
    /// A name that would not be safe in a SPIFFE ID or on a terminal.
    #[error("`{0}` is no name; names are 1 to 253 of A-Z a-z 0-9 . _ - and neither `.` nor `..`")]
    Name(String),
    /// A rule name that would not be safe to show.
    #[error("`{0}` is no rule name; rule names are 1 to 128 printable ASCII characters without `#`")]
    RuleName(String),
    /// A word out of a small set.
    #[error("unknown {what} `{found}`{}; known: {known}", meant(near.as_deref()))]
    Word {
        /// What the word is for.
        what: &'static str,
        /// As written.
        found: String,
        /// What was probably meant.
        near: Option<String>,
        /// The words that are allowed.
        known: String,
    },
    /// A key that this place does not have.
    #[error("unknown key `{key}`{}; allowed here: {}", meant(near.as_deref()), known.join(", "))]
    UnknownKey {
        /// As written, escaped.
        key: String,
        /// What was probably meant.
        near: Option<String>,
        /// The keys that are allowed.
        known: Vec<String>,
    },
    /// A key that must be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A key without a value.
    #[error("a value is missing; leave the key out, or quote an empty text")]
    NoValue,
    /// Another type of value.
    #[error("expected {expected}, found {found}{}", if *quote { "; put it in quotes" } else { "" })]
    Expected {
        /// What should be here.
        expected: &'static str,
        /// What is here.
        found: &'static str,
        /// Whether quotes would help.
        quote: bool,
    },
    /// A port that is none.
    #[error("this is no port; ports are 1 to 65535, in decimal digits without leading zeros")]
    Port,
    /// Items of a list whose places cannot be told.
    #[error(
        "the items of this list cannot be told apart; write them as documents of their own, with `---` between them"
    )]
    ListItem,
    /// A cluster-wide document with a namespace.
    #[error("a document of this kind lives in no namespace; leave the key out")]
    NotNamespaced,
    /// Something of another system that nothing here can stand for, and that may not be left out.
    #[error("`{field}` cannot be honoured here: {why}")]
    Unsupported {
        /// The key or the word, escaped.
        field: String,
        /// Why not.
        why: &'static str,
    },
    /// A list that would turn a DENY into nothing.
    #[error("an empty `{0}` matches nothing, so this would deny nothing; leave the key out")]
    EmptyDeny(&'static str),
    /// A peer of a `NetworkPolicy` without any field.
    #[error(
        "this says nothing about the other end; give `podSelector`, `namespaceSelector` or `ipBlock`, or leave the list out for everybody"
    )]
    EmptyNetworkPeer,
    /// A number in quotes, where a text is the name of a port.
    #[error("a port number stands without quotes here; in quotes it would be a port's name")]
    QuotedPort,
    /// Keys that exclude each other.
    #[error("`{0}` and `{1}` cannot stand in one rule; write two rules")]
    Together(&'static str, &'static str),
    /// Settings for ports that belong to no workload.
    #[error("`portLevelMtls` needs a `selector`: ports are set for workloads, not for whole namespaces")]
    PortsWithoutSelector,
    /// A selector that would leave its namespace.
    #[error(
        "a document in namespace `{namespace}` selects only workloads of that namespace; leave `{key}` out"
    )]
    LeavesNamespace {
        /// The namespace of the document.
        namespace: String,
        /// The key that names another.
        key: String,
    },
    /// A label expression whose values do not fit its operator.
    #[error("the operator `{operator}` {}", if *wanted { "needs `values`" } else { "takes no `values`" })]
    Values {
        /// The operator.
        operator: &'static str,
        /// Whether it needs values.
        wanted: bool,
    },
    /// An `endPort` that makes no range.
    #[error("`endPort` needs a `port` that is a number and not above it")]
    EndPort,
    /// An annotation that is neither true nor false.
    #[error("`istio.io/dry-run` is `\"true\"` or `\"false\"`")]
    DryRun,
    /// A principal that could be no SPIFFE ID.
    #[error(
        "no workload can be `{text}`: a principal is a SPIFFE ID without `spiffe://`, as `cluster.local/ns/shop/sa/web`; {source}"
    )]
    Principal {
        /// As written, escaped.
        text: String,
        /// Why not.
        source: PatternError,
    },
    /// A service account whose name could be in no SPIFFE ID.
    #[error(
        "`{text}` is no service account; write `namespace/name`, or `name` for one of this namespace: {source}"
    )]
    ServiceAccount {
        /// As written, escaped.
        text: String,
        /// Why not.
        source: spiffe::Error,
    },
    /// An empty label key, or one with unprintable characters.
    #[error("`{0}` is no label: key and value are up to 253 printable characters, and the key is not empty")]
    Label(String),
    /// A peer without any field.
    #[error("this says nothing about the other end; for everybody write `entity: any`")]
    EmptyPeer,
    /// A `not` without any field.
    #[error("an empty `not` excludes nothing; leave it out")]
    EmptyNot,
    /// An empty label list in a peer.
    #[error("empty labels ask for nothing; for every workload write `entity: any-authenticated`")]
    EmptyPeerLabels,
    /// `except` without `cidr`.
    #[error("`except` makes holes in a `cidr`, and there is none")]
    ExceptWithoutCidr,
    /// A hole that is not in the range.
    #[error("{hole} is not inside {cidr}")]
    ExceptOutside {
        /// The hole.
        hole: crate::cidr::Cidr,
        /// The range.
        cidr: crate::cidr::Cidr,
    },
    /// An `identity` that is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A `spiffeId` or `trustDomain` that is none.
    #[error(transparent)]
    Spiffe(#[from] spiffe::Error),
    /// Ports that are none.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A range of addresses that is none.
    #[error(transparent)]
    Cidr(#[from] CidrError),
    /// An address that is none.
    #[error("`{0}` is no IP address")]
    Address(String),
    /// A pattern that is none.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// A workload selector without any field.
    #[error(
        "an empty selector would claim every process; give at least one of systemdUnit, cgroup, container, uid, executable"
    )]
    EmptySelector,
    /// A container selector without any field.
    #[error("an empty container selector asks for nothing; give at least one of name, image, labels")]
    EmptyContainer,
    /// A question of a case that means nothing here.
    #[error(transparent)]
    Question(super::explain::ExplainError),
    /// The documents do not fit into the tables.
    #[error(transparent)]
    Compile(super::compile::CompileError),
    /// An executable that is neither.
    #[error("an executable is an absolute path or `sha256:` and 64 hexadecimal digits")]
    Executable,
}

/// `, probably ...`, when there is something like it.
pub(super) fn meant(near: Option<&str>) -> String {
    near.map(|word| format!(", probably `{word}`")).unwrap_or_default()
}
