//! Patterns for paths and names. No regular expressions: a reader predicts every match from four sentences.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest pattern, in bytes.
pub const MAX_GLOB: usize = 1024;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Nothing at all.
    #[error("the pattern is empty")]
    Empty,
    /// Longer than [`MAX_GLOB`].
    #[error("the pattern has {length} bytes, more than {MAX_GLOB}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A control character.
    #[error("the pattern holds a control character (byte {at})")]
    Control {
        /// Where it stands, from 0.
        at: usize,
    },
    /// Two slashes in a row or one at the end.
    #[error("the pattern has an empty segment (byte {at})")]
    EmptySegment {
        /// Where it stands, from 0.
        at: usize,
    },
    /// `**` beside other characters.
    #[error("`**` must stand alone between slashes (byte {at})")]
    DoubleStar {
        /// Where it stands, from 0.
        at: usize,
    },
    /// A cgroup path that does not start at the root.
    #[error("a cgroup path starts with `/`")]
    NotAbsolute,
    /// A cgroup path with a `.` or `..` in it.
    #[error("a cgroup path has no `.` and no `..` in it (byte {at})")]
    DotSegment {
        /// Where it stands, from 0.
        at: usize,
    },
    /// The root of the hierarchy.
    #[error("the root cgroup belongs to the host and can be no workload")]
    Root,
}

/// A pattern: `*` is any text within one segment, `?` one character of it, and `**`, alone between slashes, any number
/// of segments, none included; at the end it is one or more. Everything else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
    /// None for a pattern without wildcards: its text says it all, and nearly every pattern of a large node is one.
    segments: Box<[Segment]>,
    /// How many bytes of the text stand before the first wildcard. Whatever matches begins with them.
    plain: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    /// Text without wildcards.
    Literal(String),
    /// Text with `*` and `?`.
    Wild(Vec<char>),
}

impl Glob {
    /// A pattern for cgroup paths: it starts at the root and names something below it.
    pub fn path(text: &str) -> Result<Self, GlobError> {
        if text == "/" {
            return Err(GlobError::Root);
        }
        let glob: Self = text.parse()?;
        if !text.starts_with('/') {
            return Err(GlobError::NotAbsolute);
        }
        let mut at = 0;
        for segment in text.split('/') {
            if matches!(segment, "." | "..") {
                return Err(GlobError::DotSegment { at });
            }
            at += segment.len() + 1;
        }
        Ok(glob)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no wildcard, so that it matches exactly one text: its own.
    pub fn is_literal(&self) -> bool {
        self.plain == self.text.len()
    }

    /// The directory that holds everything the pattern matches: all segments before the first one with a wildcard, and
    /// never the last one. `/` when there is none.
    pub fn directory(&self) -> &str {
        match self.text[..self.plain].rsplit_once('/') {
            None | Some(("", _)) => "/",
            Some((directory, _)) => directory,
        }
    }

    /// How many segments of a path the pattern spells out, one by one, before the first `**`.
    pub fn explicit_depth(&self) -> usize {
        let depth = self.text.split('/').take_while(|segment| *segment != "**").count();
        depth - usize::from(self.text.starts_with('/'))
    }

    /// Whether the whole of `text` fits the pattern. The time is bounded by the product of the two lengths and the
    /// length of a segment.
    pub fn matches(&self, text: &str) -> bool {
        // Thousands of patterns meet thousands of cgroups, and nearly all differ in their plain part.
        let (plain, wild) = self.text.split_at(self.plain);
        if wild.is_empty() {
            return text == plain;
        }
        text.starts_with(plain) && self.walk(text)
    }

    fn walk(&self, text: &str) -> bool {
        // Only the latest `**` can need another try: whatever an earlier one could still take, it can take too.
        let mut segments = &*self.segments;
        let mut rest = Some(text);
        let mut retry: Option<(&[Segment], Option<&str>)> = None;
        loop {
            let advanced = match (segments.split_first(), rest) {
                (None, None) => return true,
                (Some((Segment::Any, [])), _) if rest.is_some() => return true,
                (Some((Segment::Any, [])), _) => false,
                (Some((Segment::Any, after)), _) => {
                    retry = Some((after, rest));
                    segments = after;
                    true
                }
                (Some((segment, after)), Some(here)) => {
                    let (first, following) = split(here);
                    let fits = segment.matches(first);
                    if fits {
                        segments = after;
                        rest = following;
                    }
                    fits
                }
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !advanced {
                // Give the latest `**` one more segment.
                let Some((after, Some(from))) = retry else { return false };
                let (_, following) = split(from);
                retry = Some((after, following));
                segments = after;
                rest = following;
            }
        }
    }
}

/// The first segment, and what follows its slash.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((first, following)) => (first, Some(following)),
        None => (text, None),
    }
}

impl Segment {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => literal == text,
            Self::Wild(pattern) => wild(pattern, text),
        }
    }
}

/// Matches `*` and `?` with one place to go back to: only the latest `*` can need another try.
fn wild(pattern: &[char], text: &str) -> bool {
    let mut at = 0;
    let mut rest = text.chars();
    let mut retry = None;
    loop {
        if pattern.get(at) == Some(&'*') {
            at += 1;
            retry = Some((at, rest.clone()));
            continue;
        }
        let before = rest.clone();
        let fits = match (pattern.get(at), rest.next()) {
            (None, None) => return true,
            (Some(expected), Some(found)) => *expected == '?' || *expected == found,
            _ => false,
        };
        if fits {
            at += 1;
            continue;
        }
        if before.as_str().is_empty() {
            return false;
        }
        let Some((after, mut from)) = retry else { return false };
        if from.next().is_none() {
            return false;
        }
        at = after;
        rest = from.clone();
        retry = Some((after, from));
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > MAX_GLOB {
            return Err(GlobError::TooLong { length: text.len() });
        }
        if let Some(at) = text.find(char::is_control) {
            return Err(GlobError::Control { at });
        }
        let mut at = 0;
        let mut segments = Vec::new();
        for part in text.split('/') {
            if part.is_empty() && at != 0 || text == "/" {
                return Err(GlobError::EmptySegment { at });
            }
            segments.push(segment(part).ok_or(GlobError::DoubleStar { at })?);
            at += part.len() + 1;
        }
        let plain = text.find(['*', '?']).unwrap_or(text.len());
        if plain == text.len() {
            segments.clear();
        }
        Ok(Self { text: text.into(), segments: segments.into(), plain })
    }
}

/// `None` for `**` beside other characters.
fn segment(part: &str) -> Option<Segment> {
    if part == "**" {
        Some(Segment::Any)
    } else if part.contains("**") {
        None
    } else if part.contains(['*', '?']) {
        Some(Segment::Wild(part.chars().collect()))
    } else {
        Some(Segment::Literal(part.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
