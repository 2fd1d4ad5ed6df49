//! From the kernel's numbers to names.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use thiserror::Error;
use waxseal_common::flow::{FlowEvent, Hook, Kind, SealState};
use waxseal_common::ids::{self, CgroupId, IdentityId, RuleId};
use waxseal_common::state::{self, Tuple};
use waxseal_common::verdict::{Direction, Reason, Verdict};
use waxseal_common::wire::Failure;

use super::{Carried, Cgroup, Clock, End, Ended, Flow, Identity, Process, Protocol, Rule, Session, VERSION};
use crate::escape::{escape, escape_comm};
use crate::workload::{IdentityInfo, Labels};

/// What only the node knows. Answers come from memory: this is asked for every event.
pub trait Names {
    /// A workload's number; `None` when it is not in use any more. Reserved numbers are not asked for.
    fn identity(&self, identity: IdentityId) -> Option<Arc<Identity>>;
    /// A rule's number.
    fn rule(&self, rule: RuleId) -> Option<Arc<Rule>>;
    /// The path of a cgroup from the root of the hierarchy, as the kernel gives it.
    fn cgroup(&self, cgroup: CgroupId) -> Option<Arc<str>>;
    /// A session between nodes, by its number at this node; `opens` where this node's workload opens.
    fn session(&self, opens: bool, id: u32) -> Option<Made>;
    /// The two clocks, read for this batch.
    fn clock(&self) -> Clock;
    /// The name of the node.
    fn node(&self) -> Arc<str>;
    /// The name of this agent on the node.
    fn instance(&self) -> Arc<str>;
}

/// What is known of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The other node. Escaped.
    pub node: Arc<str>,
    /// Monotonic nanoseconds when it was made.
    pub at: u64,
}

/// An event with a byte that has no meaning. It was written by programs of another version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a flow event has {field} {value}, which means nothing to this agent")]
pub struct Garbled {
    /// Which byte.
    pub field: &'static str,
    /// Its value.
    pub value: u8,
}

impl Identity {
    /// A workload as flows show it.
    pub fn new(info: &IdentityInfo) -> Self {
        let owned = |text: &str| escape(text).into_owned();
        Self {
            id: info.id.0,
            name: owned(&format!("{}/{}", info.namespace, info.name)),
            spiffe_id: Some(owned(info.spiffe_id.as_str())),
            labels: escaped(&info.labels),
        }
    }

    /// A number without a workload: one of the reserved words, else `?`.
    pub fn unnamed(id: IdentityId) -> Self {
        Self {
            id: id.0,
            name: reserved_word(id).unwrap_or("?").to_owned(),
            spiffe_id: None,
            labels: Labels::new(),
        }
    }
}

/// Labels that are safe to show: the very list where nothing in it needs escaping, which is nearly always.
fn escaped(labels: &Labels) -> Labels {
    let plain = |text| matches!(escape(text), Cow::Borrowed(_));
    if labels.iter().all(|(key, value)| plain(key) && plain(value)) {
        return labels.clone();
    }
    labels.iter().map(|(key, value)| (escape(key), escape(value))).collect()
}

/// The word for a reserved number.
pub(super) fn reserved_word(id: IdentityId) -> Option<&'static str> {
    match id {
        IdentityId::UNKNOWN => Some("unknown"),
        IdentityId::HOST => Some("host"),
        IdentityId::WORLD => Some("world"),
        IdentityId::UNMANAGED => Some("unmanaged"),
        IdentityId::AGENT => Some("agent"),
        _ => None,
    }
}

