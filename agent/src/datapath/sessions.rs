//! The tables of sessions between nodes. The mesh writes them from its own tasks, beside the control thread, which never
//! touches them.

use std::collections::{BTreeSet, HashMap as Map};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, Map as AnyMap, MapData, MapError};
use waxseal_common::ids::{CgroupId, IdentityId};
use waxseal_common::state::{Connection, Endpoint, Tuple, UdpFlow};
use waxseal_common::wire::{Announced, Arrival, Route, RouteKey, Session, Spi};

use super::Error;
use super::batch::entries;
use super::kernel::{map_error, monotonic};
use crate::config::Config;

type Table<K, V> = HashMap<MapData, K, V>;

/// Stores only where nothing is.
const NEW: u64 = 1;
/// Stores only where something is.
const REPLACE: u64 = 2;

/// Why a table did not take an entry.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is full.
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

/// The tables.
pub struct Sessions(Mutex<Tables>);

struct Tables {
    sessions: Table<Spi, Session>,
    routes: Table<RouteKey, Route>,
    announced: Table<Tuple, Announced>,
    arrivals: Table<u64, Arrival>,
    flows: Table<Tuple, UdpFlow>,
    connections: Table<u64, Connection>,
    endpoints: Table<CgroupId, Endpoint>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

/// What live connections name.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// Opened by this node's workloads: by [`Route::session`].
    pub opened: Map<u32, u32>,
    /// Accepted by them: by the receiver's name for the session.
    pub accepted: Map<Spi, u32>,
}

