//! Answers on the control socket. Reads one bounded line from each asker, within a time, and trusts nobody but root and
//! the agent's own user.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::hub::Hub;
use super::socket::{self, Held, SocketError};
use super::wire::{
    Answer, Failure, FailureKind, NodeTapRequest, ProbeRequest, REQUEST_LIMIT, Request, TapRequest, line,
};
use super::{Command, hub::TAPS, tap, tap_nodes};

/// How long an asker may take to say what it wants.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long the node may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections at once: every tap, and as many short questions.
const CONNECTIONS: usize = 2 * TAPS;

/// The open socket. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    _held: Held,
}

/// What every connection needs.
#[derive(Debug, Clone)]
struct Desk {
    hub: Arc<Hub>,
    commands: mpsc::Sender<Command>,
    patience: Duration,
}

impl Server {
    /// Opens the socket at this path, in a directory of mode 0700 that is made when missing. Needs a tokio runtime.
    pub fn bind(socket: &Path) -> Result<Self, SocketError> {
        let (listener, held) = socket::listen(socket)?;
        let listener = UnixListener::from_std(listener).map_err(|source| SocketError::Io {
            action: "listen on",
            path: socket.to_owned(),
            source,
        })?;
        Ok(Self { listener, _held: held })
    }

    /// Answers until it is dropped. Taps are answered from the hub, all else by whoever receives the commands.
    pub async fn serve(self, hub: Arc<Hub>, commands: mpsc::Sender<Command>) {
        self.serve_with(Desk { hub, commands, patience: PATIENCE }).await;
    }

    async fn serve_with(self, desk: Desk) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // Connections end with the server.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _address)) => {
                    let desk = desk.clone();
                    connections.spawn(async move {
                        if let Err(error) = desk.answer(stream).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors or memory: others need the time to give some back.
                    tracing::warn!(%error, "cannot accept control connections");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Desk {
    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let trusted = stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid()));
        let (reader, mut writer) = stream.into_split();
        if !trusted {
            let failure =
                Failure::new(FailureKind::NotPermitted, "only root and the agent's own user may ask");
            return refuse(&mut writer, failure).await;
        }
        let mut reader = BufReader::new(reader);
        let request = match read_request(&mut reader, self.patience).await {
            Ok(request) => request,
            Err(failure) => return refuse(&mut writer, failure).await,
        };
        match request {
            Request::Status => self.ask(&mut writer, Command::Status).await,
            Request::Endpoints => self.ask(&mut writer, Command::Endpoints).await,
            Request::Identities => self.ask(&mut writer, Command::Identities).await,
            Request::Policy => self.ask(&mut writer, Command::Policy).await,
            Request::Sessions => self.ask(&mut writer, Command::Sessions).await,
            Request::Probe(ProbeRequest { address }) => {
                self.try_ask(&mut writer, |reply| Command::Probe { address, reply }).await
            }
            Request::Mode(change) => self.try_ask(&mut writer, |reply| Command::Mode { change, reply }).await,
            Request::Explain(question) => {
                self.try_ask(&mut writer, |reply| Command::Explain { question, reply }).await
            }
            Request::ExplainFlow { cookie } => {
                self.try_ask(&mut writer, |reply| Command::ExplainFlow { cookie, reply }).await
            }
            Request::Rollout(scope) => {
                self.try_ask(&mut writer, |reply| Command::Rollout { scope, reply }).await
            }
            Request::Tap(request) => self.tap(*request, reader, writer).await,
            Request::TapNode(request) => self.tap_node(*request, reader, writer).await,
        }
    }

    async fn ask<T: Serialize>(
        &self,
        writer: &mut OwnedWriteHalf,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> io::Result<()> {
        match self.node(command).await {
            Ok(reply) => send(writer, Answer::Ok(reply)).await,
            Err(failure) => refuse(writer, failure).await,
        }
    }

    async fn try_ask<T: Serialize>(
        &self,
        writer: &mut OwnedWriteHalf,
        command: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Command,
    ) -> io::Result<()> {
        match self.node(command).await.and_then(|reply| reply) {
            Ok(reply) => send(writer, Answer::Ok(reply)).await,
            Err(failure) => refuse(writer, failure).await,
        }
    }

    async fn node<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Failure> {
        let asked = async {
            let (sender, receiver) = oneshot::channel();
            self.commands.send(command(sender)).await.ok()?;
            receiver.await.ok()
        };
        match timeout(ANSWER, asked).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Failure::new(FailureKind::Internal, "the agent is stopping")),
            Err(_elapsed) => {
                Err(Failure::new(FailureKind::Busy, "the agent is too busy to answer; try again"))
            }
        }
    }

    async fn tap(
        &self,
        request: TapRequest,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        tokio::select! {
            written = tap::serve(&self.hub, request, &mut writer) => match written? {
                Ok(()) => Ok(()),
                Err(error) => {
                    refuse(&mut writer, Failure::new(FailureKind::Busy, error.to_string())).await
                }
            },
            // A reader that goes away while nothing happens is noticed by its end of file.
            _ended = reader.read_u8() => Ok(()),
        }
    }
}

impl Desk {
    async fn tap_node(
        &self,
        request: NodeTapRequest,
        mut reader: BufReader<OwnedReadHalf>,
        mut writer: OwnedWriteHalf,
    ) -> io::Result<()> {
        let NodeTapRequest { node, agent, tap } = request;
        let reached = self.node(|reply| Command::ReachNode { node: node.clone(), agent, reply }).await;
        let stream = match reached.and_then(|reached| reached) {
            Ok(stream) => stream,
            Err(failure) => return refuse(&mut writer, failure).await,
        };
        tokio::select! {
            relayed = tap_nodes::relay(stream, &node, tap, &mut writer) => match relayed? {
                Ok(()) => Ok(()),
                Err(failure) => refuse(&mut writer, failure).await,
            },
            _ended = reader.read_u8() => Ok(()),
        }
    }
}

/// Root, or whoever runs the agent.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// The one line that an asker sends.
pub(super) async fn read_request(
    reader: &mut (impl AsyncBufRead + Unpin),
    patience: Duration,
) -> Result<Request, Failure> {
    let invalid = |message: String| Failure::new(FailureKind::Invalid, message);
    let mut text = Vec::new();
    let mut bounded = reader.take(REQUEST_LIMIT as u64);
    match timeout(patience, bounded.read_until(b'\n', &mut text)).await {
        Err(_elapsed) => return Err(invalid(format!("no request within {patience:?}"))),
        Ok(Err(error)) => return Err(invalid(format!("cannot read the request: {error}"))),
        Ok(Ok(_length)) => {}
    }
    if text.last() != Some(&b'\n') {
        let short = text.len() < REQUEST_LIMIT;
        let message = if short { "the request ended early" } else { "the request has more than 64 KiB" };
        return Err(invalid(message.to_owned()));
    }
    serde_json::from_slice(&text)
        .map_err(|error| invalid(format!("not a request: {}", crate::escape::escape(&error.to_string()))))
}

pub(super) async fn refuse(writer: &mut (impl AsyncWrite + Unpin), failure: Failure) -> io::Result<()> {
    send::<()>(writer, Answer::Error(failure)).await
}

async fn send<T: Serialize>(writer: &mut (impl AsyncWrite + Unpin), answer: Answer<T>) -> io::Result<()> {
    let mut out = Vec::new();
    line(answer, &mut out)?;
    writer.write_all(&out).await
}

#[cfg(test)]
mod tests;
