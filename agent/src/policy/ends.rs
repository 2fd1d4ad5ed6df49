//! The ends of a question, by the names that people have for them.

use std::net::IpAddr;

use waxseal_common::address::Address;
use waxseal_common::ids::IdentityId;
use waxseal_common::verdict::Peer as OtherEnd;

use super::compiled::Compiled;
use super::condition::carries;
use super::describe::{labels_text, reserved_word};
use super::explain::ExplainError;
use crate::escape::escape;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{IdentityInfo, Labels};

const SCHEME: &str = "spiffe://";
const DEFAULT_NAMESPACE: &str = "default";

/// One end of a connection in question.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) who: Who,
    pub(super) ip: Option<IpAddr>,
}

#[derive(Clone, Debug)]
pub(super) enum Who {
    Workload(IdentityInfo),
    Reserved(IdentityId),
    /// Whoever is at the address.
    Anybody,
}

impl Ended {
    /// The workload, when it is one.
    pub(super) fn workload(&self) -> Option<&IdentityInfo> {
        match &self.who {
            Who::Workload(info) => Some(info),
            _ => None,
        }
    }

    /// Who is there, as the tables know it: at an address outside the mesh nobody but the world is, inside it anybody
    /// may be.
    pub(super) fn peer(&self, compiled: &Compiled) -> OtherEnd {
        match (&self.who, self.ip) {
            (Who::Workload(info), _) => OtherEnd::Known(info.id),
            (Who::Reserved(id), _) => OtherEnd::Known(*id),
            (Who::Anybody, Some(ip)) if !compiled.address(Address::from(ip)).in_mesh() => {
                OtherEnd::Known(IdentityId::WORLD)
            }
            (Who::Anybody, _) => OtherEnd::Unresolved,
        }
    }

    /// In words.
    pub(super) fn name(&self, compiled: &Compiled) -> String {
        let who = match (&self.who, self.peer(compiled)) {
            (Who::Workload(info), _) => {
                let (id, labels) = (&info.spiffe_id, labels_text(&info.labels));
                let labels = if labels.is_empty() { labels } else { format!(", {labels}") };
                format!("{} ({id}{labels})", info.full_name())
            }
            (_, OtherEnd::Known(id)) => reserved_word(id).unwrap_or("unknown").to_owned(),
            (_, OtherEnd::Unresolved) => "somebody inside the mesh".to_owned(),
        };
        match self.ip {
            Some(ip) => format!("{who} at {ip}"),
            None => who,
        }
    }
}

/// Finds ends. Who is named by labels or by a SPIFFE ID that nobody has is imagined, and added to the identities.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) identities: Vec<IdentityInfo>,
    trust_domain: Option<TrustDomain>,
}

impl Ends {
    pub(super) fn new(identities: &[IdentityInfo], trust_domain: Option<TrustDomain>) -> Self {
        Self { identities: identities.to_vec(), trust_domain }
    }

    /// The end that a text names.
    pub(super) fn find(&mut self, text: &str) -> Result<Ended, ExplainError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Ended { who: Who::Anybody, ip: Some(ip) });
        }
        let Some((name, ip)) = text.rsplit_once('@') else {
            return Ok(Ended { who: self.named(text)?, ip: None });
        };
        let ip = ip.parse().map_err(|_source| ExplainError::Unknown(escape(text).into_owned()))?;
        Ok(Ended { who: self.named(name)?, ip: Some(ip) })
    }

    fn named(&mut self, name: &str) -> Result<Who, ExplainError> {
        let reserved = (0..=IdentityId::AGENT.0).map(IdentityId).find(|id| reserved_word(*id) == Some(name));
        if let Some(id) = reserved {
            return Ok(Who::Reserved(id));
        }
        let number = name.parse().ok().map(IdentityId);
        let means = |info: &&IdentityInfo| {
            Some(info.id) == number || info.spiffe_id.as_str() == name || info.full_name() == name
        };
        let mut found: Vec<&IdentityInfo> = self.identities.iter().filter(means).collect();
        if found.is_empty() {
            found = self.identities.iter().filter(|info| info.name == name).collect();
        }
        if !found.is_empty() {
            return one(name, &found);
        }
        if name.starts_with(SCHEME) {
            return self.by_id(name);
        }
        if name.contains('=') { self.by_labels(name) } else { Err(unknown(name)) }
    }

    /// `spiffe://…`, with `,key=value` as often as wanted.
    fn by_id(&mut self, text: &str) -> Result<Who, ExplainError> {
        let (id, labels) = text.split_once(',').map_or((text, None), |(id, labels)| (id, Some(labels)));
        let id: SpiffeId = id.parse().map_err(|_source| unknown(text))?;
        let labels = labels.map_or(Some(Labels::new()), labels_of).ok_or_else(|| unknown(text))?;
        let namespace = id.namespace().unwrap_or(DEFAULT_NAMESPACE).to_owned();
        let name = id.path().rsplit('/').next().unwrap_or_default().to_owned();
        Ok(self.imagine(id, namespace, name, labels))
    }

    /// `key=value,key=value`, with `namespace/` before it. A first part with a dot belongs to the key.
    fn by_labels(&mut self, text: &str) -> Result<Who, ExplainError> {
        let is_namespace = |prefix: &str| !prefix.contains(['.', '=', ',']);
        let (namespace, rest) = match text.split_once('/') {
            Some((prefix, rest)) if is_namespace(prefix) => (Some(prefix), rest),
            _ => (None, text),
        };
        let labels = labels_of(rest).ok_or_else(|| unknown(text))?;
        let carrying = |info: &&IdentityInfo| {
            namespace.is_none_or(|namespace| info.namespace == namespace) && carries(&info.labels, &labels)
        };
        let found: Vec<&IdentityInfo> = self.identities.iter().filter(carrying).collect();
        if !found.is_empty() {
            return one(text, &found);
        }
        let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
        let name = format!("imagined-{}", self.identities.len());
        let domain = self.trust_domain.clone().ok_or_else(|| unknown(text))?;
        let id = SpiffeId::for_workload(&domain, namespace, &name).map_err(|_source| unknown(text))?;
        Ok(self.imagine(id, namespace.to_owned(), name, labels))
    }

    fn imagine(&mut self, spiffe_id: SpiffeId, namespace: String, name: String, labels: Labels) -> Who {
        let highest = self.identities.iter().map(|info| info.id.0).max();
        let id = IdentityId(highest.map_or(IdentityId::FIRST_WORKLOAD.0, |id| id.saturating_add(1)));
        let info = IdentityInfo { id, spiffe_id, namespace, name, labels, mode: None };
        self.identities.push(info.clone());
        Who::Workload(info)
    }
}

fn unknown(text: &str) -> ExplainError {
    ExplainError::Unknown(escape(text).into_owned())
}

fn one(name: &str, found: &[&IdentityInfo]) -> Result<Who, ExplainError> {
    match found {
        [one] => Ok(Who::Workload((*one).clone())),
        several => Err(ExplainError::Ambiguous {
            name: escape(name).into_owned(),
            candidates: several
                .iter()
                .take(8)
                .map(|info| format!("{} ({})", info.full_name(), info.id.0))
                .collect(),
        }),
    }
}

fn labels_of(text: &str) -> Option<Labels> {
    text.split(',')
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}
