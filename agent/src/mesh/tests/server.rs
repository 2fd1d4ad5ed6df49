//! The agent port under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, mem};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::tools::{World, eventually, tcp};
use crate::mesh::server::Accept;

const THERE: &str = "10.0.0.2";

fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65536), hard).unwrap();
}

#[tokio::test]
async fn two_thousand_stalled_handshakes_delay_nobody_and_are_cut() {
    raise_descriptors();
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let mut stalled = Vec::new();
    for number in 0..2000 {
        let mut stream = TcpStream::connect(there.agent).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a record that never ends.
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        stalled.push(stream);
    }
    for port in 80..90 {
        there.host.listen(&tcp(THERE, port), 256);
        let begun = Instant::now();
        assert!(here.open(tcp(THERE, port)).await.has_session());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    tokio::time::sleep(Duration::from_millis(5500)).await;
    let mut open = 0;
    for stream in &mut stalled {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
        open += usize::from(read.is_err());
    }
    assert_eq!(open, 0, "nobody stalls longer than five seconds");
}

/// Errors first, then what a real listener gives.
struct Storm {
    errors: Vec<io::Error>,
    listener: TcpListener,
}

impl Accept for Storm {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match self.errors.pop() {
            Some(error) => Err(error),
            None => self.listener.accept().await,
        }
    }
}

#[tokio::test]
async fn errors_of_accepting_do_not_end_the_server() {
    let world = World::new();
    let mut there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    let errors = [libc::EMFILE, libc::ECONNABORTED, libc::ENFILE, libc::ENOBUFS, libc::EPROTO, libc::EPERM];
    let errors = errors.repeat(5).into_iter().map(io::Error::from_raw_os_error).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(there.inner().serve(Storm { errors, listener }));
    let real = mem::replace(&mut there.agent, address);
    here.knows(THERE, &there).await;
    there.agent = real;
    there.host.listen(&tcp(THERE, 80), 256);
    assert!(here.open(tcp(THERE, 80)).await.has_session());
    assert_eq!(there.count("accept-errors"), 30);
}

/// Passes on what the client says a byte at a time.
async fn slow_relay(listener: TcpListener, agent: SocketAddr) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let server = TcpStream::connect(agent).await.unwrap();
            server.set_nodelay(true).unwrap();
            let (mut from, mut back) = client.into_split();
            let (mut answers, mut to) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
            while let Ok(byte) = from.read_u8().await {
                if to.write_u8(byte).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
    }
}

#[tokio::test]
async fn a_handshake_that_comes_byte_by_byte_is_a_handshake() {
    let world = World::new();
    let mut there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = relay.local_addr().unwrap();
    tokio::spawn(slow_relay(relay, there.agent));
    let real = mem::replace(&mut there.agent, address);
    here.knows(THERE, &there).await;
    there.agent = real;
    there.host.listen(&tcp(THERE, 80), 256);
    assert!(here.open(tcp(THERE, 80)).await.has_session());
}

#[tokio::test]
async fn what_is_no_tls_and_what_asks_for_another_protocol_is_turned_away() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64], b"\x16\x03\x01\x00\x01\x01"] {
        let mut stream = TcpStream::connect(there.agent).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok() && answer.len() < 16, "{bytes:?}: {answer:?}");
    }
    let svid = world.node("here");
    let tls = crate::pki::client_config(&world.trust(), &svid, b"h2");
    let name = crate::mesh::target::link_name().unwrap();
    assert!(crate::mesh::initiate::connect(there.agent, tls, name, b"h2").await.is_err());
    eventually("they are counted", || there.count("handshakes-refused") >= 5).await;
}

#[tokio::test]
async fn the_agent_serves_many_at_once() {
    let world = World::new();
    let there = world.site("there", &["server"]).await;
    let mut here = world.site("here", &["caller"]).await;
    here.knows(THERE, &there).await;
    let keys: Vec<_> = (1000..1200).map(|port| tcp(THERE, port)).collect();
    for key in &keys {
        there.host.listen(key, 256);
    }
    let begun = Instant::now();
    for key in &keys {
        here.ask(waxseal_common::wire::Asks::Intent, *key);
    }
    let table = Arc::clone(&here.table);
    let all =
        || keys.iter().all(|key| crate::mesh::Table::route(&*table, key).is_some_and(|r| r.has_session()));
    eventually("200 sessions", all).await;
    println!("200 handshakes in {:?}", begun.elapsed());
}
