//! New intermediates beside the old ones, and revocation lists that are never out of date while the authority runs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::signer::{SecretKey, Signer, key_path};
use super::state::{Intermediate, List, RevokedLeaf, State};
use super::{Authority, Error, Session};
use crate::pki::pem::{certificates, of_certificate, of_list};
use crate::pki::profile::{self, Entry, moment, seconds};

/// How long a new intermediate is only published before it signs, so that every peer knows its revocation list first.
pub const OVERLAP: Duration = Duration::from_mins(2);
/// A leaf's revocation list is good for at least this long, in seconds.
const LIST_SECONDS: u64 = 86_400;
/// Intermediates that are kept.
pub(super) const MAX_INTERMEDIATES: usize = 32;

/// An intermediate that was made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rotated {
    /// Its serial number, in hex.
    pub serial: String,
    /// From when it signs, in seconds since 1970.
    pub active_from: u64,
    /// Until when it counts, in seconds since 1970.
    pub not_after: u64,
}

impl Authority {
    /// Makes a new intermediate that signs after `overlap`. The old one stays in the bundle until it expires, and so do
    /// the leaves it has signed. Needs the root's key.
    pub fn rotate(&self, overlap: Duration, now: SystemTime) -> Result<Rotated, Error> {
        self.session(|session| rotate(session, overlap, now))
    }

