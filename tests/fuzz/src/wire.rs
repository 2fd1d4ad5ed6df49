//! What comes over sockets: the control socket, other agents, the CA.

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use waxseal::api::Request;
use waxseal::flows;
use waxseal::mesh;
use waxseal::pki::{self, Bundles, DomainBundle, Role};
use waxseal::spiffe::TrustDomain;

/// Requests on the control socket, and the flows that come back.
pub(crate) fn control(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let again = serde_json::to_vec(&request).map(|line| serde_json::from_slice::<Request>(&line));
        assert!(matches!(again, Ok(Ok(again)) if again == request), "{request:?}");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(flows::Line::Flow(flow)) = flows::read(text) {
        let mut line = Vec::new();
        flows::json(&flow, &mut line);
        let again = String::from_utf8(line).map(|line| flows::read(&line));
        assert!(matches!(again, Ok(Ok(flows::Line::Flow(again))) if again == flow), "{flow:?}");
    }
}

/// Messages between agents, and the names that they ask for in TLS.
pub(crate) fn mesh(bytes: &[u8]) {
    let _known = mesh::is_message(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _target = mesh::is_target(text);
    }
}

/// What a CA server is asked and answers, requests for certificates, PEM.
pub(crate) fn authority(bytes: &[u8]) {
    let _known = pki::is_message(bytes);
    let _signed = pki::is_certificate_request(bytes);
    let _pem = pki::is_certificates(bytes);
}

/// A chain as a peer shows it, roots and revocation lists as a CA publishes them. Nothing here is signed by our root but
/// the seed, and that one ended long ago: nobody is believed.
pub(crate) fn certificates(bytes: &[u8]) {
    static BUNDLES: LazyLock<Bundles> = LazyLock::new(|| {
        let root = CertificateDer::from(include_bytes!("../seeds/certificates/root.der").as_slice());
        let domain: Option<TrustDomain> = "example.org".parse().ok();
        let bundle =
            domain.and_then(|domain| DomainBundle::new(&domain, &[root], &[]).ok().map(|b| (domain, b)));
        assert!(bundle.is_some(), "the seed is a root");
        Bundles::new(1, bundle)
    });
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let whole = CertificateDer::from(bytes);
    for role in [Role::Client, Role::Server] {
        assert!(pki::verify(&BUNDLES, std::slice::from_ref(&whole), role, now).is_err());
    }
    // A leaf and its signer, cut where the first certificate says that it ends.
    if let Some((leaf, signer)) = first_object(bytes) {
        let chain = [CertificateDer::from(leaf), CertificateDer::from(signer)];
        assert!(pki::verify(&BUNDLES, &chain, Role::Client, now).is_err());
    }
    for (domain, _) in BUNDLES.domains() {
        let _root = DomainBundle::new(domain, std::slice::from_ref(&whole), &[]);
        let list = CertificateRevocationListDer::from(bytes);
        let _list = DomainBundle::new(domain, &[], &[list]);
    }
}

/// The first DER object with a length of two bytes, and what follows it.
fn first_object(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x30, 0x82, high, low, ..] = bytes else { return None };
    bytes.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])) + 4)
}
