//! The CA server's client: joins once with a token, keeps the node's own key and certificate on its disk, has workloads'
//! requests signed, and is told what to believe.

mod channel;
mod join;
mod store;
mod watch;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize as _, Zeroizing};

use super::authority::TokenError;
use super::csr;
use super::files::FileError;
use super::frames::FrameError;
use super::issuer::{BoxFuture, IssueError, Issued, Issuer};
use super::pem::{self, PemError};
use super::publication::PublicationError;
use super::svid::{self, Svid};
use super::trust::Trust;
use super::wire::{Answer, Asked, BATCH, Leaf, Refused, Request};
use crate::spiffe::{SpiffeId, TrustDomain};
use channel::Channel;
use store::{Identity, Store};

pub use watch::Watch;

/// How long the CA may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the CA server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No way to it.
    #[error("cannot reach the CA at {address}")]
    Connect {
        /// The address, as configured.
        address: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// No TLS with it.
    #[error("no TLS with the CA at {address}: {source}")]
    Tls {
        /// The address, as configured.
        address: String,
        /// What TLS says.
        source: io::Error,
    },
    /// It, or the way to it, is slow.
    #[error("the CA at {address} does not answer")]
    Late {
        /// The address, as configured.
        address: String,
    },
    /// The conversation has broken off.
    #[error("the conversation with the CA has broken off: {0}")]
    Frame(#[from] FrameError),
    /// It said no.
    #[error("{0}")]
    Refused(Refused),
    /// It said something that was not asked for.
    #[error("the CA has answered something else than was asked for")]
    Strange,
    /// A certificate that cannot be read.
    #[error("the CA has answered with a certificate that cannot be read: {0}")]
    Pem(#[from] PemError),
    /// What it publishes cannot be believed.
    #[error("what the CA publishes cannot be read: {0}")]
    Publication(#[from] PublicationError),
    /// The CA of another trust domain.
    #[error("the CA is of the trust domain `{is}`; this node is set to `{wanted}`")]
    OtherTrustDomain {
        /// The CA's.
        is: TrustDomain,
        /// This node's.
        wanted: TrustDomain,
    },
    /// A file of the node's own.
    #[error(transparent)]
    File(#[from] FileError),
    /// The node's own key or certificate on the disk is damaged.
    #[error("{} is damaged; remove it and join anew with a token of `waxseal ca token`", path.display())]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A text that is no token.
    #[error("{}: {source}", path.display())]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: TokenError,
    },
    /// Neither a token nor an identity from before.
    #[error("this node has not joined the CA; set `join_token` to a file with a token of `waxseal ca token`")]
    NotJoined,
    /// A key or request cannot be made.
    #[error("cannot make a key and a request: {0}")]
    Make(#[from] rcgen::Error),
    /// What was signed does not fit the key.
    #[error("what the CA has signed cannot be used: {0}")]
    Unusable(#[from] svid::Error),
}

/// Where the CA is and who this node is.
#[derive(Clone, Debug)]
pub struct Member {
    /// `HOST:PORT` of the CA server.
    pub address: String,
    /// This node's trust domain.
    pub trust_domain: TrustDomain,
    /// This node's name.
    pub node: String,
}

/// A CA server as an [`Issuer`].
#[derive(Clone, Debug)]
pub struct Remote(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    member: Member,
    trust: Trust,
    store: Store,
    identity: ArcSwap<Identity>,
}

impl Remote {
    /// Takes up the identity in `directory`, or joins with the token. A token that was not used here yet means to join
    /// anew. What is believed is in force on return.
    pub async fn open(
        member: Member,
        directory: &Path,
        token: Option<&Path>,
        trust: Trust,
    ) -> Result<Self, Error> {
        let store = Store::open(directory)?;
        let token = token.map(join::read_token).transpose()?;
        let known = store.load(&member)?;
        let identity = match (known, token) {
            (Some(known), Some(token)) if known.token != token.id() => {
                join::join(&member, &store, &token).await?
            }
            (Some(known), _) => known,
            (None, Some(token)) => join::join(&member, &store, &token).await?,
            (None, None) => return Err(Error::NotJoined),
        };
        let beliefs = store.publication()?.ok_or(Error::NotJoined)?;
        trust.replace(beliefs.bundles()?);
        let identity = ArcSwap::from_pointee(identity);
        Ok(Self(Arc::new(Shared { member, trust, store, identity })))
    }

    /// The node's own identity as it is on the disk; it may have ended.
    pub fn identity(&self) -> Arc<Svid> {
        Arc::clone(&self.0.identity.load().svid)
    }

    /// Keeps what is believed as the CA publishes it.
    pub fn watch(&self) -> Watch {
        Watch::start(self.clone())
    }

    async fn channel(&self) -> Result<Channel, Error> {
        Channel::open(&self.0.member, self.0.trust.load(), Some(self.identity().certified_key())).await
    }

    async fn renew(&self, own: &SpiffeId) -> Result<Arc<Svid>, Error> {
        let (key, request) = prepare(own)?;
        let mut channel = self.channel().await?;
        let answer = channel.ask(&Request::Renew { request }, PATIENCE).await?;
        let Answer::Chain { chain } = answer else { return Err(Error::Strange) };
        let token = self.0.identity.load().token.clone();
        let identity = Identity::new(token, &chain, key)?;
        self.0.store.save(&identity)?;
        let svid = Arc::clone(&identity.svid);
        self.0.identity.store(Arc::new(identity));
        Ok(svid)
    }

    async fn sign(&self, ids: &[SpiffeId]) -> Result<Vec<Issued>, Error> {
        let mut channel = self.channel().await?;
        let mut all = Vec::with_capacity(ids.len());
        for batch in ids.chunks(BATCH) {
            let mut keys = Vec::with_capacity(batch.len());
            let mut requests = Vec::with_capacity(batch.len());
            for id in batch {
                let (key, request) = prepare(id)?;
                keys.push(key);
                requests.push(Asked { id: id.clone(), request });
            }
            let answer = channel.ask(&Request::Sign { requests }, PATIENCE).await?;
            let Answer::Signed { signers, leaves } = answer else { return Err(Error::Strange) };
            if leaves.len() != batch.len() {
                return Err(Error::Strange);
            }
            for (leaf, key) in leaves.into_iter().zip(keys) {
                all.push(assemble(leaf, &signers, &key)?);
            }
        }
        Ok(all)
    }
}

/// A private key in PKCS #8.
type Key = Zeroizing<Vec<u8>>;

/// A fresh key, and a request for this ID in PEM.
fn prepare(id: &SpiffeId) -> Result<(Key, String), Error> {
    let mut pair = KeyPair::generate()?;
    let request = csr::make(id, &pair);
    let key = Zeroizing::new(pair.serialize_der());
    pair.zeroize();
    Ok((key, pem::of_request(&request?)))
}

fn assemble(leaf: Leaf, signers: &[String], key: &Key) -> Result<Issued, Error> {
    match leaf {
        Leaf::Denied(denial) => Ok(Err(denial)),
        Leaf::Certificate(leaf) => {
            let texts = std::iter::once(leaf.as_str()).chain(signers.iter().map(String::as_str));
            Ok(Ok(Arc::new(svid_of(texts, key)?)))
        }
    }
}

fn svid_of<'a>(texts: impl Iterator<Item = &'a str>, key: &Key) -> Result<Svid, Error> {
    let chain: Vec<CertificateDer<'static>> = texts.map(pem::certificate).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.as_slice()));
    Ok(Svid::new(chain, &key)?)
}

impl Issuer for Remote {
    fn issue<'a>(&'a self, ids: &'a [SpiffeId]) -> BoxFuture<'a, Result<Vec<Issued>, IssueError>> {
        Box::pin(async move {
            let own = self.identity().id().clone();
            let mut others: Vec<SpiffeId> = ids.to_vec();
            let at = others.iter().position(|id| *id == own);
            // Its own first: with a certificate that has ended nothing else is signed.
            let renewed = match at {
                Some(at) => {
                    others.remove(at);
                    Some((at, self.renew(&own).await?))
                }
                None => None,
            };
            if self.identity().not_after() <= SystemTime::now() {
                return Err(Error::Refused(Refused::Ended).into());
            }
            let signed = if others.is_empty() { Ok(Vec::new()) } else { self.sign(&others).await };
            let mut issued: Vec<Issued> = match (signed, &renewed) {
                (Ok(issued), _) => issued,
                // The node's own is not lost because of the others; they are asked for again.
                (Err(error), Some(_)) => {
                    tracing::warn!(%error, "only the node's own certificate was renewed");
                    return Ok(only_own(ids, &own, renewed));
                }
                (Err(error), None) => return Err(error.into()),
            };
            if let Some((at, svid)) = renewed {
                issued.insert(at, Ok(svid));
            }
            Ok(issued)
        })
    }
}

/// The answer when the others were not signed.
fn only_own(ids: &[SpiffeId], own: &SpiffeId, renewed: Option<(usize, Arc<Svid>)>) -> Vec<Issued> {
    let svid = renewed.map(|(_, svid)| svid);
    let each = |id: &SpiffeId| match &svid {
        Some(svid) if id == own => Ok(Arc::clone(svid)),
        _ => Err(super::issuer::Denial::Unknown),
    };
    ids.iter().map(each).collect()
}
