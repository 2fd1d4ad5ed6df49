//! The packet parser against crafted and against random bytes.

use proptest::prelude::*;
use waxseal_common::ids::IdentityId;
use waxseal_common::packet::{EXTENSION_HEADERS, ParseError, cuts_tcp_header, ip, ports, seal_option, tcp};
use waxseal_common::seal::{SealKey, seal, verify};
use zerocopy::IntoBytes as _;

const KEY: SealKey = SealKey([3, 4]);

fn ipv4(header_words: u8, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0u8; usize::from(header_words) * 4];
    packet[0] = 0x40 | header_words;
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend_from_slice(payload);
    packet
}

fn ipv6(chain: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0u8; 40];
    packet[0] = 0x60;
    packet[6] = *chain.first().unwrap_or(&protocol);
    packet[8] = 0x20;
    packet[24] = 0x20;
    for (index, _) in chain.iter().enumerate() {
        // Eight bytes each: the next header, then a length of zero units.
        packet.extend_from_slice(&[*chain.get(index + 1).unwrap_or(&protocol), 0, 0, 0, 0, 0, 0, 0]);
    }
    packet.extend_from_slice(payload);
    packet
}

fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
    let mut segment = vec![0u8; 20];
    segment[0..4].copy_from_slice(&[0x9c, 0x40, 0x1f, 0x90]);
    segment[4..8].copy_from_slice(&7u32.to_be_bytes());
    segment[12] = (((20 + options.len()) / 4) << 4) as u8;
    segment[13] = flags;
    segment.extend_from_slice(options);
    segment
}

#[test]
fn the_transport_header_is_found_behind_any_ipv4_header() {
    for words in 5..=15 {
        let packet = ipv4(words, 0, 6, &segment(2, &[]));
        let head = ip(&packet[..]).unwrap();
        assert_eq!((head.protocol, head.transport), (6, u32::from(words) * 4), "{words} words");
        assert_eq!(tcp(&packet[..], head.transport).unwrap().destination_port, 8080, "{words} words");
    }
    for words in 0..5 {
        let mut packet = ipv4(5, 0, 6, &segment(2, &[]));
        packet[0] = 0x40 | words;
        assert_eq!(ip(&packet[..]), Err(ParseError::Malformed), "{words} words");
    }
}

#[test]
fn a_later_fragment_holds_no_transport_header_and_a_first_one_does() {
    assert!(ip(&ipv4(5, 0x2000, 6, &segment(2, &[]))[..]).is_ok(), "more fragments follow");
    assert_eq!(ip(&ipv4(5, 1, 6, &segment(2, &[]))[..]), Err(ParseError::Fragment));
    let mut packet = ipv6(&[44], 6, &segment(2, &[]));
    assert!(ip(&packet[..]).is_ok(), "an atomic fragment");
    packet[42..44].copy_from_slice(&(1u16 << 3).to_be_bytes());
    assert_eq!(ip(&packet[..]), Err(ParseError::Fragment));
}

#[test]
fn extension_headers_are_walked_to_the_limit_and_refused_beyond() {
    for count in 0..=EXTENSION_HEADERS as usize + 3 {
        let chain: Vec<u8> = [0u8, 60, 43, 60].into_iter().cycle().take(count).collect();
        let packet = ipv6(&chain, 6, &segment(2, &[]));
        let parsed = ip(&packet[..]);
        if count <= EXTENSION_HEADERS as usize {
            assert_eq!(parsed.unwrap().transport, 40 + 8 * count as u32, "{count} headers");
        } else {
            assert_eq!(parsed, Err(ParseError::TooDeep), "{count} headers");
        }
    }
}

#[test]
fn a_syn_is_syn_without_ack_whatever_else_is_set() {
    for flags in 0..=u8::MAX {
        let segment = segment(flags, &[]);
        let head = tcp(&segment[..], 0).unwrap();
        let (syn, ack) = (flags & 2 != 0, flags & 16 != 0);
        assert_eq!(head.opens(), syn && !ack, "{flags:#04x}");
        assert_eq!(head.answers(), syn && ack, "{flags:#04x}");
        assert_eq!(head.resets(), flags & 4 != 0, "{flags:#04x}");
    }
}

