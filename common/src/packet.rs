//! IP, TCP and UDP heads out of bytes that nobody has checked.

use zerocopy::FromBytes;

use crate::address::Address;
use crate::ids::protocol;
use crate::seal::{OPTION_LENGTH, SealOption};

/// Where the bytes come from: a packet in the kernel, a slice on the host.
pub trait Bytes {
    /// `N` bytes at `offset`; `None` when the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let rest = self.get(offset as usize..)?;
        rest.get(..N)?.try_into().ok()
    }
}

/// How many IPv6 extension headers are read before a packet is refused.
pub const EXTENSION_HEADERS: u32 = 8;

/// Why a packet cannot be judged. A workload's packet is then denied and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It ends before its headers do.
    Short,
    /// Neither IPv4 nor IPv6, or lengths that contradict each other.
    Malformed,
    /// More than [`EXTENSION_HEADERS`] extension headers.
    TooDeep,
    /// A fragment that does not hold the transport header.
    Fragment,
}

/// An IP head, whichever the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHead {
    /// Sender.
    pub source: Address,
    /// Receiver.
    pub destination: Address,
    /// The transport protocol, after all extension headers.
    pub protocol: u8,
    /// Where the transport header starts, in bytes.
    pub transport: u32,
}

/// A TCP head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHead {
    /// Host order.
    pub source_port: u16,
    /// Host order.
    pub destination_port: u16,
    /// Host order.
    pub sequence: u32,
    /// The flag byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128.
    pub flags: u8,
    /// Length of the header with its options, in bytes: 20 to 60.
    pub length: u32,
}

impl TcpHead {
    /// Opens a connection: SYN set, ACK not. All other flags are no business of ours (RFC 9293 lets some of them be).
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & 0x12 == 0x02
    }

    /// Answers an opening: SYN and ACK.
    #[inline(always)]
    pub const fn answers(&self) -> bool {
        self.flags & 0x12 == 0x12
    }

    /// Tears down.
    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.flags & 0x04 != 0
    }
}

/// Reads the IP head at the start of `bytes`. The parsers are functions of their own, each with its own few bytes of the
/// kernel program's small stack.
#[inline(always)]
pub fn ip(bytes: &(impl Bytes + ?Sized)) -> Result<IpHead, ParseError> {
    let [first] = bytes.load::<1>(0).ok_or(ParseError::Short)?;
    match first >> 4 {
        4 => ipv4(bytes),
        6 => ipv6(bytes),
        _ => Err(ParseError::Malformed),
    }
}

#[inline(never)]
fn ipv4(bytes: &(impl Bytes + ?Sized)) -> Result<IpHead, ParseError> {
    let h = bytes.load::<20>(0).ok_or(ParseError::Short)?;
    let length = u32::from(h[0] & 0x0f) * 4;
    if length < 20 {
        return Err(ParseError::Malformed);
    }
    // The low 13 bits: offset of this fragment. Offset 0 holds the transport header, if the packet is long enough.
    if u16::from_be_bytes([h[6], h[7]]) & 0x1fff != 0 {
        return Err(ParseError::Fragment);
    }
    Ok(IpHead {
        source: Address::from_v4([h[12], h[13], h[14], h[15]]),
        destination: Address::from_v4([h[16], h[17], h[18], h[19]]),
        protocol: h[9],
        transport: length,
    })
}

#[inline(never)]
fn ipv6(bytes: &(impl Bytes + ?Sized)) -> Result<IpHead, ParseError> {
    let [next] = bytes.load::<1>(6).ok_or(ParseError::Short)?;
    let source = Address(bytes.load::<16>(8).ok_or(ParseError::Short)?);
    let destination = Address(bytes.load::<16>(24).ok_or(ParseError::Short)?);
    let mut protocol = next;
    let mut transport = 40u32;
    let mut seen = 0;
    while seen < EXTENSION_HEADERS {
        let length = match protocol {
            // Hop-by-hop, routing, destination options, mobility, host identity, shim6: length in units of eight.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let [_, units] = bytes.load::<2>(transport).ok_or(ParseError::Short)?;
                u32::from(units) * 8 + 8
            }
            // Fragment header. Offset 0 holds the transport header.
            44 => {
                let [_, _, high, low] = bytes.load::<4>(transport).ok_or(ParseError::Short)?;
                if u16::from_be_bytes([high, low]) >> 3 != 0 {
                    return Err(ParseError::Fragment);
                }
                8
            }
            // Authentication header: length in units of four.
            51 => {
                let [_, units] = bytes.load::<2>(transport).ok_or(ParseError::Short)?;
                u32::from(units) * 4 + 8
            }
            _ => return Ok(IpHead { source, destination, protocol, transport }),
        };
        let [next] = bytes.load::<1>(transport).ok_or(ParseError::Short)?;
        protocol = next;
        transport += length;
        seen += 1;
    }
    match protocol {
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Err(ParseError::TooDeep),
        _ => Ok(IpHead { source, destination, protocol, transport }),
    }
}

