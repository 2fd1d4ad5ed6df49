//! An authority, its certificates, and those who keep and show them.

use std::collections::BTreeSet;

use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConnection};

use super::*;

#[derive(Debug)]
pub(super) struct Shows(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Runs both ends in memory until nothing moves.
pub(super) fn shake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), (rustls::Error, &'static str)> {
    for _ in 0..40 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|error| (error, "server"))?;
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|error| (error, "client"))?;
        }
    }
    Ok(())
}

pub(super) fn pair(trust: &Trust, client: &Svid, server: &Svid) -> (ClientConnection, ServerConnection) {
    let alpn = b"waxseal-pair/1";
    let shows = Arc::new(Shows(server.certified_key()));
    let server = ServerConnection::new(server_config(trust, shows, &[alpn])).unwrap();
    let config = client_config(trust, client, alpn);
    let client = ClientConnection::new(config, "any.svid.internal".try_into().unwrap()).unwrap();
    (client, server)
}

#[test]
fn two_identities_of_one_authority_prove_themselves_to_each_other() {
    let (_directory, authority) = authority();
    let (web, db) = (issue(&authority, "/ns/shop/sa/web"), issue(&authority, "/ns/shop/sa/db"));
    let trust = Trust::new(bundles(&authority));
    let (mut client, mut server) = pair(&trust, &web, &db);
    let (now, beliefs) = (SystemTime::now(), trust.load());
    assert_eq!(peer_of(&client, &beliefs, Role::Server, now).unwrap_err(), Refusal::Handshake);
    shake(&mut client, &mut server).unwrap();
    let seen = peer_of(&client, &beliefs, Role::Server, now).unwrap();
    assert_eq!(seen.id(), db.id());
    assert_eq!(peer_of(&server, &beliefs, Role::Client, now).unwrap().id(), web.id());
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert!(!seen.is_node());
    let left = seen.not_after().duration_since(now).unwrap();
    assert!(left > Duration::from_mins(59) && left <= Duration::from_hours(1), "{left:?}");

    let signature = db.sign(b"hello").unwrap();
    assert_eq!(seen.verify_signature(b"hello", &signature), Ok(()));
    assert_eq!(seen.verify_signature(b"hallo", &signature), Err(Refusal::Message));
}

