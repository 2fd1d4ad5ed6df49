//! Finds flows on disk.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use waxseal_common::flow::FlowEvent;
use zerocopy::FromBytes as _;

use super::block::{BODY_LIMIT, EVENT, HEAD, Head};
use super::dictionary::{Known, Written};
use super::segment::{self, Extent};
use crate::flows::{Cause, Filter, Flow, Loss, Time, enrich};

/// Which of the flows that a filter wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// All.
    All,
    /// The newest, so many.
    Last(usize),
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A flow.
    Flow(Box<Flow>),
    /// Flows are missing here.
    Lost(Loss),
}

/// What was on disk at one moment.
#[derive(Clone, Debug)]
pub struct Search {
    extents: Vec<Extent>,
}

/// Where a block is.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: usize,
    offset: u64,
    head: Head,
}

impl Search {
    /// Searches these.
    pub fn new(extents: Vec<Extent>) -> Self {
        Self { extents }
    }

    /// Finds flows in the order in which they were written, until `each` breaks off. A segment that has gone meanwhile
    /// was the oldest, and is left out.
    pub fn run(&self, filter: &Filter, want: Want, each: &mut dyn FnMut(Found) -> ControlFlow<()>) {
        let files: Vec<Option<File>> =
            self.extents.iter().map(|extent| segment::open(&extent.path).ok()).collect();
        let places = self.places(&files, filter);
        let (start, skip) = match want {
            Want::All => (0, 0),
            Want::Last(count) => start_of_last(&files, &places, filter, count),
        };
        let mut skip = skip;
        let mut body = Vec::new();
        for place in places.get(start..).unwrap_or_default() {
            let mut pass = |found: Found| match found {
                Found::Flow(_) if skip > 0 => {
                    skip -= 1;
                    ControlFlow::Continue(())
                }
                found => each(found),
            };
            if visit(&files, place, filter, &mut body, &mut pass).is_break() {
                return;
            }
        }
    }

    /// The blocks that may hold what is wanted, by their heads alone.
    fn places(&self, files: &[Option<File>], filter: &Filter) -> Vec<Place> {
        let mut places = Vec::new();
        for (segment, (extent, file)) in self.extents.iter().zip(files).enumerate() {
            let Some(file) = file else { continue };
            let mut offset = 0;
            while let Some(head) = head_at(file, offset, extent.length) {
                if overlaps(&head, filter) {
                    places.push(Place { segment, offset, head });
                }
                offset += HEAD as u64 + u64::from(head.body_length().unwrap_or(BODY_LIMIT));
            }
        }
        places
    }
}

/// `None` at the end, and where a block was torn: nothing whole comes behind it in this segment.
fn head_at(file: &File, offset: u64, length: u64) -> Option<Head> {
    let mut bytes = [0; HEAD];
    file.read_exact_at(&mut bytes, offset).ok()?;
    let head = Head::read(&bytes)?;
    let end = offset + HEAD as u64 + u64::from(head.body_length()?);
    (end <= length).then_some(head)
}

fn overlaps(head: &Head, filter: &Filter) -> bool {
    filter.since.is_none_or(|since| Time(head.last) >= since)
        && filter.until.is_none_or(|until| Time(head.first) < until)
}

/// The place to begin at so that the last `count` are found, and how many before them to pass over.
fn start_of_last(files: &[Option<File>], places: &[Place], filter: &Filter, count: usize) -> (usize, usize) {
    let mut found = 0;
    let mut body = Vec::new();
    for (index, place) in places.iter().enumerate().rev() {
        if found >= count {
            return (index + 1, found - count);
        }
        let _whole = visit(files, place, filter, &mut body, &mut |item| {
            found += usize::from(matches!(item, Found::Flow(_)));
            ControlFlow::Continue(())
        });
    }
    (0, found.saturating_sub(count))
}

/// What is wanted of one block. A damaged one is told as a loss of what its head promises.
fn visit(
    files: &[Option<File>],
    place: &Place,
    filter: &Filter,
    body: &mut Vec<u8>,
    each: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some(Some(file)) = files.get(place.segment) else { return ControlFlow::Continue(()) };
    let Some((written, events)) = read(file, place, body) else {
        let count = u64::from(place.head.events).max(1);
        return each(Found::Lost(Loss { count, cause: Cause::History }));
    };
    for loss in &written.lost {
        each(Found::Lost(*loss))?;
    }
    let known = Known::from(written);
    for bytes in events.chunks_exact(EVENT) {
        // The checksum says that this is what was written; another version is kept out by the head.
        let Ok(event) = FlowEvent::read_from_bytes(bytes) else { continue };
        if !filter.is_in_time(crate::flows::Names::clock(&known).wall(event.at)) {
            continue;
        }
        let Ok(flow) = enrich(&event, &known) else { continue };
        if filter.wants(&flow) {
            each(Found::Flow(Box::new(flow)))?;
        }
    }
    ControlFlow::Continue(())
}

fn read<'a>(file: &File, place: &Place, body: &'a mut Vec<u8>) -> Option<(Written, &'a [u8])> {
    let length = place.head.body_length()? as usize;
    body.resize(length, 0);
    file.read_exact_at(body, place.offset + HEAD as u64).ok()?;
    if !place.head.is_true_of(body) {
        return None;
    }
    let (names, events) = body.split_at_checked(place.head.names as usize)?;
    Some((serde_json::from_slice(names).ok()?, events))
}
