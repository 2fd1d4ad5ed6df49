//! Who sits on a node and wants to be somebody else on another: a workload, one with raw sockets, root of a third node.

#![expect(clippy::unwrap_used, reason = "a scene that cannot be made must stop its test and say where")]

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use waxseal_tests::capture::{Frame, LOCAL, WIRE};
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::middle::{Middle, Way};
use waxseal_tests::packet::{Segment, forged_seal, frame};
use waxseal_tests::probe::{self, Handle, Listen, Probe, Protocol, Request, handle, parse};
use waxseal_tests::stage::{Workload, allow_ingress};

const OPEN: u16 = 8080;

struct Scene {
    mesh: Mesh,
    caller: Workload,
    attacker: Workload,
    server: Workload,
    service: Handle,
}

/// A caller who may, and an attacker beside it who may not.
fn scene(label: &str, nodes: u8) -> Scene {
    let plan = Plan { nodes, ..Plan::default() };
    let (mesh, [caller, attacker, mut server]) =
        Mesh::with(label, plan, [("shop/caller", 0), ("shop/attacker", 0), ("shop/server", 1)]);
    let (service, _) = server.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, &format!("[ {OPEN}/tcp ]")));
    // An honest kernel would answer a SYN-ACK that it did not ask for with an RST.
    mesh.network.sites[0].netns.nft(
        "table inet quiet {
           chain out { type filter hook output priority 0; tcp dport 8080 tcp flags & rst == rst drop; }
         }",
    );
    Scene { mesh, caller, attacker, server, service }
}

impl Scene {
    fn identity(&self, workload: &Workload) -> u32 {
        let endpoint = self.mesh.home(workload).node.await_endpoint(&workload.cgroup.name());
        u32::try_from(endpoint["identity"].as_u64().unwrap()).unwrap()
    }

    fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.mesh.network.sites[1].end.v4, OPEN)
    }

    fn own(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.mesh.network.sites[0].end.v4, port)
    }

    /// SYNs that claim the caller's identity, in each form that somebody might try. Ports count up from `first`.
    fn forged(&self, first: u16, spi: u32) -> Vec<Segment> {
        let identity = self.identity(&self.caller);
        let forms = [(LOCAL, identity), (WIRE, spi), (WIRE, identity), (LOCAL, spi), (0x0001, identity)];
        let pads: [&[u8]; 3] = [&[], &[1; 4], &[1; 24]];
        let mut ports = first..;
        let mut segments = Vec::new();
        for (experiment, number) in forms {
            for pad in pads {
                let mut option = forged_seal(number, 0x0123_4567_89ab_cdef);
                option[2..4].copy_from_slice(&experiment.to_be_bytes());
                let options = [pad, &option].concat();
                let from = self.own(ports.next().unwrap());
                segments.push(Segment { options, ..Segment::syn(from, self.target()) });
            }
        }
        segments
    }

    fn any_spi(&self) -> u32 {
        let session = self.mesh.await_session(1, "any", |session| session["spi"].is_u64());
        u32::try_from(session["spi"].as_u64().unwrap()).unwrap()
    }

    /// Nothing arrived from the attacker, and the caller still may.
    fn assert_unharmed(&mut self, before: u64) {
        assert_eq!(self.server.probe.seen(self.service), before, "nobody else was accepted");
        let to = SocketAddr::V4(self.target());
        assert_eq!(self.caller.probe.talk(Protocol::Tcp, to), None, "the caller still may");
    }
}

/// Of everything that left towards the server, nothing looked like a seal but true ones of the kernel.
fn assert_blanked(seen: &[Frame], ports: std::ops::Range<u16>) {
    for frame in seen.iter().filter(|frame| frame.opens()) {
        assert_ne!(frame.experiment(), Some(LOCAL), "the local form left the node: {frame:?}");
        if ports.contains(&frame.source().port()) {
            assert_ne!(frame.experiment(), Some(WIRE), "a forged seal left the node: {frame:?}");
        }
    }
}

