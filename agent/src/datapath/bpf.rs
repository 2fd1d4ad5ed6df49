//! The few bpf(2) calls that the loader library does not offer: links that are pinned, and swapped in place.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

// enum bpf_cmd
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_TEST_RUN: i32 = 10;
const RAW_TRACEPOINT_OPEN: i32 = 17;
const MAP_LOOKUP_BATCH: i32 = 24;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Tracepoint {
    name: u64,
    program: u32,
    pad: u32,
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    pad: [u64; 4],
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct TestRun {
    program: u32,
    answer: u32,
    length_in: u32,
    length_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct LookUpBatch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Whether a table holds more than a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// Go on from here.
    More(u32),
    /// That was all.
    End,
}

/// Appends entries of a hash table, as many as there is room for without growing, from where the batch before ended. The
/// kernel hands out whole buckets: `ENOSPC` where one does not fit.
pub(super) fn look_up_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> io::Result<Batch> {
    let room = (keys.capacity() - keys.len()).min(values.capacity() - values.len());
    let (from, mut to) = (from.as_ref().map_or(0, |place| std::ptr::from_ref(place) as u64), 0u32);
    let mut batch = LookUpBatch {
        from,
        to: (&raw mut to) as u64,
        keys: keys.spare_capacity_mut().as_mut_ptr() as u64,
        values: values.spare_capacity_mut().as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map: number(map),
        element_flags: 0,
        flags: 0,
    };
    let bytes = batch.as_mut_bytes();
    // SAFETY: the kernel reads and writes `bytes.len()` bytes of a live buffer, and through the pointers in it two live
    // numbers and at most `count` keys and values, for which there is room: the table was opened with these types.
    let done = unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, bytes.as_mut_ptr(), bytes.len()) };
    let error = io::Error::last_os_error();
    let ended = done < 0 && error.raw_os_error() == Some(libc::ENOENT);
    if done < 0 && !ended {
        return Err(error);
    }
    let count = (batch.count as usize).min(room);
    // SAFETY: the kernel has written so many, and any bytes are a `Pod`.
    unsafe { keys.set_len(keys.len() + count) };
    // SAFETY: as above.
    unsafe { values.set_len(values.len() + count) };
    Ok(if ended { Batch::End } else { Batch::More(to) })
}

/// Attaches a program to a cgroup directory, beside those that are there already.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    call_for_fd(
        LINK_CREATE,
        &LinkCreate { program: number(program), target: number(cgroup), attach_type, flags: 0, pad: [0; 4] },
    )
}

/// Attaches a program to a device, behind those that are there already (TCX).
pub(super) fn attach_device(program: BorrowedFd<'_>, device: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let program = number(program);
    call_for_fd(LINK_CREATE, &LinkCreate { program, target: device, attach_type, flags: 0, pad: [0; 4] })
}

/// Attaches a program to a raw tracepoint.
pub(super) fn attach_tracepoint(program: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    call_for_fd(
        RAW_TRACEPOINT_OPEN,
        &Tracepoint { name: name.as_ptr() as u64, program: number(program), pad: 0 },
    )
}

/// Puts another program into a link. No packet goes unjudged in between.
pub(super) fn swap(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let update = LinkUpdate { link: number(link), program: number(program), flags: 0, old_program: 0 };
    call(LINK_UPDATE, &update).map(drop)
}

/// Gives an object a name in the BPF file system, so that it outlives this process.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    call(OBJ_PIN, &Object { path: path.as_ptr() as u64, fd: number(object), flags: 0 }).map(drop)
}

/// Opens a pinned object.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    call_for_fd(OBJ_GET, &Object { path: path.as_ptr() as u64, fd: 0, flags: 0 })
}

/// Runs a program over a packet, once, and returns what it returns.
pub(super) fn run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut run = TestRun {
        program: number(program),
        answer: 0,
        length_in: packet.len() as u32,
        length_out: 0,
        data_in: packet.as_ptr() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
    };
    let bytes = run.as_mut_bytes();
    // SAFETY: the kernel reads and writes `bytes.len()` bytes of a live buffer; the packet outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, bytes.as_mut_ptr(), bytes.len()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(run.answer) }
}

/// Gives memory back that starting up has used and nothing needs any more: the kernel's types, read twice, and the pages
/// of the program itself that only starting up has read. Those that are still needed come back from the file by themselves.
pub(super) fn trim_memory() {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for place in [trim_memory as *const () as usize, super::object::OBJECT.as_ptr() as usize] {
        if let Some(mapping) = unwritten(&maps, place) {
            // SAFETY: the mapping is of a file, nobody may write to it and nobody has: its pages are the file's, and are read
            // from there again when somebody needs them.
            unsafe { libc::madvise(mapping.start as *mut _, mapping.len(), libc::MADV_DONTNEED) };
        }
    }
    trim_heap();
}

/// How many heaps the threads share. Each keeps what it was given, and most of what the agent makes goes from one thread to
/// another.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// From which size on a piece of memory is the kernel's own again as soon as it is free, in bytes. Said once, it does not
/// grow with the pieces: reading documents and compiling them takes large ones, and little ones that stay would come to
/// lie between them.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 * 1024;

/// Tells the allocator how the agent uses memory. To be called before there are threads.
pub(super) fn tune_heap() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_MMAP_THRESHOLD, LARGE)] {
        // SAFETY: takes two numbers and sets an option of the allocator; what it does not know it passes over.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Gives free memory of the allocator back to the kernel.
pub(super) fn trim_heap() {
    // SAFETY: takes a number and touches only the allocator's own free memory.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The addresses of the mapping that holds `place`, when it is of a file that nobody has written to: the loader itself
/// writes to some before it takes the right away, and then their pages are not the file's.
fn unwritten(maps: &str, place: usize) -> Option<Range<usize>> {
    let mut lines = maps.lines();
    let range = lines.find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = number(start)?..number(end)?;
        let kind = fields.next()?;
        let file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
        (range.contains(&place) && matches!(kind, "r--p" | "r-xp") && file).then_some(range)
    })?;
    let own = lines.find_map(|line| line.strip_prefix("Anonymous:"))?;
    (own.trim() == "0 kB").then_some(range)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn call_for_fd(command: i32, attributes: &(impl IntoBytes + Immutable)) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the command returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: i32, attributes: &(impl IntoBytes + Immutable)) -> io::Result<i32> {
    let bytes = attributes.as_bytes();
    // SAFETY: the kernel reads `bytes.len()` bytes from a live buffer; what pointers in it point to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_ptr(), bytes.len()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_are_the_files_are_let_go() {
        let maps = "\
1000-2000 r--p 00000000 fe:00 1 /bin/waxseal
Rss: 4 kB
Anonymous:             0 kB
2000-3000 r-xp 00001000 fe:00 1 /bin/waxseal
Anonymous:             0 kB
3000-4000 r--p 00002000 fe:00 1 /bin/waxseal
Anonymous:             4 kB
4000-5000 rw-p 00003000 fe:00 1 /bin/waxseal
Anonymous:             0 kB
5000-6000 r--p 00000000 00:00 0
Anonymous:             0 kB
6000-7000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";
        for (place, range) in [
            (0x1000, Some(0x1000..0x2000)),
            (0x2fff, Some(0x2000..0x3000)),
            (0x3000, None),
            (0x4000, None),
            (0x5000, None),
            (0x6000, None),
            (0x7000, None),
        ] {
            assert_eq!(unwritten(maps, place), range, "{place:x}");
        }
        trim_memory();
    }
}
