//! Signing requests: made by nodes, and read by the authority as if every one were hostile.
//!
//! Of a request only the key and the one name are ever used; a request that asks for anything else is refused rather than
//! cut down, so that nobody believes to have been given it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType, SubjectPublicKeyInfo};
use serde::{Deserialize, Serialize};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::spiffe::SpiffeId;

/// The largest request, in bytes: a name of full length and room for its key.
pub(super) const MAX_REQUEST: usize = 4096;

/// Why a signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum CsrRefusal {
    /// More than [`MAX_REQUEST`] bytes.
    #[error("it has more than {MAX_REQUEST} bytes")]
    TooLarge,
    /// Not DER of a request (RFC 2986), or something follows it.
    #[error("it cannot be read")]
    Malformed,
    /// Not version 1, the only one.
    #[error("it is of another version")]
    Version,
    /// Its key is not P-256.
    #[error("its key is not P-256")]
    Key,
    /// Not signed with ECDSA and SHA-256.
    #[error("it is not signed with ECDSA and SHA-256, or not encoded as it must be")]
    Algorithm,
    /// Not signed by its own key.
    #[error("its signature is false")]
    Signature,
    /// A subject; names stand in the SPIFFE ID only.
    #[error("it has a subject")]
    Subject,
    /// An attribute besides the extensions, such as a challenge password, or one twice.
    #[error("it has attributes besides one list of extensions")]
    Attribute,
    /// It wants to be an authority.
    #[error("it asks to be an authority")]
    Authority,
    /// It asks for key usages; the authority sets them.
    #[error("it asks for key usages")]
    KeyUsage,
    /// It asks for extended key usages; the authority sets them.
    #[error("it asks for extended key usages")]
    ExtendedKeyUsage,
    /// It asks for an extension besides names.
    #[error("it asks for an extension besides its name")]
    Extension,
    /// The names stand twice.
    #[error("it has two lists of names")]
    NamesTwice,
    /// No name.
    #[error("it has no URI name")]
    NoUri,
    /// More than one URI.
    #[error("it has several URI names")]
    SeveralUris,
    /// A DNS name, an address, an e-mail address or another name.
    #[error("it has names besides the SPIFFE ID")]
    OtherNames,
    /// The name is no SPIFFE ID.
    #[error("its URI is no SPIFFE ID of a workload")]
    Id,
    /// The name is another one than the one that was asked for.
    #[error("its SPIFFE ID is another than the one asked for")]
    OtherId,
    /// A reason that a newer CA knows.
    #[error("a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}

/// What is taken from a request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: SpiffeId,
    pub(super) key: SubjectPublicKeyInfo,
}

/// A request for this ID.
pub(super) fn make(id: &SpiffeId, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Reads a request and checks that whoever made it holds its key.
pub(super) fn read(der: &[u8]) -> Result<Request, CsrRefusal> {
    if der.len() > MAX_REQUEST {
        return Err(CsrRefusal::TooLarge);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_unreadable| CsrRefusal::Malformed)?;
    let info = &request.certification_request_info;
    if !rest.is_empty() || info.subject_pki.subject_public_key.unused_bits != 0 {
        return Err(CsrRefusal::Malformed);
    }
    if info.version.0 != 0 {
        return Err(CsrRefusal::Version);
    }
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_unreadable| CsrRefusal::Key)?;
    if *rcgen::PublicKeyData::algorithm(&key) != rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(CsrRefusal::Key);
    }
    if !is_canonical(der, info.raw, &request.signature_value.data, request.signature_value.unused_bits) {
        return Err(CsrRefusal::Algorithm);
    }
    check_signature(&request)?;
    if info.subject.iter().next().is_some() {
        return Err(CsrRefusal::Subject);
    }
    let id = name(&request)?;
    Ok(Request { id, key })
}

/// Whether these bytes are a request that could be signed.
pub fn is_certificate_request(der: &[u8]) -> bool {
    read(der).is_ok()
}

/// The reader takes other tags where nothing is signed; we take the one encoding that there is.
fn is_canonical(der: &[u8], info: &[u8], signature: &[u8], unused: u8) -> bool {
    const ECDSA_SHA256: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let Ok(length) = u8::try_from(signature.len() + 1) else { return false };
    let inside = [info, &ECDSA_SHA256, &[3, length, unused], signature].concat();
    let head = match u16::try_from(inside.len()).map(u16::to_be_bytes) {
        Ok([0, short @ 0..=0x7f]) => vec![0x30, short],
        Ok([0, long]) => vec![0x30, 0x81, long],
        Ok([high, low]) => vec![0x30, 0x82, high, low],
        Err(_) => return false,
    };
    length < 0x80 && unused == 0 && der == [head, inside].concat()
}

fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), CsrRefusal> {
    let kind = webpki::aws_lc_rs::ECDSA_P256_SHA256;
    let info = &request.certification_request_info;
    let (key, signature) = (&info.subject_pki.subject_public_key.data, &request.signature_value.data);
    kind.verify_signature(key, info.raw, signature).map_err(|_unreadable| CsrRefusal::Signature)
}

/// The one name, when nothing else is asked for.
fn name(request: &X509CertificationRequest<'_>) -> Result<SpiffeId, CsrRefusal> {
    let extensions = match request.certification_request_info.attributes() {
        [] => return Err(CsrRefusal::NoUri),
        [only] => match only.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(asked) => &asked.extensions,
            _ => return Err(CsrRefusal::Attribute),
        },
        _ => return Err(CsrRefusal::Attribute),
    };
    let mut names = None;
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(_) if names.is_some() => {
                return Err(CsrRefusal::NamesTwice);
            }
            ParsedExtension::SubjectAlternativeName(found) => names = Some(&found.general_names),
            // Saying that it is no authority is what we would say.
            ParsedExtension::BasicConstraints(basic) if !basic.ca => {}
            ParsedExtension::BasicConstraints(_) => return Err(CsrRefusal::Authority),
            ParsedExtension::KeyUsage(_) => return Err(CsrRefusal::KeyUsage),
            ParsedExtension::ExtendedKeyUsage(_) => return Err(CsrRefusal::ExtendedKeyUsage),
            ParsedExtension::ParseError { .. } => return Err(CsrRefusal::Malformed),
            _ => return Err(CsrRefusal::Extension),
        }
    }
    let names = names.ok_or(CsrRefusal::NoUri)?;
    let uris = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count();
    match names.as_slice() {
        _ if uris == 0 => Err(CsrRefusal::NoUri),
        _ if uris > 1 => Err(CsrRefusal::SeveralUris),
        [GeneralName::URI(uri)] => uri.parse().map_err(|_unreadable| CsrRefusal::Id),
        _ => Err(CsrRefusal::OtherNames),
    }
}
