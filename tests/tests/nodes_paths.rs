//! The seal on odd paths and from odd sockets: NAT on both sides, small packets, extension headers, other kinds of TCP.

#![expect(clippy::unwrap_used, reason = "a scene that cannot be made must stop its test and say where")]

use std::net::SocketAddr;
use std::time::Duration;

use waxseal_tests::capture::WIRE;
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::middle::{Middle, Way};
use waxseal_tests::network::Pod;
use waxseal_tests::probe::{Door, Handle, Listen, Probe, Protocol, Request, handle, parse};
use waxseal_tests::root;
use waxseal_tests::stage::{Workload, allow_ingress, policy};

const OPEN: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

struct Scene {
    mesh: Mesh,
    caller: Workload,
    other: Workload,
    server: Workload,
    service: Handle,
}

fn scene(label: &str, plan: Plan<'_>) -> Scene {
    let mesh = Mesh::idle(label, plan);
    placed(mesh, |_, _| None)
}

/// Workloads in the nodes' own namespaces, or in pods behind them.
fn placed<'a>(mut mesh: Mesh, place: impl Fn(&Mesh, &str) -> Option<&'a Pod>) -> Scene {
    let [caller, other, mut server] =
        [("shop/caller", 0), ("shop/other", 0), ("shop/server", 1)].map(|(name, node)| {
            let pod = place(&mesh, name);
            mesh.workload(name, node, pod.map(|pod| &pod.netns))
        });
    mesh.start(&[]);
    for workload in [&caller, &other, &server] {
        mesh.home(workload).node.await_endpoint(&workload.cgroup.name());
    }
    let listen = Listen { peek: true, ..Listen::echo(Protocol::Tcp, parse(&format!("[::]:{OPEN}"))) };
    let (service, _) = server.probe.listen(listen);
    mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, &format!("[ {OPEN}/tcp ]")));
    Scene { mesh, caller, other, server, service }
}

impl Scene {
    /// The caller may and the other may not, at these addresses.
    fn assert_verdicts(&mut self, addresses: impl IntoIterator<Item = SocketAddr>, case: &str) {
        for to in addresses {
            assert_eq!(self.caller.probe.talk(Protocol::Tcp, to), None, "{case}: {to}");
            let reply = self.other.probe.connect(Protocol::Tcp, to);
            reply.assert_refused(&["ECONNREFUSED"], &format!("{case}: {to}"));
        }
    }
}

/// A good deal of data there and back.
fn carry(probe: &mut Probe, to: SocketAddr, bytes: usize) {
    let connection = handle(&probe.connect(Protocol::Tcp, to));
    let data = vec![0x5a; bytes];
    let mut heard = 0;
    for chunk in data.chunks(16 * 1024) {
        probe.must(&Request::Send { handle: connection, data: chunk.to_vec() });
        while heard < chunk.len() {
            let reply = probe.must(&Request::Receive { handle: connection, milliseconds: 2000 });
            assert!(!reply.data.is_empty(), "the connection ended early");
            heard += reply.data.len();
        }
        heard = 0;
    }
    probe.must(&Request::Close { handle: connection });
}

#[test]
fn a_narrow_path_and_every_kind_of_offload_carry_seals_and_data() {
    for (mtu, gso) in [(1280, true), (1500, false)] {
        let mut scene = scene("narrow", Plan { mtu, ..Plan::default() });
        if !gso {
            scene.mesh.network.sites.iter().for_each(waxseal_tests::network::Site::without_gso);
        }
        let case = format!("MTU {mtu}, offload {gso}");
        let targets = scene.mesh.both(1, OPEN);
        scene.assert_verdicts(targets, &case);
        for to in targets {
            carry(&mut scene.caller.probe, to, 100_000);
        }
    }
}

#[test]
fn a_router_without_checksum_offload_finds_every_checksum_right() {
    let mut scene = scene("checksums", Plan::default());
    // The middle makes checksums anew, as a device would, and the receiving kernel then believes none unchecked.
    let middle = Middle::honest(&scene.mesh.network);
    let targets = scene.mesh.both(1, OPEN);
    scene.assert_verdicts(targets, "checked");
    let sealed = middle.seen(Way::Forth).iter().filter(|frame| frame.experiment() == Some(WIRE)).count();
    assert!(sealed >= 4, "{sealed} sealed SYNs came by");
    let bad = scene.mesh.network.sites[1].netns.counter("Tcp", "InCsumErrors");
    assert_eq!(bad, 0, "the receiver found wrong checksums");
}

