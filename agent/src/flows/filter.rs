//! Which flows a reader wants. Filters travel as the words that people type and are applied in the agent.

use serde::{Deserialize, Serialize};
use waxseal_common::flow::SealState;
use waxseal_common::verdict::Direction;

use super::values::Named;
use super::{Because, Flow, Party, Pattern, PortRange, Protocol, Shown, Time};

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
    /// Either of the two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<Party>,
    /// The dialled port or the listener's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<PortRange>,
    /// The protocol.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<Protocol>,
    /// Why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reason: Vec<Because>,
    /// The rule or policy that decided, by its title, its policy's name or its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<Pattern>,
    /// How the opener has proven itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seal: Vec<Named<SealState>>,
    /// The side whose rules decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub direction: Vec<Named<Direction>>,
    /// The opener's process: its name or its number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub process: Vec<Pattern>,
    /// The node that tells, or the one at the other end of the session.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node: Vec<Pattern>,
    /// Not earlier than this. Not turned round by `not`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Earlier than this. Not turned round by `not`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Show what the conditions would hide.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// Show both views of a connection between two ends on one node. Not turned round by `not`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
}

impl Filter {
    /// Whether the reader wants this flow.
    pub fn wants(&self, flow: &Flow) -> bool {
        (self.raw || !flow.second) && self.is_in_time(flow.time) && self.matches(flow) != self.not
    }

    /// Whether a flow of that time may be wanted.
    pub fn is_in_time(&self, time: Time) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    fn matches(&self, flow: &Flow) -> bool {
        let Self {
            verdict,
            from,
            to,
            between,
            port,
            protocol,
            reason,
            rule,
            seal,
            direction,
            process,
            node,
            since: _,
            until: _,
            not: _,
            raw: _,
        } = self;
        any(verdict, |shown| *shown == flow.shown())
            && any(protocol, |protocol| *protocol == flow.protocol)
            && any(reason, |because| because.0 == flow.reason)
            && any(seal, |seal| seal.0 == flow.seal)
            && any(direction, |direction| direction.0 == flow.direction)
            && any(port, |range| range.holds(flow.destination.port) || range.holds(flow.port))
            && any(from, |party| party.matches(&flow.source))
            && any(to, |party| party.matches(&flow.destination))
            && any(between, |party| party.matches(&flow.source) || party.matches(&flow.destination))
            && any(rule, |pattern| decided(pattern, flow))
            && any(process, |pattern| opened(pattern, flow))
            && any(node, |pattern| knows(pattern, flow))
    }
}

fn any<T>(wanted: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

fn decided(pattern: &Pattern, flow: &Flow) -> bool {
    flow.rule.as_ref().is_some_and(|rule| {
        pattern.fits(&rule.policy)
            || rule.rule.as_ref().is_some_and(|name| pattern.fits(name) || pattern.fits(&rule.title()))
    })
}

fn opened(pattern: &Pattern, flow: &Flow) -> bool {
    flow.process
        .as_ref()
        .is_some_and(|process| pattern.fits(&process.comm) || pattern.fits(&process.pid.to_string()))
}

fn knows(pattern: &Pattern, flow: &Flow) -> bool {
    let other = flow.session.as_ref().and_then(|session| session.node.as_ref());
    pattern.fits(&flow.node) || other.is_some_and(|node| pattern.fits(node))
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
            (r#"{"direction":["egress"]}"#, [true, true, true]),
            (r#"{"direction":["ingress"]}"#, [false, false, false]),
            (r#"{"direction":["ingress","egress"]}"#, [true, true, true]),
            (r#"{"from":["app=checkout"]}"#, [true, true, true]),
            (r#"{"from":["app=checkout,tier=web"]}"#, [false, false, false]),
            (r#"{"from":["app!=api"]}"#, [true, true, true]),
            (r#"{"from":["app!=checkout"]}"#, [false, false, false]),
            (r#"{"between":["payments/api"]}"#, [true, true, true]),
            (r#"{"between":["app=nobody"]}"#, [false, false, false]),
            (r#"{"rule":["payments/from-checkout"]}"#, [true, true, true]),
            (r#"{"rule":["only-get"]}"#, [true, false, false]),
            (r#"{"rule":["payments/from-checkout#only-*"]}"#, [true, false, false]),
            (r#"{"seal":["local"]}"#, [true, true, true]),
            (r#"{"seal":["sealed","forged"]}"#, [false, false, false]),
            (r#"{"process":["curl"]}"#, [true, true, true]),
            (r#"{"process":["4121"]}"#, [true, true, true]),
            (r#"{"process":["wget","4122"]}"#, [false, false, false]),
            (r#"{"node":["alpha"]}"#, [true, true, true]),
            (r#"{"node":["b*"]}"#, [false, false, false]),
            (r#"{"until":"2026-05-04T12:05:00Z"}"#, [true, true, false]),
            (r#"{"since":"2026-05-04T12:05:00Z","until":"2026-05-04T12:06:00Z"}"#, [false, false, true]),
            (r#"{"until":"2026-05-04T12:05:00Z","verdict":["deny"],"not":true}"#, [false, true, false]),
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
