//! What the mesh needs of the node around it: the kernel's tables, and who runs here. The node implements both.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use waxseal_common::ids::IdentityId;
use waxseal_common::state::{Tuple, UdpFlow};
use waxseal_common::wire::{Announced, Asks, Route, RouteKey, Session, Spi};

use super::Target;
use crate::pki::{Credentials, Peer, Svid};
use crate::spiffe::SpiffeId;
use crate::workload::Labels;

/// An answer that comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a table did not take an entry.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is full. Nothing is evicted to make room.
    #[error("the table {0} is full")]
    Full(&'static str),
    /// The entry is there already.
    #[error("the table {0} has this entry already")]
    Exists(&'static str),
    /// The kernel refuses.
    #[error("cannot write the table {table}: {source}")]
    Kernel {
        /// Which.
        table: &'static str,
        /// Its word.
        source: io::Error,
    },
}

/// What live connections name.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Connections that this node's workloads opened, by [`Route::session`].
    pub opened: std::collections::HashMap<u32, u32>,
    /// Connections that they accepted, by the receiver's name for the session.
    pub accepted: std::collections::HashMap<Spi, u32>,
}

/// The kernel's tables of sessions. Cheap calls but for [`Table::live`].
pub trait Table: Send + Sync + 'static {
    /// Nanoseconds of the kernel's clock.
    fn now(&self) -> u64;
    /// Writes a session that is not there yet.
    fn install_session(&self, spi: Spi, session: &Session) -> Result<(), TableError>;
    /// The session, with what the kernel has counted.
    fn session(&self, spi: Spi) -> Option<Session>;
    /// Moves the end of a session forward in time. Never makes one.
    fn shorten_session(&self, spi: Spi, expires: u64);
    /// Removes a session; one that is not there is fine.
    fn remove_session(&self, spi: Spi);
    /// Every session.
    fn sessions(&self) -> Vec<(Spi, Session)>;
    /// Writes or replaces a route.
    fn put_route(&self, key: &RouteKey, route: &Route) -> Result<(), TableError>;
    /// The route, with what the kernel has counted.
    fn route(&self, key: &RouteKey) -> Option<Route>;
    /// Removes a route; one that is not there is fine.
    fn remove_route(&self, key: &RouteKey);
    /// Every route.
    fn routes(&self) -> Vec<(RouteKey, Route)>;
    /// Lets a UDP flow out.
    fn announce(&self, flow: &Tuple, announced: &Announced) -> Result<(), TableError>;
    /// The flows that are let out.
    fn announced(&self) -> Vec<(Tuple, Announced)>;
    /// Holds a UDP flow back again.
    fn withdraw(&self, flow: &Tuple);
    /// A judged UDP flow.
    fn flow(&self, flow: &Tuple) -> Option<UdpFlow>;
    /// Writes a UDP flow that another node has announced.
    fn put_flow(&self, flow: &Tuple, entry: &UdpFlow) -> Result<(), TableError>;
    /// Forgets a UDP flow.
    fn remove_flow(&self, flow: &Tuple);
    /// Counts what live connections name. Reads the whole table of connections.
    fn live(&self) -> Live;
}

/// A workload of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its number.
    pub identity: IdentityId,
    /// Who it is.
    pub id: SpiffeId,
    /// What policies select it by.
    pub labels: Labels,
}

/// Sessions whose connections are to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// By [`Route::session`]: connections that this node's workloads opened.
    pub opened: std::collections::BTreeSet<u32>,
    /// By the receiver's name: connections that they accepted.
    pub accepted: std::collections::BTreeSet<Spi>,
}

impl Ended {
    /// Whether there is nothing to end.
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.accepted.is_empty()
    }
}

/// A remote workload cannot get a number on this node.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAdmitted(pub String);

/// Who runs here.
pub trait Node: Send + Sync + 'static {
    /// The workload of this node with that number, while an instance of it runs.
    fn workload(&self, identity: IdentityId) -> Option<Local>;
    /// The workload whose socket listens there; `None` when nobody does, or nobody who is a workload.
    fn listener(&self, target: Target) -> Later<'_, io::Result<Option<Local>>>;
    /// Gives a workload of another node its number on this one, and puts the policy for it into force.
    fn admit(&self, peer: Arc<Peer>, labels: Labels) -> Later<'_, Result<IdentityId, NotAdmitted>>;
    /// Ends connections.
    fn end(&self, ended: Ended);
    /// A session has been made with that node: in the kernel's events it has this number. `opens` says whether this node's
    /// workload opens connections under it.
    fn learned(&self, opens: bool, id: u32, node: &SpiffeId, made: u64);
}

/// A packet that waits: calling it sends it on.
pub type Packet = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// What the kernel programs ask for.
pub struct Ask {
    /// What.
    pub asks: Asks,
    /// For which workload and destination; of an unknown session only the address counts, which is the sender's.
    pub route: RouteKey,
    /// The ends of the packet as it leaves; of a datagram they name its flow.
    pub flow: Tuple,
    /// [`Asks::UnknownSession`] only: which.
    pub spi: Spi,
    /// [`Asks::Hold`] only: what waits.
    pub packet: Option<Packet>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { asks, route, flow, spi, packet } = self;
        f.debug_struct("Ask")
            .field("asks", asks)
            .field("route", route)
            .field("flow", flow)
            .field("spi", spi)
            .field("waits", &packet.is_some())
            .finish()
    }
}

/// The certificates of this node and its workloads.
pub trait Certificates: Send + Sync + 'static {
    /// The node's.
    fn node(&self) -> Option<Arc<Svid>>;
    /// A workload's.
    fn svid(&self, id: &SpiffeId) -> Option<Arc<Svid>>;
    /// A workload's, that may be on its way.
    fn wait_for<'a>(&'a self, id: &'a SpiffeId, within: Duration) -> Later<'a, Option<Arc<Svid>>>;
}

impl Certificates for Credentials {
    fn node(&self) -> Option<Arc<Svid>> {
        self.keeper().node()
    }

    fn svid(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        self.keeper().svid(id)
    }

    fn wait_for<'a>(&'a self, id: &'a SpiffeId, within: Duration) -> Later<'a, Option<Arc<Svid>>> {
        Box::pin(self.keeper().wait_for(id, within))
    }
}
