//! Where flows meet their readers.
//!
//! The node publishes and never waits: each reader has a bounded queue, and a reader that is too slow loses the oldest
//! flows of its own queue, is told how many, and delays nobody else. For every reader, what was wanted equals what was
//! delivered plus what was told as lost plus what still waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use waxseal_common::flow::{FlowEvent, Kind};

use super::archive::{Archive, View};
use crate::flows::{Cause, Filter, Flow, Loss, Losses, Time};

/// How many flows of the past are kept in memory.
pub(super) const HISTORY: usize = 4096;
/// How many flows may wait for one reader: a sixth of a second at 200,000 a second. They are held once for all readers.
pub(super) const QUEUE: usize = 32_768;
/// How many readers there may be.
pub(super) const TAPS: usize = 64;

/// The flows of the past and the readers of the present.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    limits: Limits,
    archive: Option<Box<dyn Archive>>,
    /// Whether somebody wants both views of a connection.
    raw: watch::Sender<bool>,
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
    /// Every flow later than this is in memory.
    forgotten: Time,
    taps: Vec<Arc<Queue>>,
    published: u64,
    /// What every reader has missed: lost before there was anything to tell.
    losses: Losses,
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
    /// Missing since the reader was last told.
    untold: Losses,
    /// Dropped altogether, because this reader was slow.
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

/// Where the flows of the past are that a reader wants.
#[derive(Debug)]
pub enum Past {
    /// These are all.
    Memory(Vec<Arc<Flow>>),
    /// In the archive, which must be searched; it holds those in memory too.
    Archive(Box<dyn View>),
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
    /// What is missing since the batch before.
    pub lost: Losses,
    /// In the order of publishing.
    pub flows: Vec<Arc<Flow>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self::with_limits(Limits { history: HISTORY, queue: QUEUE, taps: TAPS })
    }
}

impl Hub {
    /// A hub that keeps a longer past elsewhere too.
    pub fn with_archive(archive: Option<Box<dyn Archive>>) -> Self {
        Self { archive, ..Self::default() }
    }

    fn with_limits(limits: Limits) -> Self {
        let inner = Inner { forgotten: Time::now(), ..Inner::default() };
        Self { inner: Mutex::new(inner), limits, archive: None, raw: watch::Sender::new(false) }
    }

    /// Hands flows to every reader that wants them, in this order. Never waits for one.
    pub fn publish(&self, batch: Vec<(FlowEvent, Flow)>) {
        let batch: Vec<_> = batch.into_iter().map(|(event, flow)| (event, Arc::new(flow))).collect();
        let mut inner = self.inner();
        inner.published += batch.len() as u64;
        for tap in &inner.taps {
            tap.push(batch.iter().map(|(_, flow)| flow), self.limits.queue);
        }
        // Second views are for those who are there: the past has one line for each connection.
        let batch: Vec<_> = if batch.iter().any(|(_, flow)| flow.second) {
            batch.into_iter().filter(|(_, flow)| !flow.second).collect()
        } else {
            batch
        };
        if let Some(archive) = &self.archive {
            archive.keep(&batch);
        }
        // Of a long batch only the end would stay.
        let skip = batch.len().saturating_sub(self.limits.history);
        for (place, (_, flow)) in batch.into_iter().enumerate() {
            if place < skip {
                inner.forgotten = inner.forgotten.max(flow.time);
            } else if let Some(oldest) = push_bounded(&mut inner.history, flow, self.limits.history) {
                inner.forgotten = inner.forgotten.max(oldest.time);
            }
        }
    }

    /// Tells every reader, and the archive, that flows are missing. Nobody knows whether a reader would have wanted them.
    pub fn lose(&self, loss: Loss) {
        let mut inner = self.inner();
        inner.losses.add(loss.cause, loss.count);
        for tap in &inner.taps {
            tap.waiting().untold.add(loss.cause, loss.count);
            tap.arrived.notify_one();
        }
        if let Some(archive) = &self.archive {
            archive.note(loss);
        }
    }

    /// Adds a reader and gives it the past that it wants. No flow falls between the past and the present.
    pub fn subscribe(self: &Arc<Self>, filter: Filter, replay: Replay) -> Result<(Past, Tap), TooManyTaps> {
        let mut inner = self.inner();
        if inner.taps.len() >= self.limits.taps {
            return Err(TooManyTaps { limit: self.limits.taps });
        }
        let past = self.past(&inner, &filter, replay);
        let queue = Arc::new(Queue { filter, waiting: Mutex::default(), arrived: Notify::new() });
        inner.taps.push(Arc::clone(&queue));
        self.tell_raw(&inner);
        Ok((past, Tap { hub: Arc::clone(self), queue }))
    }