#[test]
fn no_session_is_ever_resumed_not_even_by_a_client_that_would() {
    let (_directory, authority) = authority();
    let (web, db) = (issue(&authority, "/web"), issue(&authority, "/db"));
    let trust = Trust::new(bundles(&authority));
    let mut config = client_config(&trust, &web, b"waxseal-pair/1").as_ref().clone();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let server = server_config(&trust, Arc::new(Shows(db.certified_key())), &[b"waxseal-pair/1"]);
    for _ in 0..3 {
        let mut client = ClientConnection::new(Arc::clone(&config), "a.b".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
        shake(&mut client, &mut server).unwrap();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn revoking_reaches_the_leaf_the_name_and_the_intermediate() {
    let (_directory, authority) = authority();
    let now = SystemTime::now();
    let (web, db) = (issue(&authority, "/ns/shop/sa/web"), issue(&authority, "/ns/shop/sa/db"));
    let peer = verify(&bundles(&authority), &web.chain(), Role::Client, now).unwrap();
    let revoked = authority.revoke(&Target::Id(web.id().clone()), now).unwrap();
    assert_eq!(revoked.leaves.len(), 1);
    let beliefs = bundles(&authority);
    let expected = Refusal::Revoked { position: Position(0), serial: revoked.leaves[0].clone() };
    assert_eq!(peer.still_valid(&beliefs, now), Err(expected));
    assert!(verify(&beliefs, &db.chain(), Role::Client, now).is_ok());
    let again = authority.issue(&[web.id().clone()], &own(), now).unwrap();
    assert_eq!(again[0].as_ref().unwrap_err(), &Denial::Banned);

    let revoked = authority.revoke(&Target::Intermediate("current".into()), now).unwrap();
    assert!(revoked.replacement.is_some());
    let beliefs = bundles(&authority);
    let expected = Refusal::Revoked { position: Position(1), serial: revoked.intermediates[0].clone() };
    assert_eq!(verify(&beliefs, &db.chain(), Role::Client, now).unwrap_err(), expected);
    let fresh = issue(&authority, "/ns/shop/sa/db");
    assert!(verify(&beliefs, &fresh.chain(), Role::Server, now).is_ok());
}

#[test]
fn old_and_new_intermediates_hold_side_by_side_and_the_new_one_signs_after_the_overlap() {
    let (_directory, authority) = authority();
    let now = SystemTime::now();
    let old = issue(&authority, "/a");
    authority.rotate(Duration::from_mins(2), now).unwrap();
    let waiting = issue(&authority, "/a");
    assert_eq!(waiting.chain()[1], old.chain()[1]);
    let later = now + Duration::from_mins(2);
    let new = authority.issue(&[id("/a")], &own(), later).unwrap().pop().unwrap().unwrap();
    assert_ne!(new.chain()[1], old.chain()[1]);
    for svid in [&old, &waiting, &new] {
        verify(&bundles(&authority), &svid.chain(), Role::Server, later).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_gets_what_is_wanted_and_drops_what_is_not() {
    let (_directory, authority) = authority();
    let trust = Trust::default();
    let _custodian = Custodian::start(Arc::clone(&authority), trust.clone()).unwrap();
    let issuer = Arc::new(Embedded::new(Arc::clone(&authority), own()));
    let keeper = Keeper::start(issuer, trust.clone(), own());
    assert_eq!(keeper.wait_for(&own(), SOON).await.unwrap().id(), &own());
    assert!(keeper.svid(&id("/a")).is_none());
    keeper.want(BTreeSet::from([id("/a"), id("/b"), id("/waxseal/ca")]));
    let first = keeper.wait_for(&id("/a"), SOON).await.unwrap();
    assert!(keeper.wait_for(&id("/b"), SOON).await.is_some());
    let status = keeper.status();
    let denied = status.iter().find(|one| one.id == id("/waxseal/ca")).unwrap();
    assert_eq!(denied.last_error.as_deref(), Some("IDs below /waxseal/ are nodes' and the CA's own"));
    keeper.want(BTreeSet::from([id("/a")]));
    assert!(keeper.svid(&id("/b")).is_none());

    // What peers do not believe any more is renewed at once.
    let mut issued = keeper.issued();
    authority.revoke(&Target::Intermediate("current".into()), SystemTime::now()).unwrap();
    let renewed = async {
        while keeper.svid(&id("/a")).unwrap().chain()[1] == first.chain()[1] {
            issued.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, renewed).await.unwrap();
}

#[test]
fn what_was_verified_a_moment_ago_is_believed_only_as_long_as_everything_it_rests_on() {
    let (_directory, authority) = authority();
    let web = issue(&authority, "/web");
    let (before, now) = (bundles(&authority), SystemTime::now());
    let end = verify(&before, &web.chain(), Role::Client, now).unwrap().not_after();
    for (when, outcome) in [
        (now + Duration::from_secs(59), Ok(())),
        (end - Duration::from_secs(1), Ok(())),
        (end + Duration::from_secs(1), Err("expired")),
        (now - Duration::from_mins(90), Err("not-yet-valid")),
        (now, Ok(())),
    ] {
        let seen = verify(&before, &web.chain(), Role::Client, when);
        assert_eq!(seen.map(drop).map_err(|refusal| refusal.word()), outcome);
    }

    // Just verified near its end: it ends all the same.
    verify(&before, &web.chain(), Role::Client, end - Duration::from_secs(1)).unwrap();
    assert!(verify(&before, &web.chain(), Role::Client, end + Duration::from_secs(1)).is_err());

    // Another byte is another chain.
    let mut forged: Vec<Vec<u8>> = web.chain().iter().map(|der| der.as_ref().to_vec()).collect();
    *forged[0].last_mut().unwrap() ^= 1;
    let forged: Vec<rustls::pki_types::CertificateDer<'_>> = forged.into_iter().map(Into::into).collect();
    verify(&before, &web.chain(), Role::Client, now).unwrap();
    assert_eq!(verify(&before, &forged, Role::Client, now).unwrap_err(), Refusal::Signature);

    // Other beliefs are another memory.
    authority.revoke(&Target::Id(web.id().clone()), now).unwrap();
    let after = bundles(&authority);
    assert_eq!(verify(&after, &web.chain(), Role::Client, now).unwrap_err().word(), "revoked");
    assert!(verify(&before, &web.chain(), Role::Client, now).is_ok());
}
