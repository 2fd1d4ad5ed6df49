//! Attaches the TC programs to one device: by TCX where the kernel has it (6.6), else as classifiers of a clsact qdisc.
//! Both survive the agent, and both are replaced without a gap.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType};

use super::Device;
use crate::datapath::bpf;

// enum bpf_attach_type
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// The two places that the classifiers of this program take turns in: the new one is there before the old one goes.
const PRIORITIES: [u16; 2] = [7461, 7462];
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// One program for one device.
pub(super) struct Attachment<'a> {
    pub(super) device: &'a Device,
    pub(super) program: &'a OwnedFd,
    pub(super) name: &'static str,
    pub(super) ingress: bool,
    pub(super) pins: &'a Path,
}

impl Attachment<'_> {
    fn pin(&self) -> PathBuf {
        self.pins.join(link_pin(self.name, self.device.index))
    }

    /// Attaches, or swaps into the link that is there.
    pub(super) fn attach(&self) -> io::Result<()> {
        let pin = self.pin();
        if pin.exists() {
            let link = bpf::open(&pin)?;
            match bpf::swap(link.as_fd(), self.program.as_fd()) {
                // The device of that number is gone.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => fs::remove_file(&pin)?,
                swapped => return swapped,
            }
        }
        let kind = if self.ingress { TCX_INGRESS } else { TCX_EGRESS };
        match bpf::attach_device(self.program.as_fd(), self.device.index, kind) {
            Ok(link) => bpf::pin(link.as_fd(), &pin),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.attach_classifier(),
            Err(error) => Err(error),
        }
    }

    fn direction(&self) -> TcAttachType {
        if self.ingress { TcAttachType::Ingress } else { TcAttachType::Egress }
    }

    fn attach_classifier(&self) -> io::Result<()> {
        // It may be there already, for somebody else.
        let _ = qdisc_add_clsact(&self.device.name);
        let pin = self.pins.join(format!("prog_{}", self.name));
        if !pin.exists() {
            bpf::pin(self.program.as_fd(), &pin)?;
        }
        let mut program = SchedClassifier::from_pin(&pin).map_err(io::Error::other)?;
        fs::remove_file(&pin)?;
        let mut last = None;
        for (priority, other) in [(PRIORITIES[0], PRIORITIES[1]), (PRIORITIES[1], PRIORITIES[0])] {
            let options = TcAttachOptions::Netlink(NlOptions { priority, handle: HANDLE, classid: None });
            match program.attach_with_options(&self.device.name, self.direction(), options) {
                Ok(link) => {
                    // What is dropped is detached; this one stays.
                    std::mem::forget(program.take_link(link).map_err(io::Error::other)?);
                    detach_classifier(&self.device.name, self.direction(), other);
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| io::Error::other("no place for a classifier"), io::Error::other))
    }
}

/// The name of the pinned link of a program at a device.
pub(super) fn link_pin(program: &str, device: u32) -> String {
    format!("link_{program}_{device}")
}

fn detach_classifier(device: &str, direction: TcAttachType, priority: u16) {
    // Dropping the link detaches; that there was none is no matter.
    drop(SchedClassifierLink::attached(device, direction, priority, HANDLE, None));
}

/// Takes the classifiers off a device, where there are some.
pub(super) fn detach(device: &str) {
    for priority in PRIORITIES {
        detach_classifier(device, TcAttachType::Ingress, priority);
        detach_classifier(device, TcAttachType::Egress, priority);
    }
}