    /// Whether somebody wants both views of a connection, now and whenever it changes.
    pub fn raw(&self) -> watch::Receiver<bool> {
        self.raw.subscribe()
    }

    /// Under the lock, so that the last change is the last word.
    fn tell_raw(&self, inner: &Inner) {
        let raw = inner.taps.iter().any(|tap| tap.filter.raw);
        self.raw.send_if_modified(|told| std::mem::replace(told, raw) != raw);
    }

    /// The past alone.
    pub fn history(&self, filter: &Filter, replay: Replay) -> Past {
        self.past(&self.inner(), filter, replay)
    }

    /// Under the lock, so that the archive's view ends where the reader's present begins.
    fn past(&self, inner: &Inner, filter: &Filter, replay: Replay) -> Past {
        let flows = inner.past(filter, replay);
        let whole = filter.since.is_some_and(|since| since > inner.forgotten);
        let enough = matches!(replay, Replay::Last(count) if flows.len() >= count);
        match &self.archive {
            Some(archive) if !whole && !enough => Past::Archive(archive.view()),
            _ => Past::Memory(flows),
        }
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

    /// What every reader has missed since the start.
    pub fn losses(&self) -> Losses {
        self.inner().losses
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

    fn push<'a>(&self, flows: impl Iterator<Item = &'a Arc<Flow>>, limit: usize) {
        let mut wanted = flows.filter(|flow| self.filter.wants(flow)).peekable();
        if wanted.peek().is_none() {
            return;
        }
        let mut waiting = self.waiting();
        let Waiting { flows, untold, lost } = &mut *waiting;
        for flow in wanted {
            if push_bounded(flows, Arc::clone(flow), limit).is_some() {
                untold.add(Cause::SlowReader, 1);
                *lost += 1;
            }
        }
        drop(waiting);
        self.arrived.notify_one();
    }
}

/// What had to go.
fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) -> Option<T> {
    let oldest = if queue.len() >= limit { queue.pop_front() } else { None };
    queue.push_back(item);
    oldest
}

