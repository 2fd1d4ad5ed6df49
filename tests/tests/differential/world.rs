//! Small random worlds: few names, few addresses, few ports, so that rules meet and contradict each other often. Written
//! as YAML, so that the parser takes part.

use std::fmt::Write as _;
use std::net::IpAddr;

use waxseal::policy::reference::Connection;
use waxseal::workload::IdentityInfo;
use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;
use waxseal_common::verdict::{Direction, Peer};

/// SplitMix64: a failing case is known by its seed alone.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// Some of these, in a YAML list.
    fn list(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> String) -> String {
        let items: Vec<String> = (0..self.below(most + 1)).map(|_| item(self)).collect();
        format!("[ {} ]", items.join(", "))
    }
}

const NAMESPACES: [&str; 3] = ["shop", "data", "shop-2"];
const RANGES: [(&str, &[&str]); 9] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "192.0.2.0/24", "8.8.8.8/32"]),
    ("::/0", &["fc00::/7", "2001:db8::/32", "::1/128"]),
    ("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.3/32"]),
    ("10.1.0.0/16", &["10.1.2.0/24", "10.1.9.9/32"]),
    ("10.1.2.3/32", &[]),
    ("192.0.2.0/24", &["192.0.2.7/32"]),
    ("2001:db8::/32", &["2001:db8:1::/48"]),
    ("fc00::/7", &["fd00::1/128"]),
    ("128.0.0.0/1", &["192.0.2.0/24"]),
];
const ADDRESSES: [&str; 14] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.1.9.9",
    "10.9.9.9",
    "192.0.2.7",
    "192.0.2.8",
    "8.8.8.8",
    "127.0.0.1",
    "255.255.255.255",
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
    "85-443/tcp",
    "53/udp",
    "53-5353/udp",
    "82/udp",
    "443/udp",
    "9000-9100/tcp",
];
const ASKED_PORTS: [u16; 16] = [0, 1, 53, 54, 79, 80, 82, 85, 90, 91, 443, 444, 5353, 9000, 9100, 65535];

fn labels(random: &mut Random) -> String {
    let app = random.pick(&["app: a", "app: b"]);
    let tier = random.pick(&["tier: a", "tier: b"]);
    match random.below(3) {
        0 => format!("{{ {app} }}"),
        1 => format!("{{ {tier} }}"),
        _ => format!("{{ {app}, {tier} }}"),
    }
}

/// Some of the fields of a peer, each once in `rarity` times.
fn fields(random: &mut Random, rarity: usize) -> Vec<String> {
    let mut fields = Vec::new();
    if random.one_in(rarity) {
        let pattern = random.pick(&[
            "*",
            "spiffe://a.org/ns/shop/sa/s0",
            "spiffe://a.org/ns/data/sa/s1",
            "spiffe://a.org/ns/shop/*",
            "spiffe://a.org/ns/shop*",
            "spiffe://b.org/*",
        ]);
        fields.push(format!("identity: \"{pattern}\""));
    }
    if random.one_in(rarity * 2) {
        fields.push(format!("trustDomain: {}", random.pick(&["a.org", "b.org"])));
    }
    if random.one_in(rarity) {
        fields.push(format!("namespace: {}", random.pick(&NAMESPACES)));
    }
    if random.one_in(rarity) {
        fields.push(format!("labels: {}", labels(random)));
    }
    if random.one_in(rarity) {
        let (cidr, holes) = RANGES[random.below(RANGES.len())];
        fields.push(format!("cidr: \"{cidr}\""));
        if !holes.is_empty() && random.one_in(2) {
            fields.push(format!("except: [ \"{}\" ]", random.pick(holes)));
        }
    }
    if random.one_in(rarity) {
        let words = ["host", "world", "unmanaged", "any-authenticated", "any"];
        fields.push(format!("entity: {}", random.pick(&words)));
    }
    fields
}

fn peer(random: &mut Random) -> String {
    let mut fields = fields(random, 3);
    if random.one_in(3) {
        let not = self::fields(random, 3);
        if !not.is_empty() {
            fields.push(format!("not: {{ {} }}", not.join(", ")));
        }
    }
    if fields.is_empty() {
        fields.push("entity: any".to_owned());
    }
    format!("{{ {} }}", fields.join(", "))
}

