//! The border to other nodes: which devices lead there, and the TC programs at each of them.

mod attach;
mod devices;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use aya::maps::{HashMap, MapData};

use super::Error;
use super::kernel::map_error;
use super::object::{HOOKS, Place};
use attach::Attachment;
use devices::Device;
pub use devices::Reach;
use waxseal_common::wire;

/// One TC program.
struct Program {
    name: &'static str,
    ingress: bool,
    ethernet: bool,
    fd: OwnedFd,
}

/// A device that has the programs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Covered {
    /// Its name.
    pub name: String,
    /// How far it leads.
    pub reach: Reach,
}

/// The programs at the border. Works in the network namespace of this process.
pub struct Border {
    programs: Vec<Program>,
    covered: HashMap<MapData, u32, u32>,
    pins: PathBuf,
    named: BTreeSet<String>,
    /// Devices without routes over which a sealed SYN wanted to leave.
    asked: BTreeSet<u32>,
    devices: BTreeMap<u32, Covered>,
    /// Devices that cannot be covered, with the reason: told once.
    failed: BTreeMap<u32, String>,
}

impl std::fmt::Debug for Border {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Border").field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl Border {
    pub(super) fn new(
        programs: impl Iterator<Item = (&'static str, OwnedFd)>,
        covered: HashMap<MapData, u32, u32>,
        pins: PathBuf,
        named: BTreeSet<String>,
    ) -> Self {
        let place = |name| HOOKS.iter().find(|hook| hook.name == name).map(|hook| hook.place);
        let programs = programs
            .filter_map(|(name, fd)| match place(name) {
                Some(Place::Border { ingress, ethernet }) => Some(Program { name, ingress, ethernet, fd }),
                _ => None,
            })
            .collect();
        Self {
            programs,
            covered,
            pins,
            named,
            asked: BTreeSet::new(),
            devices: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// The devices that have the programs.
    pub fn devices(&self) -> impl Iterator<Item = &Covered> {
        self.devices.values()
    }

    /// Covers a device that has no routes of its own, for a sealed SYN wanted to leave by it.
    pub fn ask(&mut self, device: u32) -> Result<(), Error> {
        if self.asked.insert(device) { self.refresh() } else { Ok(()) }
    }

    /// Looks at devices and routes, and gives the programs to every device that leads out and has none. A device that
    /// cannot have them is left uncovered: no sealed SYN leaves by it, and none that comes in is believed.
    pub fn refresh(&mut self) -> Result<(), Error> {
        let failed =
            |source| Error::File { call: "list the devices by", path: "/proc/net/route".into(), source };
        let reaches = devices::reaches(&self.named).map_err(failed)?;
        let all = devices::all().map_err(failed)?;
        self.forget_gone(&all)?;
        for device in &all {
            let asked = self.asked.contains(&device.index).then_some(Reach::Inner);
            let Some(reach) = reaches.get(&device.name).copied().or(asked) else { continue };
            self.cover(device, reach)?;
        }
        Ok(())
    }

    fn cover(&mut self, device: &Device, reach: Reach) -> Result<(), Error> {
        let wanted = Covered { name: device.name.clone(), reach };
        if self.devices.get(&device.index) == Some(&wanted) || self.failed.contains_key(&device.index) {
            return Ok(());
        }
        let new = !self.devices.contains_key(&device.index);
        if new && let Err(error) = self.attach(device) {
            tracing::error!(device = device.name, %error, "a device cannot be covered: nothing sealed passes there");
            self.failed.insert(device.index, error.to_string());
            return Ok(());
        }
        // An uplink for once stays one: a route that comes and goes opens nothing.
        let value = match reach {
            Reach::Inner => wire::Device::INNER,
            Reach::Uplink => wire::Device::UPLINK,
        };
        self.covered.insert(device.index, value, 0).map_err(map_error("COVERED"))?;
        tracing::info!(device = device.name, ?reach, "device covered");
        self.devices.insert(device.index, wanted);
        Ok(())
    }

    fn attach(&self, device: &Device) -> io::Result<()> {
        let ethernet =
            device.ethernet.ok_or_else(|| io::Error::other("its kind of link header is not known"))?;
        for program in self.programs.iter().filter(|program| program.ethernet == ethernet) {
            let Program { name, ingress, fd, .. } = program;
            Attachment { device, program: fd, name, ingress: *ingress, pins: &self.pins }.attach()?;
        }
        Ok(())
    }

    fn forget_gone(&mut self, all: &[Device]) -> Result<(), Error> {
        let there: BTreeSet<u32> = all.iter().map(|device| device.index).collect();
        let pinned = self.covered.keys().filter_map(Result::ok).filter(|index| !there.contains(index));
        for index in pinned.collect::<Vec<u32>>() {
            self.covered.remove(&index).map_err(map_error("COVERED"))?;
            for program in &self.programs {
                let _ = fs::remove_file(self.pins.join(attach::link_pin(program.name, index)));
            }
        }
        self.devices.retain(|index, _| there.contains(index));
        self.failed.retain(|index, _| there.contains(index));
        self.asked.retain(|index| there.contains(index));
        Ok(())
    }
}

/// Takes the classifiers of older kernels off every device; newer ones go with their pins.
pub(super) fn uninstall(pins: &Path) {
    if !pins.exists() {
        return;
    }
    for device in devices::all().unwrap_or_default() {
        attach::detach(&device.name);
    }
}
