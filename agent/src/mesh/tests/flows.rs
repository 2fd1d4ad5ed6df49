//! UDP flows: announced before they pass.

use std::sync::atomic::Ordering;
use std::time::Duration;

use waxseal_common::ids::{IdentityId, protocol};
use waxseal_common::state::UdpFlow;
use waxseal_common::wire::{Asks, RouteKey, Spi};

use super::tools::{Site, World, eventually, flow, tcp};
use crate::mesh::Table as _;
use crate::mesh::message::LinkMessage;

const THERE: &str = "10.0.0.2";

fn udp(address: &str, port: u16) -> RouteKey {
    RouteKey { protocol: protocol::UDP, ..tcp(address, port) }
}

async fn pair() -> (World, Site, Site) {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    there.host.listen(&udp(THERE, 53), 256);
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    (world, here, there)
}

#[tokio::test]
async fn a_datagram_leaves_when_the_other_node_has_written_its_flow() {
    let (_world, here, there) = pair().await;
    let key = udp(THERE, 53);
    let sent = here.ask(Asks::Hold, key);
    eventually("it is sent on", || sent.load(Ordering::Relaxed) == 1).await;
    let route = here.table.route(&key).unwrap();
    let entry = there.table.flow(&flow(&key, 40_000)).expect("written before the answer");
    assert_eq!((entry.source, entry.session, entry.flags), (IdentityId(1000), route.spi, UdpFlow::ANNOUNCED));
    let announced = here.table.announced();
    assert_eq!(announced.len(), 1);
    assert_eq!(announced[0].1.session, route.session);
    assert!(announced[0].1.until > here.table.now());
}

#[tokio::test]
async fn without_an_agent_datagrams_leave_as_a_strangers() {
    let (_world, mut here, mut there) = pair().await;
    there.kill();
    here.knows("10.0.0.9", &there).await;
    let key = udp("10.0.0.9", 53);
    let sent = here.ask(Asks::Hold, key);
    eventually("it is sent on", || sent.load(Ordering::Relaxed) == 1).await;
    assert_eq!(here.table.announced()[0].1.session, 0);
}

#[tokio::test]
async fn a_flow_belongs_to_the_node_that_announced_it_first() {
    let (world, here, there) = pair().await;
    let key = udp(THERE, 53);
    let sent = here.ask(Asks::Hold, key);
    eventually("it is sent on", || sent.load(Ordering::Relaxed) == 1).await;
    let tuple = flow(&key, 40_000);
    let before = there.table.flow(&tuple).unwrap();
    let mut third = world.site("third", &["thief"]).await;
    third.knows(THERE, &there).await;
    let stolen = third.ask(Asks::Hold, key);
    eventually("it goes out as a stranger's", || stolen.load(Ordering::Relaxed) == 1).await;
    assert_eq!(third.table.announced()[0].1.session, 0);
    assert_eq!(there.table.flow(&tuple), Some(before), "the honest flow stays");
    assert_eq!(there.count("flows-refused"), 1);
    // Nor can it be announced under a session that is not the announcer's.
    let spi = here.table.route(&key).unwrap().spi;
    let link = third.inner().links.all().pop().unwrap();
    let announce = |number| LinkMessage::Announce { number, spi: spi.0, flow: flow(&key, 1).into() };
    let answer = link.ask(announce, Duration::from_secs(2)).await;
    assert!(matches!(answer, Some(LinkMessage::Announced { refused: Some(_), .. })), "{answer:?}");
    assert!(there.table.flow(&flow(&key, 1)).is_none());
}

#[tokio::test]
async fn a_flow_of_this_nodes_own_cannot_be_announced_by_another() {
    let (_world, here, there) = pair().await;
    let key = udp(THERE, 53);
    let own = UdpFlow { source: IdentityId(256), ..UdpFlow::default() };
    there.table.put_flow(&flow(&key, 40_000), &own).unwrap();
    let sent = here.ask(Asks::Hold, key);
    eventually("it goes out as a stranger's", || sent.load(Ordering::Relaxed) == 1).await;
    assert_eq!(there.table.flow(&flow(&key, 40_000)), Some(own));
}

#[tokio::test]
async fn flows_end_with_their_session() {
    let (_world, here, there) = pair().await;
    let key = udp(THERE, 53);
    let sent = here.ask(Asks::Hold, key);
    eventually("it is sent on", || sent.load(Ordering::Relaxed) == 1).await;
    let route = here.table.route(&key).unwrap();
    there.inner().end_inbound(&[Spi(route.spi.0)]);
    assert!(there.table.flow(&flow(&key, 40_000)).is_none());
    here.inner().end_outbound(&[route.session]);
    assert!(here.table.announced().is_empty());
}
