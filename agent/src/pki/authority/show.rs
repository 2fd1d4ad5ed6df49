//! What an authority tells: to peers what they are to believe, to people what there is.

use std::time::SystemTime;

use serde::Serialize;

use super::state::State;
use super::{Authority, Error};
use crate::pki::Position;
use crate::pki::certificate;
use crate::pki::pem::certificates;
use crate::pki::profile::{hex, seconds};
use crate::pki::publication::Publication;

/// What `waxseal ca show` shows. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// For whom it speaks.
    pub trust_domain: String,
    /// Which state this is.
    pub revision: u64,
    /// How long a leaf lives, in seconds.
    pub leaf_seconds: u64,
    /// How long an intermediate lives, in seconds.
    pub intermediate_seconds: u64,
    /// Whether the root's key is where it was at first.
    pub root_key_at_hand: bool,
    /// Whether a new intermediate is due and the root's key is not there to sign it.
    pub root_key_wanted: bool,
    /// The roots.
    pub roots: Vec<RootReport>,
    /// The intermediates, the one that signs first.
    pub intermediates: Vec<IntermediateReport>,
    /// The nodes by name.
    pub nodes: Vec<NodeReport>,
    /// Tokens that nobody has used yet.
    pub tokens: usize,
    /// IDs that are not issued any more.
    pub revoked_ids: Vec<String>,
    /// Certificates that have not expired.
    pub certificates: usize,
}

/// A root.
#[derive(Clone, Debug, Serialize)]
pub struct RootReport {
    /// SHA-256 of the certificate, in hex.
    pub sha256: String,
    /// Its end.
    pub not_after: u64,
    /// In PEM.
    pub certificate: String,
}

/// An intermediate.
#[derive(Clone, Debug, Serialize)]
pub struct IntermediateReport {
    /// In hex.
    pub serial: String,
    /// `signing`, `waiting`, `retired`, `revoked` or `expired`.
    pub state: &'static str,
    /// From when it signs or signed.
    pub active_from: u64,
    /// Its end.
    pub not_after: u64,
    /// Leaves on its revocation list.
    pub revoked: usize,
    /// When its list runs out.
    pub list_until: u64,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// `registered`, `joined` or `revoked`.
    pub state: &'static str,
    /// What it may have.
    pub allow: Vec<String>,
    /// Certificates of it that have not expired.
    pub certificates: usize,
}

impl Authority {
    /// What there is.
    pub fn report(&self, now: SystemTime) -> Result<Report, Error> {
        self.session(|session| {
            let at = seconds(now);
            let state = &session.state;
            let roots = state.roots.iter().map(|root| root_report(&root.certificate));
            let mut report = Report {
                trust_domain: state.trust_domain.to_string(),
                revision: state.revision,
                leaf_seconds: state.leaf_seconds,
                intermediate_seconds: state.intermediate_seconds,
                root_key_at_hand: session.directory.join(&state.root_key).exists(),
                root_key_wanted: false,
                roots: roots.collect::<Result<_, _>>()?,
                intermediates: intermediates(state, at),
                nodes: Vec::new(),
                tokens: state.tokens.iter().filter(|token| at < token.not_after).count(),
                revoked_ids: state.banned.keys().map(ToString::to_string).collect(),
                certificates: session.journal.live(at).count(),
            };
            report.nodes = nodes(session, at);
            Ok(report)
        })
        .map(|report| Report {
            root_key_wanted: !report.root_key_at_hand && self.wants_root_key(now),
            ..report
        })
    }
}

fn root_report(certificate: &str) -> Result<RootReport, Error> {
    use sha2::Digest as _;
    let der = certificates(certificate.as_bytes())?;
    let der = der.first().ok_or(Error::NoSigner)?;
    let parsed = certificate::parse(der, Position(0))?;
    Ok(RootReport {
        sha256: hex(&sha2::Sha256::digest(der)),
        not_after: seconds(certificate::validity(&parsed).1),
        certificate: certificate.to_owned(),
    })
}

fn intermediates(state: &State, now: u64) -> Vec<IntermediateReport> {
    let signing = state.signing(now).map(|one| one.serial.as_str());
    let mut all: Vec<_> = state.intermediates.iter().collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.active_from));
    let word = |one: &&super::state::Intermediate| match () {
        () if one.revoked.is_some() => "revoked",
        () if one.not_after <= now => "expired",
        () if now < one.active_from => "waiting",
        () if signing == Some(one.serial.as_str()) => "signing",
        () => "retired",
    };
    let report = |one: &super::state::Intermediate| IntermediateReport {
        serial: one.serial.clone(),
        state: word(&one),
        active_from: one.active_from,
        not_after: one.not_after,
        revoked: one.revoked_leaves.len(),
        list_until: one.list.next_update,
    };
    all.into_iter().map(report).collect()
}

fn nodes(session: &super::Session<'_>, now: u64) -> Vec<NodeReport> {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for entry in session.journal.live(now) {
        if let Some(node) = &entry.node {
            *counts.entry(node).or_default() += 1;
        }
    }
    let word = |node: &super::state::Node| match node {
        node if node.revoked.is_some() => "revoked",
        node if node.joined.is_some() => "joined",
        _ => "registered",
    };
    let report = |(name, node): (&String, &super::state::Node)| NodeReport {
        name: name.clone(),
        state: word(node),
        allow: node.allow.clone(),
        certificates: counts.get(name.as_str()).copied().unwrap_or(0),
    };
    session.state.nodes.iter().map(report).collect()
}

/// Roots, and the lists of the root and of every intermediate that has not expired.
pub(super) fn publication(state: &State) -> Publication {
    let roots = state.roots.iter().filter_map(|root| root.list.as_ref());
    let lists = roots.chain(state.intermediates.iter().map(|one| &one.list));
    Publication {
        trust_domain: state.trust_domain.clone(),
        revision: state.revision,
        roots: state.roots.iter().map(|root| root.certificate.clone()).collect(),
        lists: lists.map(|list| list.pem.clone()).collect(),
    }
}
