//! What an agent finds of an earlier one: sessions in the kernel, and the record of what was proved for them. What does
//! not fit together is removed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::wire::{RouteKey, Spi};

use super::announce::Sent;
use super::host::Table;
use super::journal::{FactsLine, Journal, Line, Record, VERSION, path};
use super::message::{Hex, to_chain};
use super::state::{Facts, Inbound, Outbound, Route, State};
use crate::pki::{Bundles, Peer, Role, verify};

/// The longest file that is read.
const LIMIT: u64 = 256 << 20;

/// Where a run begins.
pub(super) struct Resumed {
    pub(super) journal: Journal,
    pub(super) nonce: u64,
    pub(super) state: State,
}

impl Journal {
    /// Reads the record in `directory` when the kernel's tables are of the same boot (`resumes`), removes from them what
    /// it does not speak of, and begins it anew.
    pub(super) fn open(directory: &Path, resumes: bool, bundles: &Bundles, table: &dyn Table) -> Resumed {
        let path = path(directory);
        let boot = boot();
        let earlier = if resumes { Earlier::read(&path, &boot) } else { None };
        let nonce = earlier.as_ref().map_or_else(rand::random, |earlier| earlier.nonce);
        let state = earlier.map(|earlier| earlier.restore(bundles, table)).unwrap_or_default();
        let state = state.with_flows(table);
        clear(&state, table);
        let journal = Self::begin(path, boot, nonce);
        journal.rewrite(&state.peers, state.records());
        Resumed { journal, nonce, state }
    }
}

/// The number of this boot, drawn by the kernel.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Removes what nobody can judge.
fn clear(state: &State, table: &dyn Table) {
    for (spi, _) in table.sessions() {
        if !state.inbound.contains_key(&spi) {
            table.remove_session(spi);
        }
    }
    for (key, route) in table.routes() {
        if route.has_session() && state.line_of(&key).is_none() {
            table.remove_route(&key);
        }
    }
}

/// What the file says.
#[derive(Default)]
struct Earlier {
    nonce: u64,
    chains: HashMap<u32, Vec<Hex>>,
    state: State,
    inbound: HashMap<u32, (Option<u32>, FactsLine)>,
    outbound: HashMap<u32, Line>,
}

