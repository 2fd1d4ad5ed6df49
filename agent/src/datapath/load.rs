//! Loads the programs and their maps, and attaches the programs: the work of starting up.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, Map, MapData, RingBuf};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;

use super::kernel::{CAPACITY, map_error};
use super::object::{HOOKS, Hook, MAPS, OBJECT, Place};
use super::{Error, bpf, btf};
use crate::config::Config;

/// What loading yields. The loader's own memory goes with `ebpf`.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) programs: Programs,
    pub(super) pins: PathBuf,
}

/// Loads programs and maps; maps that are pinned already are taken over.
pub(super) fn load(config: &Config) -> Result<Loaded, Error> {
    if OBJECT.is_empty() {
        return Err(Error::NoObject);
    }
    mount_bpffs(&config.bpffs)?;
    let pins = config.pins();
    make_private(&config.instance_pins())?;
    make_private(&pins)?;
    let mut ebpf = load_object(config, &pins)?;
    let programs = HOOKS.iter().map(|hook| load_program(&mut ebpf, *hook)).collect::<Result<_, _>>()?;
    Ok(Loaded { ebpf, programs: Programs(programs), pins })
}

/// What the programs tell through.
pub struct Channels {
    /// Verdicts that let pass, and closes.
    pub flows: RingBuf<MapData>,
    /// Denials.
    pub denials: RingBuf<MapData>,
    /// Changes of the cgroup tree.
    pub cgroups: RingBuf<MapData>,
    /// What the TC programs ask for, SYNs that wait among it.
    pub notices: RingBuf<MapData>,
    /// First datagrams that wait.
    pub datagrams: RingBuf<MapData>,
    /// Whether the flow ring wakes the agent.
    pub polling: Polling,
    /// What the programs log, at the level that was chosen when they were loaded.
    pub log: EbpfLogger<&'static dyn log::Log>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channels")
    }
}

impl Channels {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            flows: RingBuf::try_from(take(ebpf, "FLOWS")?).map_err(map_error("FLOWS"))?,
            denials: RingBuf::try_from(take(ebpf, "DENIALS")?).map_err(map_error("DENIALS"))?,
            cgroups: RingBuf::try_from(take(ebpf, "CGROUPS")?).map_err(map_error("CGROUPS"))?,
            notices: RingBuf::try_from(take(ebpf, "NOTICES")?).map_err(map_error("NOTICES"))?,
            datagrams: RingBuf::try_from(take(ebpf, "DATAGRAMS")?).map_err(map_error("DATAGRAMS"))?,
            polling: Array::try_from(take(ebpf, "POLLING")?)
                .map(Polling::new)
                .map_err(map_error("POLLING"))?,
            log: EbpfLogger::init(ebpf).map_err(|_missing| Error::NoMap { name: "AYA_LOGS" })?,
        })
    }
}

/// What the agent asks of the programs that tell. Clones are the same one.
#[derive(Clone)]
pub struct Polling(Arc<Mutex<Asked>>);

struct Asked {
    map: Array<MapData, u32>,
    value: u32,
}

impl std::fmt::Debug for Polling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Polling")
    }
}

impl Polling {
    fn new(map: Array<MapData, u32>) -> Self {
        Self(Arc::new(Mutex::new(Asked { map, value: 0 })))
    }

    /// Says whether the agent drains the flow ring by the clock.
    pub fn set(&self, polling: bool) -> Result<(), Error> {
        self.ask(1, polling)
    }

    /// Says whether both ends of a connection within the node shall tell of it.
    pub fn set_both_ends(&self, both: bool) -> Result<(), Error> {
        self.ask(2, both)
    }

    fn ask(&self, bit: u32, on: bool) -> Result<(), Error> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.value = if on { asked.value | bit } else { asked.value & !bit };
        let value = asked.value;
        asked.map.set(0, value, 0).map_err(map_error("POLLING"))
    }
}

/// A loaded program.
struct Loading {
    hook: Hook,
    fd: OwnedFd,
    /// Instructions that the verifier walked, where the kernel says.
    verified: Option<u32>,
}

/// The loaded programs.
pub(super) struct Programs(Vec<Loading>);

