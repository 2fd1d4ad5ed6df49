//! The numbers of this node: one for each (SPIFFE ID, label set), the same over restarts.
//!
//! Owns `identities.json` in the state directory. A number is written there before anyone sees it, and a number that was
//! given back goes to nobody else for [`QUARANTINE`]. Never guesses: a file that cannot be read whole is an error, not a
//! new beginning.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;

use crate::attest::Attested;
use crate::workload::{IdentityInfo, Origin, Workload};

mod proven;
mod store;

pub use store::Corruption;
use store::{Entry, Lasting, State, Store};

/// How long a number that was given back belongs to nobody else.
pub const QUARANTINE: Duration = Duration::from_hours(1);
/// How many numbers there are. New identities get fresh ones first; used ones come back only when all were given out.
pub const NUMBERS: u32 = 1 << 16;

/// Why an identity cannot be given out or taken back. The registry is then as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file exists and cannot be read.
    #[error("read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not one that a registry wrote.
    #[error("{} is damaged: move it away to start with new numbers", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Corruption,
    },
    /// The file cannot be written. The old one is untouched.
    #[error("write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The cause; a full disk among others.
        #[source]
        source: std::io::Error,
    },
    /// All numbers are in use or in quarantine.
    #[error("all {NUMBERS} identity numbers are in use or in quarantine")]
    Exhausted,
    /// Two workloads have one SPIFFE ID and one label set, but differ in what policies do with them.
    #[error(
        "{second} ({origin}) has the SPIFFE ID and labels of {first}, which is in another namespace or has another mode"
    )]
    Ambiguous {
        /// The workload that has the number.
        first: String,
        /// The one that asks for it.
        second: String,
        /// Where the second one is written.
        origin: Origin,
    },
    /// No such number is given out.
    #[error("identity {} is not given out", .0.0)]
    Unknown(IdentityId),
}

/// The time of day; quarantine lasts over reboots.
type Clock = Box<dyn Fn() -> SystemTime + Send + Sync>;

/// The numbers and their file.
pub struct Registry {
    store: Store,
    state: State,
    clock: Clock,
    numbers: u32,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("store", &self.store)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Reads the file in `directory`, or begins a new one when there is none. Makes the directory if need be. Pass
    /// `SystemTime::now` as the clock.
    pub fn open(
        directory: &Path,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let store = Store::open(directory)?;
        let state = store.load()?;
        Ok(Self { store, state, clock: Box::new(clock), numbers: NUMBERS })
    }

    /// The number of an attested workload: the one that its SPIFFE ID and labels have or had, else a free one.
    pub fn assign(&mut self, attested: &Attested) -> Result<IdentityInfo, Error> {
        let mut state = self.state.clone();
        let workload = attested.workload();
        let known = state.identities.iter().position(|entry| entry.is_of(workload));
        let index = self.give(&mut state, known, workload)?;
        let info = state.identities[index].info();
        self.keep(state)?;
        Ok(info)
    }

    /// The same for many, in their order and with one write for all: a node that starts has thousands at once.
    pub fn assign_all(&mut self, attested: &[&Attested]) -> Vec<Result<IdentityInfo, Error>> {
        let mut state = self.state.clone();
        let key = |workload: &Workload| (workload.spiffe_id.clone(), workload.labels.clone());
        let entries = state.identities.iter().zip(0..);
        let mut places: HashMap<_, usize> =
            entries.map(|(entry, at)| ((entry.spiffe_id.clone(), entry.labels.clone()), at)).collect();
        let mut given = Vec::with_capacity(attested.len());
        for attested in attested {
            let workload = attested.workload();
            // A number that was taken from somebody else in this very turn is at another's place.
            let known = places.get(&key(workload)).copied();
            let known = known.filter(|index| state.identities[*index].is_of(workload));
            given.push(self.give(&mut state, known, workload).map(|index| {
                places.insert(key(workload), index);
                state.identities[index].info()
            }));
        }
        match self.keep(state) {
            Ok(()) => given,
            // Whoever is known already has a number all the same.
            Err(_) => attested.iter().map(|attested| self.assign(attested)).collect(),
        }
    }

    /// Gives a number in a state to come: the one at `known`, or a free one. Leaves the state as it was on an error.
    fn give(&self, state: &mut State, known: Option<usize>, workload: &Workload) -> Result<usize, Error> {
        let Some(index) = known else {
            return self.add(state, |number| Entry::new(number, workload));
        };
        let mut taken = state.identities[index].clone();
        taken.take_up(workload)?;
        state.identities[index] = taken;
        Ok(index)
    }

    /// Takes a number back: nobody has this identity any more. The same identity gets it again, anybody else only after
    /// [`QUARANTINE`].
    pub fn release(&mut self, id: IdentityId) -> Result<(), Error> {
        let live = self.state.identities.iter().any(|entry| entry.id == id.0 && entry.released.is_none());
        if !live {
            return Err(Error::Unknown(id));
        }
        let others =
            self.state.live().map(|entry| IdentityId(entry.id)).filter(|other| *other != id).collect();
        self.retain(&others).map(drop)
    }

