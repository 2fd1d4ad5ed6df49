//! What the path of a cgroup says about its unit and its container.
//!
//! A path is partly the workload's own text: who may make directories below its cgroup can name them as it likes. So
//! each reading stops where foreign hands may begin, at a user's service manager and at a container.

/// How many hexadecimal digits a container id has.
const ID_LENGTH: usize = 64;

/// The systemd units that a path lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Units<'a> {
    /// The system's unit.
    pub(super) system: &'a str,
    /// A unit of a user's own service manager: the user's number and the unit. That user chose the name.
    pub(super) user: Option<(u32, &'a str)>,
}

/// The units of a path: as for systemd itself, the first segment that is no slice; what is below belongs to the unit.
/// `None` when there is none, or only below a container.
pub(super) fn units(path: &str) -> Option<Units<'_>> {
    let mut segments = path.split('/');
    let system = unit(&mut segments)?;
    let manager = system.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service")?.parse().ok());
    let user = manager.and_then(|uid| Some((uid, unit(&mut segments)?)));
    Some(Units { system, user })
}

fn unit<'a>(segments: &mut impl Iterator<Item = &'a str>) -> Option<&'a str> {
    for segment in segments {
        if [".service", ".scope"].iter().any(|kind| segment.ends_with(kind)) {
            return Some(segment);
        }
        // A system container runs a service manager of its own, whose units are no units of this host.
        if container_id(segment).is_some() || segment == "lxc" || segment.starts_with("lxc.") {
            return None;
        }
    }
    None
}

/// Which program made a container, as far as its path tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd or CRI-O under Kubernetes; they have no HTTP interface.
    Kubernetes,
    /// The path does not say.
    Any,
}

/// A container as a cgroup path names it. The path only claims it; the engine must confirm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerClaim {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Who may know it.
    pub engine: Engine,
    /// The user whose service manager runs it; `None` for the system's own.
    pub user: Option<u32>,
}

/// The container whose own directory this is. The directories below one are its own affair and inherit.
pub(super) fn container(path: &str) -> Option<ContainerClaim> {
    let (parents, last) = path.rsplit_once('/')?;
    let (engine, id) = container_id(last)?;
    let engine = match engine {
        Engine::Any if parents.ends_with("/docker") => Engine::Docker,
        Engine::Any if parents.contains("/kubepods") => Engine::Kubernetes,
        engine => engine,
    };
    let user = parents
        .split('/')
        .find_map(|part| part.strip_prefix("user@")?.strip_suffix(".service")?.parse().ok());
    Some(ContainerClaim { id: id.to_owned(), engine, user })
}

fn container_id(segment: &str) -> Option<(Engine, &str)> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let prefixes = [
        ("docker-", Engine::Docker),
        ("libpod-", Engine::Podman),
        ("cri-containerd-", Engine::Kubernetes),
        ("crio-", Engine::Kubernetes),
    ];
    let found = prefixes.iter().find_map(|(prefix, engine)| Some((*engine, name.strip_prefix(prefix)?)));
    let (engine, id) = found.unwrap_or((Engine::Any, name));
    let genuine = id.len() == ID_LENGTH && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    genuine.then_some((engine, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_first_segment_that_is_no_slice() {
        let id = "a".repeat(64);
        let in_container = format!("/docker/{id}/system.slice/web.service");
        let scope = format!("/system.slice/docker-{id}.scope/web.service");
        let cases = [
            ("/system.slice/web.service", Some("web.service"), None),
            ("/system.slice/web.service/sub/other.service", Some("web.service"), None),
            ("/system.slice/system-web.slice/web@1.service", Some("web@1.service"), None),
            ("/test/web.service", Some("web.service"), None),
            ("/lxc.payload.guest/system.slice/web.service", None, None),
            ("/lxc/guest/system.slice/web.service", None, None),
            ("/system.slice", None, None),
            ("/", None, None),
            (&in_container, None, None),
            (&scope, Some(scope.split('/').nth(2).unwrap()), None),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/web.service/x.scope",
                Some("user@7.service"),
                Some((7, "web.service")),
            ),
            ("/user.slice/user-7.slice/session-1.scope", Some("session-1.scope"), None),
        ];
        for (path, system, user) in cases {
            let found = units(path);
            assert_eq!(found.map(|units| units.system), system, "{path}");
            assert_eq!(found.and_then(|units| units.user), user, "{path}");
        }
    }

    #[test]
    fn every_engine_s_layout_names_its_container() {
        let id = &"0123456789abcdef".repeat(4);
        let cases = [
            (format!("/system.slice/docker-{id}.scope"), Some((Engine::Docker, None))),
            (format!("/docker/{id}"), Some((Engine::Docker, None))),
            (format!("/machine.slice/libpod-{id}.scope"), Some((Engine::Podman, None))),
            (format!("/libpod_parent/libpod-{id}"), Some((Engine::Podman, None))),
            (
                format!("/user.slice/user-7.slice/user@7.service/user.slice/libpod-{id}.scope"),
                Some((Engine::Podman, Some(7))),
            ),
            (
                format!("/kubepods.slice/pod1.slice/cri-containerd-{id}.scope"),
                Some((Engine::Kubernetes, None)),
            ),
            (format!("/kubepods.slice/pod1.slice/crio-{id}.scope"), Some((Engine::Kubernetes, None))),
            (format!("/kubepods/burstable/pod1/{id}"), Some((Engine::Kubernetes, None))),
            (format!("/some/{id}"), Some((Engine::Any, None))),
            (format!("/kubepods.slice/crio-conmon-{id}.scope"), None),
            (format!("/machine.slice/libpod-conmon-{id}.scope"), None),
            (format!("/docker/{id}/child"), None),
            (format!("/docker/{id}0"), None),
            (format!("/docker/{}", id.to_uppercase()), None),
            ("/docker".to_owned(), None),
            ("/".to_owned(), None),
        ];
        for (path, expected) in cases {
            let found = container(&path);
            assert_eq!(found.as_ref().map(|claim| (claim.engine, claim.user)), expected, "{path}");
            assert!(found.is_none_or(|claim| claim.id == *id), "{path}");
        }
    }
}
