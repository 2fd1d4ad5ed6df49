//! Handshakes a second between two agents in this process, and between two ends of rustls alone: mutual TLS 1.3 with the
//! same cryptography, chains of the same length, each on a new connection, nothing resumed. Rounds alternate.
//!
//! `waxseal-bench-handshakes ROUNDS [SECONDS]`; prints JSON, `[["waxseal", [..]], ["raw rustls", [..]]]`. SECONDS shorter than a half
//! make small rounds.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use waxseal::cidr::Cidr;
use waxseal::mesh::{
    Ask, Certificates, Ended, Later, Live, Local, Mesh, Node, NotAdmitted, Options, Parts, Table, TableError,
    Target,
};
use waxseal::pki::{Authority, Lifetimes, Peer, Setup, Svid, Trust, node_id, provider};
use waxseal::spiffe::SpiffeId;
use waxseal::workload::Labels;
use waxseal_common::address::Address;
use waxseal_common::ids::{IdentityId, NetnsId, protocol};
use waxseal_common::state::{Tuple, UdpFlow};
use waxseal_common::wire::{Announced, Asks, Route, RouteKey, Session, Spi};

/// Callers on the one node; an agent limits how often one workload may ask.
const CALLERS: u32 = 8;
/// Where the other node is.
const THERE: [u8; 4] = [10, 0, 0, 2];
/// Handshakes at a time, which is also what an agent allows itself towards another one.
const AT_ONCE: u32 = 16;
const PATIENCE: Duration = Duration::from_secs(60);
const DOMAIN: &str = "example.org";

fn main() -> Result<()> {
    let argument = |place| std::env::args().nth(place);
    let rounds: usize = argument(1).map_or(Ok(7), |text| text.parse())?;
    let seconds: f64 = argument(2).map_or(Ok(1.0), |text| text.parse())?;
    let count = if seconds < 0.5 { CALLERS * 25 } else { CALLERS * 100 };
    let directory = std::env::temp_dir().join(format!("waxseal-bench-handshakes-{}", std::process::id()));
    std::fs::create_dir_all(&directory).context("a directory for files")?;
    let measured = measure(&directory, rounds, count);
    let _left_behind = std::fs::remove_dir_all(&directory);
    writeln!(io::stdout(), "{}", serde_json::to_string(&measured?)?)?;
    Ok(())
}

