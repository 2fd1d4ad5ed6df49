//! Safe reads of what the hooks are given, and the helpers that need the raw context: here what all of them share, and
//! connect() and sendmsg(); TCP's callbacks are in `callback`, packets in `packet`.
//!
//! Every field is read through a volatile load: LLVM merges adjacent loads otherwise, and the verifier refuses those.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr, bpf_sock_tuple};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::SockAddrContext;
use waxseal_common::address::Address;
use waxseal_common::ids::protocol;
use waxseal_common::state::Process;

use crate::kernel::Sock;
use crate::maps;
use crate::owner::{self, Owner};

/// Monotonic nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing and has no precondition.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// The process that runs the system call in hand.
#[inline(always)]
pub(crate) fn current_process() -> Process {
    // SAFETY: takes nothing and has no precondition.
    let pid = (unsafe { helpers::bpf_get_current_pid_tgid() } >> 32) as u32;
    let mut process = Process { pid, ..Process::default() };
    // SAFETY: writes at most the sixteen bytes of a live local.
    unsafe { helpers::bpf_get_current_comm((&raw mut process.comm).cast(), 16) };
    process
}

/// Reads one field of a context.
macro_rules! field {
    ($context:expr, $($path:tt)+) => {{
        let context = $context;
        // SAFETY: the kernel gives the hook a live context; the verifier checks that this field may be read.
        unsafe { ptr::read_volatile(&raw const (*context).$($path)+) }
    }};
}

/// Reads one of the fields that hold a pointer, which the bindings wrap in a union of eight bytes.
macro_rules! pointer_field {
    ($context:expr, $field:ident) => {{
        let context = $context;
        // SAFETY: computes an address inside the live context and reads nothing.
        let place = unsafe { &raw const (*context).$field };
        // SAFETY: the kernel gives the hook a live context; the verifier checks that this field may be read.
        unsafe { ptr::read_volatile(place.cast::<u64>()) }
    }};
}

pub(crate) use {field, pointer_field};

/// connect() and sendmsg().
pub(crate) struct Call<'a>(pub(crate) &'a SockAddrContext);

impl Call<'_> {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.0.sock_addr
    }

    /// IP protocol of the socket.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        field!(self.raw(), protocol) as u8
    }

    /// The destination of an IPv4 call.
    #[inline(always)]
    pub(crate) fn destination4(&self) -> Address {
        Address::from_v4(field!(self.raw(), user_ip4).to_ne_bytes())
    }

    /// The destination of an IPv6 call, which may be an IPv4 address in mapped form.
    #[inline(always)]
    pub(crate) fn destination6(&self) -> Address {
        let words = [
            field!(self.raw(), user_ip6[0]),
            field!(self.raw(), user_ip6[1]),
            field!(self.raw(), user_ip6[2]),
            field!(self.raw(), user_ip6[3]),
        ];
        address6(words)
    }

    /// The destination's port, host order.
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        u16::from_be(field!(self.raw(), user_port) as u16)
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

    /// The owner of the socket that listens at this address in the caller's own namespace, where that can be known:
    /// a wildcard listener says nothing about an address that may not be this namespace's own.
    #[inline(always)]
    pub(crate) fn listener(&self, destination: &Address, port: u16) -> Option<Listener> {
        listener(self.0.as_ptr(), self.protocol(), destination, port, false)
    }
}

/// The socket that would take a connection or a datagram.
pub(crate) struct Listener {
    /// Whose it is.
    pub(crate) owner: Owner,
    /// Others may share its port: any of them may be the one that answers.
    pub(crate) shared: bool,
}

#[inline(always)]
pub(crate) fn listener(
    context: *mut c_void,
    protocol: u8,
    destination: &Address,
    port: u16,
    stays: bool,
) -> Option<Listener> {
    let what = u32::from(stays) << 24 | u32::from(protocol) << 16 | u32::from(port);
    let found = look_up(context, what, destination);
    let listener = Listener { owner: Owner(found & !(FOUND | SHARED)), shared: found & SHARED != 0 };
    if found & FOUND == 0 { None } else { Some(listener) }
}

/// What [`look_up`] says beside the owner.
const FOUND: u64 = 1 << 62;
const SHARED: u64 = 1 << 63;

/// A function of its own for the sake of the stack. `what` is the port, above it the protocol, and above that whether
/// the destination is known to be an address of this namespace.
#[inline(never)]
fn look_up(context: *mut c_void, what: u32, destination: &Address) -> u64 {
    let port = u32::from((what as u16).to_be()) << 16;
    let tcp = what >> 16 & 0xff == u32::from(protocol::TCP);
    let netns = u64::MAX; // BPF_F_CURRENT_NETNS: the one of the context's socket
    let words = words(destination);
    // bpf_sock_tuple: source address, destination address, source port, destination port. The last two are one word.
    let mut tuple = [0, 0, 0, 0, words[0], words[1], words[2], words[3], port];
    let mut size = 36;
    if destination.is_v4() {
        tuple[1] = words[3];
        tuple[2] = port;
        size = 12;
    }
    let tuple = (&raw mut tuple).cast::<bpf_sock_tuple>();
    let found = if tcp {
        // SAFETY: the tuple is at least `size` bytes long and the context of a kind that the helper takes.
        unsafe { helpers::bpf_sk_lookup_tcp(context, tuple, size, netns, 0) }
    } else {
        // SAFETY: as above.
        unsafe { helpers::bpf_sk_lookup_udp(context, tuple, size, netns, 0) }
    };
    if found.is_null() {
        return 0;
    }
    let ours = what >> 24 == 1 || destination.is_loopback() || bound_address(found, destination);
    let sock = Sock(maps::as_number(found));
    let owner = owner::of_socket(sock);
    let shared = if sock.shares_port() { SHARED } else { 0 };
    // SAFETY: the reference that the look-up took is given back exactly once.
    unsafe { helpers::bpf_sk_release(found.cast()) };
    if ours { owner.0 | shared | FOUND } else { 0 }
}

/// An address as four words in network order.
#[inline(always)]
fn words(address: &Address) -> [u32; 4] {
    zerocopy::transmute!(*address)
}

/// Whether the socket is bound to this very address. Everything is read before anything is compared, as in
/// [`Callback::read_ends`].
#[inline(always)]
fn bound_address(sock: *mut bpf_sock, address: &Address) -> bool {
    let words = words(address);
    let v4 = field!(sock, src_ip4);
    let v6 = [
        field!(sock, src_ip6[0]),
        field!(sock, src_ip6[1]),
        field!(sock, src_ip6[2]),
        field!(sock, src_ip6[3]),
    ];
    if address.is_v4() { v4 == words[3] } else { v6 == words }
}

/// Four words in network order as an address.
#[inline(always)]
pub(crate) fn address6(words: [u32; 4]) -> Address {
    zerocopy::transmute!(words)
}