impl Tap {
    /// Waits for the next flows, at most `limit` of them. May be cancelled: nothing is taken before it returns.
    pub async fn next(&self, limit: usize) -> Batch {
        loop {
            let arrived = self.queue.arrived.notified();
            let batch = self.take(limit);
            if !batch.lost.is_empty() || !batch.flows.is_empty() {
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
        self.hub.tell_raw(&inner);
    }
}

#[cfg(test)]
impl Hub {
    /// One flow that no event stands for.
    pub(super) fn tell(&self, flow: Flow) {
        self.publish(vec![(FlowEvent::default(), flow)]);
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

    fn slow(batch: &Batch) -> u64 {
        batch.lost.of(Cause::SlowReader)
    }

    fn memory(past: Past) -> Vec<Arc<Flow>> {
        let Past::Memory(flows) = past else { panic!("{past:?}") };
        flows
    }

    fn numbers(flows: &[Arc<Flow>]) -> Vec<u64> {
        flows.iter().map(|flow| flow.cookie).collect()
    }

    #[tokio::test]
    async fn a_reader_gets_every_flow_in_order() {
        let hub = hub(4, 100, 1);
        let (past, tap) = hub.subscribe(Filter::default(), Replay::All).unwrap();
        assert!(memory(past).is_empty());
        (0..100).for_each(|number| hub.tell(numbered(number)));
        let batch = tap.next(1000).await;
        assert_eq!((slow(&batch), numbers(&batch.flows)), (0, (0..100).collect()));
    }

    #[tokio::test]
    async fn a_second_view_is_for_raw_readers_and_kept_for_nobody() {
        let hub = hub(4, 10, 2);
        let raw = hub.raw();
        let second = || Flow { second: true, ..numbered(2) };
        let (_, plain) = hub.subscribe(Filter::default(), Replay::All).unwrap();
        assert!(!*raw.borrow());
        let (_, both) = hub.subscribe(Filter { raw: true, ..Filter::default() }, Replay::All).unwrap();
        assert!(*raw.borrow());
        hub.tell(numbered(1));
        hub.tell(second());
        assert_eq!(numbers(&plain.next(9).await.flows), [1]);
        assert_eq!(numbers(&both.next(9).await.flows), [1, 2]);
        let past = hub.history(&Filter { raw: true, ..Filter::default() }, Replay::All);
        assert_eq!(numbers(&memory(past)), [1]);
        drop(both);
        assert!(!*raw.borrow());
    }

    #[tokio::test]
    async fn a_stalled_reader_loses_the_oldest_is_told_and_holds_nobody_up() {
        let hub = hub(4, 10, 2);
        let (_, stalled) = hub.subscribe(Filter::default(), Replay::All).unwrap();
        let (_, quick) = hub.subscribe(Filter::default(), Replay::All).unwrap();
        for number in 0..25 {
            hub.tell(numbered(number));
            assert_eq!(numbers(&quick.next(1).await.flows), [number]);
        }
        let batch = stalled.next(3).await;
        assert_eq!((slow(&batch), numbers(&batch.flows)), (15, vec![15, 16, 17]));
        let batch = stalled.next(100).await;
        assert_eq!((slow(&batch), numbers(&batch.flows)), (0, (18..25).collect()));
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
                        lost += slow(&batch);
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
        tokio::task::spawn_blocking(move || (0..SENT).for_each(|number| publisher.tell(numbered(number))))
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
        hub.tell(flow(&denied()));
        (0..100).for_each(|number| hub.tell(numbered(number)));
        let batch = tap.next(10).await;
        assert_eq!((slow(&batch), batch.flows.len()), (0, 1));
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
            (0..8).for_each(|number| hub.tell(numbered(number)));
            let (past, tap) = hub.subscribe(Filter::default(), replay).unwrap();
            hub.tell(numbered(100));
            assert_eq!(
                (numbers(&memory(past)), numbers(&tap.take(10).flows)),
                (expected, vec![100]),
                "{replay:?}"
            );
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

    #[tokio::test]
    async fn what_the_kernel_lost_is_told_to_every_reader_whatever_it_wants() {
        let hub = hub(4, 2, 2);
        let denials = Filter { verdict: vec!["deny".parse().unwrap()], ..Filter::default() };
        for filter in [denials, Filter::default()] {
            let (_, tap) = hub.subscribe(filter, Replay::All).unwrap();
            hub.lose(Loss { count: 3, cause: Cause::FlowRing });
            hub.lose(Loss { count: 4, cause: Cause::DenialRing });
            hub.lose(Loss { count: 5, cause: Cause::FlowRing });
            let batch = tap.next(10).await;
            assert_eq!((batch.lost.of(Cause::FlowRing), batch.lost.of(Cause::DenialRing)), (8, 4));
            assert!(batch.flows.is_empty());
        }
        assert_eq!(hub.losses().of(Cause::FlowRing), 16);
        // Only what a reader itself was too slow for is its own loss.
        assert_eq!(hub.report().lost, 0);
    }

    #[test]
    fn the_archive_is_asked_only_for_what_memory_does_not_hold() {
        #[derive(Debug)]
        struct Elsewhere;
        impl Archive for Elsewhere {
            fn keep(&self, _batch: &[(FlowEvent, Arc<Flow>)]) {}
            fn note(&self, _loss: Loss) {}
            fn view(&self) -> Box<dyn View> {
                Box::new(Self)
            }
        }
        impl View for Elsewhere {
            fn search(
                self: Box<Self>,
                _filter: &Filter,
                _replay: Replay,
                _each: &mut dyn FnMut(super::super::archive::Found) -> std::ops::ControlFlow<()>,
            ) {
            }
        }
        let limits = Limits { history: 4, queue: 4, taps: 1 };
        let hub = Hub { archive: Some(Box::new(Elsewhere)), ..Hub::with_limits(limits) };
        let at = |ms: u64| Flow { time: Time(Time::now().0 + ms), ..numbered(ms) };
        let since = |ms: u64| Filter { since: Some(Time(Time::now().0 + ms)), ..Filter::default() };
        (1..=6).for_each(|count| hub.tell(at(count * 100_000)));
        for (filter, replay, archived) in [
            (Filter::default(), Replay::Last(4), false),
            (Filter::default(), Replay::Last(5), true),
            (Filter::default(), Replay::All, true),
            // The second was the last one to be forgotten.
            (since(190_000), Replay::All, true),
            (since(250_000), Replay::All, false),
            (since(250_000), Replay::Last(50), false),
        ] {
            let past = hub.history(&filter, replay);
            assert_eq!(matches!(past, Past::Archive(_)), archived, "{replay:?} {:?}", filter.since);
        }
    }

    #[test]
    fn a_full_hub_stays_small() {
        assert!(size_of::<Flow>() <= 320, "{} bytes a flow", size_of::<Flow>());
    }
}
