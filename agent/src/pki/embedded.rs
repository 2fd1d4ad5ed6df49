//! The authority in this process: issues without a network, and tells the trust of every change on the disk.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::authority::{Authority, Error};
use super::issuer::{BoxFuture, IssueError, Issued, Issuer};
use super::publication::PublicationError;
use super::trust::Trust;
use crate::spiffe::SpiffeId;

/// How often the disk is looked at. A change reaches everybody within a second.
const LOOK: Duration = Duration::from_millis(200);
/// How often lists and intermediates are seen after.
const MAINTAIN: Duration = Duration::from_mins(1);

/// An [`Authority`] as an [`Issuer`].
#[derive(Clone, Debug)]
pub struct Embedded {
    authority: Arc<Authority>,
    own: SpiffeId,
}

impl Embedded {
    /// Issues to this process; `own` is the one name below `/waxseal/` that it may have.
    pub fn new(authority: Arc<Authority>, own: SpiffeId) -> Self {
        Self { authority, own }
    }
}

impl Issuer for Embedded {
    fn issue<'a>(&'a self, ids: &'a [SpiffeId]) -> BoxFuture<'a, Result<Vec<Issued>, IssueError>> {
        let (authority, own, ids) = (Arc::clone(&self.authority), self.own.clone(), ids.to_vec());
        Box::pin(async move {
            let issued = spawn_blocking(move || authority.issue(&ids, &own, SystemTime::now()));
            Ok(issued.await.map_err(|_panicked| IssueError::Ended)??)
        })
    }
}

/// Keeps a [`Trust`] as the authority publishes it, and sees after the authority. Ends when dropped.
#[derive(Debug)]
pub struct Custodian(AbortHandle);

impl Drop for Custodian {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Custodian {
    /// Begins; the trust is in force when this returns. Needs a tokio runtime.
    pub fn start(authority: Arc<Authority>, trust: Trust) -> Result<Self, PublicationError> {
        trust.replace(authority.publication().bundles()?);
        Ok(Self(tokio::spawn(keep(authority, trust)).abort_handle()))
    }
}

async fn keep(authority: Arc<Authority>, trust: Trust) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut maintained: Option<Instant> = None;
    let mut published = trust.load().revision();
    loop {
        look.tick().await;
        let due = maintained.is_none_or(|at| at.elapsed() >= MAINTAIN);
        if due {
            maintained = Some(Instant::now());
        }
        let worker = Arc::clone(&authority);
        let looked = spawn_blocking(move || look_after(&worker, due)).await;
        if let Ok(Err(error)) = looked {
            tracing::warn!(%error, "the CA's state cannot be used");
        }
        if authority.revision() == published {
            continue;
        }
        let publication = authority.publication();
        match publication.bundles() {
            Ok(bundles) => {
                published = publication.revision;
                tracing::info!(revision = published, "the CA has published a change");
                trust.replace(bundles);
            }
            Err(error) => tracing::error!(%error, "what the CA publishes cannot be read"),
        }
    }
}

fn look_after(authority: &Authority, due: bool) -> Result<(), Error> {
    authority.refresh()?;
    if !due {
        return Ok(());
    }
    let now = SystemTime::now();
    authority.maintain(now)?;
    if authority.wants_root_key(now) {
        tracing::warn!(
            "the intermediate is past half its life, and the root's key is not at hand to sign the next one"
        );
    }
    Ok(())
}