/// Puts names to an event.
pub fn enrich(event: &FlowEvent, names: &dyn Names) -> Result<Flow, Garbled> {
    // Every field is named, so that a new one cannot be forgotten here.
    let FlowEvent {
        at,
        revision,
        cookie,
        cgroup,
        bytes_sent,
        bytes_received,
        duration,
        tuple,
        source,
        destination,
        rule,
        netns,
        isn: _,
        process,
        port,
        kind,
        verdict,
        reason,
        direction,
        protocol,
        hook,
        flags,
        seal,
        failure,
        session,
        packets_sent,
        packets_received,
        retransmits,
        rtt,
        error,
        last_state,
        pad: _,
        tail: _,
    } = *event;
    let Tuple {
        source: source_address,
        destination: destination_address,
        source_port,
        destination_port,
        netns: _,
    } = tuple;
    let kind = Kind::from_byte(kind).ok_or(Garbled { field: "kind", value: kind })?;
    let direction = direction_of(direction)?;
    let carried = (kind == Kind::Closed).then(|| {
        Box::new(Carried {
            bytes_sent,
            bytes_received,
            duration_ns: duration,
            packets_sent,
            packets_received,
            retransmits,
            rtt_us: (rtt != 0).then_some(rtt),
        })
    });
    Ok(Flow {
        v: VERSION,
        time: names.clock().wall(at),
        kind,
        verdict: Verdict::from_byte(verdict),
        direction,
        reason: Reason::from_byte(reason).ok_or(Garbled { field: "reason", value: reason })?,
        rule: if rule == RuleId::NONE { None } else { names.rule(rule) },
        source: End {
            identity: who(source, names),
            address: IpAddr::from(source_address),
            port: source_port,
        },
        destination: End {
            identity: who(destination, names),
            address: IpAddr::from(destination_address),
            port: destination_port,
        },
        protocol: Protocol(protocol),
        port: if port == 0 { destination_port } else { port },
        process: named(&process),
        cgroup: Cgroup { id: cgroup.0, path: names.cgroup(cgroup).map(shown) },
        netns: netns.0,
        cookie,
        hook: Hook::from_byte(hook).ok_or(Garbled { field: "hook", value: hook })?,
        sealed: flags & FlowEvent::SEALED != 0,
        seal: SealState::from_byte(seal).ok_or(Garbled { field: "seal", value: seal })?,
        session: (session != 0).then(|| known_session(event, names)),
        failure: why_no_session(failure)?,
        // Only the opener's side is judged outward.
        ended: if protocol == ids::protocol::UDP && kind == Kind::Closed {
            Some(Ended::Idle)
        } else {
            Ended::of(kind, direction == Direction::Egress, error, last_state)
        },
        carried,
        second: flags & FlowEvent::SECOND != 0,
        revision: revision.0,
        node: names.node(),
        instance: names.instance(),
    })
}

fn known_session(event: &FlowEvent, names: &dyn Names) -> Session {
    // Only the opener's side is judged outward.
    let opens = event.direction == Direction::Egress as u8;
    let made = names.session(opens, event.session);
    Session {
        id: event.session,
        age_ns: made.as_ref().map(|made| event.at.saturating_sub(made.at)),
        node: made.map(|made| made.node),
    }
}

fn why_no_session(byte: u16) -> Result<Option<Box<str>>, Garbled> {
    let value = byte as u8;
    let failure = Failure::from_byte(value).ok_or(Garbled { field: "failure", value })?;
    Ok((failure != Failure::None).then(|| failure.as_str().into()))
}

fn direction_of(byte: u8) -> Result<Direction, Garbled> {
    match byte {
        0 => Ok(Direction::Ingress),
        1 => Ok(Direction::Egress),
        value => Err(Garbled { field: "direction", value }),
    }
}

fn who(id: IdentityId, names: &dyn Names) -> Arc<Identity> {
    static RESERVED: LazyLock<[Arc<Identity>; 5]> =
        LazyLock::new(|| std::array::from_fn(|id| Arc::new(Identity::unnamed(IdentityId(id as u32)))));
    if let Some(reserved) = RESERVED.get(id.0 as usize) {
        return Arc::clone(reserved);
    }
    names.identity(id).unwrap_or_else(|| Arc::new(Identity::unnamed(id)))
}

fn named(process: &state::Process) -> Option<Process> {
    let state::Process { pid, comm } = process;
    (*pid != 0).then(|| Process { pid: *pid, comm: escape_comm(comm).into() })
}

