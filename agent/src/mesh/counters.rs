//! What the mesh counts, by name, for `waxseal status`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// One thing that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Handshakes begun for this node's workloads.
    Begun,
    /// Of those, the ones that ended with a session.
    Opened,
    /// Of those, the ones that failed.
    Failed,
    /// Sessions renewed.
    Renewed,
    /// Handshakes of others that ended with a session.
    Answered,
    /// Handshakes of others that failed.
    AnswersFailed,
    /// Connections to the agent port that were closed because too many stood at the door, or came too fast.
    TurnedAway,
    /// Accepting failed: no descriptors, no memory.
    AcceptErrors,
    /// Packets that waited and were sent on.
    Released,
    /// Packets that waited longer than they may.
    HeldTooLong,
    /// Packets that found no room to wait.
    HeldNoRoom,
    /// Packets that could not be sent on.
    ReleaseFailed,
    /// Sessions ended because a certificate is no longer to be believed.
    Revoked,
    /// Hints of peers about sessions that are theirs.
    Hints,
    /// Hints of peers about sessions that are not theirs.
    HintsRefused,
    /// Flows of UDP announced to others.
    Announced,
    /// Announcements that failed.
    AnnounceFailed,
    /// Flows of UDP that others announced.
    FlowsTaken,
    /// Announcements of others that were refused.
    FlowsRefused,
    /// Links made.
    LinksMade,
    /// Links that could not be made.
    LinksFailed,
}

impl Count {
    const ALL: [(Self, &'static str); 21] = [
        (Self::Begun, "handshakes-begun"),
        (Self::Opened, "handshakes-opened"),
        (Self::Failed, "handshakes-failed"),
        (Self::Renewed, "sessions-renewed"),
        (Self::Answered, "handshakes-answered"),
        (Self::AnswersFailed, "handshakes-refused"),
        (Self::TurnedAway, "connections-turned-away"),
        (Self::AcceptErrors, "accept-errors"),
        (Self::Released, "held-released"),
        (Self::HeldTooLong, "held-too-long"),
        (Self::HeldNoRoom, "held-no-room"),
        (Self::ReleaseFailed, "held-release-failed"),
        (Self::Revoked, "sessions-revoked"),
        (Self::Hints, "hints-taken"),
        (Self::HintsRefused, "hints-refused"),
        (Self::Announced, "flows-announced"),
        (Self::AnnounceFailed, "flows-not-announced"),
        (Self::FlowsTaken, "flows-taken"),
        (Self::FlowsRefused, "flows-refused"),
        (Self::LinksMade, "links-made"),
        (Self::LinksFailed, "links-failed"),
    ];
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; Count::ALL.len()]);

impl Counters {
    pub(super) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So far.
    pub(super) fn value(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> BTreeMap<String, u64> {
        Count::ALL.iter().map(|(count, name)| ((*name).to_owned(), self.value(*count))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_at_its_own_place() {
        for (index, (count, name)) in Count::ALL.iter().enumerate() {
            assert_eq!(*count as usize, index, "{name}");
        }
        let counters = Counters::default();
        counters.add(Count::LinksFailed);
        assert_eq!(counters.all()["links-failed"], 1);
        assert_eq!(counters.all()["links-made"], 0);
    }
}
