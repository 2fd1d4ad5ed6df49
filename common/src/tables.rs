//! The compiled policy, exactly as the maps hold it.
//!
//! Who may talk is a question about three small numbers, none of which depends on how many rules exist:
//! the *rule set* of the workload that is protected, the *peer class* of the other end's identity and the *address
//! class* of its address. Identities that no rule tells apart share a class, so a new instance of a known workload
//! changes no row. A row leads to a [`PortSet`], in which the port is found by binary search.
//!
//! Every value that an update may change is *versioned*: it holds what was and what will be, and the revision from which
//! the new half counts. An update writes all rows first and flips the one revision number last.

use core::hint::black_box;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::{IdentityId, Revision, RuleId};
use crate::verdict::Direction;

/// A value of which an update prepares the next version while the present one is still read.
pub trait Versioned {
    /// The value that a reader sees.
    type Value: Copy;

    /// The value as of `revision`.
    fn at(&self, revision: Revision) -> Self::Value;
}

/// How strictly a workload's rules are applied.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Judge and record what would be denied; let everything pass.
    Permissive = 0,
    /// Judge, report every denial as an AUDIT verdict, let it pass.
    Audit = 1,
    /// Deny.
    Enforce = 2,
}

impl Mode {
    /// The mode that a stored byte stands for. Anything unknown is the strictest: a torn table must not open a door.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Permissive,
            1 => Self::Audit,
            _ => Self::Enforce,
        }
    }

    /// The word for it in documents, in the configuration and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permissive => "permissive",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }

    /// The mode that a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Permissive, Self::Audit, Self::Enforce].into_iter().find(|mode| mode.as_str() == word)
    }
}

/// One direction of one workload's policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Subject {
    /// The rule set that binds this workload in this direction; 0 when none does.
    pub set: u32,
    /// The rule set with the policies in audit added; read only when [`Subject::SHADOW`] is set.
    pub shadow_set: u32,
    /// The first allow policy that selects the workload, or the namespace whose `defaultDeny` does.
    pub selected_by: RuleId,
    /// The same with the policies in audit added.
    pub shadow_selected_by: RuleId,
    /// A [`Mode`] as its byte.
    pub mode: u8,
    /// The bits below.
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}

impl Subject {
    /// What no rule allows is denied: an allow policy selects this workload, or its namespace denies by default.
    pub const DENY_BY_DEFAULT: u8 = 1;
    /// Some policy in audit selects this workload, so the shadow set is judged beside.
    pub const SHADOW: u8 = 2;
    /// [`Subject::DENY_BY_DEFAULT`] for the shadow set.
    pub const SHADOW_DENY_BY_DEFAULT: u8 = 4;
    /// Some allow rule names an identity, a label or a namespace: an unresolved destination may yet be allowed.
    pub const ALLOWS_IDENTITIES: u8 = 8;
    /// Some deny rule names an identity, a label or a namespace: an unresolved destination may yet be denied.
    pub const DENIES_IDENTITIES: u8 = 16;
    /// A denied SYN is dropped in silence instead of being answered (`refuse: drop`).
    pub const REFUSE_SILENTLY: u8 = 32;

    /// Whether any bit of `flag` is set.
    #[inline(always)]
    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The mode as a type.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        Mode::from_byte(self.mode)
    }
}

/// All that a verdict needs to know about one identity.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdentityRow {
    /// What this identity is when it is the other end; 0 when no rule tells it apart.
    pub peer_class: u32,
    /// What binds it as destination.
    pub ingress: Subject,
    /// What binds it as source.
    pub egress: Subject,
}

/// [`IdentityRow`], versioned. Key: [`IdentityId`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdentityEntry {
    /// The revision from which `new` counts.
    pub from: Revision,
    /// The row from that revision on.
    pub new: IdentityRow,
    /// The row before.
    pub old: IdentityRow,
}

impl Versioned for IdentityEntry {
    type Value = IdentityRow;

    #[inline(always)]
    fn at(&self, revision: Revision) -> IdentityRow {
        if self.from <= revision { self.new } else { self.old }
    }
}

/// All that a verdict needs to know about one address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddressRow {
    /// Which of the CIDRs named by rules contain the address, as one number; 0 when none does.
    pub class: u32,
    /// The bits below.
    pub flags: u32,
}

