//! Who talks to whom, counted: one row for each pair of ends and port.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use waxseal_common::verdict::Verdict;

use super::look::who;
use super::{Flow, Look, Losses, Protocol, Shown, Time, VERSION, bytes};

/// How many pairs are told apart; flows of further ones are counted together.
const PAIRS: usize = 4096;

/// Counts flows by pair.
#[derive(Debug, Default)]
pub struct Summary {
    pairs: HashMap<Pair, Counts>,
    rest: Counts,
    losses: Losses,
    /// From when to when was judged what was counted since the last table.
    judged: Option<(Time, Time)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
struct Pair {
    source: String,
    destination: String,
    port: u16,
    protocol: Spoken,
}

/// A protocol by its number, which has an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Spoken(u8);

impl Serialize for Spoken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Protocol(self.0))
    }
}

/// What was seen of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    allowed: u64,
    /// Would-deny and audit.
    reported: u64,
    denied: u64,
    failed: u64,
    closed: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Judged since the last table.
    #[serde(skip)]
    fresh: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    pair: &'a Pair,
    #[serde(flatten)]
    counts: &'a Counts,
}

#[derive(Serialize)]
struct Report<'a> {
    v: u32,
    time: Time,
    pairs: Vec<Row<'a>>,
    /// Pairs beyond the most that are told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<&'a Counts>,
    lost: Vec<super::Loss>,
}

impl Counts {
    fn add(&mut self, flow: &Flow) {
        match flow.shown() {
            Shown::Close => self.closed += 1,
            Shown::Fail => self.failed += 1,
            _ => {
                self.fresh += 1;
                match flow.verdict {
                    Verdict::Allow | Verdict::Defer => self.allowed += 1,
                    Verdict::WouldDeny | Verdict::Audit => self.reported += 1,
                    Verdict::Deny => self.denied += 1,
                }
            }
        }
        if let Some(carried) = &flow.carried {
            self.bytes_sent = self.bytes_sent.saturating_add(carried.bytes_sent);
            self.bytes_received = self.bytes_received.saturating_add(carried.bytes_received);
        }
    }

    const fn judged(&self) -> u64 {
        self.allowed + self.reported + self.denied
    }
}

impl Summary {
    /// Counts a flow.
    pub fn add(&mut self, flow: &Flow, look: Look) {
        let end = |end: &super::End| {
            let name = who(&end.identity, look.names);
            // Strangers are told apart by address.
            if end.identity.spiffe_id.is_none() { format!("{name} {}", end.address) } else { name }
        };
        let pair = Pair {
            source: end(&flow.source),
            destination: end(&flow.destination),
            port: flow.port,
            protocol: Spoken(flow.protocol.0),
        };
        if !matches!(flow.shown(), Shown::Close | Shown::Fail) {
            let (first, last) = self.judged.unwrap_or((flow.time, flow.time));
            self.judged = Some((first.min(flow.time), last.max(flow.time)));
        }
        if self.pairs.len() >= PAIRS && !self.pairs.contains_key(&pair) {
            self.rest.add(flow);
            return;
        }
        self.pairs.entry(pair).or_default().add(flow);
    }

    /// Counts flows that are missing.
    pub fn lose(&mut self, loss: super::Loss) {
        self.losses.add(loss.cause, loss.count);
    }

    /// A table of the busiest pairs, at most `limit`, and begins to count rates anew. `span` is the time since the last
    /// one; flows of the past count for the time in which they came.
    pub fn table(&mut self, limit: usize, span: Duration) -> String {
        let past = self.judged.map_or(0, |(first, last)| last.0.saturating_sub(first.0));
        let span = span.max(Duration::from_millis(past));
        let mut out = String::new();
        let _infallible = writeln!(
            out,
            "{:>9} {:>8} {:>8} {:>7} {:>9} {:>10} {:>10}  WHO",
            "ALLOW", "REPORT", "DENY", "FAIL", "PER S", "SENT", "RECEIVED"
        );
        let sorted = self.sorted();
        for (pair, counts) in sorted.iter().take(limit) {
            let Pair { source, destination, port, protocol } = pair;
            let protocol = Protocol(protocol.0);
            push_row(&mut out, counts, &format!("{source} → {destination}:{port}/{protocol}"), span);
        }
        let mut rest = self.rest;
        sorted.iter().skip(limit).for_each(|(_, counts)| rest.join(counts));
        if rest != Counts::default() {
            let more = sorted.len().saturating_sub(limit);
            let more = if self.rest == Counts::default() { more.to_string() } else { "many".to_owned() };
            push_row(&mut out, &rest, &format!("({more} other pairs)"), span);
        }
        for loss in self.losses.each() {
            let _infallible = writeln!(out, "{loss}");
        }
        self.begin();
        out
    }

    /// The same as one line of JSON, newline included, with every pair that is told apart.
    pub fn json(&mut self, now: Time, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let pairs = self.sorted().into_iter().map(|(pair, counts)| Row { pair, counts }).collect();
        let rest = (self.rest != Counts::default()).then_some(&self.rest);
        let lost = self.losses.each().collect();
        serde_json::to_writer(&mut *out, &Report { v: VERSION, time: now, pairs, rest, lost })?;
        out.push(b'\n');
        self.begin();
        Ok(())
    }

    /// The pairs with the most denials first, then the busiest.
    fn sorted(&self) -> Vec<(&Pair, &Counts)> {
        let mut rows: Vec<_> = self.pairs.iter().collect();
        rows.sort_by(|(a, x), (b, y)| {
            (y.denied, y.judged(), y.closed).cmp(&(x.denied, x.judged(), x.closed)).then_with(|| a.cmp(b))
        });
        rows
    }

