//! The lines of one tap: first the past, then the present, each as soon as it is there.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::archive::{Found, View};
use super::hub::{Batch, Hub, Past, Replay, Tap, TooManyTaps};
use super::wire::TapRequest;
use crate::flows::{Filter, Flow, Time, json, json_lost, json_present};

/// Flows written at once.
const BATCH: usize = 512;
/// Bytes of lines from the archive that are handed over at once.
const CHUNK: usize = 128 * 1024;
/// Chunks that may wait for a slow reader, who thereby slows nothing but his own search.
const CHUNKS: usize = 4;
/// How often a marked tap says that it is still there.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// Serves a tap to its end; an inner error says why there is none.
pub(super) async fn serve(
    hub: &Arc<Hub>,
    request: TapRequest,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Result<(), TooManyTaps>> {
    let TapRequest { filter, last, follow, marked } = request;
    let replay = last.map_or(Replay::All, Replay::Last);
    let mut to = To { writer, marked };
    if !follow {
        let past = hub.history(&filter, replay);
        return to.past(past, filter, replay).await.map(Ok);
    }
    let (past, tap) = match hub.subscribe(filter.clone(), replay) {
        Ok(subscribed) => subscribed,
        Err(error) => return Ok(Err(error)),
    };
    let until = filter.until;
    to.past(past, filter, replay).await?;
    tokio::select! {
        written = to.follow(&tap) => written.map(Ok),
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

/// Where the lines go.
struct To<'a, W> {
    writer: &'a mut W,
    /// The past's end is told, and silence is broken.
    marked: bool,
}

impl<W: AsyncWrite + Unpin> To<'_, W> {
    async fn past(&mut self, past: Past, filter: Filter, replay: Replay) -> io::Result<()> {
        match past {
            Past::Memory(flows) => self.flows(&flows).await?,
            Past::Archive(view) => self.found(view, filter, replay).await?,
        }
        if self.marked {
            let mut line = Vec::new();
            json_present(&mut line);
            self.write(&line).await?;
        }
        Ok(())
    }

    /// What an encrypted stream holds back is of no use to anybody.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    async fn flows(&mut self, flows: &[Arc<Flow>]) -> io::Result<()> {
        let mut out = Vec::new();
        for some in flows.chunks(BATCH) {
            out.clear();
            for flow in some {
                json(flow, &mut out);
            }
            self.write(&out).await?;
        }
        Ok(())
    }

    /// The archive is searched on a thread that may wait; it stops when this reader has gone.
    async fn found(&mut self, view: Box<dyn View>, filter: Filter, replay: Replay) -> io::Result<()> {
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(CHUNKS);
        let search = tokio::task::spawn_blocking(move || search(view, &filter, replay, &sender));
        while let Some(chunk) = self.wait(receiver.recv()).await? {
            self.write(&chunk).await?;
        }
        search.await.map_err(io::Error::other)
    }

    /// Waits; a marked tap says meanwhile that it is still there.
    async fn wait<T>(&mut self, coming: impl Future<Output = T>) -> io::Result<T> {
        if !self.marked {
            return Ok(coming.await);
        }
        let mut coming = std::pin::pin!(coming);
        loop {
            match timeout(BEAT, &mut coming).await {
                Ok(come) => return Ok(come),
                Err(_elapsed) => self.write(b"\n").await?,
            }
        }
    }

    async fn follow(&mut self, tap: &Tap) -> io::Result<()> {
        let mut out = Vec::new();
        loop {
            let Batch { lost, flows } = self.wait(tap.next(BATCH)).await?;
            out.clear();
            for loss in lost.each() {
                json_lost(loss, &mut out);
            }
            for flow in flows {
                json(&flow, &mut out);
            }
            self.write(&out).await?;
        }
    }
}

/// Sends what is found as chunks of lines.
fn search(view: Box<dyn View>, filter: &Filter, replay: Replay, to: &mpsc::Sender<Vec<u8>>) {
    let mut out = Vec::with_capacity(CHUNK + 4096);
    view.search(filter, replay, &mut |found| {
        match found {
            Found::Flow(flow) => json(&flow, &mut out),
            Found::Lost(loss) => json_lost(loss, &mut out),
        }
        if out.len() < CHUNK {
            return ControlFlow::Continue(());
        }
        let full = std::mem::replace(&mut out, Vec::with_capacity(CHUNK + 4096));
        if to.blocking_send(full).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    // A reader that has gone needs no end.
    let _gone = to.blocking_send(out);
}
