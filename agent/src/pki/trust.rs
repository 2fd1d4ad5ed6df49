//! The state of belief that everybody shares: replaced whole, read without a lock.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::bundle::Bundles;

/// A shared [`Bundles`] that changes. Clones are the same one.
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

struct Shared {
    bundles: ArcSwap<Bundles>,
    revision: watch::Sender<u64>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.0.bundles.load()).finish()
    }
}

impl Default for Trust {
    /// Believes nobody, until replaced.
    fn default() -> Self {
        Self::new(Bundles::default())
    }
}

impl Trust {
    /// Begins with these.
    pub fn new(bundles: Bundles) -> Self {
        let revision = watch::Sender::new(bundles.revision());
        Self(Arc::new(Shared { bundles: ArcSwap::from_pointee(bundles), revision }))
    }

    /// What is believed now.
    pub fn load(&self) -> Arc<Bundles> {
        self.0.bundles.load_full()
    }

    /// Believe this from now on; whoever watches is told, even when the revision is the same.
    pub fn replace(&self, bundles: Bundles) {
        let revision = bundles.revision();
        self.0.bundles.store(Arc::new(bundles));
        self.0.revision.send_replace(revision);
    }

    /// Tells of every change, with the revision that followed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }
}
