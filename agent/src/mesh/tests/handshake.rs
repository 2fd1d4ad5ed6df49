//! Two nodes agree, or do not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use waxseal_common::ids::IdentityId;
use waxseal_common::wire::{Asks, Failure};

use super::tools::{SOON, World, eventually, id, tcp};
use crate::mesh::Table as _;
use crate::pki::Target as Revoke;

const THERE: &str = "10.0.0.2";

#[tokio::test]
async fn both_ends_hold_one_key_for_one_pair_and_the_receiver_has_it_first() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let key = tcp(THERE, 80);
    there.host.listen(&key, 256);
    let route = here.open(key).await;
    assert!(route.has_session() && route.session != 0 && route.failure == 0, "{route:?}");
    let session = there.table.session(route.spi).expect("the receiver has it");
    assert_eq!(session.key, route.key);
    assert_ne!(session.key.0, [0, 0]);
    assert_eq!((session.source, session.destination), (IdentityId(1000), IdentityId(256)));
    assert_eq!(route.destination, IdentityId(1000));
    assert!(there.table.installed(route.spi) < here.table.routed(&key));
    let hour = Duration::from_hours(1).as_nanos() as u64;
    for (expires, now) in [(session.expires, there.table.now()), (route.expires, here.table.now())] {
        assert!(expires > now && expires <= now + hour);
    }
    let (caller, labels) = there.host.admitted.lock().unwrap()[0].clone();
    assert_eq!(caller, id("/ns/test/sa/caller"));
    assert_eq!(labels.get("app"), Some("caller"));
    assert_eq!(here.host.admitted.lock().unwrap()[0].0, id("/ns/test/sa/server"));
}

#[tokio::test]
async fn every_session_has_a_key_of_its_own() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let mut keys = std::collections::BTreeSet::new();
    for port in 80..90 {
        there.host.listen(&tcp(THERE, port), 256);
        keys.insert(here.open(tcp(THERE, port)).await.key.0);
    }
    assert_eq!(keys.len(), 10);
}

#[tokio::test]
async fn where_no_workload_listens_the_node_answers_for_nobody() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let route = here.open(tcp(THERE, 81)).await;
    assert!(route.has_session());
    assert_eq!(route.destination, IdentityId::UNKNOWN);
    let session = there.table.session(route.spi).unwrap();
    assert_eq!((session.source, session.destination), (IdentityId(1000), IdentityId::UNKNOWN));
    assert!(here.host.admitted.lock().unwrap().is_empty(), "a node is no workload");
}

#[tokio::test]
async fn however_many_packets_wait_there_is_one_handshake() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let key = tcp(THERE, 80);
    there.host.listen(&key, 256);
    here.ask(Asks::Intent, key);
    let sent: Vec<_> = (0..100).map(|_| here.ask(Asks::Hold, key)).collect();
    eventually("all are sent on", || sent.iter().all(|sent| sent.load(Ordering::Relaxed) == 1)).await;
    assert_eq!((here.count("handshakes-begun"), there.count("handshakes-answered")), (1, 1));
    assert_eq!(here.mesh().summary().held, 0);
    let late = here.ask(Asks::Hold, key);
    assert_eq!(late.load(Ordering::Relaxed), 1, "with a session there is nothing to wait for");
}

#[tokio::test]
async fn a_closed_port_a_foreign_authority_and_a_stranger_are_told_at_once() {
    let world = World::new();
    let mut here = world.site("here", &["caller"]).await;
    let mut closed = world.site("closed", &[]).await;
    closed.kill();
    let foreign = World::new().site("there", &["server"]).await;
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut talker = world.site("talker", &[]).await;
    talker.kill();
    talker.agent = web.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = web.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for (address, site, failure) in [
        ("10.0.0.3", &closed, Failure::NoAgent),
        ("10.0.0.4", &foreign, Failure::Untrusted),
        ("10.0.0.5", &talker, Failure::Protocol),
    ] {
        here.knows(address, site).await;
        let begun = std::time::Instant::now();
        let sent = here.ask(Asks::Hold, tcp(address, 80));
        eventually(address, || sent.load(Ordering::Relaxed) == 1).await;
        assert!(begun.elapsed() < Duration::from_millis(900), "{address}: {:?}", begun.elapsed());
        let route = here.table.route(&tcp(address, 80)).unwrap();
        assert_eq!((route.failure, route.has_session()), (failure as u8, false), "{address}");
        assert_eq!(route.key.0, [0, 0]);
    }
    assert!(foreign.table.sessions().is_empty());
}

