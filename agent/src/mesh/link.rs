//! One link: a TLS connection between two agents, each with its node's certificate.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::bucket::Buckets;
use super::error::HandshakeError;
use super::initiate::check_node;
use super::inner::Inner;
use super::message::{LinkHello, LinkMessage};
use super::{HANDSHAKE, frame};
use crate::escape::escape;
use crate::pki::Peer;

/// How often something is said.
const SAY: Duration = Duration::from_secs(2);
/// After how long a silence the link is over.
const SILENCE: Duration = Duration::from_secs(6);
/// Messages that may wait to be sent.
const OUTBOX: usize = 1024;
/// Questions that may wait for their answer.
const QUESTIONS: usize = 4096;
/// Messages that a peer may send in a second.
const RATE: u32 = 2000;

/// A link that stands.
#[derive(Debug)]
pub(super) struct Link {
    /// This node's number for the peer.
    pub(super) node: u32,
    pub(super) peer: Arc<Peer>,
    /// Whether this node has opened it.
    pub(super) ours: bool,
    pub(super) remote: SocketAddr,
    pub(super) nonce: u64,
    /// Of the peer's agent; escaped.
    pub(super) version: String,
    /// How far the peer's clock is ahead, in milliseconds, as far as a message tells.
    pub(super) ahead: i64,
    pub(super) since: Instant,
    outbox: mpsc::Sender<LinkMessage>,
    closed: watch::Sender<bool>,
    next: AtomicU64,
    questions: Mutex<HashMap<u64, oneshot::Sender<LinkMessage>>>,
}

impl Link {
    /// Says something; a link whose outbox is full is over.
    pub(super) fn say(&self, message: LinkMessage) {
        if self.outbox.try_send(message).is_err() {
            self.close();
        }
    }

    /// Ends it.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Asks something and waits for the answer.
    pub(super) async fn ask(
        &self,
        question: impl FnOnce(u64) -> LinkMessage,
        within: Duration,
    ) -> Option<LinkMessage> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
            if questions.len() >= QUESTIONS {
                return None;
            }
            questions.insert(number, sender);
        }
        self.say(question(number));
        let answer = timeout(within, answer).await;
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        answer.ok()?.ok()
    }

    /// Passes an answer on to who waits for it.
    pub(super) fn answered(&self, number: u64, message: LinkMessage) {
        let waiting = self.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        if let Some(waiting) = waiting {
            let _gave_up = waiting.send(message);
        }
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl Inner {
    /// Runs a link whose TLS stands, until it ends.
    pub(super) async fn run_link<S>(
        self: &Arc<Self>,
        mut stream: S,
        peer: Peer,
        remote: SocketAddr,
        ours: bool,
    ) -> Result<(), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        check_node(&peer)?;
        if self.certificates.node().is_some_and(|own| own.id() == peer.id()) {
            return Err(HandshakeError::Role { id: peer.id().clone(), problem: "is this very node" });
        }
        let sent = SystemTime::now();
        let hello = LinkHello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: self.nonce,
            port: self.options.port,
            time: milliseconds(sent),
        };
        frame::write(&mut stream, &hello, HANDSHAKE).await.map_err(HandshakeError::from_frame)?;
        let theirs: LinkHello =
            frame::read(&mut stream, HANDSHAKE).await.map_err(HandshakeError::from_frame)?;
        let agent = if ours { remote } else { SocketAddr::new(remote.ip().to_canonical(), theirs.port) };
        let node = self.meet(peer.id(), theirs.nonce, Some(agent))?;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let middle = milliseconds(sent).midpoint(milliseconds(SystemTime::now()));
        let link = Arc::new(Link {
            node,
            peer: Arc::new(peer),
            ours,
            remote,
            nonce: theirs.nonce,
            version: escape(&theirs.version).into_owned(),
            ahead: theirs.time.cast_signed().wrapping_sub(middle.cast_signed()),
            since: Instant::now(),
            outbox,
            closed: watch::Sender::new(false),
            next: AtomicU64::new(1),
            questions: Mutex::default(),
        });
        if !self.links.enter(&link, self.certificates.node().as_deref()) {
            return Ok(());
        }
        let ended = self.talk(&link, stream, messages).await;
        link.close();
        self.links.leave(&link);
        ended
    }

    async fn talk<S: AsyncRead + AsyncWrite + Send>(
        self: &Arc<Self>,
        link: &Arc<Link>,
        stream: S,
        messages: mpsc::Receiver<LinkMessage>,
    ) -> Result<(), HandshakeError> {
        let (reader, writer) = tokio::io::split(stream);
        let mut closed = link.closed.subscribe();
        tokio::select! {
            ended = self.listen(link, reader) => ended,
            ended = speak(writer, messages) => ended,
            _ = closed.wait_for(|closed| *closed) => Ok(()),
        }
    }

    async fn listen(
        self: &Arc<Self>,
        link: &Arc<Link>,
        mut reader: impl AsyncRead + Unpin,
    ) -> Result<(), HandshakeError> {
        let mut rate = Buckets::new(RATE, RATE, 1);
        loop {
            let message: LinkMessage =
                frame::read(&mut reader, SILENCE).await.map_err(HandshakeError::from_frame)?;
            while !rate.take((), Instant::now()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.heard(link, message);
        }
    }
}

async fn speak(
    mut writer: impl AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<LinkMessage>,
) -> Result<(), HandshakeError> {
    let mut number = 0;
    loop {
        let message = match timeout(SAY, messages.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(_elapsed) => {
                number += 1;
                LinkMessage::Ping { number }
            }
        };
        frame::write(&mut writer, &message, SILENCE).await.map_err(HandshakeError::from_frame)?;
    }
}
