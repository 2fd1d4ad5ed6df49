//! Finds a network namespace by its inode number, and opens sockets in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, thread};

use nix::sys::socket::SockaddrStorage;
use waxseal_common::ids::NetnsId;

/// How long a namespace that is not used keeps its sockets: they hold it alive.
const IDLE: Duration = Duration::from_secs(2);

/// How many namespaces keep their sockets at once.
const KEPT: usize = 64;

/// The namespace of this process.
pub fn own() -> io::Result<NetnsId> {
    Ok(NetnsId(fs::metadata("/proc/self/ns/net")?.ino() as u32))
}

/// Opens a namespace: this process's own, one of the processes in the cgroup given, one with a name, or any process's.
pub fn open(netns: NetnsId, cgroup: Option<&Path>) -> io::Result<File> {
    let is_it = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.ino() as u32 == netns.0);
    let own = PathBuf::from("/proc/self/ns/net");
    if is_it(&own) {
        return File::open(own);
    }
    let members = cgroup.map(|cgroup| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default());
    let of_pid = |pid: &str| Path::new("/proc").join(pid).join("ns/net");
    let mut candidates: Vec<PathBuf> = members.iter().flat_map(|list| list.lines()).map(of_pid).collect();
    candidates.extend(children("/run/netns"));
    if let Some(found) = candidates.iter().find(|path| is_it(path)) {
        return File::open(found);
    }
    let found = children("/proc").map(|process| process.join("ns/net")).find(|path| is_it(path));
    found.map_or_else(
        || {
            Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no process is in network namespace {}", netns.0),
            ))
        },
        File::open,
    )
}

fn children(directory: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

/// Every network namespace that some process lives in or that has a name, with one way in.
pub fn all() -> HashMap<NetnsId, PathBuf> {
    by_number(children("/proc").map(|process| process.join("ns/net")).chain(children("/run/netns")))
}

/// Every network namespace that one of these processes lives in.
pub fn of(pids: impl Iterator<Item = String>) -> HashMap<NetnsId, PathBuf> {
    by_number(pids.map(|pid| Path::new("/proc").join(pid).join("ns/net")))
}

fn by_number(paths: impl Iterator<Item = PathBuf>) -> HashMap<NetnsId, PathBuf> {
    let mut found = HashMap::new();
    for path in paths {
        if let Ok(meta) = fs::metadata(&path) {
            found.entry(NetnsId(meta.ino() as u32)).or_insert(path);
        }
    }
    found
}

/// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay in that namespace.
pub fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            work()
        });
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// The addresses of the interfaces in the calling thread's namespace.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    Ok(interfaces.filter_map(|interface| address(&interface.address?)).collect())
}

fn address(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// Sockets by namespace, opened when first needed and closed when idle.
#[derive(Debug)]
pub struct Cache<S> {
    kept: HashMap<NetnsId, (Instant, S)>,
}

impl<S> Default for Cache<S> {
    fn default() -> Self {
        Self { kept: HashMap::new() }
    }
}

impl<S: Send> Cache<S> {
    /// The sockets of a namespace.
    pub fn entry(
        &mut self,
        netns: NetnsId,
        cgroup: Option<&Path>,
        open_sockets: impl FnOnce() -> io::Result<S> + Send,
    ) -> io::Result<&mut S> {
        self.drop_idle();
        if !self.kept.contains_key(&netns) {
            let sockets = inside(&open(netns, cgroup)?, open_sockets)?;
            if self.kept.len() >= KEPT {
                self.kept.clear();
            }
            self.kept.insert(netns, (Instant::now(), sockets));
        }
        match self.kept.get_mut(&netns) {
            Some((used, sockets)) => {
                *used = Instant::now();
                Ok(sockets)
            }
            None => Err(io::Error::other("the namespace's sockets are gone")),
        }
    }

    /// Closes what has not been used for a while, so that a namespace can end.
    pub fn drop_idle(&mut self) {
        self.kept.retain(|_, (used, _)| used.elapsed() < IDLE);
    }
}
