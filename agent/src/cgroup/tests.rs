use std::fs::create_dir_all;

use super::*;

fn tree(directories: &[&str]) -> (tempfile::TempDir, Tree) {
    let mount = tempfile::tempdir().unwrap();
    for directory in directories {
        create_dir_all(mount.path().join(directory)).unwrap();
    }
    let tree = Tree::at(mount.path(), mount.path());
    (mount, tree)
}

fn paths(scan: &Scan) -> Vec<&str> {
    let mut paths: Vec<&str> = scan.cgroups.iter().map(|cgroup| cgroup.path.as_str()).collect();
    paths.sort_unstable();
    paths
}

#[test]
fn a_scan_finds_every_directory_with_its_number() {
    let (mount, tree) = tree(&["a.slice/b.service/c", "d"]);
    fs::write(mount.path().join("cgroup.procs"), "").unwrap();
    let scan = tree.scan().unwrap();
    assert!(scan.complete);
    assert_eq!(paths(&scan), ["/", "/a.slice", "/a.slice/b.service", "/a.slice/b.service/c", "/d"]);
    for cgroup in &scan.cgroups {
        assert_eq!(tree.id_of(&cgroup.path).unwrap(), cgroup.id, "{}", cgroup.path);
        assert_eq!(tree.path_of(cgroup.id).unwrap().as_deref(), Some(cgroup.path.as_str()));
    }
}

#[test]
fn a_scan_of_a_subtree_shows_paths_from_the_mount() {
    let (mount, _) = tree(&["a/b/c", "d"]);
    let subtree = Tree::at(mount.path(), &mount.path().join("a"));
    assert_eq!(paths(&subtree.scan().unwrap()), ["/a", "/a/b", "/a/b/c"]);
}

#[test]
fn parents_come_before_their_children() {
    let (_mount, tree) = tree(&["a/b/c", "a/d", "e/f"]);
    let scan = tree.scan().unwrap();
    for (index, cgroup) in scan.cgroups.iter().enumerate().skip(1) {
        let (parent, _) = cgroup.path.rsplit_once('/').unwrap();
        let parent = if parent.is_empty() { "/" } else { parent };
        assert!(scan.cgroups[..index].iter().any(|other| other.path == parent), "{}", cgroup.path);
    }
}

#[test]
fn symbolic_links_are_no_cgroups() {
    let (mount, tree) = tree(&["a"]);
    std::os::unix::fs::symlink(mount.path().join("a"), mount.path().join("link")).unwrap();
    assert_eq!(paths(&tree.scan().unwrap()), ["/", "/a"]);
    assert!(matches!(tree.id_of("/link"), Err(Error::NotCgroup2 { .. })));
}

#[test]
fn a_tree_too_deep_is_reported_as_not_complete() {
    let (_mount, tree) = tree(&[&vec!["d"; MAX_DEPTH + 3].join("/")]);
    let scan = tree.scan().unwrap();
    assert!(!scan.complete);
    assert_eq!(scan.cgroups.len(), MAX_DEPTH + 1);
}

#[test]
fn names_that_are_no_text_stay_apart() {
    use std::os::unix::ffi::OsStrExt;
    let (mount, tree) = tree(&[]);
    for name in [b"a\xff".as_slice(), b"a\xfe", b"\x1b[2J", b"a b"] {
        fs::create_dir(mount.path().join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    assert_eq!(paths(&tree.scan().unwrap()), ["/", "/\u{1b}[2J", "/a b", r"/a\xfe", r"/a\xff"]);
}

#[test]
fn what_is_gone_has_no_number_and_no_path() {
    let (_mount, tree) = tree(&["a"]);
    assert!(matches!(tree.id_of("/b"), Err(Error::Read { .. })));
    assert_eq!(tree.path_of(CgroupId(u64::MAX)).unwrap(), None);
}

#[test]
fn paths_locate_are_seen_from_the_mount() {
    let (_mount, mut tree) = tree(&[]);
    let cases = [
        ("/", "/a/b", Some("/a/b")),
        ("/../..", "/../../a", Some("/a")),
        ("/../..", "/../..", Some("/")),
        ("/a", "/ab", None),
        ("/a", "/b", None),
    ];
    for (root, path, expected) in cases {
        root.clone_into(&mut tree.mount.root);
        assert_eq!(tree.locate(path), expected, "{path} in {root}");
    }
}

#[test]
fn a_root_outside_the_hierarchy_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let error = Tree::open(Some(directory.path())).unwrap_err();
    assert!(matches!(error, Error::NotCgroup2 { .. } | Error::NotMounted), "{error}");
    assert!(matches!(Tree::open(Some(Path::new("/nonexistent"))), Err(Error::Read { .. })));
}
