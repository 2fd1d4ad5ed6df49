//! Packets that no honest kernel would send do not open a door.

use std::net::{SocketAddr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use waxseal_tests::capture::Frame;
use waxseal_tests::middle::Port;
use waxseal_tests::netns::{End, Netns};
use waxseal_tests::packet::{Segment, forged_seal, fragment, fragments, frame};
use waxseal_tests::probe::{self, Door, Handle, Listen, Probe, Protocol, Request, handle, parse};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, allow_ingress, policy};

/// The port that only the good caller may reach.
const GUARDED: u16 = 8080;
/// A port of nobody's workload, to show that a packet would have worked.
const CONTROL: u16 = 8081;
/// Whatever port an answer goes to.
const ANY: u16 = 0;

/// An attacker who may write any frame, a good caller beside it, and a guarded server across the wire.
struct Scene {
    stage: Stage,
    attacker: Probe,
    good: Workload,
    server: Workload,
    service: Handle,
    _control: Workload,
    near: End,
    far: End,
    identity: u32,
    wires: (Netns, Netns),
}

fn scene(label: &str) -> Scene {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (near, far) = here.wire(&there, 1);
    // An honest kernel would answer a SYN-ACK that it did not ask for with an RST.
    here.nft(
        "table inet quiet {
           chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }
         }",
    );
    let (stage, [good, mut server]) =
        Stage::new(label, [("shop/good", Some(&here)), ("shop/server", Some(&there))]);
    let mut control = stage.stranger(Some(&there));
    let (service, _) = server.probe.serve(Protocol::Tcp, &format!("0.0.0.0:{GUARDED}"));
    control.probe.serve(Protocol::Tcp, &format!("0.0.0.0:{CONTROL}"));
    stage.apply(&allow_ingress("good", "shop/server", &good, &format!("[ {GUARDED}/tcp ]")));
    let endpoint = stage.node.await_endpoint(&good.cgroup.name());
    let identity = endpoint["identity"].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(256);
    let attacker = Probe::start(None, Some(&here.path()), None);
    Scene {
        stage,
        attacker,
        good,
        server,
        service,
        _control: control,
        near,
        far,
        identity,
        wires: (here, there),
    }
}

impl Scene {
    fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.far.v4, port)
    }

    fn from(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.near.v4, port)
    }

    /// A SYN that claims to be the good caller's.
    fn forged(&self, from: u16, to: u16) -> Segment {
        let options = [&[1u8, 1, 1, 1][..], &forged_seal(self.identity, 0x0123_4567_89ab_cdef)].concat();
        Segment { options, ..Segment::syn(self.from(from), self.at(to)) }
    }

    /// Puts IPv4 packets on the wire, past every hook of the sender, and returns what came back to a port.
    fn throw(&mut self, packets: &[Vec<u8>], back_to: u16, milliseconds: u64) -> Vec<probe::Segment> {
        let frames = packets.iter().map(|packet| frame(self.far.mac, self.near.mac, packet)).collect();
        let request =
            Request::Frames { interface: "wire1".into(), frames, listen_port: back_to, milliseconds };
        self.attacker.must(&request).segments
    }

    /// Nothing reached the guarded service, and it still serves whom it may.
    fn assert_unharmed(&mut self) {
        assert_eq!(self.server.probe.seen(self.service), 0, "nobody was accepted");
        let to = SocketAddr::V4(self.at(GUARDED));
        assert_eq!(self.good.probe.talk(Protocol::Tcp, to), None, "the good caller still may");
    }
}