fn measure(directory: &Path, rounds: usize, count: u32) -> Result<[(&'static str, Vec<f64>); 2]> {
    let setup = Setup { trust_domain: DOMAIN.parse()?, root_key: None, lifetimes: Lifetimes::default() };
    let authority = Authority::create(&directory.join("ca"), &setup, SystemTime::now())?;
    let raw = Raw::new()?;
    let [mut ours, mut theirs] = [const { Vec::new() }; 2];
    for round in 0..rounds {
        // The order alternates too.
        for own in [round % 2 == 0, round % 2 != 0] {
            if own {
                ours.push(waxseal(&authority, &directory.join(round.to_string()), count)?);
            } else {
                theirs.push(raw.run(count)?);
            }
        }
    }
    Ok([("waxseal", ours), ("raw rustls", theirs)])
}

/// Two agents that have never met; handshakes a second, from the kernel's question to the route in its table.
fn waxseal(authority: &Authority, directory: &Path, count: u32) -> Result<f64> {
    let runtime = runtime()?;
    let there = Site::new(authority, &directory.join("there"), "there", &["server".to_owned()])?;
    let agent = runtime.block_on(there.start(0, Vec::new()))?.1;
    let callers: Vec<String> = (0..CALLERS).map(|number| format!("caller-{number}")).collect();
    let here = Site::new(authority, &directory.join("here"), "here", &callers)?;
    let address = Address::from(IpAddr::from(THERE));
    let (mesh, _) = runtime.block_on(here.start(0, vec![(Cidr::new(address, 128), agent)]))?;
    let keys: Vec<RouteKey> = (0..count).map(key).collect();
    // The first handshake also opens the link between the two agents.
    ask(&runtime, &mesh, key(count));
    here.table.wait(1)?;
    let start = Instant::now();
    for key in keys {
        ask(&runtime, &mesh, key);
    }
    here.table.wait(count as usize + 1)?;
    let took = start.elapsed().as_secs_f64();
    let failed = here.table.lock().routes.values().filter(|route| !route.has_session()).count();
    ensure!(failed == 0, "{failed} handshakes failed");
    runtime.shutdown_background();
    Ok(f64::from(count) / took)
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("a runtime")
}

/// Each caller goes to ports of its own.
fn key(number: u32) -> RouteKey {
    RouteKey {
        destination: Address::from(IpAddr::from(THERE)),
        source: IdentityId(256 + number % CALLERS),
        port: 1000 + number as u16,
        protocol: protocol::TCP,
        pad: 0,
    }
}

fn ask(runtime: &Runtime, mesh: &Mesh, route: RouteKey) {
    let flow = Tuple {
        source: Address::from_v4([10, 9, 9, 9]),
        destination: route.destination,
        source_port: 40_000,
        destination_port: route.port,
        netns: NetnsId(0),
    };
    let _entered = runtime.enter();
    mesh.ask(Ask { asks: Asks::Intent, route, flow, spi: Spi(0), packet: None });
}

/// A node with these workloads; the first number is 256. The first of them listens everywhere.
struct Site {
    trust: Trust,
    certificates: Arc<Files>,
    table: Arc<Memory>,
    host: Arc<Host>,
    state: std::path::PathBuf,
}

impl Site {
    fn new(authority: &Authority, state: &Path, name: &str, workloads: &[String]) -> Result<Self> {
        std::fs::create_dir_all(state).context("a directory for the state")?;
        let svid = |id: &SpiffeId| -> Result<Arc<Svid>> {
            let mut issued = authority.issue(std::slice::from_ref(id), id, SystemTime::now())?;
            Ok(issued.pop().context("no certificate")??)
        };
        let (mut svids, mut locals) = (HashMap::new(), HashMap::new());
        for (number, workload) in workloads.iter().enumerate() {
            let id: SpiffeId = format!("spiffe://{DOMAIN}/ns/test/sa/{workload}").parse()?;
            let identity = IdentityId(256 + number as u32);
            svids.insert(id.clone(), svid(&id)?);
            locals.insert(identity, Local { identity, id, labels: Labels::new() });
        }
        let node = svid(&node_id(&DOMAIN.parse()?, name).context("a name for the node")?)?;
        Ok(Self {
            trust: Trust::new(authority.publication().bundles()?),
            certificates: Arc::new(Files { node, svids }),
            table: Arc::default(),
            host: Arc::new(Host { locals, admitted: Mutex::default() }),
            state: state.to_path_buf(),
        })
    }

    async fn start(&self, port: u16, agents: Vec<(Cidr, SocketAddr)>) -> Result<(Mesh, SocketAddr)> {
        let options = Options {
            port,
            agents,
            longest: Duration::from_hours(1),
            state: self.state.clone(),
            resumes: false,
        };
        let mesh = Mesh::start(Parts {
            options,
            trust: self.trust.clone(),
            certificates: Arc::clone(&self.certificates) as Arc<_>,
            table: Arc::clone(&self.table) as Arc<_>,
            node: Arc::clone(&self.host) as Arc<_>,
        });
        let address = mesh.listen(([127, 0, 0, 1], port).into()).await?;
        Ok((mesh, address))
    }
}

/// Certificates that are there.
struct Files {
    node: Arc<Svid>,
    svids: HashMap<SpiffeId, Arc<Svid>>,
}

impl Certificates for Files {
    fn node(&self) -> Option<Arc<Svid>> {
        Some(Arc::clone(&self.node))
    }

    fn svid(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        self.svids.get(id).cloned()
    }

    fn wait_for<'a>(&'a self, id: &'a SpiffeId, _: Duration) -> Later<'a, Option<Arc<Svid>>> {
        Box::pin(async move { self.svid(id) })
    }
}

/// The node around.
struct Host {
    locals: HashMap<IdentityId, Local>,
    admitted: Mutex<Vec<SpiffeId>>,
}

impl Node for Host {
    fn workload(&self, identity: IdentityId) -> Option<Local> {
        self.locals.get(&identity).cloned()
    }

    fn listener(&self, _: Target) -> Later<'_, io::Result<Option<Local>>> {
        Box::pin(async move { Ok(self.workload(IdentityId(256))) })
    }

    fn admit(&self, peer: Arc<Peer>, _: Labels) -> Later<'_, Result<IdentityId, NotAdmitted>> {
        let mut admitted = lock(&self.admitted);
        let known = admitted.iter().position(|known| known == peer.id());
        let number = known.unwrap_or_else(|| {
            admitted.push(peer.id().clone());
            admitted.len() - 1
        });
        Box::pin(async move { Ok(IdentityId(1000 + number as u32)) })
    }

    fn end(&self, _: Ended) {}

    fn learned(&self, _: bool, _: u32, _: &SpiffeId, _: u64) {}
}

