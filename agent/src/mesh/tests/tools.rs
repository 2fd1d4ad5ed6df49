//! An authority, nodes on loopback, tables in memory.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use waxseal_common::address::Address;
use waxseal_common::ids::{IdentityId, NetnsId, protocol};
use waxseal_common::state::{Tuple, UdpFlow};
use waxseal_common::wire::{Announced, Asks, Route, RouteKey, Session, Spi};

use crate::cidr::Cidr;
use crate::mesh::inner::Inner;
use crate::mesh::{
    Ask, Certificates, Ended, Later, Live, Local, Mesh, Node, NotAdmitted, Options, Parts, Table, TableError,
    Target,
};
use crate::pki::{Authority, Lifetimes, Peer, Setup, Svid, Trust, node_id};
use crate::spiffe::SpiffeId;
use crate::workload::Labels;

pub(super) const SOON: Duration = Duration::from_secs(10);

/// Waits until something is so.
pub(super) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SOON, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An authority.
pub(super) struct World {
    pub(super) authority: Authority,
    pub(super) directory: TempDir,
}

pub(super) fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org{path}").parse().unwrap()
}

impl World {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            trust_domain: "example.org".parse().unwrap(),
            root_key: None,
            lifetimes: Lifetimes::default(),
        };
        let authority = Authority::create(&directory.path().join("ca"), &setup, SystemTime::now()).unwrap();
        Self { authority, directory }
    }

    pub(super) fn trust(&self) -> Trust {
        Trust::new(self.authority.publication().bundles().unwrap())
    }

    /// Tells a node what the authority says now.
    pub(super) fn tell(&self, site: &Site) {
        site.trust.replace(self.authority.publication().bundles().unwrap());
    }

    pub(super) fn svid(&self, id: &SpiffeId) -> Arc<Svid> {
        let mut issued = self.authority.issue(std::slice::from_ref(id), id, SystemTime::now()).unwrap();
        issued.pop().unwrap().unwrap()
    }

    pub(super) fn node(&self, name: &str) -> Arc<Svid> {
        self.svid(&node_id(&"example.org".parse().unwrap(), name).unwrap())
    }

    /// A node with these workloads; the first number is 256. All listen at `port(number)` of the node's address.
    pub(super) async fn site(&self, name: &str, workloads: &[&str]) -> Site {
        self.site_at(name, workloads, 0).await
    }

    pub(super) async fn site_at(&self, name: &str, workloads: &[&str], port: u16) -> Site {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let host = Host::default();
        let mut svids = HashMap::new();
        for (number, workload) in workloads.iter().enumerate() {
            let id = id(&format!("/ns/test/sa/{workload}"));
            let identity = IdentityId(256 + number as u32);
            let labels = Labels::from([("app".to_owned(), (*workload).to_owned())]);
            svids.insert(id.clone(), self.svid(&id));
            host.locals.lock().unwrap().insert(identity, Local { identity, id, labels });
        }
        let certificates =
            Arc::new(Files { node: Mutex::new(Some(self.node(name))), svids: Mutex::new(svids) });
        let state = self.directory.path().join(format!("{name}-{number}"));
        std::fs::create_dir_all(&state).unwrap();
        let mut site = Site {
            trust: self.trust(),
            certificates,
            table: Arc::new(Memory::default()),
            host: Arc::new(host),
            state,
            agents: Vec::new(),
            resumes: false,
            agent: ([127, 0, 0, 1], port).into(),
            mesh: None,
        };
        site.start().await;
        site
    }
}

/// One node.
pub(super) struct Site {
    pub(super) trust: Trust,
    pub(super) certificates: Arc<Files>,
    pub(super) table: Arc<Memory>,
    pub(super) host: Arc<Host>,
    state: std::path::PathBuf,
    pub(super) agents: Vec<(Cidr, SocketAddr)>,
    pub(super) resumes: bool,
    /// Where its agent answers.
    pub(super) agent: SocketAddr,
    mesh: Option<(Mesh, tokio::runtime::Runtime)>,
}

