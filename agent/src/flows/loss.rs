//! What was not told, and why: the same words in every consumer.

use serde::{Deserialize, Serialize};

use super::words::{self, Word};

/// Why flows are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// This reader was too slow.
    SlowReader,
    /// The kernel's ring of flows was full.
    FlowRing,
    /// The kernel's ring of denials was full.
    DenialRing,
    /// Programs of another version wrote what this agent cannot read.
    Unreadable,
    /// The disk was full, broken or too slow for the history.
    History,
}

impl Word for Cause {
    const ALL: &'static [Self] =
        &[Self::SlowReader, Self::FlowRing, Self::DenialRing, Self::Unreadable, Self::History];

    fn word(self) -> &'static str {
        match self {
            Self::SlowReader => "slow-reader",
            Self::FlowRing => "flow-ring",
            Self::DenialRing => "denial-ring",
            Self::Unreadable => "unreadable",
            Self::History => "history",
        }
    }
}

impl Cause {
    /// For people.
    const fn phrase(self) -> &'static str {
        match self {
            Self::SlowReader => "slow reader",
            Self::FlowRing => "the kernel's flow ring was full",
            Self::DenialRing => "the kernel's denial ring was full",
            Self::Unreadable => "written by programs of another version",
            Self::History => "the history could not keep them",
        }
    }
}

/// So many flows are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// How many.
    #[serde(rename = "lost")]
    pub count: u64,
    /// Why.
    #[serde(with = "words")]
    pub cause: Cause,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, cause } = self;
        write!(f, "… {count} event{} lost ({})", if *count == 1 { "" } else { "s" }, cause.phrase())
    }
}

/// Losses of every cause, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses([u64; Cause::ALL.len()]);

impl Losses {
    /// Counts some more.
    pub fn add(&mut self, cause: Cause, count: u64) {
        let place = &mut self.0[cause as usize];
        *place = place.saturating_add(count);
    }

    /// Counts all of another's.
    pub fn join(&mut self, other: &Self) {
        other.each().for_each(|Loss { count, cause }| self.add(cause, count));
    }

    /// How many of one cause.
    pub const fn of(&self, cause: Cause) -> u64 {
        self.0[cause as usize]
    }

    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }

    /// Those that there are.
    pub fn each(&self) -> impl Iterator<Item = Loss> + '_ {
        Cause::ALL
            .iter()
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
            .map(|(cause, count)| Loss { count, cause: *cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_in_words() {
        assert_eq!(Loss { count: 1, cause: Cause::SlowReader }.to_string(), "… 1 event lost (slow reader)");
        assert_eq!(
            Loss { count: 12, cause: Cause::FlowRing }.to_string(),
            "… 12 events lost (the kernel's flow ring was full)"
        );
    }

    #[test]
    fn causes_are_counted_apart_and_none_is_forgotten() {
        let mut losses = Losses::default();
        assert!(losses.is_empty());
        for (place, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, place);
            losses.add(*cause, place as u64 + 1);
        }
        let mut twice = losses;
        twice.join(&losses);
        let counts: Vec<u64> = twice.each().map(|loss| loss.count).collect();
        assert_eq!(counts, [2, 4, 6, 8, 10]);
        assert_eq!(twice.of(Cause::DenialRing), 6);
    }
}
