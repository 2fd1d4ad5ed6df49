//! What nodes say to each other on links, and what they are believed.

use std::time::Duration;

use waxseal_common::wire::{Asks, Spi};

use super::tools::{Site, World, eventually, tcp};
use crate::mesh::Table as _;
use crate::mesh::message::LinkMessage;

const THERE: &str = "10.0.0.2";

fn linked(site: &Site) -> usize {
    site.mesh().report().links.iter().filter(|link| link.age_s.is_some()).count()
}

/// Two nodes with a session, and a third that has one with the second.
async fn three() -> (World, Site, Site, Site) {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    there.host.listen(&tcp(THERE, 80), 256);
    let mut here = world.site("here", &["caller"]).await;
    let mut third = world.site("third", &["thief"]).await;
    here.knows(THERE, &there).await;
    third.knows(THERE, &there).await;
    assert!(here.open(tcp(THERE, 80)).await.has_session());
    assert!(third.open(tcp(THERE, 80)).await.has_session());
    eventually("links", || linked(&there) == 2 && linked(&here) == 1 && linked(&third) == 1).await;
    (world, here, there, third)
}

fn say(from: &Site, message: LinkMessage) {
    let links = from.inner().links.all();
    links.first().expect("a link").say(message);
}

#[tokio::test]
async fn a_session_brings_a_link_and_it_stays() {
    let (_world, here, there, _third) = three().await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!((linked(&here), linked(&there)), (1, 2), "silence is filled");
    let report = here.mesh().report();
    assert!(report.links[0].clock_ahead_ms.abs() < 500, "{report:?}");
    assert_eq!(report.links[0].version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn links_that_are_opened_at_once_become_one() {
    let world = World::new();
    let mut a = world.site("a", &["one"]).await;
    let mut b = world.site("b", &["two"]).await;
    let (from_a, from_b) = (tcp("10.0.0.2", 80), tcp("10.0.0.1", 80));
    a.host.listen(&from_b, 256);
    b.host.listen(&from_a, 256);
    a.knows("10.0.0.2", &b).await;
    b.knows("10.0.0.1", &a).await;
    for _ in 0..3 {
        a.ask(Asks::Intent, from_a);
        b.ask(Asks::Intent, from_b);
        eventually("both have a link", || linked(&a) == 1 && linked(&b) == 1).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let nonces = |site: &Site| site.inner().links.all().iter().map(|link| link.ours).collect::<Vec<_>>();
    let (ours, theirs) = (nonces(&a), nonces(&b));
    assert_eq!((ours.len(), theirs.len()), (1, 1));
    assert_ne!(ours, theirs, "both use the same one");
}

#[tokio::test]
async fn a_hint_counts_only_about_the_senders_own_sessions() {
    let (_world, here, there, third) = three().await;
    let key = tcp(THERE, 80);
    let spi = here.table.route(&key).unwrap().spi;
    // The third node speaks of a session between the two others, on every link that it can have.
    say(&third, LinkMessage::UnknownSession { spi: spi.0 });
    say(&third, LinkMessage::Withdraw { sessions: vec![spi.0] });
    say(&third, LinkMessage::Ended { sessions: vec![spi.0] });
    eventually("they are refused", || there.count("hints-refused") == 3).await;
    assert!(there.table.session(spi).is_some() && here.table.route(&key).is_some());
    // The sender of the session is believed.
    say(&here, LinkMessage::Withdraw { sessions: vec![spi.0] });
    eventually("it is withdrawn", || there.table.session(spi).is_none()).await;
    assert!(there.host.ended.lock().unwrap().accepted.contains(&spi));
}

#[tokio::test]
async fn a_session_that_the_receiver_has_lost_is_made_anew() {
    let (_world, here, there, _third) = three().await;
    let key = tcp(THERE, 80);
    let old = here.table.route(&key).unwrap();
    there.table.remove_session(old.spi);
    there.inner().tell_unknown(Spi(1), key.destination);
    let link = there.inner().links.all().into_iter().find(|link| link.peer.node_name() == Some("here"));
    link.unwrap().say(LinkMessage::UnknownSession { spi: old.spi.0 });
    eventually("the route is gone", || here.table.route(&key).is_none()).await;
    assert!(here.host.ended.lock().unwrap().is_empty(), "connections stay");
    let new = here.open(key).await;
    assert!(new.has_session() && new.spi != old.spi);
    assert_eq!(new.session, old.session, "connections of the old one are of the new one's line");
    assert!(there.table.session(new.spi).is_some());
}

#[tokio::test]
async fn a_mistaken_destination_is_asked_to_be_forgotten() {
    let (_world, here, there, _third) = three().await;
    let key = tcp(THERE, 80);
    let spi = here.table.route(&key).unwrap().spi;
    there.mesh().wrong_destination(spi);
    eventually("the route is gone", || here.table.route(&key).is_none()).await;
}

#[tokio::test]
async fn a_peer_that_starts_with_another_memory_has_lost_everything() {
    let (_world, here, mut there, _third) = three().await;
    let key = tcp(THERE, 80);
    let old = here.table.route(&key).unwrap();
    // A reboot: the tables are empty and the record is of another boot.
    there.kill();
    for (spi, _) in there.table.sessions() {
        there.table.remove_session(spi);
    }
    there.resumes = false;
    there.start().await;
    eventually("the route is gone", || here.table.route(&key).is_none()).await;
    assert!(here.host.ended.lock().unwrap().opened.contains(&old.session));
    assert!(here.open(key).await.has_session(), "and it heals");
}

#[tokio::test]
async fn a_restarted_peer_with_its_memory_keeps_its_sessions() {
    let (_world, here, mut there, _third) = three().await;
    let key = tcp(THERE, 80);
    let old = here.table.route(&key).unwrap();
    there.restart().await;
    assert_eq!(there.table.session(old.spi).map(|session| session.key), Some(old.key));
    eventually("a link again", || linked(&here) == 1 && linked(&there) >= 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(here.table.route(&key), Some(old));
    let report = there.mesh().report();
    assert!(report.sessions.iter().any(|session| session.spi == Some(old.spi.0)), "{report:?}");
}
