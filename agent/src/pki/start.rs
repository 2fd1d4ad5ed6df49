//! From a configuration to what the rest of the agent uses: what is believed, and identities that stay fresh.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::authority::{self, Authority, Import, Lifetimes, Setup};
use super::client::{self, Member, Remote, Watch};
use super::embedded::{Custodian, Embedded};
use super::files::{FileError, read_public};
use super::issuer::Issuer;
use super::keeper::Keeper;
use super::names::node_id;
use super::profile::hex;
use super::publication::PublicationError;
use super::svid::Svid;
use super::trust::Trust;
use crate::spiffe::{self, SpiffeId, TrustDomain};

/// Who signs.
#[derive(Clone, Debug)]
pub enum Source {
    /// An authority of this node alone, made at its first start.
    Own,
    /// A CA server.
    Server {
        /// `HOST:PORT`.
        address: String,
        /// The token to join with, when it has not joined yet.
        token: Option<PathBuf>,
    },
    /// A directory of an authority: one that `waxseal ca` has made, or `root.pem`, `intermediate.pem` and
    /// `intermediate.key` of another make, and `root.key` when it is there.
    Files(PathBuf),
}

/// What a node needs to know to have certificates.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who signs.
    pub source: Source,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The node's name.
    pub node: String,
    /// The agent's directory of what must survive a restart.
    pub state: PathBuf,
    /// How long leaves of its own authority live.
    pub leaf_lifetime: Duration,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The authority.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// The CA server.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// What the authority publishes.
    #[error(transparent)]
    Publication(#[from] PublicationError),
    /// The node's name.
    #[error("the node's name makes no SPIFFE ID: {0}")]
    Id(#[from] spiffe::Error),
    /// A file of an existing authority.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The certificates of this node. Everything ends when this is dropped.
#[derive(Debug)]
pub struct Credentials {
    trust: Trust,
    keeper: Keeper,
    node: SpiffeId,
    shared: bool,
    _told: Told,
}

/// Who tells the trust of changes.
#[derive(Debug)]
enum Told {
    Here { _custodian: Custodian },
    There { _watch: Watch },
}

impl Credentials {
    /// Opens, makes or joins the authority. Identities come later: see [`Keeper::wait_for`]. Needs a tokio runtime.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        let node = node_id(&options.trust_domain, &options.node)?;
        match &options.source {
            Source::Own => {
                let authority = own(options)?;
                authority.set_leaf_lifetime(options.leaf_lifetime)?;
                Self::here(authority, node, false)
            }
            Source::Files(directory) => Self::here(from_files(options, directory)?, node, true),
            Source::Server { address, token } => {
                let trust = Trust::default();
                let member = Member {
                    address: address.clone(),
                    trust_domain: options.trust_domain.clone(),
                    node: options.node.clone(),
                };
                let home = options.state.join("node");
                let remote = Remote::open(member, &home, token.as_deref(), trust.clone()).await?;
                let (known, watch) = (remote.identity(), remote.watch());
                Ok(Self::new(
                    Arc::new(remote),
                    trust,
                    node,
                    Some(known),
                    (true, Told::There { _watch: watch }),
                ))
            }
        }
    }

    fn here(authority: Authority, node: SpiffeId, shared: bool) -> Result<Self, StartError> {
        let (authority, trust) = (Arc::new(authority), Trust::default());
        let custodian = Custodian::start(Arc::clone(&authority), trust.clone())?;
        let issuer = Arc::new(Embedded::new(authority, node.clone()));
        Ok(Self::new(issuer, trust, node, None, (shared, Told::Here { _custodian: custodian })))
    }

    fn new(
        issuer: Arc<dyn Issuer>,
        trust: Trust,
        node: SpiffeId,
        known: Option<Arc<Svid>>,
        (shared, told): (bool, Told),
    ) -> Self {
        let keeper = Keeper::start_with(issuer, trust.clone(), node.clone(), known);
        Self { trust, keeper, node, shared, _told: told }
    }

    /// What is believed, shared and kept up to date.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The identities of this node.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// The node's own ID.
    pub fn node(&self) -> &SpiffeId {
        &self.node
    }

    /// Whether others can have certificates of the same authority: without them there is nobody to talk to.
    pub fn is_shared(&self) -> bool {
        self.shared
    }
}

fn own(options: &Options) -> Result<Authority, authority::Error> {
    let directory = options.state.join("ca");
    match Authority::open(&directory, None) {
        Err(authority::Error::Missing { .. }) => {
            let lifetimes = Lifetimes { leaf: options.leaf_lifetime, ..Lifetimes::default() };
            let setup = Setup { trust_domain: options.trust_domain.clone(), root_key: None, lifetimes };
            tracing::info!(directory = %directory.display(), "made a CA for this node alone");
            Authority::create(&directory, &setup, SystemTime::now())
        }
        other => checked(other?, options),
    }
}

fn checked(authority: Authority, options: &Options) -> Result<Authority, authority::Error> {
    let (is, wanted) = (authority.trust_domain(), options.trust_domain.clone());
    if is == wanted { Ok(authority) } else { Err(authority::Error::OtherTrustDomain { is, wanted }) }
}

/// Files of another make are taken over once for each intermediate they hold.
fn from_files(options: &Options, directory: &Path) -> Result<Authority, StartError> {
    match Authority::open(directory, None) {
        Err(authority::Error::Missing { .. }) => {}
        other => return Ok(checked(other?, options)?),
    }
    let intermediate = directory.join("intermediate.pem");
    let digest = hex(&Sha256::digest(&**read_public(&intermediate, 1 << 20)?));
    let home = options.state.join(format!("ca-{}", digest.get(..16).unwrap_or_default()));
    match Authority::open(&home, None) {
        Err(authority::Error::Missing { .. }) => {}
        other => return Ok(checked(other?, options)?),
    }
    let root_key = directory.join("root.key");
    let import = Import {
        trust_domain: options.trust_domain.clone(),
        roots: directory.join("root.pem"),
        root_key: root_key.exists().then_some(root_key),
        intermediate,
        key: directory.join("intermediate.key"),
        lifetimes: Lifetimes { leaf: options.leaf_lifetime, ..Lifetimes::default() },
    };
    Ok(Authority::import(&home, &import, SystemTime::now())?)
}
