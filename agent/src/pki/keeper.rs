//! Keeps identities fresh: one task that renews each at about half its life, keeps what is still valid when renewal fails,
//! and tries again with growing, scattered pauses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::Rng as _;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::issuer::{Denial, IssueError, Issued, Issuer};
use super::profile::seconds;
use super::refusal::Refusal;
use super::svid::Svid;
use super::trust::Trust;
use super::verify::{Revocation, Role, verify_with};
use crate::escape::escape;
use crate::spiffe::SpiffeId;

/// Identities that one node can have.
pub const MAX_WANTED: usize = 16_384;
/// Identities that are asked for at once.
const BATCH: usize = 256;
/// How long one batch may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after the first failure, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Over how long renewals are scattered that one event makes due for everybody.
const SCATTER: Duration = Duration::from_millis(500);
/// The wall clock may jump; it is looked at this often.
const LOOK: Duration = Duration::from_secs(15);

/// How one identity is. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// Whose.
    pub id: SpiffeId,
    /// Until when it counts; none yet when absent.
    pub not_after: Option<u64>,
    /// Failures since it was last issued.
    pub failures: u32,
    /// Why the last attempt failed; escaped.
    pub last_error: Option<String>,
}

/// The fresh identities of this node. The task ends when this is dropped.
pub struct Keeper {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    node: SpiffeId,
    slots: Mutex<BTreeMap<SpiffeId, Slot>>,
    wanted: watch::Sender<()>,
    /// Counts what was issued.
    fresh: watch::Sender<u64>,
}

struct Slot {
    svid: Option<Arc<Svid>>,
    due: Instant,
    /// The same by the wall clock, for one that was issued.
    renew_at: Option<SystemTime>,
    failures: u32,
    error: Option<String>,
    denied: bool,
}

impl Slot {
    fn new() -> Self {
        Self { svid: None, due: Instant::now(), renew_at: None, failures: 0, error: None, denied: false }
    }

    fn is_due(&self) -> bool {
        let by_clock = self.failures == 0 && self.renew_at.is_some_and(|at| SystemTime::now() >= at);
        by_clock || Instant::now() >= self.due
    }

    fn succeed(&mut self, svid: Arc<Svid>) {
        let now = SystemTime::now();
        let half = svid.not_after().duration_since(now).unwrap_or_default() / 2;
        let pause = half.mul_f64(rand::rng().random_range(0.9..1.1));
        self.due = Instant::now() + pause;
        self.renew_at = Some(now + pause);
        (self.failures, self.error, self.denied) = (0, None, false);
        self.svid = Some(svid);
    }

    fn fail(&mut self, error: &dyn fmt::Display) {
        self.failures = self.failures.saturating_add(1);
        self.error = Some(escape(&error.to_string()).into_owned());
        self.due = Instant::now() + pause(self.failures);
    }

    /// Only what has not ended is ever handed out.
    fn valid(&self) -> Option<Arc<Svid>> {
        self.svid.as_ref().filter(|svid| SystemTime::now() < svid.not_after()).cloned()
    }
}

