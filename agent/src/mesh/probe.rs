//! Whether a sealed SYN arrives as it was sent: both ends of a link agree on a one-time session, one sends a SYN under
//! it, the other's kernel says what came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use waxseal_common::ids::{IdentityId, protocol};
use waxseal_common::wire::{Route, RouteKey, Session, SessionKey, Spi};

use super::inner::Inner;
use super::link::Link;
use super::message::{LinkMessage, Reason};

/// For how long a probe's session is believed.
const LASTS: Duration = Duration::from_secs(10);
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The peer node. Escaped.
    pub node: String,
    /// Where its agent answers.
    pub agent: SocketAddr,
    /// The version of its agent. Escaped.
    pub version: String,
    /// How many milliseconds its clock is ahead; behind when negative.
    pub clock_ahead_ms: i64,
    /// How long it took to reach the agent and to prove both nodes, in microseconds; a link that stood already took none.
    pub handshake_us: u64,
    /// What became of the sealed SYN.
    pub seal: SealPath,
}

/// What became of a sealed SYN on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealPath {
    /// It arrived as it was sent.
    Unchanged,
    /// It arrived changed: addresses, ports, the sequence number or the seal itself.
    Changed,
    /// No seal arrived: stripped, or the SYN was dropped.
    Absent,
    /// It could not be tried. Escaped.
    Untried(String),
}

/// Sends one sealed SYN from this node: to whom, under which session, with which key.
pub type SendProbe = fn(SocketAddr, Spi, SessionKey) -> std::io::Result<()>;

/// Why there is nothing to say about a peer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub String);

impl Inner {
    /// Reaches the agent for an address and has a SYN sent to it.
    pub(super) async fn probe(
        self: &Arc<Self>,
        agent: SocketAddr,
        send: SendProbe,
    ) -> Result<Probe, ProbeError> {
        let began = Instant::now();
        let (link, handshake_us) = match self.links.all().into_iter().find(|link| link.remote == agent) {
            Some(link) if !link.is_closed() => (link, 0),
            _ => {
                let link = self.link_to(agent).await.map_err(|error| ProbeError(error.to_string()))?;
                (link, began.elapsed().as_micros() as u64)
            }
        };
        let seal = self.probe_seal(&link, send).await.unwrap_or_else(SealPath::Untried);
        Ok(Probe {
            node: crate::escape::escape(link.peer.id().as_str()).into_owned(),
            agent,
            version: link.version.clone(),
            clock_ahead_ms: link.ahead,
            handshake_us,
            seal,
        })
    }

    async fn probe_seal(&self, link: &Link, send: SendProbe) -> Result<SealPath, String> {
        let spi = Spi(rand::random_range(1..=u32::MAX));
        let key = SessionKey([rand::random(), rand::random()]);
        let ready = link.ask(|number| LinkMessage::Probe { number, spi: spi.0, key: key.0 }, PATIENCE).await;
        match ready {
            Some(LinkMessage::Probing { refused: None, .. }) => {}
            Some(LinkMessage::Probing { refused: Some(reason), .. }) => {
                return Err(format!("the peer refuses: {}", reason.as_str()));
            }
            _ => return Err("the peer does not answer on the link".to_owned()),
        }
        let to = SocketAddr::new(link.remote.ip().to_canonical(), self.options.port);
        let route = self.probe_route(to, spi, key)?;
        let sent = send(to, spi, key).map_err(|error| format!("cannot send the SYN: {error}"));
        let answer = match sent {
            Ok(()) => self.probe_answer(link, spi).await,
            Err(error) => Err(error),
        };
        self.table.remove_route(&route);
        answer
    }

    /// Lets the SYN pass our own border.
    fn probe_route(&self, to: SocketAddr, spi: Spi, key: SessionKey) -> Result<RouteKey, String> {
        let now = self.table.now();
        let place = RouteKey {
            destination: to.ip().into(),
            source: IdentityId::AGENT,
            port: to.port(),
            protocol: protocol::TCP,
            pad: 0,
        };
        let expires = now + LASTS.as_nanos() as u64;
        let route = Route { key, expires, made: now, spi, ..Route::default() };
        self.table.put_route(&place, &route).map_err(|error| error.to_string())?;
        Ok(place)
    }

    async fn probe_answer(&self, link: &Link, spi: Spi) -> Result<SealPath, String> {
        let mut last = SealPath::Absent;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            match link.ask(|number| LinkMessage::ProbeEnd { number, spi: spi.0 }, PATIENCE).await {
                Some(LinkMessage::Probed { opened: 1.., .. }) => return Ok(SealPath::Unchanged),
                Some(LinkMessage::Probed { forged: 1.., .. }) => last = SealPath::Changed,
                Some(_) => {}
                None => return Err("the peer does not answer on the link".to_owned()),
            }
        }
        Ok(last)
    }

    /// Installs a peer's one-time session. It stands for nobody.
    pub(super) fn probe_begins(&self, number: u64, spi: Spi, key: [u64; 2]) -> LinkMessage {
        let now = self.table.now();
        let mut state = self.state();
        let refused = if spi.0 == 0 || state.probes.len() >= 16 || state.inbound.contains_key(&spi) {
            Some(Reason::Busy)
        } else {
            let expires = now + LASTS.as_nanos() as u64;
            let session = Session { key: SessionKey(key), expires, made: now, ..Session::default() };
            match self.table.install_session(spi, &session) {
                Ok(()) => {
                    state.probes.insert(spi, expires);
                    None
                }
                Err(_full) => Some(Reason::Internal),
            }
        };
        LinkMessage::Probing { number, refused }
    }

    /// What has come for a peer's one-time session.
    pub(super) fn probe_ends(&self, number: u64, spi: Spi) -> LinkMessage {
        let known = self.state().probes.contains_key(&spi);
        let session = self.table.session(spi).filter(|_| known).unwrap_or_default();
        LinkMessage::Probed { number, opened: session.opened, forged: session.forged }
    }

    /// Removes one-time sessions that are over.
    pub(super) fn end_probes(&self) {
        let now = self.table.now();
        let mut state = self.state();
        let over: Vec<Spi> =
            state.probes.iter().filter(|(_, until)| **until <= now).map(|(s, _)| *s).collect();
        for spi in over {
            self.table.remove_session(spi);
            state.probes.remove(&spi);
        }
    }
}
