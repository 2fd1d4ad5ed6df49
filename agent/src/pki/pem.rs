//! Certificates and lists as text, and back.

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::refusal::{Position, Refusal};

/// Certificates that are read from one text.
const MAX_CERTIFICATES: usize = 64;

/// Text that is not PEM of what it should be.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// Not PEM.
    #[error("it is not PEM")]
    Syntax,
    /// Something else than certificates or revocation lists.
    #[error("it holds none of `{0}`, or something else too")]
    Tag(&'static str),
    /// More than anybody needs.
    #[error("it holds more than {MAX_CERTIFICATES} certificates")]
    TooMany,
    /// PEM, but no certificate in it.
    #[error(transparent)]
    Certificate(#[from] Refusal),
}

const CERTIFICATE: &str = "CERTIFICATE";
const LIST: &str = "X509 CRL";
const REQUEST: &str = "CERTIFICATE REQUEST";

fn decode(text: &[u8], tag: &'static str) -> Result<Vec<Vec<u8>>, PemError> {
    let blocks = pem::parse_many(text).map_err(|_unreadable| PemError::Syntax)?;
    if blocks.len() > MAX_CERTIFICATES {
        return Err(PemError::TooMany);
    }
    if blocks.is_empty() || blocks.iter().any(|block| block.tag() != tag) {
        return Err(PemError::Tag(tag));
    }
    Ok(blocks.into_iter().map(Pem::into_contents).collect())
}

/// All certificates in a text; at least one, and nothing else.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Vec<CertificateDer<'static>> =
        decode(text, CERTIFICATE)?.into_iter().map(CertificateDer::from).collect();
    for (certificate, position) in found.iter().zip(0..) {
        super::certificate::parse(certificate, Position(position))?;
    }
    Ok(found)
}

/// Whether a text is PEM of certificates and nothing else.
pub fn is_certificates(text: &[u8]) -> bool {
    certificates(text).is_ok()
}

/// The first certificate of a text.
pub(super) fn certificate(text: &str) -> Result<CertificateDer<'static>, PemError> {
    certificates(text.as_bytes())?.into_iter().next().ok_or(PemError::Tag(CERTIFICATE))
}

/// The one revocation list in a text.
pub(super) fn list(text: &str) -> Result<CertificateRevocationListDer<'static>, PemError> {
    match decode(text.as_bytes(), LIST)?.pop() {
        Some(list) => Ok(list.into()),
        None => Err(PemError::Tag(LIST)),
    }
}

/// A certificate as text.
pub(super) fn of_certificate(der: &CertificateDer<'_>) -> String {
    encode(CERTIFICATE, der)
}

/// A revocation list as text.
pub(super) fn of_list(der: &CertificateRevocationListDer<'_>) -> String {
    encode(LIST, der)
}

fn encode(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

/// A signing request in a text; `None` when it is none.
pub(super) fn request(text: &str) -> Option<Vec<u8>> {
    if text.len() > 3 * super::csr::MAX_REQUEST {
        return None;
    }
    decode(text.as_bytes(), REQUEST).ok()?.pop()
}

/// A signing request as text.
pub(super) fn of_request(der: &[u8]) -> String {
    encode(REQUEST, der)
}
