//! Files in, [`PolicySet`] out, or every mistake of every file.
//!
//! Whoever can change a policy file rules this node, so a file is read only when root or the reader owns it and nobody
//! else can write to it, and only when it is a plain file of a plain size.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Excerpt, GATHERED, LoadError, LoadErrors, Problem};
use super::gather::{Gathered, understand};
use super::library::{Library, Stamp};
use super::set::PolicySet;
use super::stream;
use super::warning::Warning;
use crate::spiffe::TrustDomain;
use crate::workload::Origin;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most files that are read from all directories together.
pub const MAX_FILES: usize = 16_384;

/// Who may own the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Root or the user who reads, and nobody else may write: for files that will be in force.
    Trusted,
    /// Anybody: for looking at files that are not in force, as `policy check` does.
    Anybody,
}

/// Reads all `.yaml` and `.yml` files of the directories, and the files given by name, for use on this node.
pub fn load(paths: &[PathBuf], trust_domain: &TrustDomain) -> Result<PolicySet, LoadErrors> {
    load_from(paths, trust_domain, Ownership::Trusted)
}

/// [`load`] with a choice of whose files are read.
pub fn load_from(
    paths: &[PathBuf],
    trust_domain: &TrustDomain,
    ownership: Ownership,
) -> Result<PolicySet, LoadErrors> {
    Library::new(trust_domain.clone(), ownership).load(paths)
}

/// Reads documents that are at hand as text. `file` is the name that places are given with.
pub fn parse(file: &Path, text: &str, trust_domain: &TrustDomain) -> Result<PolicySet, LoadErrors> {
    parse_all([(file, text)], trust_domain)
}

/// [`parse`] for several files.
pub fn parse_all<'a>(
    files: impl IntoIterator<Item = (&'a Path, &'a str)>,
    trust_domain: &TrustDomain,
) -> Result<PolicySet, LoadErrors> {
    let mut gathered = Gathered::new(trust_domain);
    let mut count = 0;
    for (file, text) in files {
        count += 1;
        read_text(file, text.as_bytes(), &mut gathered);
    }
    gathered.finish(count)
}

/// The files that these paths mean, in document order: by name, wherever they came from. A file named twice is there once.
pub(super) fn list_all(paths: &[PathBuf], gathered: &mut Gathered<'_>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if let Err(problem) = list(path, &mut files, gathered) {
            gathered.errors.push(about(path, problem));
        }
    }
    files.sort_unstable_by(|a, b| by_name(a, b));
    files.dedup();
    if files.len() > MAX_FILES {
        gathered.errors.push(about(&files[MAX_FILES], Problem::TooManyFiles));
        files.truncate(MAX_FILES);
    }
    files
}

/// The order of paths. Those of one directory, which are many, are compared as the bytes that they are.
fn by_name(a: &Path, b: &Path) -> std::cmp::Ordering {
    let halves = |path: &Path| {
        let bytes = path.as_os_str().as_encoded_bytes();
        bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
    };
    let (a_bytes, b_bytes) = (a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes());
    let (here, there) = (halves(a), halves(b));
    if a_bytes[..here] == b_bytes[..there] { a_bytes[here..].cmp(&b_bytes[there..]) } else { a.cmp(b) }
}

pub(super) fn about(path: &Path, problem: Problem) -> LoadError {
    LoadError { file: path.to_owned(), line: 0, column: 0, problem, excerpt: None }
}

/// Adds the files that a path means. A directory is not searched in depth; one that is found inside is pointed out.
fn list(path: &Path, files: &mut Vec<PathBuf>, gathered: &mut Gathered<'_>) -> Result<(), Problem> {
    let system = |action| move |source| Problem::System { action, source };
    if !std::fs::metadata(path).map_err(system("open"))?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(system("list"))? {
        let entry = entry.map_err(system("list"))?;
        let name = entry.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let is_yaml =
            Path::new(&name).extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && !hidden {
            files.push(entry.path());
        } else if !hidden && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gathered.warnings.push(Warning {
                origin: Origin { file: entry.path().into(), line: 0, column: 0 },
                code: "directory-not-read",
                text: "a directory inside a policy directory is not read".to_owned(),
            });
        }
        if files.len() > MAX_FILES {
            return Err(Problem::TooManyFiles);
        }
    }
    Ok(())
}