#[test]
fn a_workload_with_raw_sockets_gets_no_seal_and_no_identity() {
    let mut scene = scene("raw", 2);
    let to = SocketAddr::V4(scene.target());
    assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None);
    let spi = scene.any_spi();
    let before = scene.server.probe.seen(scene.service);
    let middle = Middle::honest(&scene.mesh.network);
    let (near, gate) = (scene.mesh.network.sites[0].end.mac, scene.mesh.network.sites[0].gate.mac);
    let by_ip: Vec<Vec<u8>> = scene.forged(41_000, spi).iter().map(Segment::packet).collect();
    let by_frame: Vec<Vec<u8>> =
        scene.forged(42_000, spi).iter().map(|segment| frame(gate, near, &segment.packet())).collect();
    let requests = [
        Request::RawPackets { packets: by_ip, listen_port: 0, milliseconds: 300 },
        Request::Frames { interface: "wire1".into(), frames: by_frame, listen_port: 0, milliseconds: 300 },
    ];
    for request in requests {
        let reply = scene.attacker.probe.must(&request);
        assert!(!reply.segments.iter().any(probe::Segment::accepts), "{:?}", reply.segments);
    }
    assert_blanked(&middle.seen(Way::Forth), 41_000..43_000);
    scene.assert_unharmed(before);
}

#[test]
fn root_of_the_same_network_cannot_use_seals_that_it_saw() {
    let mut scene = scene("third", 3);
    let middle = Middle::honest(&scene.mesh.network);
    assert_eq!(scene.caller.probe.talk(Protocol::Tcp, SocketAddr::V4(scene.target())), None);
    let seen = middle.expect("the caller's SYN", Way::Forth, |frame| frame.experiment() == Some(WIRE));
    let seal = seen.bytes()[seen.seal().unwrap()].to_vec();
    drop(middle);
    scene.mesh.network.router.forward();
    let before = scene.server.probe.seen(scene.service);
    let third = &scene.mesh.network.sites[2];
    let mut root = Probe::start(None, Some(&third.netns.path()), None);
    let mut frames = Vec::new();
    // Under its own address with the seen bytes; with the seen sequence number and port; and in the caller's name.
    for (from, sequence) in [
        (SocketAddrV4::new(third.end.v4, 43_000), 1),
        (SocketAddrV4::new(third.end.v4, seen.source().port()), seen.sequence()),
        (scene.own(43_001), seen.sequence()),
        (scene.own(seen.source().port()), seen.sequence().wrapping_add(1)),
    ] {
        let options = [&[1; 4][..], &seal].concat();
        let syn = Segment { sequence, options, ..Segment::syn(from, scene.target()) };
        frames.push(frame(third.gate.mac, third.end.mac, &syn.packet()));
    }
    let request =
        Request::Frames { interface: third.wire.clone(), frames, listen_port: 0, milliseconds: 300 };
    let reply = root.must(&request);
    assert!(!reply.segments.iter().any(probe::Segment::accepts), "{:?}", reply.segments);
    scene.assert_unharmed(before);
}

#[test]
fn an_unprivileged_workload_neither_chooses_nor_sees_a_seal() {
    let mut scene = scene("unprivileged", 2);
    let netns = scene.mesh.network.sites[0].netns.path();
    let mut nobody = Probe::start(Some(scene.attacker.cgroup.path()), Some(&netns), Some(65_534));
    let to = SocketAddr::V4(scene.target());
    let packets = vec![scene.forged(44_000, 1)[0].packet()];
    let request = Request::RawPackets { packets: packets.clone(), listen_port: 0, milliseconds: 10 };
    assert_eq!(nobody.ask(&request).errno.as_deref(), Some("EPERM"));
    let frames =
        Request::Frames { interface: "wire1".into(), frames: packets, listen_port: 0, milliseconds: 10 };
    assert_eq!(nobody.ask(&frames).errno.as_deref(), Some("EPERM"));
    nobody.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], "as itself");
    // Nothing that it may set on a socket of its own changes who it is.
    for (level, name, data) in [
        (libc::IPPROTO_IP, libc::IP_OPTIONS, vec![1; 40]),
        (libc::IPPROTO_IP, libc::IP_TOS, 0x10i32.to_ne_bytes().to_vec()),
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 88i32.to_ne_bytes().to_vec()),
        (libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1i32.to_ne_bytes().to_vec()),
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION, b"reno".to_vec()),
    ] {
        let socket = handle(&nobody.must(&Request::Socket { protocol: Protocol::Tcp, like: to }));
        nobody.must(&Request::SetOption { handle: socket, level, name, data });
        let reply = nobody.ask(&Request::ConnectSocket { handle: socket, address: to, milliseconds: 1000 });
        assert_eq!(reply.errno.as_deref(), Some("ECONNREFUSED"), "option {level}/{name}");
    }
    // The server may look at the SYN that opened a connection, and finds nothing that it could use elsewhere.
    let (listener, _) = scene.server.probe.listen(Listen {
        peek: true,
        echo: false,
        ..Listen::echo(Protocol::Tcp, parse("[::]:8090"))
    });
    let rules = allow_ingress("caller", "shop/server", &scene.caller, "[ 8080/tcp, 8090/tcp ]");
    scene.mesh.nodes[1].apply(&rules);
    for to in scene.mesh.both(1, 8090) {
        assert_eq!(scene.caller.probe.connect(Protocol::Tcp, to).errno, None);
        let accepted =
            handle(&scene.server.probe.must(&Request::Accept { handle: listener, milliseconds: 1000 }));
        let syn = scene.server.probe.must(&Request::SavedSyn { handle: accepted }).data;
        let shapes = [[253, 16, 0x57, 0x59], [253, 16, 0x57, 0x58]];
        let wire = syn.windows(4).any(|bytes| bytes == shapes[0]);
        assert!(!wire, "{to}: the wire seal reached the workload: {syn:02x?}");
    }
}

