//! Conditions on containers.

use super::Stop;
use super::facts::{Container, Facts};
use super::place::{self, ContainerClaim};
use super::reason::{Refusal, Wait};
use crate::cgroup::Cgroup;
use crate::workload::{ContainerSelector, Selector};

/// Asks the engine about one cgroup at most once.
pub(super) struct Lookup<'a> {
    cgroup: &'a Cgroup,
    facts: &'a dyn Facts,
    claim: Option<ContainerClaim>,
    answer: Answer,
}

enum Answer {
    NotAsked,
    NotKnown,
    Known(Container),
}

impl<'a> Lookup<'a> {
    pub(super) fn new(cgroup: &'a Cgroup, facts: &'a dyn Facts) -> Self {
        Self { cgroup, facts, claim: place::container(&cgroup.path), answer: Answer::NotAsked }
    }

    /// Whether this cgroup is a container that `wanted` describes.
    pub(super) fn fits(&mut self, wanted: &ContainerSelector, selector: &Selector) -> Result<bool, Stop> {
        let Some(claim) = &self.claim else { return Ok(false) };
        // A user's own engine says what that user wants it to say.
        if claim.user.is_some() && claim.user != selector.uid {
            return Ok(false);
        }
        if matches!(self.answer, Answer::NotAsked) {
            let reason = |error| Stop::Wait { expected: true, reason: Wait::Fact(error) };
            self.answer =
                self.facts.container(claim).map_err(reason)?.map_or(Answer::NotKnown, Answer::Known);
        }
        let Answer::Known(container) = &self.answer else { return Ok(false) };
        if !describes(wanted, container) {
            return Ok(false);
        }
        // The path is only a claim: a directory of this name can be made by anybody who may make directories.
        match &container.cgroup {
            None => Err(Stop::Wait {
                expected: true,
                reason: Wait::NotRunning { container: container.name.clone() },
            }),
            Some(path) if is_at_or_below(path, &self.cgroup.path) => Ok(true),
            Some(path) => {
                Err(Refusal::FalseContainer { container: container.name.clone(), path: path.clone() }.into())
            }
        }
    }
}

/// Whether all conditions hold for this container.
pub(super) fn describes(wanted: &ContainerSelector, container: &Container) -> bool {
    wanted.name.as_ref().is_none_or(|glob| glob.matches(&container.name))
        && wanted.image.as_ref().is_none_or(|glob| glob.matches(&container.image))
        && wanted.labels.iter().all(|(key, value)| container.labels.get(key) == Some(value))
}

fn is_at_or_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
