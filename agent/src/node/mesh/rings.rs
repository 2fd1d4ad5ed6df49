//! Reads what the TC programs ask for and hands it to the mesh, with the packets that wait.

use std::io;
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use waxseal_common::ids::NetnsId;
use waxseal_common::state::Tuple;
use waxseal_common::wire::Asks;

use super::Request;
use crate::datapath::hold::{Held, Reinjector, read_datagram, read_notice};
use crate::mesh::{Ask, Mesh, Packet};
use crate::node::rings::asynchronous;

/// Reads both rings until it is dropped.
pub(in crate::node) async fn read(
    mesh: Mesh,
    notices: RingBuf<MapData>,
    datagrams: RingBuf<MapData>,
    control: tokio::sync::mpsc::Sender<Request>,
) {
    let reinjector = match Reinjector::open() {
        Ok(reinjector) => Arc::new(reinjector),
        Err(error) => return tracing::error!(%error, "cannot send on what waits for a session"),
    };
    let desk = Desk { mesh, reinjector, control };
    let ended = tokio::select! {
        ended = drain(notices, read_notice, &desk) => ended,
        ended = drain(datagrams, read_datagram, &desk) => ended,
    };
    if let Err(error) = ended {
        tracing::error!(%error, "cannot read what the programs ask for; nothing gets a session any more");
    }
}

struct Desk {
    mesh: Mesh,
    reinjector: Arc<Reinjector>,
    control: tokio::sync::mpsc::Sender<Request>,
}

async fn drain(ring: RingBuf<MapData>, read: fn(&[u8]) -> Option<Held>, desk: &Desk) -> io::Result<()> {
    let mut ring = asynchronous(ring)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        while let Some(item) = ready.get_inner_mut().next() {
            if let Some(held) = read(&item) {
                desk.take(held);
            } else {
                tracing::error!(length = item.len(), "a notice that cannot be read");
            }
        }
        ready.clear_ready();
    }
}

impl Desk {
    fn take(&self, held: Held) {
        if held.asks == Asks::Uncovered {
            // One of many; the next one asks again.
            let _busy = self.control.try_send(Request::Uncovered(held.spi.0));
            return;
        }
        let flow = Tuple {
            source: held.source.0,
            destination: held.route.destination,
            source_port: held.source.1,
            destination_port: held.route.port,
            netns: NetnsId(0),
        };
        let Held { asks, route, spi, .. } = held;
        let packet = (asks == Asks::Hold && !held.frame.is_empty()).then(|| {
            let reinjector = Arc::clone(&self.reinjector);
            Box::new(move || reinjector.send(&held)) as Packet
        });
        self.mesh.ask(Ask { asks, route, flow, spi, packet });
    }
}
