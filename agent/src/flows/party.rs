//! One end of a connection, as people name it in filters.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;
use waxseal_common::address::Address;

use super::End;
use super::values::as_text;
use crate::cidr::{Cidr, CidrError};
use crate::escape::escape;

as_text!(Party);

/// One end, as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// `256`: the number on this node.
    Number(u32),
    /// `10.0.0.2` or `10.0.0.0/8`.
    Address(Cidr),
    /// `spiffe://cluster.local/ns/shop/*`.
    SpiffeId {
        /// What it begins with, or all of it.
        text: String,
        /// Whether a star followed.
        prefix: bool,
    },
    /// `shop/checkout`, or a reserved word such as `world`.
    FullName(String),
    /// `checkout`, in any namespace.
    Name(String),
}

/// Not a way to name an end.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PartyError {
    /// Nothing, or something with spaces.
    #[error("`{}` names nobody; use name, namespace/name, a SPIFFE ID (a final * is a prefix), a number or an address", escape(.0))]
    Nobody(String),
    /// Looks like an address range.
    #[error(transparent)]
    Cidr(#[from] CidrError),
}

impl Party {
    pub(super) fn matches(&self, end: &End) -> bool {
        let identity = &*end.identity;
        match self {
            Self::Number(number) => identity.id == *number,
            Self::Address(range) => range.contains(Address::from(end.address)),
            Self::SpiffeId { text, prefix: true } => {
                identity.spiffe_id.as_ref().is_some_and(|id| id.starts_with(text))
            }
            Self::SpiffeId { text, prefix: false } => identity.spiffe_id.as_ref() == Some(text),
            Self::FullName(name) => identity.name == *name,
            Self::Name(name) => {
                identity.name == *name
                    || identity.name.split_once('/').is_some_and(|(_namespace, own)| own == name)
            }
        }
    }
}

impl FromStr for Party {
    type Err = PartyError;

    fn from_str(text: &str) -> Result<Self, PartyError> {
        if text.starts_with("spiffe://") {
            let (id, prefix) = text.strip_suffix('*').map_or((text, false), |id| (id, true));
            return Ok(Self::SpiffeId { text: id.to_owned(), prefix });
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Number).map_err(|_source| PartyError::Nobody(text.to_owned()));
        }
        if text.split('/').next().is_some_and(|start| start.parse::<IpAddr>().is_ok()) {
            return Ok(Self::Address(text.parse()?));
        }
        let plain =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        match text.split_once('/') {
            Some((namespace, name)) if plain(namespace) && plain(name) => Ok(Self::FullName(text.to_owned())),
            None if plain(text) => Ok(Self::Name(text.to_owned())),
            _ => Err(PartyError::Nobody(text.to_owned())),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Address(range) => range.fmt(f),
            Self::SpiffeId { text, prefix } => write!(f, "{text}{}", if *prefix { "*" } else { "" }),
            Self::FullName(name) | Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_an_end_is_understood_and_written_back() {
        for text in [
            "256",
            "0",
            "10.0.0.0/8",
            "2001:db8::/32",
            "spiffe://cluster.local/*",
            "spiffe://cluster.local/ns/a/sa/b",
            "shop/checkout",
            "checkout",
            "world",
        ] {
            assert_eq!(text.parse::<Party>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.2".parse::<Party>().unwrap().to_string(), "10.0.0.2/32");
    }

    #[test]
    fn what_can_name_nobody_is_refused() {
        for text in ["", "a b", "a/b/c", "/a", "a/", "99999999999", "10.0.0.1/8", "x\x1b"] {
            assert!(text.parse::<Party>().is_err(), "{text}");
        }
    }
}
