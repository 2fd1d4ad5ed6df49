//! Why a certificate, a chain or a peer is not believed: one variant for each reason.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{MAX_CHAIN, MAX_CHAIN_BYTES, MAX_NAMES};
use crate::escape::escape;
use crate::spiffe::{self, TrustDomain};

/// Where a certificate stands in the chain that was shown: 0 is the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(pub usize);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("the certificate"),
            number => write!(f, "signer {number} of the chain"),
        }
    }
}

/// Why a peer is not believed. Nothing in here was written by the peer, except what is escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It showed none.
    #[error("no certificate was shown")]
    NoCertificate,
    /// More than [`MAX_CHAIN`] certificates.
    #[error("the chain has {count} certificates, more than {MAX_CHAIN}")]
    TooManyCertificates {
        /// How many.
        count: usize,
    },
    /// More than [`MAX_CHAIN_BYTES`].
    #[error("the chain has {bytes} bytes, more than {MAX_CHAIN_BYTES}")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// Not DER of a certificate, or something follows it.
    #[error("{0} cannot be read")]
    Malformed(Position),
    /// Not X.509 version 3.
    #[error("{0} is not of X.509 version 3")]
    Version(Position),
    /// An extension that stands twice (RFC 5280, 4.2).
    #[error("{0} has an extension twice")]
    ExtensionTwice(Position),
    /// An extension whose value is not what its type says.
    #[error("{0} has an extension that cannot be read")]
    Extension(Position),
    /// A critical extension that we do not know (RFC 5280, 4.2).
    #[error("the chain has a critical extension that is not understood")]
    CriticalExtension,
    /// More than [`MAX_NAMES`] names.
    #[error("the certificate has {count} names, more than {MAX_NAMES}")]
    TooManyNames {
        /// How many.
        count: usize,
    },
    /// A name that cannot be read.
    #[error("the certificate has a name that cannot be read")]
    Name,
    /// No URI among the names, so no SPIFFE ID; names of other kinds mean nothing here.
    #[error("the certificate has no URI name, so no SPIFFE ID")]
    NoUri,
    /// More than one URI, of whatever scheme.
    #[error("the certificate has {count} URI names; a SPIFFE certificate has exactly one")]
    SeveralUris {
        /// How many.
        count: usize,
    },
    /// A URI of another scheme.
    #[error("the certificate's URI is no SPIFFE ID: `{}`", escape(.0))]
    OtherScheme(String),
    /// The ID of a trust domain; only those who sign may have it.
    #[error("the certificate's SPIFFE ID has no path; it names a trust domain and no workload")]
    RootPath,
    /// A SPIFFE ID that breaks the rules for one.
    #[error("the certificate's SPIFFE ID is malformed: {0}")]
    Id(#[source] spiffe::Error),
    /// cA is true on the leaf.
    #[error("the certificate is an authority's; those never stand for a workload")]
    LeafIsAuthority,
    /// Basic constraints are missing, where the domain asks for the whole letter of the standard.
    #[error("the certificate has no basic constraints, and the trust domain is strict")]
    NoBasicConstraints,
    /// Subject empty and the names not critical (RFC 5280, 4.2.1.6), where the domain asks for it.
    #[error("the certificate has no subject and its names are not critical, and the trust domain is strict")]
    NamesNotCritical,
    /// Key usage is missing.
    #[error("{0} has no key usage")]
    NoKeyUsage(Position),
    /// Key usage is there and not critical.
    #[error("{0} has a key usage that is not critical")]
    KeyUsageNotCritical(Position),
    /// The leaf may not sign, so it cannot prove that it holds its key.
    #[error("the certificate's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// The leaf says that it may sign certificates.
    #[error("the certificate's key usage has keyCertSign")]
    LeafSignsCertificates,
    /// The leaf says that it may sign revocation lists.
    #[error("the certificate's key usage has cRLSign")]
    LeafSignsRevocations,
    /// Extended key usage is there and lacks one of serverAuth and clientAuth.
    #[error("the certificate's extended key usage lacks {0}")]
    OneWay(&'static str),
    /// A signer whose extended key usage excludes TLS.
    #[error("a signer of the chain may not sign for TLS (extended key usage)")]
    SignerUsage,
    /// A signer without cA.
    #[error("a signer of the chain is no authority (basic constraints)")]
    SignerIsLeaf,
    /// A signer whose key usage lacks keyCertSign.
    #[error("{0} may not sign certificates (key usage lacks keyCertSign)")]
    SignerMayNotSign(Position),
    /// A signer whose SPIFFE ID has a path.
    #[error("{0} has a SPIFFE ID with a path; it is a workload's")]
    SignerHasPath(Position),
    /// A signer that says it belongs to another trust domain.
    #[error("{0} has the SPIFFE ID of another trust domain, or a malformed one")]
    SignerOfOtherDomain(Position),
    /// More signers than one of them permits.
    #[error("the chain is longer than one of its signers permits (path length)")]
    PathLength,
    /// Name constraints that exclude the leaf; webpki reads every constraint on URIs so.
    #[error("the names are excluded by a signer's name constraints")]
    NameConstraint,
    /// No bundle of that trust domain.
    #[error("nothing is known of the trust domain `{0}`")]
    NoBundle(TrustDomain),
    /// A bundle that trusts nobody.
    #[error("the bundle of the trust domain `{0}` is empty")]
    EmptyBundle(TrustDomain),
    /// Another trust domain's roots may sign it or not: these do not.
    #[error("no root of its trust domain has signed it")]
    UnknownIssuer,
    /// The root that signed it has expired.
    #[error("the root that signed it expired at {}", Seconds(*.not_after))]
    RootExpired {
        /// When.
        not_after: SystemTime,
    },
    /// The root that signed it is not valid yet.
    #[error("the root that signed it is not valid before {}", Seconds(*.not_before))]
    RootNotYetValid {
        /// When.
        not_before: SystemTime,
    },
    /// A certificate of the chain has expired.
    #[error("it expired at {} (now {})", Seconds(*.not_after), Seconds(*.now))]
    Expired {
        /// When.
        not_after: SystemTime,
        /// The time that was asked about.
        now: SystemTime,
    },
    /// A certificate of the chain is not valid yet: a clock is wrong.
    #[error("it is not valid before {} (now {}); compare the clocks", Seconds(*.not_before), Seconds(*.now))]
    NotYetValid {
        /// When.
        not_before: SystemTime,
        /// The time that was asked about.
        now: SystemTime,
    },
    /// It ends before it begins.
    #[error("its dates contradict each other")]
    Dates,
    /// A signature in the chain is false.
    #[error("a signature in the chain is false")]
    Signature,
    /// A signature or key of a kind that is not accepted: SHA-1, short RSA, an unknown curve.
    #[error("a signature in the chain is of a kind that is not accepted")]
    Algorithm,
    /// Its serial number stands on its issuer's list.
    #[error("{position} (serial {serial}) is revoked")]
    Revoked {
        /// Which one.
        position: Position,
        /// Its serial number, in hex.
        serial: String,
    },
    /// The domain publishes revocation lists, and there is none of this issuer.
    #[error("the issuer's revocation list is not known, so it may be revoked")]
    UnknownRevocation,
    /// The issuer's list is past its date.
    #[error("the issuer's revocation list is out of date ({})", Seconds(*.next_update))]
    RevocationExpired {
        /// When the next one was due.
        next_update: SystemTime,
    },
    /// The issuer's list is not signed by the issuer, or cannot be used.
    #[error("the issuer's revocation list is not one that it has signed and may sign")]
    RevocationForged,
    /// Building the path took more work than is granted.
    #[error("finding a path through the chain takes too much work")]
    TooMuchWork,
    /// A signature by the leaf's key over a message is false.
    #[error("the message is not signed by the certificate's key")]
    Message,
    /// The TLS connection has no finished handshake, or one that skipped the certificates.
    #[error("the TLS handshake is not a finished, full one of version 1.3")]
    Handshake,
    /// Whatever else webpki found.
    #[error("the chain is not valid: {0}")]
    Chain(webpki::Error),
}

/// Seconds since 1970; people who compare clocks do so by number.
struct Seconds(SystemTime);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since: Duration = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(f, "@{}", since.as_secs())
    }
}

