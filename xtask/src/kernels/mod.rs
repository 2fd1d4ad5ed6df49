//! The same programs on an older kernel: boots Debian's 6.1 under QEMU and runs a smoke test of enforcement there.
//!
//! The kernel, busybox and the virtual machine come as Debian packages; the first two are only unpacked. Emulation
//! is used on purpose: a /dev/kvm that exists and does not work hangs the guest.

mod cpio;
mod initramfs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::place::{Place, on_path};
use crate::process::{answer, step};
use crate::{apt, build};

/// Seconds for one whole run, with room for a busy machine.
const PATIENCE: &str = "600";

/// Options of `cargo xtask kernels`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Show the guest's console.
    #[arg(long)]
    verbose: bool,
    /// Use what is built already.
    #[arg(long, hide = true)]
    built: bool,
}

impl Options {
    /// For a caller that has built the agent.
    pub(crate) fn built() -> Self {
        Self { verbose: false, built: true }
    }
}

/// What is unpacked of a kernel package.
#[derive(Debug)]
struct Kernel {
    name: String,
    image: PathBuf,
    /// `lib/modules/RELEASE`.
    modules: PathBuf,
}

/// `cargo xtask kernels`.
pub(crate) fn run(place: &Place, options: &Options) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "kernels: only written for x86_64 so far");
    if !options.built {
        build::run(place, build::Profile::Debug)?;
    }
    if on_path("qemu-system-x86_64").is_none() {
        apt::install(place, &["qemu-system-x86"])?;
    }
    let home = place.target.join("kernels");
    let kernel = fetch(place, &home)?;
    let busybox = busybox(place, &home)?;
    let archive = initramfs::write(place, &home, &kernel.modules, &busybox)?;
    let console = boot(place, &kernel, &archive)?;
    if options.verbose {
        print!("{console}");
    }
    judge(&kernel, &console)
}

fn fetch(place: &Place, home: &Path) -> anyhow::Result<Kernel> {
    apt::update_if_unknown(place, &["linux-image-amd64"])?;
    let names =
        answer(Command::new("apt-cache").args(["pkgnames", "linux-image-6.1.0-"])).unwrap_or_default();
    let name = newest(&names).context("this release has no linux-image-6.1.0-*-amd64 to download")?;
    let root = home.join(&name);
    if !root.join("boot").is_dir() {
        let package = apt::download(place, &name, home)?;
        apt::unpack(&package, &root)?;
    }
    let image = only_entry(&root.join("boot"), "vmlinuz-")?;
    let modules = only_entry(&root.join("lib/modules"), "")?;
    Ok(Kernel { name, image, modules })
}

/// The package with the highest number of those without a special purpose: `linux-image-6.1.0-56-amd64`.
fn newest(names: &str) -> Option<String> {
    let number = |name: &str| {
        let middle = name.strip_prefix("linux-image-6.1.0-")?.strip_suffix("-amd64")?;
        middle.parse::<u32>().ok()
    };
    let numbered = names.lines().filter_map(|name| Some((number(name.trim())?, name.trim())));
    numbered.max().map(|(_, name)| name.to_owned())
}

fn busybox(place: &Place, home: &Path) -> anyhow::Result<PathBuf> {
    let root = home.join("busybox-static");
    let program = root.join("bin/busybox");
    if !program.is_file() {
        apt::unpack(&apt::download(place, "busybox-static", home)?, &root)?;
    }
    Ok(program)
}

fn only_entry(directory: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut found = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let entry = found.next().with_context(|| format!("no {prefix}* in {}", directory.display()))?;
    Ok(entry.path())
}

fn boot(place: &Place, kernel: &Kernel, archive: &Path) -> anyhow::Result<String> {
    let mut qemu = Command::new("timeout");
    qemu.args([
        "--kill-after=5",
        PATIENCE,
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
    ]);
    qemu.args(["-smp", "2", "-m", "1024", "-nographic", "-no-reboot", "-nic", "none", "-kernel"])
        .arg(&kernel.image);
    qemu.arg("-initrd").arg(archive);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off rdinit=/init"]);
    step(place, "kernels", &format!("booting {} under QEMU", kernel.name), &mut qemu)?;
    let console = fs::read(place.log("kernels")).context("read the console")?;
    Ok(String::from_utf8_lossy(&console).into_owned())
}

/// The guest says one of two lines; a guest that says neither has crashed.
fn judge(kernel: &Kernel, console: &str) -> anyhow::Result<()> {
    let said = |line: &str| console.lines().any(|found| found.trim_end() == line);
    for line in console.lines().filter(|line| line.starts_with("smoke: ")) {
        println!("  {line}");
    }
    if said("init: success") && !said("init: failure") {
        println!("{}: the smoke test passed", kernel.name);
        return Ok(());
    }
    let lines: Vec<&str> = console.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(60)) {
        // The firmware clears the screen; a log shall not.
        eprintln!("  {}", line.replace(|c: char| c.is_control() && c != '\t', ""));
    }
    bail!("{}: the smoke test failed", kernel.name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_taken() {
        let names = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-56-amd64\nlinux-image-6.1.0-57-rt-amd64\n\
                     linux-image-6.1.0-58-cloud-amd64\nlinux-image-6.1.0-56-amd64-dbg\n";
        assert_eq!(newest(names).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest(""), None);
    }
}
