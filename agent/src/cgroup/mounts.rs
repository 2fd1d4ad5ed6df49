//! What `/proc/self/mountinfo` says about cgroup hierarchies.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Error;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Which of its directories is mounted there, seen from the reader's cgroup namespace; `/` outside containers.
    pub root: String,
    /// The v1 controllers it has; `None` for cgroup v2.
    pub controllers: Option<Vec<String>>,
}

/// All cgroup hierarchies that are mounted, in the order of their mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// The hierarchies.
    pub all: Vec<Hierarchy>,
}

impl Mounts {
    /// Asks the kernel.
    pub fn read() -> Result<Self, Error> {
        let file = PathBuf::from("/proc/self/mountinfo");
        match fs::read_to_string(&file) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(source) => Err(Error::Mountinfo { file, source }),
        }
    }

    /// Reads the kernel's text. Lines that are no cgroup mounts, or malformed, are passed over.
    pub fn parse(mountinfo: &str) -> Self {
        Self { all: mountinfo.lines().filter_map(hierarchy).collect() }
    }

    /// The cgroup v2 mount that shows most: one whose root is the root, else the first.
    pub fn cgroup2(&self) -> Option<&Hierarchy> {
        let mut unified = self.all.iter().filter(|mount| mount.controllers.is_none());
        unified.clone().find(|mount| mount.root == "/").or_else(|| unified.next())
    }

    /// The cgroup v2 mount that holds `path`.
    pub fn cgroup2_of(&self, path: &Path) -> Option<&Hierarchy> {
        // The longest point wins, and of several mounts at one point the last, which covers the others.
        let holds = self.all.iter().filter(|mount| path.starts_with(&mount.point));
        let nearest = holds.max_by_key(|mount| mount.point.as_os_str().len())?;
        nearest.controllers.is_none().then_some(nearest)
    }

    /// Whether a v1 hierarchy is mounted.
    pub fn has_legacy(&self) -> bool {
        self.legacy().next().is_some()
    }

    /// The v1 hierarchies.
    pub fn legacy(&self) -> impl Iterator<Item = &Hierarchy> {
        self.all.iter().filter(|mount| mount.controllers.is_some())
    }
}

/// One line: number, parent, device, root, mount point, options, optional fields, `-`, type, source, options.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let root = String::from_utf8(unescape(front.next()?)).ok()?;
    let point = PathBuf::from(std::ffi::OsString::from_vec(unescape(front.next()?)));
    let mut back = back.split(' ');
    let controllers = match back.next()? {
        "cgroup2" => None,
        "cgroup" => {
            Some(back.nth(1)?.split(',').filter(|word| !is_option(word)).map(str::to_owned).collect())
        }
        _ => return None,
    };
    Some(Hierarchy { point, root, controllers })
}

/// Words among a v1 mount's options that name no controller.
fn is_option(word: &str) -> bool {
    matches!(word, "rw" | "ro" | "xattr" | "noprefix" | "clone_children" | "cpuset_v2_mode")
        || word.starts_with("release_agent=")
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.as_bytes();
    while let [first, rest @ ..] = bytes {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, rest) {
            out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            bytes = after;
        } else {
            out.push(*first);
            bytes = rest;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
36 31 0:36 / /sys/fs/cgroup/net rw - cgroup cgroup rw,net_cls,net_prio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn the_unified_hierarchy_is_found_on_unified_and_hybrid_hosts() {
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let cases = [(unified, "/sys/fs/cgroup", false), (HYBRID, "/sys/fs/cgroup/unified", true)];
        for (text, point, legacy) in cases {
            let mounts = Mounts::parse(text);
            assert_eq!(mounts.cgroup2().unwrap().point, Path::new(point));
            assert_eq!(mounts.has_legacy(), legacy, "{point}");
        }
        assert_eq!(Mounts::parse("garbage\n1 2 3 - cgroup2\n").cgroup2(), None);
    }

    #[test]
    fn controllers_are_told_from_options() {
        let mounts = Mounts::parse(HYBRID);
        let names: Vec<_> =
            mounts.legacy().map(|mount| mount.controllers.clone().unwrap().join(",")).collect();
        assert_eq!(names, ["memory", "net_cls,net_prio", "name=systemd"]);
    }

    #[test]
    fn the_mount_that_holds_a_path_is_the_nearest_one() {
        let mounts = Mounts::parse(HYBRID);
        let point = |path: &str| mounts.cgroup2_of(Path::new(path)).map(|mount| mount.point.clone());
        assert_eq!(point("/sys/fs/cgroup/unified/a"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(point("/sys/fs/cgroup/memory/a"), None);
        assert_eq!(point("/tmp"), None);
    }

    #[test]
    fn a_mount_of_a_part_is_used_only_when_there_is_no_whole_one() {
        let part = "1 2 0:1 /a /mnt/part rw - cgroup2 none rw\n";
        let whole = "1 2 0:1 / /mnt/wh\\040ole rw - cgroup2 none rw\n";
        assert_eq!(Mounts::parse(part).cgroup2().unwrap().root, "/a");
        assert_eq!(
            Mounts::parse(&format!("{part}{whole}")).cgroup2().unwrap().point,
            Path::new("/mnt/wh ole")
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(?s)[ -~\\n\\\\]{0,200}") {
            Mounts::parse(&text);
        }
    }
}
