//! What is not wrong, but what a person should look at.

use std::fmt;

use serde::Serialize;

use crate::workload::Origin;

/// Every code, so that a test can ask for each of them and filters can rely on them.
pub(super) const CODES: [&str; 24] = [
    "allows-everything",
    "directory-not-read",
    "empty-list",
    "host-is-narrow",
    "icmp-type",
    "matches-nothing",
    "matches-unauthenticated",
    "named-port",
    "never-matches",
    "no-health-probes",
    "no-name-resolution",
    "no-such-namespace",
    "not-a-policy",
    "open-prefix",
    "overshadowed",
    "repeated",
    "request-conditions",
    "says-nothing",
    "sctp-port",
    "selects-nothing",
    "selects-the-agent",
    "spiffe-scheme",
    "unknown-peers",
    "unreachable",
];

/// Something that a person should look at. A set of documents with warnings is applied all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Where.
    pub origin: Origin,
    /// A stable word for the kind of warning, for filters.
    pub code: &'static str,
    /// One sentence for a person, foreign text escaped.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.origin, self.text, self.code)
    }
}
