//! Text with stars, as people type it in filters.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::values::as_text;
use crate::escape::escape;

as_text!(Pattern);

/// The most bytes of a pattern.
const LIMIT: usize = 512;

/// Text in which each `*` stands for anything, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// Not a pattern.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{}` is no name; use 1 to {LIMIT} bytes, where * stands for anything", escape(.0))]
pub struct PatternError(String);

impl Pattern {
    /// Whether all of the text fits.
    pub fn fits(&self, text: &str) -> bool {
        let mut pieces = self.0.split('*');
        let first = pieces.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = pieces.next_back() else { return rest.is_empty() };
        // Taking each piece as early as it comes leaves the most for those after it.
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = rest.get(at + piece.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > LIMIT {
            return Err(PatternError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_all_else_for_itself() {
        for (pattern, text, fits) in [
            ("curl", "curl", true),
            ("curl", "curls", false),
            ("curl", "acurl", false),
            ("*", "", true),
            ("*", "x", true),
            ("curl*", "curl", true),
            ("*url", "curl", true),
            ("c*l", "curl", true),
            ("c*l", "cl", true),
            ("c*l", "c", false),
            ("ab*ba", "aba", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxcyyb", false),
            ("a*b*b", "ab", false),
            ("**", "x", true),
            ("a.c", "abc", false),
            ("ä*ö", "äxö", true),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().fits(text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let pattern: Pattern = "*a".repeat(200).parse().unwrap();
        assert!(!pattern.fits(&"a".repeat(150)));
        assert!("".parse::<Pattern>().is_err() && "x".repeat(513).parse::<Pattern>().is_err());
    }
}
