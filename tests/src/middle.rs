//! Whoever stands on the path: sees each frame between two nodes, and passes on what it likes instead.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::Frame;
use crate::netns::Netns;
use crate::network::{Network, Site};
use crate::root;

/// `ETH_P_ALL`.
const EVERYTHING: u16 = 3;

/// A socket for whole frames on one interface.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
}

impl Port {
    /// Opens an interface of a namespace.
    pub fn open(netns: &Netns, interface: &str) -> Self {
        let (path, interface) = (netns.path(), interface.to_owned());
        // A thread of its own enters the namespace; the socket stays there when it is gone.
        let opened = thread::spawn(move || {
            let file = File::open(path).expect("a namespace has a path");
            setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter");
            let protocol = Protocol::from(i32::from(EVERYTHING.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("root may open it");
            let mut devices = nix::ifaddrs::getifaddrs().expect("interfaces have addresses");
            let device = devices.find_map(|device| {
                let link = device.address.as_ref()?.as_link_addr().copied()?;
                (device.interface_name == interface).then_some(link)
            });
            bind(socket.as_raw_fd(), &device.expect("the interface is there")).expect("it can be bound");
            socket
        });
        Self { socket: opened.join().expect("the port opens") }
    }

    /// Sends a frame. One that finds the queue full is sent again.
    pub fn send(&self, frame: &[u8]) {
        let full = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOBUFS);
        root::wait("room in the queue", Duration::from_secs(5), || match self.socket.send(frame) {
            Err(error) if full(&error) => None,
            other => Some(other.expect("a frame can be sent")),
        });
    }

    /// The next frame, its own included.
    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        self.socket
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))
            .expect("a socket has times");
        let mut buffer = vec![0u8; 65_600];
        let length = (&self.socket).read(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// All frames of a time for which `wanted` holds.
    pub fn listen(&self, time: Duration, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let deadline = Instant::now() + time;
        let mut heard = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            heard.extend(
                self.receive(left).and_then(|frame| Frame::read(&frame)).filter(|frame| wanted(frame)),
            );
        }
        heard
    }
}

/// From the first node to the second, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// First to second.
    Forth,
    /// Second to first.
    Back,
}

/// What a tamperer makes of a frame.
pub type Tamper = dyn Fn(Way, &Frame) -> Vec<Frame> + Send + Sync;

/// A router that is a program of the test. While it lives it passes packets between two nodes itself, and the kernel does
/// not. Dropping it lets nobody pass anything.
pub struct Middle {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(Way, Frame)>>>,
    threads: Vec<JoinHandle<()>>,
    ports: [Arc<Port>; 2],
    macs: [([u8; 6], [u8; 6]); 2],
}

impl std::fmt::Debug for Middle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Middle").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl Middle {
    /// Stands between the first two nodes. `tamper` is given each packet and answers with what goes on instead.
    pub fn start(
        network: &Network,
        tamper: impl Fn(Way, &Frame) -> Vec<Frame> + Send + Sync + 'static,
    ) -> Self {
        network.stop_forwarding();
        let sites: [&Site; 2] = [&network.sites[0], &network.sites[1]];
        // Nobody here cuts what a device would.
        sites.into_iter().for_each(Site::without_gso);
        let ports = sites.map(|site| Arc::new(Port::open(&network.router, &site.wire)));
        let macs = sites.map(|site| (site.end.mac, site.gate.mac));
        let own: Vec<IpAddr> = network.sites.iter().flat_map(|site| site.gate.both()).collect();
        let mut middle =
            Self { stop: Arc::default(), seen: Arc::default(), threads: Vec::new(), ports, macs };
        let tamper: Arc<Tamper> = Arc::new(tamper);
        for way in [Way::Forth, Way::Back] {
            middle.carry(way, own.clone(), Arc::clone(&tamper));
        }
        middle
    }

    /// Passes everything on as it is.
    pub fn honest(network: &Network) -> Self {
        Self::start(network, |_, frame| vec![frame.clone()])
    }

    fn carry(&mut self, way: Way, own: Vec<IpAddr>, tamper: Arc<Tamper>) {
        let (from, to) = if way == Way::Forth { (0, 1) } else { (1, 0) };
        let [inlet, outlet] = [from, to].map(|side| Arc::clone(&self.ports[side]));
        let (_, near) = self.macs[from];
        let (far, gate) = self.macs[to];
        let (stop, seen) = (Arc::clone(&self.stop), Arc::clone(&self.seen));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let Some(bytes) = inlet.receive(Duration::from_millis(50)) else { continue };
                // Its own frames come by as well; and some are for the router itself.
                if bytes.get(..6) != Some(&near[..]) {
                    continue;
                }
                let Some(frame) =
                    Frame::read(&bytes).filter(|frame| !own.contains(&frame.destination().ip()))
                else {
                    continue;
                };
                let frame = frame.mended();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push((way, frame.clone()));
                for frame in tamper(way, &frame) {
                    outlet.send(frame.between(far, gate).bytes());
                }
            }
        }));
    }

    /// What came by, as it came, in order.
    pub fn seen(&self, way: Way) -> Vec<Frame> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(seen, _)| *seen == way).map(|(_, frame)| frame.clone()).collect()
    }

    /// Forgets what came by.
    pub fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits for a packet that came by.
    pub fn expect(&self, what: &str, way: Way, wanted: impl Fn(&Frame) -> bool) -> Frame {
        root::wait(what, Duration::from_secs(10), || self.seen(way).into_iter().find(|frame| wanted(frame)))
    }

    /// Puts a packet on the second node's wire (forth) or on the first one's (back).
    pub fn inject(&self, way: Way, frame: &Frame) {
        let side = usize::from(way == Way::Forth);
        let (far, gate) = self.macs[side];
        self.ports[side].send(frame.between(far, gate).bytes());
    }

    /// Puts any bytes on such a wire as an IP packet: fragments, for example.
    pub fn inject_packet(&self, way: Way, packet: &[u8]) {
        let side = usize::from(way == Way::Forth);
        let (far, gate) = self.macs[side];
        let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        self.ports[side].send(&[&far[..], &gate[..], &kind[..], packet].concat());
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
