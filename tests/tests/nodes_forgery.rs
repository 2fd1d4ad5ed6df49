//! Whoever stands on the path or guesses from afar gets no identity: every bit, every copy, every cut.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use waxseal_tests::capture::{Frame, LOCAL, WIRE};
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::middle::{Middle, Way};
use waxseal_tests::packet::{self, Segment};
use waxseal_tests::probe::{Door, Handle, Protocol, Request};
use waxseal_tests::root;
use waxseal_tests::stage::{Workload, allow_ingress};

/// Two ports that differ in one bit, both open to the caller.
const PORTS: [u16; 2] = [8080, 8081];
/// Where agents talk to each other.
const AGENT: u16 = 7461;

struct Scene {
    mesh: Mesh,
    caller: Workload,
    server: Workload,
    services: Vec<Handle>,
}

fn scene(label: &str, nodes: u8) -> Scene {
    let plan = Plan { nodes, ..Plan::default() };
    let (mesh, [caller, mut server]) = Mesh::with(label, plan, [("shop/caller", 0), ("shop/server", 1)]);
    let services = PORTS.map(|port| server.probe.serve(Protocol::Tcp, &format!("[::]:{port}")).0).to_vec();
    mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, "[ 8080-8081/tcp ]"));
    // An address that differs in one bit, so that a SYN with that bit changed still finds the server.
    let site = &mesh.network.sites[1];
    let (v4, v6) = (neighbour(site.end.v4.into()), neighbour(site.end.v6.into()));
    site.netns.ip(&["addr", "add", &format!("{v4}/24"), "dev", &site.wire]);
    site.netns.ip(&["addr", "add", &format!("{v6}/64"), "dev", &site.wire, "nodad"]);
    Scene { mesh, caller, server, services }
}

/// The address that differs in the last bit.
fn neighbour(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => std::net::Ipv4Addr::from(u32::from(v4) ^ 1).into(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::from(u128::from(v6) ^ 1).into(),
    }
}

/// Passes on what agents say to each other, keeps the workloads' packets for itself.
fn thief(mesh: &Mesh) -> Middle {
    Middle::start(&mesh.network, |_, frame| {
        let agents = frame.source().port() == AGENT || frame.destination().port() == AGENT;
        if agents { vec![frame.clone()] } else { Vec::new() }
    })
}

impl Scene {
    /// Lets the caller connect, and takes its sealed SYN away.
    fn steal(&mut self, middle: &Middle, to: SocketAddr) -> Frame {
        middle.forget();
        self.caller.probe.begin(&Request::Connect {
            protocol: Protocol::Tcp,
            door: Door::Connect,
            from: None,
            address: to,
            v6_socket: false,
            milliseconds: 500,
        });
        let syn =
            middle.expect("the caller's SYN", Way::Forth, |frame| frame.opens() && frame.destination() == to);
        assert_eq!(self.caller.probe.answer().errno.as_deref(), Some("TIMEOUT"));
        assert_eq!(syn.experiment(), Some(WIRE), "it is sealed for the wire");
        syn
    }

