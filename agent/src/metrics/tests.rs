use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use waxseal_common::flow::FlowEvent;
use waxseal_common::ids::IdentityId;
use waxseal_common::state::Counter;

use super::server::Asked;
use super::*;
use crate::flows::samples::{allowed, closed, denied, flow, refused};
use crate::flows::{Cause, Losses, Time};

fn facts() -> Facts {
    let mut losses = Losses::default();
    losses.add(Cause::FlowRing, 4);
    Facts {
        version: "0.1.0".to_owned(),
        kernel: "6.1.0 \"odd\"\\".to_owned(),
        uptime_s: 60,
        revision: 3,
        policy_since: Some(Time(1_777_896_271_500)),
        policies: 2,
        endpoints: 2,
        identities: 2,
        programs: (9, 9),
        maps: vec![Fill { name: "connections".to_owned(), used: 7, capacity: 1024 }],
        counters: Counter::ALL.iter().map(|counter| (*counter, *counter as u64 + 1)).collect(),
        tap_readers: 1,
        tap_lost: 5,
        losses,
        history: Some(HistoryFacts { bytes: 10, limit: 20, written: 30, lost: 2 }),
        ..Facts::default()
    }
}

#[derive(Debug)]
struct Mesh;

impl Reporter for Mesh {
    fn report(&self, to: &mut Report) {
        to.sessions(Direction::Out, 2);
        to.sessions(Direction::In, 3);
        to.handshakes(Direction::Out, "done", 7);
        to.handshakes(Direction::Out, "untrusted", 1);
        let counts: Vec<u64> = (0..=Report::bounds().count() as u64).collect();
        to.handshake_durations(Duration::from_millis(1500), &counts);
        for number in 0..70 {
            let name = format!("spiffe://cluster.local/ns/a/sa/w{number:02}");
            to.certificate(&name, UNIX_EPOCH + Duration::from_secs(1000 + number));
        }
        to.renewals("done", 4);
        to.bundle("cluster.local", UNIX_EPOCH + Duration::from_secs(500));
        to.peers(1);
    }
}

#[test]
fn everything_has_a_name_and_a_word_that_stays() {
    let metrics = Metrics::new(0);
    for event in [allowed(), denied(), denied(), closed(), refused()] {
        metrics.see(&flow(&event));
    }
    expect_test::expect_file!["everything.txt"].assert_eq(&metrics.text(&facts()).unwrap());
}

