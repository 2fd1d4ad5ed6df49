//! The flows of the past on disk, within bounds of size and age.
//!
//! A directory of segments, each a row of blocks. A block stands for itself: a head with the times within and a checksum,
//! the names that its events need, and the events as the kernel wrote them. A block that was torn or damaged costs only
//! itself. Nothing here decides anything, and nothing is ever in the way: what cannot be written is counted, and found
//! later as a loss.

mod block;
mod dictionary;
mod search;
mod segment;
mod writer;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub use search::{Found, Search, Want};
pub use segment::Extent;
pub use writer::Writer;

/// What a history may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk.
    pub bytes: u64,
    /// Age of a segment's last flow.
    pub age: Duration,
}

impl Limits {
    /// Bytes of one segment: small enough that dropping the oldest one loses little of the past.
    const fn segment(&self) -> u64 {
        let share = self.bytes / 16;
        if share < 1 << 20 { 1 << 20 } else { share }
    }
}

/// How the history is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Bytes on disk.
    pub bytes: u64,
    /// Flows written since the start.
    pub written: u64,
    /// Flows that could not be written.
    pub lost: u64,
}

/// The directory cannot be used.
#[derive(Debug, Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct Error {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

#[cfg(test)]
mod tests;