/// More than a hundred ways to cut a SYN into pieces.
fn shapes(packet: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut shapes = Vec::new();
    let length = packet.len() - 20;
    let offsets: Vec<usize> = (8..length).step_by(8).collect();
    // Every set of cuts, in order, reversed, and each piece twice.
    for set in 1u32..1 << offsets.len() {
        let cuts: Vec<usize> = offsets
            .iter()
            .enumerate()
            .filter(|(index, _)| set & (1 << index) != 0)
            .map(|(_, cut)| *cut)
            .collect();
        let pieces = fragments(packet, &cuts);
        let reversed = pieces.iter().rev().cloned().collect();
        let doubled = pieces.iter().flat_map(|piece| [piece.clone(), piece.clone()]).collect();
        shapes.extend([pieces, reversed, doubled]);
    }
    let (header, payload) = packet.split_at(20);
    // Overlaps, in both orders; a whole packet that says more will follow; a hole.
    for cut in (8..length - 8).step_by(8) {
        let head = fragment(header, 0, &payload[..cut + 8], true);
        let tail = fragment(header, cut, &payload[cut..], false);
        shapes.extend([vec![head.clone(), tail.clone()], vec![tail.clone(), head]]);
        shapes.push(vec![fragment(header, 0, payload, true)]);
        shapes.push(vec![tail]);
    }
    for (index, pieces) in shapes.iter_mut().enumerate() {
        // A datagram of its own for each shape, or the kernel would join pieces of different ones.
        for piece in pieces {
            piece[4..6].copy_from_slice(&u16::try_from(index + 1).unwrap_or(0).to_be_bytes());
            let rest = piece.split_off(20);
            let word = u16::from_be_bytes([piece[6], piece[7]]);
            *piece = fragment(piece, usize::from(word & 0x1fff) * 8, &rest, word & 0x2000 != 0);
        }
    }
    shapes
}

#[test]
fn a_forged_seal_in_a_fragmented_syn_is_never_honoured() {
    let mut scene = scene("fragments");
    let plain = scene.throw(&fragments(&scene.forged(40_000, CONTROL).packet(), &[8]), 40_000, 200);
    assert!(plain.iter().any(probe::Segment::accepts), "the control listener answers such fragments");
    let options = [&[1u8; 24][..], &forged_seal(scene.identity, 0)].concat();
    let shapes = shapes(&Segment { options, ..scene.forged(40_001, GUARDED) }.packet());
    assert!(shapes.len() > 100, "{}", shapes.len());
    for chunk in shapes.chunks(32) {
        let packets: Vec<Vec<u8>> = chunk.iter().flatten().cloned().collect();
        let heard = scene.throw(&packets, 40_001, 50);
        assert!(!heard.iter().any(probe::Segment::accepts), "{heard:?}");
    }
    scene.assert_unharmed();
}

