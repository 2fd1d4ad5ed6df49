//! Who said what: the file, the environment, `--set`, flags. The last one wins, key by key.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_saphyr::Spanned;

use super::values::Problem;
use super::{DEFAULT_FILE, Error, KEYS};
use crate::escape::escape;

/// The most that a configuration file may hold.
const FILE_LIMIT: u64 = 64 * 1024;

/// Everything from which a configuration is made.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The file that was named; [`DEFAULT_FILE`] is read when it is there and none was named.
    pub file: Option<&'a Path>,
    /// The environment: a name to its value.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// `--set key=value`, as written and in order.
    pub set: &'a [String],
    /// Flags that were given: the key and its value.
    pub flags: &'a [(&'static str, String)],
}

impl fmt::Debug for Inputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, environment: _, set, flags } = self;
        f.debug_struct("Inputs")
            .field("file", file)
            .field("set", set)
            .field("flags", flags)
            .finish_non_exhaustive()
    }
}

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
    },
    /// A variable.
    Environment(String),
    /// `--set`.
    Set,
    /// A flag of its own.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", escape(&path.to_string_lossy()))
            }
            Self::Environment(name) => f.write_str(name),
            Self::Set => f.write_str("--set"),
            Self::Flag(key) => write!(f, "--{}", key.replace('_', "-")),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("{} is no regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else could have written it.
    #[error(
        "{} belongs to user {owner} and has mode {mode:04o}: others can change it; chown it to root and chmod it 0644",
        path.display()
    )]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// More than 64 KiB.
    #[error("{} has more than {FILE_LIMIT} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not YAML, or not a map of keys to values.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1; 0 when unknown.
        line: u64,
        /// From 1; 0 when unknown.
        column: u64,
        /// What the parser says; escaped.
        message: String,
    },
}

/// Every value that somebody gave, with the one who gave it last.
#[derive(Debug, Default)]
pub(super) struct Layers(BTreeMap<&'static str, (Given, Source)>);

/// A value before anybody knows its type.
#[derive(Debug)]
enum Given {
    One(String),
    Many(Vec<String>),
}

impl Layers {
    pub(super) fn source(&self, key: &str) -> Source {
        self.0.get(key).map_or(Source::Default, |(_, source)| source.clone())
    }

    pub(super) fn value<T>(
        &self,
        key: &'static str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<T, Error> {
        let parsed = match self.0.get(key) {
            None => parse(default),
            Some((Given::One(value), _)) => parse(value),
            Some((Given::Many(_), _)) => Err(Problem::List),
        };
        parsed.map_err(|problem| Error::Value { key, origin: self.source(key), problem })
    }

    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<Option<T>, Error> {
        if self.0.contains_key(key) { self.value(key, "", parse).map(Some) } else { Ok(None) }
    }

    /// A list, or one text with commas.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        default: &[&str],
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<Vec<T>, Error> {
        let items: Vec<&str> = match self.0.get(key) {
            None => default.to_vec(),
            Some((Given::One(text), _)) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
            }
            Some((Given::Many(items), _)) => items.iter().map(String::as_str).collect(),
        };
        let parsed: Result<Vec<T>, Problem> = items.into_iter().map(parse).collect();
        parsed.map_err(|problem| Error::Value { key, origin: self.source(key), problem })
    }

    fn put(&mut self, key: &str, given: Given, origin: Source) -> Result<(), Error> {
        let Some((known, _)) = KEYS.into_iter().find(|(known, _)| *known == key) else {
            return Err(Error::UnknownKey { key: key.to_owned(), origin });
        };
        self.0.insert(known, (given, origin));
        Ok(())
    }
}

pub(super) fn collect(inputs: &Inputs<'_>) -> Result<Layers, Error> {
    let mut layers = Layers::default();
    read_file(inputs, &mut layers)?;
    for (key, _) in KEYS {
        let name = format!("WAXSEAL_{}", key.to_uppercase());
        if let Some(value) = (inputs.environment)(&name) {
            layers.put(key, Given::One(value), Source::Environment(name))?;
        }
    }
    for text in inputs.set {
        let (key, value) =
            text.split_once('=').ok_or_else(|| Error::NotAnAssignment { text: text.clone() })?;
        layers.put(key.trim(), Given::One(value.trim().to_owned()), Source::Set)?;
    }
    for (key, value) in inputs.flags {
        layers.put(key, Given::One(value.clone()), Source::Flag(key))?;
    }
    Ok(layers)
}

fn read_file(inputs: &Inputs<'_>, layers: &mut Layers) -> Result<(), Error> {
    let from_environment = (inputs.environment)("WAXSEAL_CONFIG").map(PathBuf::from);
    let named = inputs.file.map(Path::to_owned).or(from_environment);
    let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let text = match trusted_text(&path) {
        Err(FileError::Read { source, .. })
            if named.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
        {
            return Ok(());
        }
        other => other?,
    };
    for (key, item) in parse(&path, &text)? {
        let Spanned { value: Item(given), referenced, .. } = item;
        let origin =
            Source::File { path: path.clone(), line: referenced.line(), column: referenced.column() };
        layers.put(&key, given, origin)?;
    }
    Ok(())
}

/// The text of a file that only root or this user can have written.
fn trusted_text(path: &Path) -> Result<String, FileError> {
    let read = |source| FileError::Read { path: path.to_owned(), source };
    // Without O_NONBLOCK a pipe in its place would stop the start.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular { path: path.to_owned() });
    }
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let own = nix::unistd::geteuid().as_raw();
    if (owner != 0 && owner != own) || mode & 0o002 != 0 {
        return Err(FileError::Writable { path: path.to_owned(), owner, mode });
    }
    let mut text = String::new();
    file.take(FILE_LIMIT + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<BTreeMap<String, Spanned<Item>>, FileError> {
    let parsed: Result<Option<BTreeMap<String, Spanned<Item>>>, _> = serde_saphyr::from_str(text);
    parsed.map(Option::unwrap_or_default).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let message = error.without_snippet().to_string();
        FileError::Syntax { path: path.to_owned(), line, column, message: escape(&message).into_owned() }
    })
}

/// A YAML value that stands for one text or a list of texts.
#[derive(Debug)]
struct Item(Given);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Given, E> {
                Ok(Given::One(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Given, E> {
                Ok(Given::One(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Given, E> {
                Ok(Given::One(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Given, E> {
                Ok(Given::One(number.to_string()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Given, E> {
                Ok(Given::One(number.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Given, A::Error> {
                let mut items = Vec::new();
                while let Some(Item(item)) = sequence.next_element()? {
                    match item {
                        Given::One(text) => items.push(text),
                        Given::Many(_) => return Err(de::Error::custom("a list in a list")),
                    }
                }
                Ok(Given::Many(items))
            }
        }

        deserializer.deserialize_any(Texts).map(Self)
    }
}
