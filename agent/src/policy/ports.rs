//! Ports: as written in a rule, and flattened into the ranges of one [`PortSet`].

use std::fmt;

use thiserror::Error;
use waxseal_common::ids::{RuleId, protocol};
use waxseal_common::tables::{Outcome, PortRange, PortSet, RANGES_PER_SET};

use super::set::Action;
use crate::escape::escape;

/// The ports `low..=high` of one protocol. A whole protocol is `0..=65535`, which also covers protocols without ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// IP protocol number.
    pub protocol: u8,
    /// The first port.
    pub low: u16,
    /// The last port.
    pub high: u16,
}

/// Why a text names no ports.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PortsError {
    /// `8080`.
    #[error("`{text}` does not say which protocol: write `{text}/tcp` or `{text}/udp`", text = escape(.0))]
    NoProtocol(String),
    /// `8080/sctp`.
    #[error("ports belong to tcp or udp; write `proto/132` or the like for all of another protocol")]
    Protocol,
    /// `foo`.
    #[error("ports are written `8080/tcp`, `9000-9100/tcp`, `53/udp`, `tcp`, `udp`, `icmp` or `proto/47`")]
    Form,
    /// `0/tcp`, `65536/tcp`, `08/tcp`.
    #[error("`{}` is no port; ports are 1 to 65535, in decimal digits without leading zeros", escape(.0))]
    Number(String),
    /// `9100-9000/tcp`.
    #[error("the range {low}-{high} ends before it begins")]
    Backwards {
        /// As written.
        low: u16,
        /// As written.
        high: u16,
    },
    /// `proto/256`.
    #[error("`{}` is no IP protocol number; they are 0 to 255", escape(.0))]
    ProtocolNumber(String),
}

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;

impl Ports {
    /// Everything of one protocol.
    pub const fn whole(protocol: u8) -> Self {
        Self { protocol, low: 0, high: u16::MAX }
    }

    /// Reads one entry of a `ports` list. One entry can mean two protocols: `icmp` is ICMP and ICMPv6.
    pub fn parse(text: &str) -> Result<Vec<Self>, PortsError> {
        if let Some(number) = text.strip_prefix("proto/") {
            let number = decimal(number).and_then(|number| u8::try_from(number).ok());
            return match number {
                Some(protocol) => Ok(vec![Self::whole(protocol)]),
                None => Err(PortsError::ProtocolNumber(text["proto/".len()..].to_owned())),
            };
        }
        match text {
            "tcp" => return Ok(vec![Self::whole(protocol::TCP)]),
            "udp" => return Ok(vec![Self::whole(protocol::UDP)]),
            "icmp" => return Ok(vec![Self::whole(ICMP), Self::whole(ICMP_V6)]),
            _ => {}
        }
        let Some((ports, protocol)) = text.split_once('/') else {
            let looks_like_ports = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
            return Err(if looks_like_ports {
                PortsError::NoProtocol(text.to_owned())
            } else {
                PortsError::Form
            });
        };
        let protocol = match protocol {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            _ => return Err(PortsError::Protocol),
        };
        let (low, high) = match ports.split_once('-') {
            Some((low, high)) => (port(low)?, port(high)?),
            None => (port(ports)?, port(ports)?),
        };
        if low > high {
            return Err(PortsError::Backwards { low, high });
        }
        Ok(vec![Self { protocol, low, high }])
    }

    /// One port of TCP.
    pub const fn tcp(port: u16) -> Self {
        Self { protocol: protocol::TCP, low: port, high: port }
    }

    /// Whether a connection to this port is meant.
    pub const fn contains(self, protocol: u8, port: u16) -> bool {
        self.protocol == protocol && self.low <= port && port <= self.high
    }

    const fn first(self) -> u32 {
        PortSet::place(self.protocol, self.low)
    }

    const fn last(self) -> u32 {
        PortSet::place(self.protocol, self.high)
    }
}

fn port(text: &str) -> Result<u16, PortsError> {
    decimal(text)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or_else(|| PortsError::Number(text.to_owned()))
}

/// Digits without a leading zero: `010` is eight to some readers and ten to others.
fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.protocol {
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            other => return write!(f, "proto/{other}"),
        };
        match (self.low, self.high) {
            (0, u16::MAX) => f.write_str(word),
            (low, high) if low == high => write!(f, "{low}/{word}"),
            (low, high) => write!(f, "{low}-{high}/{word}"),
        }
    }
}

/// The ports that are in both lists.
pub(super) fn both(one: &[Ports], other: &[Ports]) -> Vec<Ports> {
    let mut found = Vec::new();
    for a in one {
        for b in other.iter().filter(|b| b.protocol == a.protocol) {
            let (low, high) = (a.low.max(b.low), a.high.min(b.high));
            if low <= high {
                found.push(Ports { protocol: a.protocol, low, high });
            }
        }
    }
    found
}

