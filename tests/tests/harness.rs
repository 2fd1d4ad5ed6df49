//! The harness itself, without an agent: what a test asks for really happens.

use std::net::SocketAddr;

use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;
use waxseal_tests::packet::{Segment, forged_seal, fragments, frame};
use waxseal_tests::probe::{Door, Listen, Probe, Protocol, Request, Target, handle, parse};
use waxseal_tests::root;

#[test]
fn probes_talk_across_a_wire_over_every_family_and_door() {
    root::require();
    let group = Cgroup::root("harness");
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    let mut client = Probe::start(Some(group.path()), Some(&here.path()), None);
    let mut server = Probe::start(Some(group.path()), Some(&there.path()), None);
    for protocol in Protocol::BOTH {
        let (service, address) = server.serve(protocol, "[::]:0");
        for ip in end.both() {
            let to = SocketAddr::new(ip, address.port());
            assert_eq!(client.talk(protocol, to), None, "{protocol:?} {to}");
            if protocol == Protocol::Udp {
                assert_eq!(client.shout(to), None, "{to}");
            }
        }
        assert!(server.seen(service) >= 2);
    }
    let (_, address) =
        server.listen(Listen { peek: true, ..Listen::echo(Protocol::Tcp, parse("0.0.0.0:0")) });
    let to = SocketAddr::new(end.v4.into(), address.port());
    for door in Door::ALL {
        let reply = client.connect_by(door, Protocol::Tcp, to);
        assert_eq!(reply.errno, None, "{door:?}");
    }
}

#[test]
fn raw_packets_and_frames_reach_a_listener() {
    root::require();
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (near, far) = here.wire(&there, 1);
    let mut attacker = Probe::start(None, Some(&here.path()), None);
    let mut server = Probe::start(None, Some(&there.path()), None);
    let (_, address) = server.serve(Protocol::Tcp, "0.0.0.0:0");
    let SocketAddr::V4(from) = SocketAddr::new(near.v4.into(), 50_000) else { panic!("IPv4") };
    let SocketAddr::V4(to) = SocketAddr::new(far.v4.into(), address.port()) else { panic!("IPv4") };
    let syn = Segment { options: forged_seal(300, 1).to_vec(), ..Segment::syn(from, to) };
    let reply = attacker.must(&Request::RawPackets {
        packets: vec![syn.packet()],
        listen_port: 50_000,
        milliseconds: 300,
    });
    assert!(reply.segments.iter().any(waxseal_tests::probe::Segment::accepts), "{reply:?}");
    let frames = fragments(&Segment { sequence: 9, ..syn }.packet(), &[8]);
    let frames = frames.iter().map(|piece| frame(far.mac, near.mac, piece)).collect();
    let request =
        Request::Frames { interface: "wire1".into(), frames, listen_port: 50_000, milliseconds: 300 };
    let reply = attacker.must(&request);
    assert!(
        reply.segments.iter().any(|segment| segment.accepts() && segment.acknowledgement == 10),
        "{reply:?}"
    );
}

#[test]
fn descriptors_travel_and_hammers_count() {
    root::require();
    let group = Cgroup::root("harness");
    let child = group.child("child");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("door");
    let mut giver = Probe::start(Some(child.path()), None, None);
    let mut taker = Probe::start(Some(group.path()), None, None);
    let (service, address) = taker.serve(Protocol::Tcp, "127.0.0.1:0");
    let socket = handle(&giver.must(&Request::Socket { protocol: Protocol::Tcp, like: address }));
    taker.begin(&Request::Take { path: path.clone() });
    root::wait("the door", std::time::Duration::from_secs(5), || path.exists().then_some(()));
    giver.must(&Request::Give { handle: socket, path });
    let taken = handle(&taker.answer());
    taker.must(&Request::ConnectSocket { handle: taken, address, milliseconds: 500 });
    taker.must(&Request::Ping { handle: taken, milliseconds: 500 });
    giver.must(&Request::Move { cgroup: group.path().to_owned() });
    giver.must(&Request::Rename { name: "a\nb".into() });
    let target = Target { protocol: Protocol::Tcp, address, connected: false };
    let hold = handle(&giver.must(&Request::Hold { targets: vec![target; 3], every_milliseconds: 5 }));
    let closed = Target { address: parse("127.0.0.1:1"), ..target };
    let hammer = handle(&giver.must(&Request::Hammer { targets: vec![closed], milliseconds: 50 }));
    std::thread::sleep(std::time::Duration::from_millis(200));
    let held = giver.must(&Request::Stop { handle: hold });
    assert!(held.count > 10 && held.bad == 0, "{held:?}");
    let hammered = giver.must(&Request::Stop { handle: hammer });
    assert!(
        hammered.count > 100 && hammered.bad == 0 && hammered.errors.contains_key("ECONNREFUSED"),
        "{hammered:?}"
    );
    assert_eq!(taker.seen(service), 4);
}
