//! The first contact: the token's secret proves the node, its hash of the root proves the CA.

use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::channel::Channel;
use super::store::{Identity, Store};
use super::{Error, Member, PATIENCE, prepare};
use crate::pki::authority::{Token, TokenError};
use crate::pki::bundle::{Bundles, DomainBundle};
use crate::pki::certificate;
use crate::pki::files::read_private;
use crate::pki::names::{ca_id, node_id};
use crate::pki::refusal::{Position, Refusal};
use crate::pki::tls::{Judge, Verifier, client_with};
use crate::pki::verify::{Role, verify};
use crate::pki::wire::{ALPN, Answer, Request, Told};
use crate::pki::{MAX_CHAIN, Publication};
use crate::spiffe::SpiffeId;

/// A token is one short line.
const MAX_TOKEN: u64 = 1024;

/// Believes in one root, by its hash. Nothing else is known yet, revocation lists least of all.
struct ByHash {
    root: [u8; 32],
    ca: SpiffeId,
}

impl Judge for ByHash {
    fn judge(&self, chain: &[CertificateDer<'_>], role: Role, now: SystemTime) -> Result<(), Refusal> {
        let is_root = |one: &&CertificateDer<'_>| <[u8; 32]>::from(Sha256::digest(one)) == self.root;
        let root = chain.iter().take(MAX_CHAIN).find(is_root).ok_or(Refusal::UnknownIssuer)?;
        let domain = self.ca.trust_domain();
        let bundle = DomainBundle::new(domain, std::slice::from_ref(root), &[]);
        let bundle =
            bundle.map_err(|_unreadable| Refusal::Malformed(Position(chain.len().saturating_sub(1))))?;
        let peer = verify(&Bundles::new(0, [(domain.clone(), bundle)]), chain, role, now)?;
        if *peer.id() == self.ca { Ok(()) } else { Err(Refusal::UnknownIssuer) }
    }
}

pub(super) fn read_token(path: &Path) -> Result<Token, Error> {
    let text = read_private(path, MAX_TOKEN)?;
    let token = std::str::from_utf8(&text).map_err(|_unreadable| TokenError::Malformed).and_then(str::parse);
    token.map_err(|source| Error::Token { path: path.to_owned(), source })
}

/// Joins; identity and beliefs are on the disk on return.
pub(super) async fn join(member: &Member, store: &Store, token: &Token) -> Result<Identity, Error> {
    let own = node_id(&member.trust_domain, &member.node).map_err(|_unreadable| Error::NotJoined)?;
    let ca = ca_id(&member.trust_domain).map_err(|_unreadable| Error::NotJoined)?;
    let verifier = Verifier::new(ByHash { root: *token.root(), ca }, true);
    let mut channel = Channel::connect(&member.address, client_with(verifier, None, ALPN)).await?;
    let (key, request) = prepare(&own)?;
    let secret = token.secret();
    let asked = Request::Join {
        node: member.node.clone(),
        token: token.id(),
        secret: String::clone(&secret),
        request,
    };
    let answer = channel.ask(&asked, PATIENCE).await?;
    wipe(asked);
    let Answer::Chain { chain } = answer else { return Err(Error::Strange) };
    let Told::Publication(published) = channel.told(PATIENCE).await? else { return Err(Error::Strange) };
    check(member, token, &published)?;
    let identity = Identity::new(token.id(), &chain, key)?;
    verify(&published.bundles()?, &identity.svid.chain(), Role::Client, SystemTime::now())
        .map_err(|refusal| Error::Unusable(refusal.into()))?;
    store.publish(&published)?;
    store.save(&identity)?;
    tracing::info!(node = member.node, address = member.address, "joined the CA");
    Ok(identity)
}

fn wipe(request: Request) {
    if let Request::Join { mut secret, .. } = request {
        zeroize::Zeroize::zeroize(&mut secret);
    }
}

/// What is believed from now on contains the root that the token named.
fn check(member: &Member, token: &Token, published: &Publication) -> Result<(), Error> {
    if published.trust_domain != member.trust_domain {
        let (is, wanted) = (published.trust_domain.clone(), member.trust_domain.clone());
        return Err(Error::OtherTrustDomain { is, wanted });
    }
    for root in &published.roots {
        let der = crate::pki::pem::certificate(root)?;
        certificate::parse(&der, Position(0)).map_err(|refusal| Error::Unusable(refusal.into()))?;
        if <[u8; 32]>::from(Sha256::digest(&der)) == *token.root() {
            return Ok(());
        }
    }
    Err(Error::Strange)
}