fn shown(path: Arc<str>) -> Arc<str> {
    match escape(&path) {
        Cow::Owned(escaped) => escaped.into(),
        Cow::Borrowed(_) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Known, denied};
    use super::*;

    #[test]
    fn numbers_become_names() {
        let flow = enrich(&denied(), &Known).unwrap();
        assert_eq!((flow.source.identity.name.as_str(), flow.source.identity.id), ("shop/checkout", 256));
        assert_eq!(flow.destination.identity.name, "payments/api");
        assert_eq!(flow.rule.as_ref().unwrap().title(), "payments/from-checkout#only-get");
        assert_eq!(flow.process.as_ref().unwrap().pid, 4121);
        assert_eq!(flow.cgroup.path.as_deref(), Some("/system.slice/checkout.service"));
        assert_eq!(flow.time.to_string(), "2026-05-04T12:04:31.882Z");
        assert_eq!(flow.carried, None);
    }

    #[test]
    fn reserved_and_forgotten_numbers_are_shown_as_such() {
        for (id, name) in
            [(0, "unknown"), (1, "host"), (2, "world"), (3, "unmanaged"), (4, "agent"), (5, "?"), (9999, "?")]
        {
            let flow = enrich(&FlowEvent { source: IdentityId(id), ..denied() }, &Known).unwrap();
            assert_eq!((flow.source.identity.name.as_str(), flow.source.identity.id), (name, id));
        }
    }

    #[test]
    fn a_hostile_process_name_is_escaped_and_an_absent_one_is_absent() {
        let process = state::Process { pid: 1, comm: *b"a\x1b[2J\n\xe2\x80\xae\xffDENY\0\0" };
        let flow = enrich(&FlowEvent { process, ..denied() }, &Known).unwrap();
        assert_eq!(&*flow.process.unwrap().comm, r"a\x1b[2J\n\u{202e}\xffDENY");
        let flow = enrich(&FlowEvent { process: state::Process::default(), ..denied() }, &Known).unwrap();
        assert_eq!(flow.process, None);
    }

    #[test]
    fn a_hostile_cgroup_path_is_escaped_and_cut() {
        let flow = enrich(&FlowEvent { cgroup: CgroupId(66), ..denied() }, &Known).unwrap();
        let path = flow.cgroup.path.unwrap();
        assert!(path.starts_with(r"/a\x1b]0;owned\x07\n") && path.ends_with('…'), "{path}");
        assert_eq!(path.chars().count(), crate::escape::LIMIT);
    }

    #[test]
    fn a_byte_without_a_meaning_is_named() {
        for (event, field) in [
            (FlowEvent { kind: 9, ..denied() }, "kind"),
            (FlowEvent { reason: 99, ..denied() }, "reason"),
            (FlowEvent { direction: 2, ..denied() }, "direction"),
            (FlowEvent { hook: 77, ..denied() }, "hook"),
            (FlowEvent { seal: 77, ..denied() }, "seal"),
            (FlowEvent { failure: 77, ..denied() }, "failure"),
        ] {
            assert_eq!(enrich(&event, &Known).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_session_has_its_node_and_its_age() {
        let sealed = FlowEvent { seal: SealState::Wire as u8, session: 9, ..denied() };
        let flow = enrich(&sealed, &Known).unwrap();
        assert_eq!(flow.seal, SealState::Wire);
        let expected = Session { id: 9, node: Some("beta".into()), age_ns: Some(882_000_000) };
        assert_eq!(flow.session, Some(expected));
        let flow = enrich(&FlowEvent { session: 8, ..sealed }, &Known).unwrap();
        assert_eq!(flow.session, Some(Session { id: 8, node: None, age_ns: None }), "one that is forgotten");
        let failed =
            FlowEvent { seal: SealState::NoSession as u8, failure: Failure::Untrusted as u16, ..denied() };
        let flow = enrich(&failed, &Known).unwrap();
        assert_eq!((flow.session, flow.failure.as_deref()), (None, Some("untrusted")));
    }

    #[test]
    fn an_unknown_listener_port_is_the_dialled_one() {
        let flow = enrich(&FlowEvent { port: 0, ..denied() }, &Known).unwrap();
        assert_eq!((flow.port, flow.destination.port), (8080, 8080));
    }
}
