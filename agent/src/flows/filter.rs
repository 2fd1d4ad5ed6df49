//! Which flows a reader wants. Filters travel as the words that people type and are applied in the agent.

use serde::{Deserialize, Serialize};
use waxseal_common::verdict::Direction;

use super::{Because, Flow, Party, PortRange, Protocol, Shown, Time};

/// Conditions on a flow. Within one field any value will do; all fields with values must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The words of the verdict column.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdict: Vec<Shown>,
    /// The opener.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Party>,
    /// The acceptor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Party>,
    /// The dialled port or the listener's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<PortRange>,
    /// The protocol.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<Protocol>,
    /// Why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reason: Vec<Because>,
    /// The side whose rules decided.
    #[serde(with = "super::words::optional", skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Not earlier than this. Not turned round by `not`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Show what the conditions would hide.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
}

impl Filter {
    /// Whether the reader wants this flow.
    pub fn wants(&self, flow: &Flow) -> bool {
        let Self { verdict, from, to, port, protocol, reason, direction, since, not } = self;
        let matches = any(verdict, |shown| *shown == flow.shown())
            && any(from, |party| party.matches(&flow.source))
            && any(to, |party| party.matches(&flow.destination))
            && any(port, |range| range.holds(flow.destination.port) || range.holds(flow.port))
            && any(protocol, |protocol| *protocol == flow.protocol)
            && any(reason, |because| because.0 == flow.reason)
            && direction.is_none_or(|direction| direction == flow.direction);
        since.is_none_or(|since| flow.time >= since) && matches != *not
    }
}

fn any<T>(wanted: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{allowed, closed, denied, flow};
    use super::*;

    fn filter(json: &str) -> Filter {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_condition_admits_and_refuses() {
        // Which of a denial, an allow and a close come through.
        for (text, admitted) in [
            ("{}", [true, true, true]),
            (r#"{"verdict":["deny"]}"#, [true, false, false]),
            (r#"{"verdict":["DENY","close"]}"#, [true, false, true]),
            (r#"{"verdict":["would-deny"]}"#, [false, false, false]),
            (r#"{"not":true}"#, [false, false, false]),
            (r#"{"verdict":["deny"],"not":true}"#, [false, true, true]),
            (r#"{"from":["checkout"]}"#, [true, true, true]),
            (r#"{"from":["shop/checkout"],"to":["payments/api"]}"#, [true, true, true]),
            (r#"{"from":["api"]}"#, [false, false, false]),
            (r#"{"from":["shop"]}"#, [false, false, false]),
            (r#"{"from":["256"]}"#, [true, true, true]),
            (r#"{"to":["256","257"]}"#, [true, true, true]),
            (r#"{"to":["10.0.0.2"]}"#, [true, true, true]),
            (r#"{"to":["10.0.0.0/8"]}"#, [true, true, true]),
            (r#"{"to":["192.0.2.0/24"]}"#, [false, false, false]),
            (r#"{"from":["spiffe://cluster.local/ns/shop/*"]}"#, [true, true, true]),
            (r#"{"from":["spiffe://cluster.local/ns/shop/sa/checkout"]}"#, [true, true, true]),
            (r#"{"from":["spiffe://cluster.local/ns/shop"]}"#, [false, false, false]),
            (r#"{"port":["8080"]}"#, [true, true, true]),
            (r#"{"port":["43210"]}"#, [false, false, false]),
            (r#"{"port":["1-79","8000-9000"]}"#, [true, true, true]),
            (r#"{"protocol":["tcp"]}"#, [true, true, true]),
            (r#"{"protocol":["udp","proto/47"]}"#, [false, false, false]),
            (r#"{"reason":["allow-rule"]}"#, [false, true, true]),
            (r#"{"direction":"egress"}"#, [true, true, true]),
            (r#"{"direction":"ingress"}"#, [false, false, false]),
            (r#"{"since":"2026-05-04T12:05:00Z"}"#, [false, false, true]),
            (r#"{"since":"2026-05-04T12:05:00Z","verdict":["deny"],"not":true}"#, [false, false, true]),
        ] {
            let filter = filter(text);
            let got = [denied(), allowed(), closed()].map(|event| filter.wants(&flow(&event)));
            assert_eq!(got, admitted, "{text}");
            let again = serde_json::to_string(&filter).unwrap();
            assert_eq!(serde_json::from_str::<Filter>(&again).unwrap(), filter, "{again}");
        }
    }

    #[test]
    fn the_listeners_own_port_counts_too() {
        let event = waxseal_common::flow::FlowEvent { port: 9090, ..denied() };
        for port in ["8080", "9090"] {
            assert!(filter(&format!(r#"{{"port":["{port}"]}}"#)).wants(&flow(&event)), "{port}");
        }
    }

    #[test]
    fn an_unknown_condition_is_refused_and_not_ignored() {
        assert!(serde_json::from_str::<Filter>(r#"{"form":["x"]}"#).is_err());
        assert!(serde_json::from_str::<Filter>(r#"{"verdict":["maybe"]}"#).is_err());
    }
}
