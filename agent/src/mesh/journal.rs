//! The record of sessions: what is known about them beside the kernel's tables, so that a restarted agent can go on
//! judging them. Holds no keys.
//!
//! One line of JSON for each fact, appended and never changed. It need not survive a reboot, which ends every session, so
//! nothing waits for the disk. What cannot be read back is removed from the kernel.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use waxseal_common::wire::Spi;

use super::message::{Hex, to_hex};
use super::peers::Peers;
use super::state::{Facts, Outbound, Party};
use crate::pki::Peer;
use crate::spiffe::SpiffeId;

/// The layout. Another one is not read.
pub(super) const VERSION: u32 = 1;
const NAME: &str = "sessions.jsonl";
/// Appended bytes after which the file is written anew, when most of it is of the past.
const COMPACT: u64 = 8 << 20;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(super) enum Line {
    /// The first: of which boot it is, and this node's memory.
    Begin { version: u32, boot: String, nonce: u64 },
    /// A chain of certificates, under a number.
    Chain { number: u32, certificates: Vec<Hex> },
    /// A peer node.
    Peer { number: u32, id: SpiffeId, nonce: Option<u64>, agent: Option<SocketAddr> },
    /// A session in which this node receives.
    Inbound {
        spi: u32,
        replaces: Option<u32>,
        #[serde(flatten)]
        facts: FactsLine,
    },
    /// One in which it sends.
    Outbound {
        session: u32,
        spi: u32,
        agent: SocketAddr,
        destination: std::net::IpAddr,
        port: u16,
        protocol: u8,
        source: u32,
        renew_at: u64,
        #[serde(flatten)]
        facts: FactsLine,
    },
    /// Sessions that have ended.
    Gone { inbound: Vec<u32>, outbound: Vec<u32> },
}

/// [`Facts`] with chains by their numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FactsLine {
    pub(super) node: u32,
    pub(super) local: Option<Party>,
    pub(super) remote: Option<Party>,
    pub(super) chains: Vec<u32>,
    pub(super) made: u64,
    pub(super) expires: u64,
}

