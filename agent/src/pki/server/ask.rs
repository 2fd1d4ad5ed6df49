//! One connection: who it is decides what it may ask.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::gate::{Caller, caller};
use crate::escape::escape;
use crate::pki::Denial;
use crate::pki::authority::{Authority, Chain, Error, TokenError, Wanted};
use crate::pki::csr::CsrRefusal;
use crate::pki::frames::{FrameError, read_frame, write_frame};
use crate::pki::pem::{of_certificate, request};
use crate::pki::verify::Peer;
use crate::pki::wire::{Answer, Asked, BATCH, HEARTBEAT, Leaf, Refused, Request, send_publication};

/// How long a caller may take for a request, and to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests on one connection.
const MAX_REQUESTS: usize = 1024;

type Stream = TlsStream<TcpStream>;

pub(super) async fn converse(shared: &Shared, mut stream: Stream, from: IpAddr) -> Result<(), FrameError> {
    let caller = caller(stream.get_ref().1, &shared.authority, &shared.trust);
    for _ in 0..MAX_REQUESTS {
        let request = match read_frame(&mut stream, PATIENCE).await {
            Err(FrameError::Garbled(_)) => return refuse(&mut stream, Refused::Malformed).await,
            other => other?,
        };
        let (node, request) = match (&caller, request) {
            (Caller::Stranger, Request::Join { node, token, secret, request }) => {
                return join(shared, &mut stream, from, (node, token, secret, request)).await;
            }
            (Caller::Node(peer), Request::Watch) => {
                let name = peer.node_name().unwrap_or_default();
                return watch(shared, &mut stream, name, Some(peer)).await;
            }
            (Caller::Lapsed(name), Request::Watch) => return watch(shared, &mut stream, name, None).await,
            (Caller::Lapsed(name), Request::Renew { request }) => (Some(name.clone()), Ask::Renew(request)),
            (Caller::Lapsed(_), _) => return refuse(&mut stream, Refused::Ended).await,
            (Caller::Node(peer), Request::Sign { requests }) => {
                (still_node(shared, peer), Ask::Sign(requests))
            }
            (Caller::Node(peer), Request::Renew { request }) => {
                (still_node(shared, peer), Ask::Renew(request))
            }
            (Caller::Stranger | Caller::Node(_) | Caller::Other, _) => (None, Ask::Sign(Vec::new())),
        };
        let Some(node) = node else { return refuse(&mut stream, Refused::Node).await };
        match request {
            Ask::Sign(requests) => sign(shared, &mut stream, node, requests).await?,
            Ask::Renew(request) => renew(shared, &mut stream, node, request).await?,
        }
    }
    Ok(())
}

/// What a node may ask for again and again.
enum Ask {
    Sign(Vec<Asked>),
    Renew(String),
}

async fn refuse(stream: &mut Stream, reason: Refused) -> Result<(), FrameError> {
    write_frame(stream, &Answer::Refused { reason }, PATIENCE).await?;
    Ok(stream.shutdown().await?)
}

/// The node's name, as long as it is registered and its certificate is believed.
fn still_node(shared: &Shared, peer: &Peer) -> Option<String> {
    let name = peer.node_name()?;
    let holds = peer.still_valid(&shared.trust.load(), SystemTime::now()).is_ok();
    (holds && shared.authority.knows_node(name)).then(|| name.to_owned())
}

/// Runs on a thread of its own: it writes to the disk before it answers.
async fn work<T: Send + 'static>(
    shared: &Shared,
    run: impl FnOnce(&Authority) -> Result<T, Error> + Send + 'static,
) -> Result<T, Refused> {
    let authority = Arc::clone(&shared.authority);
    let done = spawn_blocking(move || run(&authority)).await;
    done.unwrap_or(Err(Error::NoSigner)).map_err(refused)
}

/// What the caller is told; the rest is only in the log.
fn refused(error: Error) -> Refused {
    match error {
        Error::Token(TokenError::Unknown | TokenError::Malformed) => Refused::Token,
        Error::Token(TokenError::Expired) => Refused::TokenExpired,
        Error::Token(TokenError::OtherNode) => Refused::TokenOfOther,
        Error::UnknownNode | Error::RevokedNode | Error::NodeName => Refused::Node,
        Error::Denied(denial) => Refused::Denied(denial),
        other => {
            tracing::error!(error = %other, "the CA cannot sign");
            Refused::Unavailable
        }
    }
}

