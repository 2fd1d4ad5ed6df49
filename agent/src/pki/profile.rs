//! The certificates we make: what stands in a root, an intermediate, a leaf and a revocation list. Nothing that anybody
//! asks for gets in here but a name and a key.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, SigningKey,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;

use super::BACKDATE;
use crate::spiffe::{SpiffeId, TrustDomain};

/// A certificate that was just made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) der: CertificateDer<'static>,
    /// In hex.
    pub(super) serial: String,
}

/// One entry of a revocation list.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// In hex.
    pub(super) serial: &'a str,
    pub(super) at: SystemTime,
}

/// An authority's certificate; `depth` is how many authorities may stand below it.
pub(super) fn authority(
    domain: &TrustDomain,
    kind: &str,
    depth: u8,
    (now, not_after): (SystemTime, SystemTime),
) -> Result<(CertificateParams, String), rcgen::Error> {
    let (number, serial) = serial();
    let mut params = blank((now, not_after), number)?;
    // Every authority has a name of its own: revocation lists are found by it.
    let name = format!("Waxseal {kind} {} of {}", serial.get(..8).unwrap_or_default(), domain.as_str());
    params.distinguished_name.push(DnType::OrganizationName, "Waxseal");
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params, serial))
}

/// A leaf: one name, no subject, good for both ends of TLS and nothing else.
pub(super) fn leaf<S: SigningKey>(
    id: &SpiffeId,
    key: &impl PublicKeyData,
    issuer: &Issuer<'_, S>,
    (now, not_after): (SystemTime, SystemTime),
) -> Result<Made, rcgen::Error> {
    let (number, serial) = serial();
    let mut params = blank((now, not_after), number)?;
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(Made { der: params.signed_by(key, issuer)?.into(), serial })
}

/// A revocation list.
pub(super) fn list<'a, S: SigningKey>(
    issuer: &Issuer<'_, S>,
    number: u64,
    entries: impl IntoIterator<Item = Entry<'a>>,
    (now, next_update): (SystemTime, SystemTime),
) -> Result<CertificateRevocationListDer<'static>, rcgen::Error> {
    let revoked = entries.into_iter().map(|Entry { serial, at }| {
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from(bytes(serial)),
            revocation_time: date(at)?,
            reason_code: Some(RevocationReason::PrivilegeWithdrawn),
            invalidity_date: None,
        })
    });
    let params = CertificateRevocationListParams {
        this_update: date(now.checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH))?,
        next_update: date(next_update)?,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect::<Result<_, rcgen::Error>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.into())
}

fn blank(
    (now, not_after): (SystemTime, SystemTime),
    serial: SerialNumber,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date(now.checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH))?;
    params.not_after = date(not_after)?;
    params.serial_number = Some(serial);
    Ok(params)
}

/// Sixteen random bytes, positive and always as long; the second is the same in hex.
fn serial() -> (SerialNumber, String) {
    let mut number = [0; 16];
    rand::rng().fill_bytes(&mut number);
    number[0] = number[0] & 0x3f | 0x40;
    (SerialNumber::from_slice(&number), hex(&number))
}

/// Bytes as people compare them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

/// The other way round; an odd digit or another character ends it.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len() / 2).map_while(|at| hex.get(2 * at..2 * at + 2));
    pairs.map_while(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

fn date(time: SystemTime) -> Result<OffsetDateTime, rcgen::Error> {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(seconds.as_secs()).map_err(|_unreadable| rcgen::Error::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_unreadable| rcgen::Error::Time)
}

/// Whole seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The other way round.
pub(super) fn moment(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