#[test]
fn a_whole_syn_with_a_forged_seal_is_refused_wherever_the_bytes_stand() {
    let mut scene = scene("forged");
    let seal = forged_seal(scene.identity, 0);
    let mut packets = Vec::new();
    let variants: [Vec<u8>; 6] = [
        seal.to_vec(),
        [&seal[..], &seal[..]].concat(),
        [&[1u8; 24][..], &seal[..]].concat(),
        [&seal[..], &[1u8; 24][..]].concat(),
        // A length that runs past the end, and one that is too short.
        [&[253u8, 40, 0x57, 0x58][..], &seal[4..]].concat(),
        [&[253u8, 0, 0x57, 0x58][..], &seal[4..]].concat(),
    ];
    for options in variants {
        packets.push(Segment { options, ..scene.forged(40_002, GUARDED) }.packet());
    }
    for guess in 0..2000u64 {
        let options = forged_seal(scene.identity, guess.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_vec();
        packets.push(Segment { options, ..scene.forged(40_002, GUARDED) }.packet());
    }
    let heard = scene.throw(&packets, 40_002, 300);
    assert!(!heard.iter().any(probe::Segment::accepts), "{heard:?}");
    assert!(scene.stage.node.counter("seal-forged") >= 1000, "guesses are counted");
    scene.assert_unharmed();
}

#[test]
fn no_word_of_flags_opens_a_guarded_port() {
    let mut scene = scene("flags");
    let syn_variants = [0x002, 0x00a, 0x022, 0x042, 0x0c2, 0x102];
    for (flags, port) in syn_variants.into_iter().zip(40_010..) {
        let packet = Segment { flags, ..scene.forged(port, CONTROL) }.packet();
        let heard = scene.throw(&[packet], port, 60);
        assert!(
            heard.iter().any(probe::Segment::accepts),
            "the control listener takes flags {flags:#05x} as a SYN"
        );
    }
    let words: Vec<u16> = (0..512).collect();
    for chunk in words.chunks(128) {
        let packets: Vec<Vec<u8>> = chunk
            .iter()
            .map(|flags| Segment { flags: *flags, ..scene.forged(41_000 + flags, GUARDED) }.packet())
            .collect();
        let heard = scene.throw(&packets, ANY, 60);
        assert!(!heard.iter().any(probe::Segment::accepts), "flags {chunk:x?}: {heard:?}");
    }
    scene.assert_unharmed();
}

#[test]
fn ip_options_change_no_verdict() {
    let mut scene = scene("ip-options");
    for words in 1..=10u16 {
        let ip_options = vec![1; usize::from(words) * 4];
        let nops =
            Segment { ip_options: ip_options.clone(), ..scene.forged(40_020 + words, CONTROL) }.packet();
        let heard = scene.throw(&[nops], 40_020 + words, 60);
        assert!(
            heard.iter().any(probe::Segment::accepts),
            "the control listener takes {words} words of options"
        );
        let nops = Segment { ip_options, ..scene.forged(40_040 + words, GUARDED) }.packet();
        let heard = scene.throw(&[nops], 40_040 + words, 60);
        assert!(!heard.iter().any(probe::Segment::accepts), "{words} words of options: {heard:?}");
    }
    // Loose source route, strict source route, record route, timestamp.
    for kind in [131u8, 137, 7, 68] {
        let route = [&[kind, 7, 4][..], &scene.far.v4.octets(), &[0]].concat();
        let packet = Segment { ip_options: route, ..scene.forged(40_007, GUARDED) }.packet();
        let heard = scene.throw(&[packet], 40_007, 60);
        assert!(!heard.iter().any(probe::Segment::accepts), "option {kind}: {heard:?}");
    }
    // Anybody may ask for options on their own socket; the seal and the verdict stay.
    let to = SocketAddr::V4(scene.at(GUARDED));
    let options = vec![1; 40];
    let mut stranger = scene.stage.stranger(Some(&scene.wires.0));
    for (probe, may) in [(&mut scene.good.probe, true), (&mut stranger.probe, false)] {
        let socket = handle(&probe.must(&Request::Socket { protocol: Protocol::Tcp, like: to }));
        probe.must(&Request::IpOptions { handle: socket, data: options.clone() });
        let reply = probe.ask(&Request::ConnectSocket { handle: socket, address: to, milliseconds: 1000 });
        assert_eq!(reply.errno.is_none(), may, "{reply:?}");
    }
}

#[test]
fn a_bare_ack_opens_nothing_even_when_the_listener_uses_syn_cookies() {
    let mut scene = scene("cookies");
    scene.wires.1.set("ipv4/tcp_syncookies", "2");
    let request = Request::GuessCookies {
        interface: "wire1".into(),
        to: scene.far.mac,
        from: scene.near.mac,
        source: scene.from(0),
        destination: scene.at(GUARDED),
        count: 200_000,
    };
    scene.attacker.must(&request);
    scene.assert_unharmed();
    let mut stranger = scene.stage.stranger(Some(&scene.wires.0));
    let reply = stranger.probe.connect(Protocol::Tcp, SocketAddr::V4(scene.at(GUARDED)));
    reply.assert_refused(&["ECONNREFUSED"], "a stranger");

    // The true cookie of a forbidden SYN cannot be seen, but even a cookie that was earned when it was still allowed
    // opens nothing later: the ACK is judged by itself.
    let earned = scene.throw(&[scene.forged(40_008, CONTROL).packet()], 40_008, 100);
    let cookie = earned.iter().find(|segment| segment.accepts());
    assert!(cookie.is_some(), "the control listener hands out a cookie: {earned:?}");
    scene.stage.apply(&policy("good", "shop/server", "  ingress:\n    - from: [ { entity: any } ]"));
    let earned = scene.throw(&[scene.forged(40_009, GUARDED).packet()], 40_009, 100);
    let cookie = earned.into_iter().find(probe::Segment::accepts).map(|segment| segment.sequence);
    let Some(cookie) = cookie else { panic!("the listener hands out a cookie while everybody may") };
    scene.stage.apply(&allow_ingress("good", "shop/server", &scene.good, &format!("[ {GUARDED}/tcp ]")));
    let before = scene.server.probe.seen(scene.service);
    let ack = Segment {
        flags: 16,
        sequence: 0x1234_5679,
        acknowledgement: cookie.wrapping_add(1),
        ..Segment::syn(scene.from(40_009), scene.at(GUARDED))
    };
    scene.throw(&[ack.packet()], 40_009, 100);
    assert_eq!(scene.server.probe.seen(scene.service), before, "the rule was revoked before the ACK came");
}

#[test]
fn data_in_a_forbidden_syn_reaches_nobody() {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, far) = here.wire(&there, 1);
    let (stage, [mut caller, mut server]) =
        Stage::new("fast-open", [("shop/caller", Some(&here)), ("shop/server", Some(&there))]);
    for netns in [&here, &there] {
        netns.set("ipv4/tcp_fastopen", "3");
    }
    let listen = Listen { peek: true, ..Listen::echo(Protocol::Tcp, parse("[::]:8080")) };
    let (service, _) = server.probe.listen(listen);
    for ip in far.both() {
        let to = SocketAddr::new(ip, 8080);
        stage.apply(&allow_ingress("caller", "shop/server", &caller, "[ 8080/tcp ]"));
        // The first asks for a cookie, the second one uses it.
        for attempt in 0..2 {
            let reply = caller.probe.connect_by(Door::FastOpen, Protocol::Tcp, to);
            assert_eq!(reply.errno, None, "attempt {attempt} at {to}: {reply:?}");
        }
        stage.apply(&policy("caller", "shop/server", "  ingress: []"));
        let before = server.probe.must(&Request::Seen { handle: service });
        for attempt in 0..5 {
            let reply = caller.probe.connect_by(Door::FastOpen, Protocol::Tcp, to);
            assert!(reply.errno.is_some(), "attempt {attempt} at {to}: {reply:?}");
        }
        let after = server.probe.must(&Request::Seen { handle: service });
        assert_eq!(
            (after.count, after.bytes),
            (before.count, before.bytes),
            "{to}: no byte reaches accept()"
        );
    }
}

