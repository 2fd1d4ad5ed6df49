//! Every map, and the functions that read and write them safely.

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_AVAIL_DATA};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use aya_ebpf::macros::btf_map;
use aya_ebpf::maps::lpm_trie::Key;
use waxseal_common::address::Address;
use waxseal_common::flow::{CgroupEvent, FlowEvent};
use waxseal_common::ids::{CgroupId, IdentityId};
use waxseal_common::seal::SealKey;
use waxseal_common::state::{
    Connection, Counter, Endpoint, Keys, NAME_BYTES, Opener, Pending, Process, Settings, Tuple, UdpFlow,
};
use waxseal_common::tables::{AddressEntry, IdentityEntry, PortSet, RowEntry, RowKey};
use waxseal_common::wire::{Announced, Arrival, Device, HeldDatagram, Notice, Route, RouteKey, Session, Spi};

use crate::case::Case;

/// Memory is taken as entries are made: a quiet host pays for what it uses.
const LAZY: usize = BPF_F_NO_PREALLOC as usize;

// The sizes here are the smallest that make sense; the agent sets the real ones before loading.
#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
pub(crate) static KEYS: Array<Keys, 1> = Array::new();
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<CgroupId, Endpoint, 65536, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static EXPECTED: LpmTrie<[u8; NAME_BYTES], u32, 4096> = LpmTrie::new();
#[btf_map]
pub(crate) static IDENTITIES: HashMap<IdentityId, IdentityEntry, 16384, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static ADDRESSES: LpmTrie<[u8; 16], AddressEntry, 16384> = LpmTrie::new();
#[btf_map]
pub(crate) static ROWS: HashMap<RowKey, RowEntry, 262_144, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static PORT_SETS: HashMap<u32, PortSet, 65536, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static CONNECTIONS: HashMap<u64, Connection, 262_144, LAZY> = HashMap::new();
// The next two hold an entry for milliseconds only: taking memory for each would cost more than keeping it.
/// The MAC of a seal to the cookie of the socket that sent it, while the connection opens.
#[btf_map]
pub(crate) static OPENINGS: HashMap<u64, u64, 65536> = HashMap::new();
#[btf_map]
pub(crate) static PENDING: HashMap<Tuple, Pending, 65536> = HashMap::new();
#[btf_map]
pub(crate) static UDP_FLOWS: HashMap<Tuple, UdpFlow, 262_144, LAZY> = HashMap::new();
/// How many flows of that table each source has. The agent counts anew from time to time.
#[btf_map]
pub(crate) static UDP_SHARES: HashMap<IdentityId, u64, 16384, LAZY> = HashMap::new();
/// How many it may have; the agent sets it before loading.
#[unsafe(no_mangle)]
static UDP_SHARE: Global<u64> = Global::new(u64::MAX);
/// Datagrams from sources without identity: all that a flood of them can push out is each other.
#[btf_map]
pub(crate) static UDP_UNSEALED: LruHashMap<Tuple, UdpFlow, 65536> = LruHashMap::new();
/// Names for the tap, by socket cookie. Losing one costs a name, never a verdict.
#[btf_map]
pub(crate) static UDP_OPENERS: LruHashMap<u64, Process, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static OPENER: PerCpuArray<Opener, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static CASES: PerCpuArray<[u64; CASE_WORDS], 3> = PerCpuArray::new();
/// Where a pointer becomes a number.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static FLOWS: RingBuf<FlowEvent, 4_194_304> = RingBuf::new();
#[btf_map]
pub(crate) static DENIALS: RingBuf<FlowEvent, 1_048_576> = RingBuf::new();
#[btf_map]
pub(crate) static CGROUPS: RingBuf<CgroupEvent, 131_072> = RingBuf::new();

/// Sessions in which this node is the receiver.
#[btf_map]
pub(crate) static SESSIONS: HashMap<Spi, Session, 65536, LAZY> = HashMap::new();
/// Where this node's workloads go on other nodes, with the sessions in which it is the sender.
#[btf_map]
pub(crate) static ROUTES: HashMap<RouteKey, Route, 65536, LAZY> = HashMap::new();
#[btf_map]
pub(crate) static ARRIVALS: HashMap<u64, Arrival, 65536> = HashMap::new();
#[btf_map]
pub(crate) static ANNOUNCED: HashMap<Tuple, Announced, 262_144, LAZY> = HashMap::new();
/// The devices that have TC programs, by index.
#[btf_map]
pub(crate) static COVERED: HashMap<u32, u32, 4096, LAZY> = HashMap::new();
/// When something was told last that anybody can bring about.
#[btf_map]
pub(crate) static TOLD: Array<u64, 1> = Array::new();
#[btf_map]
pub(crate) static NOTICES: RingBuf<Notice, 524_288> = RingBuf::new();
#[btf_map]
pub(crate) static DATAGRAMS: RingBuf<HeldDatagram, 1_048_576> = RingBuf::new();

