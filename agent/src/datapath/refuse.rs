//! Tells callers at once: answers a denied SYN or datagram, and ends connections that have become denied.

use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use waxseal_common::flow::FlowEvent;
use waxseal_common::state::Tuple;
use waxseal_common::verdict::Direction;

use super::diag::Diag;
use super::netns::Cache;
use super::refusal;

/// Answers sent in one second at most: a flood of denied packets must not become a flood of answers.
const ANSWERS_PER_SECOND: u32 = 5_000;

/// Sockets of one namespace.
#[derive(Debug)]
struct Sockets {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
    diag: Diag,
}

/// Answers on behalf of the kernel, in every namespace of the node. Works for one thread at a time.
#[derive(Debug)]
pub struct Refuser {
    sockets: Cache<Sockets>,
    second: Instant,
    sent: u32,
    /// Answers that were not sent because there were too many.
    pub suppressed: u64,
}

impl Default for Refuser {
    fn default() -> Self {
        Self { sockets: Cache::default(), second: Instant::now(), sent: 0, suppressed: 0 }
    }
}

impl Refuser {
    /// Does what a denial's event asks for. `cgroup` is the directory of the socket that the event speaks of.
    pub fn refuse(&mut self, event: &FlowEvent, cgroup: Option<&Path>) -> io::Result<()> {
        if event.flags & FlowEvent::REFUSE != 0 {
            return self.answer(event, cgroup);
        }
        if event.flags & FlowEvent::DESTROY != 0 {
            let own =
                if event.direction == Direction::Egress as u8 { event.tuple } else { event.tuple.reversed() };
            return self.destroy(event, &own, cgroup);
        }
        Ok(())
    }

    /// Ends one socket, its own end as source.
    fn destroy(&mut self, event: &FlowEvent, own: &Tuple, cgroup: Option<&Path>) -> io::Result<()> {
        let sockets = self.sockets.entry(event.netns, cgroup, Sockets::open)?;
        sockets.diag.destroy(own, event.cookie).map(drop)
    }

    fn answer(&mut self, event: &FlowEvent, cgroup: Option<&Path>) -> io::Result<()> {
        if self.second.elapsed() > Duration::from_secs(1) {
            self.second = Instant::now();
            self.sent = 0;
        }
        self.sent += 1;
        if self.sent > ANSWERS_PER_SECOND {
            self.suppressed += 1;
            return Ok(());
        }
        let sockets = self.sockets.entry(event.netns, cgroup, Sockets::open)?;
        let packet = refusal::answer(&event.tuple, event.protocol, event.isn);
        let to = event.tuple.source;
        let flags = MsgFlags::empty();
        match (IpAddr::from(to), &sockets.v6) {
            (IpAddr::V4(to), _) => {
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendto(sockets.v4.as_raw_fd(), &packet, &to, flags)?;
            }
            (IpAddr::V6(to), Some(v6)) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(v6.as_raw_fd(), &packet, &to, flags)?;
            }
            (IpAddr::V6(_), None) => {}
        }
        Ok(())
    }

    /// Lets namespaces end that are not used any more.
    pub fn drop_idle(&mut self) {
        self.sockets.drop_idle();
    }
}

impl Sockets {
    fn open() -> io::Result<Self> {
        let raw = |family| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        // IPPROTO_RAW means that we write the IP header, for both families; the kernel fills in IPv4's checksum.
        let v4 = raw(AddressFamily::Inet)?;
        let v6 = raw(AddressFamily::Inet6).ok();
        Ok(Self { v4, v6, diag: Diag::open()? })
    }
}
