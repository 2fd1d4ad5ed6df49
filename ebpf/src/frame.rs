//! A frame at a device, as the TC hooks get it. `LINK` is the length of the device's link header: 14 for Ethernet, 0
//! for devices without one (tunnels). Offsets are counted from the IP header on, as everywhere else.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::TcContext;
use waxseal_common::packet::{Bytes, TcpHead};
use waxseal_common::seal::{OPTION_LENGTH, SealOption};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::ctx::field;

const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
/// Marks a frame whose seal a program of ours has written, for the same program at a device below or above (a VLAN, a
/// bridge). It never leaves this kernel.
const WRITTEN: u32 = 0x5758;

/// A frame at a device.
pub(crate) struct Frame<'a, const LINK: usize>(pub(crate) &'a TcContext);

/// What a first look at a frame says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Glance {
    /// Nothing that opens a connection.
    Nothing,
    /// A datagram.
    Datagram,
    /// Perhaps a SYN, or something that only a closer look can tell.
    Perhaps,
}

impl<const LINK: usize> Frame<'_, LINK> {
    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// The first look, which every packet of the device gets: a few loads, no calls.
    #[inline(always)]
    pub(crate) fn glance(&self) -> Glance {
        match field!(self.raw(), protocol) as u16 {
            IPV4 => self.glance4(),
            IPV6 => self.glance6(),
            _ => Glance::Nothing,
        }
    }

    #[inline(always)]
    fn glance4(&self) -> Glance {
        let Some(head) = self.start(34) else { return Glance::Perhaps };
        // Version 4 with a header of twenty bytes, and no fragment.
        if byte(head, 0) != 0x45 || byte(head, 6) & 0x3f | byte(head, 7) != 0 {
            return Glance::Perhaps;
        }
        transport(byte(head, 9), byte(head, 33))
    }

    #[inline(always)]
    fn glance6(&self) -> Glance {
        let Some(head) = self.start(54) else { return Glance::Perhaps };
        transport(byte(head, 6), byte(head, 53))
    }

    /// The beginning of the packet, where so many bytes lie in one piece.
    #[inline(always)]
    fn start(&self, length: usize) -> Option<*const u8> {
        let start = self.0.data() + LINK;
        if start + length > self.0.data_end() { None } else { Some(start as *const u8) }
    }

    /// The device.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        field!(self.raw(), ifindex)
    }

    /// Bytes of the frame, link header included.
    #[inline(always)]
    pub(crate) fn length(&self) -> u32 {
        field!(self.raw(), len)
    }

    /// Whether the frame holds several packets that are cut apart later.
    #[inline(always)]
    pub(crate) fn is_bundle(&self) -> bool {
        field!(self.raw(), gso_segs) > 1
    }

    /// Whether a program of ours has written this frame's seal.
    #[inline(always)]
    pub(crate) fn is_written(&self) -> bool {
        field!(self.raw(), tc_index) == WRITTEN
    }

    #[inline(always)]
    fn mark_written(&self) {
        // SAFETY: computes an address inside the live context.
        let place = unsafe { &raw mut (*self.raw()).tc_index };
        // SAFETY: the context lets this field be written.
        unsafe { ptr::write_volatile(place, WRITTEN) };
    }

    /// The context as a helper wants it.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut core::ffi::c_void {
        self.0.as_ptr()
    }

    /// Writes into the packet.
    #[inline(always)]
    pub(crate) fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> bool {
        let from = bytes.as_ptr().cast();
        // SAFETY: the helper checks the offset and reads exactly N bytes.
        let failed = unsafe {
            helpers::bpf_skb_store_bytes(self.0.as_ptr().cast(), offset + LINK as u32, from, N as u32, 0)
        };
        failed == 0
    }

    /// Writes another option where the seal stands, with the checksum that belongs to it. `false` when that failed: the
    /// frame must not go on.
    #[inline(never)]
    pub(crate) fn rewrite(&self, transport: u32, tcp: &TcpHead, old: &SealOption, new: &SealOption) -> bool {
        let place = transport + tcp.length - u32::from(OPTION_LENGTH);
        // SAFETY: both options are sixteen bytes long, and live.
        let difference = unsafe {
            helpers::bpf_csum_diff(
                ptr::from_ref(old).cast_mut().cast(),
                16,
                ptr::from_ref(new).cast_mut().cast(),
                16,
                0,
            )
        };
        if difference < 0 || !self.store::<16>(place, zerocopy::transmute_ref!(new)) {
            return false;
        }
        self.mark_written();
        self.correct_tcp(transport, 0, difference.cast_unsigned(), 0)
    }

    /// Blanks the option where the seal stands, with bytes that mean nothing (no-operation, RFC 9293, section 3.1).
    #[inline(never)]
    pub(crate) fn blank(&self, transport: u32, tcp: &TcpHead, old: &SealOption) -> bool {
        let mut nothing = SealOption::new_zeroed();
        let mut byte = 0;
        while byte < 16 {
            nothing.as_mut_bytes()[byte & 15] = 1;
            byte += 1;
        }
        self.rewrite(transport, tcp, old, &nothing)
    }

    /// Corrects a TCP checksum. With a size of 0 in the flags `to` is a difference.
    #[inline(always)]
    pub(crate) fn correct_tcp(&self, transport: u32, from: u64, to: u64, flags: u64) -> bool {
        let place = transport + LINK as u32 + 16;
        // SAFETY: the helper checks the offset.
        unsafe { helpers::bpf_l4_csum_replace(self.0.as_ptr().cast(), place, from, to, flags) == 0 }
    }

    /// Corrects the checksum of an IPv4 header for two bytes that change.
    #[inline(always)]
    pub(crate) fn correct_ip(&self, from: u64, to: u64) -> bool {
        let place = LINK as u32 + 10;
        // SAFETY: the helper checks the offset.
        unsafe { helpers::bpf_l3_csum_replace(self.0.as_ptr().cast(), place, from, to, 2) == 0 }
    }

    /// Cuts the packet off after so many bytes.
    #[inline(always)]
    pub(crate) fn cut(&self, length: u32) -> bool {
        // SAFETY: the helper checks the length.
        unsafe { helpers::bpf_skb_change_tail(self.0.as_ptr().cast(), LINK as u32 + length, 0) == 0 }
    }

    /// The two hardware addresses.
    #[inline(always)]
    pub(crate) fn load_link(&self) -> Option<[u8; 12]> {
        let mut bytes = [0u8; 12];
        // SAFETY: the helper writes twelve bytes into a live local.
        let failed =
            unsafe { helpers::bpf_skb_load_bytes(self.0.as_ptr(), 0, bytes.as_mut_ptr().cast(), 12) };
        if failed == 0 { Some(bytes) } else { None }
    }

    /// Writes both hardware addresses.
    #[inline(always)]
    pub(crate) fn store_link(&self, bytes: &[u8; 12]) -> bool {
        let from = bytes.as_ptr().cast();
        // SAFETY: the helper reads twelve bytes of a live buffer.
        unsafe { helpers::bpf_skb_store_bytes(self.0.as_ptr().cast(), 0, from, 12, 0) == 0 }
    }

    /// Copies `length` bytes from `offset` on; `length` is at most `N`, a power of two, and not 0.
    #[inline(always)]
    pub(crate) fn copy_from<const N: usize>(&self, offset: u32, length: u32, to: &mut [u8; N]) -> bool {
        const { assert!(N.is_power_of_two()) };
        let length = (hidden(length).wrapping_sub(1) & (N as u32 - 1)) + 1;
        let to = to.as_mut_ptr().cast();
        // SAFETY: at most N bytes are written into a live buffer of N.
        unsafe { helpers::bpf_skb_load_bytes(self.0.as_ptr(), offset + LINK as u32, to, length) == 0 }
    }

    /// Copies the frame from its first byte on. `length` is at most `N`, a power of two, and not 0.
    #[inline(always)]
    pub(crate) fn copy<const N: usize>(&self, length: u32, to: &mut [u8; N]) -> bool {
        const { assert!(N.is_power_of_two()) };
        // The verifier wants to see both bounds in the register that is passed, and the compiler must not know them.
        let length = (hidden(length).wrapping_sub(1) & (N as u32 - 1)) + 1;
        // SAFETY: at most N bytes are written into a live buffer of N.
        unsafe { helpers::bpf_skb_load_bytes(self.0.as_ptr(), 0, to.as_mut_ptr().cast(), length) == 0 }
    }
}

