//! What both ends draw from one TLS connection: the session's key, and what the nodes sign.
//!
//! The exporter of TLS 1.3 is not bound to the client's certificate, so both names stand in the context, and nobody uses
//! a key before both sides have verified each other.

use rustls::{ConnectionCommon, SideData};
use waxseal_common::wire::{SessionKey, Spi};
use zeroize::Zeroizing;

use crate::spiffe::SpiffeId;

const SEAL: &[u8] = b"EXPORTER-waxseal-seal-v1";
const NODE: &[u8] = b"EXPORTER-waxseal-node-v1";

/// Which side of a pair handshake a node signs for. Neither signature can pass for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Initiator,
    Responder,
}

impl Side {
    const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Initiator => b"waxseal node v1: initiator\0",
            Self::Responder => b"waxseal node v1: responder\0",
        }
    }
}

/// Whom a session stands for: the names that the two certificates of the connection hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    /// Who opens connections under it: the TLS client.
    pub(super) source: &'a SpiffeId,
    /// Who answers: the TLS server.
    pub(super) destination: &'a SpiffeId,
}

impl Ends<'_> {
    /// Each name with its length before it, so that no two pairs look alike.
    fn context(&self) -> Vec<u8> {
        let mut context = Vec::new();
        for (role, id) in [(b'c', self.source), (b's', self.destination)] {
            let text = id.as_str().as_bytes();
            context.push(role);
            // At most 2048 bytes, which the type of the name guarantees.
            context.extend((text.len() as u16).to_be_bytes());
            context.extend(text);
        }
        context
    }
}

/// The key of a session: bound to both names and their roles, to the receiver's name for the session, and to its epoch.
pub(super) fn session_key<D: SideData>(
    connection: &ConnectionCommon<D>,
    ends: Ends<'_>,
    spi: Spi,
    epoch: u64,
) -> Result<SessionKey, rustls::Error> {
    let mut context = ends.context();
    context.extend(spi.0.to_be_bytes());
    context.extend(epoch.to_be_bytes());
    key(connection, SEAL, &context)
}

fn key<D: SideData>(
    connection: &ConnectionCommon<D>,
    label: &[u8],
    context: &[u8],
) -> Result<SessionKey, rustls::Error> {
    let bytes = Zeroizing::new(connection.export_keying_material([0u8; 16], label, Some(context))?);
    let half = |at: usize| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    Ok(SessionKey([half(0), half(8)]))
}

/// What a node signs to say that this connection's workload runs on it.
pub(super) fn node_message<D: SideData>(
    connection: &ConnectionCommon<D>,
    ends: Ends<'_>,
    side: Side,
) -> Result<Vec<u8>, rustls::Error> {
    let exported = connection.export_keying_material([0u8; 32], NODE, Some(&ends.context()))?;
    Ok([side.prefix(), exported.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pairs_have_one_context() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let (a, b) = (id("spiffe://d/a"), id("spiffe://d/b"));
        let (long, short) = (id("spiffe://d/a/b"), id("spiffe://d/a"));
        let contexts = [
            Ends { source: &a, destination: &b }.context(),
            Ends { source: &b, destination: &a }.context(),
            Ends { source: &a, destination: &a }.context(),
            Ends { source: &long, destination: &short }.context(),
            Ends { source: &short, destination: &long }.context(),
        ];
        for (i, one) in contexts.iter().enumerate() {
            assert_eq!(contexts.iter().filter(|other| *other == one).count(), 1, "{i}");
        }
    }
}
