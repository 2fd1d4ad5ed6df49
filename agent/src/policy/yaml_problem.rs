//! The words for mistakes that the YAML reader finds.

use thiserror::Error;

/// What the YAML reader says, in its words, escaped.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct YamlProblem {
    message: String,
}

impl YamlProblem {
    /// `line` is the one in which the reader stopped.
    pub(super) fn new(error: &serde_saphyr::Error, line: &str) -> Self {
        let message = message(error);
        Self { message: hint(line).map_or_else(|| message.clone(), |hint| format!("{message}; {hint}")) }
    }
}

/// Our words for the mistakes that people make most; the reader's own for the rest.
fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    match error.without_snippet() {
        Yaml::SerdeUnknownField { field, expected, .. } => {
            let near = crate::nearest::nearest(field, expected.iter().copied());
            let (field, known) = (crate::escape::escape(field), expected.join(", "));
            format!("unknown key `{field}`{}; allowed here: {known}", super::error::meant(near))
        }
        Yaml::SerdeMissingField { field, .. } => format!("`{field}` is missing"),
        Yaml::DuplicateMappingKey { key, .. } => match key {
            Some(key) => format!("the key `{}` is given twice", crate::escape::escape(key)),
            None => "a key is given twice".to_owned(),
        },
        Yaml::NullIntoString { .. } => {
            "a value is missing; leave the key out, or quote an empty text".to_owned()
        }
        Yaml::MergeKeyNotAllowed { .. } => "merge keys (`<<`) are not read; write the keys out".to_owned(),
        Yaml::InvalidBooleanStrict { .. } => "expected `true` or `false`".to_owned(),
        Yaml::Unexpected { expected: "sequence start", .. } => {
            "expected a list, as `[ a, b ]`; for one that matches nothing write `[]`, for none leave the key out"
                .to_owned()
        }
        Yaml::Unexpected { expected: "mapping start", .. } => "expected keys with values".to_owned(),
        Yaml::Unexpected { expected: "string scalar", .. } => "expected a text".to_owned(),
        Yaml::MultipleDocuments { .. } => "there is a second document; this file holds one".to_owned(),
        Yaml::Eof { .. } => "the text ends too early".to_owned(),
        other => reworded(one_line(&other.render())),
    }
}

/// The reader's words for slips that are made often say what it was doing, and not what to write.
fn reworded(words: String) -> String {
    if words.starts_with("while scanning an anchor or alias") {
        "`*` and `&` have a meaning of their own in YAML: a text that begins with one stands in quotes, as `\"*\"`".to_owned()
    } else if words.starts_with("tabs disallowed") {
        "a tab where YAML takes only spaces: indent with spaces".to_owned()
    } else if words == "invalid u32" {
        "expected a user's number, 0 to 4294967295; names of users are not looked up".to_owned()
    } else {
        words
    }
}

/// What to do about a document that is not the one that was meant, by the line in which its reader stopped.
fn hint(line: &str) -> Option<&'static str> {
    if line.contains("{{") {
        Some("`{{` stands in templates: render this one first, as `helm template` does")
    } else if line.contains("matchLabels") {
        Some("labels stand here directly, as in `selector: { app: web }`")
    } else {
        None
    }
}

/// Only the first line, and without the place: it counts from the start of the document, not of the file.
fn one_line(text: &str) -> String {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("not valid YAML");
    let message = first.split(" at line ").next().unwrap_or(first);
    crate::escape::escape(message.trim()).into_owned()
}