/// Every port of TCP but these; with `others`, everything that is no TCP too.
pub(super) fn but_tcp(but: &[u16], others: bool) -> Vec<Ports> {
    let mut but = but.to_vec();
    but.sort_unstable();
    let mut found = Vec::new();
    let mut next = Some(0u16);
    for port in but {
        if let Some(low) = next.filter(|low| *low < port) {
            found.push(Ports { protocol: protocol::TCP, low, high: port - 1 });
        }
        next = port.checked_add(1);
    }
    found.extend(next.map(|low| Ports { protocol: protocol::TCP, low, high: u16::MAX }));
    if others {
        found.extend((0..=u8::MAX).filter(|number| *number != protocol::TCP).map(Ports::whole));
    }
    found
}

/// A [`PortSet`] without the room that it does not use: most say a few things, and there may be as many as rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PackedSet {
    /// What holds for everything that no range names.
    pub otherwise: Outcome,
    /// The ranges in use, in order.
    pub ranges: Box<[PortRange]>,
}

impl From<&PortSet> for PackedSet {
    fn from(set: &PortSet) -> Self {
        Self {
            otherwise: set.otherwise,
            ranges: set.ranges.iter().take(set.count as usize).copied().collect(),
        }
    }
}

impl PackedSet {
    /// The set as the map holds it.
    pub fn unpacked(&self) -> PortSet {
        let count = self.ranges.len().min(RANGES_PER_SET);
        let mut set = PortSet { otherwise: self.otherwise, count: count as u32, ..PortSet::default() };
        set.ranges[..count].copy_from_slice(&self.ranges[..count]);
        set
    }
}

/// One rule as far as a row is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) rule: RuleId,
    pub(super) action: Action,
    pub(super) ports: Option<&'a [Ports]>,
}

