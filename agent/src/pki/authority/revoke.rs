//! Taking certificates back before they end.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::journal::Entry;
use super::rotate::{next_list, renew_list, rotate};
use super::state::RevokedLeaf;
use super::{Authority, Error, Session};
use crate::pki::node_name;
use crate::pki::profile::seconds;
use crate::spiffe::SpiffeId;

/// Certificates of one intermediate that are revoked and have not expired.
const MAX_REVOKED: usize = 20_000;

/// What is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every certificate of this ID; it is not issued again either, until that is lifted.
    Id(SpiffeId),
    /// A node: its own certificates, and all that were issued to it for workloads.
    Node(String),
    /// An intermediate by its serial number in hex, or `current`, `current-1` and so on.
    Intermediate(String),
    /// One certificate by its serial number in hex.
    Serial(String),
}

/// What was revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Revoked {
    /// Serial numbers of leaves, in hex.
    pub leaves: Vec<String>,
    /// Serial numbers of intermediates, in hex.
    pub intermediates: Vec<String>,
    /// The intermediate that was made because none was left.
    pub replacement: Option<String>,
}

impl Authority {
    /// Revokes, and publishes the lists that say so.
    pub fn revoke(&self, target: &Target, now: SystemTime) -> Result<Revoked, Error> {
        self.session(|session| match target {
            Target::Id(id) => {
                session.publish().banned.insert(id.clone(), seconds(now));
                let serials = matching(session, now, |entry| entry.id == *id);
                revoke_leaves(session, serials, now)
            }
            Target::Node(name) => revoke_node(session, name, now),
            Target::Intermediate(which) => revoke_intermediate(session, which, now),
            Target::Serial(serial) => revoke_serial(session, serial, now),
        })
    }
}

/// By intermediate.
type Leaves = BTreeMap<String, Vec<Entry>>;

fn matching(session: &Session<'_>, now: SystemTime, wanted: impl Fn(&Entry) -> bool) -> Leaves {
    let mut found = Leaves::new();
    for entry in session.journal.live(seconds(now)).filter(|entry| wanted(entry)) {
        found.entry(entry.issuer.clone()).or_default().push(entry.clone());
    }
    found
}

fn revoke_leaves(session: &mut Session<'_>, leaves: Leaves, now: SystemTime) -> Result<Revoked, Error> {
    let mut revoked = Revoked::default();
    for (issuer, entries) in leaves {
        let state = session.publish();
        for name in entries.iter().filter_map(|entry| node_name(&entry.id)) {
            // The key is not the node's any more, or it would bring the certificate back.
            state.nodes.entry(name.to_owned()).or_default().keys.clear();
        }
        let Some(one) = state.intermediates.iter_mut().find(|one| one.serial == issuer) else { continue };
        for Entry { serial, not_after, .. } in entries {
            if one.revoked_leaves.iter().any(|leaf| leaf.serial == serial) {
                continue;
            }
            if one.revoked_leaves.len() >= MAX_REVOKED {
                return Err(Error::Full { what: "revoked certificates", limit: MAX_REVOKED });
            }
            one.revoked_leaves.push(RevokedLeaf { serial: serial.clone(), at: seconds(now), not_after });
            revoked.leaves.push(serial);
        }
        renew_list(session, &issuer, now)?;
    }
    Ok(revoked)
}

fn revoke_node(session: &mut Session<'_>, name: &str, now: SystemTime) -> Result<Revoked, Error> {
    let state = session.publish();
    let node = state.nodes.get_mut(name).ok_or(Error::UnknownNode)?;
    node.revoked = Some(seconds(now));
    node.keys.clear();
    state.tokens.retain(|token| token.node != name);
    let serials = matching(session, now, |entry| entry.node.as_deref() == Some(name));
    revoke_leaves(session, serials, now)
}

fn revoke_serial(session: &mut Session<'_>, serial: &str, now: SystemTime) -> Result<Revoked, Error> {
    let serial = serial.to_ascii_lowercase().replace(':', "");
    if session.state.intermediates.iter().any(|one| one.serial == serial) {
        return revoke_intermediate(session, &serial, now);
    }
    let found = matching(session, now, |entry| entry.serial == serial);
    if found.is_empty() {
        return Err(Error::NothingToRevoke);
    }
    revoke_leaves(session, found, now)
}

fn revoke_intermediate(session: &mut Session<'_>, which: &str, now: SystemTime) -> Result<Revoked, Error> {
    if session.state.roots.first().is_none_or(|root| root.list.is_none()) {
        return Err(Error::ForeignRoot);
    }
    let serial = resolve(session, which, now)?;
    // Before anything is changed: without the root nobody would believe it.
    let root = session.root()?;
    let state = session.publish();
    for one in state.intermediates.iter_mut().filter(|one| one.serial == serial) {
        one.revoked = Some(seconds(now));
    }
    next_list(state, &root, now)?;
    let mut revoked = Revoked { intermediates: vec![serial], ..Revoked::default() };
    if session.state.signing(seconds(now)).is_some() {
        return Ok(revoked);
    }
    // One that is published already need not wait any longer.
    let at = seconds(now);
    if let Some(next) = session.state.newest(at).map(|next| next.serial.clone()) {
        for one in session.publish().intermediates.iter_mut().filter(|one| one.serial == next) {
            one.active_from = at;
        }
    } else {
        revoked.replacement = Some(rotate(session, std::time::Duration::ZERO, now)?.serial);
    }
    Ok(revoked)
}

/// `current` signs now, `current-1` signed before it, or would, and so on; else a serial number.
fn resolve(session: &Session<'_>, which: &str, now: SystemTime) -> Result<String, Error> {
    let at = seconds(now);
    let mut live: Vec<_> =
        session.state.intermediates.iter().filter(|one| one.is_live(at) && one.active_from <= at).collect();
    live.sort_by_key(|one| std::cmp::Reverse(one.active_from));
    let back = match which.strip_prefix("current") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix('-').and_then(|number| number.parse().ok()),
        None => None,
    };
    let serial = which.to_ascii_lowercase().replace(':', "");
    let named = || session.state.intermediates.iter().find(|one| one.serial == serial && one.is_live(at));
    let found = back.map_or_else(named, |back: usize| live.get(back).copied());
    found.map(|one| one.serial.clone()).ok_or(Error::NothingToRevoke)
}
