//! A small world for the tests of flows, filters and taps.

use std::sync::Arc;

use waxseal_common::address::Address;
use waxseal_common::flow::{FlowEvent, Hook, Kind, SealState};
use waxseal_common::ids::{CgroupId, IdentityId, NetnsId, Revision, RuleId};
use waxseal_common::state::{Process, Tuple};
use waxseal_common::verdict::{Direction, Reason, Verdict};

use super::{Clock, Flow, Identity, Made, Names, Rule, enrich};
use crate::workload::{IdentityInfo, Origin};

/// 2026-05-04T12:04:30Z.
const BOOT: u64 = 1_777_896_270_000_000_000;

/// Knows two workloads, two rules and two cgroups.
pub(crate) struct Known;

impl Names for Known {
    fn identity(&self, identity: IdentityId) -> Option<Arc<Identity>> {
        let (namespace, name) = match identity.0 {
            256 => ("shop", "checkout"),
            257 => ("payments", "api"),
            _ => return None,
        };
        let spiffe_id = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}").parse().unwrap();
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let labels = [("app".to_owned(), name.clone())].into();
        Some(Arc::new(Identity::new(&IdentityInfo {
            id: identity,
            spiffe_id,
            namespace,
            name,
            labels,
            mode: None,
        })))
    }

    fn rule(&self, rule: RuleId) -> Option<Arc<Rule>> {
        let origin = |line| Origin {
            file: std::path::Path::new("/etc/waxseal/policies/pay.yaml").into(),
            line,
            column: 7,
        };
        match rule.0 {
            1 => Some(Arc::new(Rule::new("payments/from-checkout", Some("only-get"), &origin(12)))),
            2 => Some(Arc::new(Rule::new("payments/from-checkout", Some("#2"), &origin(20)))),
            _ => None,
        }
    }

    fn cgroup(&self, cgroup: CgroupId) -> Option<Arc<str>> {
        match cgroup.0 {
            40 => Some("/system.slice/checkout.service".into()),
            66 => Some(format!("/a\x1b]0;owned\x07\n{}", "x".repeat(4096)).into()),
            _ => None,
        }
    }

    fn session(&self, opens: bool, id: u32) -> Option<Made> {
        (opens && id == 9).then(|| Made { node: "beta".into(), at: 1_000_000_000 })
    }

    fn clock(&self) -> Clock {
        Clock { boot: BOOT }
    }

    fn node(&self) -> Arc<str> {
        "alpha".into()
    }

    fn instance(&self) -> Arc<str> {
        "default".into()
    }
}

/// checkout asks payments on 8080 and may not, by a rule.
pub(crate) fn denied() -> FlowEvent {
    FlowEvent {
        at: 1_882_000_000,
        revision: Revision(3),
        cookie: 77,
        cgroup: CgroupId(40),
        tuple: Tuple {
            source: Address::from_v4([10, 0, 0, 1]),
            destination: Address::from_v4([10, 0, 0, 2]),
            source_port: 43210,
            destination_port: 8080,
            netns: NetnsId(0),
        },
        source: IdentityId(256),
        destination: IdentityId(257),
        rule: RuleId(1),
        netns: NetnsId(4_026_531_840),
        process: Process { pid: 4121, comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0" },
        port: 8080,
        kind: Kind::Denied as u8,
        verdict: Verdict::Deny as u8,
        reason: Reason::DenyRule as u8,
        direction: Direction::Egress as u8,
        protocol: 6,
        hook: Hook::Connect4 as u8,
        flags: FlowEvent::SEALED,
        seal: SealState::Local as u8,
        ..FlowEvent::default()
    }
}

/// The same connection, allowed.
pub(crate) fn allowed() -> FlowEvent {
    FlowEvent {
        kind: Kind::Opened as u8,
        verdict: Verdict::Allow as u8,
        reason: Reason::AllowRule as u8,
        rule: RuleId(2),
        ..denied()
    }
}

/// The same connection, closed.
pub(crate) fn closed() -> FlowEvent {
    FlowEvent {
        at: 61_882_000_000,
        kind: Kind::Closed as u8,
        bytes_sent: 1234,
        bytes_received: 5_678_901,
        duration: 60_000_000_000,
        packets_sent: 40,
        packets_received: 4021,
        retransmits: 3,
        rtt: 1250,
        last_state: 5,
        ..allowed()
    }
}

/// The same connection, refused by whoever is there.
pub(crate) fn refused() -> FlowEvent {
    FlowEvent {
        kind: Kind::Failed as u8,
        hook: Hook::SockOps as u8,
        error: libc::ECONNREFUSED.cast_unsigned(),
        last_state: 2,
        ..allowed()
    }
}

pub(crate) fn flow(event: &FlowEvent) -> Flow {
    enrich(event, &Known).unwrap()
}
