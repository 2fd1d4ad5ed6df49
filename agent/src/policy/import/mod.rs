//! Documents of other systems, read into this language: Istio, Cilium, Kubernetes.
//!
//! Each keeps its own meaning at the level of connections. What cannot be honoured is refused, or left out with a warning
//! where that makes the document stricter; nothing is ever left out that would make it wider. The documents are read into
//! a tree with places first, because their keys are many and their mistakes deserve words of their own.

mod authorization;
mod cilium;
mod cilium_labels;
mod cilium_peers;
mod cilium_ports;
mod conditions;
mod foreign;
mod kubernetes;
mod labels;
mod list;
mod metadata;
mod namespace;
mod node;
mod peer_authentication;
mod principals;
mod strict;

pub(super) use list::items;
pub(super) use namespace::resolve_namespaces;
pub(super) use node::Node;
pub(super) use strict::{PeerAuthentication, resolve as resolve_peer_authentication};

/// The namespace whose Istio documents are about the whole mesh.
pub(super) const ROOT_NAMESPACE: &str = "istio-system";
