//! Messages on a TLS stream: four bytes of length, then JSON. Nothing is read before it is known to fit.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// The most bytes of one message, length not counted.
pub(super) const LIMIT: usize = 64 * 1024;

/// Why a message was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end has closed, or the network has failed.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// It announces more than the limit, or nothing.
    #[error("a message of {length} bytes; 1 to {LIMIT} are allowed")]
    Length {
        /// As announced.
        length: usize,
    },
    /// It is not what is expected at this point.
    #[error("not a message of this protocol: {}", crate::escape::escape(&.0.to_string()))]
    Meaning(#[source] serde_json::Error),
    /// It did not come, or could not be sent, in time.
    #[error("no message within {0:?}")]
    Late(Duration),
}

/// Reads one message. Not to be cancelled and tried again: half a message would be lost.
pub(super) async fn read<T, S>(stream: &mut S, within: Duration) -> Result<T, FrameError>
where
    T: DeserializeOwned,
    S: AsyncRead + Unpin,
{
    let bytes = timeout(within, read_bytes(stream)).await.map_err(|_elapsed| FrameError::Late(within))??;
    serde_json::from_slice(&bytes).map_err(FrameError::Meaning)
}

async fn read_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, FrameError> {
    let length = stream.read_u32().await.map_err(FrameError::Broken)? as usize;
    if length == 0 || length > LIMIT {
        return Err(FrameError::Length { length });
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(FrameError::Broken)?;
    Ok(bytes)
}

/// Writes one message.
pub(super) async fn write<T, S>(stream: &mut S, message: &T, within: Duration) -> Result<(), FrameError>
where
    T: Serialize,
    S: AsyncWrite + Unpin,
{
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Meaning)?;
    let length = bytes.len() - 4;
    if length > LIMIT {
        return Err(FrameError::Length { length });
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    let sent = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    let sent = timeout(within, sent).await.map_err(|_elapsed| FrameError::Late(within))?;
    sent.map_err(FrameError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    async fn read_from(bytes: &[u8]) -> Result<Vec<u32>, FrameError> {
        let (mut ours, mut theirs) = tokio::io::duplex(128 * 1024);
        theirs.write_all(bytes).await.unwrap();
        let answer = read(&mut ours, SOON).await;
        drop(theirs);
        answer
    }

    #[tokio::test]
    async fn a_message_arrives_as_it_was_sent() {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        write(&mut theirs, &vec![1u32, 2], SOON).await.unwrap();
        write(&mut theirs, &vec![3u32], SOON).await.unwrap();
        assert_eq!(read::<Vec<u32>, _>(&mut ours, SOON).await.unwrap(), [1, 2]);
        assert_eq!(read::<Vec<u32>, _>(&mut ours, SOON).await.unwrap(), [3]);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_before_it_is_read() {
        for length in [0, LIMIT as u32 + 1, u32::MAX] {
            let answer = read_from(&length.to_be_bytes()).await;
            assert!(matches!(answer, Err(FrameError::Length { .. })), "{length}: {answer:?}");
        }
        let long = "x".repeat(LIMIT);
        let mut sink = tokio::io::sink();
        assert!(matches!(write(&mut sink, &long, SOON).await, Err(FrameError::Length { .. })));
    }

    #[tokio::test]
    async fn nonsense_and_silence_have_their_own_errors() {
        assert!(matches!(read_from(b"\0\0\0\x02{]").await, Err(FrameError::Meaning(_))));
        assert!(matches!(read_from(b"\0\0\0\x09[1").await, Err(FrameError::Late(_))));
        let (mut ours, theirs) = tokio::io::duplex(16);
        drop(theirs);
        assert!(matches!(read::<u32, _>(&mut ours, SOON).await, Err(FrameError::Broken(_))));
    }
}
