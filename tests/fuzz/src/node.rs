//! What the kernel hands over: packets, entries of the rings, its tables of mounts and types.

use std::path::Path;
use std::sync::Arc;

use waxseal::cgroup::Mounts;
use waxseal::datapath::btf::Types;
use waxseal::datapath::hold::{read_datagram, read_notice};
use waxseal::flows::{self, Clock, Identity, Look, Made, Names, Rule, Time};
use waxseal_common::flow::FlowEvent;
use waxseal_common::ids::{CgroupId, IdentityId, RuleId};
use waxseal_common::packet;
use zerocopy::FromBytes as _;

use crate::is_printable;

/// A packet from its IP header on.
pub(crate) fn packets(bytes: &[u8]) {
    let _cut = packet::cuts_tcp_header(bytes);
    let Ok(head) = packet::ip(bytes) else { return };
    assert!(head.transport >= 20, "{head:?}");
    if packet::has_ports(head.protocol) {
        let _ports = packet::ports(bytes, head.transport);
    }
    if let Ok(tcp) = packet::tcp(bytes, head.transport) {
        assert!((20..=60).contains(&tcp.length), "{tcp:?}");
        assert!(!(tcp.opens() && tcp.answers()), "{tcp:?}");
        let _seal = packet::seal_option(bytes, head.transport, &tcp);
    }
}

/// A node that knows nobody.
struct Nobody;

impl Names for Nobody {
    fn identity(&self, _identity: IdentityId) -> Option<Arc<Identity>> {
        None
    }

    fn rule(&self, _rule: RuleId) -> Option<Arc<Rule>> {
        None
    }

    fn cgroup(&self, _cgroup: CgroupId) -> Option<Arc<str>> {
        None
    }

    fn session(&self, _opens: bool, _id: u32) -> Option<Made> {
        None
    }

    fn clock(&self) -> Clock {
        Clock::read()
    }

    fn node(&self) -> Arc<str> {
        "node".into()
    }

    fn instance(&self) -> Arc<str> {
        "default".into()
    }
}

/// An entry of a ring, as an event or as a notice: it becomes a flow that prints in every form and is read back, or is
/// refused.
pub(crate) fn rings(bytes: &[u8]) {
    let _notice = read_notice(bytes);
    let _datagram = read_datagram(bytes);
    let Ok((event, _rest)) = FlowEvent::read_from_prefix(bytes) else { return };
    let Ok(flow) = flows::enrich(&event, &Nobody) else { return };
    let (look, now) = (Look::default(), Time::now());
    for shown in
        [flows::details(&flow, look, now), flows::wide(&flow, look, now), flows::line(&flow, look, now)]
    {
        assert!(is_printable(&shown), "{shown:?}");
    }
    let mut line = Vec::new();
    flows::json(&flow, &mut line);
    let again = String::from_utf8(line).map(|line| flows::read(&line));
    assert!(matches!(again, Ok(Ok(flows::Line::Flow(again))) if *again == flow), "{flow:?}");
}

/// `/proc/self/mountinfo`.
pub(crate) fn cgroups(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mounts = Mounts::parse(text);
    let _some = (mounts.cgroup2(), mounts.has_legacy(), mounts.cgroup2_of(Path::new("/sys/fs/cgroup/a")));
}

/// The kernel's description of its types.
pub(crate) fn btf(bytes: &[u8]) {
    let Ok(types) = Types::parse(bytes) else { return };
    for (structure, path) in [("sock", "__sk_common.skc_net.net"), ("a", "b.c"), ("cgroup", "kn")] {
        let _place = types.field(structure, path);
    }
}
