//! Where flows meet their readers.
//!
//! The node publishes and never waits: each reader has a bounded queue, and a reader that is too slow loses the oldest
//! flows of its own queue, is told how many, and delays nobody else. For every reader, what was wanted equals what was
//! delivered plus what was told as lost plus what still waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Notify;
use waxseal_common::flow::Kind;

use crate::flows::{Filter, Flow};

/// How many flows of the past are kept.
pub(super) const HISTORY: usize = 4096;
/// How many flows may wait for one reader. They are mostly those of the history, held once.
pub(super) const QUEUE: usize = 4096;
/// How many readers there may be.
pub(super) const TAPS: usize = 64;

/// The flows of the past and the readers of the present.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    history: usize,
    queue: usize,
    taps: usize,
}

#[derive(Debug, Default)]
struct Inner {
    history: VecDeque<Arc<Flow>>,
    taps: Vec<Arc<Queue>>,
    published: u64,
    /// Losses of readers that are gone.
    lost: u64,
}

#[derive(Debug)]
struct Queue {
    filter: Filter,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    flows: VecDeque<Arc<Flow>>,
    /// Dropped since the reader was last told.
    untold: u64,
    /// Dropped altogether.
    lost: u64,
}

/// How the readers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapReport {
    /// How many there are.
    pub readers: u64,
    /// Flows published since the start.
    pub published: u64,
    /// Flows that slow readers lost since the start.
    pub lost: u64,
}

/// Which flows of the past come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All that are kept.
    All,
    /// The newest, so many.
    Last(usize),
}

/// There are as many readers as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{limit} taps are open, which is the most; close one first")]
pub struct TooManyTaps {
    /// How many there may be.
    pub limit: usize,
}

/// One reader's end. Dropping it ends the tap.
#[derive(Debug)]
pub struct Tap {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

/// What a reader gets at once. The lost flows are older than the ones delivered.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// How many were dropped since the batch before.
    pub lost: u64,
    /// In the order of publishing.
    pub flows: Vec<Arc<Flow>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self::with_limits(Limits { history: HISTORY, queue: QUEUE, taps: TAPS })
    }
}

impl Hub {
    fn with_limits(limits: Limits) -> Self {
        Self { inner: Mutex::default(), limits }
    }

    /// Hands a flow to every reader that wants it. Never waits for one.
    pub fn publish(&self, flow: Flow) {
        let flow = Arc::new(flow);
        let mut inner = self.inner();
        inner.published += 1;
        for tap in &inner.taps {
            if tap.filter.wants(&flow) {
                tap.push(&flow, self.limits.queue);
            }
        }
        push_bounded(&mut inner.history, flow, self.limits.history);
    }

    /// Adds a reader and gives it the past that it wants. No flow falls between the past and the present.
    pub fn subscribe(
        self: &Arc<Self>,
        filter: Filter,
        replay: Replay,
    ) -> Result<(Vec<Arc<Flow>>, Tap), TooManyTaps> {
        let mut inner = self.inner();
        if inner.taps.len() >= self.limits.taps {
            return Err(TooManyTaps { limit: self.limits.taps });
        }
        let past = inner.past(&filter, replay);
        let queue = Arc::new(Queue { filter, waiting: Mutex::default(), arrived: Notify::new() });
        inner.taps.push(Arc::clone(&queue));
        Ok((past, Tap { hub: Arc::clone(self), queue }))
    }

    /// The past alone.
    pub fn history(&self, filter: &Filter, replay: Replay) -> Vec<Arc<Flow>> {
        self.inner().past(filter, replay)
    }

    /// The newest flow of a socket that judged a connection, or else the newest one.
    pub fn flow(&self, cookie: u64) -> Option<Arc<Flow>> {
        let inner = self.inner();
        let of_it = || inner.history.iter().rev().filter(|flow| flow.cookie == cookie);
        of_it().find(|flow| flow.kind != Kind::Closed).or_else(|| of_it().next()).cloned()
    }

    /// How the readers are.
    pub fn report(&self) -> TapReport {
        let inner = self.inner();
        let lost: u64 = inner.taps.iter().map(|tap| tap.waiting().lost).sum();
        TapReport { readers: inner.taps.len() as u64, published: inner.published, lost: inner.lost + lost }
    }

    /// A panic elsewhere leaves the data whole: every change here is one push or one pop.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn past(&self, filter: &Filter, replay: Replay) -> Vec<Arc<Flow>> {
        let count = match replay {
            Replay::All => usize::MAX,
            Replay::Last(count) => count,
        };
        let mut past: Vec<_> =
            self.history.iter().rev().filter(|flow| filter.wants(flow)).take(count).cloned().collect();
        past.reverse();
        past
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, flow: &Arc<Flow>, limit: usize) {
        let mut waiting = self.waiting();
        let dropped = push_bounded(&mut waiting.flows, Arc::clone(flow), limit);
        waiting.untold += dropped;
        waiting.lost += dropped;
        drop(waiting);
        self.arrived.notify_one();
    }
}

/// How many were dropped: 0 or 1.
fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) -> u64 {
    let full = queue.len() >= limit;
    if full {
        queue.pop_front();
    }
    queue.push_back(item);
    u64::from(full)
}

impl Tap {
    /// Waits for the next flows, at most `limit` of them. May be cancelled: nothing is taken before it returns.
    pub async fn next(&self, limit: usize) -> Batch {
        loop {
            let arrived = self.queue.arrived.notified();
            let batch = self.take(limit);
            if batch.lost > 0 || !batch.flows.is_empty() {
                return batch;
            }
            arrived.await;
        }
    }

