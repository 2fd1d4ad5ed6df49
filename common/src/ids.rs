//! Numbers with a meaning. None of them is ever a bare integer elsewhere.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number this node uses for one (SPIFFE ID, label set). Local to the node; never believed from the wire.
#[repr(transparent)]
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
pub struct IdentityId(pub u32);

impl IdentityId {
    /// No true seal and an address inside the mesh, or a workload that is not attested yet.
    pub const UNKNOWN: Self = Self(0);
    /// The node itself: the root cgroup and the kernel.
    pub const HOST: Self = Self(1);
    /// No true seal and an address outside the mesh.
    pub const WORLD: Self = Self(2);
    /// A process of this node whose cgroup belongs to no workload.
    pub const UNMANAGED: Self = Self(3);
    /// A Waxseal agent.
    pub const AGENT: Self = Self(4);
    /// The first number a workload can have; 5 to 255 are reserved.
    pub const FIRST_WORKLOAD: Self = Self(256);

    /// Whether this number stands for an attested workload, so that rules may bind to it.
    #[inline(always)]
    pub const fn is_workload(self) -> bool {
        self.0 >= Self::FIRST_WORKLOAD.0
    }
}

/// Names one rule (or one object that decided) in the agent's rule table. 0 names nothing.
#[repr(transparent)]
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
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule.
    pub const NONE: Self = Self(0);
}

/// Counts policy updates. A verdict is made under exactly one revision. 0 means no policy was ever applied.
#[repr(transparent)]
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
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A cgroup v2 directory: its inode number, which the kernel never reuses while the machine is up.
#[repr(transparent)]
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
pub struct CgroupId(pub u64);

impl CgroupId {
    /// The root of the cgroup v2 hierarchy. Kernel threads live here, so it is never a workload's.
    pub const ROOT: Self = Self(1);
}

/// A network namespace: the inode number of `/proc/PID/ns/net`.
#[repr(transparent)]
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
pub struct NetnsId(pub u32);

/// IP protocol numbers that the datapath treats specially.
pub mod protocol {
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
}
