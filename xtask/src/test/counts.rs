//! How many tests a runner says it ran, and which of them did not pass at once.

use std::collections::BTreeSet;
use std::fmt;

/// Tests that passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

/// How many lines of a failed test are shown again at the end.
const WORDS: usize = 12;

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
        let sum = |words: &str| {
            let lines = plain.lines().filter(|line| line.contains(words)).map(one_line);
            lines.reduce(|sum, counts| sum.plus(&counts))
        };
        // What nextest says is the sum; it shows the words of failed tests too, each with a result of its own.
        sum(" tests run: ").or_else(|| sum("test result: ")).unwrap_or_default()
    }
}

/// The tests that failed, and those that passed only when they were run again, in the runner's words.
pub(super) fn remarkable(log: &str) -> Vec<String> {
    let plain = without_colour(log);
    let names = plain.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("TRY 2 ").unwrap_or(line);
        let nextest = ["FAIL", "FLAKY", "TIMEOUT", "SIGABRT", "SIGSEGV"].iter().find_map(|word| {
            let rest = line.strip_prefix(word)?.split_once(']')?.1;
            let name = rest.rsplit_once(')').map_or(rest, |(_, name)| name).trim();
            let word = if *word == "FLAKY" { "passed the second time" } else { "failed" };
            Some(format!("{word}: {name}"))
        });
        let cargo = || Some(format!("failed: {}", line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?));
        nextest.or_else(cargo)
    });
    let names: BTreeSet<String> = names.collect();
    names.into_iter().collect()
}

/// Why tests failed: the first lines of each panic.
pub(super) fn panics(log: &str) -> Vec<String> {
    let plain = without_colour(log);
    let mut words = Vec::new();
    let mut left = 0;
    for line in plain.lines() {
        if line.contains("panicked at ") {
            left = WORDS;
        } else if line.contains("note: run with") || line.contains("stack backtrace") {
            left = 0;
        }
        if left > 0 {
            left -= 1;
            words.push(line.trim_end().to_owned());
        }
    }
    words
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
            (
                "  test result: FAILED. 0 passed; 1 failed\n Summary [ 1s] 3 tests run: 2 passed, 1 failed, 0 skipped\n",
                2,
                1,
            ),
            ("nothing\n", 0, 0),
        ];
        for (log, passed, failed) in cases {
            assert_eq!(Counts::read(log), Counts { passed, failed }, "{log}");
        }
    }

    #[test]
    fn whatever_did_not_pass_at_once_is_named() {
        let log = "\
        PASS [   0.1s] ( 1/4) waxseal a::b
        \u{1b}[31;1mFAIL\u{1b}[0m [   0.9s] ( 2/4) waxseal-tests::flows one_line
   TRY 1 FAIL [   0.9s] ( 3/4) waxseal-tests::tap late
       FLAKY 2/2 [   1.0s] ( 3/4) waxseal-tests::tap late
test c::d ... FAILED
test e::f ... ok
    thread 'one_line' panicked at tests/flows.rs:1:1:
    assertion failed
    note: run with `RUST_BACKTRACE=1`
    more
   TRY 2 FAIL [   0.9s] ( 2/4) waxseal-tests::flows one_line
";
        assert_eq!(
            remarkable(log),
            [
                "failed: c::d",
                "failed: waxseal-tests::flows one_line",
                "passed the second time: waxseal-tests::tap late"
            ]
        );
        assert_eq!(
            panics(log),
            ["    thread 'one_line' panicked at tests/flows.rs:1:1:", "    assertion failed"]
        );
    }
}
