//! Every door leads past the same guard: address forms, system calls, places.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use waxseal_tests::netns::{End, Netns};
use waxseal_tests::probe::{Door, Listen, Probe, Protocol, Request, handle, parse};
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, allow_ingress, policy};

const SOON: Duration = Duration::from_secs(5);

fn wired() -> (Netns, Netns, End, End) {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (near, far) = here.wire(&there, 1);
    (here, there, near, far)
}

/// Connects by a socket of either family and waits for the echo; the name of the first error.
fn knock(probe: &mut Probe, protocol: Protocol, address: SocketAddr, v6_socket: bool) -> Option<String> {
    let request = Request::Connect {
        protocol,
        door: Door::Connect,
        from: None,
        address,
        v6_socket,
        milliseconds: 1000,
    };
    let reply = probe.ask(&request);
    let Some(handle) = reply.handle else { return reply.errno };
    let pong = probe.ask(&Request::Ping { handle, milliseconds: 300 });
    probe.must(&Request::Close { handle });
    pong.errno
}

#[test]
fn the_verdict_is_the_same_for_every_form_of_an_address() {
    let (here, there, near, far) = wired();
    let (stage, [mut good, mut bad, mut remote, mut local]) = Stage::new(
        "forms",
        [
            ("shop/good", Some(&here)),
            ("shop/bad", Some(&here)),
            ("shop/remote", Some(&there)),
            ("shop/local", Some(&here)),
        ],
    );
    // A listener for IPv4 alone, one for both families, one for IPv6 alone.
    for server in [&mut remote, &mut local] {
        for protocol in Protocol::BOTH {
            server.probe.serve(protocol, "0.0.0.0:8004");
            server.probe.serve(protocol, "[::]:8046");
            server.probe.listen(Listen { only_v6: true, ..Listen::echo(protocol, parse("[::]:8006")) });
        }
    }
    let ports = "[ 8000-8099/tcp, 8000-8099/udp ]";
    stage.apply(&format!(
        "{}{}",
        allow_ingress("remote", "shop/remote", &good, ports),
        allow_ingress("local", "shop/local", &good, ports)
    ));
    let v4_places: [IpAddr; 3] = [far.v4.into(), near.v4.into(), parse("127.0.0.1:0").ip()];
    let v6_places: [IpAddr; 3] = [far.v6.into(), near.v6.into(), parse("[::1]:0").ip()];
    let mut cases: Vec<(SocketAddr, bool)> = Vec::new();
    for port in [8004, 8046] {
        for ip in v4_places {
            cases.push((SocketAddr::new(ip, port), false));
            cases.push((SocketAddr::new(ip, port), true));
        }
    }
    for port in [8006, 8046] {
        cases.extend(v6_places.map(|ip| (SocketAddr::new(ip, port), true)));
    }
    for (to, v6_socket) in cases {
        for protocol in Protocol::BOTH {
            let case = format!("{protocol:?} {to}, {} socket", if v6_socket { "IPv6" } else { "IPv4" });
            assert_eq!(knock(&mut good.probe, protocol, to, v6_socket), None, "{case}");
            assert!(knock(&mut bad.probe, protocol, to, v6_socket).is_some(), "{case}");
        }
    }
}

/// Tries every door and reports those that let the caller through.
fn open_doors(caller: &mut Workload, to: SocketAddr) -> Vec<(Door, Option<String>)> {
    Door::ALL.map(|door| (door, caller.probe.connect_by(door, Protocol::Tcp, to).errno)).into()
}

#[test]
fn every_way_to_ask_for_a_connection_meets_the_same_verdict() {
    let (here, there, _, far) = wired();
    let (stage, [mut good, mut bad, mut remote, mut local]) = Stage::new(
        "doors",
        [
            ("shop/good", Some(&here)),
            ("shop/bad", Some(&here)),
            ("shop/remote", Some(&there)),
            ("shop/local", Some(&here)),
        ],
    );
    for netns in [&here, &there] {
        netns.set("ipv4/tcp_fastopen", "3");
    }
    let listen = |port| Listen { peek: true, ..Listen::echo(Protocol::Tcp, parse(&format!("[::]:{port}"))) };
    let (at_remote, _) = remote.probe.listen(listen(8080));
    let (at_local, _) = local.probe.listen(listen(8081));
    stage.apply(&format!(
        "{}{}",
        allow_ingress("remote", "shop/remote", &good, "[ 8080/tcp ]"),
        allow_ingress("local", "shop/local", &good, "[ 8081/tcp ]")
    ));
    let mut accepted = 0;
    for ip in far.both() {
        let to = SocketAddr::new(ip, 8080);
        for (door, errno) in open_doors(&mut good, to) {
            assert_eq!(errno, None, "the good one by {door:?} to {to}");
        }
        // connect() returns before accept() does.
        accepted += Door::ALL.len() as u64;
        root::wait("all are accepted", SOON, || (remote.probe.seen(at_remote) == accepted).then_some(()));
        for (door, errno) in open_doors(&mut bad, to) {
            assert_eq!(errno.as_deref(), Some("ECONNREFUSED"), "the bad one by {door:?} to {to}");
        }
        assert_eq!(remote.probe.seen(at_remote), accepted, "{to}");
    }
    accepted = 0;
    for text in ["127.0.0.1:8081", "[::1]:8081"] {
        for (door, errno) in open_doors(&mut good, parse(text)) {
            assert_eq!(errno, None, "the good one by {door:?} to {text}");
        }
        accepted += Door::ALL.len() as u64;
        root::wait("all are accepted", SOON, || (local.probe.seen(at_local) == accepted).then_some(()));
        for (door, errno) in open_doors(&mut bad, parse(text)) {
            assert_eq!(errno.as_deref(), Some("EPERM"), "the bad one by {door:?} to {text}");
        }
        assert_eq!(local.probe.seen(at_local), accepted, "{text}");
    }
}

