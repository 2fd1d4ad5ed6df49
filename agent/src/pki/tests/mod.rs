//! Tests of the whole room. Helpers here; each subject has a file.

mod corpus;
mod forge;
mod life;
mod network;
mod noise;
mod oracles;
mod outside;
mod requests;
mod stress;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::spiffe::{SpiffeId, TrustDomain};

pub(super) fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

pub(super) fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org{path}").parse().unwrap()
}

/// A fresh authority of `example.org`, and the directory that it lives in.
pub(super) fn authority() -> (tempfile::TempDir, Arc<Authority>) {
    authority_with(Lifetimes::default())
}

pub(super) fn authority_with(lifetimes: Lifetimes) -> (tempfile::TempDir, Arc<Authority>) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { trust_domain: domain(), root_key: None, lifetimes };
    // Some time ago: tests issue what has nearly ended, or has.
    let then = SystemTime::now() - Duration::from_hours(2);
    let authority = Authority::create(&directory.path().join("ca"), &setup, then).unwrap();
    (directory, Arc::new(authority))
}

pub(super) fn own() -> SpiffeId {
    node_id(&domain(), "here").unwrap()
}

/// One identity of an authority.
pub(super) fn issue(authority: &Authority, path: &str) -> Arc<Svid> {
    let mut issued = authority.issue(&[id(path)], &own(), SystemTime::now()).unwrap();
    issued.pop().unwrap().unwrap()
}

pub(super) fn bundles(authority: &Authority) -> Bundles {
    authority.publication().bundles().unwrap()
}

pub(super) const SOON: Duration = Duration::from_secs(10);
