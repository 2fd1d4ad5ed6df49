//! One line in fixed columns, for people. Readable without colour.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use waxseal_common::flow::SealState;
use waxseal_common::verdict::Direction;

use super::look::{address, column, who};
use super::words::Word as _;
use super::{Carried, Ended, Flow, Look, Session, Shown, Time};

const REST: &str = "VERDICT  DIR  SOURCE                     DESTINATION              ADDRESS                   PROCESS               WHY";

/// How wide the column of nodes is.
const NODE: usize = 12;

/// Names the columns of [`line()`]. Times are UTC.
pub fn header(look: Look) -> String {
    let mut out = String::new();
    time_column(&mut out, "TIME", look);
    if look.nodes {
        column(&mut out, "NODE", NODE, Style::new());
    }
    out + REST
}

/// A flow as one line without the newline. Columns that overflow push the rest to the right; nothing is cut. `now` is the
/// time of writing.
pub fn line(flow: &Flow, look: Look, now: Time) -> String {
    let mut out = String::with_capacity(180);
    time_column(&mut out, &look.stamp.write(flow.time, now), look);
    if look.nodes {
        column(&mut out, &flow.node, NODE, Style::new());
    }
    verdict_column(&mut out, flow, look);
    column(&mut out, &who(&flow.source.identity, look.names), 23, Style::new());
    out.push_str("→ ");
    column(&mut out, &who(&flow.destination.identity, look.names), 23, Style::new());
    column(&mut out, &address(&flow.destination, flow.port, flow.protocol), 24, Style::new());
    column(&mut out, &process(flow, look), 20, Style::new());
    out.push_str(&why(flow, look));
    out.push_str(&proof(flow));
    out
}

pub(super) fn time_column(out: &mut String, text: &str, look: Look) {
    if look.stamp.width() > 0 {
        column(out, text, look.stamp.width(), Style::new());
    }
}

/// The verdict and the side that decided.
pub(super) fn verdict_column(out: &mut String, flow: &Flow, look: Look) {
    let shown = flow.shown();
    column(out, shown.word(), 7, if look.colour { style(shown) } else { Style::new() });
    column(out, if flow.direction == Direction::Egress { "out" } else { "in" }, 3, Style::new());
}

/// `curl[4121]`; the number alone without names.
pub(super) fn process(flow: &Flow, look: Look) -> String {
    match &flow.process {
        None => "-".to_owned(),
        Some(process) if look.names => format!("{}[{}]", process.comm, process.pid),
        Some(process) => process.pid.to_string(),
    }
}

fn style(shown: Shown) -> Style {
    match shown {
        Shown::Allow => AnsiColor::Green.on_default(),
        Shown::Would | Shown::Audit => AnsiColor::Yellow.on_default(),
        Shown::Deny => AnsiColor::Red.on_default().bold(),
        Shown::Fail => AnsiColor::Magenta.on_default(),
        Shown::Close => Style::new().dimmed(),
    }
}

/// What was carried, for a close; how it failed; else the reason and the rule, with its place when it stands in somebody's
/// way.
pub(super) fn why(flow: &Flow, look: Look) -> String {
    if let Some(carried) = &flow.carried {
        return carried_in_short(carried, flow.ended);
    }
    if let Some(ended) = flow.ended {
        return ended.word().to_owned();
    }
    let mut out = flow.reason.as_str().to_owned();
    if let Some(rule) = flow.rule.as_ref().filter(|_| look.names) {
        let _infallible = write!(out, " {}", rule.title());
        if flow.shown() != Shown::Allow {
            let _infallible = write!(out, " ({})", rule.origin);
        }
    }
    out
}

/// An end that is out of the ordinary is named.
fn carried_in_short(carried: &Carried, ended: Option<Ended>) -> String {
    let duration = seconds(carried.duration_ns);
    let (sent, received) = (bytes(carried.bytes_sent), bytes(carried.bytes_received));
    let ordinary = [Ended::OpenerClosed, Ended::AcceptorClosed, Ended::BothClosed];
    let ended = ended.filter(|ended| !ordinary.contains(ended));
    let ended = ended.map_or_else(String::new, |ended| format!(", {}", ended.word()));
    format!("sent {sent}, received {received}, {duration} s{ended}")
}

/// `60.000`.
pub(super) fn seconds(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

/// How the opener has proven itself between nodes, or why not. Within the node nothing need be said.
fn proof(flow: &Flow) -> String {
    let age = |age: u64| format!(", {} s", age / 1_000_000_000);
    match (flow.seal, &flow.session, &flow.failure) {
        (SealState::None | SealState::Local, ..) => String::new(),
        (SealState::Wire, Some(Session { node: Some(node), age_ns, .. }), _) => {
            format!(" [sealed {node}{}]", age_ns.map_or_else(String::new, age))
        }
        (seal, _, Some(failure)) => format!(" [{}: {failure}]", seal.as_str()),
        (seal, _, None) => format!(" [{}]", seal.as_str()),
    }
}

/// `987 B`, `1.2 KiB`, `5.4 MiB`: one place after the point, rounded down.
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10) as usize;
    let unit = 1u64 << (10 * power);
    // The remainder is below 2^60, so that ten of it fit.
    format!("{}.{} {}", count / unit, count % unit * 10 / unit, units[power - 1])
}

