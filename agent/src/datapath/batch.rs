//! Reads hash tables many entries at a time: one call for a thousand entries instead of two for each, and an entry that
//! goes meanwhile sends nobody back to the beginning.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::Pod;
use aya::maps::{IterableMap as _, MapError};

use super::kernel::{Table, map_error};
use super::{Error, bpf};

/// Entries asked for at once. A bucket of the table must fit.
const AT_ONCE: usize = 1024;

/// What is in a table, each entry once. An entry that comes or goes meanwhile may be there or not.
struct Entries<'a, K, V> {
    map: BorrowedFd<'a>,
    /// Where the kernel goes on; `None` at the beginning.
    place: Option<u32>,
    at_once: usize,
    keys: Vec<K>,
    values: Vec<V>,
    done: bool,
}

/// The entries of a table. An error is the last item.
fn read<K: Pod, V: Pod>(table: &Table<K, V>) -> Entries<'_, K, V> {
    let map = table.map().fd().as_fd();
    Entries { map, place: None, at_once: AT_ONCE, keys: Vec::new(), values: Vec::new(), done: false }
}

/// The entries of a table, as far as they can be read.
pub(super) fn entries<K: Pod, V: Pod>(table: &Table<K, V>) -> impl Iterator<Item = (K, V)> + '_ {
    read(table).map_while(|entry| {
        entry
            .inspect_err(|error| tracing::error!(%error, "cannot read a table of the kernel to its end"))
            .ok()
    })
}

/// The entries of a table, all or none.
pub(super) fn whole<K: Pod, V: Pod>(table: &Table<K, V>, name: &'static str) -> Result<Vec<(K, V)>, Error> {
    let read: io::Result<_> = read(table).collect();
    read.map_err(|error| map_error(name)(MapError::IoError(error)))
}

impl<K: Pod, V: Pod> Entries<'_, K, V> {
    /// Gets the next entries; there may be none although it is not the end.
    fn more(&mut self) -> io::Result<()> {
        self.keys.reserve(self.at_once);
        self.values.reserve(self.at_once);
        match bpf::look_up_batch(self.map, self.place, &mut self.keys, &mut self.values) {
            Ok(bpf::Batch::More(place)) => self.place = Some(place),
            Ok(bpf::Batch::End) => self.done = true,
            // A bucket holds more than was asked for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => self.at_once *= 2,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl<K: Pod, V: Pod> Iterator for Entries<'_, K, V> {
    type Item = io::Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let (Some(key), Some(value)) = (self.keys.pop(), self.values.pop()) {
                return Some(Ok((key, value)));
            }
            if self.done {
                return None;
            }
            if let Err(error) = self.more() {
                self.done = true;
                return Some(Err(error));
            }
        }
    }
}