impl AddressRow {
    /// A workload may live at this address, here or on another node.
    pub const MESH: u32 = 1;

    /// The address is one of this node's own, in some namespace.
    pub const LOCAL: u32 = 2;

    /// Whether the address is this node's own.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }

    /// Whether a workload may live at this address.
    #[inline(always)]
    pub const fn in_mesh(&self) -> bool {
        self.flags & Self::MESH != 0
    }
}

/// [`AddressRow`], versioned. Key: an address prefix, longest match.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddressEntry {
    /// The revision from which `new` counts.
    pub from: Revision,
    /// The row from that revision on.
    pub new: AddressRow,
    /// The row before.
    pub old: AddressRow,
}

impl Versioned for AddressEntry {
    type Value = AddressRow;

    #[inline(always)]
    fn at(&self, revision: Revision) -> AddressRow {
        if self.from <= revision { self.new } else { self.old }
    }
}

/// Finds a [`PortSet`]: who is protected, who is at the other end, and from which address. 0 is a wildcard.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct RowKey {
    /// [`Subject::set`] or [`Subject::shadow_set`]. Never 0.
    pub set: u32,
    /// [`IdentityRow::peer_class`], or 0 for rules without a condition on the identity.
    pub peer_class: u32,
    /// [`AddressRow::class`], or 0 for rules without a condition on the address.
    pub address_class: u32,
}

/// The port set of a row, versioned; 0 is "no such row".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct RowEntry {
    /// The revision from which `new` counts.
    pub from: Revision,
    /// The port set from that revision on.
    pub new: u32,
    /// The port set before.
    pub old: u32,
}

impl Versioned for RowEntry {
    type Value = u32;

    #[inline(always)]
    fn at(&self, revision: Revision) -> u32 {
        if self.from <= revision { self.new } else { self.old }
    }
}

/// What the rules of one row say about one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Outcome {
    /// The rule that says so; [`RuleId::NONE`] with [`Outcome::NOTHING`].
    pub rule: RuleId,
    /// One of the constants below.
    pub action: u32,
}

impl Outcome {
    /// No rule matches.
    pub const NOTHING: u32 = 0;
    /// An allow rule matches and no deny rule does.
    pub const ALLOW: u32 = 1;
    /// A deny rule matches.
    pub const DENY: u32 = 2;
}

/// What one row says about the ports `low..=high` of one protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortRange {
    /// `protocol << 16 | port`, the first that belongs to the range.
    pub low: u32,
    /// `protocol << 16 | port`, the last that belongs to the range.
    pub high: u32,
    /// What holds there: the rules without ports are already counted in.
    pub outcome: Outcome,
}

/// How many ranges one [`PortSet`] holds. A power of two, and the limit that `policy check` reports.
pub const RANGES_PER_SET: usize = 64;

/// What the rules of one row say, for every port: sorted ranges that do not overlap. Immutable once written; never reused
/// while a reader may still hold its number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortSet {
    /// What holds for everything that no range names.
    pub otherwise: Outcome,
    /// How many of the ranges are in use.
    pub count: u32,
    /// Zero.
    pub pad: u32,
    /// Sorted by `low`; those past `count` are zero.
    pub ranges: [PortRange; RANGES_PER_SET],
}

impl Default for PortSet {
    fn default() -> Self {
        Self {
            otherwise: Outcome::default(),
            count: 0,
            pad: 0,
            ranges: [PortRange::default(); RANGES_PER_SET],
        }
    }
}

impl PortSet {
    /// The number under which protocol and port are sorted.
    #[inline(always)]
    pub const fn place(protocol: u8, port: u16) -> u32 {
        ((protocol as u32) << 16) | port as u32
    }

    /// What holds for this protocol and port. At most seven steps, whatever the number of rules.
    #[inline(always)]
    pub fn outcome(&self, protocol: u8, port: u16) -> Outcome {
        let place = Self::place(protocol, port);
        // The number of ranges that start at or before `place`, found bit by bit. Without branches: the kernel's verifier
        // would walk every way through them.
        let mut below = 0usize;
        let mut step = RANGES_PER_SET;
        while step > 0 {
            let next = below + step;
            let low = self.ranges[(next - 1) & (RANGES_PER_SET - 1)].low;
            below += step * both_reach(self.count, next as u32, place, low);
            step /= 2;
        }
        if below > 0 {
            let range = &self.ranges[(below - 1) & (RANGES_PER_SET - 1)];
            if place <= range.high {
                return range.outcome;
            }
        }
        self.otherwise
    }
}

