//! Names for what runs on this host, read from its cgroup tree: systemd units, containers, login sessions, and any
//! other cgroup that holds processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::answer;

/// How deep services lie at most.
const DEPTH: usize = 6;

/// A cgroup and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Its path in the hierarchy, `/` being the root.
    pub(super) cgroup: String,
}

/// Looks through the tree.
pub(super) fn of_this_host(mount: &Path) -> Vec<Named> {
    let containers = containers();
    let mut found = Vec::new();
    walk(mount, "", 0, &mut |path| {
        let named = name(path, &containers)?;
        // A service that has ended leaves an empty directory.
        populated(&mount.join(path.trim_start_matches('/'))).then(|| found.push(named))
    });
    distinct(found)
}

/// One document a name.
pub(super) fn documents(found: &[Named]) -> String {
    let mut text = String::from("# Written by `cargo xtask up` from this host's cgroup tree.\n");
    for Named { namespace, name, cgroup } in found {
        let _ = write!(
            text,
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: Workload\n\
             metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}\n\
             spec: {{ selector: {{ cgroup: {} }} }}\n",
            quoted(cgroup)
        );
    }
    text
}

/// Visits directories from the top; one that is taken (`Some`) is not entered.
fn walk(mount: &Path, path: &str, depth: usize, take: &mut impl FnMut(&str) -> Option<()>) {
    if depth >= DEPTH {
        return;
    }
    let Ok(entries) = fs::read_dir(mount.join(path.trim_start_matches('/'))) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let below = format!("{path}/{}", entry.file_name().to_string_lossy());
        if take(&below).is_none() {
            walk(mount, &below, depth + 1, take);
        }
    }
}

/// The name of one directory. `None` for slices, which only hold others.
fn name(path: &str, containers: &BTreeMap<String, String>) -> Option<Named> {
    let last = path.rsplit('/').next()?;
    let named = |namespace: &str, name: &str| {
        Some(Named { namespace: namespace.to_owned(), name: label(name), cgroup: path.to_owned() })
    };
    if let Some((id, container)) = containers.iter().find(|(id, _)| last.contains(id.as_str())) {
        return named("containers", if container.is_empty() { id } else { container });
    }
    if let Some(user) = last.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice")) {
        let login = answer(Command::new("id").args(["-nu", user]));
        return named("users", login.as_deref().unwrap_or(last));
    }
    if last.strip_suffix(".slice").is_some() {
        return None;
    }
    if let Some(unit) = last.strip_suffix(".service") {
        return named("system", unit);
    }
    named("other", last.strip_suffix(".scope").unwrap_or(last))
}

/// Something runs in it or below.
fn populated(directory: &Path) -> bool {
    let events = fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

/// Running containers by their number, where an engine can be asked.
fn containers() -> BTreeMap<String, String> {
    let engines = ["docker", "podman"];
    let lists = engines.iter().filter_map(|engine| {
        answer(Command::new("timeout").args([
            "5",
            engine,
            "ps",
            "--no-trunc",
            "--format",
            "{{.ID}} {{.Names}}",
        ]))
    });
    lists.flat_map(|list| list.lines().filter_map(pair).collect::<Vec<_>>()).collect()
}

fn pair(line: &str) -> Option<(String, String)> {
    let (id, name) = line.split_once(' ')?;
    (id.len() >= 12).then(|| (id.to_owned(), name.to_owned()))
}

/// A name as documents want it: small letters, digits, dashes.
fn label(text: &str) -> String {
    let small = text.to_ascii_lowercase();
    let dashed: String = small.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let short = dashed.trim_matches('-').chars().take(60).collect::<String>();
    let short = short.trim_end_matches('-');
    if short.is_empty() { "unnamed".to_owned() } else { short.to_owned() }
}

/// Names that fall together get a number.
fn distinct(mut found: Vec<Named>) -> Vec<Named> {
    found.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
    let mut taken = BTreeSet::new();
    for named in &mut found {
        let plain = named.name.clone();
        let mut number = 2;
        while !taken.insert((named.namespace.clone(), named.name.clone())) {
            named.name = format!("{plain}-{number}");
            number += 1;
        }
    }
    found
}

/// A cgroup path as a YAML string that also matches only itself as a glob.
fn quoted(path: &str) -> String {
    // `?` matches any one character, and so also the one it stands for here.
    let plain: String = path.chars().map(|c| if c == '*' || c.is_control() { '?' } else { c }).collect();
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_by_what_they_are() {
        let id = "0123456789abcdef";
        let containers = BTreeMap::from([(id.to_owned(), "shop_db".to_owned())]);
        let cases = [
            ("/system.slice/nginx.service", Some("system/nginx")),
            ("/system.slice/system-getty.slice", None),
            ("/system.slice", None),
            ("/system.slice/docker-0123456789abcdef.scope", Some("containers/shop-db")),
            ("/system.slice/ssh@1:10.0.0.1.service", Some("system/ssh-1-10-0-0-1")),
            ("/init.scope", Some("other/init")),
            ("/my_app", Some("other/my-app")),
        ];
        for (path, expected) in cases {
            let found =
                name(path, &containers).map(|Named { namespace, name, .. }| format!("{namespace}/{name}"));
            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn names_that_fall_together_get_a_number() {
        let named = |cgroup: &str| Named { namespace: "n".into(), name: "a".into(), cgroup: cgroup.into() };
        let names: Vec<String> =
            distinct(vec![named("/x"), named("/y")]).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["a", "a-2"]);
    }

    #[test]
    fn a_path_is_quoted_and_matches_only_itself() {
        assert_eq!(quoted("/a b"), "\"/a b\"");
        assert_eq!(quoted("/a\"\\*"), "\"/a\\\"\\\\?\"");
    }
}
