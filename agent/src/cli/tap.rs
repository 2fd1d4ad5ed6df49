//! `waxseal tap`: connections as they are judged.

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::{Args, ValueEnum};

use super::Common;
use super::exit::{Ended, Exit};
use crate::api::{Lines, TapRequest};
use crate::config::duration;
use crate::escape::escape_within;
use crate::flows::{
    Because, Filter, HEADER, Line, Party, PortRange, Protocol, Shown, Time, line, lost, read, words::Word,
};
use waxseal_common::verdict::Direction;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Arguments {
    /// Go on with what happens from now; the default
    #[arg(short, long, conflicts_with = "no_follow")]
    follow: bool,
    /// Show the past and end
    #[arg(long)]
    no_follow: bool,
    /// Show this many of the past first
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Show the past since then first: 30s, 5m, 1h, or 2026-05-04T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Time>,
    /// Only these verdicts: allow, would, audit, deny, close
    #[arg(long, value_name = "VERDICT", value_delimiter = ',')]
    verdict: Vec<Shown>,
    /// Only these openers: name, namespace/name, SPIFFE ID (a final * is a prefix), number, address or range
    #[arg(long, value_name = "WHO", value_delimiter = ',')]
    from: Vec<Party>,
    /// Only these acceptors
    #[arg(long, value_name = "WHO", value_delimiter = ',')]
    to: Vec<Party>,
    /// Only these ports of the acceptor: 8080 or 9000-9100
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    port: Vec<PortRange>,
    /// Only these protocols: tcp, udp or proto/N
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    protocol: Vec<Protocol>,
    /// Only these reasons, such as no-rule-matches
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<Because>,
    /// Only what this side's rules decided: ingress or egress
    #[arg(long, value_name = "DIRECTION", value_parser = direction)]
    direction: Option<Direction>,
    /// Show what the conditions above would hide
    #[arg(long)]
    not: bool,
    /// For whom to write
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// One JSON object a line; short for -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line a flow, in columns.
    #[default]
    Compact,
    /// One JSON object a line.
    Json,
}

fn since(text: &str) -> Result<Time, String> {
    if let Some(span) = duration(text) {
        return Ok(Time::now().before(span));
    }
    text.parse().map_err(|_error| "use a span like 5m, or a time like 2026-05-04T12:00:00Z".to_owned())
}

fn direction(text: &str) -> Result<Direction, String> {
    Direction::from_word(text).ok_or_else(|| format!("use {}", Direction::words()))
}

impl Arguments {
    /// What is asked of the agent. Whoever follows without asking for the past still sees everything since `started`,
    /// the moment the command was typed.
    fn request(self, started: Time) -> TapRequest {
        let Self {
            follow: _,
            no_follow,
            last,
            since,
            verdict,
            from,
            to,
            port,
            protocol,
            reason,
            direction,
            not,
            ..
        } = self;
        let asks_for_past = no_follow || last.is_some() || since.is_some();
        let since = if asks_for_past { since } else { Some(started) };
        let filter = Filter { verdict, from, to, port, protocol, reason, direction, since, not };
        TapRequest { filter, last, follow: !no_follow }
    }
}

pub(super) fn run(common: &Common, arguments: Arguments) -> anyhow::Result<Exit> {
    let started = Time::now();
    let json = arguments.json || arguments.output == Format::Json;
    let follows = !arguments.no_follow;
    let lines = common.connect()?.tap(arguments.request(started))?;
    let stdout = io::stdout();
    let colour = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    let mut out = BufWriter::new(stdout.lock());
    if !json && io::stdout().is_terminal() {
        writeln!(out, "{HEADER}")?;
        out.flush()?;
    }
    show(lines, &mut out, |text| if json { text } else { compact(&text, colour) })?;
    if follows {
        return Err(Ended { exit: Exit::NotReachable, message: "the agent closed the tap".to_owned() }.into());
    }
    Ok(Exit::Done)
}

/// Writes every line as soon as no further one is at hand.
fn show(mut lines: Lines, out: &mut impl Write, render: impl Fn(String) -> String) -> anyhow::Result<()> {
    while let Some(text) = lines.next_line()? {
        writeln!(out, "{}", render(text))?;
        if lines.is_drained() {
            out.flush()?;
        }
    }
    Ok(out.flush()?)
}

fn compact(text: &str, colour: bool) -> String {
    match read(text) {
        Ok(Line::Flow(flow)) => line(&flow, colour),
        Ok(Line::Lost(count)) => lost(count),
        // A newer agent says something that this program does not know; better shown as it is than not at all.
        Err(_unknown) => escape_within(text, 4096).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flows::{json, samples};

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn request(line: &str) -> Result<TapRequest, String> {
        let words = std::iter::once("tap").chain(line.split_whitespace());
        let only = Only::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(only.arguments.request(Time(1000)))
    }

    #[test]
    fn following_starts_at_the_moment_the_command_was_typed() {
        let TapRequest { filter, last, follow } = request("").unwrap();
        assert_eq!((filter.since, last, follow), (Some(Time(1000)), None, true));
        for line in ["--last 5", "--no-follow", "--since 1970-01-01T00:00:05Z"] {
            assert_ne!(request(line).unwrap().filter.since, Some(Time(1000)), "{line}");
        }
        assert!(!request("--no-follow").unwrap().follow);
    }

    #[test]
    fn conditions_become_a_filter() {
        let line = "--verdict deny,AUDIT --from shop/checkout --from 10.0.0.0/8 --to api --port 80,8000-9000 \
                    --protocol tcp --reason no-rule-matches --direction egress --not --last 3";
        let text = serde_json::to_string(&request(line).unwrap()).unwrap();
        expect_test::expect![[r#"{"filter":{"verdict":["deny","audit"],"from":["shop/checkout","10.0.0.0/8"],"to":["api"],"port":["80","8000-9000"],"protocol":["tcp"],"reason":["no-rule-matches"],"direction":"egress","not":true},"last":3,"follow":true}"#]].assert_eq(&text);
    }

    #[test]
    fn a_wrong_word_is_refused_with_the_right_ones() {
        for (line, message) in [
            ("--verdict maybe", "`maybe` is no verdict; use allow, would, audit, deny, close"),
            ("--from a/b/c", "`a/b/c` names nobody"),
            ("--port http", "`http` is no port"),
            ("--protocol icmp", "`icmp` is no protocol"),
            ("--reason because", "`because` is no reason; use not-a-workload"),
            ("--since yesterday", "use a span like 5m"),
            ("--direction up", "use ingress, egress"),
            ("--follow --no-follow", "cannot be used with"),
        ] {
            let error = request(line).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn lines_are_shown_in_columns_and_unknown_ones_as_they_are() {
        let mut out = Vec::new();
        json(&samples::flow(&samples::denied()), &mut out);
        let shown = compact(std::str::from_utf8(&out).unwrap().trim_end(), false);
        assert!(shown.starts_with("12:04:31.882  DENY     out  shop/checkout(256)"), "{shown}");
        assert_eq!(compact(r#"{"v":1,"lost":2}"#, false), "… 2 events lost (slow reader)");
        assert_eq!(compact("{\"v\":9,\"x\":\"\u{9b}\"}", false), r#"{"v":9,"x":"\u{9b}"}"#);
    }
}