/// What is to be written, before chains have numbers.
#[derive(Debug)]
pub(super) enum Record<'a> {
    Inbound { spi: Spi, replaces: Option<Spi>, facts: &'a Facts },
    Outbound { session: u32, line: &'a Outbound },
}

impl<'a> Record<'a> {
    pub(super) fn inbound(spi: Spi, facts: &'a Facts, replaces: Option<Spi>) -> Self {
        Self::Inbound { spi, replaces, facts }
    }

    pub(super) fn outbound(session: u32, line: &'a Outbound) -> Self {
        Self::Outbound { session, line }
    }

    fn facts(&self) -> &Facts {
        match self {
            Self::Inbound { facts, .. } => facts,
            Self::Outbound { line, .. } => &line.facts,
        }
    }

    fn line(&self, chains: Vec<u32>) -> Line {
        let Facts { node, local, remote, proofs: _, made, expires } = self.facts();
        let facts = FactsLine {
            node: *node,
            local: local.clone(),
            remote: remote.clone(),
            chains,
            made: *made,
            expires: *expires,
        };
        match self {
            Self::Inbound { spi, replaces, .. } => {
                Line::Inbound { spi: spi.0, replaces: replaces.map(|spi| spi.0), facts }
            }
            Self::Outbound { session, line } => Line::Outbound {
                session: *session,
                spi: line.spi.0,
                agent: line.agent,
                destination: line.key.destination.into(),
                port: line.key.port,
                protocol: line.key.protocol,
                source: line.key.source.0,
                renew_at: line.renew_at,
                facts,
            },
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    writing: Mutex<Writing>,
}

#[derive(Debug)]
struct Writing {
    file: Option<File>,
    /// Chains that are in the file, by their digest.
    chains: HashMap<[u8; 32], u32>,
    begin: Line,
    written: u64,
    /// Bytes after the last time it was written anew.
    base: u64,
}

pub(super) fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

impl Journal {
    /// Begins the file anew with what is to be kept.
    pub(super) fn begin(path: PathBuf, boot: String, nonce: u64) -> Self {
        let begin = Line::Begin { version: VERSION, boot, nonce };
        let writing = Writing { file: None, chains: HashMap::new(), begin, written: 0, base: 0 };
        Self { path, writing: Mutex::new(writing) }
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file has grown so much that it should be written anew.
    pub(super) fn is_long(&self) -> bool {
        let writing = self.lock();
        writing.written > COMPACT && writing.written > 4 * writing.base
    }

    /// Writes the file anew with these records, and goes on appending to it.
    pub(super) fn rewrite<'a>(&self, peers: &Peers, records: impl Iterator<Item = Record<'a>>) {
        let mut writing = self.lock();
        let new = self.path.with_extension("new");
        let opened = open_new(&new);
        let Some(file) = noted(&self.path, opened) else { return };
        writing.file = Some(file);
        writing.chains.clear();
        writing.written = 0;
        let begin = writing.begin.clone();
        let mut out = Vec::new();
        push(&begin, &mut out);
        for (number, peer) in peers.all() {
            let line = Line::Peer { number, id: peer.id.clone(), nonce: peer.nonce, agent: peer.agent };
            push(&line, &mut out);
        }
        for record in records {
            writing.push_record(&record, &mut out);
        }
        let written = writing.write(&out).and_then(|()| fs::rename(&new, &self.path));
        let _noted = noted(&self.path, written);
        writing.base = writing.written;
    }

    /// Appends a session.
    pub(super) fn append(&self, record: &Record<'_>) {
        let mut writing = self.lock();
        let mut out = Vec::new();
        writing.push_record(record, &mut out);
        let _noted = noted(&self.path, writing.write(&out));
    }

    /// Appends what is new about a peer node.
    pub(super) fn append_peer(&self, peers: &Peers, number: u32) {
        let Some(peer) = peers.get(number) else { return };
        self.append_line(&Line::Peer { number, id: peer.id.clone(), nonce: peer.nonce, agent: peer.agent });
    }

    /// Appends that sessions have ended.
    pub(super) fn append_gone(&self, inbound: &[Spi], outbound: &[u32]) {
        if inbound.is_empty() && outbound.is_empty() {
            return;
        }
        let inbound = inbound.iter().map(|spi| spi.0).collect();
        self.append_line(&Line::Gone { inbound, outbound: outbound.to_vec() });
    }

    fn append_line(&self, line: &Line) {
        let mut writing = self.lock();
        let mut out = Vec::new();
        push(line, &mut out);
        let _noted = noted(&self.path, writing.write(&out));
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

/// A session that is not written down ends with the agent; that is all.
fn noted<T>(path: &Path, done: io::Result<T>) -> Option<T> {
    done.inspect_err(|error| {
        tracing::warn!(%error, path = %path.display(), "cannot write down a session; it will not survive a restart");
    })
    .ok()
}

impl Writing {
    fn push_record(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let proofs = record.facts().proofs.clone();
        let chains = proofs.iter().map(|proof| self.chain(proof, out)).collect();
        push(&record.line(chains), out);
    }

    /// The number of a chain; it is written when it is new.
    fn chain(&mut self, proof: &Arc<Peer>, out: &mut Vec<u8>) -> u32 {
        let digest = digest(proof.chain());
        if let Some(number) = self.chains.get(&digest) {
            return *number;
        }
        let number = self.chains.len() as u32;
        push(&Line::Chain { number, certificates: to_hex(proof.chain()) }, out);
        self.chains.insert(digest, number);
        number
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.written += bytes.len() as u64;
        }
        Ok(())
    }
}

fn push(line: &Line, out: &mut Vec<u8>) {
    if let Err(error) = serde_json::to_writer(&mut *out, line) {
        tracing::error!(%error, "a session cannot be written down");
    }
    out.push(b'\n');
}

fn digest(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut sha = Sha256::new();
    for certificate in chain {
        sha.update((certificate.len() as u64).to_be_bytes());
        sha.update(certificate);
    }
    sha.finalize().into()
}
