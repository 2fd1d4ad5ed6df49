//! What a workload is: its name, its labels, and how its cgroup is recognised.
//!
//! These are plain values. The documents that hold them are read by `policy`, the cgroups are judged by `attest`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;

use crate::spiffe::SpiffeId;

mod glob;
mod labels;

pub use glob::{Glob, GlobError, MAX_GLOB};
pub use labels::Labels;

/// Where something was written. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The file; shared by all that is written in it.
    pub file: Arc<Path>,
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One `Workload` document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// What policies select it by.
    pub labels: Labels,
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// Its own mode; `None` leaves it to its namespace and the node.
    pub mode: Option<Mode>,
    /// Which cgroups are this workload.
    pub selector: Selector,
    /// Where the document begins.
    pub origin: Origin,
}

impl Workload {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Which cgroups are a workload: every condition given must hold. A selector without any is refused when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The name of the systemd unit.
    pub systemd_unit: Option<Glob>,
    /// The path below the cgroup v2 mount; made by [`Glob::path`].
    pub cgroup: Option<Glob>,
    /// The container, as its engine describes it.
    pub container: Option<Box<ContainerSelector>>,
    /// The user of every process in it.
    pub uid: Option<u32>,
    /// The program of every process in it.
    pub executable: Option<ExecutableSelector>,
}

impl Selector {
    /// Whether no condition is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a condition is about processes, so that the path alone does not decide.
    pub fn names_processes(&self) -> bool {
        self.uid.is_some() || self.executable.is_some()
    }
}

/// Conditions on a container; all given ones must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerSelector {
    /// Its name.
    pub name: Option<Glob>,
    /// The image as it was asked for, `registry/repository:tag`. A `*` does not match slashes.
    pub image: Option<Glob>,
    /// Labels that it must have with exactly these values.
    pub labels: Labels,
}

/// A condition on the program that a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutableSelector {
    /// The file, by its absolute path on the host.
    Path(PathBuf),
    /// The SHA-256 of the file.
    Sha256([u8; 32]),
}

/// What the node knows of one identity number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityInfo {
    /// The number.
    pub id: IdentityId,
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// The namespace of the workload.
    pub namespace: String,
    /// The name of the workload.
    pub name: String,
    /// The labels of the workload.
    pub labels: Labels,
    /// The workload's own mode, if it gives one.
    pub mode: Option<Mode>,
}

impl IdentityInfo {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
