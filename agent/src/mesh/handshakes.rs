//! How handshakes ended and how long they took, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use waxseal_common::wire::Failure;

use super::error::HandshakeError;

/// Upper bounds of the durations that are told apart, in milliseconds.
pub const BOUNDS: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000];

/// Handshakes so far, of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// Those that ended with a session.
    pub done: u64,
    /// How long those took, all together.
    pub took: Duration,
    /// How many of those stayed within each of the [`BOUNDS`]; the last is all that took longer.
    pub spread: [u64; BOUNDS.len() + 1],
    /// Those that failed, by the word for why.
    pub failed: Vec<(&'static str, u64)>,
}

/// The counters of one side.
#[derive(Debug, Default)]
pub(super) struct Tally {
    microseconds: AtomicU64,
    spread: [AtomicU64; BOUNDS.len() + 1],
    failed: [AtomicU64; Failure::ALL.len()],
}

impl Tally {
    /// Notes one that has ended.
    pub(super) fn note<T>(&self, ended: &Result<T, HandshakeError>, took: Duration) {
        match ended {
            Ok(_) => {
                let ms = took.as_micros().div_ceil(1000);
                let place = BOUNDS.iter().position(|bound| ms <= u128::from(*bound)).unwrap_or(BOUNDS.len());
                self.spread[place].fetch_add(1, Ordering::Relaxed);
                self.microseconds.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                let failure = error.failure();
                if let Some(place) = Failure::ALL.iter().position(|known| *known == failure) {
                    self.failed[place].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// So far. Failures that never happened are left out.
    pub(super) fn so_far(&self) -> Handshakes {
        let spread = self.spread.each_ref().map(|count| count.load(Ordering::Relaxed));
        let failed = Failure::ALL.iter().zip(&self.failed);
        Handshakes {
            done: spread.iter().sum(),
            took: Duration::from_micros(self.microseconds.load(Ordering::Relaxed)),
            spread,
            failed: failed
                .map(|(failure, count)| (failure.as_str(), count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_is_counted_at_its_own_place() {
        let tally = Tally::default();
        for (us, place) in [(0, 0), (1000, 0), (1001, 1), (5_000_000, 9), (5_000_001, 10)] {
            let before = tally.so_far().spread[place];
            tally.note(&Ok(()), Duration::from_micros(us));
            assert_eq!(tally.so_far().spread[place], before + 1, "{us}");
        }
        tally.note::<()>(&Err(HandshakeError::Late), Duration::ZERO);
        tally.note::<()>(&Err(HandshakeError::Busy), Duration::ZERO);
        tally.note::<()>(&Err(HandshakeError::Late), Duration::ZERO);
        let Handshakes { done, took, failed, .. } = tally.so_far();
        assert_eq!((done, took), (5, Duration::from_micros(10_002_002)));
        assert_eq!(failed, [(Failure::Timeout.as_str(), 2), (Failure::Busy.as_str(), 1)]);
    }
}
