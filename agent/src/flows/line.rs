//! One line in fixed columns, for people. Readable without colour.

use std::fmt::Write as _;
use std::net::IpAddr;

use anstyle::{AnsiColor, Style};
use waxseal_common::flow::SealState;
use waxseal_common::verdict::Direction;

use super::words::Word as _;
use super::{End, Flow, Identity, Protocol, Session, Shown};

/// Names the columns of [`line()`]. Times are UTC.
pub const HEADER: &str = "TIME          VERDICT  DIR  SOURCE                     DESTINATION              ADDRESS                   PROCESS               WHY";

/// A flow as one line without the newline. Columns that overflow push the rest to the right; nothing is cut.
pub fn line(flow: &Flow, colour: bool) -> String {
    let mut out = String::with_capacity(180);
    let shown = flow.shown();
    let _infallible = write!(out, "{}  ", flow.time.clock());
    column(&mut out, shown.word(), 7, if colour { style(shown) } else { Style::new() });
    column(&mut out, if flow.direction == Direction::Egress { "out" } else { "in" }, 3, Style::new());
    column(&mut out, &who(&flow.source.identity), 23, Style::new());
    out.push_str("→ ");
    column(&mut out, &who(&flow.destination.identity), 23, Style::new());
    column(&mut out, &address(&flow.destination, flow.port, flow.protocol), 24, Style::new());
    let process = flow.process.as_ref().map_or_else(|| "-".to_owned(), |p| format!("{}[{}]", p.comm, p.pid));
    column(&mut out, &process, 20, Style::new());
    out.push_str(&why(flow));
    out.push_str(&proof(flow));
    out
}

/// The notice that a reader was too slow.
pub fn lost(count: u64) -> String {
    format!("… {count} event{} lost (slow reader)", if count == 1 { "" } else { "s" })
}

fn style(shown: Shown) -> Style {
    match shown {
        Shown::Allow => AnsiColor::Green.on_default(),
        Shown::Would | Shown::Audit => AnsiColor::Yellow.on_default(),
        Shown::Deny => AnsiColor::Red.on_default().bold(),
        Shown::Close => Style::new().dimmed(),
    }
}

/// The text, filled up with spaces, and two more. The spaces carry no style.
fn column(out: &mut String, text: &str, width: usize, style: Style) {
    let fill = width.saturating_sub(text.chars().count()) + 2;
    let _infallible = write!(out, "{style}{text}{style:#}{:fill$}", "");
}

/// `shop/checkout(256)`, and reserved identities by their word alone.
fn who(identity: &Identity) -> String {
    if identity.spiffe_id.is_none() && identity.name != "?" {
        return identity.name.clone();
    }
    format!("{}({})", identity.name, identity.id)
}

/// `10.0.0.2:8080/tcp`, and `10.0.0.2:80→8080/tcp` where the listener's own port is another than the dialled one.
fn address(end: &End, port: u16, protocol: Protocol) -> String {
    let ip = match end.address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    if port == 0 && end.port == 0 {
        return format!("{ip}/{protocol}");
    }
    if port == end.port {
        return format!("{ip}:{port}/{protocol}");
    }
    format!("{ip}:{}→{port}/{protocol}", end.port)
}

/// What was carried, for a close; else the reason and the rule, with its place when it stands in somebody's way.
fn why(flow: &Flow) -> String {
    if let Some(carried) = &flow.carried {
        let seconds = carried.duration_ns / 1_000_000_000;
        let ms = carried.duration_ns / 1_000_000 % 1000;
        let (sent, received) = (bytes(carried.bytes_sent), bytes(carried.bytes_received));
        return format!("sent {sent}, received {received}, {seconds}.{ms:03} s");
    }
    let mut out = flow.reason.as_str().to_owned();
    if let Some(rule) = &flow.rule {
        let _infallible = write!(out, " {}", rule.title());
        if flow.shown() != Shown::Allow {
            let _infallible = write!(out, " ({})", rule.origin);
        }
    }
    out
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
    use super::super::samples::{allowed, closed, denied, flow};
    use super::*;
    use expect_test::expect;
    use waxseal_common::address::Address;
    use waxseal_common::flow::FlowEvent;
    use waxseal_common::ids::{IdentityId, RuleId};
    use waxseal_common::state::{Process, Tuple};
    use waxseal_common::verdict::{Reason, Verdict};

    #[test]
    fn lines_stand_in_columns_below_their_header() {
        let v6: IpAddr = "2001:db8::2".parse().unwrap();
        let events = [
            allowed(),
            denied(),
            closed(),
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
        let lines: Vec<String> = events.iter().map(|event| line(&flow(event), false)).collect();
        expect![[r"
            TIME          VERDICT  DIR  SOURCE                     DESTINATION              ADDRESS                   PROCESS               WHY
            12:04:31.882  ALLOW    out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            allow-rule payments/from-checkout#2
            12:04:31.882  DENY     out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
            12:05:31.882  CLOSE    out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            sent 1.2 KiB, received 5.4 MiB, 60.000 s
            12:04:31.882  AUDIT    in   world                    → payments/api(257)        10.0.0.2:8080→443/tcp     -                     no-rule-matches payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
            12:04:31.882  WOULD    out  ?(300)                   → payments/api(257)        [2001:db8::2]:8080/udp    curl[4121]            no-rule-matches
            12:04:31.882  DENY     out  shop/checkout(256)       → payments/api(257)        10.0.0.2/proto/47         \x1b[31mDENY\n[1]     deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
        "]].assert_eq(&format!("{HEADER}\n{}\n", lines.join("\n")));
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
            let line = line(&flow(&event), false);
            assert!(line.ends_with(end), "{line}");
        }
    }

    #[test]
    fn colour_changes_no_letter() {
        for event in [allowed(), denied(), closed()] {
            let flow = flow(&event);
            let coloured = line(&flow, true);
            assert!(coloured.contains('\x1b'));
            assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), line(&flow, false));
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
    fn a_loss_is_told_in_words() {
        assert_eq!(lost(1), "… 1 event lost (slow reader)");
        assert_eq!(lost(12), "… 12 events lost (slow reader)");
    }
}
