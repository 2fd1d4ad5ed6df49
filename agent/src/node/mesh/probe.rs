//! `waxseal doctor --peer`: tries the way to another node and says what is wrong with it.

use std::net::IpAddr;

use tokio::sync::oneshot;

use crate::api::{Failure, FailureKind};
use crate::datapath::send_sealed_syn;
use crate::mesh::{Probe, ProbeError, SealPath};
use crate::node::control::Control;
use crate::report::Check;

/// By how much clocks may differ before certificates, backdated by a minute, are in danger.
const CLOCKS: i64 = 30_000;

impl Control {
    /// Answers with what was found, from a task of its own.
    pub(in crate::node) fn probe(
        &self,
        address: IpAddr,
        reply: oneshot::Sender<Result<Vec<Check>, Failure>>,
    ) {
        let Some(mesh) = self.shared.ties.mesh.get().cloned() else {
            let failure = Failure::new(
                FailureKind::Invalid,
                "this node keeps to itself; `ca` and `listen` in its configuration say with whom it meets",
            );
            let _gave_up = reply.send(Err(failure));
            return;
        };
        tokio::spawn(async move {
            let probed = mesh.probe(address.into(), send_sealed_syn).await;
            let _gave_up = reply.send(Ok(checks(address, probed)));
        });
    }
}

fn checks(address: IpAddr, probed: Result<Probe, ProbeError>) -> Vec<Check> {
    let probe = match probed {
        Ok(probe) => probe,
        Err(error) => {
            let cure = "see that an agent of the same CA runs there, and that its port is open on the way";
            return vec![Check::fail(format!("agent of {address}"), error.to_string(), cure)];
        }
    };
    let Probe { node, agent, version, clock_ahead_ms, handshake_us, seal } = probe;
    let proven = if handshake_us == 0 {
        format!("{node} (version {version}) at {agent}; the link was there already")
    } else {
        format!("{node} (version {version}) at {agent}; proven in {} ms", handshake_us / 1000)
    };
    let ahead = format!("its clock is {clock_ahead_ms:+} ms against ours");
    let clock = if clock_ahead_ms.abs() <= CLOCKS {
        Check::ok("clocks", ahead)
    } else {
        Check::warn("clocks", ahead, "keep both clocks right: certificates are judged by them")
    };
    vec![Check::ok("peer", proven), clock, sealed(seal)]
}

fn sealed(seal: SealPath) -> Check {
    let name = "sealed SYN";
    match seal {
        SealPath::Unchanged => Check::ok(name, "arrives as it was sent"),
        SealPath::Changed => Check::fail(
            name,
            "arrives changed: something on the way translates addresses or ports, or rewrites sequence numbers",
            "keep network address translation and TCP proxies off the way between the nodes",
        ),
        SealPath::Absent => Check::fail(
            name,
            "does not arrive, or without its seal: something on the way drops it or strips TCP options",
            "let TCP option 253 pass, and see that the device it arrives by is covered there (`uplinks`)",
        ),
        SealPath::Untried(reason) => Check::warn(name, reason, "look into the logs of both agents"),
    }
}
