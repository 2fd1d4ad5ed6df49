//! How many tests a runner says it ran.

use std::fmt;

/// Tests that passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

impl Counts {
    /// A step that is no test and went well.
    pub(super) fn success() -> Self {
        Self { passed: 1, failed: 0 }
    }

    /// A step that failed as a whole.
    pub(super) fn failure() -> Self {
        Self { passed: 0, failed: 1 }
    }

    /// Both together.
    pub(super) fn plus(self, other: &Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }

    /// Reads what `cargo nextest` or `cargo test` wrote.
    pub(super) fn read(log: &str) -> Self {
        let plain = without_colour(log);
        let lines =
            plain.lines().filter(|line| line.contains("test result: ") || line.contains(" tests run: "));
        lines.map(one_line).fold(Self::default(), |sum, counts| sum.plus(&counts))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

fn one_line(line: &str) -> Counts {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |name: &str| {
        let at = words.iter().position(|word| word.trim_end_matches([',', ';']) == name)?;
        words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
    };
    let failed = ["failed", "timed", "exec"].iter().filter_map(|name| number(name)).sum();
    Counts { passed: number("passed").unwrap_or(0), failed }
}

fn without_colour(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_are_understood() {
        let cases = [
            ("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n", 3, 0),
            (
                "test result: FAILED. 2 passed; 1 failed; 0 ignored\ntest result: ok. 4 passed; 0 failed\n",
                6,
                1,
            ),
            ("     Summary [   0.005s] 12 tests run: 12 passed, 0 skipped\n", 12, 0),
            ("     Summary [   0.005s] 12 tests run: 10 passed (1 slow), 2 failed, 0 skipped\n", 10, 2),
            ("\u{1b}[32m Summary\u{1b}[0m [ 1s] 5 tests run: \u{1b}[1m5\u{1b}[0m passed, 1 skipped\n", 5, 0),
            ("nothing\n", 0, 0),
        ];
        for (log, passed, failed) in cases {
            assert_eq!(Counts::read(log), Counts { passed, failed }, "{log}");
        }
    }
}
