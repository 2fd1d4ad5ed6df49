//! The packets that tell a caller no: a reset for a SYN, "port unreachable" for a datagram. Pure.

use waxseal_common::address::Address;
use waxseal_common::ids::protocol;
use waxseal_common::state::Tuple;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Bytes of an ICMP header, and of a UDP header.
const EIGHT: u16 = 8;

/// What answers a denied packet from `tuple.source`, IP header included. `isn` is the sequence number of a SYN.
pub(super) fn answer(tuple: &Tuple, protocol: u8, isn: u32) -> Vec<u8> {
    let back = tuple.reversed();
    if protocol == protocol::TCP {
        let segment = reset(&back, isn.wrapping_add(1));
        return [ip(&back, protocol::TCP, segment.len() as u16), segment.to_vec()].concat();
    }
    let message = unreachable(tuple);
    let kind = if back.source.is_v4() { ICMP } else { ICMPV6 };
    [ip(&back, kind, message.len() as u16), message].concat()
}

/// "Port unreachable" about a datagram: RFC 792 and RFC 4443, section 3.1. Quotes its IP and UDP headers, by which the
/// sender's kernel finds the socket.
fn unreachable(tuple: &Tuple) -> Vec<u8> {
    let [source, destination] = [tuple.source_port.to_be_bytes(), tuple.destination_port.to_be_bytes()];
    let length = EIGHT.to_be_bytes();
    let datagram = [source, destination, length, [0, 0]].concat();
    let v4 = tuple.source.is_v4();
    let head = if v4 { [3, 3, 0, 0, 0, 0, 0, 0] } else { [1, 4, 0, 0, 0, 0, 0, 0] };
    let mut message = [head.to_vec(), ip(tuple, protocol::UDP, EIGHT), datagram].concat();
    let sum =
        if v4 { sum(&message) } else { pseudo(&tuple.reversed(), ICMPV6, message.len()) + sum(&message) };
    message[2..4].copy_from_slice(&fold(sum).to_be_bytes());
    message
}

/// A bare RST with ACK, as a closed port answers a SYN (RFC 9293, section 3.10.7.1).
fn reset(tuple: &Tuple, acknowledgement: u32) -> [u8; 20] {
    let mut segment = [0u8; 20];
    segment[0..2].copy_from_slice(&tuple.source_port.to_be_bytes());
    segment[2..4].copy_from_slice(&tuple.destination_port.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x14;
    let checksum = fold(pseudo(tuple, protocol::TCP, segment.len()) + sum(&segment));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// An IP header for so many bytes of payload. The kernel fills in IPv4's checksum.
pub(super) fn ip(tuple: &Tuple, protocol: u8, payload: u16) -> Vec<u8> {
    let length = payload.to_be_bytes();
    if tuple.source.is_v4() {
        let total = (payload + 20).to_be_bytes();
        let head = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
        return [&head[..], &four(tuple.source), &four(tuple.destination)].concat();
    }
    let head = [6 << 4, 0, 0, 0, length[0], length[1], protocol, 64];
    [&head[..], &tuple.source.0, &tuple.destination.0].concat()
}

/// The sum over the pseudo header of TCP and ICMPv6 (RFC 9293, section 3.1; RFC 8200, section 8.1).
pub(super) fn pseudo(tuple: &Tuple, protocol: u8, length: usize) -> u32 {
    // The upper twelve bytes of a mapped IPv4 address are not on the wire.
    let skip = if tuple.destination.is_v4() { 12 } else { 0 };
    sum(&tuple.source.0[skip..]) + sum(&tuple.destination.0[skip..]) + u32::from(protocol) + length as u32
}

/// The sum of sixteen-bit words; the bytes are even in number.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

pub(super) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn four(address: Address) -> [u8; 4] {
    let b = address.0;
    [b[12], b[13], b[14], b[15]]
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use waxseal_common::packet;

    use super::*;

    fn tuple(source: &str, destination: &str) -> Tuple {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        Tuple {
            source: address(source),
            destination: address(destination),
            source_port: 40000,
            destination_port: 8080,
            ..Tuple::default()
        }
    }

    const PAIRS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")];

    #[test]
    fn a_reset_goes_back_and_acknowledges_the_syn_with_a_right_checksum() {
        for (source, destination) in PAIRS {
            let asked = tuple(source, destination);
            let packet = answer(&asked, protocol::TCP, 0x0102_0303);
            let head = packet::ip(&packet[..]).unwrap();
            assert_eq!((head.source, head.destination), (asked.destination, asked.source));
            let tcp = packet::tcp(&packet[..], head.transport).unwrap();
            assert_eq!((tcp.source_port, tcp.destination_port, tcp.flags), (8080, 40000, 0x14));
            let segment = &packet[head.transport as usize..];
            assert_eq!(segment[8..12], [1, 2, 3, 4]);
            let all = pseudo(&asked.reversed(), protocol::TCP, segment.len()) + sum(segment);
            assert_eq!(fold(all), 0, "{source}");
        }
    }

    #[test]
    fn port_unreachable_quotes_the_datagram_with_a_right_checksum() {
        for (source, destination) in PAIRS {
            let asked = tuple(source, destination);
            let packet = answer(&asked, protocol::UDP, 0);
            let head = packet::ip(&packet[..]).unwrap();
            let message = &packet[head.transport as usize..];
            let v4 = asked.source.is_v4();
            assert_eq!(
                (head.protocol, message[0], message[1]),
                if v4 { (ICMP, 3, 3) } else { (ICMPV6, 1, 4) }
            );
            let quoted = packet::ip(&message[8..]).unwrap();
            assert_eq!(
                (quoted.source, quoted.destination, quoted.protocol),
                (asked.source, asked.destination, 17)
            );
            assert_eq!(packet::ports(&message[8..], quoted.transport).unwrap(), (40000, 8080));
            let all = sum(message) + if v4 { 0 } else { pseudo(&asked.reversed(), ICMPV6, message.len()) };
            assert_eq!(fold(all), 0, "{source}");
        }
    }
}
