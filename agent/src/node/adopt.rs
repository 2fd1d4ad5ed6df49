//! Connections that are older than the programs, or than their owner's being a workload: they get a record like any
//! other, and are judged by it.

use std::collections::{HashMap, HashSet};
use std::io;

use waxseal_common::ids::{CgroupId, IdentityId, NetnsId, Revision};
use waxseal_common::state::{Connection, Tuple};
use waxseal_common::tables::AddressRow;

use crate::datapath::diag::{CONNECTED, Diag, LISTENING, Socket};
use crate::datapath::{monotonic, netns};

/// The TCP sockets of every namespace of the node.
#[derive(Debug, Default)]
pub(super) struct Survey {
    sockets: Vec<(NetnsId, Socket)>,
    listening: HashSet<(NetnsId, u16)>,
    /// Who holds an end: by the ends as that socket sees them.
    holders: HashMap<Tuple, CgroupId>,
}

impl Survey {
    /// Lists the sockets of every namespace that some process lives in.
    pub(super) fn take() -> Self {
        let mut survey = Self::default();
        for (netns, path) in netns::all() {
            let listed = std::fs::File::open(&path).and_then(|namespace| netns::inside(&namespace, list));
            match listed {
                Ok(sockets) => survey.add(netns, sockets),
                Err(error) => {
                    tracing::debug!(%error, netns = netns.0, "cannot list the sockets of a namespace");
                }
            }
        }
        survey
    }

    fn add(&mut self, netns: NetnsId, sockets: Vec<Socket>) {
        for mut socket in sockets {
            // Every namespace has the same loopback addresses.
            if socket.tuple.destination.is_loopback() {
                socket.tuple.netns = netns;
            }
            if 1 << socket.state & LISTENING != 0 {
                self.listening.insert((netns, socket.tuple.source_port));
            } else {
                self.holders.insert(socket.tuple, socket.cgroup);
                self.sockets.push((netns, socket));
            }
        }
    }

    /// Records for the connections whose sockets belong to a workload, with their cookies. Who they are is asked of
    /// `owner`, what the tables say of an address of `address`.
    pub(super) fn records(
        &self,
        owner: impl Fn(CgroupId) -> Option<IdentityId>,
        address: impl Fn(waxseal_common::address::Address) -> AddressRow,
    ) -> Vec<(u64, Connection)> {
        let known = |cgroup: CgroupId| owner(cgroup).filter(|identity| identity.is_workload());
        self.sockets
            .iter()
            .filter_map(|(netns, socket)| {
                let identity = known(socket.cgroup)?;
                let accepted = self.listening.contains(&(*netns, socket.tuple.source_port));
                let other = self.holders.get(&socket.tuple.reversed()).and_then(|cgroup| owner(*cgroup));
                let remote = socket.tuple.destination;
                let stranger = if remote.is_loopback() || address(remote).in_mesh() {
                    IdentityId::UNKNOWN
                } else {
                    IdentityId::WORLD
                };
                let tuple = if accepted { socket.tuple.reversed() } else { socket.tuple };
                let record = Connection {
                    // Of no revision: the next packet is judged.
                    revision: Revision(0),
                    opened: monotonic(),
                    cgroup: socket.cgroup,
                    tuple,
                    owner: identity,
                    peer: other.unwrap_or(stranger),
                    netns: *netns,
                    stage: Connection::OPEN,
                    opener: u8::from(!accepted),
                    port: tuple.destination_port,
                    flags: Connection::ANSWERED | Connection::ADOPTED,
                    ..Connection::default()
                };
                Some((socket.cookie, record))
            })
            .collect()
    }

    /// Whether a socket with this cookie is still there.
    pub(super) fn cookies(&self) -> HashSet<u64> {
        self.sockets.iter().map(|(_, socket)| socket.cookie).collect()
    }
}

fn list() -> io::Result<Vec<Socket>> {
    Diag::open()?.sockets(CONNECTED | LISTENING)
}
