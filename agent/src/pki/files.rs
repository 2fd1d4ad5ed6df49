//! Files with secrets: their directory is 0700, they are 0600, replaced whole and on the disk before anybody is told.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use zeroize::Zeroizing;

/// Why a file of secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system does not do it.
    #[error("cannot {call} {}", path.display())]
    System {
        /// What was tried.
        call: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// Others could read or change it.
    #[error(
        "{} belongs to user {owner} and has mode {mode:04o}: it holds secrets, so chown it to yourself and chmod it {wanted:04o}",
        path.display()
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// A link, a device, a pipe.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// It.
        path: PathBuf,
    },
    /// More than the limit.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLarge {
        /// It.
        path: PathBuf,
        /// The most, in bytes.
        limit: u64,
    },
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(super) fn system(call: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { call, path, source }
    }
}

/// Makes the directory when it is missing, and refuses one that others can look into.
pub(super) fn private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::system("create", path))?;
    let metadata = fs::metadata(path).map_err(FileError::system("look at", path))?;
    check(path, &metadata, 0o700)
}

fn check(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), FileError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let own = nix::unistd::geteuid().as_raw();
    let exposed = owner != own && owner != 0 || mode & 0o077 != 0;
    if exposed { Err(FileError::Exposed { path: path.to_owned(), owner, mode, wanted }) } else { Ok(()) }
}

/// Reads a file of at most `limit` bytes that nobody else can read.
pub(super) fn read_private(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (file, metadata) = open(path)?;
    check(path, &metadata, 0o600)?;
    read(path, file, metadata.len(), limit)
}

/// Reads a file of at most `limit` bytes that need not be secret, such as a certificate.
pub(super) fn read_public(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (file, metadata) = open(path)?;
    read(path, file, metadata.len(), limit)
}

fn open(path: &Path) -> Result<(File, fs::Metadata), FileError> {
    // Without O_NONBLOCK a pipe in its place would stop us.
    let flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(FileError::system("open", path))?;
    let metadata = file.metadata().map_err(FileError::system("look at", path))?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(FileError::NotRegular { path: path.to_owned() })
    }
}

fn read(path: &Path, file: File, length: u64, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let too_large = || FileError::TooLarge { path: path.to_owned(), limit };
    let room = usize::try_from(length.min(limit)).map_err(|_unreadable| too_large())?;
    // Room for all of it at once: a buffer that grows leaves copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(room + 64));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(FileError::system("read", path))?;
    if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
}

/// Replaces a file as a whole; on return it is on the disk. After an error the old one is still there.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = replace(path, &new, bytes);
    if written.is_err() {
        // Room for the next try; it may not be there at all.
        let _ = fs::remove_file(&new);
    }
    written
}

fn replace(path: &Path, new: &Path, bytes: &[u8]) -> Result<(), FileError> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::system("remove", new)(error));
        }
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new);
    let mut file = file.map_err(FileError::system("create", new))?;
    file.write_all(bytes).map_err(FileError::system("write", new))?;
    file.sync_all().map_err(FileError::system("write", new))?;
    fs::rename(new, path).map_err(FileError::system("rename to", path))?;
    sync_directory(path)
}

/// Puts the directory entry of a file on the disk.
pub(super) fn sync_directory(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(parent).map_err(FileError::system("open", parent))?;
    directory.sync_all().map_err(FileError::system("write", parent))
}