    /// None of these opens anything; the stolen SYN itself, unchanged, would have.
    fn assert_worthless(&mut self, middle: &Middle, what: &str, genuine: &Frame, forged: &[Frame]) {
        middle.forget();
        for chunk in forged.chunks(64) {
            for frame in chunk {
                middle.inject(Way::Forth, frame);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(150));
        let accepted = accepted(middle);
        assert!(
            accepted.is_empty(),
            "{what}: {} of {} accepted: {:?}",
            accepted.len(),
            forged.len(),
            accepted.first()
        );
        self.assert_control(middle, what, genuine);
    }

    fn assert_control(&mut self, middle: &Middle, what: &str, genuine: &Frame) {
        middle.forget();
        middle.inject(Way::Forth, genuine);
        root::wait(&format!("{what}: the genuine SYN is accepted"), Duration::from_secs(2), || {
            (!accepted(middle).is_empty()).then_some(())
        });
        // What is half open would answer for the next forgery, which may have the same ports.
        middle.inject(Way::Forth, &genuine.taken_back());
        std::thread::sleep(Duration::from_millis(20));
        for service in self.services.clone() {
            assert_eq!(self.server.probe.seen(service), 0, "{what}: nobody was accepted");
        }
    }
}

/// Answers that accept, from the second node.
fn accepted(middle: &Middle) -> Vec<Frame> {
    middle
        .seen(Way::Back)
        .into_iter()
        .filter(|frame| frame.accepts() && frame.source().port() != AGENT)
        .collect()
}

#[test]
fn no_changed_bit_of_a_sealed_syn_leaves_it_an_identity() {
    let mut scene = scene("bits", 2);
    let middle = thief(&scene.mesh);
    for to in scene.mesh.both(1, PORTS[0]) {
        let syn = scene.steal(&middle, to);
        let (source, destination) = syn.addresses();
        let seal = syn.seal().unwrap();
        let before = [scene.mesh.counter(1, "wire-forged"), scene.mesh.counter(1, "wire-unknown")];
        for (what, range) in [
            ("option", seal),
            ("ports", syn.ports()),
            ("sequence number", syn.sequence_at()),
            ("source address", source),
            ("destination address", destination),
        ] {
            let flips = syn.flips(range);
            scene.assert_worthless(&middle, &format!("{what} of {to}"), &syn, &flips);
        }
        let forged = scene.mesh.counter(1, "wire-forged") - before[0];
        let unknown = scene.mesh.counter(1, "wire-unknown") - before[1];
        assert!(forged >= 64, "changed MACs are counted: {forged}");
        assert!(unknown >= 16, "changed session indices are counted: {unknown}");
    }
}

#[test]
fn a_seal_that_is_moved_to_another_syn_is_worthless() {
    let mut scene = scene("moved", 2);
    let middle = thief(&scene.mesh);
    for to in scene.mesh.both(1, PORTS[0]) {
        let syn = scene.steal(&middle, to);
        let seal = syn.seal().unwrap();
        let bytes = syn.bytes()[seal.clone()].to_vec();
        // A later SYN of the same pair, with the seal of the earlier one, and the other way round.
        let later = scene.steal(&middle, to);
        let later_bytes = later.bytes()[later.seal().unwrap()].to_vec();
        assert_ne!(bytes, later_bytes, "no two SYNs have one seal");
        let mut forged = vec![
            later.with(later.seal().unwrap(), &bytes),
            syn.with(seal.clone(), &later_bytes),
            syn.with(syn.ports(), &[syn.bytes()[syn.ports().start], 1, 0x1f, 0x90]),
            syn.with(syn.ports(), &[&syn.bytes()[syn.ports()][..2], &PORTS[1].to_be_bytes()].concat()),
            syn.with(syn.sequence_at(), &syn.sequence().wrapping_add(1).to_be_bytes()),
            syn.reflected(),
        ];
        // From another address of the same network, as any host there could.
        let (source, _) = syn.addresses();
        let mut address = syn.bytes()[source.clone()].to_vec();
        if let Some(last) = address.last_mut() {
            *last = 77;
        }
        forged.push(syn.with(source, &address));
        scene.assert_worthless(&middle, &format!("moved at {to}"), &syn, &forged);
    }
}

#[test]
fn a_seal_sent_back_to_its_maker_is_worthless() {
    let mut scene = scene("reflected", 2);
    // The caller's node has a listener that lets the caller's own name in.
    scene.caller.probe.serve(Protocol::Tcp, "[::]:8080");
    let rules = allow_ingress("self", "shop/caller", &scene.server, "[ 8080/tcp ]");
    scene.mesh.nodes[0].apply(&rules);
    let middle = thief(&scene.mesh);
    for to in scene.mesh.both(1, PORTS[0]) {
        let syn = scene.steal(&middle, to);
        middle.forget();
        // As it was, turned around; and with the listener's port.
        let back = syn.reflected();
        let ports = [back.source().port().to_be_bytes(), 8080u16.to_be_bytes()].concat();
        for frame in [back.clone(), back.with(back.ports(), &ports)] {
            middle.inject(Way::Back, &frame);
        }
        std::thread::sleep(Duration::from_millis(200));
        let answers: Vec<Frame> = middle.seen(Way::Forth).into_iter().filter(Frame::accepts).collect();
        assert!(answers.is_empty(), "{answers:?}");
    }
}

#[test]
fn a_stripped_seal_is_no_identity_and_the_local_form_from_outside_is_none_either() {
    let mut scene = scene("stripped", 2);
    let middle = thief(&scene.mesh);
    let tap = scene.mesh.nodes[1].node.tap();
    for to in scene.mesh.both(1, PORTS[0]) {
        let syn = scene.steal(&middle, to);
        let seal = syn.seal().unwrap();
        let mut local = syn.bytes()[seal.clone()].to_vec();
        local[2..4].copy_from_slice(&LOCAL.to_be_bytes());
        let mut forged = vec![syn.stripped(), syn.with(seal.clone(), &local)];
        for identity in 250..1024u32 {
            local[4..8].copy_from_slice(&identity.to_be_bytes());
            forged.push(syn.with(seal.clone(), &local));
        }
        scene.assert_worthless(&middle, &format!("without its seal, {to}"), &syn, &forged);
    }
    tap.expect("a denial of somebody unknown", Duration::from_secs(5), |flow| {
        flow.is("deny") && flow.text("source.name") == "unknown" && flow.text("seal") == "none"
    });
}

#[test]
fn a_sealed_syn_in_pieces_is_never_honoured() {
    let mut scene = scene("pieces", 2);
    let middle = thief(&scene.mesh);
    let syn = scene.steal(&middle, scene.mesh.at(1, PORTS[0]));
    middle.forget();
    let length = syn.packet().len() - 20;
    let mut sets = Vec::new();
    for cut in (8..length).step_by(8) {
        sets.push(vec![cut]);
        sets.extend((cut + 8..length).step_by(8).map(|second| vec![cut, second]));
    }
    sets.push((8..length).step_by(8).collect());
    for (index, cuts) in sets.iter().enumerate() {
        let mut pieces = packet::fragments(syn.packet(), cuts);
        if index % 2 == 1 {
            pieces.reverse();
        }
        for mut piece in pieces {
            // A datagram of its own for each shape, or the kernel would join pieces of different ones.
            let identification = u16::try_from(index + 1).unwrap();
            piece[4..6].copy_from_slice(&identification.to_be_bytes());
            middle.inject_packet(Way::Forth, &packet::whole_header(&piece));
        }
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(accepted(&middle), Vec::new());
    assert!(scene.mesh.counter(1, "fragments-dropped") > 0);
    scene.assert_control(&middle, "in one piece", &syn);
}

#[test]
fn a_sealed_syn_that_arrives_twice_opens_one_connection() {
    let mut scene = scene("twice", 2);
    let middle =
        Middle::start(&scene.mesh.network, |_, frame| vec![frame.clone(); 1 + usize::from(frame.opens())]);
    for (done, to) in scene.mesh.both(1, PORTS[0]).into_iter().enumerate() {
        assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None, "{to}");
        assert_eq!(scene.server.probe.seen(scene.services[0]), done as u64 + 1, "{to}");
        // Replayed when the connection is long over: the tuple is free, the acknowledgement never comes.
        let syn = middle.expect("its SYN", Way::Forth, |frame| frame.opens() && frame.destination() == to);
        for _ in 0..20 {
            middle.inject(Way::Forth, &syn);
        }
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(scene.server.probe.seen(scene.services[0]), done as u64 + 1, "{to}, replayed");
    }
}

#[test]
fn two_seals_in_one_syn_are_not_two_chances() {
    let mut scene = scene("two-seals", 2);
    let middle = thief(&scene.mesh);
    let syn = scene.steal(&middle, scene.mesh.at(1, PORTS[0]));
    let genuine = syn.bytes()[syn.seal().unwrap()].to_vec();
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (syn.source(), syn.destination()) else {
        panic!("IPv4")
    };
    middle.forget();
    let mut forged = genuine.clone();
    forged[15] ^= 1;
    for options in [
        [&genuine[..], &forged[..]].concat(),
        [&genuine[..], &[1; 16][..]].concat(),
        [&[1, 1][..], &genuine[..], &[1, 1][..]].concat(),
        // The same bytes inside another option, which is what the last sixteen are not.
        [&[254, 20, 0, 0][..], &genuine[..], &[1; 4][..]].concat(),
    ] {
        let segment = Segment { sequence: syn.sequence(), options, ..Segment::syn(source, destination) };
        middle.inject_packet(Way::Forth, &segment.packet());
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(accepted(&middle), Vec::new());
    scene.assert_control(&middle, "with one seal", &syn);
}

#[test]
fn ten_thousand_guesses_from_afar_open_nothing_and_disturb_nobody() {
    let mut scene = scene("guesses", 3);
    assert_eq!(scene.caller.probe.talk(Protocol::Tcp, scene.mesh.at(1, PORTS[0])), None);
    let spi = scene.mesh.await_session(1, "any", |session| session["spi"].is_u64())["spi"].as_u64().unwrap();
    let resident = scene.mesh.nodes[1].node.resident_kib();
    // The third node has no agent to speak of here: its root writes what it likes, with its own address and the caller's.
    let [victim, attacker] = [1, 2].map(|node| &scene.mesh.network.sites[node]);
    let port = waxseal_tests::middle::Port::open(&scene.mesh.network.router, &victim.wire);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for index in 0..10_000u16 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let from = if index % 2 == 0 { attacker.end.v4 } else { scene.mesh.network.sites[0].end.v4 };
        let number = if index % 4 < 3 { u32::try_from(spi).unwrap() } else { (state >> 32) as u32 };
        let mut option = packet::forged_seal(number, state);
        option[2..4].copy_from_slice(&WIRE.to_be_bytes());
        let syn = Segment {
            sequence: state as u32,
            options: [&[1; 4][..], &option[..]].concat(),
            ..Segment::syn(
                std::net::SocketAddrV4::new(from, 10_000 + index),
                std::net::SocketAddrV4::new(victim.end.v4, PORTS[0]),
            )
        };
        port.send(&packet::frame(victim.end.mac, victim.gate.mac, &syn.packet()));
        if index % 1000 == 0 {
            assert_eq!(scene.caller.probe.talk(Protocol::Tcp, scene.mesh.at(1, PORTS[0])), None, "meanwhile");
        }
    }
    assert_eq!(scene.server.probe.seen(scene.services[0]), 11, "the caller's own connections");
    root::wait("the guesses are counted", Duration::from_secs(5), || {
        (scene.mesh.counter(1, "wire-forged") >= 7000 && scene.mesh.counter(1, "wire-unknown") >= 2000)
            .then_some(())
    });
    let grown = scene.mesh.nodes[1].node.resident_kib().saturating_sub(resident);
    assert!(grown < 8192, "the agent has grown by {grown} KiB");
    assert_eq!(scene.mesh.counter(1, "table-full"), 0);
    assert_eq!(scene.caller.probe.talk(Protocol::Tcp, scene.mesh.at(1, PORTS[0])), None, "afterwards");
}
