//! What the mesh tells about itself, for `waxseal session list` and `waxseal status`.

use std::collections::BTreeMap;
use std::time::Instant;

use waxseal_common::ids::{IdentityId, protocol};

use super::counters::Count;
use super::handshakes::Handshakes;
use super::inner::Inner;
use super::state::{Facts, Party, Route};

/// One end of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// SPIFFE ID.
    pub id: String,
    /// This node's number for it.
    pub identity: IdentityId,
}

/// One session, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionReport {
    /// Which way.
    pub direction: Direction,
    /// The workload that opens connections.
    pub source: Option<Who>,
    /// The workload that accepts them; `None` where only the node answers, or nobody.
    pub destination: Option<Who>,
    /// SPIFFE ID of the peer node.
    pub node: Option<String>,
    /// Sender only: the destination as dialled.
    pub target: Option<String>,
    /// The receiver's name for the session.
    pub spi: Option<u32>,
    /// Seconds since it was made, or since it failed.
    pub age_s: u64,
    /// Seconds until it ends, or until it is tried again.
    pub expires_s: u64,
    /// Live connections that name it.
    pub connections: u32,
    /// SYNs sealed, or true seals seen.
    pub opened: u64,
    /// Receiver only: seals that were not true.
    pub forged: u64,
    /// Whether a handshake is in flight, done, or has failed.
    pub stage: Stage,
    /// Why there is none: the word of a failure, and what happened. Escaped.
    pub failure: Option<(String, String)>,
}

impl From<&Party> for Who {
    fn from(party: &Party) -> Self {
        Self { id: party.id.to_string(), identity: party.identity }
    }
}

/// Which way connections under a session go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From this node.
    Out,
    /// To this node.
    In,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It stands.
    Ready,
    /// Another has taken its place, or it has expired; connections name it.
    Past,
    /// The handshake is in flight.
    Opening,
    /// There is none.
    Failed,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// SPIFFE ID of the peer node.
    pub node: String,
    /// Where it answers, or comes from.
    pub address: Option<String>,
    /// Version of its agent. Escaped.
    pub version: Option<String>,
    /// Seconds since it stands; `None` when it does not.
    pub age_s: Option<u64>,
    /// Milliseconds by which its clock is ahead.
    pub clock_ahead_ms: i64,
    /// Why there is none. Escaped.
    pub failure: Option<String>,
}

/// In a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sessions in which this node sends.
    pub outbound: usize,
    /// Sessions in which it receives.
    pub inbound: usize,
    /// Destinations without a session, handshakes in flight among them.
    pub without: usize,
    /// Links that stand.
    pub links: usize,
    /// Other nodes that were met.
    pub nodes: usize,
    /// Packets that wait.
    pub held: usize,
    /// Handshakes begun here that ended with a session, renewals included.
    pub completed: u64,
    /// The same in more detail, with those that failed.
    pub begun: Handshakes,
    /// Those of others.
    pub answered: Handshakes,
    /// What was counted.
    pub counters: BTreeMap<String, u64>,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Every session.
    pub sessions: Vec<SessionReport>,
    /// Every peer node.
    pub links: Vec<LinkReport>,
    /// What was counted.
    pub counters: BTreeMap<String, u64>,
    /// Packets that wait.
    pub held: usize,
}

impl Inner {
    /// What there is, in a few numbers; cheap.
    pub(super) fn summary(&self) -> Summary {
        let state = self.state();
        Summary {
            outbound: state.outbound.values().filter(|line| !line.past).count(),
            inbound: state.inbound.values().filter(|session| !session.past).count(),
            without: state.routes.values().filter(|route| !matches!(route, Route::Ready(_))).count(),
            links: self.links.all().len(),
            nodes: state.peers.all().count(),
            held: state.queue.len(),
            completed: self.counters.value(Count::Opened) + self.counters.value(Count::Renewed),
            begun: self.begun.so_far(),
            answered: self.answered.so_far(),
            counters: self.counters.all(),
        }
    }

