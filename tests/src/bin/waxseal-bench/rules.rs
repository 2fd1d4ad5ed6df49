//! Allow lists of a given length, for Waxseal and for nftables. What is counted are entries: a source and a port that it
//! may reach; each is a row of the kernel's table, and an element of the set of nftables.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use waxseal_tests::stage::policy;

use crate::ends::{ECHO, OPEN, SINK};

/// The most rules of one workload here: the kernel's table of addresses has room for 16,384.
const OF_ONE: usize = 10_000;
/// How many sources share one line of a policy.
const GROUP: usize = 10;
/// The ports of the load, over TCP and UDP, as policies write them.
pub(crate) const PORTS: &str = "[ 8080-8082/tcp, 8081/udp ]";
/// A port in addition that is opened and shut.
pub(crate) const WITH_GATE: &str = "[ 8080-8082/tcp, 8085/tcp, 8081/udp ]";

/// An address that nobody has.
fn nobody(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes([172, 16, 0, 0]) + number as u32)
}

/// The port that it may reach.
fn port_of(number: usize) -> usize {
    10_000 + number / GROUP
}

/// How many workloads share that many rules: the server, and others if need be.
pub(crate) fn subjects(rules: usize) -> usize {
    rules.div_ceil(OF_ONE).max(1)
}

/// The name of a workload that only has rules.
pub(crate) fn filler(number: usize) -> String {
    format!("shop/filler-{number}")
}

/// A policy for each subject: who may come in. The server lets the callers in, and besides them addresses that nobody
/// has; its rules are the first of `rules`.
pub(crate) fn waxseal(server: &str, callers: &[String], rules: usize, ports: &str) -> Vec<String> {
    let share = rules / subjects(rules);
    let fillers = (1..subjects(rules)).map(|number| list(&filler(number), "", share));
    let callers =
        callers.iter().fold(String::new(), |text, id| text + &format!("{{ identity: \"{id}\" }}, "));
    let head = format!("    - {{ name: callers, from: [ {callers} ], ports: {ports} }}\n");
    std::iter::once(list(server, &head, share.saturating_sub(1))).chain(fillers).collect()
}

/// Each group of sources has a port of its own, so that no two groups can be joined.
fn list(subject: &str, head: &str, entries: usize) -> String {
    let mut text = format!("  ingress:\n{head}");
    for first in (0..entries).step_by(GROUP) {
        let sources =
            (first..entries.min(first + GROUP)).map(|number| format!("{{ cidr: {}/32 }}", nobody(number)));
        let sources: Vec<String> = sources.collect();
        let _ =
            writeln!(text, "    - {{ from: [ {} ], ports: [ {}/tcp ] }}", sources.join(", "), port_of(first));
    }
    policy(&subject.replace('/', "-"), subject, text.trim_end())
}

/// The same list as its users would write it: connections that are open pass, a set says who may open one.
pub(crate) fn nft(callers: &[Ipv4Addr], rules: usize) -> String {
    let mut elements: Vec<String> = Vec::with_capacity(rules);
    for caller in callers {
        for port in [OPEN, ECHO, SINK] {
            elements.push(format!("{caller} . tcp . {port}"));
        }
        elements.push(format!("{caller} . udp . {ECHO}"));
    }
    let more = rules.saturating_sub(1);
    elements
        .extend((0..more).map(|number| format!("{} . tcp . {}", nobody(number), port_of(number % OF_ONE))));
    format!(
        "table inet bench {{\n set allowed {{\n  type ipv4_addr . inet_proto . inet_service\n  elements = {{ {} }}\n }}\n \
         chain input {{\n  type filter hook input priority 0; policy drop;\n  ct state established,related accept\n  ct state invalid drop\n  \
         icmp type echo-request accept\n  ip saddr . meta l4proto . th dport @allowed accept\n  reject with tcp reset\n }}\n}}\n",
        elements.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_as_many_rules_as_asked_for() {
        for (rules, documents) in [(10, 1), (1000, 1), (100_000, 10)] {
            let texts = waxseal("shop/server", &["spiffe://a/b".to_owned()], rules, PORTS);
            assert_eq!(texts.len(), documents);
            let count: usize = texts.iter().map(|text| text.matches("cidr:").count()).sum();
            assert_eq!(count, rules - 1, "and the callers");
            assert!(texts.iter().all(|text| text.len() < 1 << 20), "the agent reads files of a mebibyte");
        }
    }
}
