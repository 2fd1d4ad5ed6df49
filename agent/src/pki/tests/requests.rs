//! Hostile signing requests, each refused for its own reason, and what is signed for honest ones.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType, SigningKey as _,
};

use super::super::csr::{self, CsrRefusal};
use super::forge::*;
use super::*;

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri("spiffe://example.org/a")];
    params
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = params();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// A request of these attributes, signed by its key.
fn raw(attributes: &[Vec<u8>]) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    raw_with(&key, &[2, 1, 0], &tlv(0x30, &[]), attributes)
}

fn raw_with(key: &KeyPair, version: &[u8], subject: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    let info = [version, subject, &key.subject_public_key_info(), &tlv(0xa0, &attributes.concat())].concat();
    signed(key, &tlv(0x30, &info), &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])
}

fn signed(key: &KeyPair, info: &[u8], kind: &[u8]) -> Vec<u8> {
    let signature = key.sign(info).unwrap();
    let signature = tlv(3, &[&[0], signature.as_slice()].concat());
    tlv(0x30, &[info, &tlv(0x30, kind), &signature].concat())
}

/// The attribute that asks for extensions.
fn asks(extensions: &[Vec<u8>]) -> Vec<u8> {
    let oid = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
    tlv(0x30, &[&oid[..], &tlv(0x31, &tlv(0x30, &extensions.concat()))].concat())
}

fn names(of: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = of.iter().flat_map(|(tag, value)| tlv(*tag, value)).collect();
    tlv(0x30, &[&[6, 3, 0x55, 0x1d, 17][..], &tlv(4, &tlv(0x30, &list))].concat())
}

