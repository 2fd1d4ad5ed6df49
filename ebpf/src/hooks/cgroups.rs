//! cgroup_mkdir, cgroup_rmdir, cgroup_attach: the agent hears of every change in the cgroup tree.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use waxseal_common::flow::{CgroupChange, CgroupEvent};
use waxseal_common::ids::{CgroupId, IdentityId};
use waxseal_common::state::{Counter, Endpoint};

use crate::kernel::Directory;
use crate::maps;

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub(crate) fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    tell(ctx.arg(0), ctx.arg(1), CgroupChange::Made)
}

#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub(crate) fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    tell(ctx.arg(0), ctx.arg(1), CgroupChange::Removed)
}

#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub(crate) fn cgroup_attach(ctx: RawTracePointContext) -> i32 {
    tell(ctx.arg(0), ctx.arg(1), CgroupChange::Entered)
}

/// A directory that may be a workload's gets nothing until the agent has looked at it, also while there is no agent: this
/// runs before any process can be in it.
#[inline(always)]
fn expect(directory: Directory) {
    if maps::is_expected(&directory.name()) {
        let endpoint = Endpoint { identity: IdentityId::UNKNOWN, flags: 0 };
        let _ = maps::ENDPOINTS.insert(CgroupId(directory.id()), endpoint, maps::KEEP);
    }
}

/// `cgroup` and `path` are the tracepoint's first two arguments: `struct cgroup *` and `const char *`.
#[inline(always)]
fn tell(cgroup: u64, path: u64, change: CgroupChange) -> i32 {
    let directory = Directory::of_cgroup(cgroup);
    if matches!(change, CgroupChange::Made) {
        expect(directory);
    }
    let Some(mut entry) = maps::CGROUPS.reserve(0) else {
        maps::count(Counter::CgroupsLost);
        return 0;
    };
    let event = entry.write(CgroupEvent {
        cgroup: CgroupId(directory.id()),
        parent: CgroupId(directory.parent().map_or(0, Directory::id)),
        kind: change as u32,
        path_length: 0,
        path: [0; 256],
    });
    // SAFETY: the helper writes at most the 256 bytes of the reserved field and checks the address it reads.
    let length = unsafe { bpf_probe_read_kernel_str((&raw mut event.path).cast(), 256, path as *const _) };
    // The helper counts the final zero.
    event.path_length = u32::try_from(length - 1).unwrap_or(0);
    entry.submit(0);
    0
}
