//! SPIFFE IDs, checked once when they enter: `spiffe://` + trust domain + path.
//!
//! Only the form that the standard allows can exist as a value here, already in its normal form (scheme and trust domain
//! in lower case), so that two IDs are the same workload exactly when their texts are equal.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest SPIFFE ID that the standard asks everyone to accept, in bytes.
pub const MAX_ID: usize = 2048;
/// The longest trust domain name, in bytes.
pub const MAX_TRUST_DOMAIN: usize = 255;

const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE ID or no trust domain. Positions count bytes from the start of the text, from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_ID`].
    #[error("the SPIFFE ID has {length} bytes, more than {MAX_ID}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// It starts with something else.
    #[error("a SPIFFE ID starts with \"spiffe://\"")]
    Scheme,
    /// No trust domain name.
    #[error("the trust domain is empty")]
    NoTrustDomain,
    /// Longer than [`MAX_TRUST_DOMAIN`].
    #[error("the trust domain has {length} bytes, more than {MAX_TRUST_DOMAIN}")]
    TrustDomainTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A character that a trust domain cannot hold: user, port and percent signs among them.
    #[error("{} (byte {at}) cannot be in a trust domain: use a-z 0-9 . - _", Shown(*character))]
    TrustDomainCharacter {
        /// The character.
        character: char,
        /// Where it stands.
        at: usize,
    },
    /// The ID of the trust domain itself; no workload can have it.
    #[error("a workload's SPIFFE ID needs a path after the trust domain")]
    NoPath,
    /// Two slashes in a row, or one at the end.
    #[error("the path has an empty segment (byte {at})")]
    EmptySegment {
        /// Where it stands.
        at: usize,
    },
    /// A segment that is `.` or `..`.
    #[error("the path has a segment \".\" or \"..\" (byte {at})")]
    DotSegment {
        /// Where it stands.
        at: usize,
    },
    /// A character that a path cannot hold: percent signs, queries and fragments among them.
    #[error("{} (byte {at}) cannot be in a SPIFFE ID path: use a-z A-Z 0-9 . - _", Shown(*character))]
    PathCharacter {
        /// The character.
        character: char,
        /// Where it stands.
        at: usize,
    },
}

/// A character that is safe to show on a terminal.
struct Shown(char);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_graphic() {
            write!(f, "'{}'", self.0)
        } else {
            write!(f, "'{}'", self.0.escape_unicode())
        }
    }
}

/// The name of a trust domain, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name alone, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(name: &str, offset: usize) -> Result<Self, Error> {
        if name.is_empty() {
            return Err(Error::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN {
            return Err(Error::TrustDomainTooLong { length: name.len() });
        }
        match name.char_indices().find(|(_, c)| !is_segment_character(*c)) {
            Some((at, character)) => Err(Error::TrustDomainCharacter { character, at: offset + at }),
            None => Ok(Self(name.to_ascii_lowercase().into())),
        }
    }
}

impl FromStr for TrustDomain {
    type Err = Error;

    /// Takes the bare name (`cluster.local`). Capital letters become small ones.
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, 0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SPIFFE ID of a workload. The ID of a trust domain itself (without a path) is a [`TrustDomain`], never this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
}

impl SpiffeId {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<name>`: the ID of a workload that gives none itself.
    pub fn for_workload(domain: &TrustDomain, namespace: &str, name: &str) -> Result<Self, Error> {
        // A slash would make two names one ID: /ns/a/sa/b/sa/c.
        let start = SCHEME.len() + domain.as_str().len() + "/ns/".len();
        for (part, start) in [(namespace, start), (name, start + namespace.len() + "/sa/".len())] {
            if let Some(at) = part.find('/') {
                return Err(Error::PathCharacter { character: '/', at: start + at });
            }
        }
        let id: Self = format!("{SCHEME}{domain}/ns/{namespace}/sa/{name}").parse()?;
        // The one text of the domain that all of them share.
        Ok(Self { domain: domain.clone(), ..id })
    }

    /// The whole ID in its normal form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading slash; never empty.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain.0.len()..]
    }

    /// X of a path that is exactly `/ns/X/sa/Y`.
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// Y of a path that is exactly `/ns/X/sa/Y`.
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, account)| account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl FromStr for SpiffeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_ID {
            return Err(Error::TooLong { length: text.len() });
        }
        let scheme = text.get(..SCHEME.len()).ok_or(Error::Scheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(Error::Scheme);
        }
        let rest = &text[SCHEME.len()..];
        let end = rest.find('/').unwrap_or(rest.len());
        let (name, path) = rest.split_at(end);
        let domain = TrustDomain::parse(name, SCHEME.len())?;
        check_path(path, SCHEME.len() + end)?;
        Ok(Self { text: format!("{SCHEME}{domain}{path}").into(), domain })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_path(path: &str, offset: usize) -> Result<(), Error> {
    let Some(path) = path.strip_prefix('/') else { return Err(Error::NoPath) };
    if path.is_empty() {
        return Err(Error::NoPath);
    }
    let mut at = offset + 1;
    for segment in path.split('/') {
        match segment {
            "" => return Err(Error::EmptySegment { at }),
            "." | ".." => return Err(Error::DotSegment { at }),
            _ => {}
        }
        if let Some((inside, character)) = segment.char_indices().find(|(_, c)| !is_segment_character(*c)) {
            return Err(Error::PathCharacter { character, at: at + inside });
        }
        at += segment.len() + 1;
    }
    Ok(())
}

