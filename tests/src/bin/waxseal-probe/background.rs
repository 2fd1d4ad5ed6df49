//! What the probe does while it listens to the test: hammering at closed doors, holding connections open.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::Socket;
use waxseal_tests::probe::{Handle, Protocol, Reply, Target};

use crate::sockets::{errno_name, join, new_socket, ping};

/// What one group of threads has counted.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    count: AtomicU64,
    bad: AtomicU64,
    longest: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn note(&self, error: &io::Error) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(errno_name(error)).or_insert(0) += 1;
    }

    fn running(&self) -> bool {
        !self.stop.load(Ordering::Acquire)
    }
}

/// All groups of threads by number.
#[derive(Default)]
pub(crate) struct Background {
    groups: BTreeMap<Handle, (Arc<Tally>, Vec<JoinHandle<()>>)>,
    last: Handle,
}

impl Background {
    fn start(&mut self, tally: Arc<Tally>, threads: Vec<JoinHandle<()>>) -> Reply {
        self.last += 1;
        self.groups.insert(self.last, (tally, threads));
        Reply { handle: Some(self.last), ..Reply::default() }
    }

    /// One thread a target. An attempt that the kernel does not refuse counts as bad.
    pub(crate) fn hammer(&mut self, targets: Vec<Target>, patience: Duration) -> Reply {
        let tally = Arc::<Tally>::default();
        let threads = targets
            .into_iter()
            .map(|target| {
                let tally = Arc::clone(&tally);
                thread::spawn(move || hammer(&target, patience, &tally))
            })
            .collect();
        self.start(tally, threads)
    }

    /// Two threads share the targets in turn. A connection or an echo that fails counts as bad.
    pub(crate) fn dial(&mut self, targets: Vec<Target>, per_second: u32) -> Reply {
        let tally = Arc::<Tally>::default();
        let pause = Duration::from_secs(DIALLERS) / per_second.max(1);
        let targets = Arc::new(targets);
        let threads = (0..DIALLERS as usize)
            .map(|first| {
                let (tally, targets) = (Arc::clone(&tally), Arc::clone(&targets));
                thread::spawn(move || dial(&targets, first, pause, &tally))
            })
            .collect();
        self.start(tally, threads)
    }

    /// One thread a connection. A ping without an answer counts as bad and ends its thread.
    pub(crate) fn hold(&mut self, targets: Vec<Target>, every: Duration) -> io::Result<Reply> {
        let tally = Arc::<Tally>::default();
        let mut threads = Vec::new();
        for target in targets {
            let socket = new_socket(target.protocol, target.address.is_ipv6(), false)?;
            join(&socket, target.protocol, target.address, Duration::from_secs(2))?;
            let tally = Arc::clone(&tally);
            threads.push(thread::spawn(move || hold(&socket, target.protocol, every, &tally)));
        }
        Ok(self.start(tally, threads))
    }

    pub(crate) fn progress(&self, handle: Handle) -> io::Result<Reply> {
        let (tally, _) = self.groups.get(&handle).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        Ok(Reply {
            count: tally.count.load(Ordering::Acquire),
            bad: tally.bad.load(Ordering::Acquire),
            micros: tally.longest.load(Ordering::Acquire),
            errors: tally.errors.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..Reply::default()
        })
    }

    pub(crate) fn stop(&mut self, handle: Handle) -> io::Result<Reply> {
        if let Some((tally, threads)) = self.groups.get_mut(&handle) {
            tally.stop.store(true, Ordering::Release);
            for thread in threads.drain(..) {
                thread.join().map_err(|_panic| io::Error::from_raw_os_error(libc::EIO))?;
            }
        }
        self.progress(handle)
    }
}

/// How many connections a dialler makes at a time.
const DIALLERS: u64 = 2;

fn dial(targets: &[Target], first: usize, pause: Duration, tally: &Tally) {
    let mut next = Instant::now();
    for target in targets.iter().cycle().skip(first).step_by(DIALLERS as usize) {
        if !tally.running() {
            return;
        }
        let start = Instant::now();
        let result = new_socket(target.protocol, target.address.is_ipv6(), false).and_then(|socket| {
            join(&socket, target.protocol, target.address, Duration::from_secs(5))?;
            ping(&socket, Duration::from_secs(5))
        });
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        tally.longest.fetch_max(micros, Ordering::AcqRel);
        tally.count.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = result {
            tally.bad.fetch_add(1, Ordering::AcqRel);
            tally.note(&error);
        }
        // Whoever is late does not hurry: the rate is an upper bound.
        next = (next + pause).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// After how many attempts a hammer rests.
const BREATH: u64 = 16;

fn hammer(target: &Target, patience: Duration, tally: &Tally) {
    let Target { protocol, address, connected } = *target;
    while tally.running() {
        let result = attempt(protocol, address, connected, patience);
        if tally.count.fetch_add(1, Ordering::AcqRel).is_multiple_of(BREATH) {
            // Whoever else is under test needs the processor too.
            thread::sleep(Duration::from_millis(1));
        }
        match result {
            Ok(()) => {
                tally.bad.fetch_add(1, Ordering::AcqRel);
            }
            Err(error) => tally.note(&error),
        }
    }
}

fn attempt(protocol: Protocol, to: SocketAddr, connected: bool, patience: Duration) -> io::Result<()> {
    let socket = new_socket(protocol, to.is_ipv6(), false)?;
    match protocol {
        Protocol::Tcp => join(&socket, protocol, to, patience),
        Protocol::Udp if connected => {
            join(&socket, protocol, to, patience)?;
            socket.send(b"hammer").map(drop)
        }
        Protocol::Udp => socket.send_to(b"hammer", &to.into()).map(drop),
    }
}

fn hold(socket: &Socket, protocol: Protocol, every: Duration, tally: &Tally) {
    while tally.running() {
        let mut result = ping(socket, Duration::from_secs(5));
        if result.is_err() && protocol == Protocol::Udp {
            // One datagram may be lost to a full queue; two are not chance.
            result = ping(socket, Duration::from_secs(5));
        }
        tally.count.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = result {
            tally.bad.fetch_add(1, Ordering::AcqRel);
            tally.note(&error);
            return;
        }
        thread::sleep(every);
    }
}
