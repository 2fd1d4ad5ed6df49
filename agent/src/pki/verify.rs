//! The verifier: the only place where a chain of certificates becomes a [`Peer`].
//!
//! webpki builds the path and checks signatures, dates, path lengths and revocation. It does not know SPIFFE, ignores the
//! dates of roots and the key usages of signers; that is done here. The trust domain in the leaf picks the bundle, so a
//! root of one domain never vouches for another.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath, aws_lc_rs as algorithms,
};

use super::bundle::{Bundles, DomainBundle, Root};
use super::certificate::{self, validity};
use super::names::node_name;
use super::refusal::{Position, Refusal};
use super::verified::Fingerprint;
use super::{MAX_CHAIN, MAX_CHAIN_BYTES};
use crate::spiffe::{SpiffeId, TrustDomain};

/// What the peer is on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opened the connection.
    Client,
    /// It answers.
    Server,
}

/// Proof that a chain was verified: whoever holds one holds a name that its owner has proved by a signature of its root.
/// That the peer also holds the key is proved by the TLS handshake in which the chain was shown.
#[derive(Clone, Debug)]
pub struct Peer {
    id: SpiffeId,
    not_after: SystemTime,
    chain: Arc<[CertificateDer<'static>]>,
    role: Role,
}

impl Peer {
    /// Its name.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Until when it may be believed: the earliest end in the chain, the root's included.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it is a node and no workload.
    pub fn is_node(&self) -> bool {
        self.node_name().is_some()
    }

    /// The node's name, when it is a node.
    pub fn node_name(&self) -> Option<&str> {
        node_name(&self.id)
    }

    /// The chain as it was shown, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Verifies it again, against what is believed and revoked now.
    pub fn still_valid(&self, bundles: &Bundles, now: SystemTime) -> Result<(), Refusal> {
        verify(bundles, &self.chain, self.role, now).map(drop)
    }

    /// Whether the leaf's key has signed the message, as [`Svid::sign`](super::Svid::sign) does.
    pub fn verify_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        let leaf = self.chain.first().ok_or(Refusal::NoCertificate)?;
        let leaf = EndEntityCert::try_from(leaf).map_err(Refusal::Chain)?;
        let kinds: [&dyn SignatureVerificationAlgorithm; 4] = [
            algorithms::ECDSA_P256_SHA256,
            algorithms::ECDSA_P384_SHA384,
            algorithms::ED25519,
            algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        ];
        let signed = kinds.into_iter().any(|kind| leaf.verify_signature(kind, message, signature).is_ok());
        if signed { Ok(()) } else { Err(Refusal::Message) }
    }
}

/// Which revocation lists a chain is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revocation {
    /// Of every issuer, and in date.
    Complete,
    /// Those that are there, however old. Only towards the CA server: it is where newer ones come from.
    Known,
}