    fn begin(&mut self) {
        self.pairs.values_mut().for_each(|counts| counts.fresh = 0);
        self.rest.fresh = 0;
        self.judged = None;
    }
}

impl Counts {
    fn join(&mut self, other: &Self) {
        self.allowed += other.allowed;
        self.reported += other.reported;
        self.denied += other.denied;
        self.failed += other.failed;
        self.closed += other.closed;
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        self.fresh += other.fresh;
    }
}

fn push_row(out: &mut String, counts: &Counts, who: &str, span: Duration) {
    let Counts { allowed, reported, denied, failed, closed: _, bytes_sent, bytes_received, fresh } = counts;
    // Tenths; a span of nothing has no rate.
    let tenths = u128::from(*fresh) * 10_000 / span.as_millis().max(1);
    let rate = format!("{}.{}", tenths / 10, tenths % 10);
    let (sent, received) = (bytes(*bytes_sent), bytes(*bytes_received));
    let _infallible = writeln!(
        out,
        "{allowed:>9} {reported:>8} {denied:>8} {failed:>7} {rate:>9} {sent:>10} {received:>10}  {who}"
    );
}

#[cfg(test)]
mod tests {
    use super::super::samples::{allowed, closed, denied, flow, refused};
    use super::super::{Cause, Loss};
    use super::*;
    use expect_test::expect;
    use waxseal_common::flow::FlowEvent;
    use waxseal_common::ids::IdentityId;

    fn filled() -> Summary {
        let mut summary = Summary::default();
        let world = FlowEvent { destination: IdentityId::WORLD, port: 443, ..allowed() };
        for event in [allowed(), closed(), closed(), refused(), world, denied(), denied(), denied()] {
            summary.add(&flow(&event), Look::default());
        }
        summary.add(&flow(&FlowEvent { source: IdentityId(300), ..allowed() }), Look::default());
        summary.lose(Loss { count: 3, cause: Cause::SlowReader });
        summary
    }

    #[test]
    fn pairs_are_counted_and_the_denied_stand_on_top() {
        let mut summary = filled();
        let first = summary.table(2, Duration::from_secs(2));
        let second = summary.table(9, Duration::from_secs(2));
        expect![[r"
                ALLOW   REPORT     DENY    FAIL     PER S       SENT   RECEIVED  WHO
                    1        0        3       1       2.0    2.4 KiB   10.8 MiB  shop/checkout(256) → payments/api(257):8080/tcp
                    1        0        0       0       0.5        0 B        0 B  ?(300) 10.0.0.1 → payments/api(257):8080/tcp
                    1        0        0       0       0.5        0 B        0 B  (1 other pairs)
            … 3 events lost (slow reader)

                ALLOW   REPORT     DENY    FAIL     PER S       SENT   RECEIVED  WHO
                    1        0        3       1       0.0    2.4 KiB   10.8 MiB  shop/checkout(256) → payments/api(257):8080/tcp
                    1        0        0       0       0.0        0 B        0 B  ?(300) 10.0.0.1 → payments/api(257):8080/tcp
                    1        0        0       0       0.0        0 B        0 B  shop/checkout(256) → world 10.0.0.2:443/tcp
            … 3 events lost (slow reader)
        "]].assert_eq(&format!("{first}\n{second}"));
    }

    #[test]
    fn flows_of_the_past_count_for_the_time_in_which_they_came() {
        let mut summary = Summary::default();
        for second in 0..=10 {
            let mut flow = flow(&allowed());
            flow.time = Time(1_000_000 + second * 2_000);
            summary.add(&flow, Look::default());
        }
        // Read in a moment, made in twenty seconds: eleven are half a flow a second.
        let table = summary.table(9, Duration::from_millis(1));
        assert_eq!(table.lines().nth(1).unwrap().split_whitespace().nth(4), Some("0.5"), "{table}");
    }

    #[test]
    fn programs_get_the_same_as_one_object() {
        let mut out = Vec::new();
        filled().json(Time(0), &mut out).unwrap();
        expect![[r#"
            {"v":1,"time":"1970-01-01T00:00:00.000Z","pairs":[{"source":"shop/checkout(256)","destination":"payments/api(257)","port":8080,"protocol":"tcp","allowed":1,"reported":0,"denied":3,"failed":1,"closed":2,"bytes_sent":2468,"bytes_received":11357802},{"source":"?(300) 10.0.0.1","destination":"payments/api(257)","port":8080,"protocol":"tcp","allowed":1,"reported":0,"denied":0,"failed":0,"closed":0,"bytes_sent":0,"bytes_received":0},{"source":"shop/checkout(256)","destination":"world 10.0.0.2","port":443,"protocol":"tcp","allowed":1,"reported":0,"denied":0,"failed":0,"closed":0,"bytes_sent":0,"bytes_received":0}],"lost":[{"lost":3,"cause":"slow-reader"}]}
        "#]].assert_eq(std::str::from_utf8(&out).unwrap());
    }

    #[test]
    fn many_pairs_take_no_more_room_than_the_most() {
        let mut summary = Summary::default();
        for port in 0..=u16::MAX {
            summary.add(&flow(&FlowEvent { port: port.max(1), ..allowed() }), Look::default());
        }
        assert_eq!(summary.pairs.len(), PAIRS);
        assert_eq!(summary.rest.allowed, 65_536 - PAIRS as u64 - 1);
        assert!(summary.table(3, Duration::from_secs(1)).contains("(many other pairs)"));
    }
}
