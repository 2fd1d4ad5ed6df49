//! The compiler's time does not grow with the product of policies and identities.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use waxseal_common::ids::IdentityId;
use waxseal_common::tables::Mode;

use crate::policy::{
    Action, AddressRange, Compiler, Fields, IdentityPattern, IdentityPolicy, NodeDefaults, Peer, PolicySet,
    Ports, Posture, Rule, Target,
};
use crate::workload::{IdentityInfo, Labels, Origin};

const NAMESPACES: u32 = 20;
const IDENTITIES: u32 = 1000;
const POLICIES: u32 = 10_000;

fn origin(line: u32) -> Origin {
    Origin { file: Path::new("many.yaml").into(), line, column: 1 }
}

fn namespace(number: u32) -> String {
    format!("n{}", number % NAMESPACES)
}

fn app(number: u32) -> Labels {
    Labels::from([("app".to_owned(), format!("a{number}"))])
}

fn id(number: u32) -> String {
    format!("spiffe://a.org/ns/{}/sa/s{number}", namespace(number))
}

fn peer(is: Fields) -> Peer {
    Peer { is, not: None, clauses: Box::default(), origin: origin(1) }
}

/// Protects one workload: another by ID, one by namespace and label, and a range of addresses may call it.
fn policy(number: u32) -> IdentityPolicy {
    let (by_id, by_label) = (number * 7 % IDENTITIES, number * 3 % IDENTITIES);
    let cidr = format!("192.{}.{}.0/24", number % 200, number / 200).parse().unwrap();
    let peers = vec![
        peer(Fields {
            identity: Some(Box::new(IdentityPattern::parse(&id(by_id)).unwrap())),
            ..Fields::default()
        }),
        peer(Fields {
            namespace: Some(namespace(by_label).into()),
            labels: Some(app(by_label)),
            ..Fields::default()
        }),
        peer(Fields { range: Some(AddressRange { cidr, except: Box::default() }), ..Fields::default() }),
    ];
    let ports = Ports::parse(&format!("{}/tcp", 1000 + number % 30)).unwrap();
    let rule = Rule {
        name: None,
        action: Action::Allow,
        peers: Some(peers),
        ports: Some(ports),
        origin: origin(number),
    };
    IdentityPolicy {
        kind: "IdentityPolicy",
        namespace: namespace(number),
        name: format!("p{number}"),
        part: 0,
        target: Target {
            namespace: Some(namespace(number)),
            labels: app(number % IDENTITIES),
            clauses: Vec::new(),
        },
        except: Vec::new(),
        posture: Posture::default(),
        mode: None,
        ingress: Some(vec![rule]),
        egress: None,
        origin: origin(number),
    }
}

#[test]
fn ten_thousand_policies_and_a_thousand_identities_compile_in_seconds() {
    let set =
        PolicySet { policies: (0..POLICIES).map(policy).map(Arc::new).collect(), ..PolicySet::default() };
    let identities: Vec<IdentityInfo> = (0..IDENTITIES)
        .map(|number| IdentityInfo {
            id: IdentityId(256 + number),
            spiffe_id: id(number).parse().unwrap(),
            namespace: namespace(number),
            name: format!("s{number}"),
            labels: app(number),
            mode: None,
        })
        .collect();
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: vec![], local: Vec::new() };
    let started = Instant::now();
    let compiled = Compiler::new(1).compile(&set, &identities, &defaults).unwrap();
    let took = started.elapsed();
    assert!(compiled.rows.len() > POLICIES as usize, "the policies bind nobody");
    // Optimised it takes a quarter of a second; this is for a busy machine and a build without optimisation.
    assert!(took < Duration::from_secs(30), "{took:?}");
}
