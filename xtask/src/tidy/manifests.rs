//! Every crate takes its lints and its package facts from the workspace: a table that is not inherited binds nobody.

use super::{File, Finding};

/// What a manifest takes from the workspace.
const INHERITED: &[&str] = &[
    "version.workspace = true",
    "edition.workspace = true",
    "rust-version.workspace = true",
    "publish.workspace = true",
];

pub(super) fn inherit_the_workspace(files: &[File]) -> Vec<Finding> {
    let crates = files.iter().filter(|file| file.ends_with("/Cargo.toml"));
    crates.flat_map(|file| missing(&file.text).into_iter().map(|what| file.at(1, what))).collect()
}

fn missing(manifest: &str) -> Vec<String> {
    let mut missing: Vec<String> = INHERITED
        .iter()
        .filter(|line| !manifest.lines().any(|found| found == **line))
        .map(|line| format!("does not say `{line}`"))
        .collect();
    if !manifest.contains("[lints]\nworkspace = true") {
        missing.push("does not inherit the workspace's lints".to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_without_the_lints_is_found() {
        let good = format!("[package]\n{}\n[lints]\nworkspace = true\n", INHERITED.join("\n"));
        assert_eq!(missing(&good), Vec::<String>::new());
        assert_eq!(missing(&good.replace("[lints]", "[lint]")).len(), 1);
        assert_eq!(missing(&good.replace("edition.", "#")).len(), 1);
    }
}
