//! Small random worlds: few names, few addresses, few ports, so that rules meet and contradict each other often.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Peer as OtherEnd};

use crate::cidr::Cidr;
use crate::policy::reference::Connection;
use crate::policy::{
    Action, AddressRange, Clause, Entity, Fields, IdentityPattern, IdentityPolicy, Namespace, NodeDefaults,
    Peer, PolicySet, Ports, Posture, Refuse, Rule, Target, Test, Tests, TextPattern,
};
use crate::workload::{IdentityInfo, Labels, Origin};

/// A small fast generator (SplitMix64): a failing case is known by its seed alone.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    fn maybe<T>(&mut self, n: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.one_in(n) { Some(make(self)) } else { None }
    }

    fn up_to<T>(&mut self, n: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(n + 1)).map(|_| make(self)).collect()
    }
}

const NAMESPACES: [&str; 3] = ["shop", "data", "shop-2"];
const RANGES: [&str; 12] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "192.0.2.0/24",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "fc00::/7",
    "::1/128",
    "128.0.0.0/1",
];
const ADDRESSES: [&str; 14] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.1.9.9",
    "10.9.9.9",
    "192.0.2.7",
    "8.8.8.8",
    "255.255.255.255",
    "127.0.0.1",
    "0.0.0.0",
    "2001:db8:1::5",
    "2001:db8:2::5",
    "fd00::1",
    "::1",
    "2a00::1",
];
const PORTS: [&str; 10] = [
    "80/tcp",
    "443/tcp",
    "80-90/tcp",
    "1-65535/tcp",
    "tcp",
    "53/udp",
    "udp",
    "icmp",
    "proto/47",
    "85-443/tcp",
];
const MODES: [Mode; 3] = [Mode::Permissive, Mode::Audit, Mode::Enforce];
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

fn range(random: &mut Random) -> AddressRange {
    let cidr: Cidr = random.pick(&RANGES).parse().unwrap();
    let inside: Vec<Cidr> =
        RANGES.iter().map(|text| text.parse().unwrap()).filter(|hole: &Cidr| cidr.covers(*hole)).collect();
    AddressRange { cidr, except: random.up_to(2, |random| random.pick(&inside)).into() }
}

fn labels(random: &mut Random) -> Labels {
    let mut labels = Vec::new();
    for key in ["app", "tier"] {
        if random.one_in(2) {
            labels.push((key, random.pick(&["a", "b"])));
        }
    }
    labels.into_iter().collect()
}

fn pattern(random: &mut Random) -> IdentityPattern {
    let text = random.pick(&[
        "*",
        "spiffe://a.org/ns/shop/sa/s0",
        "spiffe://a.org/ns/data/sa/s1",
        "spiffe://a.org/ns/shop/*",
        "spiffe://a.org/ns/shop*",
        "spiffe://b.org/*",
        "*/sa/s0",
        "*1",
    ]);
    IdentityPattern::parse(text).unwrap()
}

fn fields(random: &mut Random, rarity: usize) -> Fields {
    let words: Vec<Entity> = Entity::WORDS.iter().map(|(_, entity)| *entity).collect();
    Fields {
        identity: random.maybe(rarity, pattern).map(Box::new),
        trust_domain: random.maybe(rarity * 2, |random| random.pick(&["a.org", "b.org"]).parse().unwrap()),
        namespace: random.maybe(rarity, |random| random.pick(&NAMESPACES).into()),
        labels: random.maybe(rarity, labels).filter(|labels| !labels.is_empty()),
        range: random.maybe(rarity, range),
        entity: random.maybe(rarity, |random| random.pick(&words)),
    }
}

fn target(random: &mut Random) -> Target {
    Target {
        namespace: if random.one_in(6) { None } else { Some(random.pick(&NAMESPACES).to_owned()) },
        labels: if random.one_in(3) { Labels::new() } else { labels(random) },
        clauses: if random.one_in(4) {
            random.up_to(2, |random| Clause { negated: random.one_in(2), tests: identity_tests(random) })
        } else {
            Vec::new()
        },
    }
}

fn identity_tests(random: &mut Random) -> Tests {
    let words: Vec<Entity> = Entity::WORDS.iter().map(|(_, entity)| *entity).collect();
    Tests::Identity(random.up_to(3, |random| match random.below(7) {
        0 => Test::Identity(pattern(random)),
        1 => Test::TrustDomain(random.pick(&["a.org", "b.org"]).parse().unwrap()),
        2 => Test::PathNamespace(
            TextPattern::parse(random.pick(&["*", "shop", "shop*", "*2", "data"])).unwrap(),
        ),
        3 => Test::ServiceAccount(format!("s{}", random.below(4))),
        4 => Test::Namespace(random.pick(&NAMESPACES).to_owned()),
        5 => Test::Label {
            key: random.pick(&["app", "tier"]).to_owned(),
            values: random.maybe(2, |random| random.up_to(2, |random| random.pick(&["a", "b"]).to_owned())),
        },
        _ => Test::Entity(random.pick(&words)),
    }))
}

