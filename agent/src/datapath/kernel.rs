//! The loaded programs and their maps: the only writer of the kernel's tables.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use waxseal_common::address::Address;
use waxseal_common::ids::{CgroupId, IdentityId, Revision};
use waxseal_common::seal::SealKey;
use waxseal_common::state::{Connection, Counter, Endpoint, Keys, Pending, Settings, Tuple, UdpFlow};
use waxseal_common::tables::{AddressEntry, IdentityEntry, Mode, PortSet, RowEntry, RowKey};

use super::object::{HOOKS, MAPS, OBJECT, Place};
use super::{Error, bpf, btf};
use crate::config::Config;
use crate::policy::{Capacity, Change, Compiled, Pinned, Plan, Prefix};

/// How long a program run that has read the old revision may last before rows it may read are changed again.
const QUIESCENCE: Duration = Duration::from_millis(20);

/// Capacities of the policy tables.
pub const CAPACITY: Capacity = Capacity { identities: 16384, addresses: 16384, rows: 262_144, sets: 65536 };

type Table<K, V> = HashMap<MapData, K, V>;

/// The datapath in the kernel.
pub struct Kernel {
    ebpf: Ebpf,
    pins: PathBuf,
    cgroup: PathBuf,
    settings: Array<MapData, Settings>,
    endpoints: Table<CgroupId, Endpoint>,
    identities: Table<IdentityId, IdentityEntry>,
    addresses: LpmTrie<MapData, [u8; 16], AddressEntry>,
    rows: Table<RowKey, RowEntry>,
    sets: Table<u32, PortSet>,
    connections: Table<u64, Connection>,
    openings: Table<u64, u64>,
    pending: Table<Tuple, Pending>,
    udp_flows: Table<Tuple, UdpFlow>,
    counters: PerCpuArray<MapData, u64>,
    /// Whether the maps were there already: an agent has run before, and its verdicts are in force.
    pub resumed: bool,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernel({})", self.pins.display())
    }
}

/// Whether programs leave the agent asleep.
pub struct Polling(Array<MapData, u32>);

impl std::fmt::Debug for Polling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Polling")
    }
}

impl Polling {
    /// Says whether the agent drains the flow ring by the clock.
    pub fn set(&mut self, polling: bool) -> Result<(), Error> {
        self.0.set(0, u32::from(polling), 0).map_err(map_error("POLLING"))
    }
}

