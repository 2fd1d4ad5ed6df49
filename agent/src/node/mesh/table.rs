//! The kernel's tables, as the mesh writes them.

use std::sync::Arc;
use std::time::Duration;

use waxseal_common::state::{Tuple, UdpFlow};
use waxseal_common::wire::{Announced, Route, RouteKey, Session, Spi};

use crate::datapath::{InUse, Refused, Sessions, monotonic};
use crate::mesh::{Live, Table, TableError};

/// How long a SYN from another node may wait for its listener: longer than the kernel keeps it itself.
const ARRIVAL: Duration = Duration::from_mins(2);

/// The kernel's tables.
#[derive(Debug)]
pub(super) struct Kernel(pub(super) Arc<Sessions>);

/// Removes old arrivals. Works for ever.
pub(super) async fn age(table: Arc<Kernel>) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let table = Arc::clone(&table);
        let aged = tokio::task::spawn_blocking(move || table.0.age_arrivals(ARRIVAL.as_nanos() as u64));
        let _aged = aged.await;
    }
}

fn error(refused: Refused) -> TableError {
    match refused {
        Refused::Full(table) => TableError::Full(table),
        Refused::Exists(table) => TableError::Exists(table),
        Refused::Kernel { table, source } => TableError::Kernel { table, source },
    }
}

impl Table for Kernel {
    fn now(&self) -> u64 {
        monotonic()
    }

    fn install_session(&self, spi: Spi, session: &Session) -> Result<(), TableError> {
        self.0.install(spi, session).map_err(error)
    }

    fn session(&self, spi: Spi) -> Option<Session> {
        self.0.session(spi)
    }

    fn shorten_session(&self, spi: Spi, expires: u64) {
        self.0.change_session(spi, |session| session.expires = session.expires.min(expires));
    }

    fn remove_session(&self, spi: Spi) {
        self.0.remove_session(spi);
    }

    fn sessions(&self) -> Vec<(Spi, Session)> {
        self.0.sessions()
    }

    fn put_route(&self, key: &RouteKey, route: &Route) -> Result<(), TableError> {
        self.0.put_route(key, route).map_err(error)
    }

    fn route(&self, key: &RouteKey) -> Option<Route> {
        self.0.route(key)
    }

    fn remove_route(&self, key: &RouteKey) {
        self.0.remove_route(key);
    }

    fn routes(&self) -> Vec<(RouteKey, Route)> {
        self.0.routes()
    }

    fn announce(&self, flow: &Tuple, announced: &Announced) -> Result<(), TableError> {
        self.0.announce(flow, announced).map_err(error)
    }

    fn announced(&self) -> Vec<(Tuple, Announced)> {
        self.0.announced()
    }

    fn withdraw(&self, flow: &Tuple) {
        self.0.withdraw(flow);
    }

    fn flow(&self, flow: &Tuple) -> Option<UdpFlow> {
        self.0.flow(flow)
    }

    fn put_flow(&self, flow: &Tuple, entry: &UdpFlow) -> Result<(), TableError> {
        self.0.put_flow(flow, entry).map_err(error)
    }

    fn remove_flow(&self, flow: &Tuple) {
        self.0.remove_flow(flow);
    }

    fn live(&self) -> Live {
        let InUse { opened, accepted } = self.0.in_use();
        Live { opened, accepted }
    }
}
