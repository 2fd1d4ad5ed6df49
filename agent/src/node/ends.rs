//! The ends of UDP flows. No program sees one: a flow has ended when nothing has come for a while, and the control thread,
//! which removes it then, tells.

use tokio::sync::mpsc;
use waxseal_common::flow::{FlowEvent, Hook, Kind, SealState};
use waxseal_common::ids::{IdentityId, protocol};
use waxseal_common::state::{Tuple, UdpFlow};
use waxseal_common::verdict::{Direction, Verdict};

use crate::api::Hub;
use crate::flows::{Cause, Loss};

/// Flows handed over at once.
const BATCH: usize = 4096;
/// Batches that may wait: more flows than both tables can hold.
const BATCHES: usize = 96;

/// Where flows go that have ended.
#[derive(Debug)]
pub(super) struct Ends(mpsc::Sender<Vec<FlowEvent>>);

pub(super) fn channel() -> (Ends, mpsc::Receiver<Vec<FlowEvent>>) {
    let (sender, receiver) = mpsc::channel(BATCHES);
    (Ends(sender), receiver)
}

impl Ends {
    /// Tells of those that were told of when they began.
    pub(super) fn tell(&self, flows: &[(Tuple, UdpFlow)], now: u64, hub: &Hub) {
        for flows in flows.chunks(BATCH) {
            let events: Vec<FlowEvent> =
                flows.iter().filter_map(|(tuple, flow)| closed(tuple, flow, now)).collect();
            let count = events.len() as u64;
            if count > 0 && self.0.try_send(events).is_err() {
                hub.lose(Loss { count, cause: Cause::FlowRing });
            }
        }
    }
}

/// The event; `None` for flows between ends that are no workloads, that were denied, or that carried nothing.
fn closed(tuple: &Tuple, flow: &UdpFlow, now: u64) -> Option<FlowEvent> {
    let stranger = flow.source == IdentityId::UNKNOWN;
    let announced = flow.flags & UdpFlow::ANNOUNCED != 0;
    let opens = !stranger && !announced;
    let managed = flow.source.is_workload() || flow.destination.is_workload();
    let verdicts = [flow.egress_verdict, flow.ingress_verdict].map(Verdict::from_byte);
    if !managed || flow.packets_sent == 0 || !verdicts.iter().all(|verdict| verdict.passes()) {
        return None;
    }
    let counted = |packets: u64| u32::try_from(packets).unwrap_or(u32::MAX);
    let seal = match (stranger, flow.flags & (UdpFlow::ANNOUNCED | UdpFlow::REMOTE)) {
        (true, _) => SealState::None,
        (false, 0) => SealState::Local,
        (false, UdpFlow::REMOTE) if !flow.destination.is_workload() => SealState::NoSession,
        (false, _) => SealState::Wire,
    };
    Some(FlowEvent {
        at: now,
        revision: if opens { flow.egress_revision } else { flow.ingress_revision },
        cgroup: flow.cgroup,
        bytes_sent: flow.bytes_sent,
        bytes_received: flow.bytes_received,
        duration: flow.seen.min(now).saturating_sub(flow.opened),
        tuple: *tuple,
        source: flow.source,
        destination: flow.destination,
        rule: flow.rule,
        netns: if opens { flow.netns } else { flow.receiver_netns },
        process: flow.process,
        port: tuple.destination_port,
        kind: Kind::Closed as u8,
        verdict: flow.egress_verdict.max(flow.ingress_verdict),
        reason: flow.reason,
        direction: if opens { Direction::Egress as u8 } else { Direction::Ingress as u8 },
        protocol: protocol::UDP,
        hook: Hook::Agent as u8,
        flags: if stranger { 0 } else { FlowEvent::SEALED },
        seal: seal as u8,
        session: flow.session.0,
        packets_sent: counted(flow.packets_sent),
        packets_received: counted(flow.packets_received),
        ..FlowEvent::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_was_told_of_is_told_of_at_its_end_and_no_other() {
        let workload = IdentityId::FIRST_WORKLOAD;
        let flow = UdpFlow {
            source: workload,
            destination: IdentityId::WORLD,
            opened: 1_000,
            seen: 5_000,
            packets_sent: 2,
            bytes_sent: 30,
            packets_received: 1,
            bytes_received: 7,
            ..UdpFlow::default()
        };
        let denied = Verdict::Deny as u8;
        for (case, flow, told) in [
            ("plain", flow, true),
            ("denied on leaving", UdpFlow { egress_verdict: denied, ..flow }, false),
            ("denied on arriving", UdpFlow { ingress_verdict: denied, ..flow }, false),
            ("nothing carried", UdpFlow { packets_sent: 0, ..flow }, false),
            ("nobody managed", UdpFlow { source: IdentityId::UNMANAGED, ..flow }, false),
            ("a stranger's", UdpFlow { source: IdentityId::UNKNOWN, destination: workload, ..flow }, true),
            ("announced", UdpFlow { flags: UdpFlow::ANNOUNCED, destination: workload, ..flow }, true),
        ] {
            let event = closed(&Tuple::default(), &flow, 9_000);
            assert_eq!(event.is_some(), told, "{case}");
            if let Some(event) = event {
                assert_eq!((event.at, event.duration), (9_000, 4_000), "{case}");
                assert_eq!((event.bytes_sent, event.packets_received), (30, 1), "{case}");
                let opens = matches!(case, "plain");
                assert_eq!(event.direction == Direction::Egress as u8, opens, "{case}");
            }
        }
    }
}
