//! Rules of the house that no compiler checks. `cargo xtask tidy` and `cargo test` both run them.
//!
//! A rule is a function from the files to findings. Add one here and to [`RULES`].

mod golden;
mod layers;
mod manifests;
mod sizes;
mod words;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::place::Place;

/// Looks at all files at once.
type Rule = fn(&[File]) -> Vec<Finding>;

/// All rules.
const RULES: &[Rule] = &[
    manifests::inherit_the_workspace,
    layers::point_down,
    golden::is_complete,
    words::are_ours,
    sizes::are_small,
];

/// A text file of the repository.
#[derive(Debug)]
struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn ends_with(&self, ending: &str) -> bool {
        self.path.ends_with(ending)
    }

    fn at(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, what: what.into() }
    }
}

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// `cargo xtask tidy`.
pub(crate) fn run(place: &Place) -> anyhow::Result<()> {
    let files = files(place)?;
    let findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&files)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} finding(s)", findings.len());
    }
    println!("tidy: {} files, nothing to say", files.len());
    Ok(())
}

/// Every text file that belongs to the repository: the build directory and hidden tool state do not.
fn files(place: &Place) -> anyhow::Result<Vec<File>> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = vec![place.root.clone()];
    while let Some(directory) = waiting.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", directory.display()))?;
            let path = entry.path();
            let kind = entry.file_type().with_context(|| format!("look at {}", path.display()))?;
            if kind.is_dir() && !is_foreign(&path, place) {
                waiting.push(path);
            } else if kind.is_file() {
                found.extend(read(&path, &place.root)?);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn is_foreign(directory: &Path, place: &Place) -> bool {
    directory == place.target || directory == place.root.join("target") || directory.ends_with(".git")
}

/// `None` for what is not text.
fn read(path: &Path, root: &Path) -> anyhow::Result<Option<File>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let relative = path.strip_prefix(root).unwrap_or(path).display().to_string();
    Ok(String::from_utf8(bytes).ok().map(|text| File { path: relative, text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let place = Place::find().unwrap();
        let files = files(&place).unwrap();
        let findings: Vec<String> =
            RULES.iter().flat_map(|rule| rule(&files)).map(|finding| finding.to_string()).collect();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }
}
