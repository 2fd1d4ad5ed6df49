//! How strictly a workload's rules are applied, and who says so. The compiler asks here, and so does whoever shows it.

use super::set::{IdentityPolicy, Namespace, NodeDefaults};
use crate::workload::IdentityInfo;
use waxseal_common::tables::Mode;

/// Who gives a workload its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeFrom<'a> {
    /// Its own document.
    Workload,
    /// A policy that selects it and has `mode: enforce`.
    Policy(&'a IdentityPolicy),
    /// Its namespace.
    Namespace(&'a Namespace),
    /// Nobody else, so the node's configuration.
    Node,
}

/// The mode of a workload in one direction. `enforced` are the policies that select it, speak in that direction and take
/// part in enforcement, in document order.
pub fn mode_of<'a>(
    identity: &IdentityInfo,
    mut enforced: impl Iterator<Item = &'a IdentityPolicy>,
    namespace: Option<&'a Namespace>,
    defaults: &NodeDefaults,
) -> (Mode, ModeFrom<'a>) {
    if let Some(mode) = identity.mode {
        return (mode, ModeFrom::Workload);
    }
    if let Some((mode, policy)) = enforced.find_map(|policy| Some((policy.mode?, policy))) {
        return (mode, ModeFrom::Policy(policy));
    }
    match namespace.and_then(|namespace| Some((namespace.mode?, namespace))) {
        Some((mode, namespace)) => (mode, ModeFrom::Namespace(namespace)),
        None => (defaults.mode, ModeFrom::Node),
    }
}
