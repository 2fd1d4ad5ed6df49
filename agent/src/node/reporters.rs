//! What the mesh and the keeper of certificates tell Prometheus.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::escape::escape;
use crate::mesh::Mesh;
use crate::metrics::{Direction, Report, Reporter};
use crate::pki::Credentials;

impl Reporter for Mesh {
    fn report(&self, to: &mut Report) {
        let summary = self.summary();
        to.sessions(Direction::Out, summary.outbound as u64);
        to.sessions(Direction::In, summary.inbound as u64);
        to.peers(summary.links as u64);
        for (direction, handshakes) in [(Direction::Out, &summary.begun), (Direction::In, &summary.answered)]
        {
            to.handshakes(direction, "done", handshakes.done);
            for (why, count) in &handshakes.failed {
                to.handshakes(direction, why, *count);
            }
        }
        to.handshake_durations(summary.begun.took, &summary.begun.spread);
        for (name, count) in &summary.counters {
            to.event(name, *count);
        }
    }
}

/// The certificates of this node and its workloads, and the roots that it believes.
#[derive(Debug)]
pub(super) struct Certificates(pub(super) Arc<Credentials>);

impl Reporter for Certificates {
    fn report(&self, to: &mut Report) {
        let mut failing = 0;
        for status in self.0.keeper().status() {
            failing += u64::from(status.failures > 0);
            let not_after = status.not_after.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
            to.certificate(&escape(status.id.as_str()), not_after.unwrap_or(UNIX_EPOCH));
        }
        to.certificates_failing(failing);
        for (domain, bundle) in self.0.trust().load().domains() {
            // As long as one root counts, the domain can be believed.
            let last = bundle.roots().iter().fold(UNIX_EPOCH, |last, root| last.max(root.not_after()));
            to.roots(&escape(domain.as_str()), last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_counts_within_the_bounds_that_prometheus_is_told() {
        assert!(Report::bounds().eq(crate::mesh::BOUNDS.into_iter().map(Duration::from_millis)));
    }
}
