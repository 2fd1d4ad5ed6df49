//! Renewal, revocation, expiry, restart.

use std::time::{Duration, SystemTime};

use waxseal_common::wire::{RouteKey, Spi};

use super::tools::{Site, World, eventually, id, tcp};
use crate::mesh::{Table as _, TableError};
use crate::pki::Target as Revoke;

const THERE: &str = "10.0.0.2";

async fn pair() -> (World, Site, Site, RouteKey) {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let key = tcp(THERE, 80);
    there.host.listen(&key, 256);
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    assert!(here.open(key).await.has_session());
    // The kernel has it before it is written down: whoever is killed in between makes another one, which is not the
    // subject here.
    drop(here.inner().state());
    (world, here, there, key)
}

#[tokio::test]
async fn a_used_session_is_renewed_at_half_its_life_and_the_old_one_overlaps() {
    let (_world, here, there, key) = pair().await;
    let old = here.table.route(&key).unwrap();
    here.table.use_route(&key);
    for table in [&here.table, &there.table] {
        table.forward(Duration::from_mins(34));
    }
    eventually("a new session", || here.table.route(&key).is_some_and(|route| route.spi != old.spi)).await;
    let new = here.table.route(&key).unwrap();
    assert_ne!(new.key, old.key);
    assert_eq!(new.session, old.session, "connections go on under the same number");
    let before = there.table.session(old.spi).expect("it overlaps");
    let left = Duration::from_nanos(before.expires - there.table.now());
    assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(30), "{left:?}");
    there.table.forward(Duration::from_secs(31));
    eventually("the old one is gone", || there.table.session(old.spi).is_none()).await;
    assert!(there.table.session(new.spi).is_some());
    // Connections under the old one are under the new one now.
    there.table.live.lock().unwrap().accepted.insert(old.spi, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(there.host.ended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_unused_session_ends_and_takes_its_route_with_it() {
    let (_world, here, there, key) = pair().await;
    let spi = here.table.route(&key).unwrap().spi;
    for table in [&here.table, &there.table] {
        table.forward(Duration::from_mins(40));
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(here.table.route(&key).map(|route| route.spi), Some(spi), "not renewed");
    for table in [&here.table, &there.table] {
        table.forward(Duration::from_mins(20));
    }
    eventually("both have ended", || here.table.route(&key).is_none() && there.table.session(spi).is_none())
        .await;
    assert_eq!(here.count("sessions-renewed"), 0);
}

#[tokio::test]
async fn connections_end_when_their_session_expires_and_is_not_renewed() {
    let (_world, here, there, key) = pair().await;
    let route = here.table.route(&key).unwrap();
    here.certificates.svids.lock().unwrap().clear();
    here.table.live.lock().unwrap().opened.insert(route.session, 1);
    there.table.live.lock().unwrap().accepted.insert(route.spi, 1);
    for table in [&here.table, &there.table] {
        table.forward(Duration::from_mins(61));
    }
    eventually("both ends are told", || {
        here.host.ended.lock().unwrap().opened.contains(&route.session)
            && there.host.ended.lock().unwrap().accepted.contains(&route.spi)
    })
    .await;
}

#[tokio::test]
async fn a_live_connection_keeps_its_session_in_use() {
    let (_world, here, there, key) = pair().await;
    let old = here.table.route(&key).unwrap();
    here.table.live.lock().unwrap().opened.insert(old.session, 1);
    for table in [&here.table, &there.table] {
        table.forward(Duration::from_mins(34));
    }
    eventually("a new session", || here.table.route(&key).is_some_and(|route| route.spi != old.spi)).await;
}

#[tokio::test]
async fn whatever_is_revoked_takes_its_sessions_along_on_either_side() {
    let node = |name: &str| Revoke::Id(id(&format!("/waxseal/node/{name}")));
    let cases = [
        (Revoke::Id(id("/ns/test/sa/caller")), "the caller"),
        (Revoke::Id(id("/ns/test/sa/server")), "the server"),
        (node("here"), "the sender's node"),
        (node("there"), "the receiver's node"),
        (Revoke::Intermediate("current".to_owned()), "the intermediate"),
    ];
    for (target, what) in cases {
        let (world, here, there, key) = pair().await;
        let route = here.table.route(&key).unwrap();
        world.authority.revoke(&target, SystemTime::now()).unwrap();
        world.tell(&here);
        eventually(what, || here.table.route(&key).is_none_or(|route| !route.has_session())).await;
        assert!(here.host.ended.lock().unwrap().opened.contains(&route.session), "{what}");
        // The other one is told, or hears it itself.
        world.tell(&there);
        eventually(what, || there.table.session(route.spi).is_none()).await;
        assert!(there.host.ended.lock().unwrap().accepted.contains(&route.spi), "{what}");
        let links_end = what.contains("node") || what.contains("intermediate");
        let ended = || here.inner().links.all().iter().all(|link| link.is_closed());
        eventually(what, || !links_end || ended()).await;
    }
}

#[tokio::test]
async fn another_workload_is_not_touched_by_a_revocation() {
    let (world, here, there, key) = pair().await;
    let route = here.table.route(&key).unwrap();
    world.svid(&id("/ns/test/sa/somebody"));
    world.authority.revoke(&Revoke::Id(id("/ns/test/sa/somebody")), SystemTime::now()).unwrap();
    world.tell(&here);
    world.tell(&there);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(here.table.route(&key), Some(route));
    assert!(there.table.session(route.spi).is_some());
}

#[tokio::test]
async fn a_killed_agent_finds_its_sessions_again_and_removes_what_it_cannot_judge() {
    let (_world, mut here, mut there, key) = pair().await;
    let route = here.table.route(&key).unwrap();
    let unknown = Spi(route.spi.0 ^ 1);
    let session = there.table.session(route.spi).unwrap();
    there.table.install_session(unknown, &session).unwrap();
    let mut strange = route;
    strange.session ^= 1;
    here.table.put_route(&tcp(THERE, 99), &strange).unwrap();
    here.restart().await;
    there.restart().await;
    assert_eq!(here.table.route(&key), Some(route));
    assert_eq!(there.table.session(route.spi), Some(session));
    assert!(there.table.session(unknown).is_none());
    assert!(here.table.route(&tcp(THERE, 99)).is_none());
    // They are judged as before.
    here.table.use_route(&key);
    for table in [&here.table, &there.table] {
        table.forward(Duration::from_mins(34));
    }
    eventually("it is renewed", || here.table.route(&key).is_some_and(|new| new.spi != route.spi)).await;
}

#[tokio::test]
async fn what_was_revoked_while_the_agent_was_away_is_gone_when_it_is_back() {
    let (world, here, mut there, key) = pair().await;
    let spi = here.table.route(&key).unwrap().spi;
    there.kill();
    world.authority.revoke(&Revoke::Id(id("/ns/test/sa/caller")), SystemTime::now()).unwrap();
    world.tell(&there);
    there.table.live.lock().unwrap().accepted.insert(spi, 1);
    there.restart().await;
    assert!(there.table.session(spi).is_none());
    eventually("its connections end", || there.host.ended.lock().unwrap().accepted.contains(&spi)).await;
}

#[tokio::test]
async fn the_record_holds_no_key() {
    let (world, here, there, key) = pair().await;
    let route = here.table.route(&key).unwrap();
    drop((here, there));
    let mut files = 0;
    for entry in std::fs::read_dir(world.directory.path()).unwrap() {
        let Ok(text) = std::fs::read_to_string(entry.unwrap().path().join("sessions.jsonl")) else {
            continue;
        };
        files += 1;
        for word in route.key.0 {
            for text_of_it in [word.to_string(), format!("{word:x}"), format!("{:x}", word.swap_bytes())] {
                assert!(!text.contains(&text_of_it));
            }
        }
    }
    assert_eq!(files, 2);
}

#[test]
fn errors_of_tables_name_the_table() {
    assert_eq!(TableError::Full("ROUTES").to_string(), "the table ROUTES is full");
}