impl Refusal {
    /// One word for counters and flows; bounded, and never anything of the peer's.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::TooManyCertificates { .. } => "too-many-certificates",
            Self::TooLarge { .. } => "too-large",
            Self::Malformed(_) => "malformed",
            Self::Version(_) => "version",
            Self::ExtensionTwice(_) => "extension-twice",
            Self::Extension(_) => "extension",
            Self::CriticalExtension => "critical-extension",
            Self::TooManyNames { .. } => "too-many-names",
            Self::Name => "name",
            Self::NoUri => "no-uri",
            Self::SeveralUris { .. } => "several-uris",
            Self::OtherScheme(_) => "other-scheme",
            Self::RootPath => "root-path",
            Self::Id(_) => "spiffe-id",
            Self::LeafIsAuthority => "leaf-is-authority",
            Self::NoBasicConstraints => "no-basic-constraints",
            Self::NamesNotCritical => "names-not-critical",
            Self::NoKeyUsage(_) => "no-key-usage",
            Self::KeyUsageNotCritical(_) => "key-usage-not-critical",
            Self::NoDigitalSignature => "no-digital-signature",
            Self::LeafSignsCertificates => "leaf-signs-certificates",
            Self::LeafSignsRevocations => "leaf-signs-revocations",
            Self::OneWay(_) => "one-way",
            Self::SignerUsage => "signer-usage",
            Self::SignerIsLeaf => "signer-is-leaf",
            Self::SignerMayNotSign(_) => "signer-may-not-sign",
            Self::SignerHasPath(_) => "signer-has-path",
            Self::SignerOfOtherDomain(_) => "signer-of-other-domain",
            Self::PathLength => "path-length",
            Self::NameConstraint => "name-constraint",
            Self::NoBundle(_) => "no-bundle",
            Self::EmptyBundle(_) => "empty-bundle",
            Self::UnknownIssuer => "unknown-issuer",
            Self::RootExpired { .. } => "root-expired",
            Self::RootNotYetValid { .. } => "root-not-yet-valid",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Dates => "dates",
            Self::Signature => "signature",
            Self::Algorithm => "algorithm",
            Self::Revoked { .. } => "revoked",
            Self::UnknownRevocation => "unknown-revocation",
            Self::RevocationExpired { .. } => "revocation-expired",
            Self::RevocationForged => "revocation-forged",
            Self::TooMuchWork => "too-much-work",
            Self::Message => "message",
            Self::Handshake => "handshake",
            Self::Chain(_) => "chain",
        }
    }
}