const GOOD: &[u8] = b"spiffe://example.org/a";

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn hostile_requests_are_refused_each_for_its_own_reason() {
    use CsrRefusal as R;
    let honest = with(|_| {});
    assert_eq!(csr::read(&honest).unwrap().id, id("/a"));
    assert_eq!(csr::read(&raw(&[asks(&[names(&[(0x86, GOOD)])])])).unwrap().id, id("/a"));
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let of = |key: &KeyPair| params().serialize_request(key).unwrap().der().to_vec();
    let mut forged = honest.clone();
    replace(&mut forged, b"example.org/a", b"example.org/b");
    let mut flipped = honest.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let (mine, yours) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let stolen = {
        let attributes = tlv(0xa0, &asks(&[names(&[(0x86, GOOD)])]));
        let info = [&[2, 1, 0][..], &tlv(0x30, &[]), &yours.subject_public_key_info(), &attributes].concat();
        signed(&mine, &tlv(0x30, &info), &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])
    };
    let sha1 = {
        let attributes = tlv(0xa0, &asks(&[names(&[(0x86, GOOD)])]));
        let info = [&[2, 1, 0][..], &tlv(0x30, &[]), &mine.subject_public_key_info(), &attributes].concat();
        signed(&mine, &tlv(0x30, &info), &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1])
    };
    let password = {
        let oid = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7];
        tlv(0x30, &[&oid[..], &tlv(0x31, &tlv(0x0c, b"secret"))].concat())
    };
    let subject = tlv(0x30, &tlv(0x31, &tlv(0x30, &[&[6, 3, 0x55, 4, 3][..], &tlv(0x0c, b"root")].concat())));
    let good = || names(&[(0x86, GOOD)]);
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let long = format!("spiffe://example.org/{}", "a".repeat(2040));
    let cases = vec![
        ("nothing", vec![], R::Malformed),
        ("half", honest[..honest.len() / 2].to_vec(), R::Malformed),
        ("one byte more", [&honest[..], &[0]].concat(), R::Malformed),
        ("text", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(), R::Malformed),
        ("a certificate", leaf(&root(ca_params("x", 0)), &leaf_params()).to_vec(), R::Malformed),
        ("five kilobytes", vec![0x30; 5000], R::TooLarge),
        (
            "10,000 names",
            with(|p| p.subject_alt_names.extend((0..10_000).map(|n| dns(&format!("n{n}.x"))))),
            R::TooLarge,
        ),
        ("version 2", raw_with(&mine, &[2, 1, 1], &tlv(0x30, &[]), &[asks(&[good()])]), R::Version),
        ("P-384", of(&p384), R::Key),
        ("Ed25519", of(&ed), R::Key),
        ("SHA-1", sha1, R::Algorithm),
        ("another name under the signature", forged, R::Signature),
        ("a bit of the signature", flipped, R::Signature),
        ("somebody else's key", stolen, R::Signature),
        ("a subject", with(|p| p.distinguished_name.push(DnType::CommonName, "web")), R::Subject),
        ("a subject like the root's", raw_with(&mine, &[2, 1, 0], &subject, &[asks(&[good()])]), R::Subject),
        ("a password", raw(std::slice::from_ref(&password)), R::Attribute),
        ("a password too", raw(&[asks(&[good()]), password]), R::Attribute),
        ("two lists of extensions", raw(&[asks(&[good()]), asks(&[good()])]), R::Attribute),
        ("an authority", with(|p| p.is_ca = authority_flag()), R::Authority),
        (
            "an authority without a bound",
            with(|p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            R::Authority,
        ),
        ("a key usage", with(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]), R::KeyUsage),
        ("may sign certificates", with(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]), R::KeyUsage),
        (
            "a usage",
            with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            R::ExtendedKeyUsage,
        ),
        (
            "signs code",
            with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            R::ExtendedKeyUsage,
        ),
        (
            "limits on names",
            with(|p| p.custom_extensions = vec![extension(&[2, 5, 29, 30], true, &tlv(0x30, &[]))]),
            R::Extension,
        ),
        (
            "an unknown extension",
            with(|p| p.custom_extensions = vec![extension(&[1, 2, 3], false, &[5, 0])]),
            R::Extension,
        ),
        (
            "names that are no list",
            raw(&[asks(&[tlv(0x30, &[6, 3, 0x55, 0x1d, 17, 4, 2, 5, 0])])]),
            R::Malformed,
        ),
        ("two lists of names", raw(&[asks(&[good(), good()])]), R::NamesTwice),
        ("no attributes", raw(&[]), R::NoUri),
        ("no extensions", raw(&[asks(&[])]), R::NoUri),
        ("no names", with(|p| p.subject_alt_names.clear()), R::NoUri),
        ("a DNS name", with(|p| p.subject_alt_names = vec![dns("example.org")]), R::NoUri),
        ("a DNS name that spells an ID", raw(&[asks(&[names(&[(0x82, GOOD)])])]), R::NoUri),
        ("two IDs", with(|p| p.subject_alt_names.push(uri("spiffe://example.org/b"))), R::SeveralUris),
        (
            "an ID and a web page",
            with(|p| p.subject_alt_names.push(uri("https://example.org"))),
            R::SeveralUris,
        ),
        ("a DNS name too", with(|p| p.subject_alt_names.push(dns("example.org"))), R::OtherNames),
        (
            "an address too",
            with(|p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()))),
            R::OtherNames,
        ),
        ("an e-mail too", raw(&[asks(&[names(&[(0x86, GOOD), (0x81, b"a@b.c")])])]), R::OtherNames),
        ("the trust domain", with(|p| p.subject_alt_names = vec![uri("spiffe://example.org")]), R::Id),
        ("a web page", with(|p| p.subject_alt_names = vec![uri("https://example.org/a")]), R::Id),
        ("a star", with(|p| p.subject_alt_names = vec![uri("spiffe://example.org/*")]), R::Id),
        ("dots", with(|p| p.subject_alt_names = vec![uri("spiffe://example.org/../b")]), R::Id),
        ("an ID that is too long", with(|p| p.subject_alt_names = vec![uri(&long)]), R::Id),
    ];
    for (name, request, reason) in &cases {
        assert_eq!(csr::read(request).map(|request| request.id).unwrap_err(), *reason, "{name}");
    }
    assert!(cases.len() >= 40);
}

#[test]
fn of_a_request_only_the_name_and_the_key_are_signed() {
    let (directory, authority) = authority();
    let now = SystemTime::now();
    let token = authority.token("one", &["/a".to_owned()], HOUR, now).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = node_id(&domain(), "one").unwrap();
    let request = csr::make(&own, &key).unwrap();
    let wrong = csr::make(&id("/a"), &key).unwrap();
    let (name, secret) = (token.id(), token.secret());
    // A request that is refused has not spent the token.
    for request in [&wrong[..], b"x"] {
        assert!(authority.join("one", (&name, &secret), request, now).is_err());
    }
    let chain = authority.join("one", (&name, &secret), &request, now).unwrap();
    assert!(authority.join("one", (&name, &secret), &request, now).is_err(), "only once");
    let peer = verify(&bundles(&authority), &chain, Role::Client, now).unwrap();
    assert_eq!(peer.node_name(), Some("one"));
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.der_bytes());
    assert!(parsed.raw_serial().len() >= 16);
    let names: Vec<String> = parsed.extensions().iter().map(|one| one.oid.to_id_string()).collect();
    // Key identifiers, names, usages, basic constraints, and nothing else.
    assert_eq!(names.len(), 6, "{names:?}");
    drop(directory);
}
