//! Inside the agent, imports point down. Modules of one layer never import each other: they meet in `node`.

use super::{File, Finding};

/// The layers, highest first.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["node"],
    &["api", "datapath", "history", "mesh", "metrics", "watch"],
    &["identity"],
    &["attest"],
    &["policy", "flows", "config", "cgroup", "pki"],
    &["workload", "report"],
    &["spiffe", "escape", "cidr", "nearest"],
];

/// Modules that stay pure, and what they must not know.
const PURE: &[(&str, &[&str])] = &[
    ("policy", &["tokio", "aya", "hyper"]),
    ("flows", &["tokio", "aya", "hyper"]),
    ("identity", &["tokio", "aya", "hyper"]),
    ("workload", &["tokio", "aya", "hyper"]),
    ("spiffe", &["tokio", "aya", "hyper"]),
    ("api", &["aya"]),
    ("history", &["tokio", "aya", "hyper"]),
    ("mesh", &["aya"]),
    ("metrics", &["aya"]),
    ("pki", &["aya"]),
    ("attest", &["aya"]),
    ("cgroup", &["aya"]),
    ("watch", &["aya"]),
    ("cli", &["aya"]),
];

pub(super) fn point_down(files: &[File]) -> Vec<Finding> {
    files
        .iter()
        .filter_map(|file| Some((file, module(&file.path)?)))
        .flat_map(|(file, of)| breaches(file, of))
        .collect()
}

/// The top module a file of the agent belongs to. `lib.rs` is the list of all, and test files may import anything.
fn module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("agent/src/")?.strip_suffix(".rs")?;
    let name = inside.split('/').next()?;
    let is_test = inside.ends_with("tests") || inside.contains("/tests/");
    (name != "lib" && !is_test).then_some(name)
}

fn breaches(file: &File, of: &str) -> Vec<Finding> {
    let Some(own) = rank(of) else {
        return vec![file.at(1, format!("`{of}` has no place in the layers of xtask/src/tidy/layers.rs"))];
    };
    let mut found = Vec::new();
    for (number, line) in file.lines().take_while(|(_, line)| line.trim() != "#[cfg(test)]") {
        let code = line.split("//").next().unwrap_or_default();
        for other in imports(code).filter(|other| *other != of) {
            if rank(other).is_some_and(|rank| rank <= own) {
                found.push(file.at(number, format!("`{of}` imports `{other}`, which is not below it")));
            }
        }
        let banned = PURE.iter().filter(|(module, _)| *module == of).flat_map(|(_, crates)| *crates);
        for name in banned.filter(|name| names(code, name)) {
            found.push(file.at(number, format!("`{of}` must not know `{name}`")));
        }
    }
    found
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The top modules that a line names by `crate::`, braces included.
fn imports(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).flat_map(|rest| {
        let list = rest.strip_prefix('{').map(|inside| inside.split(['}', ';']).next().unwrap_or_default());
        let words = list.unwrap_or(rest);
        let count = if list.is_some() { usize::MAX } else { 1 };
        words.split(", ").take(count).map(|word| {
            let end = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len());
            word.get(..end).unwrap_or_default()
        })
    })
}

fn names(code: &str, krate: &str) -> bool {
    code.match_indices(krate).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + krate.len()..).unwrap_or_default();
        after.starts_with("::") && before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        point_down(&[file]).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn imports_point_down() {
        let cases = [
            ("agent/src/node.rs", "use crate::policy::PolicySet;", 0),
            ("agent/src/policy/compile.rs", "use crate::spiffe::SpiffeId;", 0),
            ("agent/src/policy/compile.rs", "use crate::policy::set::Set;", 0),
            ("agent/src/policy/compile.rs", "use crate::node::Node;", 1),
            ("agent/src/policy/compile.rs", "let x = crate::identity::y();", 1),
            (
                "agent/src/policy/compile.rs",
                "use crate::{identity::Registry, spiffe::SpiffeId, flows::Flow};",
                2,
            ),
            ("agent/src/policy/compile.rs", "// crate::node calls this", 0),
            ("agent/src/policy/tests.rs", "use crate::node::Node;", 0),
            ("agent/src/policy/mod.rs", "#[cfg(test)]\nmod tests {\nuse crate::node::Node;", 0),
            ("agent/src/policy/mod.rs", "use tokio::fs;", 1),
            ("agent/src/datapath/mod.rs", "use aya::Ebpf;", 0),
            ("agent/src/strange.rs", "", 1),
            ("common/src/ids.rs", "use crate::node::Node;", 0),
        ];
        for (path, text, count) in cases {
            assert_eq!(found(path, text).len(), count, "{path}: {text}: {:?}", found(path, text));
        }
    }
}
