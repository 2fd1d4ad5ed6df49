//! Reads the taps of several nodes at once: the own agent's, and by way of it those of others. One thread a node.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::follow::{Mark, RETRY, is_away};
use super::lanes::{Item, Lanes, Next};
use super::nodes::Other;
use super::render::Sink;
use crate::api::{ClientError, Lines, NodeTapRequest, TapRequest};
use crate::cli::exit::{Ended, Exit};
use crate::config::Config;
use crate::flows::{Line, NodeNews, Time, read};

/// Lines of one node that may wait; a node whose lines wait is slowed down, and counts what it drops.
const WAITING: usize = 4096;
/// The longest time between two attempts to reach a node.
const RETRY_MOST: Duration = Duration::from_secs(30);

/// What is asked, and of whom beside the own agent.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) config: Config,
    pub(super) request: TapRequest,
    pub(super) others: Vec<Other>,
    /// Whether the own agent is waited for when it goes away. Others always are.
    pub(super) reconnect: bool,
    /// How often to tell what was counted.
    pub(super) every: Option<Duration>,
}

/// Where the threads leave their lines.
struct Inbox {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    lanes: Lanes,
    /// Why the own agent's tap ended, where it should not have.
    broken: Option<ClientError>,
    /// The agent has closed.
    closed: bool,
    /// Nodes that did not tell.
    silent: Vec<String>,
}

/// Shows everything.
pub(super) fn run<W: Write>(merge: &Merge, sink: &mut Sink<W>) -> anyhow::Result<Exit> {
    let lanes = Lanes::new(merge.others.len() + 1, Instant::now());
    let inner = Inner { lanes, broken: None, closed: false, silent: Vec::new() };
    let inbox = Arc::new(Inbox { inner: Mutex::new(inner), changed: Condvar::new() });
    let others = merge.others.iter().map(|other| Some(other.clone()));
    for (lane, other) in std::iter::once(None).chain(others).enumerate() {
        let reader = Reader {
            lane,
            other,
            inbox: Arc::clone(&inbox),
            config: merge.config.clone(),
            request: TapRequest { marked: true, ..merge.request.clone() },
            reconnect: merge.reconnect,
        };
        // Readers that wait for a node end with the program.
        thread::Builder::new().name(format!("tap {lane}")).spawn(move || reader.run())?;
    }
    show(&inbox, merge, sink)?;
    let mut inner = inbox.lock();
    if let Some(error) = inner.broken.take() {
        return Err(error.into());
    }
    let failed = |exit, message: String| Err(Ended { exit, message }.into());
    if inner.closed {
        return failed(Exit::NotReachable, "the agent closed the tap".to_owned());
    }
    if !inner.silent.is_empty() && !merge.request.follow {
        return failed(Exit::Failed, format!("not told by {}", inner.silent.join(", ")));
    }
    Ok(Exit::Done)
}

/// Takes lines in order until there are no more.
fn show<W: Write>(inbox: &Inbox, merge: &Merge, sink: &mut Sink<W>) -> anyhow::Result<()> {
    let mut newest = Newest { lines: VecDeque::new(), limit: merge.request.last };
    let mut due = merge.every.map(|every| Instant::now() + every);
    loop {
        let mut inner = inbox.lock();
        let now = Instant::now();
        if newest.limit.is_some() && !inner.lanes.is_past(now) {
            newest.let_go(sink)?;
        }
        if let Some(at) = due.filter(|at| *at <= now) {
            sink.tell()?;
            due = merge.every.map(|every| at.max(now) + every);
        }
        let next = if inner.broken.is_some() || inner.closed { Next::Done } else { inner.lanes.next(now) };
        match next {
            Next::Line(item) => {
                drop(inner);
                inbox.changed.notify_all();
                newest.take(&item, sink)?;
            }
            Next::Wait(patience) => {
                sink.flush()?;
                let longest =
                    if newest.limit.is_some() { Duration::from_secs(1) } else { Duration::from_mins(1) };
                let until_due = due.map_or(longest, |due| due.saturating_duration_since(now));
                let patience = patience.unwrap_or(longest).min(until_due).max(Duration::from_millis(1));
                let _woken = inbox.changed.wait_timeout(inner, patience);
            }
            Next::Done => {
                drop(inner);
                newest.let_go(sink)?;
                sink.tell()?;
                return Ok(sink.flush()?);
            }
        }
    }
}