async fn join(
    shared: &Shared,
    stream: &mut Stream,
    from: IpAddr,
    (node, token, secret, text): (String, String, String, String),
) -> Result<(), FrameError> {
    let shown = escape(&node).into_owned();
    let Some(request) = request(&text) else { return refuse(stream, Refused::Malformed).await };
    let secret = zeroize::Zeroizing::new(secret);
    let joined =
        work(shared, move |authority| authority.join(&node, (&token, &secret), &request, SystemTime::now()));
    match joined.await {
        Ok(chain) => {
            tracing::info!(node = %shown, %from, "a node has joined");
            write_frame(stream, &answer(&chain), PATIENCE).await?;
            send_publication(stream, &shared.authority.publication(), PATIENCE).await?;
            Ok(stream.shutdown().await?)
        }
        Err(reason) => {
            tracing::warn!(node = %shown, %from, %reason, "a node was not let in");
            refuse(stream, reason).await
        }
    }
}

fn answer(chain: &Chain) -> Answer {
    Answer::Chain { chain: chain.iter().map(of_certificate).collect() }
}

async fn renew(shared: &Shared, stream: &mut Stream, node: String, text: String) -> Result<(), FrameError> {
    let shown = node.clone();
    let renewed = match request(&text) {
        None => Err(Refused::Denied(Denial::Request(CsrRefusal::Malformed))),
        Some(request) => work(shared, move |ca| ca.renew(&node, &request, SystemTime::now())).await,
    };
    let answer = match renewed {
        Ok(chain) => answer(&chain),
        Err(reason) => {
            tracing::warn!(node = shown, %reason, "a node's own certificate was not renewed");
            Answer::Refused { reason }
        }
    };
    write_frame(stream, &answer, PATIENCE).await
}

async fn sign(
    shared: &Shared,
    stream: &mut Stream,
    node: String,
    requests: Vec<Asked>,
) -> Result<(), FrameError> {
    if requests.len() > BATCH {
        return write_frame(stream, &Answer::Refused { reason: Refused::Malformed }, PATIENCE).await;
    }
    let shown = node.clone();
    let signed = work(shared, move |authority| {
        // A text that is no request at all is refused where requests are read.
        let ders: Vec<Vec<u8>> =
            requests.iter().map(|one| request(&one.request).unwrap_or_default()).collect();
        let wanted: Vec<Wanted<'_>> =
            requests.iter().zip(&ders).map(|(one, request)| Wanted { id: &one.id, request }).collect();
        authority.sign(&node, &wanted, SystemTime::now())
    });
    let answer = match signed.await {
        Ok(signed) => signed_answer(&shown, signed),
        Err(reason) => Answer::Refused { reason },
    };
    write_frame(stream, &answer, PATIENCE).await
}

fn signed_answer(node: &str, signed: Vec<Result<Chain, Denial>>) -> Answer {
    let mut signers = Vec::new();
    let leaf = |one: Result<Chain, Denial>| match one {
        Ok(chain) => {
            let mut chain = chain.iter().map(of_certificate);
            let leaf = chain.next().unwrap_or_default();
            signers = chain.collect();
            Leaf::Certificate(leaf)
        }
        Err(denial) => {
            tracing::warn!(node, reason = %denial, "an identity was denied");
            Leaf::Denied(denial)
        }
    };
    let leaves = signed.into_iter().map(leaf).collect();
    Answer::Signed { signers, leaves }
}

/// Tells at once, and at every change, until the node is no longer one. News come before the end of a certificate: they
/// may be what has ended it.
async fn watch(
    shared: &Shared,
    stream: &mut Stream,
    name: &str,
    peer: Option<&Peer>,
) -> Result<(), FrameError> {
    let mut changed = shared.trust.changed();
    let mut news = true;
    while shared.authority.knows_node(name) {
        if news {
            send_publication(stream, &shared.authority.publication(), PATIENCE).await?;
        } else {
            write_frame(stream, &Answer::Alive, PATIENCE).await?;
        }
        let holds = |peer: &Peer| peer.still_valid(&shared.trust.load(), SystemTime::now()).is_ok();
        if !peer.is_some_and(holds) {
            return refuse(stream, Refused::Ended).await;
        }
        let mut byte = [0];
        news = tokio::select! {
            told = changed.changed() => match told {
                Ok(()) => true,
                Err(_) => return Ok(()),
            },
            () = sleep(HEARTBEAT) => false,
            // Whoever watches says nothing more: this is the end of the connection, or a breach of it.
            _ = stream.read(&mut byte) => return Ok(()),
        };
    }
    refuse(stream, Refused::Node).await
}
