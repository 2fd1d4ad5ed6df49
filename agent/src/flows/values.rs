//! The words in which people name the parts of a flow.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use waxseal_common::ids::protocol;
use waxseal_common::verdict::Reason;

use super::words::Word;
use crate::escape::escape;

/// Serde by way of `Display` and `FromStr`: in JSON these are the words that people type.
macro_rules! as_text {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(super) use as_text;

as_text!(Shown, Because, Protocol, PortRange);

/// A word that means nothing here.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{}` is no {what}; use {expected}", escape(word))]
pub struct ValueError {
    /// What it should have been.
    pub what: &'static str,
    /// As written.
    pub word: String,
    /// What there is.
    pub expected: String,
}

/// The words of the verdict column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It may be.
    Allow,
    /// It may be; enforcing, it would be denied.
    Would,
    /// It may be, and is reported.
    Audit,
    /// It may not be.
    Deny,
    /// It has ended.
    Close,
    /// It might be and was never established.
    Fail,
}

impl Word for Shown {
    const ALL: &'static [Self] =
        &[Self::Allow, Self::Would, Self::Audit, Self::Deny, Self::Close, Self::Fail];

    fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Would => "WOULD",
            Self::Audit => "AUDIT",
            Self::Deny => "DENY",
            Self::Close => "CLOSE",
            Self::Fail => "FAIL",
        }
    }
}

impl FromStr for Shown {
    type Err = ValueError;

    /// Any case; `would-deny` is `WOULD`, as JSON has it.
    fn from_str(word: &str) -> Result<Self, ValueError> {
        let wanted = if word.eq_ignore_ascii_case("would-deny") { "WOULD" } else { word };
        Self::from_word(wanted).ok_or_else(|| ValueError {
            what: "verdict",
            word: word.to_owned(),
            expected: Self::words().to_lowercase(),
        })
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word().to_lowercase())
    }
}

/// A [`Reason`] as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Because(pub Reason);

impl FromStr for Because {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        Reason::from_word(word).map(Self).ok_or_else(|| ValueError {
            what: "reason",
            word: word.to_owned(),
            expected: Reason::words(),
        })
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// An IP protocol: `tcp`, `udp`, or `proto/N` for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl FromStr for Protocol {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        if word.eq_ignore_ascii_case("tcp") {
            return Ok(Self(protocol::TCP));
        }
        if word.eq_ignore_ascii_case("udp") {
            return Ok(Self(protocol::UDP));
        }
        let number = word.strip_prefix("proto/").and_then(|number| number.parse().ok());
        number.map(Self).ok_or_else(|| ValueError {
            what: "protocol",
            word: word.to_owned(),
            expected: "tcp, udp or proto/N with N from 0 to 255".to_owned(),
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            protocol::TCP => f.write_str("tcp"),
            protocol::UDP => f.write_str("udp"),
            other => write!(f, "proto/{other}"),
        }
    }
}

/// One of a fixed set, by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<T>(pub T);

impl<T: Word> FromStr for Named<T> {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        T::from_word(word).map(Self).ok_or_else(|| ValueError {
            what: T::WHAT,
            word: word.to_owned(),
            expected: T::words(),
        })
    }
}

impl<T: Word> serde::Serialize for Named<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<'de, T: Word> serde::Deserialize<'de> for Named<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::words::deserialize(deserializer).map(Self)
    }
}

/// Ports from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub low: u16,
    /// The last.
    pub high: u16,
}

impl PortRange {
    pub(super) const fn holds(self, port: u16) -> bool {
        self.low <= port && port <= self.high
    }
}

impl FromStr for PortRange {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        let (low, high) = word.split_once('-').unwrap_or((word, word));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok(Self { low, high }),
            _ => Err(ValueError {
                what: "port",
                word: word.to_owned(),
                expected: "one like 8080, or a range like 9000-9100".to_owned(),
            }),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case_and_written_in_one() {
        for (word, shown) in [("deny", "deny"), ("DENY", "deny"), ("would-deny", "would"), ("Close", "close")]
        {
            assert_eq!(word.parse::<Shown>().unwrap().to_string(), shown);
        }
        for word in ["tcp", "udp", "proto/47", "proto/0"] {
            assert_eq!(word.parse::<Protocol>().unwrap().to_string(), word);
        }
        for word in ["80", "80-90", "0-65535"] {
            assert_eq!(word.parse::<PortRange>().unwrap().to_string(), word);
        }
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Because>().unwrap().0, reason);
        }
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        assert_eq!(
            "maybe\x1b".parse::<Shown>().unwrap_err().to_string(),
            r"`maybe\x1b` is no verdict; use allow, would, audit, deny, close, fail"
        );
        assert_eq!(
            "icmp".parse::<Protocol>().unwrap_err().to_string(),
            "`icmp` is no protocol; use tcp, udp or proto/N with N from 0 to 255"
        );
        for word in ["90-80", "65536", "", "-", "80-", "http"] {
            assert!(word.parse::<PortRange>().is_err(), "{word}");
        }
        assert!("because".parse::<Because>().unwrap_err().to_string().contains("no-rule-matches"));
    }
}
