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
    expect_test::expect![[r#"
        # HELP waxseal_build_info Which agent this is; always 1.
        # TYPE waxseal_build_info gauge
        waxseal_build_info{version="0.1.0",kernel="6.1.0 \"odd\"\\"} 1.0
        # HELP waxseal_uptime_seconds Seconds since the agent started.
        # TYPE waxseal_uptime_seconds gauge
        waxseal_uptime_seconds 60.0
        # HELP waxseal_policy_revision The policy revision in force.
        # TYPE waxseal_policy_revision gauge
        waxseal_policy_revision 3.0
        # HELP waxseal_policy_refused 1 while the documents on disk are refused and older ones hold.
        # TYPE waxseal_policy_refused gauge
        waxseal_policy_refused 0.0
        # HELP waxseal_policies Policies in force.
        # TYPE waxseal_policies gauge
        waxseal_policies 2.0
        # HELP waxseal_endpoints Running instances of workloads.
        # TYPE waxseal_endpoints gauge
        waxseal_endpoints 2.0
        # HELP waxseal_endpoints_unsettled Cgroups that should be an instance of a workload and are not.
        # TYPE waxseal_endpoints_unsettled gauge
        waxseal_endpoints_unsettled 0.0
        # HELP waxseal_identities Workloads with a number on this node.
        # TYPE waxseal_identities gauge
        waxseal_identities 2.0
        # HELP waxseal_programs_attached Kernel programs that are attached.
        # TYPE waxseal_programs_attached gauge
        waxseal_programs_attached 9.0
        # HELP waxseal_programs_expected Kernel programs that should be attached.
        # TYPE waxseal_programs_expected gauge
        waxseal_programs_expected 9.0
        # HELP waxseal_mode_ceiling 1 while an emergency ceiling loosens every workload.
        # TYPE waxseal_mode_ceiling gauge
        waxseal_mode_ceiling 0.0
        # HELP waxseal_tap_readers Taps that are open.
        # TYPE waxseal_tap_readers gauge
        waxseal_tap_readers 1.0
        # HELP waxseal_flows_lost Flows that a consumer missed, by cause.
        # TYPE waxseal_flows_lost counter
        waxseal_flows_lost_total{cause="slow-reader"} 5
        waxseal_flows_lost_total{cause="flow-ring"} 4
        waxseal_flows_lost_total{cause="denial-ring"} 0
        waxseal_flows_lost_total{cause="unreadable"} 0
        waxseal_flows_lost_total{cause="history"} 2
        # HELP waxseal_policy_loaded_timestamp_seconds When the set of documents in force came into force, seconds since 1970.
        # TYPE waxseal_policy_loaded_timestamp_seconds gauge
        waxseal_policy_loaded_timestamp_seconds 1777896271.5
        # HELP waxseal_map_entries Entries in use in a table of the kernel.
        # TYPE waxseal_map_entries gauge
        waxseal_map_entries{map="connections"} 7.0
        # HELP waxseal_map_capacity Entries that a table of the kernel can hold.
        # TYPE waxseal_map_capacity gauge
        waxseal_map_capacity{map="connections"} 1024.0
        # HELP waxseal_verdicts Questions that the kernel programs have answered.
        # TYPE waxseal_verdicts counter
        waxseal_verdicts_total{verdict="allow"} 1
        waxseal_verdicts_total{verdict="report"} 2
        waxseal_verdicts_total{verdict="deny"} 3
        # HELP waxseal_ring_events_lost Events lost because a ring to the agent was full.
        # TYPE waxseal_ring_events_lost counter
        waxseal_ring_events_lost_total{ring="flows"} 4
        waxseal_ring_events_lost_total{ring="denials"} 5
        waxseal_ring_events_lost_total{ring="cgroups"} 6
        waxseal_ring_events_lost_total{ring="notices"} 20
        # HELP waxseal_seals Seals written and checked, by outcome.
        # TYPE waxseal_seals counter
        waxseal_seals_total{outcome="forged"} 8
        waxseal_seals_total{outcome="no-room"} 9
        waxseal_seals_total{outcome="written"} 10
        waxseal_seals_total{outcome="wire-written"} 13
        waxseal_seals_total{outcome="wire-true"} 14
        waxseal_seals_total{outcome="wire-forged"} 15
        waxseal_seals_total{outcome="wire-unknown-session"} 16
        waxseal_seals_total{outcome="wire-expired"} 17
        waxseal_seals_total{outcome="blanked"} 18
        # HELP waxseal_packets Packets that met a special case in the kernel programs.
        # TYPE waxseal_packets counter
        waxseal_packets_total{event="table-full"} 7
        waxseal_packets_total{event="unparsable"} 11
        waxseal_packets_total{event="no-record"} 12
        waxseal_packets_total{event="held"} 19
        waxseal_packets_total{event="fragments-dropped"} 21
        waxseal_packets_total{event="half-open-full"} 22
        waxseal_packets_total{event="uncovered"} 23
        waxseal_packets_total{event="refused-at-border"} 24
        # HELP waxseal_history_bytes Bytes of the history of flows on disk.
        # TYPE waxseal_history_bytes gauge
        waxseal_history_bytes 10.0
        # HELP waxseal_history_limit_bytes The most bytes that the history may take.
        # TYPE waxseal_history_limit_bytes gauge
        waxseal_history_limit_bytes 20.0
        # HELP waxseal_history_flows Flows written to the history.
        # TYPE waxseal_history_flows counter
        waxseal_history_flows_total 30
        # HELP waxseal_flows Flow events that the agent has read from the kernel.
        # TYPE waxseal_flows counter
        waxseal_flows_total{kind="opened",verdict="allow",direction="egress",protocol="tcp"} 1
        waxseal_flows_total{kind="denied",verdict="deny",direction="egress",protocol="tcp"} 2
        waxseal_flows_total{kind="closed",verdict="allow",direction="egress",protocol="tcp"} 1
        waxseal_flows_total{kind="failed",verdict="allow",direction="egress",protocol="tcp"} 1
        # HELP waxseal_denials Connections denied, or that enforcing would deny (enforced="false"), by reason.
        # TYPE waxseal_denials counter
        waxseal_denials_total{reason="deny-rule",direction="egress",enforced="true"} 2
        # HELP waxseal_connections_ended TCP connections that ended, by how.
        # TYPE waxseal_connections_ended counter
        waxseal_connections_ended_total{how="opener-closed"} 1
        waxseal_connections_ended_total{how="acceptor-closed"} 0
        waxseal_connections_ended_total{how="both-closed"} 0
        waxseal_connections_ended_total{how="opener-reset"} 0
        waxseal_connections_ended_total{how="acceptor-reset"} 0
        waxseal_connections_ended_total{how="refused"} 1
        waxseal_connections_ended_total{how="timed-out"} 0
        waxseal_connections_ended_total{how="unreachable"} 0
        waxseal_connections_ended_total{how="given-up"} 0
        waxseal_connections_ended_total{how="destroyed"} 0
        waxseal_connections_ended_total{how="broken"} 0
        # HELP waxseal_connection_bytes Bytes that closed TCP connections had carried.
        # TYPE waxseal_connection_bytes counter
        waxseal_connection_bytes_total{direction="from-opener"} 1234
        waxseal_connection_bytes_total{direction="to-opener"} 5678901
        # HELP waxseal_connection_retransmits Segments that closed TCP connections sent again.
        # TYPE waxseal_connection_retransmits counter
        waxseal_connection_retransmits_total 3
        # HELP waxseal_connection_duration_seconds How long closed TCP connections had lived.
        # TYPE waxseal_connection_duration_seconds histogram
        waxseal_connection_duration_seconds_sum 60.0
        waxseal_connection_duration_seconds_count 1
        waxseal_connection_duration_seconds_bucket{le="0.001"} 0
        waxseal_connection_duration_seconds_bucket{le="0.005"} 0
        waxseal_connection_duration_seconds_bucket{le="0.01"} 0
        waxseal_connection_duration_seconds_bucket{le="0.05"} 0
        waxseal_connection_duration_seconds_bucket{le="0.1"} 0
        waxseal_connection_duration_seconds_bucket{le="0.5"} 0
        waxseal_connection_duration_seconds_bucket{le="1.0"} 0
        waxseal_connection_duration_seconds_bucket{le="5.0"} 0
        waxseal_connection_duration_seconds_bucket{le="30.0"} 0
        waxseal_connection_duration_seconds_bucket{le="120.0"} 1
        waxseal_connection_duration_seconds_bucket{le="600.0"} 1
        waxseal_connection_duration_seconds_bucket{le="3600.0"} 1
        waxseal_connection_duration_seconds_bucket{le="1.7976931348623157e308"} 1
        # HELP waxseal_sessions Sessions with other nodes that can be used now.
        # TYPE waxseal_sessions gauge
        # HELP waxseal_handshakes Handshakes with other nodes, by outcome.
        # TYPE waxseal_handshakes counter
        # HELP waxseal_certificate_renewals Attempts to renew certificates, by outcome.
        # TYPE waxseal_certificate_renewals counter
        # HELP waxseal_certificate_expiry_timestamp_seconds When a certificate in use expires, seconds since 1970.
        # TYPE waxseal_certificate_expiry_timestamp_seconds gauge
        # HELP waxseal_bundle_confirmed_timestamp_seconds When the roots of a trust domain were last confirmed, seconds since 1970.
        # TYPE waxseal_bundle_confirmed_timestamp_seconds gauge
        # EOF
    "#]].assert_eq(&metrics.text(&facts()).unwrap());
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
