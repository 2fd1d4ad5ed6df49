//! Every example policy has its compiled form beside the tests, so that a change of meaning shows up in a diff.

use super::{File, Finding};

/// Where the compiled forms are.
const GOLDEN: &str = "tests/golden/policies";

pub(super) fn is_complete(files: &[File]) -> Vec<Finding> {
    let has = |path: &str| files.iter().any(|file| file.path == path);
    let examples = files.iter().filter_map(|file| Some((file, example(&file.path)?)));
    examples
        .map(|(file, name)| (file, format!("{GOLDEN}/{name}.txt")))
        .filter(|(_, golden)| !has(golden))
        .map(|(file, golden)| file.at(1, format!("has no {golden}")))
        .collect()
}

fn example(path: &str) -> Option<&str> {
    let name = path.strip_prefix("policies/")?.strip_suffix(".yaml")?;
    (!name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_without_its_compiled_form_is_found() {
        let file = |path: &str| File { path: path.to_owned(), text: String::new() };
        let lonely = [file("policies/01-one.yaml"), file("policies/README.md")];
        assert_eq!(is_complete(&lonely).len(), 1);
        let whole = [file("policies/01-one.yaml"), file(&format!("{GOLDEN}/01-one.txt"))];
        assert_eq!(is_complete(&whole), []);
    }
}
