//! TCP's callbacks, as sock_ops gets them.

use core::mem::size_of;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::SockOpsContext;
use waxseal_common::address::Address;
use waxseal_common::seal::SealOption;
use waxseal_common::state::Tuple;

use crate::ctx::{address6, field, pointer_field};
use crate::emit::Ending;
use crate::kernel::Sock;

/// TCP's callbacks.
pub(crate) struct Callback<'a>(pub(crate) &'a SockOpsContext);

impl Callback<'_> {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_ops {
        self.0.ops
    }

    /// Which callback.
    #[inline(always)]
    pub(crate) fn op(&self) -> u32 {
        field!(self.raw(), op)
    }

    /// The new state, in the callback for changes of state.
    #[inline(always)]
    pub(crate) fn new_state(&self) -> u32 {
        field!(self.raw(), __bindgen_anon_1.args[1])
    }

    /// The TCP flags of the segment that is being written.
    #[inline(always)]
    pub(crate) fn segment_flags(&self) -> u32 {
        field!(self.raw(), skb_tcp_flags)
    }

    /// Bytes that the other end acknowledged, and bytes that it sent. The kernel counts in sequence numbers, of which a
    /// SYN and a FIN take one each.
    #[inline(always)]
    pub(crate) fn bytes(&self, opener: bool, ending: &Ending) -> (u64, u64) {
        let acknowledged = field!(self.raw(), bytes_acked);
        let received = field!(self.raw(), bytes_received);
        let ended = match ending.last_state {
            FIN_WAIT_2 | TIME_WAIT => true,
            LAST_ACK | CLOSING => ending.error == 0,
            _ => false,
        };
        let heard = self.sock().heard_end();
        (
            acknowledged.saturating_sub(u64::from(opener) + u64::from(ended)),
            received.saturating_sub(u64::from(heard)),
        )
    }

    /// What the socket has counted, in the callback for changes of state.
    #[inline(always)]
    pub(crate) fn ending(&self) -> Ending {
        let raw = self.raw();
        Ending {
            out: field!(raw, segs_out),
            into: field!(raw, segs_in),
            retransmits: field!(raw, total_retrans),
            // The kernel keeps eight times the value.
            rtt: field!(raw, srtt_us) >> 3,
            error: self.sock().error(),
            last_state: field!(raw, __bindgen_anon_1.args[0]) as u8,
        }
    }

    /// The socket's cookie.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: the context is of a kind that the helper takes.
        unsafe { helpers::bpf_get_socket_cookie(self.0.as_ptr()) }
    }

    /// The socket.
    #[inline(always)]
    pub(crate) fn sock(&self) -> Sock {
        Sock::first_field(self.0.as_ptr())
    }

    /// The socket's two ends, the local one as source.
    #[inline(always)]
    pub(crate) fn read_opened(&self, tuple: &mut Tuple) {
        self.read_ends(&mut tuple.source, &mut tuple.destination);
        tuple.source_port = self.local_port();
        tuple.destination_port = self.remote_port();
    }

    /// The socket's two ends, the remote one as source.
    #[inline(always)]
    pub(crate) fn read_accepted(&self, tuple: &mut Tuple) {
        self.read_ends(&mut tuple.destination, &mut tuple.source);
        tuple.source_port = self.remote_port();
        tuple.destination_port = self.local_port();
    }

    /// Everything is read before anything is chosen: LLVM would make one load out of two in different branches, through
    /// a pointer into the context that the verifier refuses.
    #[inline(always)]
    fn read_ends(&self, local: &mut Address, remote: &mut Address) {
        let raw = self.raw();
        let v4 = [field!(raw, family), field!(raw, local_ip4), field!(raw, remote_ip4)];
        *local = address6([
            field!(raw, local_ip6[0]),
            field!(raw, local_ip6[1]),
            field!(raw, local_ip6[2]),
            field!(raw, local_ip6[3]),
        ]);
        *remote = address6([
            field!(raw, remote_ip6[0]),
            field!(raw, remote_ip6[1]),
            field!(raw, remote_ip6[2]),
            field!(raw, remote_ip6[3]),
        ]);
        if v4[0] == AF_INET {
            *local = Address::from_v4(v4[1].to_ne_bytes());
            *remote = Address::from_v4(v4[2].to_ne_bytes());
        }
    }

    #[inline(always)]
    fn local_port(&self) -> u16 {
        field!(self.raw(), local_port) as u16
    }

    #[inline(always)]
    fn remote_port(&self) -> u16 {
        u16::from_be((field!(self.raw(), remote_port) >> PORT_SHIFT) as u16)
    }

    /// Which callbacks the kernel makes for this socket from now on.
    #[inline(always)]
    pub(crate) fn ask_for(&self, flags: u32) {
        // SAFETY: the context is live. It cannot fail for flags that exist.
        unsafe { helpers::bpf_sock_ops_cb_flags_set(self.raw(), flags.cast_signed()) };
    }

    /// Reserves room for the seal in the segment that is being written.
    #[inline(always)]
    pub(crate) fn reserve(&self, length: u32) -> bool {
        // SAFETY: the context is live and this is the callback in which room may be reserved.
        unsafe { helpers::bpf_reserve_hdr_opt(self.raw(), length, 0) == 0 }
    }

    /// Writes the seal into the room that was reserved.
    #[inline(always)]
    pub(crate) fn write(&self, option: &SealOption) -> bool {
        let option = ptr::from_ref(option).cast();
        // SAFETY: the option is sixteen bytes long.
        unsafe { helpers::bpf_store_hdr_opt(self.raw(), option, size_of::<SealOption>() as u32, 0) == 0 }
    }

    /// The sequence number of the segment that is being written, host order.
    #[inline(always)]
    pub(crate) fn sequence(&self) -> Option<u32> {
        let data = pointer_field!(self.raw(), __bindgen_anon_3);
        let end = pointer_field!(self.raw(), __bindgen_anon_4);
        if data + 8 > end {
            return None;
        }
        // SAFETY: the line above has shown that the eight bytes are there.
        Some(u32::from_be(unsafe { ptr::read_volatile((data + 4) as *const u32) }))
    }
}

// TCP states (include/net/tcp_states.h).
const FIN_WAIT_2: u8 = 5;
const TIME_WAIT: u8 = 6;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
const AF_INET: u32 = 2;
/// `remote_port` holds the two bytes of the port, as on the wire, in the upper half on little-endian machines.
const PORT_SHIFT: u32 = if cfg!(target_endian = "little") { 16 } else { 0 };
