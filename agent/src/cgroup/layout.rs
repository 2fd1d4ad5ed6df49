//! Whether the host's cgroup layout can carry identities, for `waxseal doctor`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::mounts::Mounts;
use crate::escape::escape;
use crate::report::Check;

/// How many processes a check names at most.
const EXAMPLES: usize = 3;

/// Looks at the mounts and at every process's place in them.
pub fn layout_checks() -> Vec<Check> {
    let mounts = match Mounts::read() {
        Ok(mounts) => mounts,
        Err(error) => return vec![Check::fail("cgroup v2", error.to_string(), "mount /proc")],
    };
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    checks(&mounts, &release, &placements(Path::new("/proc")))
}

/// Where one process is: its number and the lines of its `/proc/PID/cgroup`.
type Placement = (u32, String);

fn placements(proc: &Path) -> Vec<Placement> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let read = |pid: u32| Some((pid, fs::read_to_string(proc.join(format!("{pid}/cgroup"))).ok()?));
    pids.filter_map(read).collect()
}

fn checks(mounts: &Mounts, release: &str, placements: &[Placement]) -> Vec<Check> {
    let mut checks = vec![unified(mounts)];
    if let Some(mount) = mounts.cgroup2().filter(|mount| mount.root != "/") {
        checks.push(Check::warn(
            "cgroup namespace",
            format!("only {} is visible, not the host's whole hierarchy", escape(&mount.root)),
            "run the agent in the host's cgroup namespace",
        ));
    }
    checks.push(hybrid(mounts));
    if mounts.has_legacy() {
        checks.push(shared(placements));
    }
    checks.extend(tagging(mounts, release));
    checks
}

