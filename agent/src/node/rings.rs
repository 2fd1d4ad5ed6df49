//! Reads what the programs tell: flows and denials, each from its own ring.

use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;
use waxseal_common::flow::{FlowEvent, Hook};
use waxseal_common::verdict::Reason;
use waxseal_common::wire::Spi;
use zerocopy::FromBytes as _;

use super::names::{NameBook, OpenBook};
use super::refusals::Refuse;
use super::tally::Tally;
use crate::api::Hub;
use crate::datapath::Polling;
use crate::flows::{Cause, Flow, Loss, enrich};
use crate::mesh::Mesh;
use crate::metrics::Metrics;

/// How many events in one go mean that it is cheaper to look by the clock than to be woken.
const BUSY: usize = 64;
/// Events handed on at once.
const BATCH: usize = 128;
/// Events after which others have their turn.
const TURN: usize = 4096;
/// How often to look then.
const TICK: Duration = Duration::from_millis(10);
/// After how many looks without an event to sleep again.
const QUIET_TICKS: u32 = 20;

/// Reads both rings until it is dropped.
pub(super) async fn drain(
    flows: RingBuf<MapData>,
    denials: RingBuf<MapData>,
    polling: Polling,
    ended: mpsc::Receiver<Vec<FlowEvent>>,
    desk: Desk,
) {
    let desk = Arc::new(desk);
    let (both, hub) = (polling.clone(), Arc::clone(&desk.hub));
    let listening = tokio::spawn(async move { ask_for_both_ends(&both, &hub).await });
    let own = Arc::clone(&desk);
    let publishing = tokio::spawn(async move { publish_ended(ended, &own).await });
    // Each on its own: however many flows there are, denials are heard.
    let mut tasks = JoinSet::new();
    let own = Arc::clone(&desk);
    tasks.spawn(async move { drain_flows(flows, polling, &own).await });
    tasks.spawn(async move { drain_denials(denials, &desk).await });
    if let Some(Ok(Err(error))) = tasks.join_next().await {
        tracing::error!(%error, "cannot read the rings of events any more; verdicts go on unseen");
    }
    listening.abort();
    publishing.abort();
}

/// While a raw tap is open, both ends of a connection within the node tell of it.
async fn ask_for_both_ends(polling: &Polling, hub: &Hub) {
    let mut raw = hub.raw();
    loop {
        let wanted = *raw.borrow_and_update();
        if let Err(error) = polling.set_both_ends(wanted) {
            tracing::warn!(%error, "cannot ask for both views of connections");
        }
        if raw.changed().await.is_err() {
            return;
        }
    }
}

/// Flows that the control thread has seen end.
async fn publish_ended(mut ended: mpsc::Receiver<Vec<FlowEvent>>, desk: &Desk) {
    while let Some(events) = ended.recv().await {
        for events in events.chunks(BATCH) {
            let mut batch = Vec::with_capacity(BATCH);
            {
                let names = desk.names.open();
                for event in events {
                    desk.put(*event, &names, &mut batch);
                }
            }
            desk.hub.publish(batch);
            yield_now().await;
        }
    }
}

/// Passes on what the programs log, until it is dropped.
pub(super) async fn log(logger: EbpfLogger<&'static dyn log::Log>) {
    #[expect(
        deprecated,
        reason = "the replacement is unsafe and asks that the descriptor stay open and the same, which the logger keeps"
    )]
    let registered = AsyncFd::new(logger);
    let mut logger = match registered {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "cannot read what the programs log"),
    };
    while let Ok(mut ready) = logger.readable_mut().await {
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// Where events go.
pub(super) struct Desk {
    pub(super) names: Arc<NameBook>,
    pub(super) hub: Arc<Hub>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) refuse: Refuse,
    /// Somebody may have called an address of this node that is not known yet.
    pub(super) look: Arc<Notify>,
    /// Who tells senders of other nodes that they are mistaken.
    pub(super) mesh: Option<Mesh>,
    /// What a stricter step would break.
    pub(super) tally: Arc<Tally>,
}

async fn drain_denials(ring: RingBuf<MapData>, desk: &Desk) -> std::io::Result<()> {
    let mut ring = asynchronous(ring)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        let count = read(ready.get_inner_mut(), desk, |event| desk.denied(event));
        if count < TURN {
            ready.clear_ready();
        }
        yield_now().await;
    }
}

