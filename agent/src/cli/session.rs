//! `waxseal session list`.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use clap::Subcommand;

use super::exit::Exit;
use super::output::{Cell, Format, Table, write, write_json};
use super::{Common, Output};
use crate::api::{
    LinkReport, Request, SessionDirection, SessionEnd, SessionFailure, SessionReport, SessionsReport,
};

#[derive(Debug, Subcommand)]
pub(super) enum Sessions {
    /// List the sessions between workloads of this node and of others, and why there are none
    List(Output),
}

pub(super) fn run(common: &Common, Sessions::List(Output { output }): &Sessions) -> anyhow::Result<Exit> {
    let report: SessionsReport = common.connect()?.ask(&Request::Sessions)?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => write(&render(&report))?,
    }
    Ok(Exit::Done)
}

fn render(report: &SessionsReport) -> String {
    if !report.enabled {
        return "this node keeps to itself; `ca` and `listen` in its configuration say with whom it meets\n"
            .to_owned();
    }
    let mut out = sessions(&report.sessions);
    if !report.failures.is_empty() {
        let _infallible = write!(out, "\n{}", failures(&report.failures));
    }
    if !report.links.is_empty() {
        let _infallible = write!(out, "\n{}", links(&report.links));
    }
    out
}

fn end(end: Option<&SessionEnd>) -> String {
    end.map_or_else(|| "(node)".to_owned(), |end| end.name.clone())
}

fn sessions(sessions: &[SessionReport]) -> String {
    if sessions.is_empty() {
        return "no sessions with other nodes\n".to_owned();
    }
    let mut table = Table::new([
        "WAY",
        "SOURCE",
        "DESTINATION",
        "PEER",
        "TARGET",
        "SPI",
        "AGE",
        "LEFT",
        "CONNECTIONS",
        "OPENED",
        "FORGED",
    ]);
    for session in sessions {
        let way = match session.direction {
            SessionDirection::Outbound => "out",
            SessionDirection::Inbound => "in",
        };
        let left = if session.past { "past".to_owned() } else { format!("{} s", session.expires_in_seconds) };
        let forged = if session.forged > 0 { AnsiColor::Red.on_default().bold() } else { Style::new() };
        table.row([
            way.into(),
            end(session.source.as_ref()).into(),
            end(session.destination.as_ref()).into(),
            session.peer.clone().into(),
            session.target.clone().unwrap_or_default().into(),
            format!("{:08x}", session.spi).into(),
            format!("{} s", session.age_seconds).into(),
            left.into(),
            u64::from(session.connections).into(),
            session.opened.into(),
            Cell::styled(session.forged.to_string(), forged),
        ]);
    }
    table.render()
}

fn failures(failures: &[SessionFailure]) -> String {
    let mut table = Table::new(["WITHOUT SESSION", "TARGET", "WHY", "SINCE", "AGAIN IN", "WHAT HAPPENED"]);
    for SessionFailure { source, target, failure, detail, age_seconds, retry_in_seconds } in failures {
        table.row([
            end(source.as_ref()).into(),
            target.clone().into(),
            Cell::styled(failure.clone(), AnsiColor::Yellow.on_default()),
            format!("{age_seconds} s").into(),
            format!("{retry_in_seconds} s").into(),
            detail.clone().into(),
        ]);
    }
    table.render()
}

fn links(links: &[LinkReport]) -> String {
    let mut table = Table::new(["NODE", "AGENT", "LINK", "VERSION", "CLOCK", "WHY"]);
    for LinkReport { peer, address, up: _, age_seconds, version, clock_ahead_ms, failure } in links {
        table.row([
            peer.clone().into(),
            address.clone().unwrap_or_default().into(),
            match age_seconds {
                Some(age) => format!("{age} s").into(),
                None => Cell::styled("down", AnsiColor::Red.on_default().bold()),
            },
            version.clone().unwrap_or_default().into(),
            format!("{clock_ahead_ms:+} ms").into(),
            failure.clone().unwrap_or_default().into(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn who(name: &str) -> SessionEnd {
        SessionEnd { name: name.into(), spiffe_id: format!("spiffe://d/{name}"), identity: 256 }
    }

    #[test]
    fn sessions_failures_and_links_stand_in_a_table_each() {
        let session = SessionReport {
            direction: SessionDirection::Outbound,
            source: Some(who("shop/web")),
            destination: Some(who("shop/db")),
            peer: "beta".into(),
            target: Some("10.0.0.2:5432/tcp".into()),
            spi: 0x1f,
            age_seconds: 3,
            expires_in_seconds: 1700,
            connections: 2,
            opened: 9,
            forged: 0,
            past: false,
        };
        let inbound = SessionReport {
            direction: SessionDirection::Inbound,
            destination: None,
            target: None,
            forged: 4,
            past: true,
            ..session.clone()
        };
        let failure = SessionFailure {
            source: Some(who("shop/web")),
            target: "10.0.0.9:80/tcp".into(),
            failure: "no-agent".into(),
            detail: "no agent answers at 10.0.0.9:7461".into(),
            age_seconds: 1,
            retry_in_seconds: 29,
        };
        let link = LinkReport {
            peer: "beta".into(),
            address: Some("10.0.0.2:7461".into()),
            up: true,
            age_seconds: Some(3),
            version: Some("0.1.0".into()),
            clock_ahead_ms: -4,
            failure: None,
        };
        let report = SessionsReport {
            enabled: true,
            sessions: vec![session, inbound],
            failures: vec![failure],
            links: vec![link],
            ..SessionsReport::default()
        };
        let plain = anstream::adapter::strip_str(&render(&report)).to_string();
        expect![[r"
            WAY  SOURCE    DESTINATION  PEER  TARGET             SPI       AGE  LEFT    CONNECTIONS  OPENED  FORGED
            out  shop/web  shop/db      beta  10.0.0.2:5432/tcp  0000001f  3 s  1700 s            2       9  0
            in   shop/web  (node)       beta  -                  0000001f  3 s  past              2       9  4

            WITHOUT SESSION  TARGET           WHY       SINCE  AGAIN IN  WHAT HAPPENED
            shop/web         10.0.0.9:80/tcp  no-agent  1 s    29 s      no agent answers at 10.0.0.9:7461

            NODE  AGENT          LINK  VERSION  CLOCK  WHY
            beta  10.0.0.2:7461  3 s   0.1.0    -4 ms  -
        "]].assert_eq(&plain);
        expect![[r"
            this node keeps to itself; `ca` and `listen` in its configuration say with whom it meets
        "]]
        .assert_eq(&render(&SessionsReport::default()));
    }
}
