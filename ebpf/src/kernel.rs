//! Where the running kernel keeps what we read: offsets that the agent takes from BTF and writes in before loading.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use waxseal_common::state::NAME_BYTES;

/// `sock.sk_cgrp_data.cgroup`
#[unsafe(no_mangle)]
static SOCK_CGROUP: Global<u64> = Global::new(0);
/// `sock.__sk_common.skc_net.net`
#[unsafe(no_mangle)]
static SOCK_NET: Global<u64> = Global::new(0);
/// The byte that holds the bit `sock.__sk_common.skc_reuseport`
#[unsafe(no_mangle)]
static SOCK_REUSEPORT: Global<u64> = Global::new(0);
/// That bit within its byte
#[unsafe(no_mangle)]
static SOCK_REUSEPORT_MASK: Global<u64> = Global::new(0);
/// `sock.sk_err`
#[unsafe(no_mangle)]
static SOCK_ERROR: Global<u64> = Global::new(0);
/// `sock.__sk_common.skc_flags`
#[unsafe(no_mangle)]
static SOCK_FLAGS: Global<u64> = Global::new(0);
/// `net.ns.inum`
#[unsafe(no_mangle)]
static NET_INUM: Global<u64> = Global::new(0);
/// `cgroup.kn`
#[unsafe(no_mangle)]
static CGROUP_KN: Global<u64> = Global::new(0);
/// `kernfs_node.id`
#[unsafe(no_mangle)]
static KN_ID: Global<u64> = Global::new(0);
/// `kernfs_node.parent`, or `__parent` since 6.15
#[unsafe(no_mangle)]
static KN_PARENT: Global<u64> = Global::new(0);
/// `kernfs_node.name`
#[unsafe(no_mangle)]
static KN_NAME: Global<u64> = Global::new(0);
/// `sk_buff.sk`
#[unsafe(no_mangle)]
static SKB_SK: Global<u64> = Global::new(0);

/// The address of a `struct sock`.
#[derive(Clone, Copy)]
pub(crate) struct Sock(pub(crate) u64);

/// The address of a `struct kernfs_node`: a directory of the cgroup tree.
#[derive(Clone, Copy)]
pub(crate) struct Directory(pub(crate) u64);

impl Sock {
    /// The socket that a hook's kernel-side context starts with: `bpf_sock_addr_kern` and `bpf_sock_ops_kern` both do.
    #[inline(always)]
    pub(crate) fn first_field(context: *const core::ffi::c_void) -> Self {
        Self(read_u64(context as u64))
    }

    /// The socket of a packet.
    #[inline(always)]
    pub(crate) fn of_packet(skb: *const core::ffi::c_void) -> Self {
        Self(read_u64(skb as u64 + SKB_SK.load()))
    }

    /// The cgroup that the socket was created in.
    #[inline(always)]
    pub(crate) fn directory(self) -> Directory {
        let cgroup = read_u64(self.0 + SOCK_CGROUP.load());
        Directory::of_cgroup(cgroup)
    }

    /// The inode number of its network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        let net = read_u64(self.0 + SOCK_NET.load());
        read_u32(net + NET_INUM.load())
    }

    /// The error that waits at it: an errno, or 0.
    #[inline(always)]
    pub(crate) fn error(self) -> u32 {
        read_u32(self.0 + SOCK_ERROR.load())
    }

    /// Whether the other end has said that it sends no more: a FIN has come.
    #[inline(always)]
    pub(crate) fn heard_end(self) -> bool {
        // SOCK_DONE of enum sock_flags.
        read_u64(self.0 + SOCK_FLAGS.load()) & 2 != 0
    }

    /// Whether other sockets may share its port, so that nobody knows beforehand which one answers.
    #[inline(always)]
    pub(crate) fn shares_port(self) -> bool {
        u64::from(read_u8(self.0 + SOCK_REUSEPORT.load())) & SOCK_REUSEPORT_MASK.load() != 0
    }
}

impl Directory {
    /// The directory of a `struct cgroup`.
    #[inline(always)]
    pub(crate) fn of_cgroup(cgroup: u64) -> Self {
        Self(read_u64(cgroup + CGROUP_KN.load()))
    }

    /// Its inode number.
    #[inline(always)]
    pub(crate) fn id(self) -> u64 {
        read_u64(self.0 + KN_ID.load())
    }

    /// Its name, padded with zeros; all zeros where it cannot be read.
    #[inline(always)]
    pub(crate) fn name(self) -> [u8; NAME_BYTES] {
        let mut name = [0u8; NAME_BYTES];
        let place = read_u64(self.0 + KN_NAME.load());
        // SAFETY: the helper checks the address itself and writes at most the bytes of a live local.
        unsafe { bpf_probe_read_kernel_str((&raw mut name).cast(), NAME_BYTES as u32, place as *const _) };
        name
    }

    /// The directory above; `None` at the root.
    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        let parent = read_u64(self.0 + KN_PARENT.load());
        if parent == 0 { None } else { Some(Self(parent)) }
    }
}

/// Eight bytes of kernel memory; 0 where they cannot be read, which no caller takes for an identity. Not inlined, so that
/// many reads share one slot of the stack.
#[inline(never)]
fn read_u64(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address itself and writes eight bytes into a live local.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
    value
}

#[inline(always)]
fn read_u32(address: u64) -> u32 {
    let mut value = 0u32;
    // SAFETY: as above, four bytes.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 4, address as *const _) };
    value
}

#[inline(always)]
fn read_u8(address: u64) -> u8 {
    let mut value = 0u8;
    // SAFETY: as above, one byte.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 1, address as *const _) };
    value
}