async fn drain_flows(ring: RingBuf<MapData>, polling: Polling, desk: &Desk) -> std::io::Result<()> {
    let mut ring = asynchronous(ring)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        let count = read(ready.get_inner_mut(), desk, |_event| {});
        ready.clear_ready();
        if count < BUSY {
            continue;
        }
        switch(&polling, true);
        let mut quiet = 0;
        while quiet < QUIET_TICKS {
            let count = read(ring.get_mut(), desk, |_event| {});
            quiet = if count == 0 { quiet + 1 } else { 0 };
            // More than a turn waits: the others have theirs, and then at once again.
            if count < TURN {
                sleep(TICK).await;
            } else {
                yield_now().await;
            }
        }
        switch(&polling, false);
        // Whatever came between the last look and the switch has woken nobody; nor has a program that had looked at the
        // switch before, and tells a moment later. While that waits, the ring's own rule wakes for nothing that follows.
        sleep(TICK).await;
        while read(ring.get_mut(), desk, |_event| {}) == TURN {
            yield_now().await;
        }
    }
}

/// A ring that can be waited for.
#[expect(
    deprecated,
    reason = "the replacement is unsafe and asks that the descriptor stay open and the same, which a ring keeps"
)]
pub(super) fn asynchronous(ring: RingBuf<MapData>) -> std::io::Result<AsyncFd<RingBuf<MapData>>> {
    AsyncFd::new(ring)
}

fn switch(polling: &Polling, on: bool) {
    if let Err(error) = polling.set(on) {
        tracing::warn!(%error, "cannot switch how events wake the agent");
    }
}

/// Takes what there is, at most a turn of it, in batches. `first` sees each event before anybody else.
fn read(ring: &mut RingBuf<MapData>, desk: &Desk, first: impl Fn(&FlowEvent)) -> usize {
    let mut count = 0;
    loop {
        let before = count;
        let mut batch = Vec::with_capacity(BATCH);
        {
            let names = desk.names.open();
            while count < TURN
                && batch.len() < BATCH
                && let Some(item) = ring.next()
            {
                count += 1;
                if let Some(event) = desk.parse(&item) {
                    first(&event);
                    desk.put(event, &names, &mut batch);
                }
            }
        }
        if !batch.is_empty() {
            desk.hub.publish(batch);
        }
        if count == before || count == TURN {
            return count;
        }
    }
}

impl Desk {
    fn denied(&self, event: &FlowEvent) {
        // The caller first: it waits.
        if event.flags & (FlowEvent::REFUSE | FlowEvent::DESTROY) != 0
            && self.refuse.try_send(*event).is_err()
        {
            tracing::warn!("more callers wait for a refusal than can be answered; they retry by themselves");
        }
        if event.hook == Hook::SkbIngress as u8 && event.flags & FlowEvent::SEALED == 0 {
            // Whoever showed no seal may have called an address that is this node's and not known as such yet.
            self.look.notify_one();
        }
        if event.reason == Reason::WrongDestination as u8
            && let Some(mesh) = &self.mesh
        {
            mesh.wrong_destination(Spi(event.session));
        }
    }

    fn parse(&self, bytes: &[u8]) -> Option<FlowEvent> {
        let event = FlowEvent::read_from_bytes(bytes).ok();
        if event.is_none() {
            tracing::error!(length = bytes.len(), "an event of the wrong length");
            self.hub.lose(Loss { count: 1, cause: Cause::Unreadable });
        }
        event
    }

    /// Puts names to an event.
    fn put(&self, event: FlowEvent, names: &OpenBook<'_>, batch: &mut Vec<(FlowEvent, Flow)>) {
        match enrich(&event, names) {
            Ok(flow) => {
                if !flow.second {
                    self.metrics.see(&flow);
                    self.tally.note(&flow, || names.direction(event.rule));
                }
                batch.push((event, flow));
            }
            Err(error) => {
                tracing::error!(%error, "an event that cannot be read");
                self.hub.lose(Loss { count: 1, cause: Cause::Unreadable });
            }
        }
    }
}
