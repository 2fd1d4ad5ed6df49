//! Ends connections that have become denied.

use waxseal_common::flow::{FlowEvent, Hook, Kind};
use waxseal_common::state::Connection;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Judgement, Peer, Question, Verdict, decide};

use super::control::Control;
use crate::datapath::monotonic;
use crate::flows::enrich;

impl Control {
    /// Ends every open connection that the policy in force denies.
    pub(super) fn end_denied(&self) {
        let ceiling = self.ceiling.map_or(Mode::Enforce, |ceiling| ceiling.mode);
        for (cookie, mut record) in self.kernel.connections() {
            if record.stage != Connection::OPEN {
                continue;
            }
            if let Some(endpoint) = self.bound.get(&record.cgroup) {
                record.owner = endpoint.identity;
            }
            // A cgroup that was refused gets nothing; its next packet is dropped, and the event tells why.
            if record.owner.is_workload() {
                let judged = self.judge(&record, ceiling);
                if judged.verdict == Verdict::Deny {
                    self.end(cookie, &record, judged);
                }
            }
        }
    }

    /// What the policy in force says of a connection.
    pub(super) fn judge(&self, record: &Connection, ceiling: Mode) -> Judgement {
        let opener = record.opener == 1;
        let direction = if opener { Direction::Egress } else { Direction::Ingress };
        let other = if opener { record.tuple.destination } else { record.tuple.source };
        decide(
            &self.compiled,
            &Question {
                direction,
                subject: record.owner,
                peer: Peer::Known(record.peer),
                peer_address: self.compiled.address(other),
                loopback: other.is_loopback(),
                protocol: waxseal_common::ids::protocol::TCP,
                port: record.port,
            },
            ceiling,
        )
    }

    /// Ends one open connection and tells why.
    pub(super) fn end(&self, cookie: u64, record: &Connection, judged: Judgement) {
        let opener = record.opener == 1;
        let direction = if opener { Direction::Egress } else { Direction::Ingress };
        let event = FlowEvent {
            at: monotonic(),
            revision: self.kernel.revision().unwrap_or_default(),
            cookie,
            cgroup: record.cgroup,
            duration: monotonic().saturating_sub(record.opened),
            session: record.session,
            tuple: record.tuple,
            source: if opener { record.owner } else { record.peer },
            destination: if opener { record.peer } else { record.owner },
            rule: judged.rule,
            netns: record.netns,
            process: record.process,
            port: record.port,
            kind: Kind::Denied as u8,
            verdict: judged.verdict as u8,
            reason: judged.reason as u8,
            direction: direction as u8,
            protocol: waxseal_common::ids::protocol::TCP,
            hook: Hook::Agent as u8,
            flags: FlowEvent::DESTROY | FlowEvent::SEALED,
            ..FlowEvent::default()
        };
        if self.shared.refuse.try_send(event).is_err() {
            tracing::warn!("a denied connection is not ended at once; its next packet is dropped");
        }
        match enrich(&event, &*self.shared.names) {
            Ok(flow) => self.shared.hub.publish(vec![(event, flow)]),
            Err(error) => tracing::error!(%error, "an event that cannot be read"),
        }
    }
}