/// What the agent asks of those who tell: 1 while it drains the flow ring by the clock, so that they need not wake it, and
/// 2 while somebody wants to hear both ends of a connection within this node.
#[btf_map]
pub(crate) static POLLING: Array<u32, 1> = Array::new();

/// Whether the agent drains the flow ring by the clock.
#[inline(always)]
pub(crate) fn polling() -> bool {
    POLLING.get(0).is_some_and(|asked| *asked & 1 != 0)
}

/// Whether somebody wants to hear both ends of a connection within this node.
#[inline(always)]
pub(crate) fn both_ends() -> bool {
    POLLING.get(0).is_some_and(|asked| *asked & 2 != 0)
}

/// The settings. The map has exactly one entry, so this is always there; the verifier wants to see it checked.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// The seal's key.
#[inline(always)]
pub(crate) fn seal_key() -> Option<&'static SealKey> {
    KEYS.get(0).map(|keys| &keys.seal)
}

/// What the agent knows of a cgroup.
#[inline(always)]
pub(crate) fn endpoint(cgroup: CgroupId) -> Option<Endpoint> {
    // SAFETY: the value is copied out at once; entries are eight bytes and the agent replaces them whole.
    unsafe { ENDPOINTS.get(cgroup) }.copied()
}

/// Whether a directory of this name may be a workload's: a service unit that some document names, or a container.
#[inline(always)]
pub(crate) fn is_expected(name: &[u8; NAME_BYTES]) -> bool {
    EXPECTED.get(&Key::new(NAME_BYTES as u32 * 8, *name)).is_some()
}

/// The identity's row, both versions.
#[inline(always)]
pub(crate) fn identity(identity: IdentityId) -> Option<&'static IdentityEntry> {
    // SAFETY: memory of a removed entry stays readable until the program ends, and an entry is removed only a revision
    // after the last reader could have found it.
    unsafe { IDENTITIES.get(identity) }
}

/// The address's row, both versions.
#[inline(always)]
pub(crate) fn address(address: &Address) -> Option<&'static AddressEntry> {
    ADDRESSES.get(&Key::new(128, address.0))
}

/// A row of the policy, both versions.
#[inline(always)]
pub(crate) fn row(key: &RowKey) -> Option<&'static RowEntry> {
    // SAFETY: as for identities.
    unsafe { ROWS.get(key) }
}

/// A port set. Immutable once written.
#[inline(always)]
pub(crate) fn port_set(set: u32) -> Option<&'static PortSet> {
    // SAFETY: as for identities.
    unsafe { PORT_SETS.get(set) }
}

/// A connection's record, to be changed in place. Each record is written by the hooks of one socket, and by its
/// listener's hook while it opens; the fields are plain numbers of which a torn set is judged again.
#[inline(always)]
pub(crate) fn connection(cookie: u64) -> Option<&'static mut Connection> {
    let record = CONNECTIONS.get_ptr_mut(cookie)?;
    // SAFETY: the pointer comes from a look-up and stays valid until the program ends.
    Some(unsafe { &mut *record })
}

/// A UDP flow, to be changed in place.
#[inline(always)]
pub(crate) fn udp_flow(tuple: &Tuple) -> Option<&'static mut UdpFlow> {
    let flow = UDP_FLOWS.get_ptr_mut(tuple)?;
    // SAFETY: as for connections.
    Some(unsafe { &mut *flow })
}

/// Takes a place of a source's share of the UDP flows. `false` when it has none left: one source's flood leaves room for
/// the flows of others.
#[inline(always)]
pub(crate) fn take_udp_share(source: IdentityId) -> bool {
    let Some(taken) = UDP_SHARES.get_ptr_mut(source) else {
        // Two processors at once count one; the agent sets it right.
        return UDP_SHARES.insert(source, 1u64, REPLACE).is_ok();
    };
    // SAFETY: the pointer comes from a look-up and stays valid until the program ends.
    let taken = unsafe { &mut *taken };
    if *taken >= UDP_SHARE.load() {
        return false;
    }
    *taken += 1;
    true
}

/// A UDP flow of a source without identity.
#[inline(always)]
pub(crate) fn udp_unsealed(tuple: &Tuple) -> Option<&'static mut UdpFlow> {
    let flow = UDP_UNSEALED.get_ptr_mut(tuple)?;
    // SAFETY: as for connections.
    Some(unsafe { &mut *flow })
}

/// An allowed SYN that waits for its ACK.
#[inline(always)]
pub(crate) fn pending(tuple: &Tuple) -> Option<Pending> {
    // SAFETY: copied out at once.
    unsafe { PENDING.get(tuple) }.copied()
}

/// The opener of the connection whose SYN carries this seal.
#[inline(always)]
pub(crate) fn opening(mac: u64) -> Option<u64> {
    // SAFETY: copied out at once.
    unsafe { OPENINGS.get(mac) }.copied()
}