impl Site {
    /// Starts an agent in a runtime of its own, so that it can be killed.
    pub(super) async fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let parts = Parts {
            options: Options {
                port: self.agent.port(),
                agents: self.agents.clone(),
                state: self.state.clone(),
                resumes: self.resumes,
                longest: Duration::from_hours(1),
            },
            trust: self.trust.clone(),
            certificates: Arc::clone(&self.certificates) as Arc<_>,
            table: Arc::clone(&self.table) as Arc<_>,
            node: Arc::clone(&self.host) as Arc<_>,
        };
        let _entered = runtime.handle().clone();
        let address = self.agent;
        let started = runtime.spawn(async move {
            let mesh = Mesh::start(parts);
            let mut tries = 0;
            loop {
                match mesh.listen(address).await {
                    Ok(address) => return (mesh, address),
                    Err(error) if tries > 100 => panic!("{error}"),
                    Err(_) => tries += 1,
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let (mesh, address) = started.await.unwrap();
        self.agent = address;
        self.mesh = Some((mesh, runtime));
    }

    /// Ends the agent as SIGKILL would.
    pub(super) fn kill(&mut self) {
        if let Some((_, runtime)) = self.mesh.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts the agent again, with what it left.
    pub(super) async fn restart(&mut self) {
        self.kill();
        self.resumes = true;
        self.start().await;
    }

    /// From now on that node's agent answers for that address.
    pub(super) async fn knows(&mut self, address: &str, other: &Self) {
        let address = Address::from(address.parse::<IpAddr>().unwrap());
        self.agents.push((Cidr::new(address, 128), other.agent));
        self.kill();
        self.start().await;
    }

    pub(super) fn mesh(&self) -> &Mesh {
        &self.mesh.as_ref().expect("the agent runs").0
    }

    pub(super) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.mesh().0)
    }

    /// Asks as the kernel would, inside the agent's runtime. Returns where a released packet is counted.
    pub(super) fn ask(&self, asks: Asks, key: RouteKey) -> Arc<AtomicUsize> {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let packet = (asks == Asks::Hold).then(|| {
            Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }) as crate::mesh::Packet
        });
        let (mesh, runtime) = self.mesh.as_ref().unwrap();
        let _entered = runtime.enter();
        mesh.ask(Ask { asks, route: key, flow: flow(&key, 40_000), spi: Spi(0), packet });
        sent
    }

    /// Asks for a session and waits for the answer.
    pub(super) async fn open(&self, key: RouteKey) -> Route {
        self.ask(Asks::Intent, key);
        eventually("a route", || self.table.route(&key).is_some()).await;
        self.table.route(&key).unwrap()
    }

    /// What was counted under that name.
    pub(super) fn count(&self, name: &str) -> u64 {
        self.mesh().summary().counters[name]
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A destination of the first workload of a node.
pub(super) fn tcp(address: &str, port: u16) -> RouteKey {
    RouteKey {
        destination: Address::from(address.parse::<IpAddr>().unwrap()),
        source: IdentityId(256),
        port,
        protocol: protocol::TCP,
        pad: 0,
    }
}

pub(super) fn flow(key: &RouteKey, port: u16) -> Tuple {
    Tuple {
        source: Address::from_v4([10, 9, 9, 9]),
        destination: key.destination,
        source_port: port,
        destination_port: key.port,
        netns: NetnsId(0),
    }
}

/// Certificates that are there.
pub(super) struct Files {
    pub(super) node: Mutex<Option<Arc<Svid>>>,
    pub(super) svids: Mutex<HashMap<SpiffeId, Arc<Svid>>>,
}

impl Certificates for Files {
    fn node(&self) -> Option<Arc<Svid>> {
        self.node.lock().unwrap().clone()
    }

    fn svid(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        self.svids.lock().unwrap().get(id).cloned()
    }

    fn wait_for<'a>(&'a self, id: &'a SpiffeId, _: Duration) -> Later<'a, Option<Arc<Svid>>> {
        Box::pin(async move { self.svid(id) })
    }
}

/// The node around.
#[derive(Default)]
pub(super) struct Host {
    pub(super) locals: Mutex<HashMap<IdentityId, Local>>,
    pub(super) listeners: Mutex<HashMap<Target, IdentityId>>,
    pub(super) admitted: Mutex<Vec<(SpiffeId, Labels)>>,
    pub(super) ended: Mutex<Ended>,
}

impl Host {
    /// That workload answers at that address from now on.
    pub(super) fn listen(&self, key: &RouteKey, workload: u32) {
        let target = Target { address: key.destination, port: key.port, protocol: key.protocol };
        self.listeners.lock().unwrap().insert(target, IdentityId(workload));
    }
}

impl Node for Host {
    fn workload(&self, identity: IdentityId) -> Option<Local> {
        self.locals.lock().unwrap().get(&identity).cloned()
    }

    fn listener(&self, target: Target) -> Later<'_, io::Result<Option<Local>>> {
        let owner = self.listeners.lock().unwrap().get(&target).copied();
        Box::pin(async move { Ok(owner.and_then(|owner| self.workload(owner))) })
    }

    fn admit(&self, peer: Arc<Peer>, labels: Labels) -> Later<'_, Result<IdentityId, NotAdmitted>> {
        let mut admitted = self.admitted.lock().unwrap();
        let who = (peer.id().clone(), labels);
        let known = admitted.iter().position(|known| *known == who);
        let number = known.unwrap_or_else(|| {
            admitted.push(who);
            admitted.len() - 1
        });
        Box::pin(async move { Ok(IdentityId(1000 + number as u32)) })
    }