/// The rings that the programs write into.
pub struct Rings {
    /// Verdicts that let pass, and closes.
    pub flows: RingBuf<MapData>,
    /// Denials.
    pub denials: RingBuf<MapData>,
    /// Changes of the cgroup tree.
    pub cgroups: RingBuf<MapData>,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rings")
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
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        mount_bpffs(&config.bpffs)?;
        let pins = config.pins();
        make_private(&config.instance_pins())?;
        make_private(&pins)?;
        let resumed = pins.join("SETTINGS").exists();
        let mut ebpf = load(config, &pins)?;
        for hook in HOOKS {
            load_program(&mut ebpf, hook.name)?;
        }
        let mut kernel = Self {
            settings: Array::try_from(take(&mut ebpf, "SETTINGS")?).map_err(map_error("SETTINGS"))?,
            endpoints: table(&mut ebpf, "ENDPOINTS")?,
            identities: table(&mut ebpf, "IDENTITIES")?,
            addresses: LpmTrie::try_from(take(&mut ebpf, "ADDRESSES")?).map_err(map_error("ADDRESSES"))?,
            rows: table(&mut ebpf, "ROWS")?,
            sets: table(&mut ebpf, "PORT_SETS")?,
            connections: table(&mut ebpf, "CONNECTIONS")?,
            openings: table(&mut ebpf, "OPENINGS")?,
            pending: table(&mut ebpf, "PENDING")?,
            udp_flows: table(&mut ebpf, "UDP_FLOWS")?,
            counters: PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?).map_err(map_error("COUNTERS"))?,
            ebpf,
            pins,
            cgroup: cgroup.to_owned(),
            resumed,
        };
        kernel.prepare(config)?;
        Ok(kernel)
    }

    /// First start: a key, and settings under which nothing is in force yet. Later: the settings stay.
    fn prepare(&mut self, config: &Config) -> Result<(), Error> {
        let mut settings = self.settings()?;
        if !self.resumed {
            let mut keys: Array<MapData, Keys> =
                Array::try_from(take(&mut self.ebpf, "KEYS")?).map_err(map_error("KEYS"))?;
            let seal = SealKey([rand::random(), rand::random()]);
            keys.set(0, Keys { seal }, 0).map_err(map_error("KEYS"))?;
            settings.mode_ceiling = Mode::Enforce as u8;
            settings.grace_until = monotonic() + config.grace.as_nanos() as u64;
        }
        settings.mode = config.mode as u8;
        self.settings.set(0, settings, 0).map_err(map_error("SETTINGS"))
    }

    /// Attaches every program, or swaps it into the link that is there: at no moment is a packet not judged.
    pub fn attach(&mut self) -> Result<(), Error> {
        let cgroup = File::open(&self.cgroup).map_err(|source| Error::File {
            call: "open",
            path: self.cgroup.clone(),
            source,
        })?;
        for hook in HOOKS {
            let pin = self.pins.join(format!("link_{}", hook.name));
            let program = self.program_fd(hook.name)?;
            let failed = |source| Error::Attach { program: hook.name, to: self.cgroup.clone(), source };
            match hook.place {
                Place::Nowhere => {}
                Place::Tracepoint(name) => {
                    // Such a link cannot be given another program. The new one attaches before the old one goes.
                    let link = bpf::attach_tracepoint(program.as_fd(), name).map_err(failed)?;
                    let fresh = self.pins.join(format!("new_{}", hook.name));
                    remove_if_there(&fresh).map_err(failed)?;
                    bpf::pin(link.as_fd(), &fresh).map_err(failed)?;
                    fs::rename(&fresh, &pin).map_err(failed)?;
                }
                Place::Cgroup(_) if pin.exists() => {
                    let link = bpf::open(&pin).map_err(failed)?;
                    match bpf::swap(link.as_fd(), program.as_fd()) {
                        Ok(()) => {}
                        // The directory that it was attached to is gone, and the link with it.
                        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                            fs::remove_file(&pin).map_err(failed)?;
                            attach_new(hook.place, &program, &cgroup, &pin).map_err(failed)?;
                        }
                        Err(error) => return Err(failed(error)),
                    }
                }
                Place::Cgroup(_) => attach_new(hook.place, &program, &cgroup, &pin).map_err(failed)?,
            }
        }
        Ok(())
    }

    fn program_fd(&self, name: &'static str) -> Result<OwnedFd, Error> {
        let missing = || Error::NoProgram { name };
        let program = self.ebpf.program(name).ok_or_else(missing)?;
        let info = program.info().map_err(|source| Error::Load { name, source: Box::new(source) })?;
        let fd = info.fd().map_err(|source| Error::Load { name, source: Box::new(source) })?;
        fd.as_fd().try_clone_to_owned().map_err(|source| Error::File {
            call: "dup",
            path: PathBuf::from(name),
            source,
        })
    }

    /// How many instructions the verifier walked for each program.
    pub fn verified(&self) -> Vec<(&'static str, u32)> {
        HOOKS
            .iter()
            .filter_map(|hook| {
                let info = self.ebpf.program(hook.name)?.info().ok()?;
                Some((hook.name, info.verified_instruction_count()?))
            })
            .collect()
    }

    /// What the programs log, once; at the level that was chosen when they were loaded.
    pub fn log(&mut self) -> Result<EbpfLogger<&'static dyn log::Log>, Error> {
        EbpfLogger::init(&mut self.ebpf).map_err(|_missing| Error::NoMap { name: "AYA_LOGS" })
    }

    /// The rings, once.
    pub fn rings(&mut self) -> Result<Rings, Error> {
        Ok(Rings {
            flows: RingBuf::try_from(take(&mut self.ebpf, "FLOWS")?).map_err(map_error("FLOWS"))?,
            denials: RingBuf::try_from(take(&mut self.ebpf, "DENIALS")?).map_err(map_error("DENIALS"))?,
            cgroups: RingBuf::try_from(take(&mut self.ebpf, "CGROUPS")?).map_err(map_error("CGROUPS"))?,
        })
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

    /// The switch that tells the programs whether the agent drains the flow ring by the clock. Once.
    pub fn polling(&mut self) -> Result<Polling, Error> {
        Array::try_from(take(&mut self.ebpf, "POLLING")?).map(Polling).map_err(map_error("POLLING"))
    }

    /// Starts a new revision under which nothing has changed, so that every connection is judged again.
    pub fn judge_again(&mut self) -> Result<(), Error> {
        self.set(|settings| settings.revision = settings.revision.next())
    }

    /// Applies changes that belong to no plan.
    pub fn write_all(&mut self, changes: &[Change]) -> Result<(), Error> {
        changes.iter().try_for_each(|change| self.write(change))
    }

    /// Says who owns a cgroup.
    pub fn bind(&mut self, cgroup: CgroupId, endpoint: Endpoint) -> Result<(), Error> {
        self.endpoints.insert(cgroup, endpoint, 0).map_err(map_error("ENDPOINTS"))
    }

    /// Forgets a cgroup that is gone.
    pub fn unbind(&mut self, cgroup: CgroupId) -> Result<(), Error> {
        ignore_absent(self.endpoints.remove(&cgroup)).map_err(map_error("ENDPOINTS"))
    }

    /// Every cgroup that has an owner.
    pub fn endpoints(&self) -> Result<Vec<(CgroupId, Endpoint)>, Error> {
        self.endpoints.iter().collect::<Result<_, _>>().map_err(map_error("ENDPOINTS"))
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
            entries(&self.identities),
            addresses,
            entries(&self.rows),
            entries(&self.sets),
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
            Change::PutSet(id, set) => self.sets.insert(id, **set, 0).map_err(map_error("PORT_SETS")),
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
        self.connections.iter().filter_map(Result::ok).collect()
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

    /// Removes UDP flows, half-open connections and openings in which nothing has happened for as long as given.
    pub fn age(&mut self, now: u64, udp: Duration, pending: Duration) -> Result<(), Error> {
        let old = |at: u64, limit: Duration| now.saturating_sub(at) > limit.as_nanos() as u64;
        let flows: Vec<Tuple> =
            entries(&self.udp_flows).filter(|(_, flow)| old(flow.seen, udp)).map(|(key, _)| key).collect();
        for key in flows {
            ignore_absent(self.udp_flows.remove(&key)).map_err(map_error("UDP_FLOWS"))?;
        }
        let half: Vec<Tuple> =
            entries(&self.pending).filter(|(_, entry)| old(entry.at, pending)).map(|(key, _)| key).collect();
        for key in half {
            ignore_absent(self.pending.remove(&key)).map_err(map_error("PENDING"))?;
        }
        let orphans: Vec<u64> = entries(&self.openings)
            .filter(|(_, cookie)| self.connections.get(cookie, 0).is_err())
            .map(|(key, _)| key)
            .collect();
        for mac in orphans {
            ignore_absent(self.openings.remove(&mac)).map_err(map_error("OPENINGS"))?;
        }
        Ok(())
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
            fill("endpoints", self.endpoints.keys().count(), size("ENDPOINTS")),
            fill("identities", self.identities.keys().count(), size("IDENTITIES")),
            fill("addresses", self.addresses.keys().count(), size("ADDRESSES")),
            fill("rows", self.rows.keys().count(), size("ROWS")),
            fill("port-sets", self.sets.keys().count(), size("PORT_SETS")),
            fill("connections", self.connections.keys().count(), size("CONNECTIONS")),
            fill("half-open", self.pending.keys().count(), size("PENDING")),
            fill("udp-flows", self.udp_flows.keys().count(), size("UDP_FLOWS")),
        ]
    }

    /// Asks the kernel itself: runs `judge` over the packets and returns its answers.
    pub fn run_judge(&mut self, packet: &[u8]) -> Result<u32, Error> {
        use aya::TestRun as _;
        let program = self.ebpf.program("judge").ok_or(Error::NoProgram { name: "judge" })?;
        let Program::SchedClassifier(judge) = program else { return Err(Error::NoProgram { name: "judge" }) };
        let mut out = [0u8; 256];
        let options = aya::programs::TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..aya::programs::TestRunOptions::default()
        };
        let result = judge
            .test_run(options)
            .map_err(|source| Error::Load { name: "judge", source: Box::new(source) })?;
        Ok(result.return_value)
    }

    /// The revision in force.
    pub fn revision(&self) -> Result<Revision, Error> {
        Ok(self.settings()?.revision)
    }
}

