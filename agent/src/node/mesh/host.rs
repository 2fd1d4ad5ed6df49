//! This node, as the mesh asks for it.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use waxseal_common::ids::IdentityId;

use super::Request;
use super::listeners::Places;
use super::locals::Locals;
use crate::datapath::Sessions;
use crate::mesh::{Ended, Later, Local, Node, NotAdmitted, Target};
use crate::node::names::NameBook;
use crate::pki::{Peer, node_name};
use crate::spiffe::SpiffeId;
use crate::workload::Labels;

/// This node.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) locals: Arc<Locals>,
    pub(super) places: Arc<Places>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) names: Arc<NameBook>,
    pub(super) control: mpsc::Sender<Request>,
}

impl Host {
    fn busy() -> NotAdmitted {
        NotAdmitted("the agent is too busy".to_owned())
    }
}

impl Node for Host {
    fn workload(&self, identity: IdentityId) -> Option<Local> {
        self.locals.get(identity)
    }

    fn listener(&self, target: Target) -> Later<'_, io::Result<Option<Local>>> {
        Box::pin(async move {
            let places = Arc::clone(&self.places);
            let asked = tokio::task::spawn_blocking(move || places.answering(target)).await;
            let cgroup = asked.map_err(io::Error::other)??;
            let owner = cgroup.and_then(|cgroup| self.sessions.owner(cgroup));
            Ok(owner.and_then(|owner| self.locals.get(owner)))
        })
    }

    fn admit(&self, peer: Arc<Peer>, labels: Labels) -> Later<'_, Result<IdentityId, NotAdmitted>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let request = Request::Admit { peer, labels, reply };
            self.control.try_send(request).map_err(|_full| Self::busy())?;
            answer.await.map_err(|_stopping| Self::busy())?
        })
    }

    fn end(&self, ended: Ended) {
        if self.control.try_send(Request::End(ended)).is_err() {
            tracing::warn!("the agent is too busy to end connections at once; they are looked at again soon");
        }
    }

    fn learned(&self, opens: bool, id: u32, node: &SpiffeId, made: u64) {
        self.names.learn_session(opens, id, node_name(node).unwrap_or_else(|| node.as_str()), made);
    }
}
