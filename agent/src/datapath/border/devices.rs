//! Which devices lead to other nodes: found from the routes of this process's own network namespace, or named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrLike as _;

/// Ethernet (ARPHRD_ETHER); every frame begins with fourteen bytes of link header.
const ETHERNET: u16 = 1;
/// Kinds without a link header: ARPHRD_NONE (tun, WireGuard), ARPHRD_TUNNEL, ARPHRD_TUNNEL6, ARPHRD_SIT, ARPHRD_IPGRE,
/// ARPHRD_PPP, ARPHRD_RAWIP.
const BARE: [u16; 7] = [0xfffe, 768, 769, 776, 778, 512, 519];

/// How far a device leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// To other nodes and perhaps to containers of this one.
    Inner,
    /// To other nodes.
    Uplink,
}

/// A device of this namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Its number.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// Whether frames begin with an Ethernet header; `None` for kinds that are not known here.
    pub(super) ethernet: Option<bool>,
}

/// Every device but loopback.
pub(super) fn all() -> io::Result<Vec<Device>> {
    let mut found = BTreeMap::new();
    for entry in getifaddrs()? {
        let Some(link) = entry.address.as_ref().and_then(|address| address.as_link_addr()) else { continue };
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) || link.len() == 0 {
            continue;
        }
        let ethernet = match link.hatype() {
            ETHERNET => Some(true),
            kind if BARE.contains(&kind) => Some(false),
            _ => None,
        };
        let index = link.ifindex() as u32;
        found.insert(index, Device { index, name: entry.interface_name, ethernet });
    }
    Ok(found.into_values().collect())
}

/// How far each device leads that has routes. A device that hands packets to a gateway leads to other nodes; one with a
/// subnet of its own may. Routes to single hosts say nothing: containers are reached by them.
pub(super) fn reaches(named: &BTreeSet<String>) -> io::Result<BTreeMap<String, Reach>> {
    let mut reaches = BTreeMap::new();
    let v4 = fs::read_to_string("/proc/thread-self/net/route")?;
    // A kernel without IPv6 has no such file.
    let v6 = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    let routes = v4.lines().skip(1).filter_map(route4).chain(v6.lines().filter_map(route6));
    for (name, reach) in routes.filter(|(name, _)| *name != "lo") {
        let known = reaches.entry(name.to_owned()).or_insert(reach);
        *known = (*known).max(reach);
    }
    reaches.extend(named.iter().map(|name| (name.clone(), Reach::Uplink)));
    Ok(reaches)
}

/// A line of /proc/net/route (see proc_pid_net(5)): hexadecimal, in the machine's byte order.
fn route4(line: &str) -> Option<(&str, Reach)> {
    let mut fields = line.split_whitespace();
    let name = fields.next()?;
    let mut number = |skip| u32::from_str_radix(fields.nth(skip)?, 16).ok();
    let (destination, gateway, flags, mask) = (number(0)?, number(0)?, number(0)?, number(3)?);
    reach(flags, gateway != 0 || destination | mask == 0, mask == u32::MAX).map(|reach| (name, reach))
}

/// A line of /proc/net/ipv6_route.
fn route6(line: &str) -> Option<(&str, Reach)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, length, _, _, gateway, _, _, _, flags, name] = fields.as_slice() else { return None };
    let (length, flags) = (u32::from_str_radix(length, 16).ok()?, u32::from_str_radix(flags, 16).ok()?);
    // Link-local and multicast routes are on every device.
    if destination.starts_with("fe8") || destination.starts_with("ff") {
        return None;
    }
    let onward = gateway.bytes().any(|digit| digit != b'0') || length == 0;
    reach(flags, onward, length == 128).map(|reach| (*name, reach))
}

fn reach(flags: u32, onward: bool, one_host: bool) -> Option<Reach> {
    const UP: u32 = 1;
    /// RTF_REJECT: blackhole and unreachable routes.
    const REJECT: u32 = 0x200;
    match (flags & UP != 0 && flags & REJECT == 0, onward, one_host) {
        (true, true, _) => Some(Reach::Uplink),
        (true, false, false) => Some(Reach::Inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_makes_an_uplink_and_a_subnet_an_inner_device() {
        for (line, expected) in [
            ("eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0", Some(("eth0", Reach::Uplink))),
            ("eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0", Some(("eth0", Reach::Inner))),
            ("cali1 0500000A 00000000 0005 0 0 0 FFFFFFFF 0 0 0", None),
            ("wg0 0000000A 00000000 0001 0 0 0 000000FF 0 0 0", Some(("wg0", Reach::Inner))),
            ("ppp0 00000000 00000000 0001 0 0 0 00000000 0 0 0", Some(("ppp0", Reach::Uplink))),
            ("nonsense", None),
        ] {
            assert_eq!(route4(line), expected, "{line}");
        }
        let zero = "00000000000000000000000000000000";
        for (line, expected) in [
            (
                format!("{zero} 00 {zero} 00 fd000000000000000000000000000001 00000400 3 0 00000003 eth0"),
                Some(("eth0", Reach::Uplink)),
            ),
            (
                format!("fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 1 0 00000001 eth0"),
                Some(("eth0", Reach::Inner)),
            ),
            (
                format!("fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 2 0 00000001 eth0"),
                None,
            ),
            (
                format!("fd000000000000000000000000000009 80 {zero} 00 {zero} 00000100 2 0 00000001 eth0"),
                None,
            ),
            (format!("{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo"), None),
        ] {
            assert_eq!(route6(&line), expected, "{line}");
        }
    }
}
