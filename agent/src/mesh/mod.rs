//! Between nodes: pair handshakes, sessions, links.
//!
//! Owns what agents say to each other and what follows from it: which sessions exist, for whom, with which node, until
//! when. A session is installed only after both workloads' certificates and both nodes' signatures were verified on one
//! TLS connection. Knows the kernel's tables and the node around it by the traits of [`Table`] and [`Node`] only, and
//! never decides who may talk: it proves who somebody is. Whatever fails leaves the other end unknown; policy says what
//! that means.

mod announce;
mod bucket;
mod counters;
mod error;
mod frame;
mod gate;
mod handshakes;
mod host;
mod inbound;
mod initiate;
mod inner;
mod journal;
mod keys;
mod link;
mod links;
mod message;
mod open;
mod outbound;
mod peers;
mod probe;
mod report;
mod respond;
mod resume;
mod server;
mod state;
mod sweep;
mod tap;
mod target;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use waxseal_common::address::Address;
use waxseal_common::wire::Spi;

pub use counters::Count;
pub use error::HandshakeError;
pub use frame::FrameError;
pub use handshakes::{BOUNDS, Handshakes};
pub use host::{Ask, Certificates, Ended, Later, Live, Local, Node, NotAdmitted, Packet, Table, TableError};
pub use message::{LINK, PAIR, Reason, TAP, is_message};
pub use probe::{Probe, ProbeError, SealPath, SendProbe};
pub use report::{Direction, LinkReport, Report, SessionReport, Stage, Summary, Who};
pub use tap::{Stream, Taps};
pub use target::{Target, is_target};

use crate::cidr::Cidr;
use crate::pki::Trust;
use crate::spiffe::SpiffeId;
use inner::Inner;

/// The port that agents answer on.
pub const PORT: u16 = 7461;
/// How long a handshake may take on the side that answers, and a message on any.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port on which other agents answer, and this one.
    pub port: u16,
    /// Address ranges whose agent answers elsewhere than at the address itself.
    pub agents: Vec<(Cidr, SocketAddr)>,
    /// How long a session is believed at most; no longer than an hour.
    pub longest: Duration,
    /// The directory of the record of sessions.
    pub state: PathBuf,
    /// Whether the kernel's tables are those of an earlier agent.
    pub resumes: bool,
}

/// What the mesh is made of.
pub struct Parts {
    /// What the configuration says.
    pub options: Options,
    /// Whom we believe.
    pub trust: Trust,
    /// Who we are.
    pub certificates: Arc<dyn Certificates>,
    /// The kernel's tables.
    pub table: Arc<dyn Table>,
    /// The node.
    pub node: Arc<dyn Node>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The mesh. Clones are the same one. Its tasks live as long as the runtime.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<Inner>);

impl Mesh {
    /// Takes over what an earlier agent has left and starts. Needs a tokio runtime.
    pub fn start(parts: Parts) -> Self {
        let inner = Arc::new(Inner::new(parts));
        inner.introduce();
        tokio::spawn(Arc::clone(&inner).sweep());
        Self(inner)
    }

    /// Answers other agents at that address. Returns the address, with the port that was given.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        tokio::spawn(Arc::clone(&self.0).serve(listener));
        Ok(address)
    }

    /// Does what a kernel program asks for. Returns at once.
    pub fn ask(&self, ask: Ask) {
        self.0.ask(ask);
    }

    /// A connection under that session has come to a listener that the sender did not mean: asks it to forget the session.
    pub fn wrong_destination(&self, spi: Spi) {
        self.0.tell_wrong(spi);
    }

    /// Judges every session again by what is believed now. It happens by itself when belief changes.
    pub fn judge_again(&self) {
        self.0.judge_all();
    }

    /// What there is. Reads whole tables.
    pub fn report(&self) -> Report {
        self.0.report()
    }

    /// What there is, in a few numbers; cheap.
    pub fn summary(&self) -> Summary {
        self.0.summary()
    }

    /// Lets this answer other nodes that want to read the flows of this one. Once; until then nobody is answered.
    pub fn answer_taps(&self, taps: Arc<dyn Taps>) {
        let _only_once = self.0.taps.set(taps);
    }

    /// Where the agent of a node answers that has been met.
    pub fn agent_of(&self, name: &str) -> Option<SocketAddr> {
        self.0.agent_of(name)
    }

    /// Opens the stream on which the agent at that address tells what its node sees, and says who answers there.
    pub async fn open_tap(&self, agent: SocketAddr) -> Result<(SpiffeId, Box<dyn Stream>), HandshakeError> {
        self.0.open_tap(agent).await
    }

    /// Tries the way to the agent for an address; `send` sends one SYN under the session that it is given.
    pub async fn probe(&self, address: Address, send: SendProbe) -> Result<Probe, ProbeError> {
        self.0.probe(self.0.agent_for(address), send).await
    }
}