    fn end(&self, ended: Ended) {
        let mut all = self.ended.lock().unwrap();
        all.opened.extend(ended.opened);
        all.accepted.extend(ended.accepted);
    }

    fn learned(&self, _: bool, _: u32, _: &SpiffeId, _: u64) {}
}

/// The kernel's tables.
#[derive(Default)]
pub(super) struct Memory {
    tables: Mutex<Tables>,
    /// By how much the clock is ahead.
    ahead: AtomicU64,
    pub(super) live: Mutex<Live>,
}

#[derive(Default)]
struct Tables {
    sessions: BTreeMap<Spi, Session>,
    routes: HashMap<RouteKey, Route>,
    announced: HashMap<Tuple, Announced>,
    flows: HashMap<Tuple, UdpFlow>,
    /// When each was written, to compare two nodes.
    installed: HashMap<Spi, Instant>,
    routed: HashMap<RouteKey, Instant>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    pub(super) fn forward(&self, by: Duration) {
        self.ahead.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn installed(&self, spi: Spi) -> Instant {
        self.lock().installed[&spi]
    }

    pub(super) fn routed(&self, key: &RouteKey) -> Instant {
        self.lock().routed[key]
    }

    /// As the kernel does when it seals.
    pub(super) fn use_route(&self, key: &RouteKey) {
        self.lock().routes.get_mut(key).unwrap().opened += 1;
    }
}

impl Table for Memory {
    fn now(&self) -> u64 {
        monotonic() + self.ahead.load(Ordering::Relaxed)
    }

    fn install_session(&self, spi: Spi, session: &Session) -> Result<(), TableError> {
        let mut tables = self.lock();
        if tables.sessions.contains_key(&spi) {
            return Err(TableError::Exists("SESSIONS"));
        }
        tables.sessions.insert(spi, *session);
        tables.installed.insert(spi, Instant::now());
        Ok(())
    }

    fn session(&self, spi: Spi) -> Option<Session> {
        self.lock().sessions.get(&spi).copied()
    }

    fn shorten_session(&self, spi: Spi, expires: u64) {
        if let Some(session) = self.lock().sessions.get_mut(&spi) {
            session.expires = session.expires.min(expires);
        }
    }

    fn remove_session(&self, spi: Spi) {
        self.lock().sessions.remove(&spi);
    }

    fn sessions(&self) -> Vec<(Spi, Session)> {
        self.lock().sessions.iter().map(|(spi, session)| (*spi, *session)).collect()
    }

    fn put_route(&self, key: &RouteKey, route: &Route) -> Result<(), TableError> {
        let mut tables = self.lock();
        tables.routes.insert(*key, *route);
        tables.routed.insert(*key, Instant::now());
        Ok(())
    }

    fn route(&self, key: &RouteKey) -> Option<Route> {
        self.lock().routes.get(key).copied()
    }

    fn remove_route(&self, key: &RouteKey) {
        self.lock().routes.remove(key);
    }

    fn routes(&self) -> Vec<(RouteKey, Route)> {
        self.lock().routes.iter().map(|(key, route)| (*key, *route)).collect()
    }

    fn announce(&self, flow: &Tuple, announced: &Announced) -> Result<(), TableError> {
        self.lock().announced.insert(*flow, *announced);
        Ok(())
    }

    fn announced(&self) -> Vec<(Tuple, Announced)> {
        self.lock().announced.iter().map(|(flow, announced)| (*flow, *announced)).collect()
    }

    fn withdraw(&self, flow: &Tuple) {
        self.lock().announced.remove(flow);
    }

    fn flow(&self, flow: &Tuple) -> Option<UdpFlow> {
        self.lock().flows.get(flow).copied()
    }

    fn put_flow(&self, flow: &Tuple, entry: &UdpFlow) -> Result<(), TableError> {
        self.lock().flows.insert(*flow, *entry);
        Ok(())
    }

    fn remove_flow(&self, flow: &Tuple) {
        self.lock().flows.remove(flow);
    }

    fn live(&self) -> Live {
        self.live.lock().unwrap().clone()
    }
}

pub(super) fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos() as u64
}
