//! Makes certificates that break one rule each.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::super::profile::{self, Entry};
use super::*;

pub(super) const HOUR: Duration = Duration::from_hours(1);

/// A name and key that sign.
pub(super) struct Ca {
    pub(super) params: CertificateParams,
    pub(super) der: CertificateDer<'static>,
    pub(super) key: KeyPair,
}

impl Ca {
    pub(super) fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// An empty revocation list, or one with these serials.
    pub(super) fn list(&self, revoked: &[String]) -> CertificateRevocationListDer<'static> {
        let now = SystemTime::now();
        self.list_until(revoked, now + 24 * HOUR)
    }

    pub(super) fn list_until(
        &self,
        revoked: &[String],
        until: SystemTime,
    ) -> CertificateRevocationListDer<'static> {
        let now = SystemTime::now();
        let made = now.min(until - HOUR);
        let entries = revoked.iter().map(|serial| Entry { serial, at: now });
        profile::list(&self.issuer(), 1, entries, (made, until)).unwrap()
    }
}

/// What an honest authority would write, to be changed.
pub(super) fn ca_params(name: &str, depth: u8) -> CertificateParams {
    let now = SystemTime::now();
    let (mut params, _) = profile::authority(&domain(), name, depth, (now, now + 48 * HOUR)).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

pub(super) fn root(params: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().into();
    Ca { params, der, key }
}

pub(super) fn below(issuer: &Ca, params: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    let der = params.signed_by(&key, &issuer.issuer()).unwrap().into();
    Ca { params, der, key }
}

pub(super) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// What an honest authority would write, to be changed.
pub(super) fn leaf_params() -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (now - Duration::from_mins(1)).into();
    params.not_after = (now + HOUR).into();
    params.subject_alt_names = vec![uri("spiffe://example.org/ns/shop/sa/web")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Signs; the serial number is told too.
pub(super) fn leaf(issuer: &Ca, params: &CertificateParams) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &issuer.issuer()).unwrap().into()
}

pub(super) fn serial_of(der: &CertificateDer<'_>) -> String {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
    profile::hex(parsed.raw_serial())
}

pub(super) fn authority_flag() -> IsCa {
    IsCa::Ca(BasicConstraints::Constrained(0))
}

const SAN: &[u64] = &[2, 5, 29, 17];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const BASIC: &[u64] = &[2, 5, 29, 19];

/// An extension of these bytes.
pub(super) fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

/// Tag, length, value.
pub(super) fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        short @ 0..=127 => out.push(short as u8),
        long => {
            let bytes = (long as u32).to_be_bytes();
            out.push(0x84);
            out.extend(bytes);
            // DER wants the shortest form.
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            out.drain(2..2 + zeros);
            out[1] = 0x84 - zeros as u8;
        }
    }
    out.extend(value);
    out
}

/// Names of these tags and bytes instead of the honest ones.
pub(super) fn raw_names(critical: bool, names: &[(u8, &[u8])]) -> CustomExtension {
    let inside: Vec<u8> = names.iter().flat_map(|(tag, value)| tlv(*tag, value)).collect();
    extension(SAN, critical, &tlv(0x30, &inside))
}

/// Key usage as the bits of its first byte: digitalSignature is the highest.
pub(super) fn raw_key_usage(critical: bool, bits: u8) -> CustomExtension {
    let content = if bits == 0 { vec![3, 1, 0] } else { vec![3, 2, bits.trailing_zeros() as u8, bits] };
    extension(KEY_USAGE, critical, &content)
}

pub(super) fn raw_basic(content: &[u8]) -> CustomExtension {
    extension(BASIC, true, content)
}

/// Changes what is signed, byte for byte, and signs it again.
pub(super) fn resign(
    der: &CertificateDer<'_>,
    issuer: &Ca,
    change: impl Fn(&mut Vec<u8>),
) -> CertificateDer<'static> {
    use rcgen::SigningKey as _;
    let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
    let mut tbs = parsed.tbs_certificate.as_ref().to_vec();
    change(&mut tbs);
    let signature = issuer.key.sign(&tbs).unwrap();
    let mut inside = tbs;
    // ecdsa-with-SHA256
    inside.extend(tlv(0x30, &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]));
    inside.extend(tlv(3, &[&[0], signature.as_slice()].concat()));
    tlv(0x30, &inside).into()
}

/// Replaces the first occurrence.
pub(super) fn replace(bytes: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("the bytes are there");
    bytes.splice(at..at + old.len(), new.iter().copied());
}
