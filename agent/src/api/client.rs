//! The asking side: plain blocking calls, for the command line and for tests.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::wire::{Answer, Envelope, Failure, Request, TapRequest};

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
        self.send(&Request::Tap(request))?;
        Ok(Lines { reader: BufReader::with_capacity(64 * 1024, self.0) })
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
        let mut text = String::new();
        let length = self.reader.read_line(&mut text).map_err(ClientError::Closed)?;
        if length == 0 {
            return Ok(None);
        }
        text.truncate(text.trim_end().len());
        // Only a refusal has an `error`; flows are not parsed twice for it.
        if text.contains("\"error\":{")
            && let Ok(Envelope { answer: Answer::<()>::Error(failure), .. }) = serde_json::from_str(&text)
        {
            return Err(failure.into());
        }
        Ok(Some(text))
    }

    /// Whether the next line would have to be waited for: the moment to flush.
    pub fn is_drained(&self) -> bool {
        !self.reader.buffer().contains(&b'\n')
    }
}

#[cfg(test)]
impl Lines {
    /// Lets tests give up waiting.
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.reader.get_ref().set_read_timeout(Some(timeout)).unwrap();
    }
}