/// Of the past of several nodes the newest lines, where that is asked for.
struct Newest {
    lines: VecDeque<String>,
    /// How many; absent once the past is over.
    limit: Option<usize>,
}

impl Newest {
    fn take<W: Write>(&mut self, item: &Item, sink: &mut Sink<W>) -> std::io::Result<()> {
        let Some(limit) = self.limit.filter(|_| item.time.is_some()) else { return sink.take(&item.text) };
        self.lines.push_back(item.text.clone());
        if self.lines.len() > limit {
            self.lines.pop_front();
        }
        Ok(())
    }

    fn let_go<W: Write>(&mut self, sink: &mut Sink<W>) -> std::io::Result<()> {
        self.limit = None;
        std::mem::take(&mut self.lines).iter().try_for_each(|line| sink.take(line))
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Leaves a line; waits while there are too many.
    fn push(&self, lane: usize, item: Item) {
        let mut inner = self.lock();
        while inner.lanes.waiting(lane) >= WAITING {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.lanes.push(lane, item);
        drop(inner);
        self.changed.notify_all();
    }
}

/// The thread of one node.
struct Reader {
    lane: usize,
    /// `None` for the own agent.
    other: Option<Other>,
    inbox: Arc<Inbox>,
    config: Config,
    request: TapRequest,
    reconnect: bool,
}

impl Reader {
    fn run(self) {
        let mut mark = Mark::default();
        let mut retry = RETRY;
        let mut told = None;
        loop {
            let began = Instant::now();
            let ended = self.open(&mark).and_then(|lines| self.read(lines, &mut mark, &mut told));
            let until = self.request.filter.until;
            let over = !self.request.follow || until.is_some_and(|until| until <= Time::now());
            match (&self.other, ended) {
                (_, Ok(())) if over => return self.inbox.change(|inner| inner.lanes.done(self.lane)),
                (None, Err(error)) if !(self.reconnect && is_away(&error)) => {
                    return self.inbox.change(|inner| inner.broken = Some(error));
                }
                (None, Ok(())) if !self.reconnect => return self.inbox.change(|inner| inner.closed = true),
                (None, _) => {}
                (Some(other), ended) => {
                    self.tell(&other.name, ended.err(), &mut told);
                    if over {
                        return self.inbox.change(|inner| {
                            inner.silent.push(other.name.clone());
                            inner.lanes.done(self.lane);
                        });
                    }
                }
            }
            self.inbox.change(|inner| inner.lanes.away(self.lane));
            retry = if began.elapsed() > RETRY_MOST { RETRY } else { retry };
            thread::sleep(retry);
            retry = if self.other.is_some() { (retry * 2).min(RETRY_MOST) } else { RETRY };
        }
    }

    fn open(&self, mark: &Mark) -> Result<Lines, ClientError> {
        let client = crate::cli::connect(&self.config)?;
        let tap = mark.go_on(&self.request);
        match &self.other {
            None => client.tap(tap),
            Some(Other { name, agent }) => {
                client.tap_node(NodeTapRequest { node: name.clone(), agent: *agent, tap })
            }
        }
    }

    /// To the end of the tap.
    fn read(&self, mut lines: Lines, mark: &mut Mark, told: &mut Option<String>) -> Result<(), ClientError> {
        while let Some(text) = lines.next_line()? {
            if let Some(other) = self.other.as_ref().filter(|_| told.is_some()) {
                *told = None;
                self.news(&NodeNews::new(&other.name, None));
            }
            if text.is_empty() || !mark.is_new(&text) {
                continue;
            }
            let time = match read(&text) {
                Ok(Line::Present) => {
                    self.inbox.change(|inner| inner.lanes.present(self.lane));
                    continue;
                }
                Ok(Line::Flow(flow)) => Some(flow.time),
                _ => None,
            };
            self.inbox.push(self.lane, Item { text, time, at: Instant::now() });
        }
        Ok(())
    }

    /// Says that a node does not tell, once for each reason.
    fn tell(&self, node: &str, error: Option<ClientError>, told: &mut Option<String>) {
        let why = error.map_or_else(|| "its agent has closed the tap".to_owned(), |error| error.to_string());
        if told.as_ref() != Some(&why) {
            self.news(&NodeNews::new(node, Some(&why)));
            *told = Some(why);
        }
    }

    fn news(&self, news: &NodeNews) {
        let mut line = Vec::new();
        news.json(&mut line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        self.inbox.push(self.lane, Item { text, time: None, at: Instant::now() });
    }
}
