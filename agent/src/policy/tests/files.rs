//! Which files are read at all.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::policy::{LoadErrors, MAX_FILE_BYTES, Ownership, PolicySet, Problem, load, load_from};

const POLICY: &str =
    "apiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: { name: NAME }\nspec: {}\n";

fn policy(name: &str) -> String {
    POLICY.replace("NAME", name)
}

fn loaded(path: &Path) -> Result<PolicySet, LoadErrors> {
    load(&[path.to_owned()], &"a.org".parse().unwrap())
}

fn message(path: &Path) -> String {
    loaded(path).unwrap_err().to_string()
}

#[test]
fn a_directory_is_read_in_the_order_of_names_and_not_in_depth() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["b.yaml", "a.yml", ".hidden.yaml", "c.yaml~", "d.txt", "c.yaml"] {
        fs::write(directory.path().join(name), policy(&name.replace('.', "-").replace('~', "x"))).unwrap();
    }
    fs::create_dir(directory.path().join("more")).unwrap();
    let set = loaded(directory.path()).unwrap();
    let names: Vec<&str> = set.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["a-yml", "b-yaml", "c-yaml"]);
    assert_eq!(set.files, 3);
    assert_eq!(set.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["directory-not-read"]);
    assert_eq!(*set.policies[1].origin.file, directory.path().join("b.yaml"));
}

#[test]
fn one_bad_file_refuses_the_whole_set_and_every_bad_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), policy("a")).unwrap();
    fs::write(directory.path().join("b.yaml"), "kind: [").unwrap();
    fs::write(directory.path().join("c.yaml"), policy("a")).unwrap();
    fs::write(directory.path().join("d.yaml"), b"a: \xff").unwrap();
    let text = message(directory.path());
    for expected in [
        "b.yaml:1:",
        "c.yaml:1:1: IdentityPolicy default/a is already defined at",
        "d.yaml:1:4: is not UTF-8 text",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn only_plain_files_are_read_and_nothing_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("real.yaml"), policy("real")).unwrap();
    symlink(outside.path().join("real.yaml"), directory.path().join("link.yaml")).unwrap();
    symlink("nowhere", directory.path().join("dangling.yaml")).unwrap();
    symlink("/dev/zero", directory.path().join("zero.yaml")).unwrap();
    fs::create_dir(directory.path().join("directory.yaml")).unwrap();
    nix::unistd::mkfifo(&directory.path().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket.yaml")).unwrap();
    let text = message(directory.path());
    for expected in [
        "link.yaml: is a symbolic link, not a regular file; it is not read",
        "dangling.yaml: is a symbolic link",
        "zero.yaml: is a symbolic link",
        "directory.yaml: is a directory",
        "pipe.yaml: is a pipe",
        "socket.yaml: cannot open: ",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(message(Path::new("/dev/zero")).contains("is a device"));
    assert!(message(&directory.path().join("missing.yaml")).contains("cannot open: No such file"));
}

#[test]
fn a_file_that_others_can_change_is_not_put_into_force() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, policy("a")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
    assert!(message(&file).contains("is writable for everybody"));
    let checked = load_from(std::slice::from_ref(&file), &"a.org".parse().unwrap(), Ownership::Anybody);
    assert!(checked.is_ok(), "looking at it does no harm");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(loaded(&file).is_ok());
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(12_345), None).unwrap();
        assert!(message(&file).contains("belongs to user 12345"));
    }
}

#[test]
fn a_huge_file_is_refused_without_being_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("huge.yaml");
    fs::File::create(&file).unwrap().set_len(100 << 20).unwrap();
    let started = std::time::Instant::now();
    assert!(message(&file).contains("is larger than 1048576 bytes"));
    assert!(started.elapsed().as_millis() < 1000);
    fs::write(&file, format!("{}{}", policy("a"), "#".repeat(MAX_FILE_BYTES as usize))).unwrap();
    assert!(message(&file).contains("is larger than"));
    fs::write(&file, format!("{}{}", policy("a"), "#".repeat(MAX_FILE_BYTES as usize - policy("a").len())))
        .unwrap();
    assert!(loaded(&file).is_ok(), "exactly the limit");
}

#[test]
fn a_file_given_twice_is_read_once_and_its_mistakes_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, policy("a")).unwrap();
    let paths: Vec<PathBuf> = vec![file.clone(), directory.path().to_owned(), file.clone()];
    assert_eq!(load(&paths, &"a.org".parse().unwrap()).unwrap().policies.len(), 1);
    fs::write(&file, "---\nkind: x\n".repeat(100)).unwrap();
    let errors = loaded(&file).unwrap_err();
    assert_eq!(errors.0.len(), 100);
    assert!(matches!(errors.0[0].problem, Problem::NoApiVersion));
    assert!(errors.to_string().ends_with("\nand 36 more"));
}
