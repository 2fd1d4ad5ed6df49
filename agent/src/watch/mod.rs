//! Tells when the policy files change.
//!
//! Watches one directory (or one file) and the directories above it, so that it survives being removed, renamed and made
//! again. Never reads the files: the caller loads them anew. A burst of changes is reported once, when it is over.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// How long nothing must happen before a change is reported.
pub const QUIET: Duration = Duration::from_millis(25);
/// How long a change is held back at most while more come.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Why changes cannot be seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is not absolute.
    #[error("{} is not an absolute path", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// The kernel gives no inotify instance.
    #[error("start watching files (inotify)")]
    Start(#[source] io::Error),
    /// The kernel gives no watch; its limit is in `/proc/sys/fs/inotify/max_user_watches`.
    #[error("watch {}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Events cannot be read.
    #[error("read file events")]
    Read(#[source] io::Error),
}

/// A watch on one path.
#[derive(Debug)]
pub struct Watcher {
    inotify: AsyncFd<Descriptor>,
    path: PathBuf,
    target: Option<WatchDescriptor>,
    /// Each directory above, and the name in it that leads to the path.
    above: Vec<(WatchDescriptor, OsString)>,
    burst: Option<Burst>,
}

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Changes that are not reported yet.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    latest: Instant,
}

impl Burst {
    fn over(self) -> Instant {
        (self.latest + QUIET).min(self.first + PATIENCE)
    }
}

/// What happens to the files in a directory. Opening and reading are not among them: loading must not wake itself.
fn contents() -> AddWatchFlags {
    AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

impl Watcher {
    /// Watches `path`, which need not exist. Needs a tokio runtime.
    pub fn new(path: &Path) -> Result<Self, Error> {
        if !path.is_absolute() {
            return Err(Error::Relative { path: path.to_owned() });
        }
        let inotify = Self::start()?;
        let mut watcher =
            Self { inotify, path: path.to_owned(), target: None, above: Vec::new(), burst: None };
        watcher.arm()?;
        Ok(watcher)
    }

    /// Waits for the next change. Safe to drop and call again: nothing is lost in between.
    pub async fn changed(&mut self) -> Result<(), Error> {
        loop {
            let Some(burst) = self.burst else {
                self.observe().await?;
                continue;
            };
            tokio::select! {
                () = sleep_until(burst.over()) => {
                    self.burst = None;
                    return Ok(());
                }
                observed = self.observe() => observed?,
            }
        }
    }

    #[expect(
        deprecated,
        reason = "the replacement is unsafe and asks that the descriptor stay open and the same, which Descriptor keeps"
    )]
    fn start() -> Result<AsyncFd<Descriptor>, Error> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| Error::Start(errno.into()))?;
        AsyncFd::new(Descriptor(inotify)).map_err(Error::Start)
    }

    /// Waits until events come and takes them up.
    async fn observe(&mut self) -> Result<(), Error> {
        let mut ready = self.inotify.readable().await.map_err(Error::Read)?;
        let events = match ready.get_inner().0.read_events() {
            Err(Errno::EAGAIN) => {
                ready.clear_ready();
                return Ok(());
            }
            Err(Errno::EINTR) => return Ok(()),
            other => other.map_err(|errno| Error::Read(errno.into()))?,
        };
        let lost = events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
        let moved = lost || events.iter().any(|event| self.concerns_the_way(event));
        if moved || events.iter().any(|event| self.concerns_the_target(event)) {
            let now = Instant::now();
            self.burst = Some(Burst { first: self.burst.map_or(now, |burst| burst.first), latest: now });
        }
        if moved {
            self.inotify = Self::start()?;
            self.arm()?;
        }
        Ok(())
    }

    fn concerns_the_target(&self, event: &InotifyEvent) -> bool {
        // IN_IGNORED only confirms that a watch has ended.
        Some(event.wd) == self.target && !event.mask.contains(AddWatchFlags::IN_IGNORED)
    }

    /// Whether the path may lead elsewhere now.
    fn concerns_the_way(&self, event: &InotifyEvent) -> bool {
        let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_UNMOUNT;
        let watched = Some(event.wd) == self.target || self.above.iter().any(|(wd, _)| *wd == event.wd);
        let named =
            |(wd, name): &(WatchDescriptor, OsString)| *wd == event.wd && event.name.as_ref() == Some(name);
        watched && event.mask.intersects(itself) || self.above.iter().any(named)
    }

    /// Watches the path and every directory above it, on a fresh instance.
    fn arm(&mut self) -> Result<(), Error> {
        self.above.clear();
        self.target = None;
        let way = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        // From the root down: whatever appears after its parent is watched is seen.
        let mut directories: Vec<&Path> = self.path.ancestors().skip(1).collect();
        directories.reverse();
        for directory in directories {
            let below = self.path.strip_prefix(directory).ok().and_then(|rest| rest.iter().next());
            match self.add(directory, way | AddWatchFlags::IN_ONLYDIR) {
                Ok(Some(watch)) => self.above.push((watch, below.map(OsStr::to_owned).unwrap_or_default())),
                Ok(None) => return Ok(()),
                // A directory above that may be passed but not listed goes unwatched.
                Err(Error::Watch { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        self.target = self.add(&self.path, contents())?;
        Ok(())
    }

    /// `None` when there is nothing to watch there.
    fn add(&self, path: &Path, flags: AddWatchFlags) -> Result<Option<WatchDescriptor>, Error> {
        match self.inotify.get_ref().0.add_watch(path, flags) {
            Ok(watch) => Ok(Some(watch)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(Error::Watch { path: path.to_owned(), source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests;
