//! Being told: one connection that stays, and is made again when it breaks, with growing and scattered pauses.

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::{Error, PATIENCE, Remote};
use crate::pki::Publication;
use crate::pki::keeper::pause;
use crate::pki::wire::{HEARTBEAT, Refused, Request, Told};

/// Silence after which the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT.as_secs());

/// The task that is told; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    pub(super) fn start(remote: Remote) -> Self {
        Self(tokio::spawn(keep(remote)).abort_handle())
    }
}

async fn keep(remote: Remote) {
    let mut failures: u32 = 0;
    loop {
        let mut heard = false;
        let ended = listen(&remote, &mut heard).await;
        failures = if heard { 1 } else { failures.saturating_add(1) };
        let address = &remote.0.member.address;
        match ended {
            // The certificate of the connection has ended; the next one is made with its successor.
            Error::Refused(Refused::Ended) => tracing::debug!(address, "the CA has ended the watch"),
            error => {
                tracing::warn!(address, %error, failures, "not told by the CA; what was believed last holds");
            }
        }
        sleep(pause(failures)).await;
    }
}

/// Returns only when something has gone wrong.
async fn listen(remote: &Remote, heard: &mut bool) -> Error {
    let told = async {
        let mut channel = remote.channel().await?;
        channel.begin(&Request::Watch, PATIENCE).await?;
        loop {
            match channel.told(SILENCE).await? {
                Told::Publication(publication) => believe(remote, *publication).await?,
                Told::Alive => {}
                Told::Refused(reason) => return Err(Error::Refused(reason)),
                Told::Strange => return Err(Error::Strange),
            }
            *heard = true;
        }
    };
    let told: Result<std::convert::Infallible, Error> = told.await;
    match told {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn believe(remote: &Remote, publication: Publication) -> Result<(), Error> {
    let wanted = &remote.0.member.trust_domain;
    if publication.trust_domain != *wanted {
        return Err(Error::OtherTrustDomain { is: publication.trust_domain, wanted: wanted.clone() });
    }
    let bundles = publication.bundles()?;
    if bundles.revision() != remote.0.trust.load().revision() {
        tracing::info!(revision = bundles.revision(), "the CA has published a change");
    }
    remote.0.trust.replace(bundles);
    // The disk comes second: who was revoked must not wait for it.
    let remote = remote.clone();
    let kept = tokio::task::spawn_blocking(move || remote.0.store.publish(&publication)).await;
    if let Ok(Err(error)) = kept {
        tracing::warn!(%error, "what is believed is not kept on the disk");
    }
    Ok(())
}
