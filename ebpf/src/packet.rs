//! A packet at a socket, as the cgroup_skb hooks get it.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::SkBuffContext;
use waxseal_common::address::Address;
use waxseal_common::ids::{CgroupId, NetnsId, protocol};
use waxseal_common::packet::Bytes;

use crate::ctx::{Listener, field, listener, pointer_field};
use crate::kernel::Sock;
use crate::owner::{self, Owner};

/// A packet at a socket.
pub(crate) struct Packet<'a>(pub(crate) &'a SkBuffContext);

/// What a socket says of itself.
pub(crate) struct SocketFacts {
    /// TCP state; 10 is listening, 2 has sent a SYN.
    pub(crate) state: u32,
    /// IP protocol.
    pub(crate) protocol: u8,
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_RAW 3, SOCK_PACKET 10; 0 when there is no full socket.
    pub(crate) kind: u32,
}

impl Packet<'_> {
    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.0.skb.skb
    }

    /// The context as a helper wants it.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }

    /// The socket's cookie.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: the context is of a kind that the helper takes.
        unsafe { helpers::bpf_get_socket_cookie(self.as_ptr()) }
    }

    /// The cgroup of the socket.
    #[inline(always)]
    pub(crate) fn cgroup(&self) -> CgroupId {
        // SAFETY: the context is live.
        CgroupId(unsafe { helpers::bpf_skb_cgroup_id(self.raw()) })
    }

    /// The owner of the socket.
    #[inline(always)]
    pub(crate) fn owner(&self) -> Owner {
        owner::of_packet(self.as_ptr(), self.cgroup())
    }

    /// The socket's network namespace.
    #[inline(always)]
    pub(crate) fn netns(&self) -> NetnsId {
        NetnsId(Sock::of_packet(self.as_ptr()).netns())
    }

    /// The device that the packet leaves by, or came in by.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        field!(self.raw(), ifindex)
    }

    /// Bytes of the packet from the IP header on.
    #[inline(always)]
    pub(crate) fn length(&self) -> u32 {
        field!(self.raw(), len)
    }

    /// State, protocol and kind of the socket.
    #[inline(always)]
    pub(crate) fn socket(&self) -> Option<SocketFacts> {
        let sock = pointer_field!(self.raw(), __bindgen_anon_2) as *mut bpf_sock;
        if sock.is_null() {
            return None;
        }
        // SAFETY: the socket is not null.
        let full = unsafe { helpers::bpf_sk_fullsock(sock) };
        if full.is_null() {
            return None;
        }
        Some(SocketFacts {
            state: field!(full, state),
            protocol: field!(full, protocol) as u8,
            kind: field!(full, type_),
        })
    }

    /// The owner of the socket that would take this datagram in the same namespace, where that can be known.
    #[inline(always)]
    pub(crate) fn receiver(&self, destination: &Address, port: u16) -> Option<Listener> {
        // What leaves through the loopback device stays in this namespace.
        let stays = self.device() == LOOPBACK_DEVICE;
        listener(self.as_ptr(), protocol::UDP, destination, port, stays)
    }
}

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // Not zeroed first: that would be a call of its own, on a stack that is nearly full.
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let to = bytes.as_mut_ptr().cast();
        // SAFETY: the helper checks the offset and writes exactly N bytes into a live local.
        let failed = unsafe { helpers::bpf_skb_load_bytes(self.as_ptr(), offset, to, N as u32) };
        if failed != 0 {
            return None;
        }
        // SAFETY: the helper has written all N bytes.
        Some(unsafe { bytes.assume_init() })
    }
}

/// The first device of every namespace (RFC 1122 calls it loopback, Linux numbers it 1).
const LOOPBACK_DEVICE: u32 = 1;
