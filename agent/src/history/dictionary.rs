//! The names that the events of one block need.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waxseal_common::flow::FlowEvent;
use waxseal_common::ids::{CgroupId, IdentityId, RuleId};
use waxseal_common::verdict::Direction;

use crate::flows::{Clock, Flow, Identity, Loss, Made, Names, Rule};

/// As it is written: JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Written {
    boot: u64,
    node: Arc<str>,
    instance: Arc<str>,
    identities: Vec<Arc<Identity>>,
    rules: Vec<(u32, Arc<Rule>)>,
    cgroups: Vec<(u64, Arc<str>)>,
    sessions: Vec<(bool, u32, Arc<str>, u64)>,
    pub(super) lost: Vec<Loss>,
}

/// Learns the names of flows, as long as no number changes its meaning.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    node: Option<(Arc<str>, Arc<str>)>,
    identities: HashMap<u32, Arc<Identity>>,
    rules: HashMap<u32, Arc<Rule>>,
    cgroups: HashMap<u64, Arc<str>>,
    sessions: HashMap<(bool, u32), (Arc<str>, u64)>,
}

impl Dictionary {
    /// Learns a flow's names. `false`, and nothing learnt, when a number means somebody else by now.
    pub(super) fn learn(&mut self, event: &FlowEvent, flow: &Flow) -> bool {
        let ends = [&flow.source.identity, &flow.destination.identity];
        let known = ends.iter().all(|end| same(self.identities.get(&end.id), end))
            && flow.rule.as_ref().is_none_or(|rule| same(self.rules.get(&event.rule.0), rule))
            && flow.cgroup.path.as_ref().is_none_or(|path| same(self.cgroups.get(&event.cgroup.0), path))
            && self
                .node
                .as_ref()
                .is_none_or(|(node, instance)| *node == flow.node && *instance == flow.instance);
        if !known {
            return false;
        }
        for end in ends {
            self.identities.entry(end.id).or_insert_with(|| Arc::clone(end));
        }
        if let Some(rule) = &flow.rule {
            self.rules.entry(event.rule.0).or_insert_with(|| Arc::clone(rule));
        }
        if let Some(path) = &flow.cgroup.path {
            self.cgroups.entry(event.cgroup.0).or_insert_with(|| Arc::clone(path));
        }
        if let Some(session) = &flow.session
            && let (Some(node), Some(age)) = (&session.node, session.age_ns)
        {
            let opens = event.direction == Direction::Egress as u8;
            let made = event.at.saturating_sub(age);
            self.sessions.entry((opens, session.id)).or_insert_with(|| (Arc::clone(node), made));
        }
        if self.node.is_none() {
            self.node = Some((Arc::clone(&flow.node), Arc::clone(&flow.instance)));
        }
        true
    }

    /// Writes everything down and forgets it.
    pub(super) fn take(&mut self, boot: u64, lost: Vec<Loss>) -> Written {
        let Self { node, identities, rules, cgroups, sessions } = std::mem::take(self);
        let (node, instance) = node.unwrap_or_default();
        Written {
            boot,
            node,
            instance,
            identities: identities.into_values().collect(),
            rules: rules.into_iter().collect(),
            cgroups: cgroups.into_iter().collect(),
            sessions: sessions.into_iter().map(|((opens, id), (node, at))| (opens, id, node, at)).collect(),
            lost,
        }
    }
}

/// The same thing, or nothing known yet.
fn same<T: PartialEq + ?Sized>(known: Option<&Arc<T>>, new: &Arc<T>) -> bool {
    known.is_none_or(|known| Arc::ptr_eq(known, new) || **known == **new)
}

/// The names of a block that is read.
#[derive(Debug)]
pub(super) struct Known {
    boot: u64,
    node: Arc<str>,
    instance: Arc<str>,
    identities: HashMap<u32, Arc<Identity>>,
    rules: HashMap<u32, Arc<Rule>>,
    cgroups: HashMap<u64, Arc<str>>,
    sessions: HashMap<(bool, u32), (Arc<str>, u64)>,
}

impl From<Written> for Known {
    fn from(written: Written) -> Self {
        let Written { boot, node, instance, identities, rules, cgroups, sessions, lost: _ } = written;
        Self {
            boot,
            node,
            instance,
            identities: identities.into_iter().map(|identity| (identity.id, identity)).collect(),
            rules: rules.into_iter().collect(),
            cgroups: cgroups.into_iter().collect(),
            sessions: sessions.into_iter().map(|(opens, id, node, at)| ((opens, id), (node, at))).collect(),
        }
    }
}

impl Names for Known {
    fn identity(&self, identity: IdentityId) -> Option<Arc<Identity>> {
        self.identities.get(&identity.0).cloned()
    }

    fn rule(&self, rule: RuleId) -> Option<Arc<Rule>> {
        self.rules.get(&rule.0).cloned()
    }

    fn cgroup(&self, cgroup: CgroupId) -> Option<Arc<str>> {
        self.cgroups.get(&cgroup.0).cloned()
    }

    fn session(&self, opens: bool, id: u32) -> Option<Made> {
        let (node, at) = self.sessions.get(&(opens, id))?;
        Some(Made { node: Arc::clone(node), at: *at })
    }

    fn clock(&self) -> Clock {
        Clock { boot: self.boot }
    }

    fn node(&self) -> Arc<str> {
        Arc::clone(&self.node)
    }

    fn instance(&self) -> Arc<str> {
        Arc::clone(&self.instance)
    }
}
