//! The control thread: the only one that changes identities, endpoints and policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aya::maps::{MapData, RingBuf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use waxseal_common::address::Address;
use waxseal_common::ids::{CgroupId, IdentityId};
use waxseal_common::state::{Connection, Counter, Endpoint};
use waxseal_common::tables::Mode;

use super::Error;
use super::adopt::Survey;
use super::border::Changes;
use super::ceiling::{self, Ceiling};
use super::ends::Ends;
use super::lastgood::LastGood;
use super::mesh::{Request, Ties};
use super::names::NameBook;
use super::overrides::Overrides;
use super::refusals::Refuse;
use super::rings::asynchronous;
use super::tally::Tally;
use crate::api::{Command, Hub, PolicyFailure, PolicyReport};
use crate::attest::{Decision, Owner, ProcFacts};
use crate::cgroup::{Cgroup, Tree};
use crate::config::Config;
use crate::datapath::{self, Border, Kernel, monotonic};
use crate::flows::Time;
use crate::identity::Registry;
use crate::policy::{Compiled, Compiler, Library, Ownership, PolicySet};
use crate::watch::Watcher;

/// How often things are looked at that nobody tells about.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two complete scans of the cgroup tree.
const SCAN_TICKS: u64 = 30;
/// Ticks between two rounds of removing old entries.
const AGE_TICKS: u64 = 10;
/// Ticks between two looks at the node's addresses.
const LOOK_TICKS: u64 = 3;
/// How long after a look that a denial asked for another may ask.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// After how long a SYN that was allowed and never completed is forgotten: longer than the kernel keeps it itself.
/// An accept that is deferred until data comes (TCP_DEFER_ACCEPT) takes longest.
const HALF_OPEN: Duration = Duration::from_mins(4);

/// How long the identity of a cgroup that is gone holds for sockets that outlive it.
pub(super) const LINGER: Duration = Duration::from_mins(10);

/// What the control thread shares with the others.
pub(super) struct Shared {
    pub(super) names: Arc<NameBook>,
    pub(super) hub: Arc<Hub>,
    pub(super) tally: Arc<Tally>,
    /// Where UDP flows go that have ended.
    pub(super) ends: Ends,
    pub(super) refuse: Refuse,
    /// What the mesh is told, and its tables.
    pub(super) ties: Ties,
    /// Somebody may have called an address of this node that is not known yet.
    pub(super) look: Arc<Notify>,
}

/// The connections that an earlier agent adopted.
fn adopted(kernel: &Kernel) -> BTreeSet<u64> {
    let adopted = |record: &Connection| record.flags & Connection::ADOPTED != 0;
    kernel.connections().into_iter().filter(|(_, record)| adopted(record)).map(|(cookie, _)| cookie).collect()
}

/// All that only this thread changes.
pub(super) struct Control {
    pub(super) config: Config,
    pub(super) tree: Tree,
    pub(super) kernel: Kernel,
    pub(super) registry: Registry,
    pub(super) facts: ProcFacts,
    pub(super) compiler: Compiler,
    pub(super) compiled: Compiled,
    /// What is in force: the documents with the modes that were set at run time.
    pub(super) set: PolicySet,
    /// The documents as they are written.
    pub(super) documents: PolicySet,
    pub(super) overrides: Overrides,
    /// The files of the documents as they were read last.
    library: Library,
    last_good: LastGood,
    pub(super) cgroups: BTreeMap<CgroupId, Cgroup>,
    pub(super) decisions: BTreeMap<CgroupId, Decision>,
    pub(super) owners: BTreeMap<CgroupId, Owner>,
    pub(super) bound: BTreeMap<CgroupId, Endpoint>,
    /// Cgroups that are gone, and since when: their sockets may outlive them for a while.
    pub(super) leaving: BTreeMap<CgroupId, Instant>,
    /// Recorded connections whose end no program tells.
    pub(super) adopted: BTreeSet<u64>,
    /// The addresses of this node, in every namespace.
    pub(super) local: BTreeSet<Address>,
    /// Workloads of other nodes that have a number here, and when something last named it.
    pub(super) remote: BTreeMap<IdentityId, Instant>,
    /// The devices that lead to other nodes; `None` while this node keeps to itself.
    pub(super) border: Option<Border>,
    pub(super) policy: PolicyReport,
    pub(super) ceiling: Option<Ceiling>,
    pub(super) started: Instant,
    pub(super) shared: Shared,
    cgroups_lost: u64,
    /// Losses of the rings that consumers know of.
    pub(super) told: super::metrics::Told,
    /// A process has entered a workload, perhaps with a namespace that nobody has looked into.
    pub(super) look_soon: bool,
    /// Something was worked out, and the memory for it may be given back.
    pub(super) untidy: bool,
    /// Something happened in the tree that an event could not tell.
    pub(super) scan_soon: bool,
}

