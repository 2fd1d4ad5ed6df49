//! Which nodes may ask, for which names, and how a node that nobody knows yet gets in: once, with a token.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::issue::{Chain, sign_node};
use super::state::{State, TokenState};
use super::{Authority, Error};
use crate::pki::pem::certificates;
use crate::pki::profile::{bytes, hex, seconds};
use crate::pki::{is_node_name, is_reserved};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::workload::{Glob, GlobError};

/// Patterns of one node.
pub const MAX_PATTERNS: usize = 256;
const MAX_NODES: usize = 10_000;
const MAX_TOKENS: usize = 1_000;
/// How long after its certificate has ended a node may still renew it with its key, in seconds.
const STALE: u64 = 30 * 86_400;

/// Why a text is no pattern for SPIFFE IDs.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// Another trust domain's.
    #[error("it is of another trust domain")]
    OtherTrustDomain,
    /// Neither a SPIFFE ID nor a path.
    #[error("write a path as in /ns/shop/sa/*, or a SPIFFE ID with such a path")]
    Form,
    /// A path below `/waxseal/`.
    #[error("IDs below /waxseal/ are nodes' and the CA's own")]
    Reserved,
    /// Not a pattern.
    #[error(transparent)]
    Glob(#[from] GlobError),
}

/// Why a token lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not the text of a token.
    #[error("this is no token; it is one line that begins with waxseal-join-1.")]
    Malformed,
    /// Unknown, used before, or its secret is wrong: nobody is told which.
    #[error("the token is unknown or was used; `waxseal ca token` makes a new one")]
    Unknown,
    /// Too late.
    #[error("the token has expired; `waxseal ca token` makes a new one")]
    Expired,
    /// For a node of another name.
    #[error("the token is for a node of another name")]
    OtherNode,
}

/// What lets a node join once: it proves the node to the authority, and the authority's root to the node. Debug and Display
/// show no secret; [`Token::text`] does.
#[derive(Clone)]
pub struct Token {
    id: [u8; 8],
    secret: Zeroizing<[u8; 32]>,
    root: [u8; 32],
}

const HEAD: &str = "waxseal-join-1";

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Token {
    /// Which one it is; no secret.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// SHA-256 of the root that has signed the authority.
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// The secret, in hex.
    pub fn secret(&self) -> Zeroizing<String> {
        Zeroizing::new(hex(&*self.secret))
    }

    /// The whole token on one line, to be kept secret until it is used.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{HEAD}.{}.{}.{}", self.id(), *self.secret(), hex(&self.root)))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [HEAD, id, secret, root] = parts.as_slice() else { return Err(TokenError::Malformed) };
        let secret = Zeroizing::new(bytes(secret));
        Ok(Self {
            id: exactly(&bytes(id))?,
            secret: Zeroizing::new(exactly(&secret)?),
            root: exactly(&bytes(root))?,
        })
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], TokenError> {
    bytes.try_into().map_err(|_unreadable| TokenError::Malformed)
}

