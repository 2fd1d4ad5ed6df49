//! Messages between agents and to the CA server: four bytes of length, big endian, then as much JSON.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// The largest message, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

/// Why there is no message, or it was not sent.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection has failed.
    #[error("the connection has failed")]
    Io(#[from] io::Error),
    /// The other end has hung up, between two messages.
    #[error("the other end has closed the connection")]
    Closed,
    /// A message longer than [`MAX_FRAME`].
    #[error("a message has {length} bytes, more than {MAX_FRAME}")]
    TooLarge {
        /// Its length.
        length: usize,
    },
    /// A message that is not what is spoken here.
    #[error("a message cannot be read")]
    Garbled(#[source] serde_json::Error),
    /// Nothing came, or nothing could be sent, for too long.
    #[error("the other end has been silent for {:?}", .0)]
    Late(Duration),
}

/// Reads one message, waiting so long for the whole of it.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> Result<T, FrameError> {
    let bytes = timeout(patience, read(stream)).await.map_err(|_elapsed| FrameError::Late(patience))??;
    serde_json::from_slice(&bytes).map_err(FrameError::Garbled)
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, FrameError> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(FrameError::Closed),
        other => other?,
    };
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLarge { length });
    }
    // Memory follows what comes, not what is announced.
    let mut bytes = Vec::with_capacity(length.min(4096));
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) } else { Ok(bytes) }
}

/// Sends one message, waiting so long until it is written.
pub async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
    patience: Duration,
) -> Result<(), FrameError> {
    let bytes = serde_json::to_vec(message).map_err(FrameError::Garbled)?;
    let length = bytes.len();
    let head = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let head = head.ok_or(FrameError::TooLarge { length })?.to_be_bytes();
    let send = async {
        stream.write_all(&head).await?;
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    Ok(timeout(patience, send).await.map_err(|_elapsed| FrameError::Late(patience))??)
}