#[test]
fn workloads_in_pods_are_known_behind_their_nodes_own_translations() {
    let mesh = Mesh::idle("pods", Plan::default());
    let pods = [mesh.network.pod(0, 0), mesh.network.pod(0, 1), mesh.network.pod(1, 0)];
    // The receiver's pods have no agent of their own; their node's answers for them.
    let (pod, site) = (&pods[2].end, &mesh.network.sites[1].end);
    let ranges =
        format!("[ 10.0.0.0/8, fd00::/8, \"{}/32={}\", \"{}/128={}\" ]", pod.v4, site.v4, pod.v6, site.v6);
    mesh.nodes[0].node.set("mesh", &ranges);
    for site in &mesh.network.sites {
        // Out: every pod looks like its node. In: the node's port 80 is the pod's 8080.
        let masquerade = format!(
            "table inet nat {{
               chain out {{ type nat hook postrouting priority srcnat; oifname \"{0}\" iifname \"wire*\" masquerade; }}
             }}",
            site.wire
        );
        site.netns.nft(&masquerade);
    }
    mesh.network.sites[1].netns.nft(&format!(
        "table ip dnat4 {{
           chain in {{ type nat hook prerouting priority dstnat; iifname \"wire2\" tcp dport 80 dnat to {}:{OPEN}; }}
         }}
         table ip6 dnat6 {{
           chain in {{ type nat hook prerouting priority dstnat; iifname \"wire2\" tcp dport 80 dnat to [{}]:{OPEN}; }}
         }}",
        pods[2].end.v4, pods[2].end.v6
    ));
    let mut scene = placed(mesh, |_, name| match name {
        "shop/caller" => Some(&pods[0]),
        "shop/other" => Some(&pods[1]),
        _ => Some(&pods[2]),
    });
    let tap = scene.mesh.nodes[1].node.tap();
    let translated = scene.mesh.both(1, 80);
    scene.assert_verdicts(translated, "translated on both sides");
    let direct = pods[2].end.both().map(|ip| SocketAddr::new(ip, OPEN));
    scene.assert_verdicts(direct, "translated at the sender");
    let flow = tap.expect("the caller by name", SOON, |flow| {
        flow.is("allow") && flow.between("shop/caller", "shop/server", OPEN)
    });
    assert_eq!(flow.text("session.node"), "node-a", "{flow:?}");
}

#[test]
fn a_port_that_is_redirected_on_arrival_is_judged_by_the_listener_that_answers() {
    let mut scene = scene("redirect", Plan::default());
    scene.mesh.network.sites[1].netns.nft(&format!(
        "table inet turn {{
           chain in {{ type nat hook prerouting priority dstnat; tcp dport 80 redirect to :{OPEN}; }}
         }}"
    ));
    let targets = scene.mesh.both(1, 80);
    scene.assert_verdicts(targets, "redirected");
}

#[test]
fn extension_headers_before_a_sealed_syn_change_nothing() {
    let mut scene = scene("extensions", Plan::default());
    let [_, to] = scene.mesh.both(1, OPEN);
    // Hop-by-hop (54) and destination options (59) of eight bytes each, which hold only padding.
    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let sets: [&[i32]; 3] = [&[59], &[54], &[54, 59]];
    for names in sets {
        for (probe, may) in [(&mut scene.caller.probe, true), (&mut scene.other.probe, false)] {
            let socket = handle(&probe.must(&Request::Socket { protocol: Protocol::Tcp, like: to }));
            for name in names {
                let data = padding.clone();
                probe.must(&Request::SetOption {
                    handle: socket,
                    level: libc::IPPROTO_IPV6,
                    name: *name,
                    data,
                });
            }
            let reply =
                probe.ask(&Request::ConnectSocket { handle: socket, address: to, milliseconds: 3000 });
            assert_eq!(reply.errno.is_none(), may, "{names:?}: {reply:?}");
            if may {
                let pong = probe.ask(&Request::Ping { handle: socket, milliseconds: 1000 });
                assert_eq!(pong.errno, None, "{names:?}");
            }
        }
    }
}

#[test]
fn every_way_to_ask_for_a_connection_is_judged_by_the_same_name() {
    let mut scene = scene("doors", Plan::default());
    for site in &scene.mesh.network.sites {
        site.netns.set("ipv4/tcp_fastopen", "3");
    }
    let mut accepted = 0;
    for to in scene.mesh.both(1, OPEN) {
        for door in Door::ALL {
            // Fast Open twice: the first asks for a cookie, the second has one and leaves no room for a seal.
            for round in 0..2 {
                let reply = scene.caller.probe.connect_by(door, Protocol::Tcp, to);
                assert_eq!(reply.errno, None, "{door:?} to {to}, round {round}: {reply:?}");
            }
            // connect() returns before accept() does.
            accepted += 2;
            root::wait(&format!("{door:?} to {to} is accepted"), SOON, || {
                (scene.server.probe.seen(scene.service) == accepted).then_some(())
            });
            for round in 0..2 {
                let reply = scene.other.probe.connect_by(door, Protocol::Tcp, to);
                assert!(reply.errno.is_some(), "{door:?} to {to}, round {round}: {reply:?}");
            }
            assert_eq!(scene.server.probe.seen(scene.service), accepted, "{door:?} to {to}");
        }
    }
    // The kernel then sends once more without cookie and data, which leaves room.
    assert!(scene.mesh.counter(0, "seal-no-room") > 0, "Fast Open with a cookie leaves no room");
}

