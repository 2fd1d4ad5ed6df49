//! What the node tells Prometheus, and the losses of the kernel's rings, which it tells the taps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use waxseal_common::state::Counter;
use waxseal_common::tables::Mode;

use super::control::Control;
use super::history::Watch;
use crate::api::{Command, Hub, StatusReport};
use crate::flows::{Cause, Loss};
use crate::metrics::{Asked, Facts, Fill, HistoryFacts, Metrics, Node, Server};

/// How old an answer may be: counting the entries of a large table takes the control thread some time.
const FRESH: Duration = Duration::from_secs(1);
/// How long to wait for a port that somebody else has.
const RETRY: Duration = Duration::from_secs(10);

/// Asks the control thread.
#[derive(Debug)]
struct Asking {
    commands: mpsc::Sender<Command>,
    hub: Arc<Hub>,
    history: Option<(Watch, u64)>,
    last: Mutex<Option<(Instant, Facts)>>,
}

/// Serves until it is aborted. A port that somebody else has is waited for: it is no reason not to guard.
pub(super) fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    commands: mpsc::Sender<Command>,
    hub: Arc<Hub>,
    history: Option<(Watch, u64)>,
) -> JoinHandle<()> {
    let node = Arc::new(Asking { commands, hub, history, last: Mutex::default() });
    tokio::spawn(async move {
        let mut told = false;
        loop {
            match Server::bind(address).await {
                Ok(server) => return server.serve(metrics, node).await,
                Err(error) if !told => tracing::error!("{error}; trying again"),
                Err(_same) => {}
            }
            told = true;
            sleep(RETRY).await;
        }
    })
}

impl Node for Asking {
    fn facts(&self) -> Asked<'_, Facts> {
        Box::pin(async move {
            // Held while asking: those who come meanwhile share the answer.
            let mut last = self.last.lock().await;
            if let Some((at, facts)) = &*last
                && at.elapsed() < FRESH
            {
                return Ok(facts.clone());
            }
            let (reply, answer) = oneshot::channel();
            let stopping = || "the agent is stopping".to_owned();
            self.commands.send(Command::Status(reply)).await.map_err(|_closed| stopping())?;
            let report = answer.await.map_err(|_closed| stopping())?;
            let facts = self.gather(report);
            *last = Some((Instant::now(), facts.clone()));
            Ok(facts)
        })
    }
}

impl Asking {
    fn gather(&self, report: StatusReport) -> Facts {
        let counters = Counter::ALL
            .iter()
            .filter_map(|counter| Some((*counter, *report.counters.get(counter.as_str())?)))
            .collect();
        let attached = report.programs.iter().filter(|program| program.attached).count() as u64;
        let history = self.history.as_ref().map(|(watch, limit)| {
            let state = watch.state();
            HistoryFacts { bytes: state.bytes, limit: *limit, written: state.written, lost: state.lost }
        });
        Facts {
            version: report.version,
            kernel: report.kernel,
            uptime_s: report.uptime_s,
            revision: report.revision,
            policy_since: report.policy.since,
            policy_refused: report.policy.failure.is_some(),
            policies: report.policy.policies,
            endpoints: report.endpoints,
            unsettled: report.unsettled.len() as u64,
            identities: report.identities,
            programs: (attached, report.programs.len() as u64),
            ceiling: report.mode.ceiling != Mode::Enforce,
            maps: report
                .maps
                .into_iter()
                .map(|fill| Fill { name: fill.name, used: fill.used, capacity: fill.capacity })
                .collect(),
            counters,
            tap_readers: report.taps.readers,
            tap_lost: report.taps.lost,
            losses: self.hub.losses(),
            history,
        }
    }
}

/// How much of the rings' losses has been told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    flows: u64,
    denials: u64,
}

impl Control {
    /// What was lost before this agent's time is nobody's loss now.
    pub(super) fn losses_so_far(&self) -> Told {
        Told { flows: self.counter(Counter::FlowsLost), denials: self.counter(Counter::DenialsLost) }
    }

    /// Tells every consumer what the rings have lost since the last time.
    pub(super) fn tell_losses(&mut self) {
        let now = self.losses_so_far();
        let Told { flows, denials } = std::mem::replace(&mut self.told, now);
        for (cause, count) in [
            (Cause::FlowRing, now.flows.saturating_sub(flows)),
            (Cause::DenialRing, now.denials.saturating_sub(denials)),
        ] {
            if count > 0 {
                tracing::warn!(count, ring = ?cause, "a ring was full; events were lost, verdicts were not");
                self.shared.hub.lose(Loss { count, cause });
            }
        }
    }
}
