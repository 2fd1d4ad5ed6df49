//! The SHA-256 of a value, to know it again without keeping it.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// Stands for a value: two have the same exactly when they are equal. A rule can be long, and the table of numbers would
/// keep a second copy of every one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    /// Of all that the value feeds to a hasher: each field, and how long each list and text is.
    pub(super) fn of(value: &impl Hash) -> Self {
        let mut feed = Feed(Sha256::new());
        value.hash(&mut feed);
        Self(feed.0.finalize().into())
    }
}

struct Feed(Sha256);

impl Hasher for Feed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Nobody asks: the digest is longer.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_digest_and_others_have_another() {
        let of = |list: &[&str], more: Option<u32>| Digest::of(&(list, more));
        assert_eq!(of(&["ab", "c"], None), of(&["ab", "c"], None));
        let all = [
            of(&["ab", "c"], None),
            of(&["a", "bc"], None),
            of(&["abc"], None),
            of(&["ab", "c", ""], None),
            of(&["ab", "c"], Some(0)),
            of(&[], None),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[index + 1..].iter().all(|other| other != one), "{index}");
        }
    }
}
