//! Flows across nodes: which other node may read ours, and the way to theirs.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::api::{Failure, FailureKind, Hub, NodeStream, answer_node};
use crate::config::Config;
use crate::escape::escape;
use crate::mesh::{Later, Stream, Taps};
use crate::node::control::Control;
use crate::pki::node_name;
use crate::spiffe::{SpiffeId, TrustDomain};

/// Readers of other nodes at once: those of this node itself have room beside them.
const READERS: usize = 16;

/// Answers other nodes from this node's hub.
pub(in crate::node) struct Readers {
    hub: Arc<Hub>,
    /// This node's own name.
    node: String,
    domain: TrustDomain,
    allowed: Vec<String>,
    places: Arc<Semaphore>,
}

impl Readers {
    pub(in crate::node) fn new(config: &Config, hub: &Arc<Hub>) -> Self {
        Self {
            hub: Arc::clone(hub),
            node: config.node.clone(),
            domain: config.trust_domain.clone(),
            allowed: config.tap_from_nodes.clone(),
            places: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// Whether a proven node may read. Only names of our own trust domain can be listed.
    fn permit(&self, peer: &SpiffeId) -> Result<(), Failure> {
        let name = node_name(peer).filter(|_| peer.trust_domain() == &self.domain);
        let listed = |name: &str| self.allowed.iter().any(|allowed| allowed == "*" || allowed == name);
        if name.is_some_and(listed) {
            return Ok(());
        }
        let (own, asker) = (escape(&self.node), escape(name.unwrap_or(peer.as_str())));
        let message = format!(
            "{own} does not let {asker} read its flows; `tap_from_nodes: [{asker}]` in the configuration of {own} would"
        );
        Err(Failure::new(FailureKind::NotPermitted, message))
    }
}

impl Taps for Readers {
    fn answer(&self, peer: SpiffeId, stream: Box<dyn Stream>) -> Later<'static, ()> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let permitted = self.permit(&peer).and_then(|()| match &place {
            Ok(_place) => Ok(()),
            Err(_full) => {
                let message = format!("{READERS} taps of other nodes are open, which is the most");
                Err(Failure::new(FailureKind::Busy, message))
            }
        });
        let hub = Arc::clone(&self.hub);
        Box::pin(async move {
            if let Err(failure) = &permitted {
                tracing::warn!(%peer, %failure, "another node may not read the flows of this one");
            } else {
                tracing::info!(%peer, "another node reads the flows of this one");
            }
            if let Err(error) = answer_node(&hub, permitted, stream).await {
                tracing::debug!(%error, %peer, "the stream to a reader broke");
            }
            drop(place);
        })
    }
}

impl Control {
    /// Answers with a stream to the agent of another node, from a task of its own.
    pub(in crate::node) fn reach_node(
        &self,
        node: String,
        agent: Option<SocketAddr>,
        reply: oneshot::Sender<Result<NodeStream, Failure>>,
    ) {
        let invalid = |message: String| Err(Failure::new(FailureKind::Invalid, message));
        let Some(mesh) = self.shared.ties.mesh.get().cloned() else {
            let message =
                "this node keeps to itself; `ca` and `listen` in its configuration say with whom it meets";
            let _gave_up = reply.send(invalid(message.to_owned()));
            return;
        };
        let Some(agent) = agent.or_else(|| mesh.agent_of(&node)) else {
            let node = escape(&node);
            let message =
                format!("this node has not met {node}; {node}=ADDRESS says where its agent answers");
            let _gave_up = reply.send(invalid(message));
            return;
        };
        tokio::spawn(async move {
            let reached = match mesh.open_tap(agent).await {
                Ok((id, stream)) if node_name(&id) == Some(&node) => Ok(NodeStream::new(stream)),
                Ok((id, _stream)) => {
                    let message =
                        format!("at {agent} answers {} instead of {}", escape(id.as_str()), escape(&node));
                    invalid(message)
                }
                Err(error) => {
                    let error = escape(&error.to_string()).into_owned();
                    Err(Failure::new(FailureKind::Internal, error))
                }
            };
            let _gave_up = reply.send(reached);
        });
    }
}