fn attach_new(place: Place, program: &OwnedFd, cgroup: &File, pin: &Path) -> io::Result<()> {
    let Place::Cgroup(kind) = place else { return Ok(()) };
    let link = bpf::attach(program.as_fd(), cgroup.as_fd(), kind)?;
    bpf::pin(link.as_fd(), pin)
}

fn entries<K: aya::Pod, V: aya::Pod>(table: &Table<K, V>) -> impl Iterator<Item = (K, V)> + '_ {
    table.iter().filter_map(Result::ok)
}

fn load(config: &Config, pins: &Path) -> Result<Ebpf, Error> {
    let offsets = btf::offsets()?;
    let mut loader = EbpfLoader::new();
    // Nothing in the object asks for the kernel's types; keeping them would cost more memory than all the rest.
    loader.btf(None);
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    let level = log_level(&config.log);
    loader.override_global("AYA_LOG_LEVEL", &level, true);
    loader
        .map_max_entries("IDENTITIES", CAPACITY.identities)
        .map_max_entries("ADDRESSES", CAPACITY.addresses)
        .map_max_entries("ROWS", CAPACITY.rows)
        .map_max_entries("PORT_SETS", CAPACITY.sets)
        .map_max_entries("CONNECTIONS", config.connections)
        .map_max_entries("UDP_FLOWS", config.connections)
        .map_max_entries("FLOWS", config.flow_ring)
        .map_max_entries("DENIALS", config.denial_ring);
    for name in MAPS {
        loader.map_pin_path(name, pins.join(name));
    }
    loader.load(OBJECT).map_err(|source| Error::Object { source: Box::new(source) })
}

