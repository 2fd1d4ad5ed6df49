//! Files that a reader can hold.

use super::{File, Finding};

/// The most lines of a document.
const DOCUMENTS: &[(&str, usize)] = &[("README.md", 120), ("ARCHITECTURE.md", 160)];
/// The most lines of a source file, its tests at the end not counted.
const SOURCE: usize = 400;
/// The most lines of a file of tests.
const TESTS: usize = 800;

pub(super) fn are_small(files: &[File]) -> Vec<Finding> {
    files.iter().filter_map(too_long).collect()
}

fn too_long(file: &File) -> Option<Finding> {
    let (lines, most) = measure(file)?;
    (lines > most).then(|| file.at(most, format!("has {lines} lines; {most} are enough")))
}

/// The lines that count, and how many may.
fn measure(file: &File) -> Option<(usize, usize)> {
    if let Some((_, most)) = DOCUMENTS.iter().find(|(path, _)| file.path == *path) {
        return Some((file.text.lines().count(), *most));
    }
    if !file.ends_with(".rs") {
        return None;
    }
    if file.path.contains("/tests/") || file.path.starts_with("tests/") || file.ends_with("tests.rs") {
        return Some((file.text.lines().count(), TESTS));
    }
    let own = file.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    Some((own, SOURCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let file = |path: &str, text: String| File { path: path.to_owned(), text };
        assert!(too_long(&file("a/src/x.rs", "\n".repeat(SOURCE + 1))).is_some());
        assert!(too_long(&file("a/src/x.rs", "\n".repeat(SOURCE))).is_none());
        let with_tests = "\n".repeat(SOURCE) + "#[cfg(test)]\n" + &"\n".repeat(SOURCE);
        assert!(too_long(&file("a/src/x.rs", with_tests)).is_none());
        assert!(too_long(&file("README.md", "\n".repeat(121))).is_some());
        assert!(too_long(&file("docs/x.md", "\n".repeat(10_000))).is_none());
    }
}
