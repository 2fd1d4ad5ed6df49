//! Answers `/metrics`, `/healthz` and `/readyz` over HTTP/1. Nothing can be changed here.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Metrics;
use super::facts::Facts;
use super::family::classic;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one connection may live, however often it asks.
const LIFE: Duration = Duration::from_mins(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 32;
/// Bytes of a request's head.
const HEAD: usize = 16 * 1024;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What an answer takes to make: it may be waited for.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// The node, as it is asked at each scrape.
pub trait Node: Debug + Send + Sync + 'static {
    /// How it is, or why that cannot be told.
    fn facts(&self) -> Asked<'_, Facts>;
}

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot serve metrics on {address}: {source}")]
pub struct ServerError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// The open port.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

#[derive(Debug, Clone)]
struct Desk {
    metrics: Arc<Metrics>,
    node: Arc<dyn Node>,
}

impl Server {
    /// Listens.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError { address, source })?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn serve(self, metrics: Arc<Metrics>, node: Arc<dyn Node>) {
        let desk = Desk { metrics, node };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _address)) => {
                    let desk = desk.clone();
                    connections.spawn(async move {
                        desk.converse(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection that asks for metrics");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Desk {
    async fn converse(&self, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(self.answer(&request).await)
        });
        let conversation = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        if let Ok(Err(error)) = timeout(LIFE, conversation).await {
            tracing::debug!(%error, "a connection that asks for metrics broke");
        }
    }

    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request).await,
            "/healthz" => match self.facts().await {
                Ok(_facts) => text(StatusCode::OK, PLAIN, "ok\n".to_owned()),
                Err(why) => unwell(&why),
            },
            "/readyz" => self.ready().await,
            "/" => text(StatusCode::OK, PLAIN, "/metrics /healthz /readyz\n".to_owned()),
            _ => text(StatusCode::NOT_FOUND, PLAIN, "no such page\n".to_owned()),
        }
    }

    async fn facts(&self) -> Result<Facts, String> {
        timeout(ANSWER, self.node.facts())
            .await
            .unwrap_or_else(|_| Err("the agent does not answer".to_owned()))
    }

    /// Ready to guard: every program hangs where it should, and some set of documents is in force.
    async fn ready(&self) -> Response<Full<Bytes>> {
        match self.facts().await {
            Err(why) => unwell(&why),
            Ok(Facts { programs: (attached, expected), .. }) if attached < expected => {
                unwell(&format!("{attached} of {expected} kernel programs are attached"))
            }
            Ok(Facts { policy_since: None, .. }) => unwell("no set of documents is in force yet"),
            Ok(_facts) => text(StatusCode::OK, PLAIN, "ready\n".to_owned()),
        }
    }

    async fn metrics<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let facts = match self.facts().await {
            Ok(facts) => facts,
            Err(why) => return unwell(&why),
        };
        let Ok(openmetrics) = self.metrics.text(&facts) else {
            return unwell("the metrics cannot be written");
        };
        let asks = |accept: &HeaderValue| {
            accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"))
        };
        if request.headers().get_all(ACCEPT).iter().any(asks) {
            text(StatusCode::OK, OPENMETRICS, openmetrics)
        } else {
            text(StatusCode::OK, CLASSIC, classic(&openmetrics))
        }
    }
}

fn unwell(why: &str) -> Response<Full<Bytes>> {
    text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{}\n", crate::escape::escape(why)))
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