    /// What waits now.
    fn take(&self, limit: usize) -> Batch {
        let mut waiting = self.queue.waiting();
        let count = limit.min(waiting.flows.len());
        let flows = waiting.flows.drain(..count).collect();
        Batch { lost: std::mem::take(&mut waiting.untold), flows }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        inner.taps.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        inner.lost += self.queue.waiting().lost;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flows::samples::{allowed, denied, flow};

    fn hub(history: usize, queue: usize, taps: usize) -> Arc<Hub> {
        Arc::new(Hub::with_limits(Limits { history, queue, taps }))
    }

    fn numbered(number: u64) -> Flow {
        Flow { cookie: number, ..flow(&allowed()) }
    }

    fn numbers(flows: &[Arc<Flow>]) -> Vec<u64> {
        flows.iter().map(|flow| flow.cookie).collect()
    }

    #[tokio::test]
    async fn a_reader_gets_every_flow_in_order() {
        let hub = hub(4, 100, 1);
        let (past, tap) = hub.subscribe(Filter::default(), Replay::All).unwrap();
        assert!(past.is_empty());
        (0..100).for_each(|number| hub.publish(numbered(number)));
        let batch = tap.next(1000).await;
        assert_eq!((batch.lost, numbers(&batch.flows)), (0, (0..100).collect()));
    }

    #[tokio::test]
    async fn a_stalled_reader_loses_the_oldest_is_told_and_holds_nobody_up() {
        let hub = hub(4, 10, 2);
        let (_, stalled) = hub.subscribe(Filter::default(), Replay::All).unwrap();
        let (_, quick) = hub.subscribe(Filter::default(), Replay::All).unwrap();
        for number in 0..25 {
            hub.publish(numbered(number));
            assert_eq!(numbers(&quick.next(1).await.flows), [number]);
        }
        let batch = stalled.next(3).await;
        assert_eq!((batch.lost, numbers(&batch.flows)), (15, vec![15, 16, 17]));
        let batch = stalled.next(100).await;
        assert_eq!((batch.lost, numbers(&batch.flows)), (0, (18..25).collect()));
        assert_eq!(hub.report(), TapReport { readers: 2, published: 25, lost: 15 });
        drop(stalled);
        assert_eq!(hub.report(), TapReport { readers: 1, published: 25, lost: 15 });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_sent_is_what_was_delivered_plus_what_was_lost() {
        const SENT: u64 = 20_000;
        let hub = hub(16, 32, 8);
        let readers: Vec<_> = (0..4u64)
            .map(|pace| {
                let (_, tap) = hub.subscribe(Filter::default(), Replay::All).unwrap();
                tokio::spawn(async move {
                    let (mut delivered, mut lost, mut last) = (0, 0, None);
                    while last != Some(SENT - 1) {
                        let batch = tap.next(7).await;
                        for flow in &batch.flows {
                            assert!(last < Some(flow.cookie), "out of order");
                            last = Some(flow.cookie);
                        }
                        delivered += batch.flows.len() as u64;
                        lost += batch.lost;
                        if pace > 0 {
                            tokio::time::sleep(Duration::from_micros(pace * 50)).await;
                        }
                    }
                    assert_eq!(delivered + lost, SENT, "pace {pace}");
                    lost
                })
            })
            .collect();
        let publisher = Arc::clone(&hub);
        tokio::task::spawn_blocking(move || (0..SENT).for_each(|number| publisher.publish(numbered(number))))
            .await
            .unwrap();
        let mut lost = 0;
        for reader in readers {
            lost += reader.await.unwrap();
        }
        assert_eq!(hub.report(), TapReport { readers: 0, published: SENT, lost });
    }

    #[tokio::test]
    async fn filters_are_applied_before_the_queue_so_that_noise_costs_nothing() {
        let hub = hub(4, 2, 1);
        let denials = Filter { verdict: vec!["deny".parse().unwrap()], ..Filter::default() };
        let (_, tap) = hub.subscribe(denials, Replay::All).unwrap();
        hub.publish(flow(&denied()));
        (0..100).for_each(|number| hub.publish(numbered(number)));
        let batch = tap.next(10).await;
        assert_eq!((batch.lost, batch.flows.len()), (0, 1));
    }

    #[test]
    fn the_past_is_bounded_and_joins_the_present_without_a_gap() {
        for (replay, expected) in [
            (Replay::All, vec![3, 4, 5, 6, 7]),
            (Replay::Last(2), vec![6, 7]),
            (Replay::Last(0), vec![]),
            (Replay::Last(99), vec![3, 4, 5, 6, 7]),
        ] {
            let hub = hub(5, 10, 1);
            (0..8).for_each(|number| hub.publish(numbered(number)));
            let (past, tap) = hub.subscribe(Filter::default(), replay).unwrap();
            hub.publish(numbered(100));
            assert_eq!((numbers(&past), numbers(&tap.take(10).flows)), (expected, vec![100]), "{replay:?}");
        }
    }

    #[test]
    fn there_may_be_so_many_readers_and_no_more() {
        let hub = hub(1, 1, 2);
        let first = hub.subscribe(Filter::default(), Replay::All).unwrap();
        let _second = hub.subscribe(Filter::default(), Replay::All).unwrap();
        assert_eq!(hub.subscribe(Filter::default(), Replay::All).unwrap_err(), TooManyTaps { limit: 2 });
        drop(first);
        assert!(hub.subscribe(Filter::default(), Replay::All).is_ok());
    }

    #[test]
    fn a_full_hub_stays_small() {
        assert!(size_of::<Flow>() <= 320, "{} bytes a flow", size_of::<Flow>());
    }
}
