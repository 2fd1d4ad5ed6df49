//! `waxseal doctor`: what the kernel offers, found by trying, never by version number.

use std::fs;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};

use super::object::{HOOKS, OBJECT};
use super::{Kernel, btf};
use crate::config::Config;
use crate::report::Check;

/// Everything that the datapath needs, in the order in which it needs it. Loads the programs to see whether the verifier
/// takes them, and attaches nothing.
pub fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![privileges(), object(), types(), unprivileged_bpf(), bpffs(config)];
    checks.extend(features());
    checks.push(programs(config));
    checks.push(neighbours());
    checks.push(fast_open());
    checks
}

fn privileges() -> Check {
    let name = "privileges";
    if nix::unistd::geteuid().is_root() {
        Check::ok(name, "running as root")
    } else {
        Check::fail(name, "not running as root", "run with sudo")
    }
}

fn object() -> Check {
    let name = "kernel programs";
    if OBJECT.is_empty() {
        return Check::fail(name, "this build holds none", "build with `cargo xtask build`");
    }
    Check::ok(name, format!("{} programs, {} bytes", HOOKS.len(), OBJECT.len()))
}

fn types() -> Check {
    let name = "kernel BTF";
    match btf::offsets() {
        Ok(offsets) => {
            let offsets: Vec<String> =
                offsets.iter().map(|(name, offset)| format!("{name}={offset}")).collect();
            Check::ok(name, offsets.join(" "))
        }
        Err(error) => Check::fail(name, error.to_string(), "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
    }
}

fn unprivileged_bpf() -> Check {
    let name = "unprivileged bpf";
    let path = "/proc/sys/kernel/unprivileged_bpf_disabled";
    match fs::read_to_string(path).as_deref().map(str::trim) {
        Ok("0") => Check::warn(
            name,
            "any user may load BPF programs",
            "sysctl -w kernel.unprivileged_bpf_disabled=1",
        ),
        Ok(_) => Check::ok(name, "disabled"),
        Err(error) => {
            Check::warn(name, format!("cannot read {path}: {error}"), "check the kernel's configuration")
        }
    }
}

fn bpffs(config: &Config) -> Check {
    let name = "bpffs";
    let path = config.bpffs.display();
    match nix::sys::statfs::statfs(&config.bpffs).map(|stat| stat.filesystem_type()) {
        Ok(nix::sys::statfs::BPF_FS_MAGIC) => Check::ok(name, format!("mounted at {path}")),
        _ => Check::ok(name, format!("not mounted at {path}; the agent mounts it")),
    }
}

fn features() -> Vec<Check> {
    let programs = [
        (ProgramType::CgroupSkb, "cgroup_skb"),
        (ProgramType::CgroupSockAddr, "cgroup_sock_addr"),
        (ProgramType::SockOps, "sock_ops"),
        (ProgramType::RawTracePoint, "raw_tracepoint"),
    ];
    let maps = [(MapType::RingBuf, "ring buffer"), (MapType::LpmTrie, "LPM trie"), (MapType::Hash, "hash")];
    let verdict = |name: String, supported: Option<bool>| match supported {
        Some(true) => Check::ok(name, "supported"),
        Some(false) => Check::fail(name, "this kernel does not have it", "use Linux 6.1 or later"),
        None => Check::warn(name, "cannot be probed", "run with sudo"),
    };
    let programs = programs
        .into_iter()
        .map(|(kind, name)| verdict(format!("program type {name}"), is_program_supported(kind).ok()));
    let maps =
        maps.into_iter().map(|(kind, name)| verdict(format!("map type {name}"), is_map_supported(kind).ok()));
    programs.chain(maps).collect()
}

/// Loads every program under an instance name that no agent can have, and takes it away again.
fn programs(config: &Config) -> Check {
    let name = "verifier";
    let scratch = Config { instance: format!("DOCTOR_{}", std::process::id()), ..config.clone() };
    let loaded = Kernel::open(&scratch, Path::new("/"));
    let removed = super::uninstall(&scratch);
    match (loaded, removed) {
        (Ok(kernel), Ok(_)) => {
            let counts: Vec<String> =
                kernel.verified().iter().map(|(name, count)| format!("{name}={count}")).collect();
            Check::ok(name, format!("instructions walked: {}", counts.join(" ")))
        }
        (Ok(_), Err(error)) => Check::warn(name, error.to_string(), "remove the directory by hand"),
        (Err(error), _) => Check::fail(name, error.to_string(), "see the reason; the floor is Linux 6.1"),
    }
}

/// Other users of the hooks, who may overrule or starve ours.
fn neighbours() -> Check {
    let name = "conflicts";
    let others: Vec<String> = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter_map(|program| program.name_as_str().map(str::to_owned))
        .filter(|program| program.starts_with("cil_") || program.starts_with("cali_"))
        .collect();
    if others.is_empty() {
        Check::ok(name, "no other policy engine's programs are loaded")
    } else {
        let others: std::collections::BTreeSet<String> = others.into_iter().collect();
        let list = others.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        Check::warn(
            name,
            format!("another policy engine is loaded: {}", crate::escape::escape(&list)),
            "both will judge; a denial by either denies",
        )
    }
}

fn fast_open() -> Check {
    let name = "TCP Fast Open";
    let client = fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen")
        .ok()
        .and_then(|value| value.trim().parse::<u32>().ok())
        .is_some_and(|value| value & 1 != 0);
    if client {
        Check::warn(
            name,
            "clients may use it; a SYN with data and cookie has no room for the seal and is sent again without data",
            "sysctl -w net.ipv4.tcp_fastopen=0 saves those a second",
        )
    } else {
        Check::ok(name, "off for clients")
    }
}
