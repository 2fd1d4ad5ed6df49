//! The asking side: plain blocking calls, for the command line and for tests.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::wire::{Answer, Envelope, Failure, NodeTapRequest, Request, TapRequest};

/// How long an agent may take to answer. Longer than the agent gives itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no agent answers at {}", socket.display())]
    NotReachable {
        /// The socket.
        socket: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error("this user may not open {}", socket.display())]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("{} is served by user {uid}, not by root or this user", socket.display())]
    Impostor {
        /// The socket.
        socket: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// It went away in the middle.
    #[error("the agent closed the connection")]
    Closed(#[source] io::Error),
    /// It speaks another language: another version.
    #[error("the agent's answer cannot be understood; is it another version?")]
    Garbled(#[source] serde_json::Error),
    /// It says no.
    #[error(transparent)]
    Refused(#[from] Failure),
}

/// A connection to the agent, for one question.
#[derive(Debug)]
pub struct Client(UnixStream);

/// The lines of a tap, as the agent wrote them.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<UnixStream>,
    begun: Vec<u8>,
    patience: Option<Duration>,
}

/// What came of waiting for a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It, without its newline.
    Line(String),
    /// Nothing, for as long as was asked.
    Pause,
    /// The agent has closed the tap.
    End,
}

impl Client {
    /// Connects, and makes sure that the other end is root's or our own.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|source| {
            let socket = socket.to_owned();
            match source.kind() {
                io::ErrorKind::PermissionDenied => ClientError::NotPermitted { socket, source },
                _ => ClientError::NotReachable { socket, source },
            }
        })?;
        let uid =
            getsockopt(&stream, PeerCredentials).map_err(|error| ClientError::Closed(error.into()))?.uid();
        if uid != 0 && uid != geteuid().as_raw() {
            return Err(ClientError::Impostor { socket: socket.to_owned(), uid });
        }
        Ok(Self(stream))
    }

    /// Asks, and waits for the one answer.
    pub fn ask<T: DeserializeOwned>(self, request: &Request) -> Result<T, ClientError> {
        self.0.set_read_timeout(Some(PATIENCE)).map_err(ClientError::Closed)?;
        self.send(request)?;
        let mut text = String::new();
        BufReader::new(&self.0).read_line(&mut text).map_err(ClientError::Closed)?;
        if text.is_empty() {
            return Err(ClientError::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
        let envelope: Envelope<T> = serde_json::from_str(&text).map_err(ClientError::Garbled)?;
        match envelope.answer {
            Answer::Ok(answer) => Ok(answer),
            Answer::Error(failure) => Err(failure.into()),
        }
    }

    /// Opens a tap.
    pub fn tap(self, request: TapRequest) -> Result<Lines, ClientError> {
        self.send(&Request::Tap(Box::new(request)))?;
        Ok(Lines { reader: BufReader::with_capacity(256 * 1024, self.0), begun: Vec::new(), patience: None })
    }

    /// Opens a tap at another node, by way of this one's agent.
    pub fn tap_node(self, request: NodeTapRequest) -> Result<Lines, ClientError> {
        self.send(&Request::TapNode(Box::new(request)))?;
        Ok(Lines { reader: BufReader::with_capacity(64 * 1024, self.0), begun: Vec::new(), patience: None })
    }

    fn send(&self, request: &Request) -> Result<(), ClientError> {
        let mut text = serde_json::to_vec(request).map_err(ClientError::Garbled)?;
        text.push(b'\n');
        match (&self.0).write_all(&text) {
            // An agent that refuses this user says so and hangs up without listening: its answer is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(ClientError::Closed),
        }
    }
}

impl Lines {
    /// Waits for the next line, without its newline; `None` when the agent has closed the tap.
    pub fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        match self.next_within(None)? {
            Next::Line(line) => Ok(Some(line)),
            // Without a time limit there is no pause.
            Next::End | Next::Pause => Ok(None),
        }
    }

    /// Waits for the next line for some time, or as long as it takes. What has come of a line is kept for the next call.
    pub fn next_within(&mut self, patience: Option<Duration>) -> Result<Next, ClientError> {
        // The kernel takes a limit of zero for none.
        let patience = patience.map(|patience| patience.max(Duration::from_millis(1)));
        if self.patience != patience {
            self.reader.get_ref().set_read_timeout(patience).map_err(ClientError::Closed)?;
            self.patience = patience;
        }
        match self.reader.read_until(b'\n', &mut self.begun) {
            Ok(0) => return Ok(Next::End),
            Ok(_length) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(Next::Pause);
            }
            Err(error) => return Err(ClientError::Closed(error)),
        }
        let text = String::from_utf8_lossy(&self.begun).trim_end().to_owned();
        self.begun.clear();
        refusal(&text)?;
        Ok(Next::Line(text))
    }

    /// Copies all lines as they come, to the end of the tap.
    pub fn copy_to(&mut self, out: &mut impl Write) -> Result<io::Result<()>, ClientError> {
        let Some(first) = self.next_line()? else { return Ok(Ok(())) };
        if let Err(error) = writeln!(out, "{first}").and_then(|()| out.flush()) {
            return Ok(Err(error));
        }
        loop {
            let bytes = self.reader.fill_buf().map_err(ClientError::Closed)?;
            let length = bytes.len();
            if length == 0 {
                return Ok(Ok(()));
            }
            if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
                return Ok(Err(error));
            }
            self.reader.consume(length);
        }
    }

    /// Whether the next line would have to be waited for: the moment to flush.
    pub fn is_drained(&self) -> bool {
        !self.reader.buffer().contains(&b'\n')
    }
}

/// Only a refusal has an `error` right after its version; flows are not parsed twice for it.
fn refusal(text: &str) -> Result<(), ClientError> {
    let begins = text.get(..32.min(text.len())).is_some_and(|start| start.contains("\"error\":{"));
    match begins.then(|| serde_json::from_str(text)) {
        Some(Ok(Envelope { answer: Answer::<()>::Error(failure), .. })) => Err(failure.into()),
        _ => Ok(()),
    }
}