/// What the rules of one row say about every port: a deny before an allow, the first of several. `Err` holds the number of
/// ranges when they are too many for one set.
pub(super) fn flatten(entries: &[Entry<'_>]) -> Result<PortSet, usize> {
    let everywhere = entries.iter().filter(|entry| entry.ports.is_none()).copied();
    let otherwise = strongest(everywhere);
    let mut ranges: Vec<PortRange> = Vec::new();
    for (low, high) in pieces(entries) {
        let here = entries.iter().filter(|entry| entry.covers(low)).copied();
        let outcome = strongest(here);
        if outcome == otherwise {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.outcome == outcome && last.high.wrapping_add(1) == low => last.high = high,
            _ => ranges.push(PortRange { low, high, outcome }),
        }
    }
    if ranges.len() > RANGES_PER_SET {
        return Err(ranges.len());
    }
    let mut set = PortSet { otherwise, count: ranges.len() as u32, ..PortSet::default() };
    set.ranges[..ranges.len()].copy_from_slice(&ranges);
    Ok(set)
}

/// The stretches of places within which no range of any entry begins or ends, in order. Gaps that nobody names are among them.
fn pieces(entries: &[Entry<'_>]) -> impl Iterator<Item = (u32, u32)> {
    let mut borders: Vec<u32> = Vec::new();
    for ports in entries.iter().filter_map(|entry| entry.ports).flatten() {
        borders.push(ports.first());
        borders.push(ports.last() + 1);
    }
    borders.sort_unstable();
    borders.dedup();
    let ends = borders.clone();
    borders.into_iter().zip(ends.into_iter().skip(1)).map(|(low, next)| (low, next - 1))
}

impl Entry<'_> {
    fn covers(&self, place: u32) -> bool {
        self.ports.is_none_or(|ports| ports.iter().any(|p| p.first() <= place && place <= p.last()))
    }
}

fn strongest<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Outcome {
    let mut found = Outcome::default();
    for entry in entries {
        match entry.action {
            Action::Deny => return Outcome { rule: entry.rule, action: Outcome::DENY },
            Action::Allow if found.action == Outcome::NOTHING => {
                found = Outcome { rule: entry.rule, action: Outcome::ALLOW };
            }
            Action::Allow => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_a_person_would() {
        for (text, shown) in [
            ("8080/tcp", "8080/tcp"),
            ("9000-9100/tcp", "9000-9100/tcp"),
            ("53/udp", "53/udp"),
            ("tcp", "tcp"),
            ("udp", "udp"),
            ("proto/47", "proto/47"),
            ("proto/6", "tcp"),
            ("icmp", "proto/1 proto/58"),
            ("1-65535/udp", "1-65535/udp"),
        ] {
            let ports = Ports::parse(text).unwrap();
            assert_eq!(ports.iter().map(Ports::to_string).collect::<Vec<_>>().join(" "), shown, "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused_with_a_hint() {
        for (text, message) in [
            ("8080", "`8080` does not say which protocol: write `8080/tcp` or `8080/udp`"),
            ("0/tcp", "`0` is no port; ports are 1 to 65535, in decimal digits without leading zeros"),
            ("010/tcp", "`010` is no port; ports are 1 to 65535, in decimal digits without leading zeros"),
            (
                "65536/tcp",
                "`65536` is no port; ports are 1 to 65535, in decimal digits without leading zeros",
            ),
            ("+80/tcp", "`+80` is no port; ports are 1 to 65535, in decimal digits without leading zeros"),
            ("90-80/tcp", "the range 90-80 ends before it begins"),
            (
                "80/TCP",
                "ports belong to tcp or udp; write `proto/132` or the like for all of another protocol",
            ),
            ("proto/256", "`256` is no IP protocol number; they are 0 to 255"),
            (
                "http",
                "ports are written `8080/tcp`, `9000-9100/tcp`, `53/udp`, `tcp`, `udp`, `icmp` or `proto/47`",
            ),
            (
                "",
                "ports are written `8080/tcp`, `9000-9100/tcp`, `53/udp`, `tcp`, `udp`, `icmp` or `proto/47`",
            ),
        ] {
            assert_eq!(Ports::parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    fn entry(rule: u32, action: Action, ports: Option<&[Ports]>) -> Entry<'_> {
        Entry { rule: RuleId(rule), action, ports }
    }

    #[test]
    fn a_flattened_set_says_what_its_rules_say_at_every_place() {
        let web = [Ports { protocol: 6, low: 80, high: 90 }, Ports { protocol: 17, low: 53, high: 53 }];
        let wide = [Ports { protocol: 6, low: 1, high: 65535 }];
        let hole = [Ports { protocol: 6, low: 85, high: 85 }];
        let gre = [Ports::whole(47)];
        let entries = [
            entry(1, Action::Allow, Some(&web)),
            entry(2, Action::Allow, Some(&wide)),
            entry(3, Action::Deny, Some(&hole)),
            entry(4, Action::Allow, Some(&gre)),
            entry(5, Action::Deny, Some(&[])),
        ];
        for count in 0..=entries.len() {
            let entries = &entries[..count];
            let set = flatten(entries).unwrap();
            for (protocol, port) in (0..=100u16)
                .flat_map(|port| [(6u8, port), (17, port), (47, port), (7, port), (255, port)])
                .chain([(6, 65535), (5, 65535), (47, 65535)])
            {
                let here =
                    |e: &&Entry<'_>| e.ports.is_none_or(|p| p.iter().any(|p| p.contains(protocol, port)));
                let expected = entries
                    .iter()
                    .filter(here)
                    .find(|e| e.action == Action::Deny)
                    .or_else(|| entries.iter().find(here))
                    .map_or(RuleId::NONE, |e| e.rule);
                assert_eq!(set.outcome(protocol, port).rule, expected, "{count} rules, {port}/{protocol}");
            }
        }
    }

    #[test]
    fn too_many_ranges_are_counted() {
        let ports: Vec<Ports> =
            (0..65).map(|i| Ports { protocol: 6, low: i * 2 + 1, high: i * 2 + 1 }).collect();
        assert_eq!(flatten(&[entry(1, Action::Allow, Some(&ports))]), Err(65));
        assert_eq!(flatten(&[entry(1, Action::Allow, Some(&ports[..64]))]).map(|set| set.count), Ok(64));
    }

    #[test]
    fn the_last_place_of_the_last_protocol_does_not_overflow() {
        let ports = [Ports::whole(255), Ports::whole(0)];
        let set = flatten(&[entry(1, Action::Deny, Some(&ports))]).unwrap();
        assert_eq!(set.outcome(255, 65535).action, Outcome::DENY);
        assert_eq!(set.outcome(0, 0).action, Outcome::DENY);
        assert_eq!(set.outcome(1, 0).action, Outcome::NOTHING);
    }

    #[test]
    fn a_packed_set_is_the_same_set() {
        for count in [0u16, 1, 63, 64] {
            let port = |number| Ports { protocol: 6, low: number * 2 + 1, high: number * 2 + 1 };
            let ports: Vec<Ports> = (0..count).map(port).collect();
            let rules = [entry(1, Action::Deny, Some(&ports)), entry(2, Action::Allow, None)];
            let set = flatten(&rules).unwrap();
            assert_eq!(PackedSet::from(&set).unpacked(), set, "{count} ranges");
            assert_eq!(PackedSet::from(&set).ranges.len(), usize::from(count));
        }
    }
}
