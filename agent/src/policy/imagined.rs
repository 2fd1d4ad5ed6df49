//! Who there is when documents are looked at away from a node: the workloads that they name, and others that are imagined so
//! that every policy and every peer means somebody.

use std::collections::HashSet;

use waxseal_common::ids::IdentityId;

use super::set::PolicySet;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{IdentityInfo, Labels};

/// The identities that the `Workload` documents will have, numbered in document order. Real numbers differ.
pub fn expected_identities(set: &PolicySet) -> Vec<IdentityInfo> {
    let workloads = set.workloads.iter().enumerate();
    workloads
        .map(|(index, workload)| IdentityInfo {
            id: number(index),
            spiffe_id: workload.spiffe_id.clone(),
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            labels: workload.labels.clone(),
            mode: workload.mode,
        })
        .collect()
}

fn number(index: usize) -> IdentityId {
    IdentityId(IdentityId::FIRST_WORKLOAD.0 + index as u32)
}

/// Workloads that no document names, but that the policies would select: so that what does not fit is found before such a
/// workload appears.
pub(super) fn imagined(
    set: &PolicySet,
    trust_domain: &TrustDomain,
    known: &[IdentityInfo],
) -> Vec<IdentityInfo> {
    let mut identities = known.to_vec();
    let mut seen: HashSet<(String, Labels)> =
        known.iter().map(|info| (info.namespace.clone(), info.labels.clone())).collect();
    for policy in &set.policies {
        let (namespace, labels) = policy.target.example();
        if !seen.insert((namespace.clone(), labels.clone())) {
            continue;
        }
        let name = format!("imagined-{}", identities.len());
        let Ok(spiffe_id) = SpiffeId::for_workload(trust_domain, &namespace, &name) else { continue };
        identities.push(IdentityInfo {
            id: number(identities.len()),
            spiffe_id,
            namespace,
            name,
            labels,
            mode: None,
        });
    }
    identities
}

/// How many more are imagined for the rows of peers. Whoever has more documents reads the rows of some.
const MANY: usize = 4096;

/// Adds somebody for each peer that nobody is yet: rows are for those who are known.
pub(super) fn imagine_peers(set: &PolicySet, trust_domain: &TrustDomain, identities: &mut Vec<IdentityInfo>) {
    let mut seen: HashSet<(Option<SpiffeId>, String, Labels)> = HashSet::new();
    for info in identities.iter() {
        seen.insert((None, info.namespace.clone(), info.labels.clone()));
        seen.insert((Some(info.spiffe_id.clone()), String::new(), Labels::new()));
    }
    let most = identities.len() + MANY;
    let rules = set.policies.iter().flat_map(|policy| policy.ingress.iter().chain(&policy.egress)).flatten();
    for peer in rules.filter_map(|rule| rule.peers.as_ref()).flatten() {
        for (id, namespace, labels) in peer.examples() {
            let key = match &id {
                Some(id) => (Some(id.clone()), String::new(), Labels::new()),
                None => (None, namespace.clone(), labels.clone()),
            };
            if identities.len() >= most || !seen.insert(key) {
                continue;
            }
            let name = match &id {
                Some(id) => id.path().rsplit('/').next().unwrap_or_default().to_owned(),
                None => format!("imagined-{}", identities.len()),
            };
            let made = || SpiffeId::for_workload(trust_domain, &namespace, &name).ok();
            let Some(spiffe_id) = id.or_else(made) else { continue };
            let id = number(identities.len());
            identities.push(IdentityInfo { id, spiffe_id, namespace, name, labels, mode: None });
        }
    }
}
