//! How often somebody may do something: token buckets by key, bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// A bucket for each key. Past the capacity all newcomers share one.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    /// Tokens that come back in a second.
    rate: f64,
    /// Tokens that a bucket holds.
    burst: f64,
    capacity: usize,
    kept: HashMap<K, Bucket>,
    shared: Bucket,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        let since = self.at.map_or(f64::INFINITY, |at| now.saturating_duration_since(at).as_secs_f64());
        self.tokens = (self.tokens + since * rate).min(burst);
        self.at = Some(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn is_full(&self, rate: f64, burst: f64, now: Instant) -> bool {
        let since = self.at.map_or(f64::INFINITY, |at| now.saturating_duration_since(at).as_secs_f64());
        self.tokens + since * rate >= burst
    }
}

impl<K: Hash + Eq> Buckets<K> {
    pub(super) fn new(rate: u32, burst: u32, capacity: usize) -> Self {
        let (rate, burst) = (f64::from(rate), f64::from(burst));
        Self { rate, burst, capacity, kept: HashMap::new(), shared: Bucket { tokens: 0.0, at: None } }
    }

    /// Takes one token; `false` when there is none.
    pub(super) fn take(&mut self, key: K, now: Instant) -> bool {
        let Self { rate, burst, capacity, kept, shared } = self;
        if kept.len() >= *capacity && !kept.contains_key(&key) {
            // A full bucket is as good as none.
            kept.retain(|_, bucket| !bucket.is_full(*rate, *burst, now));
            if kept.len() >= *capacity {
                return shared.take(*rate, *burst, now);
            }
        }
        kept.entry(key).or_insert(Bucket { tokens: 0.0, at: None }).take(*rate, *burst, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut buckets = Buckets::new(10, 3, 8);
        let now = Instant::now();
        assert_eq!((0..5).filter(|_| buckets.take("a", now)).count(), 3);
        assert!(buckets.take("b", now), "another key has its own");
        assert!(!buckets.take("a", now + Duration::from_millis(50)));
        assert!(buckets.take("a", now + Duration::from_millis(150)));
        assert_eq!((0..5).filter(|_| buckets.take("a", now + Duration::from_mins(1))).count(), 3);
    }

    #[test]
    fn many_keys_share_what_is_left_and_old_ones_make_room() {
        let mut buckets = Buckets::new(1, 1, 4);
        let now = Instant::now();
        let passed = (0..100).filter(|key| buckets.take(*key, now)).count();
        assert_eq!(passed, 5, "four buckets and the shared one");
        let later = now + Duration::from_secs(2);
        assert!(buckets.take(1000, later));
        assert_eq!(buckets.kept.len(), 1);
    }
}