#[test]
fn a_client_with_tcp_md5_has_no_room_for_a_seal_and_no_identity() {
    const TCP_MD5SIG: i32 = 14;
    let mut scene = scene("md5", Plan::default());
    let to = scene.mesh.at(1, OPEN);
    let (server, client) = (to.ip(), scene.mesh.at(0, 0).ip());
    let (listener, _) = scene
        .server
        .probe
        .listen(Listen { echo: false, ..Listen::echo(Protocol::Tcp, parse(&format!("{server}:8082"))) });
    let rules = allow_ingress("caller", "shop/server", &scene.caller, "[ 8080/tcp, 8082/tcp ]");
    scene.mesh.nodes[1].apply(&rules);
    scene.server.probe.must(&Request::SetOption {
        handle: listener,
        level: libc::IPPROTO_TCP,
        name: TCP_MD5SIG,
        data: md5_key(client),
    });
    let to = SocketAddr::new(server, 8082);
    let mut connect = |milliseconds| {
        let probe = &mut scene.caller.probe;
        let socket = handle(&probe.must(&Request::Socket { protocol: Protocol::Tcp, like: to }));
        let data = md5_key(server);
        probe.must(&Request::SetOption { handle: socket, level: libc::IPPROTO_TCP, name: TCP_MD5SIG, data });
        probe.ask(&Request::ConnectSocket { handle: socket, address: to, milliseconds })
    };
    // 20 bytes of MD5 and 12 of the kernel's own leave 8: whoever lets in only by name lets nobody in.
    let refused = connect(1500);
    assert!(refused.errno.is_some(), "{refused:?}");
    assert!(scene.mesh.counter(0, "seal-no-room") > 0, "it is counted");
    let rules = "  ingress:\n    - from: [ { entity: any } ]";
    scene.mesh.nodes[1].apply(&policy("caller", "shop/server", rules));
    let taps = [0, 1].map(|node| scene.mesh.nodes[node].node.tap());
    let allowed = connect(1500);
    assert_eq!(allowed.errno, None, "whoever lets in anybody lets it in");
    taps[0].expect("a flow that names it", SOON, |flow| {
        flow.is("allow") && flow.text("port") == "8082" && flow.text("seal") == "no-room"
    });
    taps[1].expect("somebody unknown", SOON, |flow| {
        flow.is("allow") && flow.text("port") == "8082" && flow.text("source.name") == "unknown"
    });
}

/// `struct tcp_md5sig`: a `sockaddr_storage`, flags, prefix, key length, interface, 80 bytes of key.
fn md5_key(peer: std::net::IpAddr) -> Vec<u8> {
    let mut data = vec![0u8; 128];
    data[..2].copy_from_slice(&2u16.to_ne_bytes());
    if let std::net::IpAddr::V4(v4) = peer {
        data[4..8].copy_from_slice(&v4.octets());
    }
    let key = b"not a secret";
    data.extend([0, 0]);
    data.extend(u16::try_from(key.len()).unwrap().to_ne_bytes());
    data.extend([0; 4]);
    data.extend(key);
    data.resize(216, 0);
    data
}

#[test]
fn a_wire_that_is_laid_later_is_guarded_from_its_first_packet() {
    let mut scene = scene("late", Plan::default());
    let targets = scene.mesh.both(1, OPEN);
    scene.assert_verdicts(targets, "the wire that was there");
    // A second wire between the two nodes, past the router.
    let [a, b] = [0, 1].map(|node| &scene.mesh.network.sites[node].netns);
    let (_, far) = a.wire(b, 40);
    let mut stranger = scene.mesh.stranger(0);
    for ip in far.both() {
        let to = SocketAddr::new(ip, OPEN);
        let before = scene.server.probe.seen(scene.service);
        assert!(stranger.probe.connect(Protocol::Tcp, to).errno.is_some(), "{to}: a stranger");
        assert!(scene.other.probe.connect(Protocol::Tcp, to).errno.is_some(), "{to}: another workload");
        assert_eq!(scene.server.probe.seen(scene.service), before, "{to}");
        root::wait(&format!("the caller may by {to}"), SOON, || {
            scene.caller.probe.talk(Protocol::Tcp, to).is_none().then_some(())
        });
    }
}
