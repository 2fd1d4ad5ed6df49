//! What one certificate says about itself, held against the SPIFFE profile. Signatures and paths are webpki's part.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::{BasicExtension, X509Certificate};
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::MAX_NAMES;
use super::profile::hex;
use super::refusal::{Position, Refusal};
use crate::spiffe::{self, SpiffeId, TrustDomain};

/// Reads one certificate, whole.
pub(super) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
    position: Position,
) -> Result<X509Certificate<'a>, Refusal> {
    let (rest, parsed) = X509Certificate::from_der(certificate.as_ref())
        .map_err(|_unreadable| Refusal::Malformed(position))?;
    if !rest.is_empty() {
        return Err(Refusal::Malformed(position));
    }
    if parsed.version() != X509Version::V3 {
        return Err(Refusal::Version(position));
    }
    // Every extension once, and each one that is known read without a remark.
    parsed.extensions_map().map_err(|_unreadable| Refusal::ExtensionTwice(position))?;
    let broken = |extension: &ParsedExtension<'_>| matches!(extension, ParsedExtension::ParseError { .. });
    if parsed.extensions().iter().any(|extension| broken(extension.parsed_extension())) {
        return Err(Refusal::Extension(position));
    }
    Ok(parsed)
}

/// The leaf's SPIFFE ID, when the leaf fits the profile. `strict` asks for what many issuers leave out.
pub(super) fn leaf(certificate: &X509Certificate<'_>, strict: bool) -> Result<(), Refusal> {
    let position = Position(0);
    let extension = |_: X509Error| Refusal::Extension(position);
    match certificate.basic_constraints().map_err(extension)? {
        Some(constraints) if constraints.value.ca => return Err(Refusal::LeafIsAuthority),
        None if strict => return Err(Refusal::NoBasicConstraints),
        _ => {}
    }
    let usage = key_usage(certificate, position)?;
    if usage.key_cert_sign() {
        return Err(Refusal::LeafSignsCertificates);
    }
    if usage.crl_sign() {
        return Err(Refusal::LeafSignsRevocations);
    }
    if !usage.digital_signature() {
        return Err(Refusal::NoDigitalSignature);
    }
    if let Some(extended) = certificate.extended_key_usage().map_err(extension)? {
        if !extended.value.server_auth {
            return Err(Refusal::OneWay("serverAuth"));
        }
        if !extended.value.client_auth {
            return Err(Refusal::OneWay("clientAuth"));
        }
    }
    let names = certificate.subject_alternative_name().map_err(extension)?;
    let no_subject = certificate.subject().iter().next().is_none();
    if strict && no_subject && names.is_some_and(|names| !names.critical) {
        return Err(Refusal::NamesNotCritical);
    }
    Ok(())
}

/// The one SPIFFE ID of a leaf.
pub(super) fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_unreadable| Refusal::Extension(Position(0)))?
        .map(|names| names.value);
    let names = names.map_or(&[][..], |names| &names.general_names);
    if names.len() > MAX_NAMES {
        return Err(Refusal::TooManyNames { count: names.len() });
    }
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(Refusal::Name);
    }
    let uris: Vec<&str> = names.iter().filter_map(uri).collect();
    let uri = match uris.as_slice() {
        [] => return Err(Refusal::NoUri),
        [uri] => *uri,
        _ => return Err(Refusal::SeveralUris { count: uris.len() }),
    };
    uri.parse().map_err(|error| match error {
        spiffe::Error::Scheme => Refusal::OtherScheme(uri.chars().take(128).collect()),
        spiffe::Error::NoPath => Refusal::RootPath,
        other => Refusal::Id(other),
    })
}

/// A signer on the path to the root.
pub(super) fn signer(
    certificate: &X509Certificate<'_>,
    position: Position,
    domain: &TrustDomain,
) -> Result<(), Refusal> {
    let constraints = certificate.basic_constraints().map_err(|_unreadable| Refusal::Extension(position))?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Refusal::SignerIsLeaf);
    }
    if !key_usage(certificate, position)?.key_cert_sign() {
        return Err(Refusal::SignerMayNotSign(position));
    }
    let names = certificate.subject_alternative_name().map_err(|_unreadable| Refusal::Extension(position))?;
    for uri in names.iter().flat_map(|names| &names.value.general_names).filter_map(uri) {
        signer_id(uri, position, domain)?;
    }
    Ok(())
}

/// A signer's SPIFFE ID is its trust domain's, or it has none.
fn signer_id(uri: &str, position: Position, domain: &TrustDomain) -> Result<(), Refusal> {
    let other = Refusal::SignerOfOtherDomain(position);
    match uri.parse::<SpiffeId>() {
        Ok(_) => Err(Refusal::SignerHasPath(position)),
        // A URI that is no SPIFFE ID says nothing about trust domains.
        Err(spiffe::Error::Scheme) => Ok(()),
        Err(spiffe::Error::NoPath) => {
            let name = uri.get("spiffe://".len()..).unwrap_or_default().trim_end_matches('/');
            if name.parse::<TrustDomain>().is_ok_and(|named| named == *domain) { Ok(()) } else { Err(other) }
        }
        Err(_) => Err(other),
    }
}

fn key_usage<'a>(certificate: &'a X509Certificate<'_>, position: Position) -> Result<&'a KeyUsage, Refusal> {
    let usage = certificate.key_usage().map_err(|_unreadable| Refusal::Extension(position))?;
    let BasicExtension { critical, value } = usage.ok_or(Refusal::NoKeyUsage(position))?;
    if critical { Ok(value) } else { Err(Refusal::KeyUsageNotCritical(position)) }
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        _ => None,
    }
}

/// Both ends of its validity.
pub(super) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let validity = certificate.validity();
    (time(validity.not_before), time(validity.not_after))
}

/// A time before 1970 is 1970: nothing of ours is that old.
pub(super) fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// A serial number in hex, as people compare it; at most 20 bytes are shown.
pub(super) fn serial(bytes: &[u8]) -> String {
    let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    let shown = bytes.get(significant..).unwrap_or_default();
    hex(shown.get(..20).unwrap_or(shown))
}