#[test]
fn only_the_last_sixteen_bytes_of_a_header_can_be_a_seal() {
    let (option, _) = seal(&KEY, IdentityId(300), 7, 0);
    for (options, found) in [
        ([&[1u8; 4][..], option.as_bytes()].concat(), true),
        (option.as_bytes().to_vec(), true),
        ([option.as_bytes(), &[1u8; 4][..]].concat(), false),
        ([option.as_bytes(), &[1u8; 16][..]].concat(), false),
        (vec![1u8; 12], false),
        (vec![], false),
    ] {
        let segment = segment(2, &options);
        let head = tcp(&segment[..], 0).unwrap();
        let read =
            seal_option(&segment[..], 0, &head).and_then(|option| verify(&KEY, &option, head.sequence, 0));
        assert_eq!(read.is_some(), found, "{options:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic_or_read_past_the_end(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        next in prop_oneof![Just(6u8), Just(0), Just(44), Just(60), Just(51), any::<u8>()],
    ) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        if let Some(byte) = bytes.get_mut(6) {
            *byte = next;
        }
        if let Ok(head) = ip(&bytes[..]) {
            prop_assert!(head.transport >= 20);
            if let Ok(tcp) = tcp(&bytes[..], head.transport) {
                prop_assert!((20..=60).contains(&tcp.length));
                let _ = seal_option(&bytes[..], head.transport, &tcp);
            }
            let _ = ports(&bytes[..], head.transport);
        }
    }

    #[test]
    fn no_forged_seal_is_believed(mac in any::<[u8; 8]>(), identity in any::<u32>(), isn in any::<u32>()) {
        let mut options = vec![253, 16, 0x57, 0x58];
        options.extend_from_slice(&identity.to_be_bytes());
        options.extend_from_slice(&mac);
        let segment = segment(2, &options);
        let head = tcp(&segment[..], 0).unwrap();
        let option = seal_option(&segment[..], 0, &head).unwrap();
        prop_assert!(verify(&KEY, &option, isn, 0).is_none());
    }
}

/// An IPv4 fragment of a TCP segment: its offset in bytes, whether more follow, and the flag byte at its place.
fn fragment4(offset: u16, more: bool, flags: u8, length: usize) -> Vec<u8> {
    let field = (offset / 8) | if more { 0x2000 } else { 0 };
    let total = (20 + length) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet.resize(20 + length, 0);
    if length > 13 {
        packet[33] = flags;
    }
    packet
}

/// The same over IPv6, behind one chain of destination options.
fn fragment6(offset: u16, more: bool, flags: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![0u8; 40];
    packet[0] = 6 << 4;
    packet[4..6].copy_from_slice(&((16 + length) as u16).to_be_bytes());
    packet[6] = 60;
    packet.extend([44, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend([6, 0]);
    packet.extend((offset | u16::from(more)).to_be_bytes());
    packet.extend([0; 4]);
    let transport = packet.len();
    packet.resize(transport + length, 0);
    if length > 13 {
        packet[transport + 13] = flags;
    }
    packet
}

#[test]
fn fragments_that_cut_a_tcp_header_are_told_from_the_others() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    for (offset, more, flags, length, cuts) in [
        (0, false, SYN, 60, false), // no fragment at all
        (0, true, SYN, 1400, true), // a SYN that goes on
        (0, true, ACK, 1400, false),
        (0, true, ACK, 56, true), // the header may end in the next one
        (0, true, ACK, 8, true),
        (8, true, 0, 64, true),
        (56, false, 0, 64, true),
        (64, false, 0, 64, false), // past the longest header
        (1400, false, 0, 64, false),
    ] {
        let case = format!("offset {offset} more {more} flags {flags} length {length}");
        for packet in [fragment4(offset, more, flags, length), fragment6(offset, more, flags, length)] {
            assert_eq!(cuts_tcp_header(packet.as_slice()), cuts, "{case}: {packet:02x?}");
            // Whatever is missing, it ends.
            for end in 0..packet.len().min(80) {
                let _ = cuts_tcp_header(&packet[..end]);
            }
        }
    }
    let mut datagram = fragment4(8, true, 0, 64);
    datagram[9] = 17;
    assert!(!cuts_tcp_header(datagram.as_slice()), "datagrams are not looked at");
}
