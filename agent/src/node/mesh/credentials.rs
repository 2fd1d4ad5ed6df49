//! Who this node is, and whom it believes: the CA server that it has joined, or an authority of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use crate::config::{Ca, Config};
use crate::pki::{
    self, Authority, CertificateStatus, Custodian, Embedded, Issuer, Keeper, Lifetimes, Member, Remote,
    Setup, Trust, Watch, node_id,
};
use crate::spiffe::{self, SpiffeId};

/// Why this node has no certificates.
#[derive(Debug, Error)]
pub enum Error {
    /// The node's name gives no SPIFFE ID.
    #[error("the node's name `{}` cannot be used: {source}", crate::escape::escape(name))]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: spiffe::Error,
    },
    /// The authority of this node.
    #[error("the certificate authority of this node cannot be used: {0}")]
    Authority(#[from] pki::AuthorityError),
    /// What it publishes.
    #[error("what the certificate authority of this node publishes cannot be used: {0}")]
    Publication(#[from] pki::PublicationError),
    /// The CA server.
    #[error(transparent)]
    Remote(#[from] pki::ClientError),
}

/// Certificates and trust, kept fresh while this lives.
#[derive(Debug)]
pub(in crate::node) struct Credentials {
    pub(super) trust: Trust,
    pub(super) keeper: Arc<Keeper>,
    _kept: Kept,
}

/// What keeps the trust as the authority publishes it.
#[derive(Debug)]
#[expect(dead_code, reason = "they work until they are dropped")]
enum Kept {
    Own(Custodian),
    Server(Watch),
}

impl Credentials {
    /// Joins, or makes an authority at the first start.
    pub(in crate::node) async fn open(config: &Config) -> Result<Self, Error> {
        let name = config.node.clone();
        let node = node_id(&config.trust_domain, &name)
            .map_err(|source| Error::Name { name: name.clone(), source })?;
        let trust = Trust::default();
        let (issuer, kept): (Arc<dyn Issuer>, Kept) = match &config.ca {
            Ca::Server(address) => {
                let member = Member {
                    address: address.clone(),
                    trust_domain: config.trust_domain.clone(),
                    node: name,
                };
                let directory = config.state.join("node");
                let token = config.join_token.as_deref();
                let remote = Remote::open(member, &directory, token, trust.clone()).await?;
                let watch = remote.watch();
                (Arc::new(remote), Kept::Server(watch))
            }
            Ca::Own => embedded(own_authority(config)?, &node, &trust)?,
            Ca::Files(directory) => embedded(Authority::open(directory, None)?, &node, &trust)?,
        };
        let keeper = Arc::new(Keeper::start(issuer, trust.clone(), node));
        Ok(Self { trust, keeper, _kept: kept })
    }

    /// The identities of the workloads that run here.
    pub(in crate::node) fn want(&self, ids: BTreeSet<SpiffeId>) {
        self.keeper.want(ids);
    }

    /// How each certificate is.
    pub(in crate::node) fn status(&self) -> Vec<CertificateStatus> {
        self.keeper.status()
    }
}

fn embedded(
    authority: Authority,
    node: &SpiffeId,
    trust: &Trust,
) -> Result<(Arc<dyn Issuer>, Kept), pki::PublicationError> {
    let authority = Arc::new(authority);
    let custodian = Custodian::start(Arc::clone(&authority), trust.clone())?;
    Ok((Arc::new(Embedded::new(authority, node.clone())), Kept::Own(custodian)))
}

fn own_authority(config: &Config) -> Result<Authority, pki::AuthorityError> {
    let directory = config.state.join("ca");
    match Authority::open(&directory, None) {
        Err(pki::AuthorityError::Missing { .. }) => {
            tracing::info!(directory = %directory.display(), "a certificate authority of this node's own");
            let setup = Setup {
                trust_domain: config.trust_domain.clone(),
                root_key: None,
                lifetimes: Lifetimes { leaf: config.leaf_lifetime, ..Lifetimes::default() },
            };
            Authority::create(&directory, &setup, SystemTime::now())
        }
        opened => opened,
    }
}