/// The bytes of a file. Everything is asked of the open file, so that nobody can swap it between question and reading.
pub(super) fn read(path: &Path, ownership: Ownership) -> Result<Vec<u8>, Problem> {
    read_stamped(path, ownership).map(|(bytes, _)| bytes)
}

/// [`read`], with what the file was known by meanwhile; `None` when it changed under the reading.
pub(super) fn read_stamped(path: &Path, ownership: Ownership) -> Result<(Vec<u8>, Option<Stamp>), Problem> {
    // Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| {
        if source.raw_os_error() == Some(libc::ELOOP) {
            Problem::NotAFile("a symbolic link")
        } else {
            Problem::System { action: "open", source }
        }
    })?;
    let before = inspect(&file, ownership)?;
    let mut bytes = Vec::new();
    let source = (&file).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    source.map_err(|source| Problem::System { action: "read", source })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::TooLarge);
    }
    let after = inspect(&file, ownership)?;
    Ok((bytes, Some(before).filter(|before| *before == after)))
}

fn inspect(file: &File, ownership: Ownership) -> Result<Stamp, Problem> {
    let metadata = file.metadata().map_err(|source| Problem::System { action: "open", source })?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        return Err(Problem::NotAFile(match kind {
            kind if kind.is_dir() => "a directory",
            kind if kind.is_fifo() => "a pipe",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        }));
    }
    let reader = nix::unistd::geteuid().as_raw();
    if ownership == Ownership::Trusted {
        if metadata.uid() != 0 && metadata.uid() != reader {
            return Err(Problem::Owner { owner: metadata.uid(), reader });
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(Problem::WorldWritable);
        }
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(Problem::TooLarge);
    }
    Ok(Stamp::of(&metadata))
}

/// The text of a file.
pub(super) fn text_of<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, LoadErrors> {
    let refused = |before: &[u8], problem| {
        let (line, column) = place(before);
        LoadErrors(vec![LoadError { line, column, ..about(file, problem) }])
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => return Err(refused(&bytes[..error.valid_up_to()], Problem::NotText)),
    };
    match text.find('\0') {
        Some(at) => Err(refused(&text.as_bytes()[..at], Problem::Nul)),
        None => Ok(text),
    }
}

impl LoadErrors {
    /// One mistake about a whole file.
    pub(super) fn about(path: &Path, problem: Problem) -> Self {
        Self(vec![about(path, problem)])
    }
}

/// Reads the documents of one file.
fn read_text(file: &Path, bytes: &[u8], gathered: &mut Gathered<'_>) {
    let text = match text_of(file, bytes) {
        Ok(text) => text,
        Err(LoadErrors(mut errors)) => return gathered.errors.append(&mut errors),
    };
    let file: Arc<Path> = file.into();
    for part in stream::documents(text) {
        if gathered.errors.len() >= GATHERED {
            return;
        }
        let (document, mut mistakes) = understand(&file, text, part, gathered.trust_domain);
        gathered.errors.append(&mut mistakes);
        gathered.add(text, &document);
    }
}

/// The line and column that follow these bytes.
fn place(before: &[u8]) -> (u32, u32) {
    let lines = before.split(|byte| *byte == b'\n').count();
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count();
    (lines as u32, column as u32 + 1)
}

/// How many characters of a line are shown on either side of a mistake.
const SHOWN_BEFORE: usize = 60;
const SHOWN_AFTER: usize = 60;

/// The line of a mistake, cut around it and made safe to print.
pub(super) fn excerpt(text: &str, line: u32, column: u32) -> Option<Excerpt> {
    let line = text.lines().nth(line.checked_sub(1)? as usize)?;
    let at = column.saturating_sub(1) as usize;
    let start = at.saturating_sub(SHOWN_BEFORE);
    let before: String = line.chars().skip(start).take(at - start).collect();
    let after: String = line.chars().skip(at).take(SHOWN_AFTER).collect();
    let before = crate::escape::escape(&before).into_owned();
    let text = format!("{before}{}", crate::escape::escape(after.trim_end()));
    Some(Excerpt { before: before.chars().count(), text })
}
