//! The book of names: what the kernel's numbers mean. Written by the control thread, read for every event.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use waxseal_common::ids::{CgroupId, IdentityId, RuleId};
use waxseal_common::verdict::Direction;

use crate::config::Config;
use crate::escape::escape;
use crate::flows::{Clock, Identity, Made, Names, Rule};
use crate::policy::RuleInfo;
use crate::workload::IdentityInfo;

/// How many rules that are no longer in force keep their names, for events that are still on their way.
const OLD_RULES: usize = 65536;

/// How many sessions are known by name at once, those that have ended among them.
const OLD_SESSIONS: usize = 65536;

/// The book.
#[derive(Debug)]
pub(super) struct NameBook {
    pages: RwLock<Pages>,
    node: Arc<str>,
    instance: Arc<str>,
}

#[derive(Debug, Default)]
struct Pages {
    identities: HashMap<IdentityId, Arc<Identity>>,
    /// With the list that each is in.
    rules: HashMap<RuleId, (Arc<Rule>, Direction)>,
    cgroups: HashMap<CgroupId, Arc<str>>,
    /// By whether this node's workload opens, and the session's number.
    sessions: HashMap<(bool, u32), Made>,
}

impl NameBook {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            pages: RwLock::default(),
            node: escape(&config.node).into(),
            instance: config.instance.as_str().into(),
        }
    }

    /// Learns identities. Those that are gone keep their names until the number is given out again.
    pub(super) fn learn_identities<'a>(&self, identities: impl Iterator<Item = &'a IdentityInfo>) {
        let changed: Vec<_> = {
            let book = self.open();
            let is_known = |identity: &Identity| {
                book.pages.identities.get(&IdentityId(identity.id)).is_some_and(|known| **known == *identity)
            };
            identities.map(Identity::new).filter(|identity| !is_known(identity)).collect()
        };
        let named = changed.into_iter().map(|identity| (IdentityId(identity.id), Arc::new(identity)));
        self.write(|pages| pages.identities.extend(named));
    }

    /// Learns the rules of a revision. A number that is known already means what it meant.
    pub(super) fn learn_rules(&self, rules: &BTreeMap<RuleId, Arc<RuleInfo>>) {
        let new: Vec<_> = {
            let book = self.open();
            rules.iter().filter(|(id, _)| !book.pages.rules.contains_key(id)).collect()
        };
        let named: Vec<_> = new
            .into_iter()
            .map(|(id, info)| {
                let rule = Rule::new(&info.policy, info.rule.as_deref(), &info.origin);
                (*id, (Arc::new(rule), info.direction.into()))
            })
            .collect();
        self.write(|pages| {
            if pages.rules.len() > OLD_RULES + rules.len() {
                pages.rules.retain(|id, _| rules.contains_key(id));
            }
            pages.rules.extend(named);
        });
    }

    /// Learns where a cgroup is.
    pub(super) fn learn_cgroup(&self, id: CgroupId, path: &str) {
        self.write(|pages| pages.cgroups.insert(id, path.into()));
    }

    /// Forgets a cgroup that is gone.
    pub(super) fn forget_cgroup(&self, id: CgroupId) {
        self.write(|pages| pages.cgroups.remove(&id));
    }

    /// Learns a session with another node. Those that have ended keep their names for events that are still on their way.
    pub(super) fn learn_session(&self, opens: bool, id: u32, node: &str, made: u64) {
        let made = Made { node: escape(node).into(), at: made };
        self.write(|pages| {
            if pages.sessions.len() > OLD_SESSIONS {
                pages.sessions.clear();
            }
            pages.sessions.insert((opens, id), made);
        });
    }

    /// The open book, for a batch of events: nothing can be written until it is closed.
    pub(super) fn open(&self) -> OpenBook<'_> {
        OpenBook {
            pages: self.pages.read().unwrap_or_else(PoisonError::into_inner),
            clock: Clock::read(),
            book: self,
        }
    }

    fn write<T>(&self, change: impl FnOnce(&mut Pages) -> T) {
        change(&mut self.pages.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The book while it is read. Both clocks were read when it was opened.
pub(super) struct OpenBook<'a> {
    pages: RwLockReadGuard<'a, Pages>,
    clock: Clock,
    book: &'a NameBook,
}

impl OpenBook<'_> {
    /// The side that a rule is about.
    pub(super) fn direction(&self, rule: RuleId) -> Option<Direction> {
        self.pages.rules.get(&rule).map(|(_, direction)| *direction)
    }
}

impl Names for OpenBook<'_> {
    fn identity(&self, identity: IdentityId) -> Option<Arc<Identity>> {
        self.pages.identities.get(&identity).cloned()
    }

    fn rule(&self, rule: RuleId) -> Option<Arc<Rule>> {
        self.pages.rules.get(&rule).map(|(rule, _)| Arc::clone(rule))
    }

    fn cgroup(&self, cgroup: CgroupId) -> Option<Arc<str>> {
        self.pages.cgroups.get(&cgroup).cloned()
    }

    fn session(&self, opens: bool, id: u32) -> Option<Made> {
        self.pages.sessions.get(&(opens, id)).cloned()
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn node(&self) -> Arc<str> {
        Arc::clone(&self.book.node)
    }

    fn instance(&self) -> Arc<str> {
        Arc::clone(&self.book.instance)
    }
}

impl Names for NameBook {
    fn identity(&self, identity: IdentityId) -> Option<Arc<Identity>> {
        self.open().identity(identity)
    }

    fn rule(&self, rule: RuleId) -> Option<Arc<Rule>> {
        self.open().rule(rule)
    }

    fn cgroup(&self, cgroup: CgroupId) -> Option<Arc<str>> {
        self.open().cgroup(cgroup)
    }

    fn session(&self, opens: bool, id: u32) -> Option<Made> {
        self.open().session(opens, id)
    }

    fn clock(&self) -> Clock {
        Clock::read()
    }

    fn node(&self) -> Arc<str> {
        Arc::clone(&self.node)
    }

    fn instance(&self) -> Arc<str> {
        Arc::clone(&self.instance)
    }
}