fn is_segment_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_')
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<SpiffeId, Error> {
        text.parse()
    }

    #[test]
    fn an_id_falls_into_its_parts() {
        let cases = [
            (
                "spiffe://cluster.local/ns/shop/sa/web",
                "cluster.local",
                "/ns/shop/sa/web",
                Some(("shop", "web")),
            ),
            (
                "SPIFFE://Cluster.LOCAL/ns/Shop/sa/Web",
                "cluster.local",
                "/ns/Shop/sa/Web",
                Some(("Shop", "Web")),
            ),
            ("spiffe://a_b-c.1/x", "a_b-c.1", "/x", None),
            ("spiffe://10.0.0.1/host/n/systemd/a.service", "10.0.0.1", "/host/n/systemd/a.service", None),
            ("spiffe://a/ns/x/sa/y/z", "a", "/ns/x/sa/y/z", None),
            ("spiffe://a/ns/x/y/sa/z", "a", "/ns/x/y/sa/z", None),
            ("spiffe://a/...", "a", "/...", None),
        ];
        for (text, domain, path, kubernetes) in cases {
            let id = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(id.trust_domain().as_str(), domain, "{text}");
            assert_eq!(id.path(), path, "{text}");
            assert_eq!(id.namespace().zip(id.service_account()), kubernetes, "{text}");
            assert_eq!(id.to_string(), format!("spiffe://{domain}{path}"), "{text}");
        }
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        let character = |character, at| Error::TrustDomainCharacter { character, at };
        let in_path = |character, at| Error::PathCharacter { character, at };
        let cases = [
            ("", Error::Scheme),
            ("spiffe", Error::Scheme),
            ("https://a/b", Error::Scheme),
            ("spiffe:/a/b/c", Error::Scheme),
            (" spiffe://a/b", Error::Scheme),
            ("sp\u{131}ffe://a/b", Error::Scheme),
            ("spiffe://", Error::NoTrustDomain),
            ("spiffe:///b", Error::NoTrustDomain),
            ("spiffe://a", Error::NoPath),
            ("spiffe://a/", Error::NoPath),
            ("spiffe://a/b/", Error::EmptySegment { at: 13 }),
            ("spiffe://a//b", Error::EmptySegment { at: 11 }),
            ("spiffe://a/./b", Error::DotSegment { at: 11 }),
            ("spiffe://a/b/..", Error::DotSegment { at: 13 }),
            ("spiffe://a:80/b", character(':', 10)),
            ("spiffe://u@a/b", character('@', 10)),
            ("spiffe://a%41/b", character('%', 10)),
            ("spiffe://a?b", character('?', 10)),
            ("spiffe://b\u{fc}cher/b", character('\u{fc}', 10)),
            ("spiffe://a/b%20", in_path('%', 12)),
            ("spiffe://a/b?c", in_path('?', 12)),
            ("spiffe://a/b#c", in_path('#', 12)),
            ("spiffe://a/b\n", in_path('\n', 12)),
            ("spiffe://a/b\0", in_path('\0', 12)),
            ("spiffe://a/\u{202e}b", in_path('\u{202e}', 11)),
            ("spiffe://a/b*", in_path('*', 12)),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_longest_allowed_id_is_accepted_and_no_longer_one() {
        let id = |length: usize| format!("spiffe://a/{}", "b".repeat(length - "spiffe://a/".len()));
        assert!(parse(&id(MAX_ID)).is_ok());
        assert_eq!(parse(&id(MAX_ID + 1)), Err(Error::TooLong { length: MAX_ID + 1 }));
        let domain = |length: usize| "d".repeat(length).parse::<TrustDomain>();
        assert!(domain(MAX_TRUST_DOMAIN).is_ok());
        assert_eq!(domain(256), Err(Error::TrustDomainTooLong { length: 256 }));
    }

    #[test]
    fn a_workload_without_an_id_gets_one_from_its_name() {
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let id = SpiffeId::for_workload(&domain, "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        for (namespace, name) in
            [("a/sa/b", "c"), ("a", "b/sa/c"), ("", "a"), ("a", ""), ("..", "a"), ("a b", "c")]
        {
            assert!(SpiffeId::for_workload(&domain, namespace, name).is_err(), "{namespace:?} {name:?}");
        }
    }

    #[test]
    fn an_error_shows_no_control_characters() {
        let text = parse("spiffe://a/\u{1b}[2J").unwrap_err().to_string();
        assert_eq!(text, r"'\u{1b}' (byte 11) cannot be in a SPIFFE ID path: use a-z A-Z 0-9 . - _");
    }

    #[test]
    fn json_holds_the_text_and_is_checked_on_the_way_in() {
        let id = parse("spiffe://a/b").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://a/b\"");
        assert_eq!(serde_json::from_str::<SpiffeId>("\"spiffe://A/b\"").unwrap(), id);
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://a/b/\"").is_err());
    }

    proptest! {
        #[test]
        fn a_true_id_survives_the_round_trip(
            domain in "[a-zA-Z0-9._-]{1,40}",
            path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}){1,6}",
        ) {
            let id = parse(&format!("sPiffe://{domain}{path}")).unwrap();
            prop_assert_eq!(id.trust_domain().as_str(), domain.to_ascii_lowercase());
            prop_assert_eq!(id.path(), path.as_str());
            prop_assert_eq!(parse(id.as_str()).unwrap(), id);
        }

        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_accepts_is_plain(text in "(?s)(spiffe://)?.{0,40}") {
            if let Ok(id) = parse(&text) {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_graphic()));
                prop_assert_eq!(parse(id.as_str()).unwrap(), id);
            }
        }
    }
}
