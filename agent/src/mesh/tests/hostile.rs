//! Peers that have true certificates and lie.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use waxseal_common::wire::Failure;

use super::tools::{Site, World, eventually, id, tcp};
use crate::mesh::frame;
use crate::mesh::initiate::connect;
use crate::mesh::keys::{Ends, Side, node_message};
use crate::mesh::message::{
    Answer, Hello, Hex, LINK, LinkMessage, MAX_LABELS, PAIR, Question, Reason, to_hex,
};
use crate::mesh::target::link_name;
use crate::mesh::{Table as _, Target};
use crate::pki::{Svid, Trust, client_config};
use crate::spiffe::SpiffeId;

const THERE: &str = "10.0.0.2";
const SOON: Duration = Duration::from_secs(5);

fn target() -> Target {
    let key = tcp(THERE, 80);
    Target { address: key.destination, port: key.port, protocol: key.protocol }
}

async fn dial(trust: &Trust, svid: &Svid, alpn: &[u8], agent: SocketAddr) -> TlsStream<TcpStream> {
    let name = if alpn == PAIR { target().server_name() } else { link_name() }.unwrap();
    connect(agent, client_config(trust, svid, alpn), name, alpn).await.unwrap()
}

fn sign(stream: &TlsStream<TcpStream>, node: &Svid, source: &SpiffeId, side: Side) -> Hex {
    let destination = id("/ns/test/sa/server");
    let ends = Ends { source, destination: &destination };
    Hex(node.sign(&node_message(stream.get_ref().1, ends, side).unwrap()).unwrap())
}

fn hello(node: &Svid, signature: Hex) -> Hello {
    Hello {
        version: "0".into(),
        node: to_hex(&node.chain()),
        signature,
        labels: crate::workload::Labels::new(),
        replaces: None,
        nonce: 1,
        port: 1,
    }
}

async fn say(stream: &mut TlsStream<TcpStream>, hello: Hello) -> Option<Answer> {
    frame::write(stream, &Question::Hello(Box::new(hello)), SOON).await.ok()?;
    frame::read(stream, SOON).await.ok()
}

async fn server() -> (World, Site) {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    there.host.listen(&tcp(THERE, 80), 256);
    (world, there)
}

#[tokio::test]
async fn only_a_node_that_signs_this_very_connection_vouches_for_a_workload() {
    let (world, there) = server().await;
    let caller = world.svid(&id("/ns/test/sa/caller"));
    let (node, other) = (world.node("here"), world.node("other"));
    let trust = world.trust();
    let mut earlier = dial(&trust, &caller, PAIR, there.agent).await;
    let replayed = sign(&earlier, &node, caller.id(), Side::Initiator);
    let first = say(&mut earlier, hello(&node, replayed.clone())).await;
    assert!(matches!(first, Some(Answer::Accept(_))), "the honest one passes: {first:?}");
    let sessions = there.table.sessions().len();

    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let answer = say(&mut stream, hello(&node, replayed)).await;
    assert_eq!(answer, Some(Answer::Refuse { reason: Reason::Untrusted }), "of another connection");

    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let signature = sign(&stream, &node, caller.id(), Side::Responder);
    let answer = say(&mut stream, hello(&node, signature)).await;
    assert_eq!(answer, Some(Answer::Refuse { reason: Reason::Untrusted }), "of the other role");

    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let signature = sign(&stream, &other, caller.id(), Side::Initiator);
    let answer = say(&mut stream, hello(&node, signature)).await;
    assert_eq!(answer, Some(Answer::Refuse { reason: Reason::Untrusted }), "by another node's key");

    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let signature = sign(&stream, &node, &id("/ns/test/sa/somebody"), Side::Initiator);
    let answer = say(&mut stream, hello(&node, signature)).await;
    assert_eq!(answer, Some(Answer::Refuse { reason: Reason::Untrusted }), "for another workload");

    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let signature = sign(&stream, &caller, caller.id(), Side::Initiator);
    let answer = say(&mut stream, hello(&caller, signature)).await;
    assert_eq!(answer, Some(Answer::Refuse { reason: Reason::NotAWorkload }), "a workload is no node");

    assert_eq!(there.table.sessions().len(), sessions, "no key was installed for any of them");
}

#[tokio::test]
async fn a_node_is_no_workload_and_a_workload_is_no_node() {
    let (world, there) = server().await;
    let node = world.node("here");
    let trust = world.trust();
    let mut stream = dial(&trust, &node, PAIR, there.agent).await;
    let signature = sign(&stream, &node, node.id(), Side::Initiator);
    let answer = say(&mut stream, hello(&node, signature)).await;
    assert_eq!(answer, Some(Answer::Refuse { reason: Reason::NotAWorkload }));
    assert!(there.table.sessions().is_empty());

    let caller = world.svid(&id("/ns/test/sa/caller"));
    let mut stream = dial(&trust, &caller, LINK, there.agent).await;
    let mut nothing = Vec::new();
    let _closed = stream.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty(), "a workload on a link learns nothing");
    assert!(there.mesh().report().links.is_empty());
}