/// The other end may still hold the port of a connection that was cut: it answers a SYN with an ACK of what it knows, and
/// only the opener's reset makes it forget. Without that a new connection would wait until it does so by itself.
#[test]
fn a_stale_segment_is_answered_with_a_reset_by_the_opener_and_establishes_nothing() {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (near, far) = here.wire(&there, 1);
    // The other end is played by this test.
    there.nft("table inet quiet { chain in { type filter hook input priority 0; tcp dport 8080 drop; }; }");
    let (_stage, [mut caller]) = Stage::new("stale", [("shop/caller", Some(&here))]);
    let to = SocketAddrV4::new(far.v4, GUARDED);
    let port = Port::open(&there, "wire1");
    let connecting = thread::spawn(move || caller.probe.connect(Protocol::Tcp, SocketAddr::V4(to)));
    let from_caller = |frame: &Frame| frame.destination() == SocketAddr::V4(to);
    let next = |what: &str, wanted: &dyn Fn(&Frame) -> bool| {
        root::wait(what, Duration::from_secs(5), || {
            let frame = Frame::read(&port.receive(Duration::from_millis(100))?)?;
            (from_caller(&frame) && wanted(&frame)).then_some(frame)
        })
    };
    let syn = next("the SYN", &Frame::opens);
    let SocketAddr::V4(from) = syn.source() else { panic!("an address of IPv4: {}", syn.source()) };
    let answer = |acknowledgement: u32| {
        let ack = Segment { flags: 16, acknowledgement, sequence: 77, ..Segment::syn(to, from) };
        port.send(&frame(near.mac, far.mac, &ack.packet()));
    };
    // Of the connection before, which the opener does not know.
    let stale = syn.sequence().wrapping_sub(40_000);
    answer(stale);
    let reset = next("the reset", &Frame::resets);
    assert_eq!(reset.sequence(), stale);
    // Acknowledged as it should be, but without a SYN of its own.
    answer(syn.sequence().wrapping_add(1));
    let reply = connecting.join().expect("the caller lives");
    assert_eq!(reply.errno.as_deref(), Some("TIMEOUT"), "{reply:?}");
}
