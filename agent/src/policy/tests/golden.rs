//! The example policies are documentation; each has a golden file that says what it compiles to.
//! `UPDATE_EXPECT=1` writes them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use waxseal_common::tables::Mode;

use crate::policy::{Compiler, NodeDefaults, Ownership, PolicySet, check, expected_identities, load_from};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join("policies")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= 7, "the examples are gone");
    files
}

fn read(files: &[PathBuf]) -> PolicySet {
    load_from(files, &"cluster.local".parse().unwrap(), Ownership::Anybody)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// What one file says about the workloads that all of them name.
fn compiled(file: &Path, all: &PolicySet) -> String {
    let set = read(&[file.to_owned()]);
    let identities = expected_identities(all);
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
    let compiled = Compiler::new(1).compile(&set, &identities, &defaults).unwrap();
    compiled.to_text(&identities)
}

#[test]
fn every_example_compiles_to_its_golden_form() {
    let all = read(&examples());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = String::new();
    for file in examples() {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let golden = repository().join("tests/golden/policies").join(format!("{name}.txt"));
        let found = compiled(&file, &all);
        if update {
            std::fs::write(&golden, &found).unwrap();
        }
        match std::fs::read_to_string(&golden) {
            Ok(expected) if expected == found => {}
            Ok(expected) => {
                let _infallible = writeln!(wrong, "{name} changed. Expected:\n{expected}\nFound:\n{found}");
            }
            Err(error) => {
                let _infallible = writeln!(wrong, "{}: {error}; it would be:\n{found}", golden.display());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}UPDATE_EXPECT=1 writes the golden files anew");
}

#[test]
fn every_golden_form_has_its_example() {
    let names: Vec<_> = examples().iter().map(|file| file.file_stem().unwrap().to_owned()).collect();
    for entry in std::fs::read_dir(repository().join("tests/golden/policies")).unwrap() {
        let path = entry.unwrap().path();
        assert!(names.iter().any(|name| path.file_stem() == Some(name)), "{} has no policy", path.display());
    }
}

#[test]
fn every_example_opens_with_a_sentence_on_what_it_permits() {
    for file in examples() {
        let text = std::fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let opens =
            ["# Permits ", "# Forbids "].iter().any(|words| first.starts_with(words)) && first.ends_with('.');
        assert!(opens, "{}: {first}", file.display());
    }
}

#[test]
fn the_examples_together_pass_the_strictest_check() {
    let report = check(&[repository().join("policies")], &"cluster.local".parse().unwrap(), true);
    let warnings: Vec<_> = report.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!((report.exit_code(), warnings), (0, vec![]), "{report}");
}