    /// Takes back every number that is not in `used`, with one write. Returns those taken back.
    pub fn retain(&mut self, used: &BTreeSet<IdentityId>) -> Result<Vec<IdentityId>, Error> {
        let now = self.now();
        let mut state = self.state.clone();
        let mut taken = Vec::new();
        for entry in state.identities.iter_mut().filter(|entry| entry.released.is_none()) {
            if !used.contains(&IdentityId(entry.id)) {
                entry.released = Some(now);
                taken.push(IdentityId(entry.id));
            }
        }
        self.keep(state)?;
        Ok(taken)
    }

    /// Takes names and modes from a new set of documents: an identity whose document was renamed or has another mode
    /// keeps its number. Call it when the documents have changed, before assigning.
    pub fn refresh(&mut self, workloads: &[Arc<Workload>]) -> Result<(), Error> {
        let mut state = self.state.clone();
        let mut documents: HashMap<_, Vec<&Workload>> = HashMap::new();
        for workload in workloads {
            documents.entry((&workload.spiffe_id, &workload.labels)).or_default().push(workload);
        }
        for entry in &mut state.identities {
            let Some(about) = documents.get(&(&entry.spiffe_id, &entry.labels)) else { continue };
            let named = about.iter().find(|workload| entry.is_named(workload));
            if let Some(workload) = named.or_else(|| about.first()) {
                entry.describe(workload);
            }
        }
        self.keep(state)
    }

    /// Every identity that is given out, by number.
    pub fn all(&self) -> Vec<IdentityInfo> {
        self.state.live().map(Entry::info).collect()
    }

    /// The identity with this number, if it is given out.
    pub fn identity(&self, id: IdentityId) -> Option<IdentityInfo> {
        self.state.live().find(|entry| entry.id == id.0).map(Entry::info)
    }

    fn now(&self) -> u64 {
        (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Adds an entry with a fresh number, or with the one that has been free longest.
    fn add(&self, state: &mut State, entry: impl FnOnce(u32) -> Entry) -> Result<usize, Error> {
        if state.next < IdentityId::FIRST_WORKLOAD.0 + self.numbers {
            let entry = entry(state.next);
            state.next += 1;
            state.identities.push(entry);
            return Ok(state.identities.len() - 1);
        }
        let now = self.now();
        let free = |entry: &&(usize, u64)| entry.1.saturating_add(QUARANTINE.as_secs()) <= now;
        let released =
            state.identities.iter().enumerate().filter_map(|(i, entry)| Some((i, entry.released?)));
        let oldest = released.min_by_key(|(_, at)| *at);
        let (index, _) = oldest.as_ref().filter(free).copied().ok_or(Error::Exhausted)?;
        state.identities[index] = entry(state.identities[index].id);
        Ok(index)
    }

    /// Writes a new state and then takes it over; the old one stays when writing fails.
    fn keep(&mut self, state: State) -> Result<(), Error> {
        if state != self.state {
            self.store.save(&state, Lasting::OnDisk)?;
            self.state = state;
        }
        Ok(())
    }
}

impl Entry {
    fn new(id: u32, workload: &Workload) -> Self {
        Self {
            id,
            spiffe_id: workload.spiffe_id.clone(),
            labels: workload.labels.clone(),
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            mode: workload.mode.map(Into::into),
            released: None,
            remote: false,
        }
    }

    fn is_of(&self, workload: &Workload) -> bool {
        self.spiffe_id == workload.spiffe_id && self.labels == workload.labels
    }

    fn is_named(&self, workload: &Workload) -> bool {
        self.namespace == workload.namespace && self.name == workload.name
    }

    fn describe(&mut self, workload: &Workload) {
        self.namespace.clone_from(&workload.namespace);
        self.name.clone_from(&workload.name);
        self.mode = workload.mode.map(Into::into);
        self.remote = false;
    }

    /// Gives the number to a workload with its SPIFFE ID and labels. While it is given out it keeps its name: two
    /// documents may describe one identity, as long as policies treat them alike.
    fn take_up(&mut self, workload: &Workload) -> Result<(), Error> {
        if self.released.take().is_some() || self.remote || self.is_named(workload) {
            self.describe(workload);
            return Ok(());
        }
        if self.namespace == workload.namespace && self.mode.map(Mode::from) == workload.mode {
            return Ok(());
        }
        Err(Error::Ambiguous {
            first: format!("{}/{}", self.namespace, self.name),
            second: workload.full_name(),
            origin: workload.origin.clone(),
        })
    }

    fn info(&self) -> IdentityInfo {
        IdentityInfo {
            id: IdentityId(self.id),
            spiffe_id: self.spiffe_id.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            mode: self.mode.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests;
