//! One object a line, for programs.

use serde::{Deserialize, Serialize};

use super::{Flow, Loss, VERSION};
use crate::escape::escape_within;

/// What a line of a tap says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A flow.
    Flow(Box<Flow>),
    /// Flows are missing here; of another node, where one is named.
    Lost(Loss, Option<Box<str>>),
    /// What came before is the past.
    Present,
    /// A node that was asked does not tell, or tells again.
    Node(NodeNews),
}

#[derive(Serialize, Deserialize)]
struct Lost {
    v: u32,
    #[serde(flatten)]
    loss: Loss,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    node: Option<Box<str>>,
}

/// Whether a node that was asked tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNews {
    v: u32,
    /// Its name. Escaped.
    pub node: String,
    /// Why it does not tell, escaped; `null` when it tells again.
    pub unreachable: Option<String>,
}

impl NodeNews {
    /// News of a node.
    pub fn new(node: &str, unreachable: Option<&str>) -> Self {
        let escape = |text: &str| escape_within(text, 512).into_owned();
        Self { v: VERSION, node: escape(node), unreachable: unreachable.map(escape) }
    }

    /// As a line, newline included.
    pub fn json(&self, out: &mut Vec<u8>) {
        append(self, out);
    }
}

impl std::fmt::Display for NodeNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.unreachable {
            Some(why) => write!(f, "… {} does not tell: {why}", self.node),
            None => write!(f, "… {} tells again", self.node),
        }
    }
}

/// Appends a flow as one line, newline included.
pub fn json(flow: &Flow, out: &mut Vec<u8>) {
    append(flow, out);
}

/// Appends the notice that flows are missing.
pub fn json_lost(loss: Loss, out: &mut Vec<u8>) {
    append(&Lost { v: VERSION, loss, node: None }, out);
}

/// Where the past ends and the present begins.
pub const PRESENT: &str = "{\"v\":1,\"past\":\"ended\"}";

/// Appends the notice that what came before is the past.
pub fn json_present(out: &mut Vec<u8>) {
    out.extend_from_slice(PRESENT.as_bytes());
    out.push(b'\n');
}

fn append(value: &impl Serialize, out: &mut Vec<u8>) {
    let before = out.len();
    // Writing into memory does not fail and none of these types refuses to be written; half a line would break the
    // reader, so that it is taken back all the same.
    if serde_json::to_writer(&mut *out, value).is_ok() {
        out.push(b'\n');
    } else {
        out.truncate(before);
    }
}

/// Reads a line that [`json`] or the server wrote.
pub fn read(line: &str) -> Result<Line, serde_json::Error> {
    // Short enough to be one; a flow is not parsed twice.
    if line.len() < 256
        && let Ok(Lost { loss, node, .. }) = serde_json::from_str(line)
    {
        return Ok(Line::Lost(loss, node));
    }
    if line == PRESENT {
        return Ok(Line::Present);
    }
    if line.contains("\"unreachable\":")
        && let Ok(news) = serde_json::from_str(line)
    {
        return Ok(Line::Node(news));
    }
    serde_json::from_str(line).map(|flow| Line::Flow(Box::new(flow)))
}

#[cfg(test)]
mod tests {
    use super::super::Cause;
    use super::super::samples::{allowed, closed, denied, flow, refused};
    use super::*;
    use expect_test::expect;

    fn text(flow: &Flow) -> String {
        let mut out = Vec::new();
        json(flow, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_schema_stays_as_it_is() {
        expect![[r#"
            {"v":1,"time":"2026-05-04T12:04:31.882Z","kind":"denied","verdict":"deny","direction":"egress","reason":"deny-rule","rule":{"policy":"payments/from-checkout","rule":"only-get","origin":"/etc/waxseal/policies/pay.yaml:12:7"},"source":{"identity":256,"name":"shop/checkout","spiffe_id":"spiffe://cluster.local/ns/shop/sa/checkout","labels":{"app":"checkout"},"address":"10.0.0.1","port":43210},"destination":{"identity":257,"name":"payments/api","spiffe_id":"spiffe://cluster.local/ns/payments/sa/api","labels":{"app":"api"},"address":"10.0.0.2","port":8080},"protocol":"tcp","port":8080,"process":{"pid":4121,"comm":"curl"},"cgroup":{"id":40,"path":"/system.slice/checkout.service"},"netns":4026531840,"cookie":77,"hook":"connect4","sealed":true,"seal":"local","revision":3,"node":"alpha","instance":"default"}
        "#]]
        .assert_eq(&text(&flow(&denied())));
        expect![[r##"
            {"v":1,"time":"2026-05-04T12:05:31.882Z","kind":"closed","verdict":"allow","direction":"egress","reason":"allow-rule","rule":{"policy":"payments/from-checkout","rule":"#2","origin":"/etc/waxseal/policies/pay.yaml:20:7"},"source":{"identity":256,"name":"shop/checkout","spiffe_id":"spiffe://cluster.local/ns/shop/sa/checkout","labels":{"app":"checkout"},"address":"10.0.0.1","port":43210},"destination":{"identity":257,"name":"payments/api","spiffe_id":"spiffe://cluster.local/ns/payments/sa/api","labels":{"app":"api"},"address":"10.0.0.2","port":8080},"protocol":"tcp","port":8080,"process":{"pid":4121,"comm":"curl"},"cgroup":{"id":40,"path":"/system.slice/checkout.service"},"netns":4026531840,"cookie":77,"hook":"connect4","sealed":true,"seal":"local","ended":"opener-closed","bytes_sent":1234,"bytes_received":5678901,"duration_ns":60000000000,"packets_sent":40,"packets_received":4021,"retransmits":3,"rtt_us":1250,"revision":3,"node":"alpha","instance":"default"}
        "##]]
        .assert_eq(&text(&flow(&closed())));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for event in [denied(), allowed(), closed(), refused()] {
            let flow = flow(&event);
            assert_eq!(read(text(&flow).trim_end()).unwrap(), Line::Flow(Box::new(flow)));
        }
        let mut out = Vec::new();
        let loss = Loss { count: 12, cause: Cause::FlowRing };
        json_lost(loss, &mut out);
        assert_eq!(out, b"{\"v\":1,\"lost\":12,\"cause\":\"flow-ring\"}\n");
        assert_eq!(read("{\"v\":1,\"lost\":12,\"cause\":\"flow-ring\"}").unwrap(), Line::Lost(loss, None));
        assert!(read("{\"v\":1}").is_err());
    }

    #[test]
    fn a_field_that_a_later_agent_adds_does_no_harm() {
        let line = text(&flow(&denied())).replacen('{', "{\"later\":{\"x\":1},", 1);
        assert!(matches!(read(line.trim_end()), Ok(Line::Flow(_))));
    }
}
