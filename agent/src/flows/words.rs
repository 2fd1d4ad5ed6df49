//! The words for the numbers that kernel and agent share: one word each, in JSON, in filters and in tables.

use serde::{Deserialize, Deserializer, Serializer, de};
use waxseal_common::flow::{Hook, Kind, SealState};
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Reason, Verdict};
use waxseal_common::wire::Failure;

/// Something with a fixed set of values, each with its word. A word is never given to another value.
pub trait Word: Copy + 'static {
    /// Every value.
    const ALL: &'static [Self];
    /// What a value is, for messages.
    const WHAT: &'static str = "value";

    /// The word for this value.
    fn word(self) -> &'static str;

    /// The value of a word, whatever its case.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.word().eq_ignore_ascii_case(word))
    }

    /// All words, for messages.
    fn words() -> String {
        Self::ALL.iter().map(|value| value.word()).collect::<Vec<_>>().join(", ")
    }
}

impl Word for Verdict {
    const ALL: &'static [Self] = &[Self::Allow, Self::WouldDeny, Self::Audit, Self::Defer, Self::Deny];

    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::WouldDeny => "would-deny",
            Self::Audit => "audit",
            Self::Defer => "defer",
            Self::Deny => "deny",
        }
    }
}

impl Word for Kind {
    const ALL: &'static [Self] = &[Self::Opened, Self::Denied, Self::Closed, Self::Failed];

    fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Denied => "denied",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
}

impl Word for Direction {
    const WHAT: &'static str = "direction";
    const ALL: &'static [Self] = &[Self::Ingress, Self::Egress];

    fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl Word for Reason {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for SealState {
    const WHAT: &'static str = "state of a seal";
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Failure {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Hook {
    const ALL: &'static [Self] = &[
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::SockOps,
        Self::SkbIngress,
        Self::SkbEgress,
        Self::Agent,
        Self::TcIngress,
        Self::TcEgress,
    ];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Mode {
    const ALL: &'static [Self] = &[Self::Permissive, Self::Audit, Self::Enforce];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// For `#[serde(with = "words")]`.
pub fn serialize<T: Word, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.word())
}

/// For `#[serde(with = "words")]`.
pub fn deserialize<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let word = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    T::from_word(&word).ok_or_else(|| de::Error::custom(format_args!("`{word}` is none of {}", T::words())))
}

/// The same for a value that may be absent: `#[serde(with = "words::optional")]`.
pub mod optional {
    use super::{Deserialize, Deserializer, Serializer, Word, de};

    /// See [`super::serialize`].
    pub fn serialize<T: Word, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_some(value.word()),
            None => serializer.serialize_none(),
        }
    }

    /// See [`super::deserialize`].
    pub fn deserialize<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        let Some(word) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        T::from_word(&word)
            .map(Some)
            .ok_or_else(|| de::Error::custom(format_args!("`{word}` is none of {}", T::words())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree<T: Word + PartialEq + std::fmt::Debug>(from_byte: impl Fn(u8) -> Option<T>) {
        for (index, value) in T::ALL.iter().enumerate() {
            assert_eq!(from_byte(index as u8), Some(*value), "{value:?}");
            assert_eq!(T::from_word(&value.word().to_uppercase()), Some(*value), "{value:?}");
        }
    }

    #[test]
    fn every_number_that_the_kernel_writes_has_its_word() {
        agree(Kind::from_byte);
        agree(Hook::from_byte);
        agree(Reason::from_byte);
        agree(|byte| Some(Verdict::from_byte(byte)));
        agree(|byte| Some(Mode::from_byte(byte)));
        assert_eq!(Hook::from_byte(Hook::ALL.len() as u8), None, "a hook without a word");
        assert_eq!(Kind::from_byte(Kind::ALL.len() as u8), None, "a kind without a word");
    }
}