    /// What must happen now and then: lists are renewed, what has expired is forgotten, and a new intermediate is made
    /// when the newest one is past half its life and the root's key is at hand. Meant to be called every minute.
    pub fn maintain(&self, now: SystemTime) -> Result<(), Error> {
        let at = seconds(now);
        let idle = {
            let state = self.snapshot();
            !needs_rotation(&state, at)
                && !state.intermediates.iter().any(|one| list_is_old(&state, one, at) || is_over(one, at))
                && !state.tokens.iter().any(|token| token.not_after <= at)
                && !root_list_is_old(&state, at)
        };
        if idle {
            return self.session(|session| session.journal.compact(at));
        }
        self.session(|session| {
            forget(session, at);
            session.journal.compact(at)?;
            if needs_rotation(&session.state, at) {
                match rotate(session, OVERLAP, now) {
                    Err(Error::NoRootKey { .. }) | Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
            if root_list_is_old(&session.state, at)
                && let Ok(root) = session.root()
            {
                next_list(session.publish(), &root, now)?;
            }
            renew_lists(session, now)
        })
    }

    /// Whether a new intermediate is due, and so the root's key is wanted.
    pub fn wants_root_key(&self, now: SystemTime) -> bool {
        needs_rotation(&self.snapshot(), seconds(now))
    }
}

pub(super) fn rotate(
    session: &mut Session<'_>,
    overlap: Duration,
    now: SystemTime,
) -> Result<Rotated, Error> {
    if session.state.roots.first().is_none_or(|root| root.list.is_none()) {
        return Err(Error::ForeignRoot);
    }
    forget(session, seconds(now));
    if session.state.intermediates.len() >= MAX_INTERMEDIATES {
        return Err(Error::Full { what: "intermediates", limit: MAX_INTERMEDIATES });
    }
    let root = session.root()?;
    // Nobody waits for the overlap when nothing else signs.
    let overlap = if session.state.signing(seconds(now)).is_some() { overlap } else { Duration::ZERO };
    let active_from = seconds(now + overlap);
    let new = intermediate(session.directory, &session.state, &root, now, active_from)?;
    let rotated = Rotated { serial: new.serial.clone(), active_from, not_after: new.not_after };
    let state = session.publish();
    state.intermediates.push(new);
    next_list(state, &root, now)?;
    Ok(rotated)
}

/// Makes an intermediate; its key is on the disk when this returns.
pub(super) fn intermediate(
    directory: &Path,
    state: &State,
    root: &Signer,
    now: SystemTime,
    active_from: u64,
) -> Result<Intermediate, Error> {
    let root_end = root_end(state)?;
    let end = (seconds(now) + state.intermediate_seconds).min(root_end);
    let (params, serial) = profile::authority(&state.trust_domain, "intermediate", 0, (now, moment(end)))
        .map_err(Error::Make)?;
    let mut params = params;
    params.use_authority_key_identifier_extension = true;
    let key = SecretKey::generate()?;
    let made = params.signed_by(&key, &root.issuer).map_err(Error::Make)?.into();
    let path = key_path(directory, &serial);
    key.write(&path)?;
    let signer = Signer::new(vec![made], key, &path)?;
    let list = leaf_list(&signer, &List::default(), &[], state, now)?;
    Ok(Intermediate {
        serial,
        certificate: signer.chain.first().map(of_certificate).unwrap_or_default(),
        above: Vec::new(),
        not_before: seconds(now),
        not_after: end,
        active_from,
        revoked: None,
        list,
        revoked_leaves: Vec::new(),
    })
}

fn root_end(state: &State) -> Result<u64, Error> {
    let root = state.roots.first().ok_or(Error::NoSigner)?;
    let root = certificates(root.certificate.as_bytes())?;
    let root = root.first().ok_or(Error::NoSigner)?;
    let parsed = crate::pki::certificate::parse(root, crate::pki::Position(1))?;
    Ok(seconds(crate::pki::certificate::validity(&parsed).1))
}

/// The root's list anew: the intermediates that were revoked. It lasts as long as they do, and a day more: the root's key
/// may be far away, and a list that ran out would cut everybody.
pub(super) fn next_list(state: &mut State, root: &Signer, now: SystemTime) -> Result<(), Error> {
    let last = state.intermediates.iter().map(|one| one.not_after).max().unwrap_or(0).max(seconds(now));
    let next_update = last + LIST_SECONDS;
    let revoked = state.intermediates.iter().filter_map(|one| Some((one, one.revoked?)));
    let entries: Vec<Entry<'_>> =
        revoked.map(|(one, at)| Entry { serial: &one.serial, at: moment(at) }).collect();
    let number = state.roots.first().and_then(|root| root.list.as_ref()).map_or(0, |list| list.number) + 1;
    let list =
        profile::list(&root.issuer, number, entries, (now, moment(next_update))).map_err(Error::Make)?;
    if let Some(first) = state.roots.first_mut() {
        first.list = Some(List { number, made: seconds(now), next_update, pem: of_list(&list) });
    }
    Ok(())
}

/// An intermediate's list after `old`, with these on it.
pub(super) fn leaf_list(
    signer: &Signer,
    old: &List,
    revoked: &[RevokedLeaf],
    state: &State,
    now: SystemTime,
) -> Result<List, Error> {
    let entries = revoked.iter().map(|one| Entry { serial: &one.serial, at: moment(one.at) });
    let number = old.number + 1;
    let next_update = seconds(now) + list_seconds(state);
    let list =
        profile::list(&signer.issuer, number, entries, (now, moment(next_update))).map_err(Error::Make)?;
    Ok(List { number, made: seconds(now), next_update, pem: of_list(&list) })
}

/// Long enough that every leaf it speaks about ends first, should the authority stop now.
fn list_seconds(state: &State) -> u64 {
    LIST_SECONDS.max(4 * state.leaf_seconds)
}

fn list_is_old(state: &State, one: &Intermediate, now: u64) -> bool {
    let List { made, next_update, .. } = one.list;
    let quarter = made + next_update.saturating_sub(made) / 4;
    // The second: leaves may live longer now than when the list was made.
    one.not_after > now && (now >= quarter || next_update < now + 3 * state.leaf_seconds)
}

/// Only when it is nearly over: the root's key should not be wanted often.
fn root_list_is_old(state: &State, now: u64) -> bool {
    let list = state.roots.first().and_then(|root| root.list.as_ref());
    list.is_some_and(|list| now + LIST_SECONDS / 2 >= list.next_update)
}

fn is_over(one: &Intermediate, now: u64) -> bool {
    one.not_after + 3600 <= now
}

fn needs_rotation(state: &State, now: u64) -> bool {
    let own_root = state.roots.first().is_some_and(|root| root.list.is_some());
    let half = |one: &Intermediate| one.not_before + (one.not_after - one.not_before) / 2;
    own_root && state.newest(now).is_none_or(|newest| now >= half(newest))
}

/// Drops what has expired.
fn forget(session: &mut Session<'_>, now: u64) {
    let state = &session.state;
    let tokens = state.tokens.iter().any(|token| token.not_after <= now);
    let over: Vec<String> =
        state.intermediates.iter().filter(|one| is_over(one, now)).map(|one| one.serial.clone()).collect();
    if tokens {
        session.change().tokens.retain(|token| now < token.not_after);
    }
    if over.is_empty() {
        return;
    }
    session.publish().intermediates.retain(|one| !is_over(one, now));
    for serial in over {
        session.signers.remove(&serial);
        // A key of an expired certificate left behind harms nobody; the next one to look removes it by hand.
        let _ = std::fs::remove_file(key_path(session.directory, &serial));
    }
}

/// Renews the lists that have lived a quarter of their time, without the entries that have expired.
fn renew_lists(session: &mut Session<'_>, now: SystemTime) -> Result<(), Error> {
    let at = seconds(now);
    let old: Vec<String> = session
        .state
        .intermediates
        .iter()
        .filter(|one| list_is_old(&session.state, one, at))
        .map(|one| one.serial.clone())
        .collect();
    for serial in old {
        renew_list(session, &serial, now)?;
    }
    Ok(())
}

/// Signs an intermediate's list anew.
pub(super) fn renew_list(session: &mut Session<'_>, serial: &str, now: SystemTime) -> Result<(), Error> {
    let signer = session.signer(serial)?;
    let state = session.publish();
    let Some(at) = state.intermediates.iter().position(|one| one.serial == serial) else { return Ok(()) };
    if let Some(one) = state.intermediates.get_mut(at) {
        one.revoked_leaves.retain(|leaf| seconds(now) < leaf.not_after);
    }
    let Some(one) = state.intermediates.get(at) else { return Ok(()) };
    let list = leaf_list(&signer, &one.list, &one.revoked_leaves, state, now)?;
    if let Some(one) = state.intermediates.get_mut(at) {
        one.list = list;
    }
    Ok(())
}