#[test]
fn other_rooms_report_and_cannot_report_too_much() {
    let metrics = Metrics::new(0);
    metrics.add(Arc::new(Mesh));
    let text = metrics.text(&Facts::default()).unwrap();
    for line in [
        "waxseal_sessions{direction=\"out\"} 2.0",
        "waxseal_sessions{direction=\"in\"} 3.0",
        "waxseal_handshakes_total{direction=\"out\",outcome=\"untrusted\"} 1",
        "waxseal_handshake_duration_seconds_count 55",
        "waxseal_handshake_duration_seconds_bucket{le=\"0.005\"} 3",
        "waxseal_certificate_expiry_timestamp_seconds{id=\"spiffe://cluster.local/ns/a/sa/w00\"} 1000.0",
        "waxseal_certificate_expiry_timestamp_seconds{id=\"other\"} 1064.0",
        "waxseal_certificate_renewals_total{outcome=\"done\"} 4",
        "waxseal_bundle_confirmed_timestamp_seconds{trust_domain=\"cluster.local\"} 500.0",
        "waxseal_peers 1.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(text.matches("certificate_expiry_timestamp_seconds{").count(), 65);
}

/// A million strangers: no series more than a handful of them.
#[test]
fn many_peers_make_no_more_series() {
    for (pairs, most) in [(0, 0), (10, 22)] {
        let metrics = Metrics::new(pairs);
        let mut event = allowed();
        let base = flow(&event);
        metrics.see(&base);
        let before = metrics.text(&facts()).unwrap().lines().count();
        for number in 0..1_000_000u32 {
            event.source = IdentityId(1000 + number);
            let mut seen = base.clone();
            seen.source.identity = Arc::new(crate::flows::Identity {
                name: format!("n/w{number}"),
                ..crate::flows::Identity::unnamed(event.source)
            });
            seen.source.address = std::net::Ipv4Addr::from(number).into();
            metrics.see(&seen);
        }
        let text = metrics.text(&facts()).unwrap();
        assert!(text.lines().count() <= before + most, "{pairs}: {}", text.lines().count());
        assert_eq!(text.matches("waxseal_pairs_total{").count(), most);
        let sum: f64 = text
            .lines()
            .filter(|line| line.starts_with("waxseal_pairs_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        assert!(pairs == 0 || (sum - 1_000_001.0).abs() < 0.5, "{sum}");
    }
}

#[test]
fn names_of_others_cannot_break_out_of_a_label() {
    let metrics = Metrics::new(10);
    let mut seen = flow(&FlowEvent { source: IdentityId(9999), ..denied() });
    seen.source.identity = Arc::new(crate::flows::Identity {
        name: "a\"} 1\nwaxseal_fake 1\n\\".to_owned(),
        ..crate::flows::Identity::unnamed(IdentityId(9999))
    });
    metrics.see(&seen);
    let text = metrics.text(&facts()).unwrap();
    assert!(!text.lines().any(|line| line.starts_with("waxseal_fake")), "{text}");
}

#[derive(Debug, Default)]
struct Stub(AtomicBool);

impl Node for Stub {
    fn facts(&self) -> Asked<'_, Facts> {
        let ill = self.0.load(Ordering::Relaxed);
        Box::pin(async move { if ill { Err("control thread ended\n\x1b".to_owned()) } else { Ok(facts()) } })
    }
}

async fn start() -> (std::net::SocketAddr, Arc<Stub>) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, node) = (server.address().unwrap(), Arc::new(Stub::default()));
    let asked: Arc<dyn Node> = Arc::<Stub>::clone(&node);
    tokio::spawn(server.serve(Arc::new(Metrics::new(0)), asked));
    (address, node)
}

async fn ask(address: std::net::SocketAddr, request: String) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let _closed = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer);
        answer
    })
    .await
    .unwrap()
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_read_and_nothing_can_be_changed() {
    let (address, node) = start().await;
    for (request, status, body) in [
        (get("/metrics", ""), "200", "# TYPE waxseal_verdicts_total counter\n"),
        (get("/metrics?x=1", ""), "200", "waxseal_verdicts_total{verdict=\"allow\"} 1\n"),
        (get("/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n"), "200", "# EOF\n"),
        (get("/healthz", ""), "200", "ok\n"),
        (get("/readyz", ""), "200", "ready\n"),
        (get("/", ""), "200", "/metrics"),
        (get("/quit", ""), "404", "no such page"),
        (get("/../etc/passwd", ""), "404", "no such page"),
        (get("/metrics", "").replace("GET", "POST"), "405", "only GET"),
        (get("/metrics", "").replace("GET", "DELETE"), "405", "only GET"),
        (get("/healthz", &format!("X: {}\r\n", "x".repeat(20_000))), "431", ""),
        ("nonsense\r\n\r\n".to_owned(), "400", ""),
    ] {
        let answer = ask(address, request.clone()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
        assert!(answer.contains(body), "{request}\n{answer}");
    }
    node.0.store(true, Ordering::Relaxed);
    for path in ["/metrics", "/healthz", "/readyz"] {
        let answer = ask(address, get(path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("control thread ended\\n\\x1b\n"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_keep_nobody_else_waiting_for_long() {
    let (address, _node) = start().await;
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let answer = ask(address, get("/healthz", "")).await;
    assert!(answer.ends_with("ok\n"), "{answer}");
    drop(silent);
}
