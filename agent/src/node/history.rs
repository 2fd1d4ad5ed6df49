//! The thread that keeps the flows of the past, and the hub's way to it.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use waxseal_common::flow::FlowEvent;

use super::Error;
use crate::api::{Archive, Found, Replay, View};
use crate::config::Config;
use crate::flows::{Cause, Filter, Flow, Loss};
use crate::history::{self, Limits, Search, State, Want, Writer};

/// How long a flow may wait in memory.
const FLUSH: Duration = Duration::from_millis(250);
/// How often to look for what is too old.
const TRIM: Duration = Duration::from_mins(1);
/// How many flows may wait for the disk.
const WAITING: u64 = 65_536;
/// How long a search waits for the disk to take what came before it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way to the thread.
#[derive(Debug)]
struct Keeper {
    inbox: Sender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Flows that wait for the disk.
    waiting: AtomicU64,
    /// Flows that found no room to wait, and have not been noted yet.
    untold: AtomicU64,
    state: Mutex<State>,
}

enum Message {
    Flows(Vec<(FlowEvent, Arc<Flow>)>),
    Lost(Loss),
    /// Somebody wants to search what came before this.
    Look(Sender<Search>),
    Stop,
}

/// The running thread. Dropping it writes what waits and ends it.
#[derive(Debug)]
pub(super) struct Running {
    inbox: Sender<Message>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The thread, and the hub's way to it.
type Started = (Running, Box<dyn Archive>);

/// Starts keeping flows, where the configuration wants it. A history that cannot be kept is no reason not to guard.
pub(super) fn start(config: &Config) -> Result<Option<Started>, Error> {
    let Some(bytes) = config.history else { return Ok(None) };
    let limits = Limits { bytes, age: config.history_age };
    match Writer::open(config.state.join("flows"), limits) {
        Ok(writer) => spawn(writer).map(Some).map_err(Error::Start),
        Err(error) => {
            tracing::error!(%error, "the flows of the past are not kept");
            Ok(None)
        }
    }
}

fn spawn(writer: Writer) -> io::Result<Started> {
    let (inbox, messages) = channel();
    let shared = Arc::new(Shared { state: Mutex::new(writer.state()), ..Shared::default() });
    let own = Arc::clone(&shared);
    let thread = Builder::new().name("history".to_owned()).spawn(move || work(writer, &messages, &own))?;
    let keeper = Keeper { inbox: inbox.clone(), shared: Arc::clone(&shared) };
    Ok((Running { inbox, shared, thread: Some(thread) }, Box::new(keeper)))
}

impl Running {
    /// How the history is.
    pub(super) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared))
    }
}

/// A look at how the history is.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Shared>);

impl Watch {
    pub(super) fn state(&self) -> State {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.inbox.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn work(mut writer: Writer, messages: &Receiver<Message>, shared: &Shared) {
    let (mut flushed, mut trimmed) = (Instant::now(), Instant::now());
    let mut waits = false;
    loop {
        // Where nothing waits for the disk, nothing wakes this thread but what is too old.
        let received = messages.recv_timeout(if waits { FLUSH } else { TRIM });
        waits |= received.is_ok();
        match received {
            Ok(Message::Flows(flows)) => {
                for (event, flow) in &flows {
                    writer.write(event, flow);
                }
                shared.waiting.fetch_sub(flows.len() as u64, Relaxed);
            }
            Ok(Message::Lost(loss)) => writer.lose(loss),
            Ok(Message::Look(reply)) => {
                writer.flush();
                // Whoever asked may have gone.
                let _gone = reply.send(Search::new(writer.extents()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
        let untold = shared.untold.swap(0, Relaxed);
        if untold > 0 {
            writer.lose(Loss { count: untold, cause: Cause::History });
        }
        if flushed.elapsed() >= FLUSH {
            flushed = Instant::now();
            waits = false;
            writer.flush();
        }
        if trimmed.elapsed() >= TRIM {
            trimmed = Instant::now();
            writer.trim();
        }
        *shared.state.lock().unwrap_or_else(PoisonError::into_inner) = writer.state();
    }
}

impl Archive for Keeper {
    fn keep(&self, batch: &[(FlowEvent, Arc<Flow>)]) {
        let count = batch.len() as u64;
        if self.shared.waiting.load(Relaxed) + count > WAITING {
            self.shared.untold.fetch_add(count, Relaxed);
            return;
        }
        self.shared.waiting.fetch_add(count, Relaxed);
        if self.inbox.send(Message::Flows(batch.to_vec())).is_err() {
            self.shared.untold.fetch_add(count, Relaxed);
        }
    }

    fn note(&self, loss: Loss) {
        // The thread ends with the agent.
        let _ended = self.inbox.send(Message::Lost(loss));
    }

    fn view(&self) -> Box<dyn View> {
        let (reply, search) = channel();
        let _ended = self.inbox.send(Message::Look(reply));
        Box::new(Looking(search))
    }
}

/// A view on its way: the thread answers when it comes to it.
#[derive(Debug)]
struct Looking(Receiver<Search>);

impl View for Looking {
    fn search(
        self: Box<Self>,
        filter: &Filter,
        replay: Replay,
        each: &mut dyn FnMut(Found) -> ControlFlow<()>,
    ) {
        let Ok(search) = self.0.recv_timeout(PATIENCE) else {
            return tracing::warn!("the history does not answer; a tap shows nothing of the past");
        };
        let want = match replay {
            Replay::All => Want::All,
            Replay::Last(count) => Want::Last(count),
        };
        search.run(filter, want, &mut |found| {
            each(match found {
                history::Found::Flow(flow) => Found::Flow(flow),
                history::Found::Lost(loss) => Found::Lost(loss),
            })
        });
    }
}
