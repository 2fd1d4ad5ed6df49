//! What can be asked of a tap.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use waxseal_common::flow::SealState;
use waxseal_common::verdict::Direction;

use super::Render;
use super::nodes::{NodeTerm, Others};
use crate::api::TapRequest;
use crate::config::duration;
use crate::flows::{
    Because, Filter, Look, Named, Party, PartyError, Pattern, PortRange, Protocol, Shown, Stamp, Time,
};

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct Arguments {
    /// Go on with what happens from now; the default
    #[arg(short, long, conflicts_with = "no_follow")]
    follow: bool,
    /// Show the past and end
    #[arg(long)]
    no_follow: bool,
    /// Show this many of the past first
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Show the past since then first: 30s, 5m, 1h, 7d, or 2026-05-04T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Time>,
    /// End with what happened before then; in the past it means --no-follow
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Time>,
    /// Only these verdicts: allow, would, audit, deny, close, fail
    #[arg(long, value_name = "VERDICT", value_delimiter = ',')]
    verdict: Vec<Shown>,
    /// Only these openers: name, namespace/name, SPIFFE ID (* stands for anything), key=value label, number, address, range
    #[arg(long, value_name = "WHO")]
    from: Vec<Parties>,
    /// Only these acceptors
    #[arg(long, value_name = "WHO")]
    to: Vec<Parties>,
    /// Only where either end is one of these
    #[arg(long, value_name = "WHO")]
    between: Vec<Parties>,
    /// Only these ports of the acceptor: 8080 or 9000-9100
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    port: Vec<PortRange>,
    /// Only these protocols: tcp, udp or proto/N
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    protocol: Vec<Protocol>,
    /// Only these reasons, such as no-rule-matches
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<Because>,
    /// Only what these rules decided: namespace/policy, the rule's name, or namespace/policy#rule
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    rule: Vec<Pattern>,
    /// Only where the opener has proven itself so: none, local, sealed, no-room, no-session, unknown-session, forged, expired
    #[arg(long, value_name = "SEAL", value_delimiter = ',')]
    seal: Vec<Named<SealState>>,
    /// Only what this side's rules decided: ingress or egress
    #[arg(long, value_name = "DIRECTION", value_delimiter = ',')]
    direction: Vec<Named<Direction>>,
    /// Only these processes: the name or the number of the opener's
    #[arg(long, value_name = "PROCESS", value_delimiter = ',')]
    process: Vec<Pattern>,
    /// Only what these nodes tell, or what goes to or comes from them; their agents are asked too. NAME, a name with *, or
    /// NAME=ADDRESS for a node that this one has not met
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    node: Vec<NodeTerm>,
    /// What every node tells that this one knows, in order of time
    #[arg(long)]
    all_nodes: bool,
    /// Show what the conditions above would hide
    #[arg(long)]
    not: bool,
    /// Both views of a connection whose ends are both on one node, as long as this tap is open; else it makes one line
    #[arg(long)]
    raw: bool,
    /// For whom to write
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// One JSON object a line; short for -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// How to write times, all UTC: clock, rfc3339, unix, ago or none
    #[arg(long, value_name = "HOW", default_value = "clock")]
    time: Named<Stamp>,
    /// Numbers and addresses in place of names
    #[arg(long)]
    no_names: bool,
    /// Who talks to whom, counted, instead of single flows
    #[arg(long)]
    summary: bool,
    /// How often to write the summary anew
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "2s", requires = "summary")]
    every: Duration,
    /// Wait for an agent that is away, and go on where it ended
    #[arg(long, conflicts_with = "no_follow")]
    reconnect: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One line a flow, in columns.
    #[default]
    Compact,
    /// One long line a flow, with all that is known.
    Wide,
    /// One JSON object a line.
    Json,
    /// One field a line.
    Dict,
}

/// One `--from`: names with commas between them, any of which will do, or one selector of labels.
#[derive(Clone, Debug)]
struct Parties(Vec<Party>);

impl FromStr for Parties {
    type Err = PartyError;

    fn from_str(text: &str) -> Result<Self, PartyError> {
        if text.contains('=') && !text.starts_with("spiffe://") {
            return Ok(Self(vec![text.parse()?]));
        }
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// The longest span that can be asked for. Longer than any history.
const DAYS: u64 = 36_500;

fn moment(text: &str) -> Result<Time, String> {
    if let Some(span) = days(text).or_else(|| duration(text)) {
        return Ok(Time::now().before(span));
    }
    text.parse().map_err(|_error| "use a span like 5m or 7d, or a time like 2026-05-04T12:00:00Z".to_owned())
}

fn days(text: &str) -> Option<Duration> {
    let days: u64 = text.strip_suffix('d')?.parse().ok()?;
    (days <= DAYS).then(|| Duration::from_hours(24 * days))
}

fn span(text: &str) -> Result<Duration, String> {
    let long_enough = |span: &Duration| *span >= Duration::from_millis(100);
    duration(text).filter(long_enough).ok_or_else(|| "use a span like 2s, at least 100ms".to_owned())
}

impl Arguments {
    /// What is asked of the agent. Whoever follows without asking for the past still sees everything since `started`,
    /// the moment the command was typed.
    pub(super) fn request(&self, started: Time) -> TapRequest {
        let follow = !self.no_follow && self.until.is_none_or(|until| until > started);
        let asks_for_past = !follow || self.last.is_some() || self.since.is_some();
        let parties = |parties: &[Parties]| parties.iter().flat_map(|parties| parties.0.clone()).collect();
        let filter = Filter {
            verdict: self.verdict.clone(),
            from: parties(&self.from),
            to: parties(&self.to),
            between: parties(&self.between),
            port: self.port.clone(),
            protocol: self.protocol.clone(),
            reason: self.reason.clone(),
            rule: self.rule.clone(),
            seal: self.seal.clone(),
            direction: self.direction.clone(),
            process: self.process.clone(),
            node: self.node.iter().map(|term| term.pattern.clone()).collect(),
            since: if asks_for_past { self.since } else { Some(started) },
            until: self.until,
            not: self.not,
            raw: self.raw,
        };
        TapRequest { filter, last: self.last, follow, marked: false }
    }

    /// How lines are written.
    pub(super) fn render(&self, colour: bool, terminal: bool) -> Render {
        let format = if self.json { Format::Json } else { self.output };
        let look = Look { colour, stamp: self.time.0, names: !self.no_names, nodes: false };
        Render { format, look, terminal, summary: self.summary }
    }

    /// Which agents are asked beside the own one.
    pub(super) fn others(&self) -> Others<'_> {
        if self.all_nodes {
            return Others::All;
        }
        // Whoever wants everything but some nodes asks nobody of them.
        Others::Named(if self.not { &[] } else { &self.node })
    }

    pub(super) const fn reconnects(&self) -> bool {
        self.reconnect
    }

    /// How often there is something to write although nothing comes.
    pub(super) fn every(&self) -> Option<Duration> {
        self.summary.then_some(self.every)
    }
}
