//! What no committed text says: promises without an owner, names of package servers, paths of the machine it was
//! written on; and white space that only makes noise in a diff.

use super::{File, Finding};

/// Split, so that this file does not say them itself.
const PROMISES: &[(&str, &str)] = &[("TO", "DO"), ("FIX", "ME"), ("XX", "X")];
/// Where packages come from is the business of the tools.
const SERVERS: &[(&str, &str)] = &[
    ("crates", ".io"),
    ("pypi", ".org"),
    ("npmjs", ".org"),
    ("deb.debian", ".org"),
    ("static.rust-lang", ".org"),
];
/// Somebody's home or workplace.
const PLACES: &[(&str, &str)] = &[("/wo", "rk/"), ("/root", "/."), ("/ho", "me/")];

pub(super) fn are_ours(files: &[File]) -> Vec<Finding> {
    // Cargo writes its lock file, and says there where each crate came from. What a fuzzer starts from is bytes.
    let ours = |file: &&File| file.path != "Cargo.lock" && !file.path.starts_with("tests/fuzz/seeds/");
    files.iter().filter(ours).flat_map(foreign_words).collect()
}

fn foreign_words(file: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in file.lines() {
        for (start, end) in PROMISES.iter().chain(SERVERS).chain(PLACES) {
            let word = [*start, *end].concat();
            if says(line, &word) {
                found.push(file.at(number, format!("says `{word}`")));
            }
        }
        if line.ends_with([' ', '\t']) {
            found.push(file.at(number, "white space at the end of the line"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        found.push(file.at(file.text.lines().count(), "no line end at the end"));
    }
    found
}

/// The word, not as a part of a longer one.
fn says(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        let joined_after = after.is_some_and(part) && word.chars().next_back().is_some_and(part);
        !before.is_some_and(part) && !joined_after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_are_found() {
        let cases = [
            (["// TO", "DO: later\n"].concat(), 1),
            (["mascaTO", "DOr\n"].concat(), 0),
            (["see crates", ".io/x\n"].concat(), 1),
            (["in /wo", "rk/x\n"].concat(), 1),
            (["a net", "/wo", "rk/x\n"].concat(), 0),
            ("fine\n".to_owned(), 0),
            ("blank \n".to_owned(), 1),
            ("no end".to_owned(), 1),
        ];
        for (text, count) in cases {
            let file = File { path: "x".to_owned(), text: text.clone() };
            assert_eq!(foreign_words(&file).len(), count, "{text:?}: {:?}", foreign_words(&file));
        }
    }
}
