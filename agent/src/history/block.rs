//! A block's head, and its checksum.

use waxseal_common::flow::FlowEvent;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Begins every block, and so every segment. The last byte rises with the format.
const MAGIC: [u8; 8] = *b"WAXFLOW\x01";
/// The most bytes behind a head. Larger numbers are damage.
pub(super) const BODY_LIMIT: u32 = 4 << 20;
/// Bytes of a head.
pub(super) const HEAD: usize = size_of::<Head>();
/// Bytes of an event.
pub(super) const EVENT: usize = size_of::<FlowEvent>();

/// What stands before each block. Little-endian, as everything that a kernel of ours wrote.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Head {
    magic: [u8; 8],
    /// The earliest and the latest flow, in milliseconds since 1970.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Bytes of the dictionary, which comes first.
    pub(super) names: u32,
    /// Events behind it.
    pub(super) events: u32,
    /// Bytes of an event: another number was written by another version.
    event: u32,
    /// CRC-32 of everything in this head before it, and of the body.
    check: u32,
}

/// Bytes of the head that the checksum covers.
const COVERED: usize = HEAD - 4;

impl Head {
    /// A head for this body.
    pub(super) fn new(first: u64, last: u64, names: u32, events: u32, body: &[u8]) -> Self {
        let mut head = Self { magic: MAGIC, first, last, names, events, event: EVENT as u32, check: 0 };
        head.check = head.sum(body);
        head
    }

    /// The head in these bytes, if it is one: nothing else about it is true yet.
    pub(super) fn read(bytes: &[u8; HEAD]) -> Option<Self> {
        let head = Self::read_from_bytes(bytes).ok()?;
        let fits = head.magic == MAGIC && head.event == EVENT as u32 && head.body_length()? <= BODY_LIMIT;
        fits.then_some(head)
    }

    /// Bytes behind it.
    pub(super) fn body_length(&self) -> Option<u32> {
        self.events.checked_mul(EVENT as u32)?.checked_add(self.names)
    }

    /// Whether the body is the one that was written.
    pub(super) fn is_true_of(&self, body: &[u8]) -> bool {
        self.check == self.sum(body)
    }

    fn sum(&self, body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.as_bytes()[..COVERED]);
        hasher.update(body);
        hasher.finalize()
    }
}