#[cfg(test)]
mod tests {
    use super::super::Stamp;
    use super::super::samples::{allowed, closed, denied, flow, refused};
    use super::*;
    use expect_test::expect;
    use std::net::IpAddr;
    use waxseal_common::address::Address;
    use waxseal_common::flow::FlowEvent;
    use waxseal_common::ids::{IdentityId, RuleId};
    use waxseal_common::state::{Process, Tuple};
    use waxseal_common::verdict::{Reason, Verdict};

    fn plain(event: &FlowEvent) -> String {
        line(&flow(event), Look::default(), Time(0))
    }

    #[test]
    fn lines_stand_in_columns_below_their_header() {
        let v6: IpAddr = "2001:db8::2".parse().unwrap();
        let events = [
            allowed(),
            denied(),
            closed(),
            FlowEvent { error: 104, ..closed() },
            refused(),
            FlowEvent {
                verdict: Verdict::Audit as u8,
                kind: 0,
                reason: Reason::NoRuleMatches as u8,
                direction: 0,
                source: IdentityId::WORLD,
                process: Process::default(),
                port: 443,
                ..denied()
            },
            FlowEvent {
                verdict: Verdict::WouldDeny as u8,
                kind: 0,
                reason: Reason::NoRuleMatches as u8,
                rule: RuleId::NONE,
                source: IdentityId(300),
                protocol: 17,
                tuple: Tuple { destination: Address::from(v6), ..denied().tuple },
                ..denied()
            },
            FlowEvent {
                protocol: 47,
                port: 0,
                tuple: Tuple { destination_port: 0, source_port: 0, ..denied().tuple },
                process: Process { pid: 1, comm: *b"\x1b[31mDENY\n\0\0\0\0\0\0" },
                ..denied()
            },
        ];
        let lines: Vec<String> = events.iter().map(plain).collect();
        expect![[r"
            TIME          VERDICT  DIR  SOURCE                     DESTINATION              ADDRESS                   PROCESS               WHY
            12:04:31.882  ALLOW    out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            allow-rule payments/from-checkout#2
            12:04:31.882  DENY     out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
            12:05:31.882  CLOSE    out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            sent 1.2 KiB, received 5.4 MiB, 60.000 s
            12:05:31.882  CLOSE    out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            sent 1.2 KiB, received 5.4 MiB, 60.000 s, acceptor-reset
            12:04:31.882  FAIL     out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            refused
            12:04:31.882  AUDIT    in   world                    → payments/api(257)        10.0.0.2:8080→443/tcp     -                     no-rule-matches payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
            12:04:31.882  WOULD    out  ?(300)                   → payments/api(257)        [2001:db8::2]:8080/udp    curl[4121]            no-rule-matches
            12:04:31.882  DENY     out  shop/checkout(256)       → payments/api(257)        10.0.0.2/proto/47         \x1b[31mDENY\n[1]     deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
        "]].assert_eq(&format!("{}\n{}\n", header(Look::default()), lines.join("\n")));
    }

    #[test]
    fn a_line_tells_what_has_proven_an_opener_of_another_node() {
        let sealed = FlowEvent { seal: SealState::Wire as u8, session: 9, ..allowed() };
        let failed = FlowEvent { seal: SealState::NoSession as u8, failure: 3, ..denied() };
        let forged = FlowEvent { seal: SealState::Forged as u8, ..denied() };
        for (event, end) in [
            (sealed, "[sealed beta, 0 s]"),
            (FlowEvent { session: 8, ..sealed }, "[sealed]"),
            (failed, "[no-session: untrusted]"),
            (forged, "[forged]"),
        ] {
            let line = plain(&event);
            assert!(line.ends_with(end), "{line}");
        }
    }

    #[test]
    fn colour_changes_no_letter() {
        for event in [allowed(), denied(), closed()] {
            let look = Look { colour: true, ..Look::default() };
            let coloured = line(&flow(&event), look, Time(0));
            assert!(coloured.contains('\x1b'));
            assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain(&event));
        }
    }

    #[test]
    fn sizes_are_short_and_never_too_large() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (5_678_901, "5.4 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }

    #[test]
    fn times_and_names_are_left_out_for_who_asks() {
        let looks = [Stamp::None, Stamp::Full].map(|stamp| Look { stamp, names: false, ..Look::default() });
        let lines = looks.map(|look| format!("{}\n{}", header(look), line(&flow(&denied()), look, Time(0))));
        expect![[r"
            VERDICT  DIR  SOURCE                     DESTINATION              ADDRESS                   PROCESS               WHY
            DENY     out  256                      → 257                      10.0.0.2:8080/tcp         4121                  deny-rule
            TIME                      VERDICT  DIR  SOURCE                     DESTINATION              ADDRESS                   PROCESS               WHY
            2026-05-04T12:04:31.882Z  DENY     out  256                      → 257                      10.0.0.2:8080/tcp         4121                  deny-rule
        "]].assert_eq(&(lines.join("\n") + "\n"));
    }
}
