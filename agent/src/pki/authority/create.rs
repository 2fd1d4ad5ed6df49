//! A new authority, or one that was elsewhere before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::rotate::{intermediate, next_list};
use super::signer::{SecretKey, Signer, key_path};
use super::state::{Intermediate, List, RootState, State};
use super::{Authority, Error, lock, state};
use crate::pki::certificate;
use crate::pki::files::{private_directory, read_public};
use crate::pki::pem::{certificates, of_certificate};
use crate::pki::profile::{self, hex, moment, seconds};
use crate::pki::{MAX_CHAIN, Position, Role, ca_id, verify};
use crate::spiffe::TrustDomain;

const DAY: u64 = 86_400;
/// The largest file of certificates that is read, in bytes.
const MAX_CERTIFICATES: u64 = 1 << 20;

/// How long certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// 1 day to 30 years.
    pub root: Duration,
    /// 1 hour to 10 years, and no longer than the root.
    pub intermediate: Duration,
    /// 1 minute to 7 days.
    pub leaf: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: Duration::from_secs(3650 * DAY),
            intermediate: Duration::from_secs(7 * DAY),
            leaf: Duration::from_hours(1),
        }
    }
}

impl Lifetimes {
    fn check(self) -> Result<(), Error> {
        let (root, intermediate, leaf) =
            (self.root.as_secs(), self.intermediate.as_secs(), self.leaf.as_secs());
        for (what, value, low, high) in [
            ("the root", root, DAY, 30 * 365 * DAY),
            ("an intermediate", intermediate, 3600, root.min(3650 * DAY)),
            ("a leaf", leaf, 60, intermediate.min(7 * DAY)),
        ] {
            if !(low..=high).contains(&value) {
                return Err(Error::Lifetime { what, low, high });
            }
        }
        Ok(())
    }
}

/// What a new authority is to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For which trust domain it speaks.
    pub trust_domain: TrustDomain,
    /// Where the root's key goes; below the authority's directory unless given.
    pub root_key: Option<PathBuf>,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
}

/// An authority that is there already, as files in PEM.
#[derive(Clone, Debug)]
pub struct Import {
    /// For which trust domain it is to speak.
    pub trust_domain: TrustDomain,
    /// The roots that peers shall believe; the first one has signed the intermediate.
    pub roots: PathBuf,
    /// The root's key. Without it intermediates can be neither replaced nor revoked here.
    pub root_key: Option<PathBuf>,
    /// The intermediate, and below it whatever stands between it and the root.
    pub intermediate: PathBuf,
    /// The intermediate's key.
    pub key: PathBuf,
    /// How long leaves live, and intermediates that are made here.
    pub lifetimes: Lifetimes,
}

impl Authority {
    /// Makes a root and an intermediate in a new directory, or in one without an authority.
    pub fn create(directory: &Path, setup: &Setup, now: SystemTime) -> Result<Self, Error> {
        setup.lifetimes.check()?;
        let _lock = empty(directory)?;
        let key_file = setup.root_key.clone().unwrap_or_else(|| PathBuf::from("root.key"));
        let end = now + setup.lifetimes.root;
        let (params, _) =
            profile::authority(&setup.trust_domain, "root", 1, (now, end)).map_err(Error::Make)?;
        let key = SecretKey::generate()?;
        let root: CertificateDer<'static> = params.self_signed(&key).map_err(Error::Make)?.into();
        let path = directory.join(&key_file);
        key.write(&path)?;
        let mut new = State::new(setup.trust_domain.clone(), key_file);
        new.leaf_seconds = setup.lifetimes.leaf.as_secs();
        new.intermediate_seconds = setup.lifetimes.intermediate.as_secs();
        new.roots.push(RootState { certificate: of_certificate(&root), list: Some(List::default()) });
        let root = Signer::new(vec![root], key, &path)?;
        new.intermediates.push(intermediate(directory, &new, &root, now, seconds(now))?);
        next_list(&mut new, &root, now)?;
        new.revision = 1;
        new.save(directory)?;
        Self::open(directory, None)
    }

