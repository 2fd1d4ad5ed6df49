//! Tells callers at once: answers a denied SYN with a reset, and ends connections that have become denied.

use std::io;
use std::net::{SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use waxseal_common::address::Address;
use waxseal_common::flow::FlowEvent;
use waxseal_common::ids::protocol;
use waxseal_common::state::Tuple;
use waxseal_common::verdict::Direction;

use super::diag::Diag;
use super::netns::Cache;

/// Resets sent in one second at most: a flood of denied SYNs must not become a flood of answers.
const RESETS_PER_SECOND: u32 = 5_000;

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
    /// Resets that were not sent because there were too many.
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
            return self.reset(event, cgroup);
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

    fn reset(&mut self, event: &FlowEvent, cgroup: Option<&Path>) -> io::Result<()> {
        if self.second.elapsed() > Duration::from_secs(1) {
            self.second = Instant::now();
            self.sent = 0;
        }
        self.sent += 1;
        if self.sent > RESETS_PER_SECOND {
            self.suppressed += 1;
            return Ok(());
        }
        let sockets = self.sockets.entry(event.netns, cgroup, Sockets::open)?;
        let back = event.tuple.reversed();
        let segment = segment(&back, event.isn.wrapping_add(1));
        let flags = MsgFlags::empty();
        if back.destination.is_v4() {
            let packet = ipv4(&back, &segment);
            let to = SockaddrIn::from(SocketAddrV4::new(four(back.destination).into(), 0));
            sendto(sockets.v4.as_raw_fd(), &packet, &to, flags)?;
        } else if let Some(v6) = &sockets.v6 {
            let packet = ipv6(&back, &segment);
            let to = SockaddrIn6::from(SocketAddrV6::new(back.destination.0.into(), 0, 0, 0));
            sendto(v6.as_raw_fd(), &packet, &to, flags)?;
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

/// A bare RST with ACK, as a closed port answers a SYN (RFC 9293, section 3.10.7.1).
fn segment(tuple: &Tuple, acknowledgement: u32) -> [u8; 20] {
    let mut segment = [0u8; 20];
    segment[0..2].copy_from_slice(&tuple.source_port.to_be_bytes());
    segment[2..4].copy_from_slice(&tuple.destination_port.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x14;
    let checksum = checksum(tuple, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// TCP checksum over the pseudo header and the segment (RFC 9293, section 3.1).
fn checksum(tuple: &Tuple, segment: &[u8]) -> u16 {
    let (source, destination) = (tuple.source.0, tuple.destination.0);
    // The upper twelve bytes of a mapped IPv4 address are not on the wire.
    let skip = if tuple.destination.is_v4() { 12 } else { 0 };
    let length = segment.len() as u32 + u32::from(protocol::TCP);
    let words = source[skip..].chunks(2).chain(destination[skip..].chunks(2)).chain(segment.chunks(2));
    let mut sum: u32 =
        length + words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn four(address: Address) -> [u8; 4] {
    let b = address.0;
    [b[12], b[13], b[14], b[15]]
}

fn ipv4(tuple: &Tuple, segment: &[u8; 20]) -> [u8; 40] {
    let mut packet = [0u8; 40];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&40u16.to_be_bytes());
    packet[6] = 0x40; // do not fragment
    packet[8] = 64;
    packet[9] = protocol::TCP;
    packet[12..16].copy_from_slice(&four(tuple.source));
    packet[16..20].copy_from_slice(&four(tuple.destination));
    packet[20..].copy_from_slice(segment);
    packet
}

fn ipv6(tuple: &Tuple, segment: &[u8; 20]) -> [u8; 60] {
    let mut packet = [0u8; 60];
    packet[0] = 6 << 4;
    packet[4..6].copy_from_slice(&20u16.to_be_bytes());
    packet[6] = protocol::TCP;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&tuple.source.0);
    packet[24..40].copy_from_slice(&tuple.destination.0);
    packet[40..].copy_from_slice(segment);
    packet
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn tuple(source: &str, destination: &str) -> Tuple {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        Tuple {
            source: address(source),
            destination: address(destination),
            source_port: 8080,
            destination_port: 40000,
            ..Tuple::default()
        }
    }

    #[test]
    fn the_checksum_of_a_correct_segment_is_zero() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")] {
            let tuple = tuple(source, destination);
            let segment = segment(&tuple, 7);
            assert_eq!(checksum(&tuple, &segment), 0, "{source}");
        }
    }

    #[test]
    fn a_reset_acknowledges_the_syn() {
        let segment = segment(&tuple("10.0.0.1", "10.0.0.2"), 0x0102_0304);
        assert_eq!(segment[8..12], [1, 2, 3, 4]);
        assert_eq!(segment[13], 0x14, "RST and ACK");
    }
}
