//! A million forgeries through the very program that guards the node's wire, on the maps of a live session.

#![expect(clippy::expect_used, reason = "a scene that cannot be made must stop its test and say where")]

use std::fs::File;
use std::net::{SocketAddr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, loaded_programs};
use nix::sched::{CloneFlags, setns};
use waxseal_common::wire::{Arrival, Session, Spi};
use waxseal_tests::capture::{Frame, LOCAL, WIRE};
use waxseal_tests::mesh::Mesh;
use waxseal_tests::middle::{Middle, Way};
use waxseal_tests::packet::{Segment, forged_seal, frame};
use waxseal_tests::probe::{Door, Protocol, Request};
use waxseal_tests::stage::allow_ingress;

const OPEN: u16 = 8080;
/// How many.
const FORGERIES: u32 = 1_000_000;
/// `TC_ACT_SHOT`, which TCX calls DROP.
const DROP: u32 = 2;
/// Where `struct __sk_buff` has its `ifindex`.
const IFINDEX: usize = 40;

/// The program `tc_ingress` of the agent whose maps are pinned here.
fn ingress(pins: &std::path::Path) -> SchedClassifier {
    let sessions = MapInfo::from_pin(pins.join("SESSIONS")).expect("the map is pinned").id();
    let mine = loaded_programs().filter_map(Result::ok).find(|program| {
        let maps = program.map_ids().ok().flatten().unwrap_or_default();
        program.name_as_str() == Some("tc_ingress") && maps.contains(&sessions)
    });
    let mine = mine.expect("the agent has loaded tc_ingress");
    SchedClassifier::from_program_info(mine, "tc_ingress".into()).expect("it is a classifier")
}

fn table<K: aya::Pod, V: aya::Pod>(pins: &std::path::Path, name: &str) -> HashMap<MapData, K, V> {
    let data = MapData::from_pin(pins.join(name)).expect("the map is pinned");
    HashMap::try_from(Map::HashMap(data)).expect("it is a hash")
}

/// Runs the program on a frame as if it had come in by a device; the verdict, and the frame afterwards.
fn run(program: &SchedClassifier, device: u32, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut context = [0u8; 192];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&device.to_ne_bytes());
    let mut out = vec![0; frame.len() + 64];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).expect("the kernel runs it");
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

#[test]
fn a_million_forgeries_pass_nothing_and_leave_nothing_behind() {
    let (mesh, [mut caller, mut server]) = Mesh::new("million", [("shop/caller", 0), ("shop/server", 1)]);
    server.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    mesh.nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, &format!("[ {OPEN}/tcp ]")));
    let to = mesh.at(1, OPEN);
    assert_eq!(caller.probe.talk(Protocol::Tcp, to), None);
    let genuine = steal(&mesh, &mut caller.probe, to);
    let site = &mesh.network.sites[1];
    let genuine = genuine.between(site.end.mac, site.gate.mac);
    let pins = mesh.nodes[1].node.layout_pins();
    let netns = site.netns.path();
    let (near, gate) = (site.end.mac, site.gate.mac);
    let resident = mesh.nodes[1].node.resident_kib();
    // The program asks the namespace of its device; a thread of its own goes there.
    thread::spawn(move || {
        setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        let device = nix::net::if_::if_nametoindex("wire2").unwrap();
        let program = ingress(&pins);
        let arrivals = || table::<u64, Arrival>(&pins, "ARRIVALS").keys().count();
        let sessions = || table::<u32, Session>(&pins, "SESSIONS").keys().count();
        // What the test compares with: the genuine SYN becomes a true local seal.
        let (verdict, out) = run(&program, device, genuine.bytes());
        assert_ne!(verdict, DROP, "the genuine SYN passes");
        assert_eq!(Frame::read(&out).unwrap().experiment(), Some(LOCAL));
        let before = (arrivals(), sessions());
        let spi = Spi(genuine.number().unwrap());
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for index in 0..FORGERIES {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let forged = forgery(&genuine, index, state, spi, (near, gate));
            let (verdict, out) = run(&program, device, forged.bytes());
            if verdict == DROP {
                continue;
            }
            let left = Frame::read(&out).expect("a frame that passes is still one").experiment();
            assert!(
                left != Some(LOCAL) && left != Some(WIRE),
                "forgery {index} passed with an option: {forged:?}"
            );
        }
        assert_eq!((arrivals(), sessions()), before, "no entry is left behind");
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let grown = mesh.nodes[1].node.resident_kib().saturating_sub(resident);
    assert!(grown < 16 * 1024, "the agent has grown by {grown} KiB");
    assert_eq!(mesh.counter(1, "table-full"), 0);
    assert!(mesh.counter(1, "wire-forged") >= u64::from(FORGERIES) / 4);
}

/// Guesses of every kind: the MAC, the index, a bit of the genuine one, a seal of its own making.
fn forgery(genuine: &Frame, index: u32, state: u64, spi: Spi, (near, gate): ([u8; 6], [u8; 6])) -> Frame {
    let seal = genuine.seal().expect("the genuine SYN is sealed");
    let mut option = genuine.bytes()[seal.clone()].to_vec();
    match index % 4 {
        // The right session and a guessed MAC; never the true one.
        0 => option[8..].copy_from_slice(&(state | 1).to_be_bytes()),
        1 => option[4..8].copy_from_slice(&((state >> 32) as u32 ^ spi.0 | 0x8000_0000).to_be_bytes()),
        2 => {
            let syn = genuine.with(genuine.sequence_at(), &(state as u32).to_be_bytes());
            return if syn.sequence() == genuine.sequence() { genuine.stripped() } else { syn };
        }
        _ => {
            let (SocketAddr::V4(from), SocketAddr::V4(to)) = (genuine.source(), genuine.destination()) else {
                panic!("IPv4")
            };
            let mut option = forged_seal(spi.0, state);
            let experiment = if index % 8 == 3 { WIRE } else { LOCAL };
            option[2..4].copy_from_slice(&experiment.to_be_bytes());
            let from = SocketAddrV4::new(*from.ip(), (state >> 48) as u16 | 1024);
            let options = [&[1; 4][..], &option].concat();
            let syn = Segment { sequence: state as u32, options, ..Segment::syn(from, to) };
            return Frame::read(&frame(near, gate, &syn.packet())).expect("a frame");
        }
    }
    if option == genuine.bytes()[seal.clone()] {
        option[15] ^= 0x80;
    }
    genuine.with(seal, &option)
}

/// A SYN of the caller's that never arrived.
fn steal(mesh: &Mesh, caller: &mut waxseal_tests::probe::Probe, to: SocketAddr) -> Frame {
    let middle = Middle::start(&mesh.network, move |_, frame| {
        let theirs = frame.destination() == to || frame.source() == to;
        if theirs { Vec::new() } else { vec![frame.clone()] }
    });
    caller.begin(&Request::Connect {
        protocol: Protocol::Tcp,
        door: Door::Connect,
        from: None,
        address: to,
        v6_socket: false,
        milliseconds: 300,
    });
    let syn = middle.expect("the SYN", Way::Forth, |frame| frame.opens() && frame.destination() == to);
    caller.answer();
    thread::sleep(Duration::from_millis(50));
    drop(middle);
    mesh.network.router.forward();
    assert_eq!(syn.experiment(), Some(WIRE));
    syn
}