impl Authority {
    /// Registers a node, with these patterns beside those it has, and makes a token for it.
    pub fn token(
        &self,
        node: &str,
        allow: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<Token, Error> {
        self.session(|session| {
            let mut secret = Zeroizing::new([0; 32]);
            let mut id = [0; 8];
            rand::rng().fill_bytes(&mut *secret);
            rand::rng().fill_bytes(&mut id);
            let token = Token { id, secret, root: root_hash(&session.state)? };
            let state = session.publish();
            register(state, node, allow)?;
            state.tokens.retain(|one| seconds(now) < one.not_after);
            if state.tokens.len() >= MAX_TOKENS {
                return Err(Error::Full { what: "tokens", limit: MAX_TOKENS });
            }
            state.tokens.push(TokenState {
                id: token.id(),
                hash: hash_of(&token.secret()),
                node: node.to_owned(),
                not_after: seconds(now + life),
            });
            Ok(token)
        })
    }

    /// Lets a registered node have more names, or fewer.
    pub fn allow(&self, node: &str, allow: &[String], remove: &[String]) -> Result<Vec<String>, Error> {
        self.session(|session| {
            if !session.state.nodes.contains_key(node) {
                return Err(Error::UnknownNode);
            }
            let state = session.publish();
            register(state, node, allow)?;
            let known = state.nodes.entry(node.to_owned()).or_default();
            known.allow.retain(|pattern| !remove.contains(pattern));
            Ok(known.allow.clone())
        })
    }

    /// Lets an ID be issued again that was revoked. Says whether it was.
    pub fn lift(&self, id: &SpiffeId) -> Result<bool, Error> {
        self.session(|session| Ok(session.publish().banned.remove(id).is_some()))
    }

    /// Takes a token and gives the node its first identity. The token is spent on the disk before the certificate leaves.
    pub(in crate::pki) fn join(
        &self,
        node: &str,
        (id, secret): (&str, &str),
        request: &[u8],
        now: SystemTime,
    ) -> Result<Chain, Error> {
        self.session(|session| {
            let hash = hash_of(secret);
            // Hashes are compared: how long that takes tells nothing about the secret.
            let found = session.state.tokens.iter().position(|token| token.id == id && token.hash == hash);
            let found = found.ok_or(TokenError::Unknown)?;
            let token = session.state.tokens.get(found).ok_or(TokenError::Unknown)?;
            if token.not_after <= seconds(now) {
                return Err(TokenError::Expired.into());
            }
            if token.node != node {
                return Err(TokenError::OtherNode.into());
            }
            session.change().tokens.remove(found);
            let chain = sign_node(session, node, request, now)?;
            let known = session.change().nodes.entry(node.to_owned()).or_default();
            (known.joined, known.revoked) = (Some(seconds(now)), None);
            Ok(chain)
        })
    }

    /// Whether this key is one that the node has proved to be its own, lately enough that it may renew with it although
    /// its certificate has ended meanwhile.
    pub(in crate::pki) fn knows_key(
        &self,
        node: &str,
        key: &str,
        ended: SystemTime,
        now: SystemTime,
    ) -> bool {
        let state = self.snapshot();
        let recent = seconds(now) < seconds(ended) + STALE;
        let known =
            |node: &super::state::Node| node.revoked.is_none() && node.keys.iter().any(|one| one == key);
        recent && state.nodes.get(node).is_some_and(known)
    }

    /// Whether the node is registered and not revoked.
    pub(in crate::pki) fn knows_node(&self, node: &str) -> bool {
        self.snapshot().nodes.get(node).is_some_and(|node| node.revoked.is_none() && node.joined.is_some())
    }
}

/// Adds patterns to a node, and the node when it is new.
fn register(state: &mut State, node: &str, allow: &[String]) -> Result<(), Error> {
    if !is_node_name(node) {
        return Err(Error::NodeName);
    }
    for pattern in allow {
        parse(pattern, &state.trust_domain)
            .map_err(|source| Error::Pattern { pattern: pattern.clone(), source })?;
    }
    if state.nodes.len() >= MAX_NODES && !state.nodes.contains_key(node) {
        return Err(Error::Full { what: "nodes", limit: MAX_NODES });
    }
    let known = state.nodes.entry(node.to_owned()).or_default();
    let new: Vec<String> = allow.iter().filter(|one| !known.allow.contains(one)).cloned().collect();
    if known.allow.len() + new.len() > MAX_PATTERNS {
        return Err(Error::Full { what: "patterns of this node", limit: MAX_PATTERNS });
    }
    known.allow.extend(new);
    Ok(())
}

/// A pattern is a path of which segments may hold stars, or a SPIFFE ID of this trust domain with such a path.
fn parse(pattern: &str, domain: &TrustDomain) -> Result<Glob, PatternError> {
    let path = path(pattern);
    let named = pattern.strip_prefix("spiffe://").map(|rest| rest.strip_suffix(path).unwrap_or_default());
    if named.is_some_and(|named| named.parse() != Ok(domain.clone())) {
        return Err(PatternError::OtherTrustDomain);
    }
    if !path.starts_with('/') {
        return Err(PatternError::Form);
    }
    if path == "/waxseal" || path.starts_with("/waxseal/") {
        return Err(PatternError::Reserved);
    }
    Ok(path.parse()?)
}

fn path(pattern: &str) -> &str {
    match pattern.strip_prefix("spiffe://") {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
        None => pattern,
    }
}

/// Whether one of the patterns is for this ID. Whoever calls has compared the trust domain.
pub(super) fn allows(patterns: &[String], id: &SpiffeId) -> bool {
    let matches = |pattern: &String| path(pattern).parse::<Glob>().is_ok_and(|glob| glob.matches(id.path()));
    !is_reserved(id) && patterns.iter().any(matches)
}

fn hash_of(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn root_hash(state: &State) -> Result<[u8; 32], Error> {
    let root = state.roots.first().ok_or(Error::NoSigner)?;
    let root = certificates(root.certificate.as_bytes())?;
    Ok(Sha256::digest(root.first().ok_or(Error::NoSigner)?).into())
}

/// The same for a public key that was read from a certificate.
pub(in crate::pki) fn key_hash(key: &[u8]) -> String {
    hex(&Sha256::digest(key))
}
