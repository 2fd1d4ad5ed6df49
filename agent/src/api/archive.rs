//! A longer past than memory holds, as the hub sees it. `history` is one.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;

use waxseal_common::flow::FlowEvent;

use super::hub::Replay;
use crate::flows::{Filter, Flow, Loss};

/// Keeps flows. Nothing here waits: it is called while the hub is locked.
pub trait Archive: Debug + Send + Sync {
    /// Takes flows over, in this order. What cannot be kept is counted, and found later as a loss.
    fn keep(&self, batch: &[(FlowEvent, Arc<Flow>)]);
    /// Notes that flows are missing here.
    fn note(&self, loss: Loss);
    /// Everything that was taken over until now, and nothing later.
    fn view(&self) -> Box<dyn View>;
}

/// What an archive held at one moment.
pub trait View: Debug + Send {
    /// Finds flows, oldest first, until `each` breaks off. May take long.
    fn search(
        self: Box<Self>,
        filter: &Filter,
        replay: Replay,
        each: &mut dyn FnMut(Found) -> ControlFlow<()>,
    );
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A flow.
    Flow(Box<Flow>),
    /// Flows are missing here.
    Lost(Loss),
}