impl Control {
    /// Brings tables and endpoints to what documents and cgroups say, then attaches the programs: no packet is ever
    /// judged by half a policy.
    pub(super) fn start(config: Config, tree: Tree, kernel: Kernel, shared: Shared) -> Result<Self, Error> {
        let registry = Registry::open(&config.state, SystemTime::now)?;
        let ceiling = ceiling::read(&config.state)?;
        let pinned = kernel.pinned()?;
        let mut control = Self {
            facts: ProcFacts::new(tree.clone()),
            compiler: Compiler::new(pinned.first_free),
            compiled: pinned.compiled,
            set: PolicySet::default(),
            documents: PolicySet::default(),
            overrides: Overrides::read(&config.state)?,
            library: Library::new(config.trust_domain.clone(), Ownership::Trusted),
            last_good: LastGood::new(&config.state),
            cgroups: BTreeMap::new(),
            decisions: BTreeMap::new(),
            owners: BTreeMap::new(),
            bound: kernel.endpoints()?.into_iter().collect(),
            leaving: BTreeMap::new(),
            adopted: adopted(&kernel),
            local: BTreeSet::new(),
            remote: BTreeMap::new(),
            border: None,
            policy: PolicyReport {
                directory: super::reports::shown(&config.policies),
                ..PolicyReport::default()
            },
            ceiling,
            started: Instant::now(),
            cgroups_lost: 0,
            told: super::metrics::Told::default(),
            look_soon: false,
            untidy: false,
            scan_soon: false,
            config,
            tree,
            kernel,
            registry,
            shared,
        };
        control.told = control.losses_so_far();
        control.kernel.write_all(&pinned.settle)?;
        control.kernel.set_ceiling(control.ceiling.map_or(Mode::Enforce, |ceiling| ceiling.mode))?;
        control.scan()?;
        control.local = control.places();
        control.remember_remote();
        control.first_set()?;
        if control.config.has_border() {
            // Before anybody can write a seal that may leave.
            control.border = Some(control.kernel.border()?);
            control.cover();
        }
        control.kernel.attach()?;
        // Directories that were made between the scan and the attaching of the hook that tells of them.
        control.rescan();
        Ok(control)
    }

    /// The first set of documents. Bad ones are refused at a first start; later the last good ones stay in force.
    fn first_set(&mut self) -> Result<(), Error> {
        let errors = match self.library.load(std::slice::from_ref(&self.config.policies)) {
            Ok(set) => return self.install_loaded(set).map_err(Error::Settle),
            Err(errors) => errors,
        };
        let Some(set) = self.last_good.read(&self.config.trust_domain) else {
            return Err(Error::Policy(Box::new(errors)));
        };
        self.fail(&errors);
        self.install(set)?;
        self.describe_set();
        Ok(())
    }

    fn install_loaded(&mut self, set: PolicySet) -> Result<(), super::settle::Error> {
        self.install(set)?;
        self.policy.failure = None;
        self.describe_set();
        if let Err(error) = self.last_good.keep(self.library.texts()) {
            tracing::error!(%error, "cannot keep a copy of the documents; a restart over bad ones would not start");
        }
        Ok(())
    }

    fn describe_set(&mut self) {
        super::reports::describe(&mut self.policy, &self.set, self.kernel.revision().unwrap_or_default());
        for warning in &self.policy.warnings {
            tracing::warn!("{warning}");
        }
    }

    fn fail(&mut self, errors: &impl std::fmt::Display) {
        let errors = super::reports::lines(&errors.to_string());
        for error in &errors {
            tracing::error!("{error}");
        }
        tracing::error!("the documents are refused as a whole; what was in force stays in force");
        self.policy.failure = Some(PolicyFailure { errors, since: Time::now() });
    }

