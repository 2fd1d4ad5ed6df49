//! What joins the mesh to this node: certificates of the workloads that run here, who listens where, the kernel's tables
//! and rings.

mod admit;
mod credentials;
mod host;
mod listeners;
mod locals;
mod probe;
mod report;
mod rings;
mod table;
mod taps;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};
use waxseal_common::ids::IdentityId;

use super::Error;
use super::names::NameBook;
use crate::config::Config;
use crate::datapath::Sessions;
use crate::mesh::{Ended, Mesh, NotAdmitted, Options, Parts};
use crate::pki::{Credentials, Peer};
use crate::workload::Labels;
pub(super) use credentials::credentials;
use host::Host;
pub(super) use listeners::Place;
use listeners::Places;
pub(super) use locals::Locals;
pub(super) use rings::read;
use table::Kernel;
pub(super) use taps::Readers;

/// Requests to the control thread that may wait.
const REQUESTS: usize = 4096;

/// What the mesh asks of the control thread.
pub(super) enum Request {
    /// A number for a workload of another node, and the policy for it.
    Admit { peer: Arc<Peer>, labels: Labels, reply: oneshot::Sender<Result<IdentityId, NotAdmitted>> },
    /// The end of connections.
    End(Ended),
    /// A sealed SYN wanted to leave by a device without programs.
    Uncovered(u32),
}

/// What the control thread tells the mesh, and reads of it.
pub(super) struct Ties {
    pub(super) sessions: Arc<Sessions>,
    pub(super) locals: Arc<Locals>,
    pub(super) places: Arc<Places>,
    pub(super) credentials: Arc<Credentials>,
    /// Set once it stands.
    pub(super) mesh: Arc<OnceLock<Mesh>>,
}

/// Both ends of what ties the mesh to the control thread.
pub(super) struct Tied {
    pub(super) ties: Ties,
    pub(super) requests: mpsc::Receiver<Request>,
    host: Host,
    sessions: Arc<Sessions>,
    mesh: Arc<OnceLock<Mesh>>,
}

/// Prepares the tables and channels that both need. The kernel's maps are pinned by then.
pub(super) fn tie(
    config: &Config,
    credentials: &Arc<Credentials>,
    names: &Arc<NameBook>,
) -> Result<Tied, Error> {
    let sessions = Arc::new(Sessions::open(config)?);
    let (sender, requests) = mpsc::channel(REQUESTS);
    let locals = Arc::new(Locals::default());
    let places = Arc::new(Places::default());
    let host = Host {
        locals: Arc::clone(&locals),
        places: Arc::clone(&places),
        sessions: Arc::clone(&sessions),
        names: Arc::clone(names),
        control: sender,
    };
    let mesh = Arc::new(OnceLock::new());
    let ties = Ties {
        sessions: Arc::clone(&sessions),
        locals,
        places,
        credentials: Arc::clone(credentials),
        mesh: Arc::clone(&mesh),
    };
    Ok(Tied { ties, requests, host, sessions, mesh })
}

/// The part that starts once the control thread stands.
pub(super) struct Beginning {
    host: Host,
    sessions: Arc<Sessions>,
    mesh: Arc<OnceLock<Mesh>>,
}

impl Tied {
    /// The control thread's part, and the part that starts later.
    pub(super) fn split(self) -> (Ties, mpsc::Receiver<Request>, Beginning) {
        let Self { ties, requests, host, sessions, mesh } = self;
        (ties, requests, Beginning { host, sessions, mesh })
    }
}

impl Beginning {
    /// Starts the mesh and opens the agent port.
    pub(super) async fn start(
        self,
        config: &Config,
        resumed: bool,
        credentials: &Arc<Credentials>,
    ) -> Result<(Mesh, mpsc::Sender<Request>), Error> {
        let Self { host, sessions, mesh: place } = self;
        let control = host.control.clone();
        raise_descriptors();
        let options = Options {
            port: config.agent_port(),
            agents: config.agents.clone(),
            longest: config.session_lifetime,
            state: config.state.clone(),
            resumes: resumed,
        };
        let places = Arc::clone(&host.places);
        tokio::spawn(async move { places.let_go().await });
        let table = Arc::new(Kernel(sessions));
        tokio::spawn(table::age(Arc::clone(&table)));
        let mesh = Mesh::start(Parts {
            options,
            trust: credentials.trust().clone(),
            certificates: Arc::clone(credentials) as Arc<_>,
            table,
            node: Arc::new(host),
        });
        if let Some(address) = config.listen {
            listen(&mesh, address).await?;
        }
        let _only_once = place.set(mesh.clone());
        Ok((mesh, control))
    }
}

async fn listen(mesh: &Mesh, address: SocketAddr) -> Result<(), Error> {
    let failed = |source| Error::Listen { address, source };
    let address = mesh.listen(address).await.map_err(failed)?;
    tracing::info!(%address, "other agents are answered");
    Ok(())
}

/// Handshakes are connections: the default limit of a login shell is too low for a flood of them.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const ENOUGH: u64 = 65536;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = ENOUGH.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}
