//! Numbers for things, stable from one compilation to the next.

use std::collections::HashMap;
use std::hash::Hash;

/// Gives equal things equal numbers for as long as they are in use. Numbers only grow, so a reader that still holds an
/// old one never finds another thing under it.
#[derive(Debug)]
pub(super) struct Interner<K> {
    known: HashMap<K, u32>,
    /// The next number; `None` when all are used up.
    next: Option<u32>,
}

/// All 32-bit numbers of one kind were given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

impl<K: Eq + Hash> Interner<K> {
    /// Numbers start at `first`, or at 1: 0 always means "none".
    pub(super) fn new(first: u32) -> Self {
        Self { known: HashMap::new(), next: Some(first.max(1)) }
    }

    /// Forgets the things whose number is out of use. It is not given out again.
    pub(super) fn retain(&mut self, mut in_use: impl FnMut(u32) -> bool) {
        self.known.retain(|_, number| in_use(*number));
    }

    /// The number of a thing.
    pub(super) fn number(&mut self, thing: &K) -> Result<u32, Exhausted>
    where
        K: Clone,
    {
        if let Some(number) = self.known.get(thing) {
            return Ok(*number);
        }
        let number = self.next.ok_or(Exhausted)?;
        self.next = number.checked_add(1);
        self.known.insert(thing.clone(), number);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_while_the_thing_is_in_use_and_is_never_given_to_another() {
        let mut interner = Interner::new(0);
        assert_eq!(["a", "b", "a"].map(|thing| interner.number(&thing)), [Ok(1), Ok(2), Ok(1)]);
        interner.retain(|number| number == 1);
        assert_eq!(interner.number(&"a"), Ok(1));
        assert_eq!(interner.number(&"b"), Ok(3), "forgotten, so it is a new thing");
    }

    #[test]
    fn numbers_run_out_instead_of_wrapping() {
        let mut interner = Interner::new(u32::MAX);
        assert_eq!(interner.number(&"a"), Ok(u32::MAX));
        assert_eq!(interner.number(&"b"), Err(Exhausted));
        assert_eq!(interner.number(&"a"), Ok(u32::MAX));
    }
}
