//! The workloads of this node, as the mesh sees them. Written by the control thread, read for every handshake.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use waxseal_common::ids::IdentityId;

use crate::mesh::Local;

/// The workloads that run here.
#[derive(Debug, Default)]
pub(in crate::node) struct Locals(RwLock<Arc<HashMap<IdentityId, Local>>>);

impl Locals {
    /// From now on these.
    pub(in crate::node) fn replace(&self, locals: HashMap<IdentityId, Local>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(locals);
    }

    /// One of them.
    pub(super) fn get(&self, identity: IdentityId) -> Option<Local> {
        self.all().get(&identity).cloned()
    }

    /// All of them.
    pub(in crate::node) fn all(&self) -> Arc<HashMap<IdentityId, Local>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
