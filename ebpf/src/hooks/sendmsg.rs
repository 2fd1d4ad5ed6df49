//! sendmsg4, sendmsg6: leaves the sender's name for skb_egress, which judges the datagram with its true owner and both
//! ports, in the same system call, and refuses it with EPERM.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::ctx::{self, Call};
use crate::maps;

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    note(&Call(&ctx));
    1
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    note(&Call(&ctx));
    1
}

#[inline(always)]
fn note(call: &Call<'_>) {
    let cookie = call.cookie();
    if maps::udp_opener(cookie).pid == 0 && crate::owner::of_socket(call.sock()).identity().is_workload() {
        let _ = maps::UDP_OPENERS.insert(cookie, ctx::current_process(), maps::REPLACE);
    }
}