impl Sessions {
    /// Opens the tables that [`super::Kernel::open`] has pinned.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let pins = config.pins();
        Ok(Self(Mutex::new(Tables {
            sessions: pinned(&pins, "SESSIONS")?,
            routes: pinned(&pins, "ROUTES")?,
            announced: pinned(&pins, "ANNOUNCED")?,
            arrivals: pinned(&pins, "ARRIVALS")?,
            flows: pinned(&pins, "UDP_FLOWS")?,
            connections: pinned(&pins, "CONNECTIONS")?,
            endpoints: pinned(&pins, "ENDPOINTS")?,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a session that is not there yet.
    pub fn install(&self, spi: Spi, session: &Session) -> Result<(), Refused> {
        self.lock().sessions.insert(spi, session, NEW).map_err(refused("SESSIONS"))
    }

    /// A session.
    pub fn session(&self, spi: Spi) -> Option<Session> {
        self.lock().sessions.get(&spi, 0).ok()
    }

    /// Changes a session that is there.
    pub fn change_session(&self, spi: Spi, change: impl FnOnce(&mut Session)) {
        let mut tables = self.lock();
        if let Ok(mut session) = tables.sessions.get(&spi, 0) {
            change(&mut session);
            // It may have gone meanwhile.
            let _gone = tables.sessions.insert(spi, session, REPLACE);
        }
    }

    /// Removes a session.
    pub fn remove_session(&self, spi: Spi) {
        let _absent = self.lock().sessions.remove(&spi);
    }

    /// Every session.
    pub fn sessions(&self) -> Vec<(Spi, Session)> {
        entries(&self.lock().sessions).collect()
    }

    /// Writes or replaces a route.
    pub fn put_route(&self, key: &RouteKey, route: &Route) -> Result<(), Refused> {
        self.lock().routes.insert(key, route, 0).map_err(refused("ROUTES"))
    }

    /// A route.
    pub fn route(&self, key: &RouteKey) -> Option<Route> {
        self.lock().routes.get(key, 0).ok()
    }

    /// Removes a route.
    pub fn remove_route(&self, key: &RouteKey) {
        let _absent = self.lock().routes.remove(key);
    }

    /// Every route.
    pub fn routes(&self) -> Vec<(RouteKey, Route)> {
        entries(&self.lock().routes).collect()
    }

    /// Lets a UDP flow out.
    pub fn announce(&self, flow: &Tuple, announced: &Announced) -> Result<(), Refused> {
        self.lock().announced.insert(flow, announced, 0).map_err(refused("ANNOUNCED"))
    }

    /// Every UDP flow that is let out.
    pub fn announced(&self) -> Vec<(Tuple, Announced)> {
        entries(&self.lock().announced).collect()
    }

    /// Holds a UDP flow back again.
    pub fn withdraw(&self, flow: &Tuple) {
        let _absent = self.lock().announced.remove(flow);
    }

    /// A judged UDP flow.
    pub fn flow(&self, flow: &Tuple) -> Option<UdpFlow> {
        self.lock().flows.get(flow, 0).ok()
    }

    /// Writes or replaces a UDP flow.
    pub fn put_flow(&self, flow: &Tuple, entry: &UdpFlow) -> Result<(), Refused> {
        self.lock().flows.insert(flow, entry, 0).map_err(refused("UDP_FLOWS"))
    }

    /// Forgets a UDP flow.
    pub fn remove_flow(&self, flow: &Tuple) {
        let _absent = self.lock().flows.remove(flow);
    }

    /// Changes the record of a connection that is there.
    pub fn change_connection(&self, cookie: u64, change: impl FnOnce(&mut Connection)) {
        let mut tables = self.lock();
        if let Ok(mut record) = tables.connections.get(&cookie, 0) {
            change(&mut record);
            // It may have closed meanwhile.
            let _gone = tables.connections.insert(cookie, record, REPLACE);
        }
    }

    /// Who owns a cgroup.
    pub fn owner(&self, cgroup: CgroupId) -> Option<IdentityId> {
        self.lock().endpoints.get(&cgroup, 0).ok().map(|endpoint| endpoint.identity)
    }

    /// Every identity that sessions, routes, connections or flows name.
    pub fn identities(&self) -> BTreeSet<IdentityId> {
        let tables = self.lock();
        let sessions = entries(&tables.sessions);
        let mut named: BTreeSet<IdentityId> = sessions.map(|(_, session)| session.source).collect();
        named.extend(entries(&tables.routes).map(|(_, route)| route.destination));
        named.extend(entries(&tables.connections).map(|(_, record)| record.peer));
        let flows = entries(&tables.flows);
        named.extend(flows.flat_map(|(_, flow)| [flow.source, flow.destination]));
        named
    }

    /// Counts what live connections name.
    pub fn in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        let tables = self.lock();
        for (_, record) in entries(&tables.connections) {
            if record.session == 0 {
                continue;
            }
            if record.opener == 1 {
                *in_use.opened.entry(record.session).or_default() += 1;
            } else {
                *in_use.accepted.entry(Spi(record.session)).or_default() += 1;
            }
        }
        in_use
    }

    /// Removes SYNs from other nodes that no listener has answered within `limit` nanoseconds, and corrects what each
    /// session counts of them.
    pub fn age_arrivals(&self, limit: u64) {
        let now = monotonic();
        let mut tables = self.lock();
        let mut waiting: Map<Spi, u32> = Map::new();
        let mut old = Vec::new();
        for (mac, arrival) in entries(&tables.arrivals) {
            if now.saturating_sub(arrival.at) > limit {
                old.push(mac);
            } else {
                *waiting.entry(arrival.spi).or_default() += 1;
            }
        }
        for mac in old {
            let _absent = tables.arrivals.remove(&mac);
        }
        let sessions: Vec<(Spi, Session)> = entries(&tables.sessions).collect();
        drop(tables);
        for (spi, session) in sessions {
            let true_count = waiting.get(&spi).copied().unwrap_or(0);
            if session.half_open.abs_diff(true_count) > 64 {
                self.change_session(spi, |session| session.half_open = true_count);
            }
        }
    }
}

fn pinned<K: aya::Pod, V: aya::Pod>(
    pins: &std::path::Path,
    name: &'static str,
) -> Result<Table<K, V>, Error> {
    let data = MapData::from_pin(pins.join(name)).map_err(map_error(name))?;
    HashMap::try_from(AnyMap::HashMap(data)).map_err(map_error(name))
}

fn refused(table: &'static str) -> impl Fn(MapError) -> Refused {
    move |error| match error {
        MapError::SyscallError(error) => match error.io_error.raw_os_error() {
            Some(libc::E2BIG | libc::ENOMEM) => Refused::Full(table),
            Some(libc::EEXIST) => Refused::Exists(table),
            _ => Refused::Kernel { table, source: error.io_error },
        },
        other => Refused::Kernel { table, source: io::Error::other(other) },
    }
}