/// The kernel's tables, as far as handshakes use them.
#[derive(Default)]
struct Memory(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    sessions: HashMap<Spi, Session>,
    routes: HashMap<RouteKey, Route>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        lock(&self.0)
    }

    /// Waits until there are that many routes.
    fn wait(&self, count: usize) -> Result<()> {
        let start = Instant::now();
        while self.lock().routes.len() < count {
            ensure!(start.elapsed() < PATIENCE, "only {} of {count} routes came", self.lock().routes.len());
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table for Memory {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
    }

    fn install_session(&self, spi: Spi, session: &Session) -> Result<(), TableError> {
        self.lock().sessions.insert(spi, *session);
        Ok(())
    }

    fn session(&self, spi: Spi) -> Option<Session> {
        self.lock().sessions.get(&spi).copied()
    }

    fn shorten_session(&self, _: Spi, _: u64) {}

    fn remove_session(&self, spi: Spi) {
        self.lock().sessions.remove(&spi);
    }

    fn sessions(&self) -> Vec<(Spi, Session)> {
        self.lock().sessions.iter().map(|(spi, session)| (*spi, *session)).collect()
    }

    fn put_route(&self, key: &RouteKey, route: &Route) -> Result<(), TableError> {
        self.lock().routes.insert(*key, *route);
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

    fn announce(&self, _: &Tuple, _: &Announced) -> Result<(), TableError> {
        Ok(())
    }

    fn announced(&self) -> Vec<(Tuple, Announced)> {
        Vec::new()
    }

    fn withdraw(&self, _: &Tuple) {}

    fn flow(&self, _: &Tuple) -> Option<UdpFlow> {
        None
    }

    fn put_flow(&self, _: &Tuple, _: &UdpFlow) -> Result<(), TableError> {
        Ok(())
    }

    fn remove_flow(&self, _: &Tuple) {}

    fn live(&self) -> Live {
        Live::default()
    }
}

/// rustls as its documentation shows it, with certificates of a root and an intermediate.
struct Raw {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Raw {
    fn new() -> Result<Self> {
        let authority = |name: &str| -> Result<(CertificateParams, KeyPair)> {
            let mut params = CertificateParams::new(Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            Ok((params, KeyPair::generate()?))
        };
        let (root, root_key) = authority("root")?;
        let mut roots = RootCertStore::empty();
        roots.add(root.self_signed(&root_key)?.der().clone())?;
        let (middle, middle_key) = authority("intermediate")?;
        let root = Issuer::new(root, root_key);
        let signed = middle.signed_by(&middle_key, &root)?.der().clone();
        let middle = Issuer::new(middle, middle_key);
        let leaf = || -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
            let key = KeyPair::generate()?;
            let leaf = CertificateParams::new(vec![DOMAIN.to_owned()])?.signed_by(&key, &middle)?;
            let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
            Ok((vec![leaf.der().clone(), signed.clone()], der))
        };
        let roots = Arc::new(roots);
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
                .build()?;
        let (chain, key) = leaf()?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.send_tls13_tickets = 0;
        let (chain, key) = leaf()?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// Handshakes a second, each with a byte from the server, without which a client of TLS 1.3 knows nothing.
    fn run(&self, count: u32) -> Result<f64> {
        let runtime = runtime()?;
        let took = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let to = listener.local_addr()?;
            let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        if let Ok(mut stream) = acceptor.accept(stream).await {
                            let _closed = stream.write_all(&[1]).await;
                            let _closed = stream.shutdown().await;
                        }
                    });
                }
            });
            let start = Instant::now();
            let tasks: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    tokio::spawn(some(TlsConnector::from(Arc::clone(&self.client)), to, count / AT_ONCE))
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(start.elapsed())
        })?;
        runtime.shutdown_background();
        Ok(f64::from(count / AT_ONCE * AT_ONCE) / took.as_secs_f64())
    }
}

async fn some(connector: TlsConnector, to: SocketAddr, count: u32) -> Result<()> {
    for _ in 0..count {
        let stream = TcpStream::connect(to).await?;
        let mut stream = connector.connect(ServerName::try_from(DOMAIN)?, stream).await?;
        stream.read_u8().await?;
    }
    Ok(())
}
