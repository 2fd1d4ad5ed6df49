//! Everything a flow knows: on one wide line, or one field a line.

use std::fmt::Write as _;

use anstyle::Style;
use waxseal_common::flow::SealState;

use super::line::{process, seconds, time_column, verdict_column, why};
use super::look::{address, column, ip, who};
use super::words::Word as _;
use super::{End, Flow, Look, Time, bytes};

/// A flow as one long line without the newline: with both ends whole, the proof, the rule's place, the cgroup and the node.
pub fn wide(flow: &Flow, look: Look, now: Time) -> String {
    let mut out = String::with_capacity(400);
    time_column(&mut out, &look.stamp.write(flow.time, now), look);
    verdict_column(&mut out, flow, look);
    let source = format!("{} {}:{}", name(&flow.source, look), ip(flow.source.address), flow.source.port);
    let destination =
        format!("{} {}", name(&flow.destination, look), address(&flow.destination, flow.port, flow.protocol));
    column(&mut out, &source, 40, Style::new());
    out.push_str("→ ");
    column(&mut out, &destination, 40, Style::new());
    column(&mut out, &process(flow, look), 20, Style::new());
    column(&mut out, &proven(flow), 7, Style::new());
    out.push_str(&why(flow, look));
    if let Some(rule) = &flow.rule
        && flow.ended.is_some()
        && look.names
    {
        let _infallible = write!(out, " under {} ({})", rule.title(), rule.origin);
    }
    if let Some(carried) = &flow.carried {
        let (sent, received) = (carried.packets_sent, carried.packets_received);
        let _infallible = write!(out, "; packets {sent}/{received}, {} again", carried.retransmits);
        if let Some(rtt) = carried.rtt_us {
            let _infallible = write!(out, ", rtt {}", milliseconds(rtt));
        }
    }
    let cgroup = flow.cgroup.path.as_deref().filter(|_| look.names);
    let _infallible = match cgroup {
        Some(path) => write!(out, "  {path}"),
        None => write!(out, "  cgroup {}", flow.cgroup.id),
    };
    let _infallible = write!(out, "  {}  revision {}  {}", flow.hook.as_str(), flow.revision, flow.node);
    out
}

/// The SPIFFE ID where there is one.
fn name(end: &End, look: Look) -> String {
    match &end.identity.spiffe_id {
        Some(id) if look.names => format!("{id}({})", end.identity.id),
        _ => who(&end.identity, look.names),
    }
}

fn proven(flow: &Flow) -> String {
    match (&flow.session, &flow.failure) {
        (_, Some(failure)) => format!("{}: {failure}", flow.seal.as_str()),
        (Some(session), None) if flow.seal == SealState::Wire => {
            let node = session.node.as_deref().unwrap_or("?");
            format!("sealed {node} session {}", session.id)
        }
        _ => flow.seal.as_str().to_owned(),
    }
}

/// `1.250 ms`.
fn milliseconds(us: u32) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// A flow as lines of `name: value`, each with its newline.
pub fn details(flow: &Flow, look: Look, now: Time) -> String {
    let mut out = String::with_capacity(900);
    let mut field = |name: &str, value: &str| {
        let _infallible = writeln!(out, "{name:>12}: {value}");
    };
    let stamp = look.stamp.write(flow.time, now);
    if !stamp.is_empty() {
        field("time", stamp.trim_start());
    }
    field("verdict", flow.shown().word());
    field("direction", flow.direction.word());
    field("reason", flow.reason.as_str());
    if let Some(rule) = &flow.rule {
        field("rule", &format!("{} ({})", rule.title(), rule.origin));
    }
    end(&mut field, "source", &flow.source, look);
    end(&mut field, "destination", &flow.destination, look);
    field("protocol", &flow.protocol.to_string());
    field("port", &flow.port.to_string());
    field("process", &process(flow, look));
    field("cgroup", &cgroup(flow, look));
    field("netns", &flow.netns.to_string());
    field("cookie", &flow.cookie.to_string());
    field("hook", flow.hook.as_str());
    field("seal", &proven(flow));
    if let Some(ended) = flow.ended {
        field("ended", ended.word());
    }
    if let Some(carried) = &flow.carried {
        let (sent, received) = (bytes(carried.bytes_sent), bytes(carried.bytes_received));
        field("sent", &format!("{sent} ({} bytes) in {} packets", carried.bytes_sent, carried.packets_sent));
        let packets = carried.packets_received;
        field("received", &format!("{received} ({} bytes) in {packets} packets", carried.bytes_received));
        field("duration", &format!("{} s", seconds(carried.duration_ns)));
        field("sent again", &carried.retransmits.to_string());
        field("rtt", &carried.rtt_us.map_or_else(|| "-".to_owned(), milliseconds));
    }
    field("revision", &flow.revision.to_string());
    field("node", &format!("{} (instance {})", flow.node, flow.instance));
    out
}

