//! One file of YAML cut into its documents, so that a mistake in one does not hide those in the others.

/// One document of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Part<'a> {
    /// Its text, with the `---` that opens it.
    pub(super) text: &'a str,
    /// How many lines of the file stand before it.
    pub(super) lines_before: u32,
}

/// The documents of a text that say anything. `---` at the start of a line always begins a document: YAML forbids it even
/// inside quoted and block text (YAML 1.2.2, rule 206 `c-forbidden`). `...` ends one.
pub(super) fn documents(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut start_line = 0;
    let mut at = 0;
    let mut opened = false;
    let mut ended = false;
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let opens = is_marker(line, "---");
        if opens || ended {
            let says = says_anything(&text[start..at]);
            if says {
                parts.push(Part { text: &text[start..at], lines_before: start_line });
            }
            // Comments and %YAML before the first `---` belong to the document that it opens.
            if says || opened || ended {
                (start, start_line) = (at, line_number as u32);
            }
            opened = opens;
        }
        ended = is_marker(line, "...");
        at += line.len();
    }
    if says_anything(&text[start..]) {
        parts.push(Part { text: &text[start..], lines_before: start_line });
    }
    parts
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn says_anything(text: &str) -> bool {
    text.lines().any(|line| {
        let rest =
            ["---", "..."].iter().find(|m| is_marker(line, m)).map_or(line, |m| &line[m.len()..]).trim();
        !(rest.is_empty() || rest.starts_with('#') || line.starts_with('%'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_where_yaml_says() {
        for (text, expected) in [
            ("", vec![]),
            ("# only a comment\n", vec![]),
            ("---\n---\n...\n", vec![]),
            ("a: 1\n", vec![(0, "a: 1\n")]),
            ("---\na: 1\n---\nb: 2\n", vec![(0, "---\na: 1\n"), (2, "---\nb: 2\n")]),
            ("---\n---\na: 1\n", vec![(1, "---\na: 1\n")]),
            ("a: 1\n---\n# none\n---\nb: 2\n", vec![(0, "a: 1\n"), (3, "---\nb: 2\n")]),
            ("a: 1\n...\n# why\n---\nb: 2\n", vec![(0, "a: 1\n...\n"), (2, "# why\n---\nb: 2\n")]),
            ("# why\n---\na: 1", vec![(0, "# why\n---\na: 1")]),
            ("%YAML 1.2\n---\na: 1\n", vec![(0, "%YAML 1.2\n---\na: 1\n")]),
            ("--- {a: 1}\n--- # next\nb: 2\n", vec![(0, "--- {a: 1}\n"), (1, "--- # next\nb: 2\n")]),
            ("a: 1\n...\nb: 2\n", vec![(0, "a: 1\n...\n"), (2, "b: 2\n")]),
            ("a: |\n  ---\n  text\n", vec![(0, "a: |\n  ---\n  text\n")]),
            ("---a: 1\n", vec![(0, "---a: 1\n")]),
            ("a: 1\r\n---\r\nb: 2\r\n", vec![(0, "a: 1\r\n"), (1, "---\r\nb: 2\r\n")]),
        ] {
            let found: Vec<(u32, &str)> =
                documents(text).iter().map(|part| (part.lines_before, part.text)).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }
}
