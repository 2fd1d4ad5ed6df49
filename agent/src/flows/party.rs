//! One end of a connection, as people name it in filters.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;
use waxseal_common::address::Address;

use super::values::as_text;
use super::{End, Pattern};
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
    SpiffeId(Pattern),
    /// `app=checkout,tier!=test`: all of these labels.
    Labels(Vec<Label>),
    /// `shop/checkout`, or a reserved word such as `world`.
    FullName(String),
    /// `checkout`, in any namespace.
    Name(String),
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// As typed, which is also how it goes to the agent.
    key: String,
    /// As typed.
    value: String,
    /// Both as a flow shows them: escaped.
    shown: (String, String),
    /// Whether the label must have the value, or must not.
    equal: bool,
}

/// Not a way to name an end.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PartyError {
    /// Nothing, or something with spaces.
    #[error("`{}` names nobody; use name, namespace/name, a SPIFFE ID (* stands for anything), a label as key=value, a number or an address", escape(.0))]
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
            Self::SpiffeId(pattern) => identity.spiffe_id.as_ref().is_some_and(|id| pattern.fits(id)),
            Self::Labels(labels) => {
                identity.spiffe_id.is_some()
                    && labels.iter().all(|label| {
                        (identity.labels.get(&label.shown.0) == Some(&label.shown.1)) == label.equal
                    })
            }
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
        let text = text.trim();
        let nobody = || PartyError::Nobody(text.to_owned());
        if text.starts_with("spiffe://") {
            return text.parse().map(Self::SpiffeId).map_err(|_source| nobody());
        }
        if text.contains('=') {
            return text.split(',').map(label).collect::<Option<_>>().map(Self::Labels).ok_or_else(nobody);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Number).map_err(|_source| nobody());
        }
        if text.split('/').next().is_some_and(|start| start.parse::<IpAddr>().is_ok()) {
            return Ok(Self::Address(text.parse()?));
        }
        let plain =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        match text.split_once('/') {
            Some((namespace, name)) if plain(namespace) && plain(name) => Ok(Self::FullName(text.to_owned())),
            None if plain(text) => Ok(Self::Name(text.to_owned())),
            _ => Err(nobody()),
        }
    }
}

/// `key=value` or `key!=value`. A flow shows labels escaped, and is compared as it is shown.
fn label(text: &str) -> Option<Label> {
    let (key, value) = text.split_once('=')?;
    let (key, equal) = key.strip_suffix('!').map_or((key, true), |key| (key, false));
    // Kubernetes writes `==` too.
    let value = value.strip_prefix('=').unwrap_or(value);
    let (key, value) = (key.trim(), value.trim());
    let plain = !key.is_empty() && !value.contains(['=', ' ']) && !key.contains([' ', '!']);
    plain.then(|| Label {
        key: key.to_owned(),
        value: value.to_owned(),
        shown: (escape(key).into_owned(), escape(value).into_owned()),
        equal,
    })
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}={}", self.key, if self.equal { "" } else { "!" }, self.value)
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Address(range) => range.fmt(f),
            Self::SpiffeId(pattern) => pattern.fmt(f),
            Self::Labels(labels) => {
                let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
                f.write_str(&labels.join(","))
            }
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
            "spiffe://*/sa/b",
            "app=checkout",
            "app=checkout,tier!=test",
            r"path=a\b",
            "checkout",
            "world",
        ] {
            assert_eq!(text.parse::<Party>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.2".parse::<Party>().unwrap().to_string(), "10.0.0.2/32");
    }

    #[test]
    fn what_can_name_nobody_is_refused() {
        for text in
            ["", "a b", "=x", "a=b=c,", "a=b,c", "a/b/c", "/a", "a/", "99999999999", "10.0.0.1/8", "x\x1b"]
        {
            assert!(text.parse::<Party>().is_err(), "{text}");
        }
    }
}
