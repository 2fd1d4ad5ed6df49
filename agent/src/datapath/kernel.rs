//! The loaded programs and their maps: the only writer of the kernel's tables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, MapInfo, PerCpuArray};
use waxseal_common::address::Address;
use waxseal_common::ids::{CgroupId, IdentityId, Revision};
use waxseal_common::seal::SealKey;
use waxseal_common::state::{
    Connection, Counter, Endpoint, Keys, NAME_BYTES, Pending, Settings, Tuple, UdpFlow,
};
use waxseal_common::tables::{AddressEntry, IdentityEntry, Mode, PortSet, RowEntry, RowKey};

use super::batch::{entries, whole};
use super::load::{Channels, Loaded, Programs, load, take};
use super::{Border, Error};
use crate::config::Config;
use crate::policy::{Capacity, Change, Compiled, Pinned, Plan, Prefix};

/// How long a program run that has read the old revision may last before rows it may read are changed again.
const QUIESCENCE: Duration = Duration::from_millis(20);

/// Capacities of the policy tables.
pub const CAPACITY: Capacity = Capacity { identities: 16384, addresses: 16384, rows: 262_144, sets: 65536 };

pub(super) type Table<K, V> = HashMap<MapData, K, V>;

/// The datapath in the kernel.
pub struct Kernel {
    programs: Programs,
    channels: Option<Channels>,
    pins: PathBuf,
    cgroup: PathBuf,
    settings: Array<MapData, Settings>,
    endpoints: Table<CgroupId, Endpoint>,
    expected: LpmTrie<MapData, [u8; NAME_BYTES], u32>,
    identities: Table<IdentityId, IdentityEntry>,
    addresses: LpmTrie<MapData, [u8; 16], AddressEntry>,
    rows: Table<RowKey, RowEntry>,
    sets: Table<u32, PortSet>,
    pub(super) connections: Table<u64, Connection>,
    pub(super) openings: Table<u64, u64>,
    pub(super) pending: Table<Tuple, Pending>,
    pub(super) udp_flows: Table<Tuple, UdpFlow>,
    pub(super) udp_unsealed: Table<Tuple, UdpFlow>,
    pub(super) udp_shares: Table<IdentityId, u64>,
    /// How many entries the table of UDP flows can hold.
    pub(super) udp_capacity: usize,
    counters: PerCpuArray<MapData, u64>,
    border: Option<Border>,
    /// Whether the maps were there already: an agent has run before, and its verdicts are in force.
    pub resumed: bool,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernel({})", self.pins.display())
    }
}

/// How the name of a directory begins, or what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePattern {
    /// This very name.
    Name(String),
    /// Every name that begins so.
    Prefix(String),
}

impl NamePattern {
    /// The pattern as a prefix of bytes: a whole name ends with the zero that ends it in the kernel. A name that is too
    /// long to be compared whole is compared as far as it can be.
    fn key(&self) -> (u32, [u8; NAME_BYTES]) {
        let (text, end) = match self {
            Self::Name(name) => (name, 1),
            Self::Prefix(prefix) => (prefix, 0),
        };
        let mut bytes = [0; NAME_BYTES];
        let length = text.len().min(NAME_BYTES - 1);
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        let whole = if length == text.len() { length + end } else { length };
        (whole as u32 * 8, bytes)
    }
}

/// How full a table is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Fill {
    /// Its name.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

