//! What every task of the mesh shares.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;

use super::bucket::Buckets;
use super::counters::Counters;
use super::error::HandshakeError;
use super::gate::Gate;
use super::handshakes::Tally;
use super::host::{Certificates, Node, Table};
use super::journal::Journal;
use super::links::Links;
use super::state::State;
use super::tap::Taps;
use super::{Options, Parts};
use crate::pki::{Peer, Role, Svid, Trust, verify};
use crate::spiffe::SpiffeId;

/// How long a handshake waits for a certificate that is on its way.
const CERTIFICATE: Duration = Duration::from_millis(800);

/// Handshakes with one agent at a time.
const LANE: usize = 16;

/// Everything that tasks share.
pub(super) struct Inner {
    pub(super) options: Options,
    pub(super) trust: Trust,
    pub(super) certificates: Arc<dyn Certificates>,
    pub(super) table: Arc<dyn Table>,
    pub(super) node: Arc<dyn Node>,
    pub(super) counters: Counters,
    /// Handshakes that this node begins, and that it answers.
    pub(super) begun: Tally,
    pub(super) answered: Tally,
    /// This node's memory: stays as long as its sessions do.
    pub(super) nonce: u64,
    pub(super) gate: Gate,
    pub(super) links: Links,
    pub(super) journal: Journal,
    /// Who answers those that want to read this node's flows.
    pub(super) taps: OnceLock<Arc<dyn Taps>>,
    epoch: AtomicU64,
    state: Mutex<State>,
    limits: Mutex<Limits>,
    own: Mutex<HashMap<SpiffeId, Own>>,
    lanes: Mutex<HashMap<SocketAddr, Weak<Semaphore>>>,
}

/// Our own chain, verified as a peer would.
struct Own {
    svid: Arc<Svid>,
    revision: u64,
    proof: Arc<Peer>,
}

/// How often who may do what.
pub(super) struct Limits {
    /// First TLS messages of one address.
    pub(super) arrivals: Buckets<IpAddr>,
    /// Handshakes for one workload of this node.
    pub(super) workloads: Buckets<IdentityId>,
    /// Sessions that one node asks for.
    pub(super) nodes: Buckets<SpiffeId>,
    /// Attempts to reach the agent at an address that sent a seal nobody knows.
    pub(super) hints: Buckets<Address>,
}

impl Limits {
    fn new() -> Self {
        Self {
            arrivals: Buckets::new(500, 2000, 16384),
            workloads: Buckets::new(100, 512, 16384),
            nodes: Buckets::new(200, 2048, super::peers::NODES),
            hints: Buckets::new(1, 2, 1024),
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { options, trust, certificates, table, node } = parts;
        let resumed = Journal::open(&options.state, options.resumes, &trust.load(), &*table);
        Self {
            trust,
            certificates,
            table,
            node,
            counters: Counters::default(),
            begun: Tally::default(),
            answered: Tally::default(),
            nonce: resumed.nonce,
            gate: Gate::default(),
            links: Links::default(),
            journal: resumed.journal,
            taps: OnceLock::new(),
            epoch: AtomicU64::new(rand::random::<u64>() >> 1),
            state: Mutex::new(resumed.state),
            limits: Mutex::new(Limits::new()),
            own: Mutex::default(),
            lanes: Mutex::default(),
            options,
        }
    }

    /// Tells the node of sessions that an earlier agent has made.
    pub(super) fn introduce(&self) {
        let state = self.state();
        let name = |node: u32| state.peers.get(node).map(|peer| peer.id.clone());
        for (spi, session) in &state.inbound {
            if let Some(node) = name(session.facts.node) {
                self.node.learned(false, spi.0, &node, session.facts.made);
            }
        }
        for (number, line) in &state.outbound {
            if let Some(node) = name(line.facts.node) {
                self.node.learned(true, *number, &node, line.facts.made);
            }
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never twice the same.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::Relaxed)
    }

    /// Where the agent for an address answers.
    pub(super) fn agent_for(&self, destination: Address) -> SocketAddr {
        let mapped = self.options.agents.iter().filter(|(range, _)| range.contains(destination));
        let closest = mapped.max_by_key(|(range, _)| range.length());
        closest.map_or_else(|| (IpAddr::from(destination), self.options.port).into(), |(_, agent)| *agent)
    }

    /// A place among the handshakes with one agent: a few at a time end sooner than all at once.
    pub(super) async fn lane(&self, agent: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let lane = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lane) = lanes.get(&agent).and_then(Weak::upgrade) {
                lane
            } else {
                lanes.retain(|_, lane| lane.strong_count() > 0);
                let lane = Arc::new(Semaphore::new(LANE));
                lanes.insert(agent, Arc::downgrade(&lane));
                lane
            }
        };
        lane.acquire_owned().await.ok()
    }

    pub(super) async fn svid_of(&self, id: &SpiffeId) -> Result<Arc<Svid>, HandshakeError> {
        let there = self.certificates.svid(id);
        let svid = match there {
            Some(svid) => Some(svid),
            None => self.certificates.wait_for(id, CERTIFICATE).await,
        };
        svid.ok_or_else(|| HandshakeError::NoCertificate(id.clone()))
    }

    /// Whether this peer node asks for no more sessions than it may.
    pub(super) fn admit_rate(&self, node: &SpiffeId) -> Result<(), HandshakeError> {
        let passes = self.limits().nodes.take(node.clone(), Instant::now());
        if passes { Ok(()) } else { Err(HandshakeError::Busy) }
    }

    /// Our own chain as the peer will verify it: its end counts for the session, and so does its revocation.
    pub(super) fn own_proof(&self, svid: &Arc<Svid>) -> Result<Arc<Peer>, HandshakeError> {
        let bundles = self.trust.load();
        let revision = bundles.revision();
        {
            let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            let known = own.get(svid.id());
            if let Some(known) = known.filter(|own| own.revision == revision && Arc::ptr_eq(&own.svid, svid))
            {
                return Ok(Arc::clone(&known.proof));
            }
        }
        let proof = Arc::new(verify(&bundles, &svid.chain(), Role::Client, SystemTime::now())?);
        let entry = Own { svid: Arc::clone(svid), revision, proof: Arc::clone(&proof) };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= 8192 {
            // A cache: whoever is still in use comes back.
            own.clear();
        }
        own.insert(svid.id().clone(), entry);
        Ok(proof)
    }
}