/// A number of which the compiler forgets what it knew.
#[inline(always)]
fn hidden(number: u32) -> u32 {
    // SAFETY: a live local.
    unsafe { ptr::read_volatile(&raw const number) }
}

/// One byte of those that [`Frame::start`] has shown to be there.
#[inline(always)]
fn byte(head: *const u8, place: usize) -> u8 {
    // SAFETY: the caller has asked for more bytes than `place`.
    let at = unsafe { head.add(place) };
    // SAFETY: as above, and the verifier checks it.
    unsafe { ptr::read_volatile(at) }
}

#[inline(always)]
fn transport(protocol: u8, tcp_flags: u8) -> Glance {
    match protocol {
        6 if tcp_flags & 0x12 == 0x02 => Glance::Perhaps,
        17 => Glance::Datagram,
        // IPv6 extension headers.
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Glance::Perhaps,
        _ => Glance::Nothing,
    }
}

impl<const LINK: usize> Bytes for Frame<'_, LINK> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let to = bytes.as_mut_ptr().cast();
        let offset = offset + LINK as u32;
        // SAFETY: the helper checks the offset and writes exactly N bytes into a live local.
        let failed = unsafe { helpers::bpf_skb_load_bytes(self.0.as_ptr(), offset, to, N as u32) };
        if failed != 0 {
            return None;
        }
        // SAFETY: the helper has written all N bytes.
        Some(unsafe { bytes.assume_init() })
    }
}