fn rule(random: &mut Random, side: &str) -> String {
    let mut keys = vec![format!("action: {}", random.pick(&["allow", "allow", "deny"]))];
    if random.one_in(4) {
        keys.push(format!("name: rule-{}", random.below(1000)));
    }
    if !random.one_in(5) {
        keys.push(format!("{side}: {}", random.list(3, peer)));
    }
    if !random.one_in(3) {
        keys.push(format!("ports: {}", random.list(3, |random| random.pick(&PORTS).to_owned())));
    }
    format!("{{ {} }}", keys.join(", "))
}

/// A stream of documents.
pub(crate) fn documents(random: &mut Random) -> String {
    let mut text = String::new();
    for number in 0..random.below(9) {
        let namespace = random.pick(&NAMESPACES);
        let head = format!(
            "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: p{number}, namespace: {namespace} }}\nspec:\n"
        );
        let mut spec = String::new();
        if !random.one_in(3) {
            let _ = writeln!(spec, "  selector: {}", labels(random));
        }
        if random.one_in(4) {
            let _ = writeln!(spec, "  mode: {}", random.pick(&["enforce", "audit", "permissive"]));
        }
        let both = random.below(3);
        if both != 0 {
            let _ = writeln!(spec, "  ingress: {}", random.list(4, |random| rule(random, "from")));
        }
        if both != 1 {
            let _ = writeln!(spec, "  egress: {}", random.list(4, |random| rule(random, "to")));
        }
        text.push_str(&head);
        text.push_str(&spec);
    }
    for namespace in NAMESPACES {
        if random.one_in(3) {
            let mode = random.pick(&["enforce", "audit", "permissive"]);
            let deny = random.one_in(2);
            let _ = writeln!(
                text,
                "---\napiVersion: waxseal.dev/v1alpha1\nkind: Namespace\nmetadata: {{ name: {namespace} }}\nspec: {{ mode: {mode}, defaultDeny: {deny} }}"
            );
        }
    }
    text
}

/// Identities that come and go from world to world; a number always stands for the same workload.
pub(crate) fn identities(random: &mut Random) -> Vec<IdentityInfo> {
    (0..10u32)
        .filter(|_| !random.one_in(4))
        .map(|number| {
            let namespace = NAMESPACES[number as usize % 3];
            let domain = if number == 7 { "b.org" } else { "a.org" };
            let name = format!("s{}", number % 2);
            let mut labels = Vec::new();
            if number % 3 != 1 {
                labels.push(("app", ["a", "b"][number as usize % 2]));
            }
            if number % 4 != 2 {
                labels.push(("tier", ["a", "b"][number as usize / 2 % 2]));
            }
            IdentityInfo {
                id: IdentityId(256 + number),
                spiffe_id: format!("spiffe://{domain}/ns/{namespace}/sa/{name}")
                    .parse()
                    .unwrap_or_else(|error| panic!("{error}")),
                namespace: namespace.to_owned(),
                name,
                labels: labels.into_iter().collect(),
                mode: [None, None, Some(Mode::Audit), Some(Mode::Enforce)][number as usize % 4],
            }
        })
        .collect()
}

pub(crate) fn connection(random: &mut Random) -> Connection {
    let someone = |random: &mut Random| {
        IdentityId(if random.one_in(4) { random.below(6) as u32 } else { 256 + random.below(11) as u32 })
    };
    let direction = if random.one_in(2) { Direction::Ingress } else { Direction::Egress };
    let unresolved = direction == Direction::Egress && random.one_in(4);
    let peer_ip: IpAddr = random.pick(&ADDRESSES).parse().unwrap_or_else(|error| panic!("{error}"));
    let protocol = [6, 6, 6, 17, 17, 1, 47][random.below(7)];
    Connection {
        direction,
        subject: someone(random),
        peer: if unresolved { Peer::Unresolved } else { Peer::Known(someone(random)) },
        peer_ip,
        loopback: peer_ip.is_loopback(),
        protocol,
        port: if matches!(protocol, 6 | 17) { ASKED_PORTS[random.below(ASKED_PORTS.len())] } else { 0 },
    }
}
