//! Questions to Docker and Podman: one GET over the engine's Unix socket.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::facts::{Container, FactError};
use super::place::{ContainerClaim, Engine};
use crate::workload::Labels;

/// How long a whole answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// How long an answer is believed. A container's image and labels never change, its name rarely.
const FRESH: Duration = Duration::from_mins(1);
/// How long a silent engine is left alone, so that a hundred containers do not wait a hundred times.
const SILENT: Duration = Duration::from_secs(5);
/// The most answers that are remembered.
const MAX_ANSWERS: usize = 4096;

/// Why an engine's answer is of no use.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The socket cannot be reached.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// It took too long.
    #[error("no answer within {} ms", TIMEOUT.as_millis())]
    Timeout,
    /// It was asked a moment ago and did not answer.
    #[error("it did not answer a moment ago")]
    Silent,
    /// It broke the protocol.
    #[error("no proper HTTP answer: {0}")]
    Http(#[source] hyper::Error),
    /// The request could not be built.
    #[error("no proper request: {0}")]
    Request(#[source] hyper::http::Error),
    /// The answer is longer than it may be.
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// The answer ended early.
    #[error("the answer broke off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered with an error.
    #[error("it answered with status {0}")]
    Status(u16),
    /// The answer is not what engines send.
    #[error("the answer is no description of a container: {0}")]
    Json(#[source] serde_json::Error),
    /// The answer is about another container.
    #[error("it described another container")]
    OtherContainer,
    /// No thread could be prepared for the question.
    #[error("prepare to ask: {0}")]
    Runtime(#[source] io::Error),
}

/// What `GET /containers/ID/json` tells; everything else is passed over.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    id: String,
    name: String,
    config: DescribedConfig,
    state: DescribedState,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribedConfig {
    image: String,
    #[serde(default)]
    labels: Option<Labels>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribedState {
    #[serde(default)]
    pid: u32,
}

/// An answer, and where the container's first process was then.
#[derive(Clone, Debug)]
struct Answer {
    at: Instant,
    description: Description,
    cgroup: String,
}

/// The engines of this host.
#[derive(Debug)]
pub(super) struct Engines {
    docker: Vec<PathBuf>,
    podman: Vec<PathBuf>,
    users: PathBuf,
    answers: Mutex<HashMap<ContainerClaim, Answer>>,
    silent: Mutex<HashMap<PathBuf, Instant>>,
}

impl Default for Engines {
    fn default() -> Self {
        let docker = vec!["/run/docker.sock".into(), "/var/run/docker.sock".into()];
        Self::at(docker, vec!["/run/podman/podman.sock".into()], "/run/user".into())
    }
}

impl Engines {
    pub(super) fn at(docker: Vec<PathBuf>, podman: Vec<PathBuf>, users: PathBuf) -> Self {
        Self { docker, podman, users, answers: Mutex::default(), silent: Mutex::default() }
    }

    /// Asks for a container. `place` finds the cgroup of a process.
    pub(super) fn container(
        &self,
        claim: &ContainerClaim,
        place: &dyn Fn(u32) -> Option<String>,
    ) -> Result<Option<Container>, FactError> {
        // A process that is gone, or elsewhere now, may mean a restart: ask again.
        if let Some(answer) = self.remembered(claim)
            && place(answer.description.state.pid).as_ref() == Some(&answer.cgroup)
        {
            return Ok(Some(described(answer.description, Some(answer.cgroup))));
        }
        let Some(description) = self.ask_all(claim)? else { return Ok(None) };
        let pid = description.state.pid;
        let cgroup = (pid != 0).then(|| place(pid)).flatten();
        if let Some(cgroup) = &cgroup {
            self.remember(
                claim,
                Answer { at: Instant::now(), description: description.clone(), cgroup: cgroup.clone() },
            );
        }
        Ok(Some(described(description, cgroup)))
    }

    fn remembered(&self, claim: &ContainerClaim) -> Option<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(claim).filter(|answer| answer.at.elapsed() < FRESH).cloned()
    }

    fn remember(&self, claim: &ContainerClaim, answer: Answer) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_ANSWERS {
            answers.clear();
        }
        answers.insert(claim.clone(), answer);
    }

    /// The first engine that knows the container.
    fn ask_all(&self, claim: &ContainerClaim) -> Result<Option<Description>, FactError> {
        let tried = self.sockets(claim);
        let mut asked = false;
        let mut failed = None;
        for socket in tried.iter().filter(|socket| socket.exists()) {
            asked = true;
            match self.ask_unless_silent(socket, &claim.id) {
                Ok(Some(description)) => return Ok(Some(description)),
                Ok(None) => {}
                Err(source) => failed = Some(FactError::Engine { socket: socket.clone(), source }),
            }
        }
        match failed {
            Some(error) => Err(error),
            // Nobody to ask: an engine's own container waits for it, any other is simply not known.
            None if !asked && matches!(claim.engine, Engine::Docker | Engine::Podman) => {
                Err(FactError::NoEngine { tried })
            }
            None => Ok(None),
        }
    }

    fn sockets(&self, claim: &ContainerClaim) -> Vec<PathBuf> {
        if let Some(user) = claim.user {
            let home = self.users.join(user.to_string());
            return match claim.engine {
                Engine::Docker => vec![home.join("docker.sock")],
                _ => vec![home.join("podman/podman.sock")],
            };
        }
        let all = match claim.engine {
            Engine::Docker => self.docker.clone(),
            Engine::Podman => self.podman.clone(),
            Engine::Kubernetes | Engine::Any => [self.docker.as_slice(), &self.podman].concat(),
        };
        // Two names of one socket are asked once.
        let mut real = Vec::new();
        for socket in all {
            let socket = socket.canonicalize().unwrap_or(socket);
            if !real.contains(&socket) {
                real.push(socket);
            }
        }
        real
    }

    fn ask_unless_silent(&self, socket: &Path, id: &str) -> Result<Option<Description>, EngineError> {
        let silent =
            |map: &HashMap<PathBuf, Instant>| map.get(socket).is_some_and(|at| at.elapsed() < SILENT);
        if silent(&self.silent.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Err(EngineError::Silent);
        }
        let answer = ask(socket, id);
        if matches!(answer, Err(EngineError::Timeout | EngineError::Connect(_))) {
            self.silent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(socket.to_owned(), Instant::now());
        }
        answer
    }
}

fn described(description: Description, cgroup: Option<String>) -> Container {
    Container {
        name: description.name.trim_start_matches('/').to_owned(),
        image: description.config.image,
        labels: description.config.labels.unwrap_or_default(),
        cgroup,
    }
}

/// One question on one connection, on a thread of its own: so it makes no difference whether the caller is async.
fn ask(socket: &Path, id: &str) -> Result<Option<Description>, EngineError> {
    std::thread::scope(|scope| {
        let asking = std::thread::Builder::new().name("container-engine".into()).spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(EngineError::Runtime)?.block_on(async {
                match tokio::time::timeout(TIMEOUT, inspect(socket, id)).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => Err(EngineError::Timeout),
                }
            })
        });
        asking.map_err(EngineError::Runtime)?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn inspect(socket: &Path, id: &str) -> Result<Option<Description>, EngineError> {
    let stream = UnixStream::connect(socket).await.map_err(EngineError::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(EngineError::Http)?;
    let request = Request::get(format!("/containers/{id}/json"))
        .header("host", "localhost")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(EngineError::Request)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(EngineError::Http)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(EngineError::Status(status.as_u16())),
        }
        Limited::new(response.into_body(), MAX_ANSWER).collect().await.map(Some).map_err(broken)
    };
    // The connection runs beside the exchange; the exchange ends first.
    let body = tokio::select! {
        body = exchange => body?,
        Err(error) = connection => return Err(EngineError::Http(error)),
    };
    let Some(body) = body else { return Ok(None) };
    let description: Description = serde_json::from_slice(&body.to_bytes()).map_err(EngineError::Json)?;
    if description.id == id { Ok(Some(description)) } else { Err(EngineError::OtherContainer) }
}

fn broken(error: Box<dyn std::error::Error + Send + Sync>) -> EngineError {
    if error.is::<LengthLimitError>() { EngineError::TooLong } else { EngineError::Body(error) }
}

#[cfg(test)]
mod tests;
