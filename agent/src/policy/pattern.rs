//! What an `identity:` field matches: one SPIFFE ID, a prefix or a suffix of it, or any.

use std::fmt;

use thiserror::Error;

use crate::spiffe::{self, SpiffeId, TrustDomain};

/// A SPIFFE ID with at most one star, at one end. There are no regular expressions: every other character stands for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IdentityPattern {
    /// `*`: any SPIFFE ID.
    Any,
    /// Exactly this ID.
    Exact(SpiffeId),
    /// IDs that begin with this text.
    Prefix(String),
    /// IDs that end with this text, `spiffe://` not counted.
    Suffix(String),
}

/// Why a text is no pattern for a SPIFFE ID.
#[derive(Debug, Error)]
pub enum PatternError {
    /// More than one star, or one in the middle.
    #[error("`*` may stand once, at the beginning or at the end; there are no other patterns")]
    Star,
    /// No star and no SPIFFE ID, or a prefix whose trust domain is none.
    #[error(transparent)]
    Spiffe(#[from] spiffe::Error),
    /// The text before the star is no beginning of a SPIFFE ID.
    #[error(
        "a prefix begins with `spiffe://`, a whole trust domain and `/`, as in `spiffe://example.org/ns/shop/*`"
    )]
    Prefix,
    /// No text at all.
    #[error("an empty text matches nothing")]
    Empty,
    /// A character that no SPIFFE ID has.
    #[error("no SPIFFE ID contains {0:?}, so this matches nothing")]
    Character(char),
}

const SCHEME: &str = "spiffe://";

impl IdentityPattern {
    /// Reads a pattern as written.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix('*') {
            check_characters(suffix)?;
            return Ok(Self::Suffix(suffix.to_owned()));
        }
        match text.strip_suffix('*') {
            Some(prefix) => Self::parse_prefix(prefix),
            None if text.contains('*') => Err(PatternError::Star),
            None => Ok(Self::Exact(text.parse()?)),
        }
    }

    /// Scheme and trust domain compare without case, as in a whole ID; so they are kept in lower case.
    fn parse_prefix(prefix: &str) -> Result<Self, PatternError> {
        if prefix.contains('*') {
            return Err(PatternError::Star);
        }
        let rest = match prefix.get(..SCHEME.len()) {
            Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => &prefix[SCHEME.len()..],
            _ => return Err(PatternError::Prefix),
        };
        let (domain, path) = rest.split_once('/').ok_or(PatternError::Prefix)?;
        let domain: TrustDomain = domain.parse()?;
        check_characters(path)?;
        Ok(Self::Prefix(format!("{SCHEME}{domain}/{path}")))
    }

    /// Whether the pattern matches.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == id,
            Self::Prefix(prefix) => id.as_str().starts_with(prefix.as_str()),
            // The slashes of `spiffe://` are not part of what a suffix is about.
            Self::Suffix(suffix) => id.as_str()[SCHEME.len()..].ends_with(suffix.as_str()),
        }
    }
}

pub(super) fn check_characters(path: &str) -> Result<(), PatternError> {
    match path.chars().find(|c| !(c.is_ascii_alphanumeric() || "/.-_".contains(*c))) {
        Some('*') => Err(PatternError::Star),
        Some(other) => Err(PatternError::Character(other)),
        None => Ok(()),
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(id) => id.fmt(f),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A short text with at most one star, at one end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextPattern {
    /// `*`: any text that is there.
    Any,
    /// Exactly this text.
    Exact(String),
    /// Texts that begin with this one.
    Prefix(String),
    /// Texts that end with this one.
    Suffix(String),
}

impl TextPattern {
    /// Reads a pattern as written.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (pattern, rest) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if text == "*" => return Ok(Self::Any),
            (Some(rest), _) => (Self::Suffix(rest.to_owned()), rest),
            (None, Some(rest)) => (Self::Prefix(rest.to_owned()), rest),
            (None, None) => (Self::Exact(text.to_owned()), text),
        };
        if rest.is_empty() { Err(PatternError::Empty) } else { check_characters(rest).map(|()| pattern) }
    }

    /// Whether the pattern matches.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
        }
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_it_says_and_nothing_else() {
        for (pattern, id, expected) in [
            ("*", "spiffe://a.org/x", true),
            ("spiffe://a.org/ns/shop/sa/web", "spiffe://a.org/ns/shop/sa/web", true),
            ("spiffe://a.org/ns/shop/sa/web", "spiffe://a.org/ns/shop/sa/webx", false),
            ("SPIFFE://A.org/ns/shop/*", "spiffe://a.org/ns/shop/sa/web", true),
            ("spiffe://a.org/ns/shop/*", "spiffe://a.org/ns/shop-2/sa/web", false),
            ("spiffe://a.org/ns/shop/*", "spiffe://a.org.evil/ns/shop/sa/web", false),
            ("spiffe://a.org/ns/s.op/*", "spiffe://a.org/ns/shop/sa/web", false),
            ("spiffe://a.org/*", "spiffe://a.org/x", true),
            ("*/sa/web", "spiffe://b.org/ns/shop/sa/web", true),
            ("*/sa/web", "spiffe://b.org/ns/shop/sa/web/x", false),
            ("*/b.org/x", "spiffe://b.org/x", false),
        ] {
            let (pattern, id) = (IdentityPattern::parse(pattern).unwrap(), id.parse().unwrap());
            assert_eq!(pattern.matches(&id), expected, "{pattern} against {id}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "**",
            "a*b",
            "*a*",
            "spiffe://a*",
            "spiffe://*",
            "shop/*",
            "spiffe://a.org/%2e*",
            "*a b",
            "spiffe://a.org",
            "spiffe://a.org/*/sa/web",
            "spiffe://a.org/x?*",
            "spiffe:///x*",
            "spiffe://a.org/x\u{0}*",
        ] {
            assert!(IdentityPattern::parse(text).is_err(), "{text:?}");
        }
    }
}
