//! The composition root: puts the rooms together, starts the tasks, owns what lives as long as the agent.
//!
//! Four workers. The *control* thread owns the kernel's tables, the identities and the policies, and is the only one that
//! changes them. The *rings* tasks read what the programs tell and hand it to the taps. The *refusals* thread answers
//! callers. The *server* answers the control socket. They share only channels and the book of names.

mod adopt;
mod border;
mod ceiling;
mod control;
mod ends;
mod history;
mod lastgood;
mod mesh;
mod metrics;
mod names;
mod overrides;
mod refusals;
mod reporters;
mod reports;
mod revoke;
mod rings;
mod rollout;
mod settle;
mod tally;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::{io, thread};

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::api::{Hub, Server, SocketError};
use crate::cgroup::{self, Tree};
use crate::config::Config;
use crate::datapath::{self, Channels, Kernel};
use crate::flows::Time;
use crate::metrics::Metrics;
use crate::{identity, pki, policy, watch};
use control::Control;
use names::NameBook;
use rings::Desk;
use tally::Tally;

/// Why the agent does not start, or has stopped.
#[derive(Debug, Error)]
pub enum Error {
    /// It needs root.
    #[error("the agent loads kernel programs and needs root")]
    NotRoot,
    /// The system gives no threads or signals.
    #[error("cannot start: {0}")]
    Start(#[source] io::Error),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The cgroup hierarchy.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The file of identities.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The kernel programs.
    #[error(transparent)]
    Datapath(#[from] datapath::Error),
    /// The first set of documents, and no earlier one to fall back on.
    #[error("{0}")]
    Policy(#[source] Box<policy::LoadErrors>),
    /// The first set of documents cannot be put into force.
    #[error(transparent)]
    Settle(#[from] settle::Error),
    /// The directory of the documents cannot be watched.
    #[error(transparent)]
    Watch(#[from] watch::Error),
    /// Certificates.
    #[error(transparent)]
    Credentials(#[from] pki::StartError),
    /// The port for other agents.
    #[error("cannot answer other agents at {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// A file of the agent's own.
    #[error("cannot {call} {}: {source}", path.display())]
    File {
        /// What was tried.
        call: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// What an error asks of whoever started the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Look at the message.
    Failed,
    /// Mend the input.
    Invalid,
    /// Become root.
    NotPermitted,
    /// Use another kernel, or another build.
    Unsupported,
}

impl Error {
    /// What kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRoot => ErrorKind::NotPermitted,
            Self::Policy(_) => ErrorKind::Invalid,
            Self::Settle(error) if error.is_about_documents() => ErrorKind::Invalid,
            Self::Datapath(error) if error.is_missing_feature() => ErrorKind::Unsupported,
            Self::Cgroup(cgroup::Error::NotMounted) => ErrorKind::Unsupported,
            _ => ErrorKind::Failed,
        }
    }
}

/// Runs the agent until it is told to stop. What it has put into the kernel stays there and goes on judging.
pub fn run(config: Config) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    datapath::tune_heap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Each tap may be searching the history, however slowly it reads.
        .max_blocking_threads(80)
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Error> {
    let tree = Tree::open(config.cgroup_root.as_deref())?;
    // Before anything is touched: the socket says whether an agent of this name is alive.
    let server = Server::bind(&config.socket())?;
    let names = Arc::new(NameBook::new(&config));
    let (history, archive) = history::start(&config)?.unzip();
    let hub = Arc::new(Hub::with_archive(archive));
    let metrics = Arc::new(Metrics::new(config.metrics_pairs));
    let (refuse, refusals) = refusals::channel();
    let mut kernel = Kernel::open(&config, tree.root())?;
    let Channels { flows, denials, cgroups, notices, datagrams, polling, log } = kernel.channels()?;
    let credentials = Arc::new(mesh::credentials(&config).await?);
    let (ties, requests, beginning) = mesh::tie(&config, &credentials, &names)?.split();
    let (resumed, mesh_config) = (kernel.resumed, config.clone());
    let look = Arc::new(Notify::new());
    let tally = Arc::new(Tally::new(Time::now()));
    let (ends, ended) = ends::channel();
    let shared = control::Shared {
        look: Arc::clone(&look),
        names: Arc::clone(&names),
        hub: Arc::clone(&hub),
        refuse: refuse.clone(),
        ties,
        tally: Arc::clone(&tally),
        ends,
    };
    let (commands, inbox) = mpsc::channel(64);
    let (stop, stopped) = oneshot::channel();
    let scrape = config.metrics.map(|address| {
        let watch = history.as_ref().map(history::Running::watch).zip(config.history);
        metrics::serve(address, Arc::clone(&metrics), commands.clone(), Arc::clone(&hub), watch)
    });

    let refusals = refusals::start(refusals, Arc::clone(&names), tree.clone()).map_err(Error::Start)?;
    let handle = tokio::runtime::Handle::current();
    let (ready, started) = oneshot::channel();
    let control = thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            let _entered = handle.enter();
            match Control::start(config, tree, kernel, shared) {
                Ok(mut control) => {
                    let _ = ready.send(Ok(()));
                    handle.block_on(control.run(inbox, requests, cgroups, stopped))
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    Ok(())
                }
            }
        })
        .map_err(Error::Start)?;
    started.await.unwrap_or_else(|_| Err(Error::Start(io::Error::other("the control thread ended"))))?;

    let mut tasks = JoinSet::new();
    let mut mesh = None;
    if mesh_config.has_mesh() {
        let (begun, control) = beginning.start(&mesh_config, resumed, &credentials).await?;
        tasks.spawn(mesh::read(begun.clone(), notices, datagrams, control));
        metrics.add(Arc::new(begun.clone()));
        begun.answer_taps(Arc::new(mesh::Readers::new(&mesh_config, &hub)));
        mesh = Some(begun);
    }
    metrics.add(Arc::new(reporters::Certificates(credentials)));
    let desk = Desk { names, hub: Arc::clone(&hub), metrics, refuse, look, mesh, tally };
    tasks.spawn(rings::drain(flows, denials, polling, ended, desk));
    tasks.spawn(rings::log(log));
    tasks.spawn(server.serve(hub, commands));
    datapath::trim_memory();
    until_told().await?;
    tracing::info!("stopping; the programs in the kernel go on judging until `waxseal uninstall`");
    let _ = stop.send(());
    tasks.shutdown().await;
    if let Some(scrape) = scrape {
        scrape.abort();
    }
    let ended =
        control.join().unwrap_or_else(|_| Err(Error::Start(io::Error::other("the control thread panicked"))));
    drop(refusals);
    drop(history);
    ended
}

/// Waits for a signal that means to stop.
async fn until_told() -> Result<(), Error> {
    tracing::info!("ready");
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Start)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
