//! Labels: a short sorted list that many hold at once.
//!
//! A node has as many lists as workloads, and every room keeps those of the workloads that it knows: so a copy is a count,
//! and a list is as long as its labels. A tree of maps would be half a kilobyte for one label, for each room.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Pair = (Box<str>, Box<str>);

static NONE: LazyLock<Labels> = LazyLock::new(|| Labels(Arc::new([])));

/// A workload's labels, each key once. Copies share one list, which never changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[Pair]>);

impl Labels {
    /// None.
    pub fn new() -> Self {
        NONE.clone()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.place(key).ok().map(|at| &*self.0[at].1)
    }

    /// The label whose key comes first.
    pub fn first(&self) -> Option<(&str, &str)> {
        self.iter().next()
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// These and those of another list, whose values count where both have a key.
    #[must_use]
    pub fn with(&self, others: &Self) -> Self {
        self.iter().chain(others.iter()).collect()
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(key))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The last of several values of one key counts, as it would in a map.
impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let sorted: BTreeMap<Box<str>, Box<str>> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        if sorted.is_empty() { Self::new() } else { Self(sorted.into_iter().collect()) }
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>, const N: usize> From<[(K, V); N]> for Labels {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<Box<str>, Box<str>>::deserialize(deserializer).map(|labels| labels.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_a_map_would_be() {
        let mut labels = Labels::from([("b", "1"), ("a", "2"), ("b", "3")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")], "the last value counts");
        labels = labels.with(&Labels::from([("ab", "4"), ("a", "5")]));
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "5"), ("ab", "4"), ("b", "3")]);
        for (key, value) in [("a", Some("5")), ("ab", Some("4")), ("c", None), ("", None)] {
            assert_eq!(labels.get(key), value, "{key}");
        }
        assert_eq!((labels.len(), labels.first(), Labels::new().first()), (3, Some(("a", "5")), None));
        assert_eq!((Labels::new().is_empty(), labels.is_empty()), (true, false));
    }

    #[test]
    fn labels_are_written_and_read_as_an_object() {
        for (labels, text) in [
            (Labels::new(), "{}"),
            (Labels::from([("app", "web"), ("a\"", "\n")]), r#"{"a\"":"\n","app":"web"}"#),
        ] {
            assert_eq!(serde_json::to_string(&labels).unwrap(), text);
            assert_eq!(serde_json::from_str::<Labels>(text).unwrap(), labels);
        }
    }

    #[test]
    fn a_copy_shares_the_list() {
        let one = Labels::from([("a", "1")]);
        assert!(Arc::ptr_eq(&one.0, &one.clone().0));
        assert!(Arc::ptr_eq(&Labels::new().0, &Labels::default().0), "and none is one list too");
    }
}
