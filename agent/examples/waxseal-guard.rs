//! Work of a known size, for counting its instructions: `waxseal-guard CASE TIMES`. `cargo xtask test` runs it under valgrind with
//! two numbers of times; the difference is what the work costs, without what comes before it.

use std::hint::black_box;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use waxseal::policy::{Compiled, Compiler, NodeDefaults, PolicySet, parse, plan};
use waxseal::spiffe::TrustDomain;
use waxseal::workload::IdentityInfo;
use waxseal_common::address::Address;
use waxseal_common::ids::{IdentityId, Revision};
use waxseal_common::packet;
use waxseal_common::seal::{SealKey, seal, verify};
use waxseal_common::tables::{AddressRow, Mode};
use waxseal_common::verdict::{Direction, Peer, Question, decide};
use waxseal_common::wire::{Opening, SessionKey, Spi, is_true, wire_seal};

/// Policies, and workloads that they are about.
const POLICIES: usize = 40;
const WORKLOADS: u32 = 20;
const FIRST: u32 = IdentityId::FIRST_WORKLOAD.0;
const ROOM: waxseal::policy::Capacity =
    waxseal::policy::Capacity { identities: 1 << 16, addresses: 1 << 16, rows: 1 << 20, sets: 1 << 16 };

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [case, times] = arguments.as_slice() else { bail!("CASE TIMES") };
    let times: u32 = times.parse()?;
    match case.as_str() {
        "decide" => verdicts(times),
        "seal" => {
            seals(times);
            Ok(())
        }
        "packet" => packets(times),
        "parse" => repeat(times, || read().map(drop)),
        "compile" => {
            let (set, people) = (read()?, people()?);
            repeat(times, || compile(&set, &people).map(drop))
        }
        "plan" => {
            let compiled = compile(&read()?, &people()?)?;
            repeat(times, || Ok(drop(black_box(plan(&Compiled::default(), &compiled, Revision(2), &ROOM)?))))
        }
        _ => bail!("there is no case {case}"),
    }
}

fn repeat(times: u32, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    (0..times).try_for_each(|_| work())
}

/// Half of them by name, half by label, each with a range of addresses.
fn document(number: usize) -> String {
    let (subject, source) = (number % WORKLOADS as usize, number * 7 % WORKLOADS as usize);
    let peer = if number.is_multiple_of(2) {
        format!("{{ identity: 'spiffe://a.org/ns/shop/sa/s{source}' }}")
    } else {
        format!("{{ namespace: shop, labels: {{ app: a{source} }} }}")
    };
    format!(
        "---\napiVersion: waxseal.dev/v1alpha1\nkind: IdentityPolicy\nmetadata: {{ name: p{number}, namespace: shop }}\nspec:\n  \
         selector: {{ app: a{subject} }}\n  ingress:\n    - from: [ {peer}, {{ cidr: 192.0.{number}.0/24 }} ]\n      \
         ports: [ {}/tcp, 9000-9100/udp ]\n",
        1000 + number
    )
}

fn read() -> Result<PolicySet> {
    let text: String = (0..POLICIES).map(document).collect();
    let domain: TrustDomain = "a.org".parse()?;
    parse(Path::new("guard.yaml"), &text, &domain).map_err(|errors| anyhow::anyhow!("{errors}"))
}

fn people() -> Result<Vec<IdentityInfo>> {
    let one = |number: u32| -> Result<IdentityInfo> {
        Ok(IdentityInfo {
            id: IdentityId(FIRST + number),
            spiffe_id: format!("spiffe://a.org/ns/shop/sa/s{number}").parse()?,
            namespace: "shop".to_owned(),
            name: format!("s{number}"),
            labels: [("app".to_owned(), format!("a{number}"))].into(),
            mode: None,
        })
    };
    (0..WORKLOADS).map(one).collect()
}

fn compile(set: &PolicySet, people: &[IdentityInfo]) -> Result<Compiled> {
    let defaults = NodeDefaults { mode: Mode::Enforce, mesh: Vec::new(), local: Vec::new() };
    Compiler::new(1).compile(set, people, &defaults).context("the policies fit")
}

fn verdicts(times: u32) -> Result<()> {
    let compiled = compile(&read()?, &people()?)?;
    for round in 0..times {
        let question = Question {
            direction: Direction::Ingress,
            subject: IdentityId(FIRST + round % WORKLOADS),
            peer: Peer::Known(IdentityId(FIRST + round * 7 % WORKLOADS)),
            peer_address: AddressRow::default(),
            loopback: false,
            protocol: 6,
            port: 1000 + (round % 40) as u16,
        };
        let _judgement = black_box(decide(&compiled, &question, Mode::Enforce));
    }
    Ok(())
}

/// The seal inside a node and the one between nodes, made and checked.
fn seals(times: u32) {
    let (own, session) = (SealKey([1, 2]), SessionKey([3, 4]));
    for isn in 0..times {
        let (option, _) = seal(&own, IdentityId(FIRST), isn, 7);
        black_box(verify(&own, &option, isn, 7));
        let opening = Opening {
            source: Address::from_v4([10, 0, 0, 1]),
            destination: Address::from_v4([10, 0, 0, 2]),
            source_port: 40_000,
            destination_port: 80,
            isn,
        };
        let option = wire_seal(&session, Spi(9), &opening);
        black_box(is_true(&option, &session, &opening));
    }
}

/// The heads of a SYN with options, a seal among them.
fn packets(times: u32) -> Result<()> {
    let mut bytes = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let (option, _) = seal(&SealKey([1, 2]), IdentityId(FIRST), 5, 7);
    bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 5, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend([2, 4, 5, 0xb4]);
    bytes.extend(zerocopy::IntoBytes::as_bytes(&option));
    bytes.resize(60, 0);
    let bytes = bytes.as_slice();
    for _ in 0..times {
        let ip = packet::ip(black_box(bytes)).ok().context("an IP head")?;
        let tcp = packet::tcp(bytes, ip.transport).ok().context("a TCP head")?;
        black_box(packet::seal_option(bytes, ip.transport, &tcp).context("a seal")?);
    }
    Ok(())
}