impl Kernel {
    /// Loads programs and maps, taking over what an earlier agent of this instance has left. Attaches nothing.
    pub fn open(config: &Config, cgroup: &Path) -> Result<Self, Error> {
        let Loaded { mut ebpf, programs, pins } = load(config)?;
        let mut kernel = Self {
            settings: Array::try_from(take(&mut ebpf, "SETTINGS")?).map_err(map_error("SETTINGS"))?,
            endpoints: table(&mut ebpf, "ENDPOINTS")?,
            expected: LpmTrie::try_from(take(&mut ebpf, "EXPECTED")?).map_err(map_error("EXPECTED"))?,
            identities: table(&mut ebpf, "IDENTITIES")?,
            addresses: LpmTrie::try_from(take(&mut ebpf, "ADDRESSES")?).map_err(map_error("ADDRESSES"))?,
            rows: table(&mut ebpf, "ROWS")?,
            sets: table(&mut ebpf, "PORT_SETS")?,
            connections: table(&mut ebpf, "CONNECTIONS")?,
            openings: table(&mut ebpf, "OPENINGS")?,
            pending: table(&mut ebpf, "PENDING")?,
            udp_flows: table(&mut ebpf, "UDP_FLOWS")?,
            udp_unsealed: table(&mut ebpf, "UDP_UNSEALED")?,
            udp_shares: table(&mut ebpf, "UDP_SHARES")?,
            udp_capacity: config.connections as usize,
            counters: PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?).map_err(map_error("COUNTERS"))?,
            channels: Some(Channels::take(&mut ebpf)?),
            border: Some(Border::new(
                programs.border()?.into_iter(),
                table(&mut ebpf, "COVERED")?,
                pins.clone(),
                config.uplinks.iter().cloned().collect(),
            )),
            programs,
            pins,
            cgroup: cgroup.to_owned(),
            resumed: false,
        };
        kernel.prepare(config, &mut ebpf)?;
        Ok(kernel)
    }

    /// First start: a key, and settings under which nothing is in force yet. Later: the settings stay.
    fn prepare(&mut self, config: &Config, ebpf: &mut Ebpf) -> Result<(), Error> {
        let mut settings = self.settings()?;
        let mut keys: Array<MapData, Keys> =
            Array::try_from(take(ebpf, "KEYS")?).map_err(map_error("KEYS"))?;
        // Maps can be pinned by a start that went no further. Only a key says that one went through.
        self.resumed = keys.get(&0, 0).map_err(map_error("KEYS"))?.seal.0 != [0, 0];
        if !self.resumed {
            let seal = SealKey([rand::random(), rand::random()]);
            keys.set(0, Keys { seal }, 0).map_err(map_error("KEYS"))?;
            settings.mode_ceiling = Mode::Enforce as u8;
            settings.grace_until = monotonic() + config.grace.as_nanos() as u64;
        }
        settings.netns = super::netns::own().unwrap_or_default();
        self.settings.set(0, settings, 0).map_err(map_error("SETTINGS"))
    }

    /// Attaches every program, or swaps it into the link that is there: at no moment is a packet not judged.
    pub fn attach(&self) -> Result<(), Error> {
        self.programs.attach(&self.pins, &self.cgroup)
    }

    /// How many instructions the verifier walked for each program.
    pub fn verified(&self) -> Vec<(&'static str, u32)> {
        self.programs.verified()
    }

    /// The border to other nodes, once.
    pub fn border(&mut self) -> Result<Border, Error> {
        self.border.take().ok_or(Error::NoMap { name: "COVERED" })
    }

    /// Says until when somebody answers for what the TC programs hold, in monotonic nanoseconds; 0 turns the mesh off.
    pub fn set_mesh_until(&mut self, until: u64) -> Result<(), Error> {
        self.set(|settings| settings.mesh_until = until)
    }

    /// What the programs tell through, once.
    pub fn channels(&mut self) -> Result<Channels, Error> {
        self.channels.take().ok_or(Error::NoMap { name: "FLOWS" })
    }

    /// Asks the kernel itself: runs `judge` over a packet and returns its answer.
    pub fn run_judge(&self, packet: &[u8]) -> Result<u32, Error> {
        self.programs.run("judge", packet)
    }

    /// The settings in force.
    pub fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(map_error("SETTINGS"))
    }

    fn set(&mut self, change: impl FnOnce(&mut Settings)) -> Result<(), Error> {
        let mut settings = self.settings()?;
        change(&mut settings);
        self.settings.set(0, settings, 0).map_err(map_error("SETTINGS"))
    }

    /// Sets the node's ceiling: the emergency mode.
    pub fn set_ceiling(&mut self, mode: Mode) -> Result<(), Error> {
        self.set(|settings| settings.mode_ceiling = mode as u8)
    }

    /// Starts a new revision under which nothing has changed, so that every connection is judged again.
    pub fn judge_again(&mut self) -> Result<(), Error> {
        self.set(|settings| settings.revision = settings.revision.next())
    }

    /// Applies changes that belong to no plan.
    pub fn write_all(&mut self, changes: &[Change]) -> Result<(), Error> {
        changes.iter().try_for_each(|change| self.write(change))
    }

    /// Sets the mode that holds for whoever is to be a workload and is not yet.
    pub fn set_pending_mode(&mut self, mode: Mode) -> Result<(), Error> {
        if self.settings()?.mode == mode as u8 {
            return Ok(());
        }
        self.set(|settings| settings.mode = mode as u8)
    }

    /// Says who owns a cgroup.
    pub fn bind(&mut self, cgroup: CgroupId, endpoint: Endpoint) -> Result<(), Error> {
        self.endpoints.insert(cgroup, endpoint, 0).map_err(map_error("ENDPOINTS"))
    }

    /// Says how directories are called that may be workloads': they get nothing until they are bound.
    pub fn expect(&mut self, names: &BTreeSet<NamePattern>) -> Result<(), Error> {
        let failed = map_error("EXPECTED");
        let wanted: BTreeSet<(u32, [u8; NAME_BYTES])> = names.iter().map(NamePattern::key).collect();
        let there: BTreeSet<(u32, [u8; NAME_BYTES])> =
            self.expected.keys().filter_map(Result::ok).map(|key| (key.prefix_len(), key.data())).collect();
        for (bits, name) in wanted.difference(&there) {
            self.expected.insert(&Key::new(*bits, *name), 1, 0).map_err(&failed)?;
        }
        for (bits, name) in there.difference(&wanted) {
            ignore_absent(self.expected.remove(&Key::new(*bits, *name))).map_err(&failed)?;
        }
        Ok(())
    }

    /// Forgets a cgroup that is gone.
    pub fn unbind(&mut self, cgroup: CgroupId) -> Result<(), Error> {
        ignore_absent(self.endpoints.remove(&cgroup)).map_err(map_error("ENDPOINTS"))
    }

    /// Every cgroup that has an owner.
    pub fn endpoints(&self) -> Result<Vec<(CgroupId, Endpoint)>, Error> {
        whole(&self.endpoints, "ENDPOINTS")
    }

    /// What the policy tables hold, for an agent that takes over from an earlier one.
    pub fn pinned(&self) -> Result<Pinned, Error> {
        let addresses = self
            .addresses
            .iter()
            .filter_map(Result::ok)
            .map(|(key, entry)| (Prefix::new(Address(key.data()), key.prefix_len() as u8), entry));
        Ok(Pinned::read(
            self.revision()?,
            whole(&self.identities, "IDENTITIES")?,
            addresses,
            whole(&self.rows, "ROWS")?,
            whole(&self.sets, "PORT_SETS")?,
        ))
    }

    /// Writes all that a plan prepares, then flips the revision. On an error what was written is taken back and the old
    /// revision, which is `current`, stays in force.
    pub fn apply(&mut self, plan: &Plan, current: &Compiled) -> Result<(), Error> {
        if let Err(error) = self.write_all(&plan.prepare) {
            self.write_all(&plan.undo(current))?;
            return Err(error);
        }
        let revision = plan.revision;
        self.set(|settings| settings.revision = revision)
    }

    /// Removes what the new revision no longer reads. Waits until no program can still be reading the old one.
    pub fn clean(&mut self, plan: &Plan) -> Result<(), Error> {
        if plan.cleanup.is_empty() {
            return Ok(());
        }
        std::thread::sleep(QUIESCENCE);
        plan.cleanup.iter().try_for_each(|change| self.write(change))
    }

    fn write(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::PutSet(id, set) => {
                self.sets.insert(id, set.unpacked(), 0).map_err(map_error("PORT_SETS"))
            }
            Change::PutRow(key, entry) => self.rows.insert(key, entry, 0).map_err(map_error("ROWS")),
            Change::PutIdentity(id, entry) => {
                self.identities.insert(id, entry, 0).map_err(map_error("IDENTITIES"))
            }
            Change::PutAddress(prefix, entry) => {
                let key = Key::new(u32::from(prefix.length), prefix.address.0);
                self.addresses.insert(&key, entry, 0).map_err(map_error("ADDRESSES"))
            }
            Change::DeleteSet(id) => ignore_absent(self.sets.remove(id)).map_err(map_error("PORT_SETS")),
            Change::DeleteRow(key) => ignore_absent(self.rows.remove(key)).map_err(map_error("ROWS")),
            Change::DeleteIdentity(id) => {
                ignore_absent(self.identities.remove(id)).map_err(map_error("IDENTITIES"))
            }
            Change::DeleteAddress(prefix) => {
                let key = Key::new(u32::from(prefix.length), prefix.address.0);
                ignore_absent(self.addresses.remove(&key)).map_err(map_error("ADDRESSES"))
            }
        }
    }

    /// Every recorded connection.
    pub fn connections(&self) -> Vec<(u64, Connection)> {
        entries(&self.connections).collect()
    }

    /// Records a connection that is older than the programs.
    pub fn adopt(&mut self, cookie: u64, record: &Connection) -> Result<(), Error> {
        self.connections
            .insert(cookie, record, 1)
            .or_else(|error| {
                // BPF_NOEXIST: the programs have recorded it themselves meanwhile.
                if is_errno(&error, libc::EEXIST) { Ok(()) } else { Err(error) }
            })
            .map_err(map_error("CONNECTIONS"))
    }

    /// Forgets a connection whose socket is gone.
    pub fn forget(&mut self, cookie: u64) -> Result<(), Error> {
        ignore_absent(self.connections.remove(&cookie)).map_err(map_error("CONNECTIONS"))
    }

    /// What was counted, summed over all processors.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, Error> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let values = self.counters.get(&(*counter as u32), 0).map_err(map_error("COUNTERS"))?;
                Ok((*counter, values.iter().sum()))
            })
            .collect()
    }

    /// How full the tables are.
    pub fn fill(&self) -> Vec<Fill> {
        let fill = |name: &str, used: usize, capacity: u32| Fill {
            name: name.to_owned(),
            used: used as u64,
            capacity: u64::from(capacity),
        };
        let size = |name: &str| MapInfo::from_pin(self.pins.join(name)).map_or(0, |info| info.max_entries());
        vec![
            fill("endpoints", entries(&self.endpoints).count(), size("ENDPOINTS")),
            fill("identities", entries(&self.identities).count(), size("IDENTITIES")),
            fill("addresses", self.addresses.keys().count(), size("ADDRESSES")),
            fill("rows", entries(&self.rows).count(), size("ROWS")),
            fill("port-sets", entries(&self.sets).count(), size("PORT_SETS")),
            fill("connections", entries(&self.connections).count(), size("CONNECTIONS")),
            fill("half-open", entries(&self.pending).count(), size("PENDING")),
            fill("udp-flows", entries(&self.udp_flows).count(), size("UDP_FLOWS")),
        ]
    }

    /// The revision in force.
    pub fn revision(&self) -> Result<Revision, Error> {
        Ok(self.settings()?.revision)
    }
}

fn table<K: aya::Pod, V: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Table<K, V>, Error> {
    HashMap::try_from(take(ebpf, name)?).map_err(map_error(name))
}

pub(super) fn map_error(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { name, source }
}

pub(super) fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if is_errno(&error, libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn is_errno(error: &MapError, errno: i32) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => errno == libc::ENOENT,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(errno),
        _ => false,
    }
}

/// Nanoseconds of the clock that the programs read.
pub fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}
