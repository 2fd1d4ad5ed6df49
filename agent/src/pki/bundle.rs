//! Whom we believe: for each trust domain its roots and revocation lists. Domains are never merged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::certificate::{self, validity};
use super::refusal::{Position, Refusal};
use super::verified::Verified;
use crate::spiffe::TrustDomain;

/// Roots in one bundle.
pub const MAX_ROOTS: usize = 16;
/// Revocation lists in one bundle.
pub const MAX_LISTS: usize = 64;
/// Bytes of one revocation list.
pub const MAX_LIST_BYTES: usize = 1 << 20;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// More than [`MAX_ROOTS`].
    #[error("the bundle has {count} roots, more than {MAX_ROOTS}")]
    TooManyRoots {
        /// How many.
        count: usize,
    },
    /// More than [`MAX_LISTS`], or one larger than [`MAX_LIST_BYTES`].
    #[error(
        "the bundle has more than {MAX_LISTS} revocation lists, or one of more than {MAX_LIST_BYTES} bytes"
    )]
    TooManyLists,
    /// A root that is no root.
    #[error("root {number} of the bundle cannot be used: {refusal}")]
    Root {
        /// From 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        refusal: Refusal,
    },
    /// A revocation list that cannot be read.
    #[error("revocation list {number} of the bundle cannot be read: {source}")]
    List {
        /// From 1.
        number: usize,
        /// What webpki says.
        source: webpki::Error,
    },
}

/// One certificate that is believed by itself.
#[derive(Clone)]
pub struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { der, anchor: _, not_before, not_after } = self;
        f.debug_struct("Root")
            .field("bytes", &der.len())
            .field("not_before", not_before)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

impl Root {
    fn new(der: &CertificateDer<'_>, domain: &TrustDomain) -> Result<Self, Refusal> {
        let parsed = certificate::parse(der, Position(0))?;
        certificate::signer(&parsed, Position(0), domain)?;
        if parsed.name_constraints().is_ok_and(|constraints| constraints.is_some()) {
            tracing::warn!(%domain, "a root has name constraints; chains through it may be refused for their URI names");
        }
        let (not_before, not_after) = validity(&parsed);
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(Refusal::Chain)?.to_owned();
        Ok(Self { der: der.clone().into_owned(), anchor, not_before, not_after })
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// From when it counts.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it counts.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    pub(super) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// One trust domain: roots, and revocation lists by their issuers.
///
/// A domain with any list demands one of every leaf's issuer, and, when a root has one too, of every issuer in the chain.
/// Only a domain that publishes no list at all is believed without.
#[derive(Clone)]
pub struct DomainBundle {
    roots: Vec<Root>,
    lists: Arc<[CertRevocationList<'static>]>,
    raw_lists: Vec<CertificateRevocationListDer<'static>>,
    lists_end: Option<SystemTime>,
    strict: bool,
}

impl fmt::Debug for DomainBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { roots, lists, raw_lists: _, lists_end: _, strict } = self;
        f.debug_struct("DomainBundle")
            .field("roots", roots)
            .field("lists", &lists.len())
            .field("strict", strict)
            .finish_non_exhaustive()
    }
}

impl DomainBundle {
    /// Reads what is believed of `domain`. No roots is a bundle too: it believes nobody.
    pub fn new(
        domain: &TrustDomain,
        roots: &[CertificateDer<'_>],
        lists: &[CertificateRevocationListDer<'_>],
    ) -> Result<Self, BundleError> {
        if roots.len() > MAX_ROOTS {
            return Err(BundleError::TooManyRoots { count: roots.len() });
        }
        if lists.len() > MAX_LISTS || lists.iter().any(|list| list.len() > MAX_LIST_BYTES) {
            return Err(BundleError::TooManyLists);
        }
        let roots = roots.iter().zip(1..).map(|(root, number)| {
            Root::new(root, domain).map_err(|refusal| BundleError::Root { number, refusal })
        });
        let read = lists.iter().zip(1..).map(|(list, number)| {
            OwnedCertRevocationList::from_der(list.as_ref())
                .map(CertRevocationList::from)
                .map_err(|source| BundleError::List { number, source })
        });
        Ok(Self {
            roots: roots.collect::<Result<_, _>>()?,
            lists: read.collect::<Result<_, _>>()?,
            raw_lists: lists.iter().map(|list| list.as_ref().to_vec().into()).collect(),
            lists_end: lists.iter().map(|list| list_end(list)).min(),
            strict: false,
        })
    }

    /// Asks leaves for what the standard recommends and many issuers leave out: basic constraints, critical names.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// The roots.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The revocation lists as they were given.
    pub fn revocation_lists(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.raw_lists
    }

    /// When the first of the lists is out of date.
    pub(super) fn lists_end(&self) -> Option<SystemTime> {
        self.lists_end
    }

    pub(super) fn lists(&self) -> &[CertRevocationList<'static>] {
        &self.lists
    }

    /// Whether the roots say which signers they have revoked.
    pub(super) fn roots_revoke(&self) -> bool {
        let subject =
            |root: &Root| self.lists.iter().any(|list| list.issuer() == root.anchor.subject.as_ref());
        self.roots.iter().any(subject)
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }
}

/// When a list is out of date; long ago when it does not say.
fn list_end(list: &CertificateRevocationListDer<'_>) -> SystemTime {
    let read = x509_parser::parse_x509_crl(list.as_ref()).ok();
    let end = read.and_then(|(_, list)| list.next_update()).map(|end| end.timestamp());
    SystemTime::UNIX_EPOCH + Duration::from_secs(end.and_then(|end| u64::try_from(end).ok()).unwrap_or(0))
}

/// Everything that is believed at one moment; it never changes.
#[derive(Clone, Debug, Default)]
pub struct Bundles {
    revision: u64,
    domains: BTreeMap<TrustDomain, DomainBundle>,
    verified: Arc<Verified>,
}

impl Bundles {
    /// One bundle for each trust domain.
    pub fn new(revision: u64, domains: impl IntoIterator<Item = (TrustDomain, DomainBundle)>) -> Self {
        Self { revision, domains: domains.into_iter().collect(), verified: Arc::default() }
    }

    /// Which state this is; another number is another state.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is believed of one trust domain.
    pub fn domain(&self, domain: &TrustDomain) -> Option<&DomainBundle> {
        self.domains.get(domain)
    }

    /// What was verified under these beliefs a moment ago.
    pub(super) fn verified(&self) -> &Verified {
        &self.verified
    }

    /// All of them.
    pub fn domains(&self) -> impl Iterator<Item = (&TrustDomain, &DomainBundle)> {
        self.domains.iter()
    }
}