fn unified(mounts: &Mounts) -> Check {
    match mounts.cgroup2() {
        Some(mount) => {
            Check::ok("cgroup v2", format!("mounted at {}", escape(&mount.point.to_string_lossy())))
        }
        None => Check::fail(
            "cgroup v2",
            "no cgroup v2 hierarchy is mounted; identities belong to its directories",
            "boot with systemd.unified_cgroup_hierarchy=1, or: mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn hybrid(mounts: &Mounts) -> Check {
    let names: Vec<String> =
        mounts.legacy().flat_map(|mount| mount.controllers.clone().unwrap_or_default()).collect();
    if names.is_empty() {
        return Check::ok("cgroup v1", "no v1 hierarchy is mounted");
    }
    Check::warn(
        "cgroup v1",
        format!("hybrid host: v1 hierarchies hold {}", escape(&names.join(", "))),
        "place workloads in cgroup v2 directories, or boot with systemd.unified_cgroup_hierarchy=1",
    )
}

/// Processes that only v1 tells apart: to the kernel's v2 hooks they are all the root.
fn shared(placements: &[Placement]) -> Check {
    let mut lost: Vec<(u32, &str)> = Vec::new();
    for (pid, text) in placements {
        let in_root = text.lines().any(|line| line == "0::/");
        let elsewhere = text.lines().filter_map(legacy_path).find(|path| *path != "/");
        if let (true, Some(path)) = (in_root, elsewhere) {
            lost.push((*pid, path));
        }
    }
    if lost.is_empty() {
        return Check::ok("workloads in cgroup v2", "no process is placed by v1 hierarchies alone");
    }
    let examples: BTreeSet<String> =
        lost.iter().take(EXAMPLES).map(|(pid, path)| format!("pid {pid} in {}", escape(path))).collect();
    let examples = examples.into_iter().collect::<Vec<_>>().join(", ");
    let detail = format!(
        "{} processes are in the v2 root and told apart only by v1 ({examples}); no identity can be theirs",
        lost.len()
    );
    let cure =
        "give each its own cgroup v2 directory; for containers use the cgroup v2 driver of their engine";
    if lost.iter().any(|(_, path)| path.split('/').any(has_container_id)) {
        Check::fail("workloads in cgroup v2", detail, cure)
    } else {
        Check::warn("workloads in cgroup v2", detail, cure)
    }
}

/// The path of a v1 line of `/proc/PID/cgroup`.
fn legacy_path(line: &str) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (number, _, path) = (fields.next()?, fields.next()?, fields.next()?);
    (number != "0").then_some(path)
}

fn has_container_id(segment: &str) -> bool {
    segment.split(['-', '.']).any(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Before Linux 5.15 a socket that a net_cls or net_prio group tags loses its v2 cgroup and is taken for the root's.
fn tagging(mounts: &Mounts, release: &str) -> Option<Check> {
    let mut controllers = mounts.legacy().filter_map(|mount| mount.controllers.as_ref()).flatten();
    let controller = controllers.find(|name| matches!(name.as_str(), "net_cls" | "net_prio"))?;
    let name = "cgroup v1 socket tags";
    if version(release)? >= (5, 15) {
        return Some(Check::ok(
            name,
            format!("{controller} is mounted; this kernel keeps the v2 cgroup beside it"),
        ));
    }
    Some(Check::fail(
        name,
        format!(
            "{controller} is mounted and Linux {} drops the v2 cgroup of sockets it tags",
            escape(release)
        ),
        format!("unmount the {controller} hierarchy or use Linux 5.15 or newer"),
    ))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    const UNIFIED: &str = "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n";
    const LEGACY: &str = "1 2 0:1 / /sys/fs/cgroup/x rw - cgroup none rw,";

    fn statuses(mountinfo: &str, release: &str, processes: &[&str]) -> Vec<(String, Status)> {
        let placements: Vec<_> = (1..).zip(processes.iter().map(|text| (*text).to_owned())).collect();
        let checks = checks(&Mounts::parse(mountinfo), release, &placements);
        checks.into_iter().map(|check| (check.name, check.status)).collect()
    }

    #[test]
    fn every_layout_has_its_verdict() {
        let container = format!("5:memory:/docker/{}\n0::/\n", "a".repeat(64));
        let hybrid = format!("{UNIFIED}{LEGACY}memory\n");
        let tagged = format!("{UNIFIED}{LEGACY}net_cls\n");
        let cases: [(&str, &str, &[&str], &str, Status); 9] = [
            (UNIFIED, "6.1.0", &[], "cgroup v2", Status::Ok),
            (UNIFIED, "6.1.0", &[], "cgroup v1", Status::Ok),
            ("", "6.1.0", &[], "cgroup v2", Status::Fail),
            (&hybrid, "6.1.0", &[], "cgroup v1", Status::Warn),
            (
                &hybrid,
                "6.1.0",
                &["5:memory:/\n0::/\n", "5:memory:/a\n0::/a\n"],
                "workloads in cgroup v2",
                Status::Ok,
            ),
            (&hybrid, "6.1.0", &["5:memory:/a\n0::/\n"], "workloads in cgroup v2", Status::Warn),
            (&hybrid, "6.1.0", &[&container], "workloads in cgroup v2", Status::Fail),
            (&tagged, "5.10.0-9-amd64", &[], "cgroup v1 socket tags", Status::Fail),
            (&tagged, "6.18.44-x", &[], "cgroup v1 socket tags", Status::Ok),
        ];
        for (mounts, release, processes, name, expected) in cases {
            let found = statuses(mounts, release, processes);
            let status = found.iter().find(|(check, _)| check == name).map(|(_, status)| *status);
            assert_eq!(status, Some(expected), "{name} on {mounts} {release} {processes:?}: {found:?}");
        }
    }

    #[test]
    fn a_mount_of_a_part_of_the_hierarchy_is_pointed_out() {
        let found = statuses("1 2 0:1 /../.. /sys/fs/cgroup rw - cgroup2 none rw\n", "6.1", &[]);
        assert!(found.contains(&("cgroup namespace".to_owned(), Status::Warn)), "{found:?}");
    }

    #[test]
    fn this_host_can_be_checked() {
        assert!(!layout_checks().is_empty());
    }
}
