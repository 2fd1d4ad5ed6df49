//! An address range as people write it: `10.0.0.0/8`, `2001:db8::/32`, or one bare address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use waxseal_common::address::Address;

/// All addresses that share the first [`Cidr::length`] bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The first address; the bits past the length are zero.
    address: Address,
    /// How many bits count, in the sixteen-byte form: 0 to 128, and 96 more than written for IPv4.
    length: u8,
}

/// Why a text is no address range.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CidrError {
    /// The part before the slash, fit to be printed.
    #[error("`{0}` is no IP address")]
    Address(String),
    /// The part after the slash.
    #[error("`/{length}` is no prefix length; {address} takes 0 to {limit}")]
    Length {
        /// The address as parsed.
        address: IpAddr,
        /// The length as written, fit to be printed.
        length: String,
        /// 32 or 128.
        limit: u8,
    },
    /// `10.1.2.3/8`: either the address or the length is a slip.
    #[error("{address}/{length} has bits set past its length; the range is {base}/{length}")]
    HostBits {
        /// The address as written.
        address: IpAddr,
        /// The length as written.
        length: u8,
        /// The first address of that range.
        base: IpAddr,
    },
}

impl Cidr {
    /// The range of the first `length` bits of `address`; more than 128 counts as 128. Bits past the length are dropped.
    #[must_use]
    pub fn new(address: Address, length: u8) -> Self {
        let length = length.min(128);
        let bits = u128::from_be_bytes(address.0) & mask(length);
        Self { address: Address(bits.to_be_bytes()), length }
    }

    /// The first address of the range.
    pub const fn address(self) -> Address {
        self.address
    }

    /// How many bits count, in the sixteen-byte form (0 to 128).
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether the range holds this address. `::/0` holds every IPv4 address too, as the mapped form has it.
    pub fn contains(self, address: Address) -> bool {
        Self::new(address, self.length).address == self.address
    }

    /// Whether every address of `other` is in this range.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

const fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length) }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_source| CidrError::Address(shown(address)))?;
        let (limit, above) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
        let written = match length {
            None => limit,
            Some(length) => parse_length(length, limit).ok_or_else(|| CidrError::Length {
                address: ip,
                length: shown(length),
                limit,
            })?,
        };
        let range = Self::new(Address::from(ip), written + above);
        if range.address != Address::from(ip) {
            return Err(CidrError::HostBits { address: ip, length: written, base: range.address.into() });
        }
        Ok(range)
    }
}

/// Foreign text made safe to print: cut, and what is no plain character written out.
fn shown(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() || c == ' ';
    text.chars()
        .take(64)
        .map(|c| if plain(c) { c.to_string() } else { c.escape_unicode().to_string() })
        .collect()
}

/// Digits only: `u8::from_str` alone would take `+8`.
fn parse_length(text: &str, limit: u8) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|length| digits && *length <= limit)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = if self.address.is_v4() && self.length >= 96 { self.length - 96 } else { self.length };
        write!(f, "{}/{length}", self.address)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_and_written_the_same_way() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "2001:db8::/32", "::/0", "::1/128"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3".parse::<Cidr>().unwrap().to_string(), "10.1.2.3/32");
    }

    #[test]
    fn a_slip_is_refused_and_named() {
        for (text, message) in [
            ("10.1.2.3/8", "10.1.2.3/8 has bits set past its length; the range is 10.0.0.0/8"),
            ("10.0.0.0/33", "`/33` is no prefix length; 10.0.0.0 takes 0 to 32"),
            ("10.0.0.0/+8", "`/+8` is no prefix length; 10.0.0.0 takes 0 to 32"),
            ("10.0.0.0/", "`/` is no prefix length; 10.0.0.0 takes 0 to 32"),
            ("10.0.0/8", "`10.0.0` is no IP address"),
            ("", "`` is no IP address"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn a_range_holds_its_first_and_last_address_and_no_other() {
        for (range, address, inside) in [
            ("10.0.0.0/8", "10.0.0.0", true),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("fc00::/7", "fdff::1", true),
            ("fc00::/7", "fe00::1", false),
        ] {
            let (range, ip): (Cidr, IpAddr) = (range.parse().unwrap(), address.parse().unwrap());
            assert_eq!(range.contains(ip.into()), inside, "{address} in {range}");
        }
    }

    #[test]
    fn a_wider_range_covers_a_narrower_one() {
        let [wide, narrow]: [Cidr; 2] = ["10.0.0.0/8", "10.1.0.0/16"].map(|text| text.parse().unwrap());
        assert!(wide.covers(narrow) && !narrow.covers(wide) && wide.covers(wide));
    }
}
