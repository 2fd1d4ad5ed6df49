//! First packets that wait: reads what the TC programs hand over, and sends it again.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use waxseal_common::address::Address;
use waxseal_common::ids::protocol;
use waxseal_common::wire::{Asks, DATAGRAM_FRAME, HeldDatagram, Notice, RouteKey, SYN_FRAME, Spi};
use zerocopy::FromBytes as _;

use super::link;

/// Something that a program asks for, with the frame that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it asks for.
    pub asks: Asks,
    /// About which workload and destination; of an unknown session only the address and port of whoever showed it.
    pub route: RouteKey,
    /// The sender's address and port as they leave.
    pub source: (Address, u16),
    /// The device.
    pub device: u32,
    /// The cookie of the opener's socket; 0 for datagrams.
    pub cookie: u64,
    /// Of an unknown session: which. Of an uncovered device: its number.
    pub spi: Spi,
    /// The frame with its link header; empty when nothing waits.
    pub frame: Vec<u8>,
    /// Where in the frame the IP header begins.
    pub network: u32,
    /// Where in the frame the transport header begins.
    pub transport: u32,
}

/// Reads an entry of the ring of notices.
pub fn read_notice(bytes: &[u8]) -> Option<Held> {
    let notice = Notice::read_from_bytes(bytes).ok()?;
    let length = (notice.length as usize).min(SYN_FRAME);
    held(&notice, &notice.frame[..length])
}

/// Reads an entry of the ring of datagrams.
pub fn read_datagram(bytes: &[u8]) -> Option<Held> {
    let datagram = HeldDatagram::ref_from_bytes(bytes).ok()?;
    let length = (datagram.notice.length as usize).min(DATAGRAM_FRAME);
    held(&datagram.notice, &datagram.frame[..length])
}

fn held(notice: &Notice, frame: &[u8]) -> Option<Held> {
    Some(Held {
        asks: Asks::from_byte(notice.kind)?,
        route: notice.route,
        source: (notice.source, notice.source_port),
        device: notice.device,
        cookie: notice.cookie,
        spi: notice.spi,
        frame: frame.to_vec(),
        network: notice.network,
        transport: notice.transport,
    })
}

/// Sends held frames again, by the device that they wanted to leave by. They pass its TC program once more.
#[derive(Debug)]
pub struct Reinjector(OwnedFd);

impl Reinjector {
    /// For the devices of this process's network namespace.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Protocol 0: it sends and never receives.
        Ok(Self(socket(AddressFamily::Packet, SockType::Raw, flags, None)?))
    }

    /// Sends a frame.
    pub fn send(&self, held: &Held) -> io::Result<()> {
        let mut frame = held.frame.clone();
        let ip = held.network as usize;
        let version = frame.get(ip).map_or(0, |byte| byte >> 4);
        complete(&mut frame, ip, held.transport as usize, held.route.protocol);
        let kind: u16 = if version == 6 { 0x86dd } else { 0x0800 };
        let to = link::address(held.device, kind).ok_or_else(|| io::Error::other("no such device"))?;
        sendto(self.0.as_raw_fd(), &frame, &to, MsgFlags::empty())?;
        Ok(())
    }
}

/// Completes the transport checksum. Where the device does that, the copy holds only the sum of the pseudo header.
fn complete(frame: &mut [u8], ip: usize, transport: usize, protocol: u8) {
    let place = transport + if protocol == protocol::TCP { 16 } else { 6 };
    let Some(end) = end_of_packet(frame, ip) else { return };
    if place + 2 > end || transport > end {
        return;
    }
    // A datagram without a checksum has none to complete, and a first fragment none that can be computed.
    let without = protocol == protocol::UDP && frame[place..place + 2] == [0, 0];
    if without || is_fragment(&frame[ip..]) {
        return;
    }
    frame[place..place + 2].fill(0);
    let length = end - transport;
    let addresses = if frame[ip] >> 4 == 6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
    let sum = sum(&frame[addresses]) + u32::from(protocol) + length as u32 + sum(&frame[transport..end]);
    let mut checksum = fold(sum);
    // Zero would mean that there is none (RFC 768).
    if protocol == protocol::UDP && checksum == 0 {
        checksum = u16::MAX;
    }
    frame[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Where the packet ends within the frame: short frames are padded.
fn end_of_packet(frame: &[u8], ip: usize) -> Option<usize> {
    let head = frame.get(ip..ip + 20)?;
    let length = if head[0] >> 4 == 6 {
        40 + usize::from(u16::from_be_bytes([head[4], head[5]]))
    } else {
        usize::from(u16::from_be_bytes([head[2], head[3]]))
    };
    let enough = if head[0] >> 4 == 6 { 40 } else { 20 };
    (length >= enough && ip + length <= frame.len()).then_some(ip + length)
}

fn is_fragment(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(6..8).is_some_and(|bytes| bytes[0] & 0x3f != 0 || bytes[1] != 0),
        // An extension header comes first, perhaps a fragment's. What leaves this node has a whole checksum then.
        Some(6) => packet.get(6).is_some_and(|next| *next == 44),
        _ => true,
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    words.map(u32::from).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN from 10.0.0.1:40000 to 10.0.0.2:80 behind an Ethernet header, with this in the place of its checksum.
    fn syn(checksum: [u8; 2]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x26, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff]);
        frame.extend(checksum);
        frame.extend([0, 0]);
        frame
    }

    #[test]
    fn a_checksum_is_made_whole_whatever_stood_there() {
        for stood in [[0, 0], [0x14, 0x1f], [0xff, 0xff]] {
            let mut frame = syn(stood);
            frame.extend([0; 6]); // padding of a short frame counts for nothing
            complete(&mut frame, 14, 34, protocol::TCP);
            let total = sum(&frame[26..34]) + 6 + 20 + sum(&frame[34..54]);
            assert_eq!(fold(total), 0, "{stood:?}");
        }
    }

    #[test]
    fn a_datagram_without_a_checksum_keeps_none() {
        let mut frame = vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        frame.extend([0, 1, 0, 2, 0, 10, 0, 0, 7, 7]);
        let before = frame.clone();
        complete(&mut frame, 0, 20, protocol::UDP);
        assert_eq!(frame, before);
        frame[26] = 1;
        complete(&mut frame, 0, 20, protocol::UDP);
        assert_eq!(fold(sum(&frame[12..20]) + 17 + 10 + sum(&frame[20..])), 0);
    }

    #[test]
    fn a_frame_that_contradicts_itself_is_left_alone() {
        for length in 0..54 {
            let mut frame = syn([1, 2]);
            frame.truncate(length);
            let before = frame.clone();
            complete(&mut frame, 14, 34, protocol::TCP);
            assert_eq!(frame, before, "{length}");
        }
    }
}
