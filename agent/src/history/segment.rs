//! The files of a history: `<milliseconds since 1970>-<number>.flows`, oldest first by name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::Error;
use crate::flows::Time;

const ENDING: &str = "flows";

/// A segment, and how much of it held whole blocks at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub(super) path: PathBuf,
    pub(super) length: u64,
}

/// A segment on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) length: u64,
    /// When it was written last, in milliseconds since 1970.
    pub(super) written: u64,
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { action, path, source }
}

/// Makes the directory, or makes sure that it is ours; nobody else may look into it.
pub(super) fn prepare(directory: &Path) -> Result<(), Error> {
    match DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", directory)(error));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(directory).map_err(failed("look at", directory))?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() {
        return Err(failed("trust", directory)(io::ErrorKind::PermissionDenied.into()));
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed("protect", directory))
}

/// The segments, oldest first.
pub(super) fn list(directory: &Path) -> Result<Vec<Segment>, Error> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let path = entry.map_err(failed("read", directory))?.path();
        let ours = path.extension().is_some_and(|ending| ending == ENDING);
        // One that is being removed at this moment is none.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if ours && metadata.is_file() {
            let written = metadata.mtime().max(0).cast_unsigned() * 1000;
            segments.push(Segment { path, length: metadata.len(), written });
        }
    }
    segments.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(segments)
}

/// A new segment behind all others, even when the clock was set back.
pub(super) fn create(directory: &Path, newest: Option<&Path>) -> Result<(PathBuf, File), Error> {
    let mut number = 0u32;
    loop {
        let path = directory.join(format!("{:016x}-{number:08x}.{ENDING}", Time::now().0));
        let path = newest.filter(|newest| **newest >= *path).map_or(path, after);
        let opened = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        match opened {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            Err(error) => return Err(failed("create", &path)(error)),
        }
    }
}

/// The same time with the next number.
fn after(newest: &Path) -> PathBuf {
    let stem = newest.file_stem().unwrap_or_default().to_string_lossy();
    let (time, number) = stem.split_once('-').unwrap_or((&stem, "0"));
    let number = u32::from_str_radix(number, 16).unwrap_or_default().saturating_add(1);
    newest.with_file_name(format!("{time}-{number:08x}.{ENDING}"))
}

/// Opens for reading.
pub(super) fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}
