//! `toPorts` and `icmps` of a Cilium rule.

use super::cilium::Section;
use super::foreign::Object;
use super::node::Node;
use crate::policy::error::Problem;
use crate::policy::ports::Ports;
use crate::policy::reader::Reader;
use crate::policy::set::Action;
use waxseal_common::ids::protocol;

const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// `ANY` is the protocols that have ports.
const PROTOCOLS: [(&str, &[u8]); 9] = [
    ("TCP", &[protocol::TCP]),
    ("UDP", &[protocol::UDP]),
    ("SCTP", &[SCTP]),
    ("ANY", &[protocol::TCP, protocol::UDP]),
    ("ICMP", &[ICMP]),
    ("ICMPv6", &[ICMP_V6]),
    ("ICMPV6", &[ICMP_V6]),
    ("VRRP", &[112]),
    ("IGMP", &[2]),
];
const FAMILIES: [(&str, u8); 3] = [("IPv4", ICMP), ("IPv6", ICMP_V6), ("", ICMP)];
/// What is looked at beyond the connection.
const CONTENT: [&str; 5] = ["rules", "serverNames", "terminatingTLS", "originatingTLS", "listener"];

impl Reader<'_> {
    /// The ports of a rule. `Some(None)` is a rule that is left out because it could only allow.
    #[expect(clippy::option_option, reason = "refused, left out, every port and some ports are four things")]
    pub(super) fn cilium_ports(
        &mut self,
        rule: &Object<'_>,
        section: Section,
    ) -> Option<Option<Option<Vec<Ports>>>> {
        match (rule.get("toPorts"), rule.get("icmps")) {
            (Some(_), Some(node)) => self.refuse(node.place, Problem::Together("toPorts", "icmps")),
            (None, None) => Some(Some(None)),
            (Some(node), None) => Some(Some(self.port_rules(node, section)?)),
            (None, Some(node)) => self.icmps(node, section),
        }
    }

    #[expect(clippy::option_option, reason = "refused, every port, and some ports are three things")]
    fn port_rules(&mut self, node: &Node, section: Section) -> Option<Option<Vec<Ports>>> {
        let list = self.list(node)?;
        if list.is_empty() {
            let text = "an empty `toPorts` means every port, as in Cilium; leave the key out to say so";
            self.warn(node.place, "empty-list", text.to_owned());
            return Some(None);
        }
        let mut ports = Vec::new();
        for node in list {
            let object = self.object(node, &[&["ports"], &CONTENT[..]].concat())?;
            if let Some((key, place)) = object.among(&CONTENT).first() {
                if section.action == Action::Deny {
                    self.unsupported(key, *place, "a deny is about connections, not about what is in them");
                    return None;
                }
                let text = format!(
                    "these ports are left out, which allows less: `{key}` would have to be read from the connection"
                );
                self.warn(*place, "request-conditions", text);
                continue;
            }
            let Some(list) = object.get("ports") else {
                self.empty_ports(node, section)?;
                continue;
            };
            let entries = self.list(list)?;
            if entries.is_empty() {
                self.empty_ports(list, section)?;
            }
            for node in entries {
                ports.extend(self.cilium_port(node, section)?);
            }
        }
        Some(Some(ports))
    }

    fn empty_ports(&mut self, node: &Node, section: Section) -> Option<()> {
        if section.action == Action::Deny {
            return self.refuse(node.place, Problem::EmptyDeny("ports"));
        }
        self.warn(node.place, "matches-nothing", "an empty `ports` matches nothing".to_owned());
        Some(())
    }

    fn cilium_port(&mut self, node: &Node, section: Section) -> Option<Vec<Ports>> {
        let object = self.object(node, &["port", "endPort", "protocol"])?;
        let protocols = match object.get("protocol") {
            Some(node) => self.one_of(node, "protocol", &PROTOCOLS)?,
            None => &[protocol::TCP, protocol::UDP],
        };
        let low = match object.get("port") {
            None => 0,
            Some(port) => match self.port(port)? {
                Ok(low) => low,
                Err(name) if section.action == Action::Allow => {
                    self.named_port(port, name);
                    return Some(Vec::new());
                }
                Err(name) => {
                    self.unsupported(
                        name,
                        port.place,
                        "the number of a named port is not known here; write the number",
                    );
                    return None;
                }
            },
        };
        let high = match object.get("endPort") {
            Some(node) => {
                let high = self.port_number(node)?;
                if low == 0 || high < low { self.refuse(node.place, Problem::EndPort)? } else { high }
            }
            None => low,
        };
        let mut ports = Vec::new();
        for protocol in protocols {
            ports.extend(self.one_protocol(node, section, *protocol, low, high));
        }
        Some(ports)
    }

    /// Port 0 is every port; of protocols whose ports are not told apart, nothing or everything remains.
    fn one_protocol(
        &mut self,
        node: &Node,
        section: Section,
        number: u8,
        low: u16,
        high: u16,
    ) -> Option<Ports> {
        if low == 0 {
            return Some(Ports::whole(number));
        }
        if matches!(number, protocol::TCP | protocol::UDP) {
            return Some(Ports { protocol: number, low, high });
        }
        let whole = section.action == Action::Deny;
        let left = if whole {
            "this denies all of the protocol"
        } else {
            "this port is left out, which allows less"
        };
        self.warn(node.place, "sctp-port", format!("ports of this protocol are not told apart here: {left}"));
        whole.then(|| Ports::whole(number))
    }

    #[expect(clippy::option_option, reason = "refused, left out, every port and some ports are four things")]
    fn icmps(&mut self, node: &Node, section: Section) -> Option<Option<Option<Vec<Ports>>>> {
        let mut ports = Vec::new();
        for rule in self.list(node)? {
            let object = self.object(rule, &["fields"])?;
            let fields = self.must(&object, "fields")?;
            for field in self.list(fields)? {
                let object = self.object(field, &["family", "type"])?;
                self.must(&object, "type")?;
                let family = match object.get("family") {
                    Some(node) => self.one_of(node, "family", &FAMILIES)?,
                    None => ICMP,
                };
                ports.push(Ports::whole(family));
            }
        }
        if section.action == Action::Deny {
            let text = "types of ICMP are not told apart here: this denies all of them".to_owned();
            self.warn(node.place, "icmp-type", text);
            return Some(Some(Some(ports)));
        }
        let text =
            "types of ICMP are not told apart here: this rule is left out, which allows less".to_owned();
        self.warn(node.place, "icmp-type", text);
        Some(None)
    }
}
