//! The names that Waxseal gives to itself: nodes and the CA server. Workloads never have a name below `/waxseal/`.

use super::MAX_NODE_NAME;
use crate::spiffe::{self, SpiffeId, TrustDomain};

const NODE: &str = "/waxseal/node/";
const CA: &str = "/waxseal/ca";

/// `spiffe://<domain>/waxseal/node/<name>`.
pub fn node_id(domain: &TrustDomain, name: &str) -> Result<SpiffeId, spiffe::Error> {
    if let Some(at) = name.find('/') {
        return Err(spiffe::Error::PathCharacter { character: '/', at });
    }
    format!("spiffe://{domain}{NODE}{name}").parse()
}

/// `spiffe://<domain>/waxseal/ca`: the CA server.
pub fn ca_id(domain: &TrustDomain) -> Result<SpiffeId, spiffe::Error> {
    format!("spiffe://{domain}{CA}").parse()
}

/// The node's name, when this is a node's ID.
pub fn node_name(id: &SpiffeId) -> Option<&str> {
    let name = id.path().strip_prefix(NODE)?;
    is_node_name(name).then_some(name)
}

/// Whether no workload may have this ID.
pub fn is_reserved(id: &SpiffeId) -> bool {
    let path = id.path();
    path == "/waxseal" || path.starts_with("/waxseal/")
}

/// Whether a node can have this name: 1 to 63 of letters, digits, `.`, `-` and `_`, and not `.` or `..`.
pub fn is_node_name(name: &str) -> bool {
    matches!(name.len(), 1..=MAX_NODE_NAME)
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}
