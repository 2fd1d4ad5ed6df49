//! The destination of a pair handshake, as the name that the initiator asks for in TLS: `t-8080-0a000002.pair.waxseal`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::pki_types::{DnsName, ServerName};
use waxseal_common::address::Address;
use waxseal_common::ids::protocol;

const SUFFIX: &str = ".pair.waxseal";
/// The name that is asked for on a link.
const LINK: &str = "link.waxseal";

/// A listener's place on another node, or on this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Its address.
    pub address: Address,
    /// Its port, host order; never 0.
    pub port: u16,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
}

impl Target {
    /// The name to ask for; `None` for what is neither TCP nor UDP, or port 0.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        if self.port == 0 {
            return None;
        }
        let letter = match self.protocol {
            protocol::TCP => 't',
            protocol::UDP => 'u',
            _ => return None,
        };
        let digits = match IpAddr::from(self.address) {
            IpAddr::V4(v4) => format!("{:08x}", v4.to_bits()),
            IpAddr::V6(v6) => format!("{:032x}", v6.to_bits()),
        };
        dns_name(format!("{letter}-{}-{digits}{SUFFIX}", self.port))
    }

    /// Reads the name that was asked for. Each target has exactly one.
    pub(super) fn from_server_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let (letter, port, digits) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let protocol = match letter {
            "t" => protocol::TCP,
            "u" => protocol::UDP,
            _ => return None,
        };
        let address = match digits.len() {
            8 => IpAddr::V4(Ipv4Addr::from_bits(u32::from_str_radix(digits, 16).ok()?)),
            32 => IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?)),
            _ => return None,
        };
        let target = Self { address: address.into(), port: port.parse().ok()?, protocol };
        // Signs, leading zeros, capitals and mapped addresses would be second names.
        let same = matches!(target.server_name()?, ServerName::DnsName(own) if own.as_ref() == name);
        same.then_some(target)
    }
}

/// Whether a name is one that is asked for in TLS to mean a listener.
pub fn is_target(name: &str) -> bool {
    Target::from_server_name(name).is_some()
}

/// The name that is asked for on a link; it says nothing.
pub(super) fn link_name() -> Option<ServerName<'static>> {
    dns_name(LINK.to_owned())
}

fn dns_name(name: String) -> Option<ServerName<'static>> {
    DnsName::try_from(name).ok().map(ServerName::DnsName)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_survives_the_round_trip() {
        for (protocol, address, port, name) in [
            (protocol::TCP, "10.0.0.2", 8080, "t-8080-0a000002.pair.waxseal"),
            (protocol::UDP, "10.0.0.2", 53, "u-53-0a000002.pair.waxseal"),
            (protocol::TCP, "fd00::1", 65535, "t-65535-fd000000000000000000000000000001.pair.waxseal"),
        ] {
            let address = address.parse::<IpAddr>().unwrap().into();
            let target = Target { address, port, protocol };
            assert_eq!(target.server_name().unwrap().to_str(), name);
            assert_eq!(Target::from_server_name(name), Some(target), "{name}");
        }
    }

    #[test]
    fn every_other_name_is_refused() {
        for name in [
            "",
            "link.waxseal",
            "t-8080-0a000002",
            "t-8080-0a000002.pair.waxseal.",
            "x-8080-0a000002.pair.waxseal",
            "t-08080-0a000002.pair.waxseal",
            "t-+80-0a000002.pair.waxseal",
            "t-0-0a000002.pair.waxseal",
            "t-65536-0a000002.pair.waxseal",
            "t-8080-0A000002.pair.waxseal",
            "t-8080-+a000002.pair.waxseal",
            "t-8080-0a00002.pair.waxseal",
            "t-8080-00000000000000000000ffff0a000002.pair.waxseal",
            "t-8080-0a000002-1.pair.waxseal",
        ] {
            assert_eq!(Target::from_server_name(name), None, "{name}");
        }
    }

    #[test]
    fn what_has_no_listener_has_no_name() {
        let address = Address::from_v4([10, 0, 0, 2]);
        assert_eq!(Target { address, port: 0, protocol: protocol::TCP }.server_name(), None);
        assert_eq!(Target { address, port: 1, protocol: 1 }.server_name(), None);
    }
}
