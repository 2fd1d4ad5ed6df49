//! Answers a denied SYN at the device where it came in: the frame itself is turned round and becomes the reset.

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::helpers::generated as helpers;
use waxseal_common::packet::Bytes as _;

use crate::case::Case;
use crate::frame::Frame;

/// Room for the longest TCP header, which has sixty bytes.
const LONGEST: usize = 64;
/// bpf_fib_lookup's answers: the address is this namespace's own, or nothing is forwarded from this device at all.
const NOT_FORWARDED: i64 = 4;
const FORWARDING_DISABLED: i64 = 5;
/// Bytes of the question.
const SIZE: i32 = 64;
const _: () = assert!(size_of::<bpf_fib_lookup>() == 64);
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The checksum covers the pseudo header too (BPF_F_PSEUDO_HDR).
const PSEUDO: u64 = 0x10;

impl<const LINK: usize> Frame<'_, LINK> {
    /// Whether the packet is for this very namespace, before any translation.
    #[inline(never)]
    pub(crate) fn arrives_here(&self, case: &Case) -> bool {
        // SAFETY: plain numbers, for which zero is a value.
        let mut question: bpf_fib_lookup = unsafe { core::mem::zeroed() };
        question.ifindex = self.device();
        question.l4_protocol = case.protocol;
        let from: [u32; 4] = zerocopy::transmute!(case.tuple.source);
        let to: [u32; 4] = zerocopy::transmute!(case.tuple.destination);
        if case.tuple.destination.is_v4() {
            question.family = AF_INET;
            question.__bindgen_anon_3.ipv4_src = from[3];
            question.__bindgen_anon_4.ipv4_dst = to[3];
        } else {
            question.family = AF_INET6;
            question.__bindgen_anon_3.ipv6_src = from;
            question.__bindgen_anon_4.ipv6_dst = to;
        }
        // SAFETY: the question is a live local of the size given.
        let answer = unsafe { helpers::bpf_fib_lookup(self.context(), (&raw mut question).cast(), SIZE, 0) };
        matches!(answer, NOT_FORWARDED | FORWARDING_DISABLED)
    }

    /// Whether the SYN can be turned round in place: no IP options or extension headers, no data.
    #[inline(never)]
    pub(crate) fn can_answer(&self, case: &Case) -> bool {
        let plain = if case.tuple.destination.is_v4() { 20 } else { 40 };
        case.transport == plain && self.length() == LINK as u32 + case.transport + case.header
    }

    /// Makes the frame the reset that answers it (RFC 9293, section 3.10.7.1) and sends it back. Returns what the program
    /// is to return; the frame is dropped where that fails.
    #[inline(never)]
    pub(crate) fn answer(&self, case: &Case) -> i32 {
        let turned = self.turn_tcp(case) && self.turn_ip(case) && self.turn_link();
        if !turned {
            return super::hooks::DROP;
        }
        // SAFETY: takes two numbers.
        unsafe { helpers::bpf_redirect(self.device(), 0) as i32 }
    }

    /// The TCP header, and its checksum by what has changed: the kernel may not have computed it yet.
    #[inline(never)]
    fn turn_tcp(&self, case: &Case) -> bool {
        let mut old = [0u8; LONGEST];
        let length = case.header;
        if !self.copy_from(case.transport, length, &mut old) {
            return false;
        }
        let checksum = [old[16], old[17]];
        [old[16], old[17]] = [0, 0];
        let mut new = [0u8; 20];
        [new[0], new[1]] = [old[2], old[3]];
        [new[2], new[3]] = [old[0], old[1]];
        let [a, b, c, d] = case.sequence.wrapping_add(1).to_be_bytes();
        [new[8], new[9], new[10], new[11]] = [a, b, c, d];
        new[12] = 5 << 4;
        new[13] = 0x14;
        // SAFETY: both buffers are live and as long as said.
        let difference = unsafe {
            helpers::bpf_csum_diff(old.as_mut_ptr().cast(), LONGEST as u32, new.as_mut_ptr().cast(), 20, 0)
        };
        [new[16], new[17]] = checksum;
        let tail = case.transport + 20;
        difference >= 0
            && self.store(case.transport, &new)
            && self.correct_tcp(case.transport, 0, difference.cast_unsigned(), 0)
            // The pseudo header holds the length.
            && self.correct_tcp(case.transport, u64::from((length as u16).to_be()), u64::from(20_u16.to_be()), PSEUDO | 2)
            && self.cut(tail)
    }

    /// The IP header. Addresses that change places change no checksum.
    #[inline(never)]
    fn turn_ip(&self, case: &Case) -> bool {
        let from: [u8; 16] = case.tuple.source.0;
        let to: [u8; 16] = case.tuple.destination.0;
        if case.tuple.destination.is_v4() {
            let Some(old) = self.load::<2>(2) else { return false };
            let length = 40_u16.to_be_bytes();
            return self
                .correct_ip(u64::from(u16::from_ne_bytes(old)), u64::from(u16::from_ne_bytes(length)))
                && self.store(2, &length)
                && self.store(12, &[to[12], to[13], to[14], to[15]])
                && self.store(16, &[from[12], from[13], from[14], from[15]]);
        }
        self.store(4, &20_u16.to_be_bytes()) && self.store(8, &to) && self.store(24, &from)
    }

    /// The hardware addresses, where there are some.
    #[inline(never)]
    fn turn_link(&self) -> bool {
        if LINK == 0 {
            return true;
        }
        let Some(old) = self.load_link() else { return false };
        let new = [
            old[6], old[7], old[8], old[9], old[10], old[11], old[0], old[1], old[2], old[3], old[4], old[5],
        ];
        self.store_link(&new)
    }
}
