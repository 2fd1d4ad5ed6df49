//! The mesh's own report with names in it.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use waxseal_common::ids::IdentityId;

use crate::api::{
    CertificateReport, HandshakesReport, LinkReport, MeshReport, SessionDirection, SessionEnd,
    SessionFailure, SessionReport, SessionsReport,
};
use crate::escape::escape;
use crate::flows::Names as _;
use crate::mesh::{self, Direction, Report, Stage, Summary, Who};
use crate::node::control::Control;
use crate::node::names::NameBook;
use crate::pki::CertificateStatus;

impl Control {
    /// Answers with the sessions, from another thread: counting takes its time.
    pub(in crate::node) fn report_sessions(&self, reply: oneshot::Sender<SessionsReport>) {
        let Some(mesh) = self.shared.ties.mesh.get().cloned() else {
            let _gave_up = reply.send(SessionsReport::default());
            return;
        };
        let names = std::sync::Arc::clone(&self.shared.names);
        tokio::task::spawn_blocking(move || {
            let _gave_up = reply.send(named(mesh.report(), &names));
        });
    }

    /// The mesh in a few numbers, and every certificate.
    pub(in crate::node) fn mesh_report(&self) -> MeshReport {
        let ties = &self.shared.ties;
        let summary = ties.mesh.get().map(mesh::Mesh::summary);
        let enabled = summary.is_some();
        let Summary { outbound, inbound, without, links, nodes, held, completed, counters, .. } =
            summary.unwrap_or_default();
        let count = |name: &str| counters.get(name).copied().unwrap_or(0);
        let handshakes = HandshakesReport {
            completed,
            failed: count("handshakes-failed"),
            answered: count("handshakes-answered"),
            refused: count("handshakes-refused"),
        };
        MeshReport {
            enabled,
            node: escape(&self.config.node).into_owned(),
            outbound: outbound as u64,
            inbound: inbound as u64,
            without: without as u64,
            links: links as u64,
            nodes: nodes as u64,
            held: held as u64,
            handshakes,
            counters,
            certificates: ties.credentials.keeper().status().into_iter().map(certificate).collect(),
        }
    }
}

fn certificate(status: CertificateStatus) -> CertificateReport {
    let CertificateStatus { id, not_after, failures, last_error } = status;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    CertificateReport {
        spiffe_id: escape(id.as_str()).into_owned(),
        expires_in_seconds: not_after.map(|end| end.saturating_sub(now)),
        failures,
        error: last_error,
    }
}

fn named(report: Report, names: &NameBook) -> SessionsReport {
    let Report { sessions, links, counters, held } = report;
    let mut all = SessionsReport { enabled: true, held: held as u64, counters, ..SessionsReport::default() };
    for session in sessions {
        match session.stage {
            Stage::Ready | Stage::Past => all.sessions.push(standing(session, names)),
            Stage::Opening | Stage::Failed => all.failures.push(failed(session, names)),
        }
    }
    all.links = links.into_iter().map(link).collect();
    all
}

fn end(who: Who, names: &NameBook) -> SessionEnd {
    let Who { id, identity } = who;
    SessionEnd { name: name(identity, names), spiffe_id: escape(&id).into_owned(), identity: identity.0 }
}

fn name(identity: IdentityId, names: &NameBook) -> String {
    names.identity(identity).map_or_else(|| identity.0.to_string(), |named| named.name.clone())
}

/// The name of a node without what all nodes' IDs have in common.
fn peer(id: &str) -> String {
    let parsed = id.parse().ok();
    let name = parsed.as_ref().and_then(|id| crate::pki::node_name(id));
    escape(name.unwrap_or(id)).into_owned()
}

fn standing(session: mesh::SessionReport, names: &NameBook) -> SessionReport {
    SessionReport {
        direction: match session.direction {
            Direction::Out => SessionDirection::Outbound,
            Direction::In => SessionDirection::Inbound,
        },
        source: session.source.map(|who| end(who, names)),
        destination: session.destination.map(|who| end(who, names)),
        peer: session.node.as_deref().map(peer).unwrap_or_default(),
        target: session.target,
        spi: session.spi.unwrap_or_default(),
        age_seconds: session.age_s,
        expires_in_seconds: session.expires_s,
        connections: session.connections,
        opened: session.opened,
        forged: session.forged,
        past: session.stage == Stage::Past,
    }
}

fn failed(session: mesh::SessionReport, names: &NameBook) -> SessionFailure {
    let (failure, detail) = session.failure.unwrap_or_else(|| ("opening".to_owned(), String::new()));
    SessionFailure {
        source: session.source.map(|who| end(who, names)),
        target: session.target.unwrap_or_default(),
        failure,
        detail,
        age_seconds: session.age_s,
        retry_in_seconds: session.expires_s,
    }
}

fn link(link: mesh::LinkReport) -> LinkReport {
    let mesh::LinkReport { node, address, version, age_s, clock_ahead_ms, failure } = link;
    LinkReport {
        peer: peer(&node),
        address,
        up: age_s.is_some(),
        age_seconds: age_s,
        version,
        clock_ahead_ms,
        failure,
    }
}
