//! Safe reads of what the hooks are given, and the helpers that need the raw context.
//!
//! Every field is read through a volatile load: LLVM merges adjacent loads otherwise, and the verifier refuses those.

use core::ffi::c_void;
use core::mem::size_of;
use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, bpf_sock, bpf_sock_addr, bpf_sock_ops, bpf_sock_tuple};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockOpsContext};
use waxseal_common::address::Address;
use waxseal_common::ids::{CgroupId, NetnsId, protocol};
use waxseal_common::packet::Bytes;
use waxseal_common::seal::SealOption;
use waxseal_common::state::{Process, Tuple};

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
fn listener(
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

/// The first device of every namespace (RFC 1122 calls it loopback, Linux numbers it 1).
const LOOPBACK_DEVICE: u32 = 1;

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

    /// Bytes that the other end acknowledged, and bytes that it sent.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (field!(self.raw(), bytes_acked), field!(self.raw(), bytes_received))
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
        let stays = field!(self.raw(), ifindex) == LOOPBACK_DEVICE;
        listener(self.as_ptr(), protocol::UDP, destination, port, stays)
    }
}

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        let to = (&raw mut bytes).cast();
        // SAFETY: the helper checks the offset and writes exactly N bytes into a live local.
        let failed = unsafe { helpers::bpf_skb_load_bytes(self.as_ptr(), offset, to, N as u32) };
        if failed == 0 { Some(bytes) } else { None }
    }
}

const AF_INET: u32 = 2;
/// `remote_port` holds the two bytes of the port, as on the wire, in the upper half on little-endian machines.
const PORT_SHIFT: u32 = if cfg!(target_endian = "little") { 16 } else { 0 };

/// Four words in network order as an address.
#[inline(always)]
fn address6(words: [u32; 4]) -> Address {
    zerocopy::transmute!(words)
}
