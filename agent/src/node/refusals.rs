//! The thread that answers callers: resets for denied SYNs, and the end of connections that have become denied.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use waxseal_common::flow::FlowEvent;

use super::names::NameBook;
use crate::cgroup::Tree;
use crate::datapath::Refuser;
use crate::flows::Names as _;

/// How many callers may wait for their answer. One more is told by its own retransmission, a second later.
const WAITING: usize = 4096;

/// Where denials go that somebody waits for.
pub(super) type Refuse = SyncSender<FlowEvent>;

pub(super) fn channel() -> (Refuse, Receiver<FlowEvent>) {
    sync_channel(WAITING)
}

/// Starts the thread. It ends when every sender is gone.
pub(super) fn start(
    inbox: Receiver<FlowEvent>,
    names: Arc<NameBook>,
    tree: Tree,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("refusals".to_owned()).spawn(move || work(&inbox, &names, &tree))
}

fn work(inbox: &Receiver<FlowEvent>, names: &NameBook, tree: &Tree) {
    let mut refuser = Refuser::default();
    let mut busy = false;
    loop {
        // Namespaces whose sockets are kept cannot end; when nothing happens any more they are let go.
        let event = if busy {
            match inbox.recv_timeout(Duration::from_secs(3)) {
                Err(RecvTimeoutError::Timeout) => {
                    refuser.drop_idle();
                    busy = false;
                    continue;
                }
                other => other.ok(),
            }
        } else {
            inbox.recv().ok()
        };
        let Some(event) = event else { return };
        busy = true;
        let cgroup = names.cgroup(event.cgroup).map(|path| tree.directory(&path));
        if let Err(error) = refuser.refuse(&event, cgroup.as_deref()) {
            tracing::warn!(%error, netns = event.netns.0, "cannot tell the caller of a denied connection");
        }
    }
}
