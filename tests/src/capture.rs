//! Frames as they stood on a wire: read, changed by a bit, made whole again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::packet::{checksum, sum_of};

/// Where the IP header of an Ethernet frame begins.
const LINK: usize = 14;
/// Bytes of our option.
const SEAL: usize = 16;
/// The experiment id of the local form.
pub const LOCAL: u16 = 0x5758;
/// The experiment id of the wire form.
pub const WIRE: u16 = 0x5759;

/// An Ethernet frame with an IP packet that has TCP or UDP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
    transport: usize,
    protocol: u8,
}

impl Frame {
    /// Reads a frame; `None` when it holds no TCP or UDP head (a later fragment, ARP, ICMP).
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (transport, protocol) = match bytes.get(12..14)? {
            [8, 0] => ipv4(bytes)?,
            [0x86, 0xdd] => ipv6(bytes)?,
            _ => return None,
        };
        let least = match protocol {
            6 => 20,
            17 => 8,
            _ => return None,
        };
        bytes.get(transport..transport + least)?;
        // Short frames are padded; what the IP header does not count is not part of the packet.
        let end = LINK + ip_length(bytes)?;
        Some(Self { bytes: bytes.get(..end)?.to_vec(), transport, protocol })
    }

    /// The whole frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The packet without the link header.
    pub fn packet(&self) -> &[u8] {
        &self.bytes[LINK..]
    }

    /// Whether it is TCP.
    pub const fn is_tcp(&self) -> bool {
        self.protocol == 6
    }

    /// Whether it opens a connection.
    pub fn opens(&self) -> bool {
        self.is_tcp() && self.flags() & 0x12 == 0x02
    }

    /// Whether it accepts a connection.
    pub fn accepts(&self) -> bool {
        self.is_tcp() && self.flags() & 0x12 == 0x12
    }

    /// Whether it resets one.
    pub fn resets(&self) -> bool {
        self.is_tcp() && self.flags() & 4 != 0
    }

    /// The TCP flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub fn flags(&self) -> u8 {
        self.bytes[self.transport + 13]
    }

    /// Sender's address and port.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.address(self.addresses().0), self.port(0))
    }

    /// Receiver's address and port.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.address(self.addresses().1), self.port(2))
    }

    /// Sequence number.
    pub fn sequence(&self) -> u32 {
        let at = self.transport + 4;
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    /// Where our option stands, when the last sixteen bytes of the TCP header have its shape.
    pub fn seal(&self) -> Option<Range<usize>> {
        if !self.is_tcp() {
            return None;
        }
        let end = self.transport + usize::from(self.bytes[self.transport + 12] >> 4) * 4;
        let start = end.checked_sub(SEAL).filter(|start| *start >= self.transport + 20)?;
        let option = self.bytes.get(start..end)?;
        (option[0] == 253 && option[1] == 16).then_some(start..end)
    }

    /// The experiment id of our option: [`LOCAL`], [`WIRE`], or somebody else's.
    pub fn experiment(&self) -> Option<u16> {
        let seal = self.seal()?;
        Some(u16::from_be_bytes([self.bytes[seal.start + 2], self.bytes[seal.start + 3]]))
    }

    /// The number in the option: the session index of the wire form, the identity of the local one.
    pub fn number(&self) -> Option<u32> {
        let at = self.seal()?.start + 4;
        Some(u32::from_be_bytes(self.bytes[at..at + 4].try_into().expect("four bytes")))
    }

    /// Where the two ports stand, source first.
    pub const fn ports(&self) -> Range<usize> {
        self.transport..self.transport + 4
    }

    /// Where the sequence number stands.
    pub const fn sequence_at(&self) -> Range<usize> {
        self.transport + 4..self.transport + 8
    }

    /// Where the two addresses stand.
    pub fn addresses(&self) -> (Range<usize>, Range<usize>) {
        if self.is_v4() { (26..30, 30..34) } else { (22..38, 38..54) }
    }

    /// A copy in which one byte range is something else; checksums are right again.
    #[must_use]
    pub fn with(&self, at: Range<usize>, bytes: &[u8]) -> Self {
        let mut changed = self.clone();
        changed.bytes[at].copy_from_slice(bytes);
        changed.mended()
    }

    /// Copies that differ from this in one bit of a range; checksums are right.
    pub fn flips(&self, at: Range<usize>) -> Vec<Self> {
        let bits = at.flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
        bits.map(|(byte, bit)| {
            let mut changed = self.clone();
            changed.bytes[byte] ^= 1 << bit;
            changed.mended()
        })
        .collect()
    }

    /// The same without our option: its bytes are NOPs.
    #[must_use]
    pub fn stripped(&self) -> Self {
        match self.seal() {
            Some(seal) => self.with(seal, &[1; SEAL]),
            None => self.clone(),
        }
    }

    /// Sent back where it came from: addresses and ports change places.
    #[must_use]
    pub fn reflected(&self) -> Self {
        let mut changed = self.clone();
        let (source, destination) = self.addresses();
        changed.bytes[source.clone()].copy_from_slice(&self.bytes[destination.clone()]);
        changed.bytes[destination].copy_from_slice(&self.bytes[source]);
        let port = self.transport;
        changed.bytes[port..port + 2].copy_from_slice(&self.bytes[port + 2..port + 4]);
        changed.bytes[port + 2..port + 4].copy_from_slice(&self.bytes[port..port + 2]);
        changed.mended()
    }

    /// The reset that takes back a SYN of which the other end still thinks.
    #[must_use]
    pub fn taken_back(&self) -> Self {
        let mut changed = self.clone();
        let at = self.sequence_at();
        changed.bytes[at].copy_from_slice(&self.sequence().wrapping_add(1).to_be_bytes());
        changed.bytes[self.transport + 13] = 4;
        changed.stripped().mended()
    }

    /// The same between other hardware addresses.
    #[must_use]
    pub fn between(&self, to: [u8; 6], from: [u8; 6]) -> Self {
        let mut changed = self.clone();
        changed.bytes[..6].copy_from_slice(&to);
        changed.bytes[6..12].copy_from_slice(&from);
        changed
    }

    /// The same with right checksums. A kernel leaves them to the device; between two veth ends there is none.
    #[must_use]
    pub fn mended(mut self) -> Self {
        if self.is_v4() {
            self.bytes[LINK + 10..LINK + 12].fill(0);
            let sum = checksum(&self.bytes[LINK..LINK + self.ihl()], 0);
            self.bytes[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let field = self.transport + if self.is_tcp() { 16 } else { 6 };
        self.bytes[field..field + 2].fill(0);
        let sum = checksum(&self.bytes[self.transport..], self.pseudo_header());
        // Zero means "none" in UDP.
        let sum = if sum == 0 && !self.is_tcp() { 0xffff } else { sum };
        self.bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// Whether the transport checksum is right.
    pub fn is_whole(&self) -> bool {
        checksum(&self.bytes[self.transport..], self.pseudo_header()) == 0
    }

    fn pseudo_header(&self) -> u32 {
        let (source, destination) = self.addresses();
        let length = u32::try_from(self.bytes.len() - self.transport).expect("frames are short");
        sum_of(&self.bytes[source]) + sum_of(&self.bytes[destination]) + u32::from(self.protocol) + length
    }

    fn is_v4(&self) -> bool {
        self.bytes[12] == 8
    }

    fn ihl(&self) -> usize {
        usize::from(self.bytes[LINK] & 15) * 4
    }

    fn address(&self, at: Range<usize>) -> IpAddr {
        let bytes = &self.bytes[at];
        match <[u8; 4]>::try_from(bytes) {
            Ok(four) => Ipv4Addr::from(four).into(),
            Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("sixteen bytes")).into(),
        }
    }

    fn port(&self, offset: usize) -> u16 {
        let at = self.transport + offset;
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}

/// Length of the IP packet, as it says itself.
fn ip_length(bytes: &[u8]) -> Option<usize> {
    let at = |offset: usize| Some(u16::from_be_bytes([*bytes.get(offset)?, *bytes.get(offset + 1)?]));
    if bytes[12] == 8 {
        at(LINK + 2).map(usize::from)
    } else {
        at(LINK + 4).map(|length| usize::from(length) + 40)
    }
}

fn ipv4(bytes: &[u8]) -> Option<(usize, u8)> {
    let fragment = u16::from_be_bytes([*bytes.get(LINK + 6)?, *bytes.get(LINK + 7)?]);
    if fragment & 0x1fff != 0 {
        return None;
    }
    Some((LINK + usize::from(bytes[LINK] & 15) * 4, *bytes.get(LINK + 9)?))
}

fn ipv6(bytes: &[u8]) -> Option<(usize, u8)> {
    let mut protocol = *bytes.get(LINK + 6)?;
    let mut at = LINK + 40;
    // Hop-by-hop, routing, destination options; a fragment header of a whole packet.
    while matches!(protocol, 0 | 43 | 44 | 60) {
        let units = if protocol == 44 { 0 } else { usize::from(*bytes.get(at + 1)?) };
        if protocol == 44 && u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]) >> 3 != 0 {
            return None;
        }
        protocol = *bytes.get(at)?;
        at += units * 8 + 8;
    }
    Some((at, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Segment, forged_seal, frame};

    fn sealed() -> Frame {
        let from = "10.77.1.2:40000".parse().unwrap();
        let to = "10.77.2.2:8080".parse().unwrap();
        let options = [&[1u8, 1, 1, 1][..], &forged_seal(300, 7)].concat();
        let packet = Segment { options, ..Segment::syn(from, to) }.packet();
        Frame::read(&frame([2; 6], [4; 6], &packet)).unwrap()
    }

    #[test]
    fn what_was_built_is_read_back() {
        let frame = sealed();
        assert!(frame.opens() && frame.is_whole());
        assert_eq!(frame.source().to_string(), "10.77.1.2:40000");
        assert_eq!(frame.destination().to_string(), "10.77.2.2:8080");
        assert_eq!((frame.experiment(), frame.number()), (Some(LOCAL), Some(300)));
        assert_eq!(frame.sequence(), 0x1234_5678);
    }

    #[test]
    fn changed_frames_differ_in_what_was_asked_and_have_right_checksums() {
        let frame = sealed();
        let seal = frame.seal().unwrap();
        let flips = frame.flips(seal.clone());
        assert_eq!(flips.len(), 128);
        for flipped in &flips {
            assert!(flipped.is_whole());
            let different: u32 =
                seal.clone().map(|at| (flipped.bytes()[at] ^ frame.bytes()[at]).count_ones()).sum();
            assert_eq!(different, 1);
        }
        assert_eq!(frame.stripped().seal(), None);
        let back = frame.reflected();
        assert_eq!((back.source(), back.destination()), (frame.destination(), frame.source()));
        assert!(back.is_whole());
        assert_eq!(back.reflected(), frame);
    }
}
