//! Whose socket is it? The owner is the cgroup in which the socket was created, or its nearest attested ancestor.

use waxseal_common::ids::{CgroupId, IdentityId};
use waxseal_common::state::Endpoint;

use crate::kernel::{Directory, Sock};
use crate::maps;

/// How far up a new directory looks for an ancestor that the agent knows.
const LEVELS: u32 = 12;

/// The owner of a socket, in one register: the identity, and above it whether it is pending.
#[derive(Clone, Copy)]
pub(crate) struct Owner(pub(crate) u64);

impl Owner {
    const PENDING: u64 = 1 << 32;

    /// Nobody that is known; left alone.
    pub(crate) const NOBODY: Self = Self(0);

    /// Whose it is.
    #[inline(always)]
    pub(crate) fn identity(self) -> IdentityId {
        IdentityId(self.0 as u32)
    }

    /// It lies in a managed slice and is not attested yet, or was refused: it gets nothing.
    #[inline(always)]
    pub(crate) fn pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    /// Whether it is somebody that rules can bind to.
    #[inline(always)]
    pub(crate) fn managed(self) -> bool {
        self.identity().is_workload() || self.pending()
    }

    #[inline(always)]
    fn known(endpoint: Endpoint) -> Self {
        // An endpoint with the identity UNKNOWN was refused by the attestor.
        let refused = endpoint.identity == IdentityId::UNKNOWN;
        Self(u64::from(endpoint.identity.0) | if refused { Self::PENDING } else { 0 })
    }
}

/// The owner of a socket, where the context gives no helper for its cgroup.
#[inline(always)]
pub(crate) fn of_socket(sock: Sock) -> Owner {
    of_directory(sock.directory())
}

/// The owner of a cgroup's directory.
#[inline(always)]
pub(crate) fn of_directory(directory: Directory) -> Owner {
    Owner(find(directory.0))
}

/// The owner of a packet's socket. `skb` is the hook's context; `cgroup` what the kernel's helper says.
#[inline(always)]
pub(crate) fn of_packet(skb: *const core::ffi::c_void, cgroup: CgroupId) -> Owner {
    match maps::endpoint(cgroup) {
        Some(endpoint) => Owner::known(endpoint),
        None => Owner(find(Sock::of_packet(skb).directory().0)),
    }
}

/// A directory that the agent has not seen yet belongs to its nearest known ancestor: a workload's child is that
/// workload, at once. Below a managed slice it is nobody and gets nothing; elsewhere it is nobody and is left alone.
#[inline(never)]
fn find(directory: u64) -> u64 {
    let mut directory = Directory(directory);
    let mut level = 0;
    while level < LEVELS {
        if let Some(endpoint) = maps::endpoint(CgroupId(directory.id())) {
            let owner = Owner::known(endpoint);
            if level == 0 || owner.managed() {
                return owner.0;
            }
            return if endpoint.flags & Endpoint::MANAGED_SLICE != 0 { Owner::PENDING } else { 0 };
        }
        let Some(parent) = directory.parent() else { return 0 };
        directory = parent;
        level += 1;
    }
    Owner::PENDING
}