/// Verifies a chain, the leaf first, as it was shown by a peer in that role.
pub fn verify(
    bundles: &Bundles,
    chain: &[CertificateDer<'_>],
    role: Role,
    now: SystemTime,
) -> Result<Peer, Refusal> {
    measured(chain)?;
    let fingerprint = Fingerprint::of(chain, role);
    if let Some(peer) = bundles.verified().find(&fingerprint, now) {
        return Ok(peer);
    }
    let peer = verify_with(bundles, chain, role, now, Revocation::Complete)?;
    let lists_end = bundles.domain(peer.id.trust_domain()).and_then(DomainBundle::lists_end);
    bundles.verified().keep(fingerprint, &peer, now, lists_end);
    Ok(peer)
}

pub(super) fn verify_with(
    bundles: &Bundles,
    chain: &[CertificateDer<'_>],
    role: Role,
    now: SystemTime,
    revocation: Revocation,
) -> Result<Peer, Refusal> {
    let (leaf, signers) = measured(chain)?;
    let parsed = certificate::parse(leaf, Position(0))?;
    for (signer, position) in signers.iter().zip(1..) {
        certificate::parse(signer, Position(position))?;
    }
    let id = certificate::spiffe_id(&parsed)?;
    let domain = id.trust_domain();
    let bundle = bundles.domain(domain).ok_or_else(|| Refusal::NoBundle(domain.clone()))?;
    if bundle.roots().is_empty() {
        return Err(Refusal::EmptyBundle(domain.clone()));
    }
    certificate::leaf(&parsed, bundle.is_strict())?;
    let (_, leaf_end) = validity(&parsed);
    let end_entity = EndEntityCert::try_from(leaf).map_err(|error| refusal(error, now))?;
    let question = Question { end_entity: &end_entity, signers, role, now, bundle, revocation };
    let not_after = question.end(domain, leaf)?.min(leaf_end);
    let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    Ok(Peer { id, not_after, chain, role })
}

/// Before anything is parsed.
fn measured<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<(&'a CertificateDer<'b>, &'a [CertificateDer<'b>]), Refusal> {
    let (leaf, signers) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    if chain.len() > MAX_CHAIN {
        return Err(Refusal::TooManyCertificates { count: chain.len() });
    }
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > MAX_CHAIN_BYTES {
        return Err(Refusal::TooLarge { bytes });
    }
    Ok((leaf, signers))
}

/// One path to be found.
struct Question<'a> {
    end_entity: &'a EndEntityCert<'a>,
    signers: &'a [CertificateDer<'a>],
    role: Role,
    now: SystemTime,
    bundle: &'a DomainBundle,
    revocation: Revocation,
}

impl Question<'_> {
    /// The earliest end of the signers on the path and of its root, once the path holds.
    fn end(&self, domain: &TrustDomain, leaf: &CertificateDer<'_>) -> Result<SystemTime, Refusal> {
        let Self { bundle, signers, now, .. } = *self;
        let valid = bundle.roots().iter().filter(|root| root.is_valid_at(now));
        let anchors: Vec<TrustAnchor<'_>> = valid.map(|root| root.anchor().clone()).collect();
        let path = match self.path(&anchors) {
            Err(webpki::Error::UnknownIssuer) => return Err(self.unknown_issuer()),
            Err(webpki::Error::CertRevoked) => return Err(self.revoked(leaf)),
            other => other.map_err(|error| refusal(error, now))?,
        };
        let mut end = root_of(bundle, &path, now).map_or(now, Root::not_after);
        for signer in path.intermediate_certificates() {
            let der = signer.der();
            let index = signers.iter().position(|shown| shown.as_ref() == der.as_ref()).unwrap_or(0);
            let position = Position(index + 1);
            let parsed = certificate::parse(&der, position)?;
            certificate::signer(&parsed, position, domain)?;
            end = end.min(validity(&parsed).1);
        }
        Ok(end)
    }

    fn path<'p>(&'p self, anchors: &'p [TrustAnchor<'p>]) -> Result<VerifiedPath<'p>, webpki::Error> {
        let usage = match self.role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let lists: Vec<_> = self.bundle.lists().iter().collect();
        self.end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            anchors,
            self.signers,
            unix(self.now),
            usage,
            self.lists(&lists),
            None,
        )
    }

    /// A domain with lists demands one of every issuer, in date. Lists of ours outlive what they speak about, so a CA that
    /// is away cuts nobody before the certificates end.
    fn lists<'l>(&self, lists: &'l [&'l webpki::CertRevocationList<'l>]) -> Option<RevocationOptions<'l>> {
        let builder = RevocationOptionsBuilder::new(lists).ok()?;
        let whole = self.bundle.roots_revoke();
        let depth = if whole { RevocationCheckDepth::Chain } else { RevocationCheckDepth::EndEntity };
        let (unknown, expired) = match self.revocation {
            Revocation::Complete => (UnknownStatusPolicy::Deny, ExpirationPolicy::Enforce),
            Revocation::Known => (UnknownStatusPolicy::Allow, ExpirationPolicy::Ignore),
        };
        let builder = builder.with_depth(depth).with_status_policy(unknown);
        Some(builder.with_expiration_policy(expired).build())
    }

    /// Was it a root that is out of its dates? Those were left out.
    fn unknown_issuer(&self) -> Refusal {
        for root in self.bundle.roots().iter().filter(|root| !root.is_valid_at(self.now)) {
            let anchors = [root.anchor().clone()];
            let known = !matches!(self.path_alone(&anchors), Err(webpki::Error::UnknownIssuer));
            if known && self.now > root.not_after() {
                return Refusal::RootExpired { not_after: root.not_after() };
            }
            if known {
                return Refusal::RootNotYetValid { not_before: root.not_before() };
            }
        }
        Refusal::UnknownIssuer
    }

    fn path_alone(&self, anchors: &[TrustAnchor<'_>]) -> Result<(), webpki::Error> {
        Question { ..*self }.path(anchors).map(drop)
    }

    /// Which one of the chain it is that is revoked.
    fn revoked(&self, leaf: &CertificateDer<'_>) -> Refusal {
        let shown = std::iter::once(leaf).chain(self.signers).zip(0..);
        for (der, index) in shown {
            let position = Position(index);
            let Ok(parsed) = certificate::parse(der, position) else { continue };
            let issuer = parsed.issuer().as_raw();
            let listed = self.bundle.lists().iter().any(|list| {
                list.issuer() == inner(issuer)
                    && list.find_serial(parsed.raw_serial()).is_ok_and(|found| found.is_some())
            });
            if listed {
                return Refusal::Revoked { position, serial: certificate::serial(parsed.raw_serial()) };
            }
        }
        Refusal::Revoked { position: Position(0), serial: String::new() }
    }
}

