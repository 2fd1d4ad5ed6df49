//! Two verifiers of other people, asked about the same chains.
//!
//! `spiffe` reads an identity and holds it against the profile. `spiffe-rustls` verifies peers in TLS; it takes what it
//! believes from a Workload API only, so a small one stands here.

use std::path::Path;

use bytes::{BufMut as _, Bytes, BytesMut};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConnection, ServerConfig, ServerConnection};
use tokio::net::UnixListener;

use super::corpus::{Chain, World, wrong};
use super::life::shake;
use super::*;

fn read(chain: &[CertificateDer<'_>]) -> Result<String, spiffe::X509SvidError> {
    let key = rcgen::KeyPair::generate().unwrap();
    let chain: Vec<u8> = chain.iter().flat_map(|der| der.to_vec()).collect();
    spiffe::X509Svid::parse_from_der(&chain, &key.serialize_der()).map(|svid| svid.spiffe_id().to_string())
}

/// Why we refuse what the profile of one identity alone says nothing about: signatures, dates, roots, sizes.
const BEYOND_THE_PROFILE: [&str; 14] = [
    "no-bundle",
    "empty-bundle",
    "unknown-issuer",
    "signature",
    "algorithm",
    "expired",
    "not-yet-valid",
    "dates",
    "path-length",
    "too-large",
    "too-many-certificates",
    "critical-extension",
    "signer-usage",
    "name-constraint",
];

/// What the other reader lets through although the standard does not, or although we think that it should not.
const LET_THROUGH: [&str; 12] = [
    "34 names",
    "a signer of another domain",
    "a signer whose key usage is not critical",
    "a signer with a malformed ID",
    "a signer with a workload's ID",
    "an unknown extension twice",
    "for anything",
    "key usage not critical",
    "only a client",
    "only a server",
    "only for code",
    "version 2",
];

#[test]
fn another_reader_of_the_profile_refuses_what_we_refuse() {
    let world = World::new();
    let (_directory, authority) = authority();
    let web = issue(&authority, "/ns/shop/sa/web");
    assert_eq!(read(&web.chain()).unwrap(), web.id().as_str());
    let mut let_through = Vec::new();
    for (name, chain, word) in wrong(&world) {
        if read(&chain).is_ok() && !BEYOND_THE_PROFILE.contains(&word) {
            let_through.push(name);
        }
    }
    let_through.sort();
    assert_eq!(let_through, LET_THROUGH, "believed by the other reader");
}

/// One message of gRPC with an X509SVIDResponse: ID, chain, key and bundle.
fn response(svid: &Svid, key: &PrivateKeyDer<'_>, roots: &[u8]) -> Bytes {
    let field = |number: u8, value: &[u8]| {
        let mut out = vec![number << 3 | 2];
        let mut length = value.len();
        while length > 0x7f {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(value);
        out
    };
    let chain: Vec<u8> = svid.chain().iter().flat_map(|der| der.to_vec()).collect();
    let one = [
        field(1, svid.id().as_str().as_bytes()),
        field(2, &chain),
        field(3, key.secret_der()),
        field(4, roots),
    ];
    let message = field(1, &one.concat());
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// A Workload API that answers every stream with one message and keeps it open.
fn workload_api(socket: &Path, message: Bytes) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let message = message.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut open = Vec::new();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let head = hyper::Response::builder().header("content-type", "application/grpc");
                    let mut send = respond.send_response(head.body(()).unwrap(), false).unwrap();
                    send.send_data(message.clone(), false).unwrap();
                    open.push(send);
                }
            });
        }
    });
}

/// The other verifier as a TLS server.
fn server(config: &Arc<ServerConfig>, chain: Chain, key: &PrivateKeyDer<'_>) -> Result<(), rustls::Error> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key).unwrap();
    let key = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    // The client believes anybody: only the server's verdict is asked for.
    let verifier = tls::Verifier::new(Believer, true);
    let client = tls::client_with(verifier, Some(key), b"oracle");
    let mut client = ClientConnection::new(client, "a.b".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
    match shake(&mut client, &mut server) {
        Ok(()) => Ok(()),
        Err((error, "server")) => Err(error),
        Err((error, side)) => panic!("{side}: {error}"),
    }
}

struct Believer;

impl tls::Judge for Believer {
    fn judge(&self, _: &[CertificateDer<'_>], _: Role, _: SystemTime) -> Result<(), Refusal> {
        Ok(())
    }
}

/// What the other verifier believes and we do not: limits of ours, and rules of the standard that it leaves out. It asks
/// for the usage of its own side only, and holds signers to less.
const BELIEVED_ELSEWHERE: [&str; 13] = [
    "16 KiB and a little",
    "34 names",
    "a signer of another domain",
    "a signer whose key usage is not critical",
    "a signer with a malformed ID",
    "a signer with a workload's ID",
    "a signer without key usage",
    "a third that is none",
    "an unknown extension twice",
    "fifty certificates",
    "five certificates",
    "key usage not critical",
    "only a client",
];

#[tokio::test(flavor = "multi_thread")]
async fn another_verifier_refuses_what_we_refuse_and_believes_what_we_issue() {
    let world = World::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let leaf = world.leaf_for(&key);
    let svid = Svid::new(leaf.clone(), &der).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    workload_api(&socket, response(&svid, &der, &world.root.der));
    let source = spiffe::X509Source::builder().endpoint(format!("unix://{}", socket.display()));
    let source = source.build().await.unwrap();
    let config = spiffe_rustls::mtls_server(source).with_alpn_protocols([b"oracle"]).build().unwrap();
    let config = Arc::new(config);

    server(&config, leaf, &der).unwrap();
    let mut believed = Vec::new();
    let mut count = 0;
    for (name, chain, word) in wrong(&world) {
        if chain.is_empty() {
            continue;
        }
        count += 1;
        // A chain that is believed fails only where the key should sign: it is another's.
        match server(&config, chain, &der) {
            Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) if word != "signature" => {
                believed.push(name);
            }
            Err(_) => {}
            Ok(()) => panic!("{name}: with another's key"),
        }
    }
    assert!(count > 100, "{count}");
    believed.sort();
    assert_eq!(believed, BELIEVED_ELSEWHERE, "believed by the other verifier");
}
