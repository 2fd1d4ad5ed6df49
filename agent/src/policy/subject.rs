//! What binds one workload: its rule sets, its mode, and what holds where no rule speaks.

use std::sync::Arc;

use waxseal_common::ids::RuleId;
use waxseal_common::tables::{Mode, Subject};
use waxseal_common::verdict::Direction;

use super::bind::Bound;
use super::compile::{CompileError, Work};
use super::compiled::RuleInfo;
use super::digest::Digest;
use super::modes::mode_of;
use super::prepare::ByPlace;
use super::set::{Action, Namespace, NodeDefaults, Refuse, Rule};
use crate::workload::IdentityInfo;

/// The workload that is judged, and what holds for it apart from policies.
pub(super) struct About<'a> {
    pub(super) identity: &'a IdentityInfo,
    pub(super) namespace: Option<&'a Namespace>,
    pub(super) defaults: &'a NodeDefaults,
}

impl Work<'_> {
    /// What binds one workload in one direction.
    pub(super) fn subject(
        &mut self,
        about: &About<'_>,
        bound: &Bound,
        direction: Direction,
    ) -> Result<Subject, CompileError> {
        let policies = self.policies;
        let speaking = |index: &usize| policies[*index].rules(direction).is_some();
        let all: Vec<usize> = bound.policies.iter().copied().filter(speaking).collect();
        let enforced: Vec<usize> =
            all.iter().copied().filter(|index| !policies[*index].is_shadow()).collect();
        let shadow = all.len() > enforced.len();
        let mut subject = Subject { mode: self.mode(about, &enforced) as u8, ..Subject::default() };
        subject.set = self.rows.rule_set(direction, &enforced, self.numbers)?;
        let base = self.denier(about, direction, &enforced)?;
        if let Some(rule) = base {
            subject.selected_by = rule;
            subject.flags |= Subject::DENY_BY_DEFAULT;
        }
        if about.namespace.is_some_and(|namespace| namespace.refuse == Refuse::Drop) {
            subject.flags |= Subject::REFUSE_SILENTLY;
        }
        if shadow {
            subject.flags |= Subject::SHADOW;
            subject.shadow_set = self.rows.rule_set(direction, &all, self.numbers)?;
            if let Some(rule) = self.denier(about, direction, &all)? {
                subject.shadow_selected_by = rule;
                subject.flags |= Subject::SHADOW_DENY_BY_DEFAULT;
            }
        }
        // Where the enforced rules deny by default, a policy in audit must not soften a denial into waiting. Elsewhere the
        // worst is that an allowed connection is judged a little later, and then the report is complete.
        let decisive = if base.is_some() { &enforced } else { &all };
        for (action, flag) in
            [(Action::Allow, Subject::ALLOWS_IDENTITIES), (Action::Deny, Subject::DENIES_IDENTITIES)]
        {
            if names_identities(self.rows.prepared, decisive, direction, action) {
                subject.flags |= flag;
            }
        }
        Ok(subject)
    }

    /// Workload, then a policy that enforces, then the namespace, then the node.
    fn mode(&self, about: &About<'_>, enforced: &[usize]) -> Mode {
        let enforced = enforced.iter().map(|index| &*self.policies[*index]);
        mode_of(about.identity, enforced, about.namespace, about.defaults).0
    }

    /// Who makes the workload deny what no rule allows.
    fn denier(
        &mut self,
        about: &About<'_>,
        direction: Direction,
        policies: &[usize],
    ) -> Result<Option<RuleId>, CompileError> {
        let first = policies.iter().find(|index| self.policies[**index].denies_by_default(direction));
        let info = match (first, about.namespace) {
            (Some(index), _) => {
                let policy = &self.policies[*index];
                RuleInfo {
                    policy: policy.title(),
                    kind: policy.kind,
                    rule: None,
                    direction: direction.into(),
                    origin: policy.origin.clone(),
                }
            }
            (None, Some(namespace)) if namespace.default_deny => RuleInfo {
                policy: namespace.name.clone(),
                kind: "Namespace",
                rule: None,
                direction: direction.into(),
                origin: namespace.origin.clone(),
            },
            _ => return Ok(None),
        };
        let id = RuleId(self.numbers.rules.number(&Digest::of(&(&info, None::<&Rule>)))?);
        self.deniers.entry(id).or_insert_with(|| Arc::new(info));
        Ok(Some(id))
    }
}

fn names_identities(prepared: &ByPlace, policies: &[usize], direction: Direction, action: Action) -> bool {
    let policies = policies.iter().filter_map(|place| prepared.get(*place)?.as_deref());
    let mut rules = policies.flat_map(|policy| policy.rules(direction));
    rules.any(|rule| rule.action == action && rule.names_identities())
}