/// A session in which this node is the receiver, to be counted in.
#[inline(always)]
pub(crate) fn session(spi: Spi) -> Option<&'static mut Session> {
    let session = SESSIONS.get_ptr_mut(spi)?;
    // SAFETY: as for connections; the agent replaces a session whole.
    Some(unsafe { &mut *session })
}

/// What is known of a destination on another node, to be counted in.
#[inline(always)]
pub(crate) fn route(key: &RouteKey) -> Option<&'static mut Route> {
    let route = ROUTES.get_ptr_mut(key)?;
    // SAFETY: as for sessions.
    Some(unsafe { &mut *route })
}

/// A SYN from another node on its way to its listener.
#[inline(always)]
pub(crate) fn arrival(mac: u64) -> Option<&'static mut Arrival> {
    let arrival = ARRIVALS.get_ptr_mut(mac)?;
    // SAFETY: as for connections.
    Some(unsafe { &mut *arrival })
}

/// Until when a UDP flow may go out, and under which session.
#[inline(always)]
pub(crate) fn announced(tuple: &Tuple) -> Option<&'static Announced> {
    // SAFETY: memory of a removed entry stays readable until the program ends.
    unsafe { ANNOUNCED.get(tuple) }
}

/// Where a device leads, as one of the constants of [`Device`].
#[inline(always)]
pub(crate) fn device(device: u32) -> u32 {
    // SAFETY: copied out at once.
    unsafe { COVERED.get(device) }.copied().unwrap_or(Device::NOT_COVERED)
}

/// Room for the case of a hook that runs with softirqs off, so that no other run of it can come between on this CPU: the
/// stack is too small for some of them.
#[inline(always)]
pub(crate) fn room(slot: Room) -> Option<&'static mut MaybeUninit<Case>> {
    const { assert!(size_of::<Case>() <= size_of::<[u64; CASE_WORDS]>()) };
    let room = CASES.get_ptr_mut(slot as u32)?;
    // SAFETY: the slot is large enough and belongs to this CPU and to this hook until it returns.
    Some(unsafe { &mut *room.cast() })
}

/// Whose room.
#[derive(Clone, Copy)]
pub(crate) enum Room {
    Listener = 0,
    TcIngress = 1,
    TcEgress = 2,
}

const CASE_WORDS: usize = 24;

/// Whether a TC program may tell of something that anybody could make it tell: a thousand times a second.
#[inline(always)]
pub(crate) fn may_tell(now: u64) -> bool {
    let Some(last) = TOLD.get_ptr_mut(0) else { return false };
    // SAFETY: the slot is eight bytes long; two processors at once tell twice.
    let last = unsafe { &mut *last };
    if now.wrapping_sub(*last) < 1_000_000 {
        return false;
    }
    *last = now;
    true
}

/// Who used this datagram socket last.
#[inline(always)]
pub(crate) fn udp_opener(cookie: u64) -> Process {
    // SAFETY: copied out at once.
    unsafe { UDP_OPENERS.get(cookie) }.copied().unwrap_or_default()
}

/// Leaves the caller's name for the hooks that run later in the same system call.
#[inline(always)]
pub(crate) fn leave_opener(opener: &Opener) {
    if let Some(slot) = OPENER.get_ptr_mut(0) {
        // SAFETY: the slot belongs to this CPU; a hook that interrupts us reads another cookie and takes no name.
        unsafe { *slot = *opener };
    }
}

/// What connect() left for this socket.
#[inline(always)]
pub(crate) fn opener(cookie: u64) -> Option<&'static Opener> {
    OPENER.get(0).filter(|opener| opener.cookie == cookie)
}

/// Bytes in the flow ring that the agent has not read.
#[inline(always)]
pub(crate) fn flows_waiting() -> u64 {
    // SAFETY: the map lives as long as the program; the helper only reads its positions.
    unsafe { bpf_ringbuf_query((&raw const FLOWS).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA)) }
}

/// Counts one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU. A program that interrupts this one on the same CPU can cost one count.
        unsafe { *value += 1 };
    }
}

/// Turns a pointer that the verifier guards into a number that can be added to; 0 when that fails. Needs CAP_PERFMON,
/// which loading these programs needs anyway.
#[inline(always)]
pub(crate) fn as_number<T>(pointer: *const T) -> u64 {
    let Some(slot) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // Another program may run on this CPU in between and leave its own pointer. Not twice the same, though.
    let once = pass_through(slot, pointer);
    let twice = pass_through(slot, pointer);
    if once == twice { once } else { 0 }
}

#[inline(always)]
fn pass_through<T>(slot: *mut u64, pointer: *const T) -> u64 {
    // SAFETY: the slot is eight bytes long and belongs to this CPU.
    unsafe { core::ptr::write_volatile(slot.cast::<*const T>(), pointer) };
    // SAFETY: as above, and initialised.
    unsafe { core::ptr::read_volatile(slot) }
}

/// Stores only where nothing is.
pub(crate) const KEEP: u64 = BPF_NOEXIST as u64;
/// Stores with "insert or replace".
pub(crate) const REPLACE: u64 = BPF_ANY as u64;
