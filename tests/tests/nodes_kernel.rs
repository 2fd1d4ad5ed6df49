//! The programs at the border alone: sessions written by hand, no handshake. What the kernel makes of a SYN between nodes.

#![expect(clippy::unwrap_used, reason = "a scene that cannot be made must stop its test and say where")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData};
use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::state::Settings;
use waxseal_common::wire::{Route, RouteKey, Session, SessionKey, Spi};
use waxseal_tests::capture::WIRE;
use waxseal_tests::middle::{Middle, Way};
use waxseal_tests::network::Network;
use waxseal_tests::node;
use waxseal_tests::probe::{Handle, Protocol};
use waxseal_tests::stage::{Stage, Workload, allow_ingress};

const OPEN: u16 = 8080;
const KEY: SessionKey = SessionKey([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
const SPI: Spi = Spi(0x00c0_ffee);

struct Scene {
    nodes: [Stage; 2],
    network: Network,
    caller: Workload,
    other: Workload,
    server: Workload,
    service: Handle,
    doubles: [Workload; 2],
}

fn table<K: aya::Pod, V: aya::Pod>(pins: &Path, name: &str) -> HashMap<MapData, K, V> {
    HashMap::try_from(Map::HashMap(MapData::from_pin(pins.join(name)).unwrap())).unwrap()
}

fn identity(stage: &Stage, workload: &Workload) -> IdentityId {
    let endpoint = stage.node.await_endpoint(&workload.cgroup.name());
    IdentityId(u32::try_from(endpoint["identity"].as_u64().unwrap()).unwrap())
}

/// The agents are strangers to each other; each knows the other's workload because one of the same name runs beside it.
fn scene(label: &str) -> Scene {
    let network = Network::new(2, 1500);
    let mut nodes = [0, 1].map(|node| {
        let more = format!("uplinks: {}\n", network.sites[node].wire);
        let settings = node::Settings { more: &more, ..node::Settings::default() };
        Stage::idle_in(&format!("{label}{node}"), settings, &network.sites[node].netns)
    });
    let [a, b] = [0, 1].map(|node| Some(&network.sites[node].netns));
    let caller = nodes[0].workload("shop/caller", a);
    let other = nodes[0].workload("shop/other", a);
    let mut server = nodes[1].workload("shop/server", b);
    let doubles = [nodes[0].workload("shop/server", a), nodes[1].workload("shop/caller", b)];
    for stage in &mut nodes {
        stage.write_documents();
        stage.node.start();
    }
    let (service, _) = server.probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    nodes[1].apply(&allow_ingress("caller", "shop/server", &caller, &format!("[ {OPEN}/tcp ]")));
    let scene = Scene { nodes, network, caller, other, server, service, doubles };
    scene.write();
    scene
}

impl Scene {
    fn both(&self) -> [SocketAddr; 2] {
        self.network.sites[1].end.both().map(|ip| SocketAddr::new(ip, OPEN))
    }

    fn write(&self) {
        let [a, b] = [0, 1].map(|node| self.nodes[node].node.layout_pins());
        let hour = waxseal::datapath::monotonic() + 3_600_000_000_000;
        for pins in [&a, &b] {
            let data = MapData::from_pin(pins.join("SETTINGS")).unwrap();
            let mut settings: Array<MapData, Settings> = Array::try_from(Map::Array(data)).unwrap();
            let mut value = settings.get(&0, 0).unwrap();
            value.mesh_until = hour;
            settings.set(0, value, 0).unwrap();
        }
        let mut routes = table::<RouteKey, Route>(&a, "ROUTES");
        for to in self.both() {
            let key = RouteKey {
                destination: Address::from(to.ip()),
                source: identity(&self.nodes[0], &self.caller),
                port: OPEN,
                protocol: 6,
                pad: 0,
            };
            let route = Route {
                key: KEY,
                expires: hour,
                spi: SPI,
                destination: identity(&self.nodes[0], &self.doubles[0]),
                session: 1,
                node: 1,
                ..Route::default()
            };
            routes.insert(key, route, 0).unwrap();
        }
        let session = Session {
            key: KEY,
            expires: hour,
            source: identity(&self.nodes[1], &self.doubles[1]),
            destination: identity(&self.nodes[1], &self.server),
            node: 1,
            ..Session::default()
        };
        table::<Spi, Session>(&b, "SESSIONS").insert(SPI, session, 0).unwrap();
    }
}

#[test]
fn a_session_in_the_maps_is_all_that_the_kernel_needs() {
    let mut scene = scene("kernel");
    let middle = Middle::honest(&scene.network);
    let tap = scene.nodes[1].node.tap();
    for (done, to) in scene.both().into_iter().enumerate() {
        assert_eq!(scene.caller.probe.talk(Protocol::Tcp, to), None, "{to}");
        assert_eq!(scene.server.probe.seen(scene.service), done as u64 + 1);
        let syn = middle.expect("the SYN", Way::Forth, |frame| frame.opens() && frame.destination() == to);
        assert_eq!((syn.experiment(), syn.number()), (Some(WIRE), Some(SPI.0)), "{to}");
        let reply = scene.other.probe.connect(Protocol::Tcp, to);
        assert!(reply.errno.is_some(), "{to}: without a session: {reply:?}");
    }
    assert_eq!(scene.server.probe.seen(scene.service), 2);
    let flow = tap.expect("the caller by name", Duration::from_secs(5), |flow| {
        flow.is("allow") && flow.between("shop/caller", "shop/server", OPEN)
    });
    assert_eq!(flow.text("seal"), "sealed");
    assert_eq!(scene.network.sites[1].netns.counter("Tcp", "InCsumErrors"), 0);
}
