//! Several taps in order of time. Each lane is in order by itself; a lane that has nothing is waited for a moment, and what
//! comes later than that stands where it came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::flows::Time;

/// How long a line waits for an earlier one of another node.
pub(super) const WINDOW: Duration = Duration::from_millis(500);
/// How long the past of all waits for one that says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) text: String,
    /// When it happened; absent for what has no time of its own and is shown at once.
    pub(super) time: Option<Time>,
    /// When it came.
    pub(super) at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It tells the past: its next line is waited for.
    Past,
    Present,
    /// It is away and may come back.
    Away,
    /// Nothing will come.
    Done,
}

#[derive(Debug)]
struct Lane {
    stage: Stage,
    waiting: VecDeque<(bool, Item)>,
    heard: Instant,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Line(Item),
    /// Nothing for so long, unless something comes; for ever when absent.
    Wait(Option<Duration>),
    /// Nothing ever.
    Done,
}

/// All taps.
#[derive(Debug)]
pub(super) struct Lanes(Vec<Lane>);

impl Lanes {
    pub(super) fn new(count: usize, now: Instant) -> Self {
        let lane = || Lane { stage: Stage::Past, waiting: VecDeque::new(), heard: now };
        Self((0..count).map(|_| lane()).collect())
    }

    pub(super) fn push(&mut self, lane: usize, item: Item) {
        let lane = &mut self.0[lane];
        lane.heard = item.at;
        lane.waiting.push_back((lane.stage == Stage::Past, item));
    }

    /// How many lines of a lane wait.
    pub(super) fn waiting(&self, lane: usize) -> usize {
        self.0[lane].waiting.len()
    }

    pub(super) fn present(&mut self, lane: usize) {
        self.0[lane].stage = Stage::Present;
    }

    pub(super) fn away(&mut self, lane: usize) {
        self.0[lane].stage = Stage::Away;
    }

    pub(super) fn done(&mut self, lane: usize) {
        self.0[lane].stage = Stage::Done;
    }

    /// Whether anybody still tells the past.
    pub(super) fn is_past(&self, now: Instant) -> bool {
        self.0.iter().any(|lane| lane.stage == Stage::Past && now.duration_since(lane.heard) < PATIENCE)
            || self.0.iter().any(|lane| lane.waiting.front().is_some_and(|(past, _)| *past))
    }

    /// The next line to be shown now.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let Some(first) = self.first() else {
            let done = self.0.iter().all(|lane| lane.stage == Stage::Done);
            return if done { Next::Done } else { Next::Wait(None) };
        };
        let wait = self.wait(first, now);
        if !wait.is_zero() {
            return Next::Wait(Some(wait));
        }
        match self.0[first].waiting.pop_front() {
            Some((_, item)) => Next::Line(item),
            None => Next::Wait(None),
        }
    }

    /// The lane with the earliest line.
    fn first(&self) -> Option<usize> {
        let heads =
            self.0.iter().enumerate().filter_map(|(lane, it)| Some((it.waiting.front()?.1.time, lane)));
        heads.min().map(|(_, lane)| lane)
    }

    /// How long the first line of a lane waits for lines of others that may be earlier.
    fn wait(&self, first: usize, now: Instant) -> Duration {
        let Some((past, item)) = self.0[first].waiting.front() else { return Duration::ZERO };
        if item.time.is_none() {
            return Duration::ZERO;
        }
        let left =
            |since: Instant, limit: Duration| limit.saturating_sub(now.saturating_duration_since(since));
        let empty = self.0.iter().filter(|lane| lane.waiting.is_empty());
        let waits = empty.map(|lane| match lane.stage {
            Stage::Past => left(lane.heard, PATIENCE),
            Stage::Present if !past => left(item.at, WINDOW),
            Stage::Present | Stage::Away | Stage::Done => Duration::ZERO,
        });
        waits.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str, time: u64, at: Instant) -> Item {
        Item { text: text.to_owned(), time: Some(Time(time)), at }
    }

    fn drain(lanes: &mut Lanes, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| match lanes.next(now) {
            Next::Line(item) => Some(item.text),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn the_past_of_all_is_in_order_and_waits_for_whoever_has_said_nothing_yet() {
        let now = Instant::now();
        let mut lanes = Lanes::new(2, now);
        (1..4).for_each(|time| lanes.push(0, item(&format!("a{time}"), time * 10, now)));
        assert!(matches!(lanes.next(now), Next::Wait(Some(_))));
        lanes.push(1, item("b1", 15, now));
        assert_eq!(drain(&mut lanes, now), ["a1", "b1"], "what b says next may be earlier than a2");
        lanes.present(1);
        lanes.present(0);
        assert!(lanes.is_past(now));
        assert_eq!(drain(&mut lanes, now), ["a2", "a3"]);
        assert!(!lanes.is_past(now));
        // Somebody who never speaks is waited for, but not for ever.
        let mut lanes = Lanes::new(2, now);
        lanes.push(0, item("a", 1, now));
        assert!(drain(&mut lanes, now).is_empty());
        assert_eq!(drain(&mut lanes, now + PATIENCE), ["a"]);
    }

    #[test]
    fn the_present_waits_a_moment_and_what_is_later_stands_where_it_came() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let mut lanes = Lanes::new(3, now);
        (0..3).for_each(|lane| lanes.present(lane));
        lanes.away(2);
        lanes.push(0, item("a", 100, now));
        assert_eq!(lanes.next(now), Next::Wait(Some(WINDOW)));
        lanes.push(1, item("b", 90, now + ms(200)));
        assert_eq!(drain(&mut lanes, now + ms(200)), ["b"], "both are there: the earlier one comes");
        assert_eq!(drain(&mut lanes, now + WINDOW), ["a"], "nothing came in time");
        lanes.push(1, item("late", 95, now + ms(600)));
        assert_eq!(drain(&mut lanes, now + ms(1100)), ["late"]);
    }

    #[test]
    fn news_are_told_at_once_and_all_that_are_done_end_it() {
        let now = Instant::now();
        let mut lanes = Lanes::new(2, now);
        lanes.push(0, item("a", 100, now));
        lanes.push(1, Item { text: "news".to_owned(), time: None, at: now });
        assert_eq!(drain(&mut lanes, now), ["news"]);
        lanes.done(1);
        assert_eq!(drain(&mut lanes, now), ["a"]);
        assert_eq!(lanes.next(now), Next::Wait(None));
        lanes.done(0);
        assert_eq!(lanes.next(now), Next::Done);
    }
}