    /// Reads the documents anew.
    fn reload(&mut self) {
        match self.library.load(std::slice::from_ref(&self.config.policies)) {
            Ok(set) => {
                if let Err(error) = self.install_loaded(set) {
                    self.fail(&error);
                }
            }
            Err(errors) => self.fail(&errors),
        }
    }

    /// Works until told to stop.
    pub(super) async fn run(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        mut requests: mpsc::Receiver<Request>,
        ring: RingBuf<MapData>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Result<(), Error> {
        let mut ring = asynchronous(ring).map_err(Error::Start)?;
        let mut files = Watcher::new(&self.config.policies)?;
        // Whatever changed before the watch was there.
        self.reload();
        let mut clock = interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0;
        let look = Arc::clone(&self.shared.look);
        let mut looked = Instant::now();
        let devices = Changes::open().map_err(Error::Start)?;
        loop {
            tokio::select! {
                _ = &mut stopped => return Ok(()),
                Some(command) = commands.recv() => self.answer(command),
                Some(request) = requests.recv() => self.serve(request),
                ready = ring.readable_mut() => {
                    let mut ready = ready.map_err(Error::Start)?;
                    self.cgroup_events(ready.get_inner_mut());
                    ready.clear_ready();
                }
                changed = files.changed() => {
                    changed?;
                    self.reload();
                }
                changed = devices.next(), if self.border.is_some() => {
                    changed.map_err(Error::Start)?;
                    self.cover();
                }
                () = look.notified(), if looked.elapsed() > LOOK_AGAIN => {
                    looked = Instant::now();
                    self.look_around();
                }
                _ = clock.tick() => {
                    ticks += 1;
                    self.tick(ticks);
                }
            }
        }
    }

    fn tick(&mut self, ticks: u64) {
        self.beat();
        self.tell_losses();
        let waiting: BTreeSet<CgroupId> = self
            .decisions
            .iter()
            .filter(|(_, decision)| matches!(decision, Decision::NotYet { .. } | Decision::Refused { .. }))
            .map(|(id, _)| *id)
            .collect();
        let lost = self.counter(Counter::CgroupsLost);
        // Programs start and end without a word; only a look at them tells which workload a cgroup has become.
        let by_process = self.set.workloads.iter().any(|workload| workload.selector.names_processes());
        if lost != self.cgroups_lost || by_process || ticks.is_multiple_of(SCAN_TICKS) {
            self.cgroups_lost = lost;
            self.rescan();
        } else if !waiting.is_empty() {
            self.settle_cgroups(&waiting);
        }
        if ticks.is_multiple_of(AGE_TICKS) {
            self.age();
            self.forget_remote();
            if self.leaving.values().any(|since| since.elapsed() > LINGER) {
                self.settle_cgroups(&BTreeSet::new());
            }
        }
        if self.look_soon || ticks.is_multiple_of(LOOK_TICKS) {
            self.look_soon = false;
            self.look_around();
            self.cover();
        }
    }

    fn age(&mut self) {
        if std::mem::take(&mut self.untidy) {
            datapath::trim_heap();
        }
        let now = monotonic();
        match self.kernel.age(now, self.config.udp_idle, HALF_OPEN) {
            Ok(flows) => self.shared.ends.tell(&flows, now, &self.shared.hub),
            Err(error) => tracing::warn!(%error, "cannot remove old entries"),
        }
        if self.adopted.is_empty() {
            return;
        }
        let alive = Survey::take().cookies();
        let gone: Vec<u64> = self.adopted.iter().filter(|cookie| !alive.contains(cookie)).copied().collect();
        for cookie in gone {
            self.adopted.remove(&cookie);
            if let Err(error) = self.kernel.forget(cookie) {
                tracing::warn!(%error, "cannot forget a closed connection");
            }
        }
    }

    pub(super) fn counter(&self, wanted: Counter) -> u64 {
        let counters = self.kernel.counters().unwrap_or_default();
        counters.iter().find(|(counter, _)| *counter == wanted).map_or(0, |(_, value)| *value)
    }
}
