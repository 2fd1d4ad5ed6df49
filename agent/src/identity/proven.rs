//! Numbers for workloads of other nodes, which a handshake has proved.

use super::store::{Entry, Lasting};
use super::{Error, Registry};
use crate::pki::Peer;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{IdentityInfo, Labels};

impl Registry {
    /// The number of a workload that a handshake has proved. Its labels are what its node says; `own` is this node's trust
    /// domain: nobody of another one gets labels or a namespace that rules of ours may mean.
    pub fn assign_proven(
        &mut self,
        peer: &Peer,
        labels: &Labels,
        own: &TrustDomain,
    ) -> Result<IdentityInfo, Error> {
        self.assign_remote(peer.id(), labels, own)
    }

    pub(super) fn assign_remote(
        &mut self,
        id: &SpiffeId,
        labels: &Labels,
        own: &TrustDomain,
    ) -> Result<IdentityInfo, Error> {
        let (id, of_ours) = (id.clone(), id.trust_domain() == own);
        let labels = if of_ours { labels.clone() } else { Labels::new() };
        let is_it = |entry: &Entry| entry.spiffe_id == id && entry.labels == labels;
        let known = self.state.identities.iter().position(is_it);
        if let Some(entry) = known.and_then(|index| self.state.identities.get(index))
            && entry.released.is_none()
        {
            return Ok(entry.info());
        }
        let (namespace, name) = name_of(&id, of_ours);
        let mut state = self.state.clone();
        let remote = |number| Entry {
            id: number,
            spiffe_id: id,
            labels,
            namespace,
            name,
            mode: None,
            released: None,
            remote: true,
        };
        let index = match known {
            Some(index) => {
                state.identities[index] = remote(state.identities[index].id);
                index
            }
            None => self.add(&mut state, remote)?,
        };
        let info = state.identities[index].info();
        self.store.save(&state, Lasting::ThisBoot)?;
        self.state = state;
        Ok(info)
    }
}

/// Namespace and name: from `/ns/X/sa/Y`, else the path as it is. Of another trust domain, that domain and the path.
fn name_of(id: &SpiffeId, of_ours: bool) -> (String, String) {
    let path = id.path().trim_start_matches('/');
    match (id.namespace(), id.service_account()) {
        (Some(namespace), Some(name)) if of_ours => (namespace.to_owned(), name.to_owned()),
        _ if of_ours => (String::new(), path.to_owned()),
        _ => (id.trust_domain().to_string(), path.to_owned()),
    }
}
