//! Packets that no honest kernel would send: forged options, odd flags, fragments.

use std::net::{Ipv4Addr, SocketAddrV4};

/// A TCP segment over IPv4, with every field in the hands of the test.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Where it claims to come from.
    pub source: SocketAddrV4,
    /// Where it goes.
    pub destination: SocketAddrV4,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// All nine flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128, AE 256.
    pub flags: u16,
    /// IPv4 options; padded to four bytes.
    pub ip_options: Vec<u8>,
    /// TCP options; padded to four bytes.
    pub options: Vec<u8>,
    /// Data.
    pub data: Vec<u8>,
}

impl Segment {
    /// A plain SYN.
    pub fn syn(source: SocketAddrV4, destination: SocketAddrV4) -> Self {
        Self {
            source,
            destination,
            sequence: 0x1234_5678,
            acknowledgement: 0,
            flags: 2,
            ip_options: Vec::new(),
            options: Vec::new(),
            data: Vec::new(),
        }
    }

    /// The whole IPv4 packet, checksums included.
    pub fn packet(&self) -> Vec<u8> {
        let ip_options = padded(&self.ip_options);
        let tcp = self.transport();
        let header = 20 + ip_options.len();
        let mut packet = Vec::with_capacity(header + tcp.len());
        packet.push(0x40 | nibble(header / 4));
        packet.push(0);
        packet.extend(short(header + tcp.len()));
        // Identification, no fragment, time to live, TCP, checksum to come.
        packet.extend([0x57, 0x58, 0, 0, 64, 6, 0, 0]);
        packet.extend(self.source.ip().octets());
        packet.extend(self.destination.ip().octets());
        packet.extend(ip_options);
        let sum = checksum(&packet, 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(tcp);
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let options = padded(&self.options);
        let mut tcp = Vec::with_capacity(20 + options.len() + self.data.len());
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        let length = u16::from(nibble(5 + options.len() / 4)) << 12;
        tcp.extend((length | (self.flags & 0x1ff)).to_be_bytes());
        // Window, checksum to come, urgent pointer.
        tcp.extend([0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(&self.data);
        let sum = checksum(&tcp, pseudo_header(*self.source.ip(), *self.destination.ip(), tcp.len()));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }
}

/// A UDP datagram over IPv4.
pub fn datagram(source: SocketAddrV4, destination: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(short(28 + data.len()));
    packet.extend([0x57, 0x59, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    let sum = checksum(&packet, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend(short(8 + data.len()));
    // Over IPv4 a zero checksum means none.
    packet.extend([0, 0]);
    packet.extend(data);
    packet
}

/// Cuts an IPv4 packet without options into fragments: `cuts` are offsets into its payload, multiples of eight, rising.
pub fn fragments(packet: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let starts = [&[0], cuts].concat();
    let mut pieces = Vec::with_capacity(starts.len());
    for (index, start) in starts.iter().copied().enumerate() {
        let end = starts.get(index + 1).copied();
        pieces.push(fragment(header, start, &payload[start..end.unwrap_or(payload.len())], end.is_some()));
    }
    pieces
}

/// One fragment: `offset` in bytes, a multiple of eight.
pub fn fragment(header: &[u8], offset: usize, data: &[u8], more: bool) -> Vec<u8> {
    let mut piece = header[..20].to_vec();
    piece[2..4].copy_from_slice(&short(20 + data.len()));
    let mut word = u16::try_from(offset / 8).unwrap_or(0x1fff);
    if more {
        word |= 0x2000;
    }
    piece[6..8].copy_from_slice(&word.to_be_bytes());
    piece[10..12].fill(0);
    let sum = checksum(&piece, 0);
    piece[10..12].copy_from_slice(&sum.to_be_bytes());
    piece.extend(data);
    piece
}

/// The same IPv4 packet with a right header checksum.
pub fn whole_header(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let length = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..length], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Puts an IPv4 packet on an Ethernet wire.
pub fn frame(to: [u8; 6], from: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &[8, 0], packet].concat()
}

/// The bytes of a seal that claims an identity: the shape is right, the MAC is a guess.
pub fn forged_seal(identity: u32, mac: u64) -> [u8; 16] {
    let mut option = [0; 16];
    option[..4].copy_from_slice(&[253, 16, 0x57, 0x58]);
    option[4..8].copy_from_slice(&identity.to_be_bytes());
    option[8..].copy_from_slice(&mac.to_be_bytes());
    option
}

fn padded(options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

fn nibble(words: usize) -> u8 {
    u8::try_from(words.min(15)).unwrap_or(15)
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> u32 {
    sum_of(&source.octets()) + sum_of(&destination.octets()) + 6 + u32::try_from(length).unwrap_or(0)
}

/// The sum of all 16-bit words; an odd last byte counts as the high one.
pub(crate) fn sum_of(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start + sum_of(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Segment {
        let source = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1000);
        let destination = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 80);
        Segment { options: forged_seal(300, 7).to_vec(), ..Segment::syn(source, destination) }
    }

    #[test]
    fn checksums_of_what_is_built_are_right() {
        let packet = example().packet();
        assert_eq!(checksum(&packet[..20], 0), 0);
        let source = Ipv4Addr::new(10, 0, 0, 1);
        let destination = Ipv4Addr::new(10, 0, 0, 2);
        assert_eq!(checksum(&packet[20..], pseudo_header(source, destination, packet.len() - 20)), 0);
    }

    #[test]
    fn fragments_hold_all_the_bytes_once() {
        let packet = example().packet();
        for cuts in [&[8][..], &[8, 16, 24], &[24]] {
            let pieces = fragments(&packet, cuts);
            let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece[20..].to_vec()).collect();
            assert_eq!(joined, packet[20..]);
            assert!(pieces.iter().all(|piece| checksum(&piece[..20], 0) == 0));
            let last = pieces.last().unwrap();
            assert_eq!(last[6] & 0x20, 0, "the last fragment says that no more follow");
        }
    }
}