/// webpki keeps names without the head of their sequence.
fn inner(name: &[u8]) -> &[u8] {
    match name {
        [0x30, short, rest @ ..] if *short < 0x80 => rest,
        [0x30, 0x81, _, rest @ ..] | [0x30, 0x82, _, _, rest @ ..] => rest,
        other => other,
    }
}

fn root_of<'a>(bundle: &'a DomainBundle, path: &VerifiedPath<'_>, now: SystemTime) -> Option<&'a Root> {
    let same = |root: &&Root| {
        let (ours, theirs) = (root.anchor(), path.anchor());
        root.is_valid_at(now)
            && ours.subject == theirs.subject
            && ours.subject_public_key_info == theirs.subject_public_key_info
    };
    bundle.roots().iter().find(same)
}

/// webpki's word in ours.
fn refusal(error: webpki::Error, now: SystemTime) -> Refusal {
    use webpki::Error as E;
    match error {
        E::CertExpired { not_after, .. } => Refusal::Expired { not_after: system(not_after), now },
        E::CertNotValidYet { not_before, .. } => Refusal::NotYetValid { not_before: system(not_before), now },
        E::InvalidCertValidity => Refusal::Dates,
        E::InvalidSignatureForPublicKey | E::SignatureAlgorithmMismatch => Refusal::Signature,
        E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::Algorithm,
        E::UnknownRevocationStatus => Refusal::UnknownRevocation,
        E::CrlExpired { next_update, .. } => Refusal::RevocationExpired { next_update: system(next_update) },
        E::InvalidCrlSignatureForPublicKey
        | E::IssuerNotCrlSigner
        | E::UnsupportedCrlSignatureAlgorithmContext(_)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => Refusal::RevocationForged,
        E::UnsupportedCriticalExtension => Refusal::CriticalExtension,
        E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => Refusal::PathLength,
        E::NameConstraintViolation => Refusal::NameConstraint,
        E::EndEntityUsedAsCa => Refusal::SignerIsLeaf,
        E::CaUsedAsEndEntity => Refusal::LeafIsAuthority,
        E::RequiredEkuNotFoundContext(_) => Refusal::SignerUsage,
        E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded
        | E::MaximumNameConstraintComparisonsExceeded => Refusal::TooMuchWork,
        E::UnknownIssuer => Refusal::UnknownIssuer,
        other => Refusal::Chain(other),
    }
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn system(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}
