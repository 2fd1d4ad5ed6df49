//! Collects flows into blocks and blocks into segments, and drops the oldest segments.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use waxseal_common::flow::FlowEvent;
use zerocopy::IntoBytes as _;

use super::block::{BODY_LIMIT, EVENT, HEAD, Head};
use super::dictionary::Dictionary;
use super::segment::{self, Extent, Segment};
use super::{Error, Limits, State};
use crate::flows::{Cause, Flow, Loss, Losses, Time};

/// Bytes of events at which a block is full.
const BLOCK: usize = 512 * 1024;

/// The one that writes. Owned by one thread, which may wait for the disk.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    limits: Limits,
    /// Finished ones, oldest first.
    old: VecDeque<Segment>,
    current: Option<Open>,
    block: Block,
    state: State,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    /// Bytes of whole blocks.
    length: u64,
}

/// The block that is being collected.
#[derive(Debug, Default)]
struct Block {
    names: Dictionary,
    events: Vec<u8>,
    count: u32,
    first: Time,
    last: Time,
    /// When the monotonic clock stood at zero, by the wall clock in nanoseconds: from here, and before there, so that every
    /// flow is found at the very millisecond it had.
    boot: (u64, u64),
    losses: Losses,
}

/// Between which moments the monotonic clock stood at zero, by this flow.
fn boot(event: &FlowEvent, flow: &Flow) -> (u64, u64) {
    let low = flow.time.0.saturating_mul(1_000_000).saturating_sub(event.at);
    (low, low.saturating_add(1_000_000))
}

impl Block {
    fn is_empty(&self) -> bool {
        self.count == 0 && self.losses.is_empty()
    }

    fn take(&mut self, event: &FlowEvent, flow: &Flow) {
        if self.count == 0 {
            (self.first, self.last) = (flow.time, flow.time);
        }
        self.boot = self.joint(event, flow);
        self.first = self.first.min(flow.time);
        self.last = self.last.max(flow.time);
        self.events.extend_from_slice(event.as_bytes());
        self.count += 1;
    }

    /// What this block and the flow agree on about the clocks.
    fn joint(&self, event: &FlowEvent, flow: &Flow) -> (u64, u64) {
        let (low, high) = boot(event, flow);
        if self.count == 0 { (low, high) } else { (self.boot.0.max(low), self.boot.1.min(high)) }
    }

    /// Whether they agree at all: the wall clock may have been set.
    fn agrees(&self, event: &FlowEvent, flow: &Flow) -> bool {
        let (low, high) = self.joint(event, flow);
        low < high
    }

    /// The block's bytes, and how many flows are in them.
    fn finish(&mut self) -> Option<(Vec<u8>, u32)> {
        let Self { names, events, count, first, last, boot, losses } = std::mem::take(self);
        if losses.is_empty() && count == 0 {
            return None;
        }
        let mut names = names;
        let (first, last) = if count == 0 { (Time::now(), Time::now()) } else { (first, last) };
        let mut body = vec![0; HEAD];
        serde_json::to_writer(&mut body, &names.take(boot.0, losses.each().collect())).ok()?;
        let written = u32::try_from(body.len() - HEAD).ok()?;
        body.extend_from_slice(&events);
        let head = Head::new(first.0, last.0, written, count, &body[HEAD..]);
        body[..HEAD].copy_from_slice(head.as_bytes());
        Some((body, count))
    }
}

impl Writer {
    /// Takes a directory over; what is too old or too much is dropped at once.
    pub fn open(directory: PathBuf, limits: Limits) -> Result<Self, Error> {
        segment::prepare(&directory)?;
        let old: VecDeque<Segment> = segment::list(&directory)?.into();
        let mut writer =
            Self { directory, limits, old, current: None, block: Block::default(), state: State::default() };
        writer.trim();
        Ok(writer)
    }

    /// Takes a flow over. It is on disk after [`Writer::flush`].
    pub fn write(&mut self, event: &FlowEvent, flow: &Flow) {
        if self.block.events.len() + EVENT > BLOCK || !self.block.agrees(event, flow) {
            self.flush();
        }
        if !self.block.names.learn(event, flow) {
            // A number means somebody else now: the names of this block are no longer true.
            self.flush();
            self.block.names.learn(event, flow);
        }
        self.block.take(event, flow);
    }

    /// Notes that flows are missing here.
    pub fn lose(&mut self, loss: Loss) {
        if loss.cause == Cause::History {
            self.state.lost += loss.count;
        }
        self.block.losses.add(loss.cause, loss.count);
    }

    /// Writes what has been collected.
    pub fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let losses = self.block.losses;
        let Some((bytes, count)) = self.block.finish() else { return };
        let written = if bytes.len() > BODY_LIMIT as usize {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            // Somebody else may have filled the disk: our oldest segment makes room.
            self.append(&bytes)
                .or_else(|error| if self.drop_oldest() { self.append(&bytes) } else { Err(error) })
        };
        match written {
            Ok(()) => self.state.written += u64::from(count),
            Err(error) => {
                tracing::warn!(%error, count, "the history of flows cannot be written");
                // What the block itself had to say of losses is still to be told.
                self.block.losses.join(&losses);
                self.lose(Loss { count: u64::from(count), cause: Cause::History });
            }
        }
        self.trim();
    }

    /// The whole blocks on disk.
    pub fn extents(&self) -> Vec<Extent> {
        let current = self.current.iter().map(|open| (&open.path, open.length));
        let old = self.old.iter().map(|segment| (&segment.path, segment.length));
        old.chain(current).map(|(path, length)| Extent { path: path.clone(), length }).collect()
    }

    /// How it is.
    pub fn state(&self) -> State {
        State { bytes: self.bytes(), ..self.state }
    }

    fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |open| open.length);
        self.old.iter().map(|segment| segment.length).sum::<u64>() + current
    }

    /// One write for one block. What a failed write left is cut off.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|open| open.length >= self.limits.segment()) {
            self.close();
        }
        let open = match &mut self.current {
            Some(open) => open,
            none => {
                let newest = self.old.back().map(|segment| segment.path.as_path());
                let (path, file) = segment::create(&self.directory, newest).map_err(|error| error.source)?;
                none.insert(Open { path, file, length: 0 })
            }
        };
        match open.file.write_all_at(bytes, open.length) {
            Ok(()) => {
                open.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                open.file.set_len(open.length)?;
                Err(error)
            }
        }
    }

    fn close(&mut self) {
        if let Some(Open { path, mut file, length }) = self.current.take() {
            let _unneeded = file.flush();
            self.old.push_back(Segment { path, length, written: Time::now().0 });
        }
    }

    /// Drops what is too old or too much.
    pub fn trim(&mut self) {
        let oldest = Time::now().before(self.limits.age).0;
        while self.old.front().is_some_and(|segment| segment.written < oldest) && self.drop_oldest() {}
        while self.bytes() > self.limits.bytes && self.drop_oldest() {}
    }

    /// Whether there was one that could be removed.
    fn drop_oldest(&mut self) -> bool {
        let Some(segment) = self.old.pop_front() else { return false };
        match fs::remove_file(&segment.path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                tracing::warn!(%error, path = %segment.path.display(), "an old part of the history stays");
                false
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.flush();
    }
}