/// 1 when `count >= next` and `place >= low`, else 0, as arithmetic: a difference that is negative has its top bit set.
/// The compiler, were it shown what that bit is for, would make a branch of it.
#[inline(always)]
fn both_reach(count: u32, next: u32, place: u32, low: u32) -> usize {
    let differences =
        u64::from(count).wrapping_sub(u64::from(next)) | u64::from(place).wrapping_sub(u64::from(low));
    1 - black_box(differences >> 63) as usize
}

/// The tables that [`crate::verdict::decide`] reads. The kernel implements it with maps, the agent and the tests with
/// ordinary collections that hold the same values.
pub trait Tables {
    /// The row of an identity; `None` when the agent has not written one.
    fn identity(&self, identity: IdentityId) -> Option<IdentityRow>;
    /// One direction of an identity's row; `None` when the agent has not written one.
    #[inline(always)]
    fn subject(&self, identity: IdentityId, direction: Direction) -> Option<Subject> {
        let row = self.identity(identity)?;
        Some(match direction {
            Direction::Ingress => row.ingress,
            Direction::Egress => row.egress,
        })
    }
    /// What an identity is when it is the other end; 0 when the agent has not written a row.
    #[inline(always)]
    fn peer_class(&self, identity: IdentityId) -> u32 {
        self.identity(identity).map_or(0, |row| row.peer_class)
    }
    /// What a row's port set says about a port; nothing when there is no such row.
    fn outcome(&self, key: &RowKey, protocol: u8, port: u16) -> Outcome;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u8, u16, u16, u32)]) -> PortSet {
        let mut set = PortSet { otherwise: Outcome { rule: RuleId(9), action: 9 }, ..PortSet::default() };
        for (index, (protocol, low, high, action)) in ranges.iter().enumerate() {
            set.ranges[index] = PortRange {
                low: PortSet::place(*protocol, *low),
                high: PortSet::place(*protocol, *high),
                outcome: Outcome { rule: RuleId(1), action: *action },
            };
        }
        set.count = ranges.len() as u32;
        set
    }

    #[test]
    fn the_search_finds_every_range_and_every_gap() {
        // One range per ten ports, for every possible number of ranges.
        for count in 0..=RANGES_PER_SET as u16 {
            let ranges: [(u8, u16, u16, u32); RANGES_PER_SET] =
                core::array::from_fn(|i| (6, i as u16 * 10 + 3, i as u16 * 10 + 7, i as u32 + 100));
            let set = set(&ranges[..usize::from(count)]);
            for port in 0..700u16 {
                let expected = if port / 10 < count && (3..=7).contains(&(port % 10)) {
                    u32::from(port / 10) + 100
                } else {
                    9
                };
                assert_eq!(set.outcome(6, port).action, expected, "{count} ranges, port {port}");
                assert_eq!(set.outcome(17, port).action, 9, "another protocol");
            }
        }
    }

    #[test]
    fn whole_protocols_do_not_run_into_each_other() {
        let set = set(&[(6, 0, u16::MAX, 1), (17, 53, 53, 2)]);
        assert_eq!(set.outcome(6, u16::MAX).action, 1);
        assert_eq!(set.outcome(7, 0).action, 9);
        assert_eq!(set.outcome(17, 53).action, 2);
        assert_eq!(set.outcome(17, 54).action, 9);
        assert_eq!(set.outcome(0, 0).action, 9);
    }

    #[test]
    fn a_versioned_value_flips_with_the_revision_and_not_before() {
        let entry = RowEntry { from: Revision(5), new: 2, old: 1 };
        assert_eq!([entry.at(Revision(4)), entry.at(Revision(5)), entry.at(Revision(6))], [1, 2, 2]);
    }

    #[test]
    fn an_unknown_mode_is_the_strictest() {
        for byte in 2..=u8::MAX {
            assert_eq!(Mode::from_byte(byte), Mode::Enforce);
        }
    }
}
