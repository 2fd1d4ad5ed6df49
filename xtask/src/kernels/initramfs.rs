//! What the guest finds: the agent, `ip`, busybox, their libraries, one kernel module, the smoke test as /init.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::cpio::Archive;
use crate::place::{Place, on_path};
use crate::process::answer;

/// Directories the guest mounts on or writes to.
const DIRECTORIES: &[&str] = &["proc", "sys", "dev", "tmp", "run", "var/lib", "cgroup"];
/// Modules of the distribution's kernel that the smoke test needs, below `kernel/`.
const MODULES: &[&str] = &["drivers/net/veth.ko"];

/// Writes the archive and returns where it is.
pub(super) fn write(place: &Place, home: &Path, modules: &Path, busybox: &Path) -> anyhow::Result<PathBuf> {
    let path = home.join("initramfs.cpio");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    archive.program("init", include_bytes!("../../kernels/init.sh"))?;
    archive.data("etc/waxseal/policies/smoke.yaml", include_bytes!("../../kernels/smoke.yaml"))?;
    archive.program("bin/busybox", &read(busybox)?)?;

    let agent = stripped(&place.binary("debug", "waxseal"), home)?;
    let ip = on_path("ip").context("`ip` (iproute2) is missing")?;
    archive.program("bin/waxseal", &read(&agent)?)?;
    archive.program("sbin/ip", &read(&ip)?)?;
    for library in libraries(&[&agent, &ip]) {
        archive.program(&library.display().to_string(), &read(&library)?)?;
    }
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.data(&format!("modules/{name}"), &read(&modules.join("kernel").join(module))?)?;
    }
    archive.finish().with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Without debug lines the guest unpacks it in half the time. Where no `strip` is, it is taken as it is.
fn stripped(program: &Path, home: &Path) -> anyhow::Result<PathBuf> {
    let copy = home.join("waxseal");
    fs::copy(program, &copy).with_context(|| format!("copy {}", program.display()))?;
    let _ = Command::new("strip").arg(&copy).output();
    Ok(copy)
}

/// The shared libraries of some programs, loader included.
fn libraries(programs: &[&Path]) -> BTreeSet<PathBuf> {
    let lists = programs.iter().filter_map(|program| answer(Command::new("ldd").arg(program)));
    lists.flat_map(|list| list.lines().filter_map(library).collect::<Vec<_>>()).collect()
}

/// `libc.so.6 => /lib/x/libc.so.6 (0x1)`, or `/lib64/ld-linux-x86-64.so.2 (0x1)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split(" => ").last()?.trim().split(" (").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let cases = [
            ("\tlinux-vdso.so.1 (0x00)", None),
            ("\tlibc.so.6 => /lib/x/libc.so.6 (0x00)", Some("/lib/x/libc.so.6")),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00)", Some("/lib64/ld-linux-x86-64.so.2")),
        ];
        for (line, expected) in cases {
            assert_eq!(library(line), expected.map(PathBuf::from), "{line}");
        }
    }
}
