//! The lines of one tap: first the past, then the present, each as soon as it is there.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::archive::{Found, View};
use super::hub::{Batch, Hub, Past, Replay, Tap, TooManyTaps};
use super::wire::TapRequest;
use crate::flows::{Filter, Flow, Time, json, json_lost};

/// Flows written at once.
const BATCH: usize = 512;
/// Bytes of lines from the archive that are handed over at once.
const CHUNK: usize = 128 * 1024;
/// Chunks that may wait for a slow reader, who thereby slows nothing but his own search.
const CHUNKS: usize = 4;

/// Serves a tap to its end; an inner error says why there is none.
pub(super) async fn serve(
    hub: &Arc<Hub>,
    request: TapRequest,
    writer: &mut OwnedWriteHalf,
) -> io::Result<Result<(), TooManyTaps>> {
    let TapRequest { filter, last, follow } = request;
    let replay = last.map_or(Replay::All, Replay::Last);
    if !follow {
        let past = hub.history(&filter, replay);
        return write_past(writer, past, filter, replay).await.map(Ok);
    }
    let (past, tap) = match hub.subscribe(filter.clone(), replay) {
        Ok(subscribed) => subscribed,
        Err(error) => return Ok(Err(error)),
    };
    let until = filter.until;
    write_past(writer, past, filter, replay).await?;
    tokio::select! {
        written = follow_tap(writer, &tap) => written.map(Ok),
        () = passed(until) => Ok(Ok(())),
    }
}

/// Waits for a moment, or for ever. The wall clock may be set meanwhile, and is looked at again.
async fn passed(until: Option<Time>) {
    let Some(until) = until else { return std::future::pending().await };
    loop {
        let left = until.0.saturating_sub(Time::now().0);
        if left == 0 {
            return;
        }
        sleep(Duration::from_millis(left.min(1000))).await;
    }
}

async fn write_past(
    writer: &mut OwnedWriteHalf,
    past: Past,
    filter: Filter,
    replay: Replay,
) -> io::Result<()> {
    match past {
        Past::Memory(flows) => write_flows(writer, &flows).await,
        Past::Archive(view) => write_found(writer, view, filter, replay).await,
    }
}

async fn write_flows(writer: &mut OwnedWriteHalf, flows: &[Arc<Flow>]) -> io::Result<()> {
    let mut out = Vec::new();
    for some in flows.chunks(BATCH) {
        out.clear();
        for flow in some {
            json(flow, &mut out);
        }
        writer.write_all(&out).await?;
    }
    Ok(())
}

/// The archive is searched on a thread that may wait; it stops when this reader has gone.
async fn write_found(
    writer: &mut OwnedWriteHalf,
    view: Box<dyn View>,
    filter: Filter,
    replay: Replay,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(CHUNKS);
    let search = tokio::task::spawn_blocking(move || {
        let mut out = Vec::with_capacity(CHUNK + 4096);
        view.search(&filter, replay, &mut |found| {
            match found {
                Found::Flow(flow) => json(&flow, &mut out),
                Found::Lost(loss) => json_lost(loss, &mut out),
            }
            if out.len() < CHUNK {
                return ControlFlow::Continue(());
            }
            let full = std::mem::replace(&mut out, Vec::with_capacity(CHUNK + 4096));
            if sender.blocking_send(full).is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        // A reader that has gone needs no end.
        let _gone = sender.blocking_send(out);
    });
    while let Some(chunk) = receiver.recv().await {
        writer.write_all(&chunk).await?;
    }
    search.await.map_err(io::Error::other)
}

async fn follow_tap(writer: &mut OwnedWriteHalf, tap: &Tap) -> io::Result<()> {
    let mut out = Vec::new();
    loop {
        let Batch { lost, flows } = tap.next(BATCH).await;
        out.clear();
        for loss in lost.each() {
            json_lost(loss, &mut out);
        }
        for flow in flows {
            json(&flow, &mut out);
        }
        writer.write_all(&out).await?;
    }
}
