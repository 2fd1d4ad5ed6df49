//! Where the socket lies: a directory of its own that nobody else can enter, one agent at a time.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use thiserror::Error;

/// Why the socket cannot be opened.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another agent of this instance is alive.
    #[error("another agent already runs with {}", socket.display())]
    AlreadyRunning {
        /// Its socket.
        socket: PathBuf,
    },
    /// The directory is somebody else's, or no directory.
    #[error("{} {problem}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The kernel refused a step.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// The right to be the agent of this instance, held as long as it lives. The kernel takes it back when the process ends,
/// however it ends.
#[derive(Debug)]
pub(super) struct Held {
    socket: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // It is ours while the lock is ours; a socket that stays behind is replaced by the next agent.
        let _already_gone = fs::remove_file(&self.socket);
    }
}

/// Makes the directory, takes the lock and listens. The socket appears under its name only once nobody else can open it.
pub(super) fn listen(socket: &Path) -> Result<(UnixListener, Held), SocketError> {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    prepare(directory)?;
    let lock = lock(socket, &directory.join("agent.lock"))?;
    // An agent that lost its lock file would still answer.
    if UnixStream::connect(socket).is_ok() {
        return Err(SocketError::AlreadyRunning { socket: socket.to_owned() });
    }
    let hidden = directory.join(".new.sock");
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| SocketError::Io { action, path, source }
    };
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &hidden)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&hidden).map_err(failed("listen on", &hidden))?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).map_err(failed("protect", &hidden))?;
    listener.set_nonblocking(true).map_err(failed("listen on", &hidden))?;
    fs::rename(&hidden, socket).map_err(failed("put in place", socket))?;
    Ok((listener, Held { socket: socket.to_owned(), _lock: lock }))
}

/// A directory of ours with mode 0700. One that is there already must be ours; a link is not followed.
fn prepare(directory: &Path) -> Result<(), SocketError> {
    let failed = |action| move |source| SocketError::Io { action, path: directory.to_owned(), source };
    if let Some(parent) = directory.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed("create the parent of"))?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create")(error)),
        _ => {}
    }
    let metadata = fs::symlink_metadata(directory).map_err(failed("look at"))?;
    let refuse = |problem| Err(SocketError::Directory { directory: directory.to_owned(), problem });
    if !metadata.is_dir() {
        return refuse("is no directory");
    }
    if metadata.uid() != geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed("protect"))
}

fn lock(socket: &Path, path: &Path) -> Result<Flock<File>, SocketError> {
    let failed = |source| SocketError::Io { action: "lock", path: path.to_owned(), source };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_file, errno)| match errno {
        nix::Error::EWOULDBLOCK => SocketError::AlreadyRunning { socket: socket.to_owned() },
        other => failed(other.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/blue/agent.sock");
        (directory, socket)
    }

    #[test]
    fn nobody_else_can_reach_the_socket() {
        let (_directory, socket) = place();
        let _held = listen(&socket).unwrap();
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(mode(socket.parent().unwrap()), 0o700);
        assert!(UnixStream::connect(&socket).is_ok());
    }

    #[test]
    fn a_directory_that_was_open_is_closed() {
        let (_directory, socket) = place();
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        let _held = listen(&socket).unwrap();
        assert_eq!(mode(socket.parent().unwrap()), 0o700);
    }

    #[test]
    fn a_second_agent_is_told_that_there_is_one() {
        let (_directory, socket) = place();
        let held = listen(&socket).unwrap();
        assert!(matches!(listen(&socket), Err(SocketError::AlreadyRunning { .. })));
        assert!(UnixStream::connect(&socket).is_ok(), "the first one still answers");
        fs::remove_file(socket.with_file_name("agent.lock")).unwrap();
        assert!(
            matches!(listen(&socket), Err(SocketError::AlreadyRunning { .. })),
            "even without its lock file"
        );
        drop(held);
        assert!(!socket.exists());
        assert!(listen(&socket).is_ok());
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced() {
        let (_directory, socket) = place();
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&socket).unwrap());
        assert!(UnixStream::connect(&socket).is_err());
        let _held = listen(&socket).unwrap();
        assert!(UnixStream::connect(&socket).is_ok());
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let (directory, socket) = place();
        fs::create_dir_all(socket.parent().unwrap().parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(directory.path(), socket.parent().unwrap()).unwrap();
        assert!(matches!(listen(&socket), Err(SocketError::Directory { problem: "is no directory", .. })));
    }
}
