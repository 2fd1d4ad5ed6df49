//! Numbers for things, stable from one compilation to the next.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// How many compilations a thing may be out of use before it is forgotten. Its number is not given out again.
const FORGOTTEN_AFTER: u64 = 8;

/// Gives equal things equal numbers for as long as they are in use. Numbers only grow, so a reader that still holds an
/// old one never finds another thing under it.
#[derive(Debug)]
pub(super) struct Interner<K> {
    known: HashMap<K, Known>,
    /// The next number; `None` when all are used up.
    next: Option<u32>,
    turn: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    number: u32,
    last_used: u64,
}

/// All 32-bit numbers of one kind were given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

impl<K: Eq + Hash> Interner<K> {
    /// Numbers start at `first`, or at 1: 0 always means "none".
    pub(super) fn new(first: u32) -> Self {
        Self { known: HashMap::new(), next: Some(first.max(1)), turn: 0 }
    }

    /// Begins a compilation: forgets what was out of use for long.
    pub(super) fn begin(&mut self) {
        self.turn += 1;
        let turn = self.turn;
        self.known.retain(|_, known| known.last_used + FORGOTTEN_AFTER >= turn);
    }

    /// The number of a thing.
    pub(super) fn number<Q>(&mut self, thing: &Q) -> Result<u32, Exhausted>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(known) = self.known.get_mut(thing) {
            known.last_used = self.turn;
            return Ok(known.number);
        }
        let number = self.next.ok_or(Exhausted)?;
        self.next = number.checked_add(1);
        self.known.insert(thing.to_owned(), Known { number, last_used: self.turn });
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_while_the_thing_is_in_use_and_is_never_given_to_another() {
        let mut interner: Interner<String> = Interner::new(0);
        interner.begin();
        assert_eq!([interner.number("a"), interner.number("b"), interner.number("a")], [Ok(1), Ok(2), Ok(1)]);
        for _ in 0..20 {
            interner.begin();
            assert_eq!(interner.number("a"), Ok(1));
        }
        assert_eq!(interner.number("b"), Ok(3), "forgotten, so it is a new thing");
    }

    #[test]
    fn numbers_run_out_instead_of_wrapping() {
        let mut interner: Interner<String> = Interner::new(u32::MAX);
        assert_eq!(interner.number("a"), Ok(u32::MAX));
        assert_eq!(interner.number("b"), Err(Exhausted));
        assert_eq!(interner.number("a"), Ok(u32::MAX));
    }
}