fn cgroup(flow: &Flow, look: Look) -> String {
    match &flow.cgroup.path {
        Some(path) if look.names => format!("{path} ({})", flow.cgroup.id),
        _ => flow.cgroup.id.to_string(),
    }
}

fn end(field: &mut impl FnMut(&str, &str), name: &str, end: &End, look: Look) {
    field(name, &format!("{} {}:{}", who(&end.identity, look.names), ip(end.address), end.port));
    if let Some(id) = end.identity.spiffe_id.as_ref().filter(|_| look.names) {
        field("", id);
    }
    if look.names && !end.identity.labels.is_empty() {
        let labels: Vec<String> =
            end.identity.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        field("", &labels.join(","));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stamp;
    use super::super::samples::{allowed, closed, denied, flow, refused};
    use super::*;
    use expect_test::expect;
    use waxseal_common::flow::FlowEvent;

    #[test]
    fn wide_lines_hold_what_there_is() {
        let sealed = FlowEvent { seal: SealState::Wire as u8, session: 9, ..allowed() };
        let failed = FlowEvent { seal: SealState::NoSession as u8, failure: 3, ..denied() };
        let events = [allowed(), denied(), closed(), refused(), sealed, failed];
        let look = Look::default();
        let mut lines: Vec<String> = events.iter().map(|event| wide(&flow(event), look, Time(0))).collect();
        let numbers = Look { names: false, stamp: Stamp::None, ..look };
        lines.extend(events.iter().map(|event| wide(&flow(event), numbers, Time(0))));
        expect![[r"
            12:04:31.882  ALLOW    out  spiffe://cluster.local/ns/shop/sa/checkout(256) 10.0.0.1:43210  → spiffe://cluster.local/ns/payments/sa/api(257) 10.0.0.2:8080/tcp  curl[4121]            local    allow-rule payments/from-checkout#2  /system.slice/checkout.service  connect4  revision 3  alpha
            12:04:31.882  DENY     out  spiffe://cluster.local/ns/shop/sa/checkout(256) 10.0.0.1:43210  → spiffe://cluster.local/ns/payments/sa/api(257) 10.0.0.2:8080/tcp  curl[4121]            local    deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)  /system.slice/checkout.service  connect4  revision 3  alpha
            12:05:31.882  CLOSE    out  spiffe://cluster.local/ns/shop/sa/checkout(256) 10.0.0.1:43210  → spiffe://cluster.local/ns/payments/sa/api(257) 10.0.0.2:8080/tcp  curl[4121]            local    sent 1.2 KiB, received 5.4 MiB, 60.000 s under payments/from-checkout#2 (/etc/waxseal/policies/pay.yaml:20:7); packets 40/4021, 3 again, rtt 1.250 ms  /system.slice/checkout.service  connect4  revision 3  alpha
            12:04:31.882  FAIL     out  spiffe://cluster.local/ns/shop/sa/checkout(256) 10.0.0.1:43210  → spiffe://cluster.local/ns/payments/sa/api(257) 10.0.0.2:8080/tcp  curl[4121]            local    refused under payments/from-checkout#2 (/etc/waxseal/policies/pay.yaml:20:7)  /system.slice/checkout.service  sock_ops  revision 3  alpha
            12:04:31.882  ALLOW    out  spiffe://cluster.local/ns/shop/sa/checkout(256) 10.0.0.1:43210  → spiffe://cluster.local/ns/payments/sa/api(257) 10.0.0.2:8080/tcp  curl[4121]            sealed beta session 9  allow-rule payments/from-checkout#2  /system.slice/checkout.service  connect4  revision 3  alpha
            12:04:31.882  DENY     out  spiffe://cluster.local/ns/shop/sa/checkout(256) 10.0.0.1:43210  → spiffe://cluster.local/ns/payments/sa/api(257) 10.0.0.2:8080/tcp  curl[4121]            no-session: untrusted  deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)  /system.slice/checkout.service  connect4  revision 3  alpha
            ALLOW    out  256 10.0.0.1:43210                        → 257 10.0.0.2:8080/tcp                     4121                  local    allow-rule  cgroup 40  connect4  revision 3  alpha
            DENY     out  256 10.0.0.1:43210                        → 257 10.0.0.2:8080/tcp                     4121                  local    deny-rule  cgroup 40  connect4  revision 3  alpha
            CLOSE    out  256 10.0.0.1:43210                        → 257 10.0.0.2:8080/tcp                     4121                  local    sent 1.2 KiB, received 5.4 MiB, 60.000 s; packets 40/4021, 3 again, rtt 1.250 ms  cgroup 40  connect4  revision 3  alpha
            FAIL     out  256 10.0.0.1:43210                        → 257 10.0.0.2:8080/tcp                     4121                  local    refused  cgroup 40  sock_ops  revision 3  alpha
            ALLOW    out  256 10.0.0.1:43210                        → 257 10.0.0.2:8080/tcp                     4121                  sealed beta session 9  allow-rule  cgroup 40  connect4  revision 3  alpha
            DENY     out  256 10.0.0.1:43210                        → 257 10.0.0.2:8080/tcp                     4121                  no-session: untrusted  deny-rule  cgroup 40  connect4  revision 3  alpha
        "]].assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn details_hold_what_there_is() {
        let look = Look { stamp: Stamp::Full, ..Look::default() };
        let text = [denied(), closed()].map(|event| details(&flow(&event), look, Time(0))).join("\n");
        expect![[r"
            at the margin
                    time: 2026-05-04T12:04:31.882Z
                 verdict: DENY
               direction: egress
                  reason: deny-rule
                    rule: payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
                  source: shop/checkout(256) 10.0.0.1:43210
                        : spiffe://cluster.local/ns/shop/sa/checkout
                        : app=checkout
             destination: payments/api(257) 10.0.0.2:8080
                        : spiffe://cluster.local/ns/payments/sa/api
                        : app=api
                protocol: tcp
                    port: 8080
                 process: curl[4121]
                  cgroup: /system.slice/checkout.service (40)
                   netns: 4026531840
                  cookie: 77
                    hook: connect4
                    seal: local
                revision: 3
                    node: alpha (instance default)

                    time: 2026-05-04T12:05:31.882Z
                 verdict: CLOSE
               direction: egress
                  reason: allow-rule
                    rule: payments/from-checkout#2 (/etc/waxseal/policies/pay.yaml:20:7)
                  source: shop/checkout(256) 10.0.0.1:43210
                        : spiffe://cluster.local/ns/shop/sa/checkout
                        : app=checkout
             destination: payments/api(257) 10.0.0.2:8080
                        : spiffe://cluster.local/ns/payments/sa/api
                        : app=api
                protocol: tcp
                    port: 8080
                 process: curl[4121]
                  cgroup: /system.slice/checkout.service (40)
                   netns: 4026531840
                  cookie: 77
                    hook: connect4
                    seal: local
                   ended: opener-closed
                    sent: 1.2 KiB (1234 bytes) in 40 packets
                received: 5.4 MiB (5678901 bytes) in 4021 packets
                duration: 60.000 s
              sent again: 3
                     rtt: 1.250 ms
                revision: 3
                    node: alpha (instance default)
        "]]
        .assert_eq(&format!("at the margin\n{text}"));
    }

    #[test]
    fn details_without_names_are_numbers() {
        let look = Look { stamp: Stamp::None, names: false, ..Look::default() };
        expect![[r"
            at the margin
                 verdict: ALLOW
               direction: egress
                  reason: allow-rule
                    rule: payments/from-checkout#2 (/etc/waxseal/policies/pay.yaml:20:7)
                  source: 256 10.0.0.1:43210
             destination: 257 10.0.0.2:8080
                protocol: tcp
                    port: 8080
                 process: 4121
                  cgroup: 40
                   netns: 4026531840
                  cookie: 77
                    hook: connect4
                    seal: local
                revision: 3
                    node: alpha (instance default)
        "]]
        .assert_eq(&format!("at the margin\n{}", details(&flow(&allowed()), look, Time(0))));
    }
}