#[test]
fn the_local_form_never_leaves_a_node_whatever_its_agent_does() {
    let mut scene = scene("never-leaves", 2);
    let mut stranger = scene.mesh.stranger(0);
    let middle = Middle::honest(&scene.mesh.network);
    let targets: Vec<SocketAddr> =
        scene.mesh.both(1, OPEN).into_iter().chain(scene.mesh.both(1, 9)).collect();
    let mut everybody = |scene: &mut Scene| {
        for to in &targets {
            for probe in [&mut scene.caller.probe, &mut scene.attacker.probe, &mut stranger.probe] {
                probe.ask(&Request::Connect {
                    protocol: Protocol::Tcp,
                    door: probe::Door::Connect,
                    from: None,
                    address: *to,
                    v6_socket: false,
                    milliseconds: 200,
                });
            }
        }
    };
    everybody(&mut scene);
    // To somebody who is no node at all, too: the router.
    let gate = SocketAddr::new(scene.mesh.network.sites[0].gate.v4.into(), 9);
    scene.caller.probe.connect(Protocol::Tcp, gate);
    scene.mesh.nodes[0].node.kill();
    everybody(&mut scene);
    std::thread::sleep(Duration::from_secs(6));
    everybody(&mut scene);
    let seen = middle.seen(Way::Forth);
    assert!(seen.iter().filter(|frame| frame.opens()).count() > 10, "they were on the wire");
    assert_blanked(&seen, 0..0);
    scene.mesh.nodes[0].node.start();
    everybody(&mut scene);
    assert_blanked(&middle.seen(Way::Forth), 0..0);
    let before = scene.server.probe.seen(scene.service);
    scene.assert_unharmed(before);
}

#[test]
fn whoever_takes_the_place_of_a_server_is_not_taken_for_it() {
    let (mesh, [mut caller, mut server, mut other]) =
        Mesh::new("taken", [("shop/caller", 0), ("shop/server", 1), ("shop/other", 1)]);
    let (first, _) = server.probe.serve(Protocol::Tcp, "[::]:8080");
    let rules = ["shop/server", "shop/other"]
        .map(|subject| allow_ingress(&subject.replace('/', "-"), subject, &caller, "[ 8080/tcp ]"));
    mesh.nodes[1].apply(&rules.concat());
    assert_eq!(caller.probe.talk(Protocol::Tcp, mesh.at(1, OPEN)), None);
    server.probe.must(&Request::Close { handle: first });
    let (second, _) = other.probe.serve(Protocol::Tcp, "[::]:8080");
    let tap = mesh.nodes[1].node.tap();
    let reply = caller.probe.connect(Protocol::Tcp, mesh.at(1, OPEN));
    assert!(reply.errno.is_some(), "the session names another workload: {reply:?}");
    assert_eq!(other.probe.seen(second), 0);
    tap.expect("a denial that names it", Duration::from_secs(5), |flow| {
        flow.is("deny") && flow.text("reason") == "wrong-destination"
    });
    // The sender is told, and asks anew who is there.
    waxseal_tests::root::wait("a session with whoever is there now", Duration::from_secs(10), || {
        caller.probe.talk(Protocol::Tcp, mesh.at(1, OPEN)).is_none().then_some(())
    });
    let flow = mesh.nodes[0].node.tap();
    assert_eq!(caller.probe.talk(Protocol::Tcp, mesh.at(1, OPEN)), None);
    flow.expect("its true name", Duration::from_secs(5), |flow| {
        flow.is("allow") && flow.between("shop/caller", "shop/other", OPEN)
    });
}