impl Programs {
    /// Attaches every program, or swaps it into the link that is there.
    pub(super) fn attach(&self, pins: &Path, cgroup: &Path) -> Result<(), Error> {
        let directory = File::open(cgroup).map_err(|source| Error::File {
            call: "open",
            path: cgroup.to_owned(),
            source,
        })?;
        for Loading { hook, fd, .. } in &self.0 {
            attach(*hook, fd, pins, &directory).map_err(|source| Error::Attach {
                program: hook.name,
                to: cgroup.to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// The TC programs, to be attached to devices.
    pub(super) fn border(&self) -> Result<Vec<(&'static str, OwnedFd)>, Error> {
        let border = self.0.iter().filter(|program| matches!(program.hook.place, Place::Border { .. }));
        border
            .map(|program| {
                let failed =
                    |source| Error::File { call: "dup", path: PathBuf::from(program.hook.name), source };
                Ok((program.hook.name, program.fd.try_clone().map_err(failed)?))
            })
            .collect()
    }

    pub(super) fn verified(&self) -> Vec<(&'static str, u32)> {
        self.0.iter().filter_map(|program| Some((program.hook.name, program.verified?))).collect()
    }

    /// Runs a program over a packet and returns what it returns.
    pub(super) fn run(&self, name: &'static str, packet: &[u8]) -> Result<u32, Error> {
        let program =
            self.0.iter().find(|program| program.hook.name == name).ok_or(Error::NoProgram { name })?;
        bpf::run(program.fd.as_fd(), packet).map_err(|source| Error::File {
            call: "run",
            path: PathBuf::from(name),
            source,
        })
    }
}

fn attach(hook: Hook, program: &OwnedFd, pins: &Path, cgroup: &File) -> io::Result<()> {
    let pin = pins.join(format!("link_{}", hook.name));
    match hook.place {
        // Which devices those are is found out later, and changes.
        Place::Border { .. } | Place::Nowhere => Ok(()),
        Place::Tracepoint(name) => {
            // Such a link cannot be given another program. The new one attaches before the old one goes.
            let link = bpf::attach_tracepoint(program.as_fd(), name)?;
            let fresh = pins.join(format!("new_{}", hook.name));
            remove_if_there(&fresh)?;
            bpf::pin(link.as_fd(), &fresh)?;
            fs::rename(&fresh, &pin)
        }
        Place::Cgroup(kind) if pin.exists() => {
            let link = bpf::open(&pin)?;
            match bpf::swap(link.as_fd(), program.as_fd()) {
                // The directory that it was attached to is gone, and the link with it.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                    fs::remove_file(&pin)?;
                    attach_new(kind, program, cgroup, &pin)
                }
                swapped => swapped,
            }
        }
        Place::Cgroup(kind) => attach_new(kind, program, cgroup, &pin),
    }
}

fn attach_new(kind: u32, program: &OwnedFd, cgroup: &File, pin: &Path) -> io::Result<()> {
    let link = bpf::attach(program.as_fd(), cgroup.as_fd(), kind)?;
    bpf::pin(link.as_fd(), pin)
}

fn load_object(config: &Config, pins: &Path) -> Result<Ebpf, Error> {
    let offsets = btf::offsets()?;
    let mut loader = EbpfLoader::new();
    // Nothing in the object asks for the kernel's types; keeping them would cost more memory than all the rest.
    loader.btf(None);
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    let level = log_level(&config.log);
    loader.override_global("AYA_LOG_LEVEL", &level, true);
    // One source's flood must leave room for everybody else.
    let share = u64::from(config.connections / 2);
    loader.override_global("UDP_SHARE", &share, true);
    loader
        .map_max_entries("IDENTITIES", CAPACITY.identities)
        .map_max_entries("ADDRESSES", CAPACITY.addresses)
        .map_max_entries("ROWS", CAPACITY.rows)
        .map_max_entries("PORT_SETS", CAPACITY.sets)
        .map_max_entries("CONNECTIONS", config.connections)
        .map_max_entries("UDP_FLOWS", config.connections)
        .map_max_entries("ANNOUNCED", config.connections)
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

/// Hands a program to the kernel's verifier. `None` when it is of a kind that we have none of.
pub fn verify(program: &mut Program) -> Option<Result<(), ProgramError>> {
    Some(match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return None,
    })
}

fn load_program(ebpf: &mut Ebpf, hook: Hook) -> Result<Loading, Error> {
    let name = hook.name;
    let failed = |source| Error::Load { name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(Error::NoProgram { name })?;
    verify(program).ok_or(Error::NoProgram { name })?.map_err(failed)?;
    let info = program.info().map_err(failed)?;
    let fd = info.fd().map_err(failed)?;
    let fd = fd.as_fd().try_clone_to_owned().map_err(|source| Error::File {
        call: "dup",
        path: PathBuf::from(name),
        source,
    })?;
    Ok(Loading { hook, fd, verified: info.verified_instruction_count() })
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, Error> {
    ebpf.take_map(name).ok_or(Error::NoMap { name })
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