/// The level of the programs' own log: that of the filter's last part. What is off costs nothing on any path.
fn log_level(filter: &str) -> u8 {
    let last = filter.rsplit([',', '=']).next().unwrap_or_default().trim();
    match last.to_ascii_lowercase().as_str() {
        "error" => 1,
        "warn" => 2,
        "debug" => 4,
        "trace" => 5,
        "off" => 0,
        _ => 3,
    }
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let program = ebpf.program_mut(name).ok_or(Error::NoProgram { name })?;
    let loaded = match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(Error::NoProgram { name }),
    };
    loaded.map_err(|source| Error::Load { name, source: Box::new(source) })
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, Error> {
    ebpf.take_map(name).ok_or(Error::NoMap { name })
}

fn table<K: aya::Pod, V: aya::Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Table<K, V>, Error> {
    HashMap::try_from(take(ebpf, name)?).map_err(map_error(name))
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { name, source }
}

fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
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

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Mounts the BPF file system where there is none.
fn mount_bpffs(path: &Path) -> Result<(), Error> {
    let failed = |call, source| Error::File { call, path: path.to_owned(), source };
    let kind = nix::sys::statfs::statfs(path).map(|stat| stat.filesystem_type());
    if kind == Ok(nix::sys::statfs::BPF_FS_MAGIC) {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|source| failed("create", source))?;
    let flags =
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| failed("mount", errno.into()))
}

/// Makes a directory that only its owner may enter.
fn make_private(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::File { call: "create", path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Nanoseconds of the clock that the programs read.
pub fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}
