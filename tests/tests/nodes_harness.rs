//! The harness for two nodes, without an agent: what a test asks of the path between them really happens.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use waxseal_tests::middle::{Middle, Port, Way};
use waxseal_tests::network::Network;
use waxseal_tests::packet::{Segment, forged_seal, frame};
use waxseal_tests::probe::{Probe, Protocol};
use waxseal_tests::root;

fn ends(network: &Network) -> (Probe, Probe) {
    let [a, b] = [0, 1].map(|node| Probe::start(None, Some(&network.sites[node].netns.path()), None));
    (a, b)
}

#[test]
fn nodes_and_pods_talk_through_the_router_over_every_family_and_a_narrow_path() {
    root::require();
    let network = Network::new(2, 1280);
    let (mut a, mut b) = ends(&network);
    let pod = network.pod(0, 0);
    let mut inside = Probe::start(None, Some(&pod.netns.path()), None);
    for protocol in Protocol::BOTH {
        b.serve(protocol, "[::]:8080");
        for ip in network.sites[1].end.both() {
            let to = SocketAddr::new(ip, 8080);
            assert_eq!(a.talk(protocol, to), None, "{protocol:?} {to}");
            assert_eq!(inside.talk(protocol, to), None, "{protocol:?} {to} from the pod");
        }
        inside.serve(protocol, "[::]:8080");
        for ip in pod.end.both() {
            assert_eq!(b.talk(protocol, SocketAddr::new(ip, 8080)), None, "{protocol:?} to the pod");
        }
    }
}

#[test]
fn a_middle_passes_changes_and_loses_packets_and_tells_what_it_saw() {
    root::require();
    let network = Network::new(2, 1500);
    let (mut a, mut b) = ends(&network);
    let (service, _) = b.serve(Protocol::Tcp, "[::]:8080");
    network.stop_forwarding();
    let to = SocketAddr::new(network.sites[1].end.v4.into(), 8080);
    assert!(a.connect(Protocol::Tcp, to).errno.is_some(), "the router passes nothing on");
    let middle = Middle::honest(&network);
    for ip in network.sites[1].end.both() {
        let start = Instant::now();
        let to = SocketAddr::new(ip, 8080);
        assert_eq!(a.talk(Protocol::Tcp, to), None, "{to}");
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        let syn = middle.expect("the SYN", Way::Forth, |frame| frame.opens() && frame.destination() == to);
        let answer = middle.expect("its answer", Way::Back, |frame| frame.accepts() && frame.source() == to);
        assert_eq!(syn.source(), answer.destination());
        assert!(syn.is_whole() && answer.is_whole());
    }
    assert_eq!(b.seen(service), 2);
    drop(middle);

    let lost = std::sync::Arc::new(AtomicU32::new(0));
    let count = std::sync::Arc::clone(&lost);
    let middle = Middle::start(&network, move |way, frame| {
        let first = way == Way::Forth && frame.opens() && count.fetch_add(1, Ordering::AcqRel) == 0;
        if first { Vec::new() } else { vec![frame.clone()] }
    });
    let reply = a.connect(Protocol::Tcp, to);
    assert_eq!(reply.errno, None);
    assert!(reply.micros > 900_000, "the first SYN was lost: {} us", reply.micros);
    assert_eq!(lost.load(Ordering::Acquire), 2);
    drop(middle);
}

#[test]
fn a_packet_that_is_injected_arrives_and_its_answer_is_heard() {
    root::require();
    let network = Network::new(2, 1500);
    let (_a, mut b) = ends(&network);
    b.serve(Protocol::Tcp, "[::]:8080");
    let middle = Middle::start(&network, |_, _| Vec::new());
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (
        SocketAddr::new(network.sites[0].end.v4.into(), 40_000),
        SocketAddr::new(network.sites[1].end.v4.into(), 8080),
    ) else {
        panic!("IPv4")
    };
    let syn = Segment { options: forged_seal(7, 7).to_vec(), ..Segment::syn(from, to) };
    middle.inject_packet(Way::Forth, &syn.packet());
    let answer = middle.expect("a SYN-ACK", Way::Back, waxseal_tests::capture::Frame::accepts);
    assert_eq!(answer.destination(), SocketAddr::V4(from));
    let port = Port::open(&network.sites[1].netns, &network.sites[1].wire);
    let site = &network.sites[1];
    let bytes = frame(site.end.mac, site.gate.mac, &Segment { sequence: 5, ..syn }.packet());
    middle.inject_packet(Way::Forth, &bytes[14..]);
    let heard = port.listen(Duration::from_millis(200), waxseal_tests::capture::Frame::opens);
    assert!(heard.iter().any(|frame| frame.sequence() == 5 && frame.is_whole()), "{heard:?}");
}

#[test]
fn segments_are_small_where_offload_is_off() {
    root::require();
    for (gso, most) in [(true, 65_600), (false, 1514)] {
        let network = Network::new(2, 1500);
        let (mut a, mut b) = ends(&network);
        b.serve(Protocol::Tcp, "[::]:8080");
        if !gso {
            network.sites[0].without_gso();
        }
        let port = Port::open(&network.router, &network.sites[0].wire);
        let to = SocketAddr::new(network.sites[1].end.v4.into(), 8080);
        let reply = a.connect(Protocol::Tcp, to);
        let handle = reply.handle.unwrap();
        a.must(&waxseal_tests::probe::Request::Send { handle, data: vec![7; 30_000] });
        let heard = port.listen(Duration::from_millis(300), |frame| frame.destination() == to);
        let longest = heard.iter().map(|frame| frame.bytes().len()).max().unwrap_or(0);
        assert!(longest <= most && (!gso || longest > 1514), "offload {gso}: {longest}");
    }
}
