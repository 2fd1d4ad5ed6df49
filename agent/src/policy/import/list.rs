//! `List` documents: each item is cut out of the text and read as a document of its own, so that all kinds can be items
//! and a mistake in one does not hide those in the others.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Location, Spanned};

use crate::policy::error::Problem;
use crate::policy::reader::Reader;

/// What a list is made of. Its own metadata says how a cluster answered, not what anything means.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct List {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(default, rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    items: Vec<Spanned<IgnoredAny>>,
}

/// The items of a list, each as a text in which lines and columns are those of the whole, and the lines before it.
pub(crate) fn items(reader: &mut Reader<'_>) -> Vec<(String, u32)> {
    let Some(List { items, .. }) = reader.parse::<List>() else { return Vec::new() };
    let text = reader.document();
    let places: Vec<Location> = items.iter().map(|item| item.referenced).collect();
    places
        .into_iter()
        .filter_map(|place| match cut(text, place) {
            Some(item) => Some((item, place.line().saturating_sub(1) as u32)),
            None => reader.refuse(place, Problem::ListItem),
        })
        .collect()
}

/// The text of the item that begins at a place, with spaces before it up to its column.
fn cut(text: &str, place: Location) -> Option<String> {
    let start = usize::try_from(place.span().byte_offset()?).ok()?;
    let column = usize::try_from(place.column()).ok()?.checked_sub(1)?;
    let rest = text.get(start..)?;
    let item = if rest.starts_with(['{', '[']) { flow(rest)? } else { block(rest, column) };
    Some(format!("{}{item}", " ".repeat(column)))
}

/// Up to the bracket that closes the first one. Brackets in quotes do not count.
fn flow(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (Some('"'), _) if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), _) if open == character => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return text.get(..=at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Up to the first line that is indented less than the item: what stands there belongs to the list. A text that is cut
/// short by this is no document any more, because only a quoted text may have such lines.
fn block(text: &str, column: usize) -> &str {
    let mut end = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let content = line.trim_start_matches(' ');
        let says = !content.trim().is_empty() && !content.starts_with('#');
        if number > 0 && says && line.len() - content.len() < column {
            break;
        }
        end += line.len();
    }
    text.get(..end).unwrap_or(text)
}