#[test]
fn a_socket_that_is_used_again_is_judged_again() {
    let (here, there, _, far) = wired();
    let (stage, [mut caller]) = Stage::new("again", [("shop/caller", Some(&here))]);
    let mut server = stage.stranger(Some(&there));
    for protocol in Protocol::BOTH {
        server.probe.serve(protocol, "[::]:8080");
        server.probe.serve(protocol, "[::]:8081");
    }
    let rules =
        format!("  egress:\n    - to: [ {{ cidr: {}/32 }} ]\n      ports: [ 8080/tcp, 8080/udp ]", far.v4);
    stage.apply(&policy("one-port", "shop/caller", &rules));
    let (open, shut) = (SocketAddr::new(far.v4.into(), 8080), SocketAddr::new(far.v4.into(), 8081));
    for protocol in Protocol::BOTH {
        let connected = caller.probe.connect(protocol, open);
        connected.assert_open("the open port");
        let socket = handle(&connected);
        caller.probe.must(&Request::Disconnect { handle: socket });
        let request = Request::ConnectSocket { handle: socket, address: shut, milliseconds: 1000 };
        caller.probe.ask(&request).assert_refused(&["EPERM"], &format!("{protocol:?}: again, elsewhere"));
        let request = Request::ConnectSocket { handle: socket, address: open, milliseconds: 1000 };
        caller.probe.ask(&request).assert_open(&format!("{protocol:?}: again, where it may"));
    }
    // A connected datagram socket that sends elsewhere.
    let socket = handle(&caller.probe.connect(Protocol::Udp, open));
    let reply = caller.probe.ask(&Request::SendTo { handle: socket, address: shut, data: b"x".to_vec() });
    reply.assert_refused(&["EPERM"], "sendto() elsewhere on a connected socket");
    caller.probe.must(&Request::Ping { handle: socket, milliseconds: 1000 });
    // A socket that was only bound.
    let socket = handle(&caller.probe.must(&Request::Socket { protocol: Protocol::Udp, like: open }));
    caller.probe.must(&Request::Bind { handle: socket, address: parse("0.0.0.0:0") });
    let reply = caller.probe.ask(&Request::SendTo { handle: socket, address: shut, data: b"x".to_vec() });
    reply.assert_refused(&["EPERM"], "a bound socket");
    caller.probe.must(&Request::SendTo { handle: socket, address: open, data: b"x".to_vec() });
    let echo = caller.probe.must(&Request::Receive { handle: socket, milliseconds: 1000 });
    assert_eq!(echo.data, b"x");
}

#[test]
fn a_seal_that_a_listener_reads_from_a_saved_syn_is_good_for_that_syn_only() {
    let (here, there, _, far) = wired();
    let (stage, [mut caller, mut server]) =
        Stage::new("saved-syn", [("shop/caller", Some(&here)), ("shop/server", Some(&there))]);
    let listen = Listen { peek: true, echo: false, ..Listen::echo(Protocol::Tcp, parse("0.0.0.0:8080")) };
    let (listener, _) = server.probe.listen(listen);
    stage.apply(&allow_ingress("caller", "shop/server", &caller, "[ 8080/tcp ]"));
    let to = SocketAddr::new(far.v4.into(), 8080);
    let seals = [(); 2].map(|()| {
        caller.probe.connect(Protocol::Tcp, to).assert_open("the caller may");
        let accepted = handle(&server.probe.must(&Request::Accept { handle: listener, milliseconds: 1000 }));
        let saved = server.probe.must(&Request::SavedSyn { handle: accepted }).data;
        let at = saved.windows(4).position(|window| window == [253, 16, 0x57, 0x58]);
        at.map(|at| saved[at..at + 16].to_vec())
    });
    // Blanked before the listener sees it is better still; then there is nothing to compare.
    if let [Some(first), Some(second)] = seals {
        assert_ne!(first, second);
    }
}
