//! The competitors. What this machine lacks is fetched as Debian packages and only unpacked below the build directory:
//! nothing is installed, and no service of this machine starts. Without packages they are left out of the comparison.

use std::path::{Path, PathBuf};

use crate::apt;
use crate::place::{Place, is_program, on_path};

/// Each program, the package that has it, and what its package brings that is needed besides.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("usr/sbin/haproxy", &["haproxy"]),
    ("usr/lib/nginx/modules/ngx_stream_module.so", &["nginx-light", "libnginx-mod-stream"]),
    ("usr/bin/stunnel4", &["stunnel4"]),
];
/// What the harness itself calls.
const TOOLS: &[(&str, &str)] = &[("ip", "iproute2"), ("nsenter", "util-linux"), ("nft", "nftables")];

/// Where packages are unpacked.
pub(super) fn root(place: &Place) -> PathBuf {
    place.target.join("bench-programs/root")
}

/// Fetches what is missing.
pub(super) fn fetch(place: &Place) -> anyhow::Result<()> {
    let tools: Vec<&str> =
        TOOLS.iter().filter(|(tool, _)| !found(tool)).map(|(_, package)| *package).collect();
    if !tools.is_empty() {
        apt::install(place, &tools)?;
    }
    let root = root(place);
    let have = |path: &&str| Path::new("/").join(path).is_file() || root.join(path).is_file();
    let missing = PROGRAMS.iter().filter(|(path, _)| !have(path)).flat_map(|(_, packages)| *packages);
    let missing: Vec<&str> = missing.copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    if on_path("apt-get").is_none() {
        eprintln!(
            "no apt-get here: {} are left out of the comparison unless you install them",
            missing.join(", ")
        );
        return Ok(());
    }
    for package in apt::fetch(place, &missing, &place.target.join("bench-programs/packages"))? {
        apt::unpack(&package, &root)?;
    }
    Ok(())
}

/// A user's `PATH` may lack the directories of tools for root.
fn found(tool: &str) -> bool {
    on_path(tool).is_some()
        || ["/usr/sbin", "/sbin"].iter().any(|place| is_program(&Path::new(place).join(tool)))
}