#[tokio::test]
async fn a_session_of_somebody_else_cannot_be_replaced() {
    let (world, there) = server().await;
    let trust = world.trust();
    let (caller, thief) = (world.svid(&id("/ns/test/sa/caller")), world.svid(&id("/ns/test/sa/thief")));
    let (node, other) = (world.node("here"), world.node("other"));
    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let signature = sign(&stream, &node, caller.id(), Side::Initiator);
    let Some(Answer::Accept(first)) = say(&mut stream, hello(&node, signature)).await else { panic!() };
    let spi = waxseal_common::wire::Spi(first.spi);
    let before = there.table.session(spi).unwrap().expires;
    for (who, node) in [(&thief, &node), (&caller, &other)] {
        let mut stream = dial(&trust, who, PAIR, there.agent).await;
        let signature = sign(&stream, node, who.id(), Side::Initiator);
        let hello = Hello { replaces: Some(first.spi), ..hello(node, signature) };
        assert!(matches!(say(&mut stream, hello).await, Some(Answer::Accept(_))));
        assert_eq!(there.table.session(spi).unwrap().expires, before, "{}", who.id());
    }
    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let signature = sign(&stream, &node, caller.id(), Side::Initiator);
    let hello = Hello { replaces: Some(first.spi), ..hello(&node, signature) };
    assert!(matches!(say(&mut stream, hello).await, Some(Answer::Accept(_))));
    let after = there.table.session(spi).unwrap().expires;
    let overlap = Duration::from_nanos(after.saturating_sub(there.table.now()));
    assert!(overlap <= Duration::from_secs(30), "its own replaces it after a while: {overlap:?}");
}

#[tokio::test]
async fn too_many_labels_and_messages_out_of_measure_are_refused() {
    let (world, there) = server().await;
    let trust = world.trust();
    let caller = world.svid(&id("/ns/test/sa/caller"));
    let node = world.node("here");
    let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
    let signature = sign(&stream, &node, caller.id(), Side::Initiator);
    let labels = (0..=MAX_LABELS).map(|number| (number.to_string(), String::new())).collect();
    let answer = say(&mut stream, Hello { labels, ..hello(&node, signature) }).await;
    assert_eq!(answer, Some(Answer::Refuse { reason: Reason::Labels }));
    for bytes in
        [&u32::MAX.to_be_bytes()[..], b"\0\0\0\0", b"\0\0\0\x02{]", b"\0\0\0\x10{\"type\":\"other\"}"]
    {
        let mut stream = dial(&trust, &caller, PAIR, there.agent).await;
        stream.write_all(bytes).await.unwrap();
        let answer: Option<Answer> = frame::read(&mut stream, SOON).await.ok();
        assert_eq!(answer, Some(Answer::Refuse { reason: Reason::Internal }), "{bytes:?}");
    }
    assert!(there.table.sessions().is_empty());
}

#[tokio::test]
async fn a_link_that_talks_nonsense_or_keeps_silent_is_cut() {
    let (world, there) = server().await;
    let trust = world.trust();
    let node = world.node("here");
    for bytes in [&b"\0\0\0\x04null"[..], b"\xff\xff\xff\xff", b""] {
        let mut stream = dial(&trust, &node, LINK, there.agent).await;
        let greeting: serde_json::Value = frame::read(&mut stream, SOON).await.unwrap();
        assert!(greeting["nonce"].is_u64());
        let hello = serde_json::json!({ "version": "0", "nonce": 5, "port": 1, "time": 0 });
        frame::write(&mut stream, &hello, SOON).await.unwrap();
        eventually("a link", || there.mesh().report().links.iter().any(|link| link.age_s.is_some())).await;
        stream.write_all(bytes).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(8), async {
            while frame::read::<LinkMessage, _>(&mut stream, Duration::from_secs(8)).await.is_ok() {}
        });
        ended.await.unwrap_or_else(|_| panic!("{bytes:?} is answered for ever"));
    }
}

#[tokio::test]
async fn a_server_that_is_another_than_its_node_says_gets_no_route() {
    // The responder's node certificate is exchanged for a workload's: nobody vouches for its answer.
    let (world, there) = server().await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    *there.certificates.node.lock().unwrap() = Some(world.svid(&id("/ns/test/sa/server")));
    let route = here.open(tcp(THERE, 80)).await;
    assert_eq!((route.has_session(), route.failure), (false, Failure::Untrusted as u8));
}