    /// Everything, with live connections counted. Reads whole tables: not for the fast path.
    pub(super) fn report(&self) -> Report {
        let live = self.table.live();
        let now = self.table.now();
        let seconds = |from: u64, to: u64| to.saturating_sub(from) / 1_000_000_000;
        let state = self.state();
        let name = |node: u32| state.peers.get(node).map(|peer| peer.id.to_string());
        let id = |party: &Option<Party>| party.as_ref().map(Who::from);
        let base = |facts: &Facts| SessionReport {
            direction: Direction::In,
            source: None,
            destination: None,
            node: name(facts.node),
            target: None,
            spi: None,
            age_s: seconds(facts.made, now),
            expires_s: seconds(now, facts.expires),
            connections: 0,
            opened: 0,
            forged: 0,
            stage: Stage::Ready,
            failure: None,
        };
        let mut sessions: Vec<SessionReport> = Vec::new();
        for (spi, session) in &state.inbound {
            let counted = self.table.session(*spi).unwrap_or_default();
            sessions.push(SessionReport {
                source: id(&session.facts.remote),
                destination: id(&session.facts.local),
                spi: Some(spi.0),
                connections: live.accepted.get(spi).copied().unwrap_or(0),
                opened: counted.opened,
                forged: counted.forged,
                stage: if session.past { Stage::Past } else { Stage::Ready },
                ..base(&session.facts)
            });
        }
        for (number, line) in &state.outbound {
            let counted = self.table.route(&line.key).filter(|_| !line.past).unwrap_or_default();
            sessions.push(SessionReport {
                direction: Direction::Out,
                source: id(&line.facts.local),
                destination: id(&line.facts.remote),
                target: Some(target(&line.key)),
                spi: Some(line.spi.0),
                connections: live.opened.get(number).copied().unwrap_or(0),
                opened: counted.opened,
                stage: if line.past { Stage::Past } else { Stage::Ready },
                ..base(&line.facts)
            });
        }
        let pending = state.routes.iter().filter_map(|(key, route)| self.unsettled(key, route));
        sessions.extend(pending);
        sessions.sort_by(|a, b| {
            let order = |s: &SessionReport| (s.direction, s.source.clone(), s.target.clone(), s.spi);
            order(a).cmp(&order(b))
        });
        let nodes: Vec<_> = state.peers.all().map(|(number, peer)| (number, peer.clone())).collect();
        let held = state.queue.len();
        drop(state);
        let links = nodes.into_iter().map(|(number, peer)| self.link_report(number, &peer)).collect();
        Report { sessions, links, counters: self.counters.all(), held }
    }

    fn unsettled(&self, key: &waxseal_common::wire::RouteKey, route: &Route) -> Option<SessionReport> {
        let now = Instant::now();
        let (stage, age, left, failure) = match route {
            Route::Ready(_) => return None,
            Route::Pending(held) => {
                let since = held.iter().map(|waiting| waiting.since).min().unwrap_or(now);
                (Stage::Opening, now - since, std::time::Duration::ZERO, None)
            }
            Route::Failed(failed) => (
                Stage::Failed,
                now - failed.since,
                failed.until.saturating_duration_since(now),
                Some((failed.failure.as_str().to_owned(), failed.detail.clone())),
            ),
        };
        Some(SessionReport {
            direction: Direction::Out,
            source: self.node.workload(key.source).as_ref().map(Party::from).as_ref().map(Who::from),
            destination: None,
            node: None,
            target: Some(target(key)),
            spi: None,
            age_s: age.as_secs(),
            expires_s: left.as_secs(),
            connections: 0,
            opened: 0,
            forged: 0,
            stage,
            failure,
        })
    }

    fn link_report(&self, number: u32, peer: &super::peers::Peering) -> LinkReport {
        let link = self.links.with(number);
        LinkReport {
            node: peer.id.to_string(),
            address: link.as_ref().map(|link| link.remote).or(peer.agent).map(|address| address.to_string()),
            version: link.as_ref().map(|link| link.version.clone()),
            age_s: link.as_ref().map(|link| link.since.elapsed().as_secs()),
            clock_ahead_ms: link.as_ref().map_or(0, |link| link.ahead),
            failure: if link.is_some() { None } else { self.links.failure(number) },
        }
    }
}

fn target(key: &waxseal_common::wire::RouteKey) -> String {
    let protocol = if key.protocol == protocol::UDP { "udp" } else { "tcp" };
    let address = std::net::SocketAddr::from((std::net::IpAddr::from(key.destination), key.port));
    format!("{address}/{protocol}")
}
