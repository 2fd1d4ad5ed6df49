//! Who answers at an address of this node: asks the kernel, in the network namespace that has the address.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use waxseal_common::address::Address;
use waxseal_common::ids::{CgroupId, NetnsId};

use crate::datapath::diag::Diag;
use crate::datapath::netns;
use crate::mesh::Target;

/// How long a namespace that nobody asks about keeps its socket, which holds it alive.
const IDLE: Duration = Duration::from_secs(2);
/// How many namespaces keep one at once.
const KEPT: usize = 64;

/// One network namespace of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) struct Place {
    pub(in crate::node) netns: NetnsId,
    /// A way in.
    pub(in crate::node) path: PathBuf,
    pub(in crate::node) addresses: BTreeSet<Address>,
}

/// The namespaces of this node, this process's own first.
#[derive(Debug, Default)]
pub(in crate::node) struct Places {
    all: RwLock<Vec<Place>>,
    sockets: Mutex<HashMap<NetnsId, (Instant, Diag)>>,
}

impl Places {
    /// From now on these. Written by the control thread when it has looked around.
    pub(in crate::node) fn replace(&self, places: Vec<Place>) {
        *self.all.write().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// The cgroup of the socket that answers there. Blocks for some microseconds, or until a namespace is entered.
    pub(super) fn answering(&self, target: Target) -> io::Result<Option<CgroupId>> {
        if target.address.is_loopback() || target.address.is_unspecified() {
            return Ok(None);
        }
        let places: Vec<(NetnsId, PathBuf)> = {
            let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
            let has = all.iter().filter(|place| place.addresses.contains(&target.address));
            has.map(|place| (place.netns, place.path.clone())).collect()
        };
        for (netns, path) in places {
            if let Some(cgroup) = self.ask(netns, path, target)? {
                return Ok(Some(cgroup));
            }
        }
        Ok(None)
    }

    fn ask(&self, netns: NetnsId, path: PathBuf, target: Target) -> io::Result<Option<CgroupId>> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if !sockets.contains_key(&netns) {
            let namespace = File::open(path).or_else(|_gone| netns::open(netns, None))?;
            let diag = netns::inside(&namespace, Diag::open)?;
            if sockets.len() >= KEPT {
                sockets.clear();
            }
            sockets.insert(netns, (Instant::now(), diag));
        }
        let Some((used, diag)) = sockets.get_mut(&netns) else { return Ok(None) };
        *used = Instant::now();
        let answer = diag.answering(target.protocol, target.address, target.port);
        if answer.is_err() {
            // Whatever comes late would be taken for the answer to the next question.
            sockets.remove(&netns);
        }
        answer
    }

    /// Lets namespaces end that nobody asks about. Works for ever.
    pub(super) async fn let_go(&self) {
        loop {
            tokio::time::sleep(IDLE).await;
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.retain(|_, (used, _)| used.elapsed() < IDLE);
        }
    }
}
