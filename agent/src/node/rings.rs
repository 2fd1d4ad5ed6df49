//! Reads what the programs tell: flows and denials, each from its own ring.

use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::sleep;
use waxseal_common::flow::{FlowEvent, Hook};
use waxseal_common::verdict::Reason;
use waxseal_common::wire::Spi;
use zerocopy::FromBytes as _;

use super::names::NameBook;
use super::refusals::Refuse;
use super::tally::Tally;
use crate::api::Hub;
use crate::datapath::Polling;
use crate::flows::enrich;
use crate::mesh::Mesh;

/// How many events in one go mean that it is cheaper to look by the clock than to be woken.
const BUSY: usize = 64;
/// How often to look then.
const TICK: Duration = Duration::from_millis(10);
/// After how many looks without an event to sleep again.
const QUIET_TICKS: u32 = 20;

/// Reads both rings until it is dropped.
pub(super) async fn drain(flows: RingBuf<MapData>, denials: RingBuf<MapData>, polling: Polling, desk: Desk) {
    let ended = tokio::select! {
        ended = drain_flows(flows, polling, &desk) => ended,
        ended = drain_denials(denials, &desk) => ended,
    };
    if let Err(error) = ended {
        tracing::error!(%error, "cannot read the rings of events any more; verdicts go on unseen");
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
    pub(super) refuse: Refuse,
    pub(super) look: Arc<Notify>,
    pub(super) mesh: Option<Mesh>,
    pub(super) tally: Arc<Tally>,
}

async fn drain_denials(ring: RingBuf<MapData>, desk: &Desk) -> std::io::Result<()> {
    let mut ring = asynchronous(ring)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        read(ready.get_inner_mut(), |event| desk.denied(event));
        ready.clear_ready();
    }
}

async fn drain_flows(ring: RingBuf<MapData>, mut polling: Polling, desk: &Desk) -> std::io::Result<()> {
    let mut ring = asynchronous(ring)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        let count = read(ready.get_inner_mut(), |event| desk.publish(event));
        ready.clear_ready();
        if count < BUSY {
            continue;
        }
        switch(&mut polling, true);
        let mut quiet = 0;
        while quiet < QUIET_TICKS {
            sleep(TICK).await;
            let count = read(ring.get_mut(), |event| desk.publish(event));
            quiet = if count == 0 { quiet + 1 } else { 0 };
        }
        switch(&mut polling, false);
        // Whatever came between the last look and the switch has woken nobody.
        read(ring.get_mut(), |event| desk.publish(event));
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

fn switch(polling: &mut Polling, on: bool) {
    if let Err(error) = polling.set(on) {
        tracing::warn!(%error, "cannot switch how events wake the agent");
    }
}

fn read(ring: &mut RingBuf<MapData>, mut each: impl FnMut(&FlowEvent)) -> usize {
    let mut count = 0;
    while let Some(item) = ring.next() {
        if let Ok(event) = FlowEvent::read_from_bytes(&item) {
            each(&event);
        } else {
            tracing::error!(length = item.len(), "an event of the wrong length");
        }
        count += 1;
    }
    count
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
        self.publish(event);
    }

    fn publish(&self, event: &FlowEvent) {
        match enrich(event, &*self.names) {
            Ok(flow) => {
                self.tally.note(&flow, self.names.direction(event.rule));
                self.hub.publish(flow);
            }
            Err(error) => tracing::error!(%error, "an event that cannot be read"),
        }
    }
}
