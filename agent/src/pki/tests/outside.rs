//! What others say about our certificates: openssl, and the crates of the SPIFFE project's community.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustls::pki_types::CertificateDer;

use super::super::pem;
use super::*;

fn write(path: &Path, certificates: &[CertificateDer<'_>]) {
    let text: String = certificates.iter().map(pem::of_certificate).collect();
    fs::write(path, text).unwrap();
}

fn openssl(arguments: &[&str], directory: &Path) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn openssl_finds_nothing_wrong_with_what_we_issue_and_what_we_revoke() {
    let (directory, authority) = authority();
    let (web, node) = (issue(&authority, "/ns/shop/sa/web"), issue(&authority, "/waxseal/node/here"));
    let here = directory.path();
    let publication = authority.publication();
    fs::write(here.join("root.pem"), publication.roots.concat()).unwrap();
    let lists =
        |publication: &Publication| fs::write(here.join("lists.pem"), publication.lists.concat()).unwrap();
    lists(&publication);
    for (name, svid) in [("web", &web), ("node", &node)] {
        write(&here.join(format!("{name}.pem")), &svid.chain()[..1]);
        write(&here.join("signer.pem"), &svid.chain()[1..]);
    }
    let verify = |leaf: &str, purpose: &str| {
        let arguments = [
            "verify",
            "-x509_strict",
            "-check_ss_sig",
            "-crl_check_all",
            "-purpose",
            purpose,
            "-CAfile",
            "root.pem",
            "-untrusted",
            "signer.pem",
            "-CRLfile",
            "lists.pem",
            leaf,
        ];
        openssl(&arguments, here)
    };
    for leaf in ["web.pem", "node.pem"] {
        for purpose in ["sslserver", "sslclient"] {
            let (fine, text) = verify(leaf, purpose);
            assert!(fine, "{leaf} as {purpose}: {text}");
        }
        let (fine, text) = verify(leaf, "smimesign");
        assert!(!fine, "{leaf} for mail: {text}");
    }
    let (_, text) = openssl(&["x509", "-in", "web.pem", "-noout", "-text"], here);
    for part in [
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Subject Alternative Name: critical\n                URI:spiffe://example.org/ns/shop/sa/web\n",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "Subject: \n",
        "ecdsa-with-SHA256",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    authority.revoke(&Target::Id(web.id().clone()), SystemTime::now()).unwrap();
    lists(&authority.publication());
    let (fine, text) = verify("web.pem", "sslclient");
    assert!(!fine && text.contains("certificate revoked"), "{text}");
    assert!(verify("node.pem", "sslclient").0);
}

#[test]
fn an_authority_that_openssl_has_made_can_be_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    fs::set_permissions(here, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let run = |line: &str| {
        let (fine, text) = openssl(&line.split_whitespace().collect::<Vec<_>>(), here);
        assert!(fine, "{line}: {text}");
    };
    fs::write(here.join("ca.ext"), "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n").unwrap();
    run("ecparam -name secp384r1 -genkey -noout -out root.key");
    run(
        "req -x509 -new -key root.key -days 30 -subj /O=Elsewhere/CN=root -addext keyUsage=critical,keyCertSign,cRLSign -out root.pem",
    );
    run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out intermediate.key");
    run("req -new -key intermediate.key -subj /O=Elsewhere/CN=intermediate -out intermediate.csr");
    run(
        "x509 -req -in intermediate.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile ca.ext -out intermediate.pem",
    );
    for key in ["root.key", "intermediate.key"] {
        fs::set_permissions(here.join(key), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let import = |root_key: bool| Import {
        trust_domain: domain(),
        roots: here.join("root.pem"),
        root_key: root_key.then(|| here.join("root.key")),
        intermediate: here.join("intermediate.pem"),
        key: here.join("intermediate.key"),
        lifetimes: Lifetimes::default(),
    };
    let now = SystemTime::now();
    for root_key in [true, false] {
        let place = here.join(format!("ca-{root_key}"));
        let authority = Authority::import(&place, &import(root_key), now).unwrap();
        let svid = issue(&authority, "/ns/shop/sa/web");
        verify(&bundles(&authority), &svid.chain(), Role::Server, now).unwrap();
        let rotated = authority.rotate(Duration::ZERO, now);
        assert_eq!(rotated.is_ok(), root_key, "{rotated:?}");
        let again = issue(&authority, "/ns/shop/sa/web");
        verify(&bundles(&authority), &again.chain(), Role::Server, now).unwrap();
        authority.revoke(&Target::Id(svid.id().clone()), now).unwrap();
        let refusal = verify(&bundles(&authority), &svid.chain(), Role::Server, now).unwrap_err();
        assert_eq!(refusal.word(), "revoked");
    }
    // Another key, and a leaf in place of an authority.
    let wrong = Import { key: here.join("root.key"), ..import(true) };
    let error = Authority::import(&here.join("x"), &wrong, now).unwrap_err();
    assert!(matches!(error, AuthorityError::OtherKey { .. }), "{error:?}");
    fs::set_permissions(here.join("intermediate.key"), std::os::unix::fs::PermissionsExt::from_mode(0o640))
        .unwrap();
    let error = Authority::import(&here.join("y"), &import(true), now).unwrap_err();
    assert!(matches!(error, AuthorityError::File(FileError::Exposed { mode: 0o640, .. })), "{error:?}");
}