    /// Takes over an authority whose certificates and keys are files. The keys are copied.
    pub fn import(directory: &Path, import: &Import, now: SystemTime) -> Result<Self, Error> {
        let Import { trust_domain, roots, root_key, intermediate, key, lifetimes } = import;
        let roots = certificates(&read_public(roots, MAX_CERTIFICATES)?)?;
        let chain = certificates(&read_public(intermediate, MAX_CERTIFICATES)?)?;
        if chain.len() >= MAX_CHAIN {
            return Err(crate::pki::Refusal::TooManyCertificates { count: chain.len() + 1 }.into());
        }
        let secret = SecretKey::read(key)?;
        let _lock = empty(directory)?;
        let serial = serial_of(&chain)?;
        secret.write(&key_path(directory, &serial))?;
        let signer = Signer::new(chain, secret, key)?;
        let mut new = State::new(trust_domain.clone(), PathBuf::from("root.key"));
        new.leaf_seconds = lifetimes.leaf.as_secs();
        new.intermediate_seconds = lifetimes.intermediate.as_secs();
        let texts = roots.iter().map(|root| RootState { certificate: of_certificate(root), list: None });
        new.roots = texts.collect();
        new.intermediates.push(imported(&signer, serial, &new, now)?);
        if let Some(path) = root_key {
            let secret = SecretKey::read(path)?;
            secret.write(&directory.join(&new.root_key))?;
            let root = roots.first().cloned().ok_or(Error::NoSigner)?;
            let root = Signer::new(vec![root], secret, path)?;
            if let Some(first) = new.roots.first_mut() {
                first.list = Some(List::default());
            }
            next_list(&mut new, &root, now)?;
        }
        new.revision = 1;
        prove(&signer, &new, now)?;
        new.save(directory)?;
        Self::open(directory, None)
    }
}

impl Authority {
    /// From now on leaves live so long; those that were issued are not touched.
    pub fn set_leaf_lifetime(&self, leaf: Duration) -> Result<(), Error> {
        if self.snapshot().leaf_seconds == leaf.as_secs() {
            return Ok(());
        }
        self.session(|session| {
            let state = session.change();
            let intermediate = Duration::from_secs(state.intermediate_seconds);
            Lifetimes { intermediate, leaf, ..Lifetimes::default() }.check()?;
            state.leaf_seconds = leaf.as_secs();
            Ok(())
        })
    }
}

/// A directory without an authority, locked.
fn empty(directory: &Path) -> Result<std::fs::File, Error> {
    private_directory(directory)?;
    let lock = lock(directory)?;
    if directory.join(state::NAME).exists() {
        return Err(Error::Exists { directory: directory.to_owned() });
    }
    Ok(lock)
}

fn serial_of(chain: &[CertificateDer<'_>]) -> Result<String, Error> {
    let first = chain.first().ok_or(Error::NoSigner)?;
    let parsed = certificate::parse(first, Position(1))?;
    let serial = parsed.raw_serial();
    Ok(hex(serial.get(..20).unwrap_or(serial)))
}

fn imported(signer: &Signer, serial: String, state: &State, now: SystemTime) -> Result<Intermediate, Error> {
    let first = signer.chain.first().ok_or(Error::NoSigner)?;
    let parsed = certificate::parse(first, Position(1))?;
    let (not_before, not_after) = certificate::validity(&parsed);
    certificate::signer(&parsed, Position(1), &state.trust_domain)?;
    Ok(Intermediate {
        serial,
        certificate: of_certificate(first),
        above: signer.chain.iter().skip(1).map(of_certificate).collect(),
        not_before: seconds(not_before),
        not_after: seconds(not_after),
        active_from: seconds(not_before),
        revoked: None,
        list: super::rotate::leaf_list(signer, &List::default(), &[], state, now)?,
        revoked_leaves: Vec::new(),
    })
}

/// Issues one certificate and verifies it as a peer would, before anything relies on the authority.
fn prove(signer: &Signer, state: &State, now: SystemTime) -> Result<(), Error> {
    let key = SecretKey::generate()?;
    let id = ca_id(&state.trust_domain)?;
    let end = moment(seconds(now) + 60);
    let leaf = profile::leaf(&id, &key, &signer.issuer, (now, end)).map_err(Error::Make)?;
    let chain: Vec<_> = std::iter::once(leaf.der).chain(signer.chain.iter().cloned()).collect();
    let bundles = super::show::publication(&Arc::new(state.clone())).bundles()?;
    verify(&bundles, &chain, Role::Server, now)?;
    Ok(())
}
