//! Flows of other nodes. The agent of one node opens a stream to the agent of another, asks on it what its own asker has
//! asked, and passes the lines on; nothing is kept in between, so that a reader who is slow is slow for the other agent,
//! which counts what it drops. What another node writes is foreign text: it is bounded and cleaned before it is passed on.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, split,
};
use tokio::time::{sleep, timeout};

use super::hub::Hub;
use super::server::{PATIENCE, read_request, refuse};
use super::tap::{self, BEAT};
use super::wire::{Failure, FailureKind, Request, TapRequest};
use crate::escape::escape_within;
use crate::flows::{PRESENT, VERSION};

/// After how long a silence the other end is gone. Both ends say something more often.
const SILENCE: Duration = Duration::from_secs(10);
/// The most bytes of a line.
const LINE: usize = 1 << 20;
/// The most characters of a string that another node wrote.
const TEXT: usize = 4096;

/// A stream to another node's agent.
pub struct NodeStream(Box<dyn Duplex>);

/// What can be read and written.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl NodeStream {
    /// Both ends of it are proven.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(stream))
    }
}

impl fmt::Debug for NodeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeStream")
    }
}

/// Serves another node's agent to the end of its stream; `permitted` says why it may not read, if so.
pub async fn answer_node(
    hub: &Arc<Hub>,
    permitted: Result<(), Failure>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
) -> io::Result<()> {
    let (reader, mut writer) = split(stream);
    let mut reader = BufReader::new(reader);
    let request = read_request(&mut reader, PATIENCE).await;
    let failure = match (permitted, request) {
        (Err(failure), _) | (Ok(()), Err(failure)) => failure,
        (Ok(()), Ok(Request::Tap(request))) => {
            let served = tokio::select! {
                served = tap::serve(hub, TapRequest { marked: true, ..*request }, &mut writer) => served?,
                () = gone(&mut reader) => return Ok(()),
            };
            match served {
                Ok(()) => return writer.shutdown().await,
                Err(error) => Failure::new(FailureKind::Busy, error.to_string()),
            }
        }
        (Ok(()), Ok(_other)) => Failure::new(FailureKind::Invalid, "another node may ask for flows alone"),
    };
    refuse(&mut writer, failure).await?;
    writer.flush().await?;
    writer.shutdown().await
}

/// Waits until the other end is silent for too long, or has closed. It says something even while its reader stands still.
async fn gone(reader: &mut (impl AsyncRead + Unpin)) {
    let mut some = [0; 64];
    while let Ok(Ok(1..)) = timeout(SILENCE, reader.read(&mut some)).await {}
}

/// Asks another node's agent and passes its lines on, to the end; an inner failure says why there are no more.
pub(super) async fn relay(
    stream: NodeStream,
    node: &str,
    tap: TapRequest,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Result<(), Failure>> {
    let (reader, mut to) = split(stream.0);
    let mut text = serde_json::to_vec(&Request::Tap(Box::new(tap)))?;
    text.push(b'\n');
    let asked = async {
        to.write_all(&text).await?;
        to.flush().await
    };
    let broken = |what: &str| Failure::new(FailureKind::Internal, format!("the agent of {node} {what}"));
    if !matches!(timeout(PATIENCE, asked).await, Ok(Ok(()))) {
        return Ok(Err(broken("does not listen")));
    }
    let ended = tokio::select! {
        ended = pass_on(reader, node, writer) => ended?,
        () = beats(&mut to) => End::Closed,
    };
    Ok(match ended {
        End::Whole => Ok(()),
        End::Closed => Err(broken("has closed the stream")),
        End::Silent => Err(broken("says nothing any more")),
        End::Nonsense => Err(broken("says what is no line of a tap")),
    })
}

/// Says every now and then that somebody is here; ends when nobody hears it.
async fn beats(to: &mut (impl AsyncWrite + Unpin)) {
    loop {
        sleep(BEAT).await;
        let beat = async {
            to.write_all(b"\n").await?;
            to.flush().await
        };
        if !matches!(timeout(SILENCE, beat).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// How the lines of another node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The other agent had no more to say.
    Whole,
    Closed,
    Silent,
    Nonsense,
}

async fn pass_on(
    reader: impl AsyncRead + Unpin,
    node: &str,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<End> {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let (mut line, mut out) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(LINE as u64);
        match timeout(SILENCE, bounded.read_until(b'\n', &mut line)).await {
            Err(_elapsed) => return Ok(End::Silent),
            Ok(Err(_error)) => return Ok(End::Closed),
            Ok(Ok(0)) => return Ok(End::Whole),
            Ok(Ok(_length)) => {}
        }
        let Some(text) = line.strip_suffix(b"\n") else {
            return Ok(if line.len() == LINE { End::Nonsense } else { End::Closed });
        };
        if !mend(text, node, &mut out) {
            return Ok(End::Nonsense);
        }
        // While more is there already, it goes on together.
        if !reader.buffer().contains(&b'\n') || out.len() >= LINE {
            writer.write_all(&out).await?;
            out.clear();
        }
    }
}

/// Appends a line of another node as it may be shown here: under the name that the node has proven, without anything that
/// a terminal obeys. `false` for what is no line of a tap.
fn mend(text: &[u8], node: &str, out: &mut Vec<u8>) -> bool {
    if text.is_empty() || text == PRESENT.as_bytes() {
        out.extend_from_slice(text);
        out.push(b'\n');
        return true;
    }
    let Ok(mut line @ Value::Object(_)) = serde_json::from_slice::<Value>(text) else { return false };
    clean(&mut line);
    if line.get("v").and_then(Value::as_u64) != Some(u64::from(VERSION)) {
        return false;
    }
    if let Some(fields) = line.as_object_mut()
        && !fields.contains_key("error")
    {
        fields.insert("node".to_owned(), Value::String(node.to_owned()));
    }
    let before = out.len();
    if serde_json::to_writer(&mut *out, &line).is_err() {
        out.truncate(before);
        return false;
    }
    out.push(b'\n');
    true
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = cleaned(std::mem::take(text)),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => {
            fields.values_mut().for_each(clean);
            if fields.keys().any(|key| !is_clean(key)) {
                *fields = std::mem::take(fields).into_iter().map(|(key, it)| (cleaned(key), it)).collect();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether nothing would be escaped. A backslash is what an honest node's escaping leaves.
fn is_clean(text: &str) -> bool {
    text.len() <= TEXT && text.split('\\').all(|piece| escape_within(piece, TEXT) == piece)
}

fn cleaned(text: String) -> String {
    if is_clean(&text) { text } else { escape_within(&text, TEXT).into_owned() }
}

#[cfg(test)]
mod tests;