/// Bytes of the longest TCP header.
const LONGEST_TCP_HEADER: u32 = 60;

/// Whether a packet is a fragment that cuts a TCP header in two, or the first fragment of a SYN: nobody who sees single
/// packets could read such a header whole. No sender makes them for good reasons (RFC 1858, RFC 3128).
#[inline(never)]
pub fn cuts_tcp_header(bytes: &(impl Bytes + ?Sized)) -> bool {
    let Some([first]) = bytes.load::<1>(0) else { return false };
    match first >> 4 {
        4 => cuts4(bytes),
        6 => cuts6(bytes),
        _ => false,
    }
}

#[inline(always)]
fn cuts4(bytes: &(impl Bytes + ?Sized)) -> bool {
    let Some(h) = bytes.load::<12>(0) else { return false };
    let fragment = u16::from_be_bytes([h[6], h[7]]);
    let is_part = fragment.trailing_zeros() < 14; // an offset, or more to come
    if h[9] != protocol::TCP || !is_part {
        return false;
    }
    let header = u32::from(h[0] & 0x0f) * 4;
    let length = u32::from(u16::from_be_bytes([h[2], h[3]]));
    cuts(bytes, u32::from(fragment & 0x1fff) * 8, header, length.saturating_sub(header))
}

/// Only a fragment header that follows the fixed header, or one chain of extension headers as [`ip`] reads it.
#[inline(always)]
fn cuts6(bytes: &(impl Bytes + ?Sized)) -> bool {
    let Some([high, low, mut next]) = bytes.load::<3>(4) else { return false };
    let length = 40 + u32::from(u16::from_be_bytes([high, low]));
    let mut place = 40u32;
    let mut seen = 0;
    while seen < EXTENSION_HEADERS {
        let Some(h) = bytes.load::<4>(place) else { return false };
        match next {
            0 | 43 | 60 | 135 | 139 | 140 => place += u32::from(h[1]) * 8 + 8,
            51 => place += u32::from(h[1]) * 4 + 8,
            44 => {
                let fragment = u16::from_be_bytes([h[2], h[3]]);
                place += 8;
                // Without an offset and without more to come it is no fragment at all.
                let part = fragment & 0xfff9 != 0 && h[0] == protocol::TCP;
                return part
                    && cuts(bytes, u32::from(fragment & 0xfff8), place, length.saturating_sub(place));
            }
            _ => return false,
        }
        next = h[0];
        seen += 1;
    }
    false
}

/// `offset` is the fragment's place in the whole packet, `transport` where its own bytes begin, `length` how many they
/// are.
#[inline(always)]
fn cuts(bytes: &(impl Bytes + ?Sized), offset: u32, transport: u32, length: u32) -> bool {
    if offset != 0 {
        return offset < LONGEST_TCP_HEADER;
    }
    let opens = bytes.load::<1>(transport + 13).is_none_or(|[flags]| flags & 0x12 == 0x02);
    opens || length < LONGEST_TCP_HEADER
}

/// Reads the TCP head that starts at `offset`.
#[inline(never)]
pub fn tcp(bytes: &(impl Bytes + ?Sized), offset: u32) -> Result<TcpHead, ParseError> {
    let h = bytes.load::<14>(offset).ok_or(ParseError::Short)?;
    let length = u32::from(h[12] >> 4) * 4;
    if length < 20 {
        return Err(ParseError::Malformed);
    }
    Ok(TcpHead {
        source_port: u16::from_be_bytes([h[0], h[1]]),
        destination_port: u16::from_be_bytes([h[2], h[3]]),
        sequence: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
        flags: h[13],
        length,
    })
}

/// Reads source and destination port at `offset`, where TCP, UDP, UDP-Lite, SCTP and DCCP all have them.
#[inline(always)]
pub fn ports(bytes: &(impl Bytes + ?Sized), offset: u32) -> Result<(u16, u16), ParseError> {
    let h = bytes.load::<4>(offset).ok_or(ParseError::Short)?;
    Ok((u16::from_be_bytes([h[0], h[1]]), u16::from_be_bytes([h[2], h[3]])))
}

/// Whether a protocol has ports at the start of its header.
#[inline(always)]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | 33 | 132 | 136)
}

/// The last sixteen bytes of a SYN's header, where a seal stands if there is one: the kernel writes it after all of its
/// own options. Looking nowhere else, nobody can make us read a second one.
#[inline(always)]
pub fn seal_option(bytes: &(impl Bytes + ?Sized), offset: u32, head: &TcpHead) -> Option<SealOption> {
    if head.length < 20 + u32::from(OPTION_LENGTH) {
        return None;
    }
    let bytes = bytes.load::<16>(offset + head.length - u32::from(OPTION_LENGTH))?;
    SealOption::read_from_bytes(&bytes).ok()
}