/// Doubles from the first to the longest, and is between half and all of that.
pub(super) fn pause(failures: u32) -> Duration {
    let (first, longest) = PAUSES;
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

impl Keeper {
    /// Begins with getting the node's own identity. Needs a tokio runtime.
    pub fn start(issuer: Arc<dyn Issuer>, trust: Trust, node: SpiffeId) -> Self {
        Self::start_with(issuer, trust, node, None)
    }

    /// The same with an identity of the node that is there already.
    pub fn start_with(
        issuer: Arc<dyn Issuer>,
        trust: Trust,
        node: SpiffeId,
        known: Option<Arc<Svid>>,
    ) -> Self {
        let mut slot = Slot::new();
        if let Some(svid) = known.filter(|svid| *svid.id() == node) {
            slot.succeed(svid);
        }
        let slots = Mutex::new(BTreeMap::from([(node.clone(), slot)]));
        let (wanted, fresh) = (watch::Sender::new(()), watch::Sender::new(0));
        let shared = Arc::new(Shared { node, slots, wanted, fresh });
        let task = tokio::spawn(keep(Arc::clone(&shared), issuer, trust)).abort_handle();
        Self { shared, task }
    }

    /// From now on these, and the node's own. Keys of others are dropped at once.
    pub fn want(&self, ids: BTreeSet<SpiffeId>) {
        let mut slots = self.shared.slots();
        slots.retain(|id, _| *id == self.shared.node || ids.contains(id));
        let over = ids.len().saturating_sub(MAX_WANTED);
        if over > 0 {
            tracing::error!(
                over,
                limit = MAX_WANTED,
                "more identities than this node can have; the last get none"
            );
        }
        for id in ids.into_iter().take(MAX_WANTED) {
            slots.entry(id).or_insert_with(Slot::new);
        }
        drop(slots);
        self.shared.wanted.send_replace(());
    }

    /// An identity that has not ended.
    pub fn svid(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        self.shared.slots().get(id).and_then(Slot::valid)
    }

    /// The same, waiting for the first one.
    pub async fn wait_for(&self, id: &SpiffeId, patience: Duration) -> Option<Arc<Svid>> {
        let mut fresh = self.shared.fresh.subscribe();
        let found = timeout(patience, async {
            loop {
                if let Some(svid) = self.svid(id) {
                    return Some(svid);
                }
                fresh.changed().await.ok()?;
            }
        });
        found.await.ok().flatten()
    }

    /// The node's own identity.
    pub fn node(&self) -> Option<Arc<Svid>> {
        self.svid(&self.shared.node)
    }

    /// Tells whenever something was issued.
    pub fn issued(&self) -> watch::Receiver<u64> {
        self.shared.fresh.subscribe()
    }

    /// How each identity is, by ID.
    pub fn status(&self) -> Vec<CertificateStatus> {
        let status = |(id, slot): (&SpiffeId, &Slot)| CertificateStatus {
            id: id.clone(),
            not_after: slot.valid().map(|svid| seconds(svid.not_after())),
            failures: slot.failures,
            last_error: slot.error.clone(),
        };
        self.shared.slots().iter().map(status).collect()
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<SpiffeId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is due, the node's own first: without it a CA server answers nothing else.
    fn due(&self) -> Vec<SpiffeId> {
        let slots = self.slots();
        let mut due: Vec<SpiffeId> =
            slots.iter().filter(|(_, slot)| slot.is_due()).map(|(id, _)| id.clone()).collect();
        due.sort_by_key(|id| *id != self.node);
        due.truncate(BATCH);
        due
    }

    fn next(&self) -> Instant {
        let next = self.slots().values().map(|slot| slot.due).min();
        next.unwrap_or_else(|| Instant::now() + LOOK).min(Instant::now() + LOOK)
    }

    fn take(&self, ids: &[SpiffeId], outcome: Result<Vec<Issued>, IssueError>, trust: &Trust) {
        let mut slots = self.slots();
        let mut issued = 0;
        match outcome {
            Ok(all) => {
                for (id, one) in ids.iter().zip(all) {
                    let Some(slot) = slots.get_mut(id) else { continue };
                    issued += u64::from(settle(slot, id, one, trust));
                }
            }
            Err(error) => {
                tracing::warn!(%error, identities = ids.len(), "certificates were not renewed; those still valid are kept");
                for id in ids {
                    slots.get_mut(id).into_iter().for_each(|slot| slot.fail(&error));
                }
            }
        }
        drop(slots);
        if issued > 0 {
            self.fresh.send_modify(|count| *count += issued);
        }
    }

    /// What is believed has changed: whatever is not believed any more is due, and so is what was denied.
    fn recheck(&self, trust: &Trust) {
        let (bundles, now) = (trust.load(), SystemTime::now());
        for slot in self.slots().values_mut() {
            let refused = |svid: &Arc<Svid>| {
                verify_with(&bundles, &svid.chain(), Role::Client, now, Revocation::Complete).is_err()
            };
            if slot.denied || slot.svid.as_ref().is_some_and(refused) {
                let scatter = SCATTER.mul_f64(rand::rng().random_range(0.0..1.0));
                slot.due = slot.due.min(Instant::now() + scatter);
            }
        }
    }
}

/// Whether the identity was taken.
fn settle(slot: &mut Slot, id: &SpiffeId, issued: Issued, trust: &Trust) -> bool {
    match issued.map_err(Unfit::Denied).and_then(|svid| fit(id, svid, trust)) {
        Ok(svid) => {
            tracing::debug!(%id, not_after = seconds(svid.not_after()), "certificate issued");
            slot.succeed(svid);
            true
        }
        Err(error) => {
            tracing::warn!(%id, %error, "no certificate");
            slot.denied = matches!(error, Unfit::Denied(_));
            slot.fail(&error);
            false
        }
    }
}

/// Why an identity is not taken.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("{0}")]
    Denied(Denial),
    #[error("the issuer answered with the certificate of another ID")]
    OtherId,
    #[error("the certificate that was issued would be refused by peers: {0}")]
    Refused(Refusal),
}

/// Peers will verify it; so do we.
fn fit(id: &SpiffeId, svid: Arc<Svid>, trust: &Trust) -> Result<Arc<Svid>, Unfit> {
    if svid.id() != id {
        return Err(Unfit::OtherId);
    }
    // Nobody shows it to us again: the chains that were found good a moment ago are for those of peers.
    verify_with(&trust.load(), &svid.chain(), Role::Client, SystemTime::now(), Revocation::Complete)
        .map_err(Unfit::Refused)?;
    Ok(svid)
}

async fn keep(shared: Arc<Shared>, issuer: Arc<dyn Issuer>, trust: Trust) {
    let mut wanted = shared.wanted.subscribe();
    let mut changed = trust.changed();
    loop {
        let due = shared.due();
        if due.is_empty() {
            let next = shared.next();
            tokio::select! {
                () = sleep_until(next) => {}
                _ = wanted.changed() => {}
                told = changed.changed() => {
                    if told.is_err() {
                        return;
                    }
                    shared.recheck(&trust);
                }
            }
            continue;
        }
        let outcome = timeout(PATIENCE, issuer.issue(&due)).await.unwrap_or(Err(IssueError::Late));
        shared.take(&due, outcome, &trust);
        if changed.has_changed().unwrap_or(false) {
            changed.mark_unchanged();
            shared.recheck(&trust);
        }
    }
}