impl Earlier {
    fn read(path: &Path, boot: &str) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut lines = BufReader::new(file.take(LIMIT)).lines().map_while(Result::ok);
        let first = serde_json::from_str(&lines.next()?).ok()?;
        let Line::Begin { version: VERSION, boot: written, nonce } = first else { return None };
        if written != boot || boot.is_empty() {
            return None;
        }
        let mut earlier = Self { nonce, ..Self::default() };
        for line in lines {
            // The last one may be cut where the agent was killed.
            if let Ok(line) = serde_json::from_str(&line) {
                earlier.take(line);
            }
        }
        Some(earlier)
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Begin { .. } => {}
            Line::Chain { number, certificates } => drop(self.chains.insert(number, certificates)),
            Line::Peer { number, id, nonce, agent } => self.state.peers.restore(number, id, nonce, agent),
            Line::Inbound { spi, replaces, facts } => drop(self.inbound.insert(spi, (replaces, facts))),
            Line::Outbound { session, .. } => drop(self.outbound.insert(session, line)),
            Line::Gone { inbound, outbound } => {
                for spi in inbound {
                    self.inbound.remove(&spi);
                }
                for session in outbound {
                    self.outbound.remove(&session);
                }
            }
        }
    }

    /// Keeps what is still proved and still in the kernel.
    fn restore(mut self, bundles: &Bundles, table: &dyn Table) -> State {
        let proofs = prove(std::mem::take(&mut self.chains), bundles);
        let now = table.now();
        for (spi, (replaces, line)) in std::mem::take(&mut self.inbound) {
            self.restore_inbound(Spi(spi), replaces.map(Spi), line, &proofs, table);
        }
        let mut lines: Vec<_> = std::mem::take(&mut self.outbound).into_iter().collect();
        lines.sort_unstable_by_key(|(session, _)| *session);
        for (session, line) in lines {
            self.restore_outbound(session, line, &proofs, now, table);
        }
        self.state
    }

    fn restore_inbound(
        &mut self,
        spi: Spi,
        replaces: Option<Spi>,
        line: FactsLine,
        proofs: &HashMap<u32, Arc<Peer>>,
        table: &dyn Table,
    ) {
        let Some(facts) = facts(line, proofs) else { return };
        let there = table.session(spi).is_some_and(|session| session.made == facts.made);
        if let Some(peer) = self.state.peers.get_mut(facts.node) {
            peer.inbound += 1;
        }
        let session = self.state.inbound.entry(spi);
        let known = session.or_insert_with(|| Inbound::new(facts.clone()));
        known.facts = facts;
        known.past = !there;
        if let Some(replaces) = replaces {
            // Whichever of the two comes first makes the other's place.
            let facts = known.facts.clone();
            let before = self.state.inbound.entry(replaces).or_insert_with(|| Inbound::new(facts));
            before.replaced_by = Some(spi);
            before.past |= table.session(replaces).is_none();
        }
    }

    fn restore_outbound(
        &mut self,
        session: u32,
        line: Line,
        proofs: &HashMap<u32, Arc<Peer>>,
        now: u64,
        table: &dyn Table,
    ) {
        let Line::Outbound { spi, agent, destination, port, protocol, source, renew_at, facts: line, .. } =
            line
        else {
            return;
        };
        self.state.begin_after(session);
        let key = RouteKey {
            destination: Address::from(destination),
            source: IdentityId(source),
            port,
            protocol,
            pad: 0,
        };
        let Some(facts) = facts(line, proofs).filter(|facts| facts.expires > now) else { return };
        let route = table.route(&key);
        let current = route.is_some_and(|route| route.session == session && route.spi.0 == spi);
        if current {
            self.state.routes.insert(key, Route::Ready(session));
        }
        let line = Outbound {
            facts,
            key,
            spi: Spi(spi),
            agent,
            renew_at,
            renewing: false,
            dead: false,
            past: !current,
        };
        self.state.outbound.insert(session, line);
    }
}

/// Verifies every chain once more; those that are not believed any more are left out, and their sessions with them.
fn prove(chains: HashMap<u32, Vec<Hex>>, bundles: &Bundles) -> HashMap<u32, Arc<Peer>> {
    let now = SystemTime::now();
    let proven = chains.into_iter().filter_map(|(number, chain)| {
        let peer = verify(bundles, &to_chain(chain), Role::Client, now).ok()?;
        Some((number, Arc::new(peer)))
    });
    proven.collect()
}

fn facts(line: FactsLine, proofs: &HashMap<u32, Arc<Peer>>) -> Option<Facts> {
    let FactsLine { node, local, remote, chains, made, expires } = line;
    let proofs = chains.iter().map(|number| proofs.get(number).cloned()).collect::<Option<Vec<_>>>()?;
    (!proofs.is_empty()).then_some(Facts { node, local, remote, proofs, made, expires })
}

impl Inbound {
    fn new(facts: Facts) -> Self {
        Self { facts, replaced_by: None, dead: false, past: false }
    }
}

impl State {
    /// Takes up the flows that an earlier agent has announced under sessions that are still there.
    fn with_flows(mut self, table: &dyn Table) -> Self {
        for (flow, announced) in table.announced() {
            if self.outbound.contains_key(&announced.session) {
                self.sent.insert(flow, Sent::new(announced.session, announced.until));
            } else {
                table.withdraw(&flow);
            }
        }
        self
    }

    /// All that is worth being written down.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let before: HashMap<Spi, Spi> = self
            .inbound
            .iter()
            .filter_map(|(spi, session)| session.replaced_by.map(|next| (next, *spi)))
            .collect();
        let inbound = self.inbound.iter().filter(|(_, session)| !session.dead);
        let inbound = inbound
            .map(move |(spi, session)| Record::inbound(*spi, &session.facts, before.get(spi).copied()));
        let outbound = self.outbound.iter().filter(|(_, line)| !line.dead);
        inbound.chain(outbound.map(|(session, line)| Record::outbound(*session, line)))
    }
}