fn clause(random: &mut Random) -> Clause {
    let tests =
        if random.one_in(3) { Tests::Address(random.up_to(3, range)) } else { identity_tests(random) };
    Clause { negated: random.one_in(3), tests }
}

fn peer(random: &mut Random) -> Peer {
    let is = fields(random, 3);
    let not = if random.one_in(3) { fields(random, 3) } else { Fields::default() };
    Peer {
        is,
        not: Some(not).filter(|not| !not.is_empty()).map(Box::new),
        clauses: if random.one_in(2) { random.up_to(2, clause).into() } else { Box::default() },
        origin: origin(0),
    }
}

fn rule(random: &mut Random) -> Rule {
    Rule {
        name: random.maybe(4, |random| format!("rule-{}", random.below(3))),
        action: if random.one_in(3) { Action::Deny } else { Action::Allow },
        peers: if random.one_in(5) { None } else { Some(random.up_to(3, peer)) },
        ports: if random.one_in(3) {
            None
        } else {
            Some(random.up_to(3, |random| Ports::parse(random.pick(&PORTS)).unwrap()).concat())
        },
        origin: origin(random.below(100) as u32),
    }
}

fn origin(line: u32) -> Origin {
    Origin { file: Path::new("random.yaml").into(), line, column: 1 }
}

fn policy(random: &mut Random, number: usize) -> IdentityPolicy {
    IdentityPolicy {
        kind: "IdentityPolicy",
        namespace: random.pick(&NAMESPACES).to_owned(),
        // Some share a name, as documents of different kinds and parts of one document do.
        name: format!("p{}", number / 2),
        part: number as u32,
        target: target(random),
        except: if random.one_in(5) { vec![target(random)] } else { Vec::new() },
        posture: Posture {
            ingress: random.maybe(5, |random| random.one_in(2)),
            egress: random.maybe(5, |random| random.one_in(2)),
        },
        mode: random.maybe(4, |random| random.pick(&MODES)),
        ingress: random.maybe(2, |random| random.up_to(4, rule)),
        egress: random.maybe(2, |random| random.up_to(4, rule)),
        origin: origin(number as u32),
    }
}

/// A set of documents, the identities of a node, and its defaults.
pub(crate) fn world(random: &mut Random) -> (PolicySet, Vec<IdentityInfo>, NodeDefaults) {
    let policies = (0..random.below(9)).map(|number| Arc::new(policy(random, number))).collect();
    let mut set = PolicySet { policies, ..PolicySet::default() };
    for name in NAMESPACES {
        if random.one_in(3) {
            let namespace = Namespace {
                name: name.to_owned(),
                mode: random.maybe(2, |random| random.pick(&MODES)),
                default_deny: random.one_in(2),
                refuse: if random.one_in(2) { Refuse::Drop } else { Refuse::Rst },
                origin: origin(500),
            };
            set.namespaces.insert(name.to_owned(), namespace);
        }
    }
    let mesh = random.up_to(3, |random| random.pick(&RANGES).parse().unwrap());
    (set, identities(random), NodeDefaults { mode: random.pick(&MODES), mesh, local: Vec::new() })
}

fn identities(random: &mut Random) -> Vec<IdentityInfo> {
    (0..random.below(7) as u32)
        .map(|number| {
            let (namespace, name) = (random.pick(&NAMESPACES), format!("s{number}"));
            let domain = if random.one_in(4) { "b.org" } else { "a.org" };
            IdentityInfo {
                id: IdentityId(256 + number),
                spiffe_id: format!("spiffe://{domain}/ns/{namespace}/sa/{name}").parse().unwrap(),
                namespace: namespace.to_owned(),
                name,
                labels: labels(random),
                mode: random.maybe(5, |random| random.pick(&MODES)),
            }
        })
        .collect()
}

/// A connection of one of these identities.
pub(crate) fn connection(random: &mut Random, identities: &[IdentityInfo]) -> Connection {
    let ids: Vec<IdentityId> =
        (0..5).map(IdentityId).chain(identities.iter().map(|identity| identity.id)).collect();
    let subject = match identities {
        [] => IdentityId(999),
        _ if random.one_in(40) => random.pick(&[IdentityId(3), IdentityId(999)]),
        _ => random.pick(identities).id,
    };
    let peer = match random.below(12) {
        0 | 1 => OtherEnd::Unresolved,
        2 => OtherEnd::Known(IdentityId(random.pick(&[7, 999]))),
        _ => OtherEnd::Known(random.pick(&ids)),
    };
    let (protocol, port) = random.pick(&[
        (6, 80),
        (6, 85),
        (6, 443),
        (6, 444),
        (6, 1),
        (6, 65535),
        (17, 53),
        (17, 80),
        (1, 0),
        (58, 0),
        (47, 0),
        (132, 0),
    ]);
    let peer_ip: IpAddr = random.pick(&ADDRESSES).parse().unwrap();
    Connection {
        direction: random.pick(&DIRECTIONS),
        subject,
        peer,
        peer_ip,
        loopback: random.one_in(4),
        protocol,
        port,
    }
}