#[tokio::test]
async fn an_agent_that_stalls_lets_packets_go_after_a_second_and_is_a_failure_after_three() {
    let world = World::new();
    let mut here = world.site("here", &["caller"]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut there = world.site("there", &[]).await;
    there.kill();
    there.agent = silent.local_addr().unwrap();
    here.knows(THERE, &there).await;
    let key = tcp(THERE, 80);
    let sent = here.ask(Asks::Hold, key);
    tokio::time::sleep(Duration::from_millis(1400)).await;
    assert_eq!(here.count("held-too-long"), 1);
    assert!(here.table.route(&key).is_none(), "no answer yet");
    eventually("a failure", || here.table.route(&key).is_some()).await;
    assert_eq!(here.table.route(&key).unwrap().failure, Failure::Timeout as u8);
    assert_eq!(sent.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_that_is_refused_after_the_servers_finished_leaves_no_key_anywhere() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let key = tcp(THERE, 80);
    there.host.listen(&key, 256);
    // Only the other node has heard that the caller is not to be believed.
    let revoke = Revoke::Id(id("/ns/test/sa/caller"));
    world.authority.revoke(&revoke, std::time::SystemTime::now()).unwrap();
    world.tell(&there);
    let route = here.open(key).await;
    assert_eq!((route.has_session(), route.failure), (false, Failure::Refused as u8));
    assert!(there.table.sessions().is_empty());
    assert!(there.host.admitted.lock().unwrap().is_empty());
    eventually("it is counted", || there.count("handshakes-refused") > 0).await;
}

#[tokio::test]
async fn without_a_certificate_nobody_is_asked() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    here.certificates.svids.lock().unwrap().clear();
    let route = here.open(tcp(THERE, 80)).await;
    assert_eq!(route.failure, Failure::NoCertificate as u8);
    assert_eq!(there.count("handshakes-refused"), 0);
}

#[tokio::test]
async fn a_workload_that_does_not_run_here_gets_no_handshake() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let mut key = tcp(THERE, 80);
    key.source = IdentityId(300);
    let sent = here.ask(Asks::Hold, key);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((here.count("handshakes-begun"), sent.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn a_node_does_not_make_sessions_with_itself() {
    let world = World::new();
    let mut here = world.site("here", &["caller", "server"]).await;
    let mut other = world.site("other", &[]).await;
    other.kill();
    other.agent = here.agent;
    here.knows(THERE, &other).await;
    here.host.listen(&tcp(THERE, 80), 257);
    let route = here.open(tcp(THERE, 80)).await;
    assert!(!route.has_session());
    assert!(here.table.sessions().is_empty());
}

#[tokio::test]
async fn a_flood_of_destinations_does_not_take_more_than_its_share() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut there = world.site("there", &[]).await;
    there.kill();
    there.agent = silent.local_addr().unwrap();
    let mut here = world.site("here", &["caller", "other"]).await;
    here.knows(THERE, &there).await;
    for port in 1..2000 {
        here.ask(Asks::Hold, tcp(THERE, port));
    }
    assert!(here.mesh().summary().held <= 256);
    assert!(here.count("held-no-room") > 0);
    assert!(here.count("handshakes-begun") <= 512);
    let answering = world.site("answering", &["server"]).await;
    let mut here = here;
    here.knows("10.0.0.9", &answering).await;
    let mut key = tcp("10.0.0.9", 80);
    key.source = IdentityId(257);
    answering.host.listen(&key, 256);
    let begun = std::time::Instant::now();
    assert!(here.open(key).await.has_session(), "another workload has its own share");
    assert!(begun.elapsed() < SOON);
}
