//! `waxseal ca show`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde::Serialize;

use super::{Place, date};
use crate::cli::exit::Exit;
use crate::cli::output::{Cell, Format, Table, write, write_json};
use crate::cli::{Common, Output};
use crate::escape::escape;
use crate::pki::{self, Authority};

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    place: Place,
    /// Write the root certificates in PEM and nothing else
    #[arg(long, conflicts_with = "output")]
    root: bool,
    #[command(flatten)]
    output: Output,
}

/// What there is, and where.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    directory: PathBuf,
    #[serde(flatten)]
    report: pki::Report,
}

impl Report {
    pub(super) fn of(authority: &Authority) -> anyhow::Result<Self> {
        let report = authority.report(SystemTime::now())?;
        Ok(Self { directory: authority.directory().to_owned(), report })
    }
}

pub(super) fn run(common: &Common, arguments: &Show) -> anyhow::Result<Exit> {
    let Show { place, root, output } = arguments;
    let report = Report::of(&place.open(common, None)?)?;
    match (root, output.output) {
        (true, _) => {
            write(&report.report.roots.iter().map(|root| root.certificate.as_str()).collect::<String>())?;
        }
        (false, Format::Json) => write_json(&report)?,
        (false, Format::Table) => write(&render(&report))?,
    }
    Ok(Exit::Done)
}

/// For people.
pub(super) fn render(report: &Report) -> String {
    let Report { directory, report } = report;
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _infallible = writeln!(out, "{name:<14}{value}");
    };
    line("trust domain", &report.trust_domain);
    line("directory", &escape(&directory.to_string_lossy()));
    for root in &report.roots {
        line("root", &format!("sha256:{} until {}", root.sha256, date(root.not_after)));
    }
    line("root key", if report.root_key_at_hand { "at hand" } else { "elsewhere" });
    line("leaves", &format!("{} valid, each lives {} s", report.certificates, report.leaf_seconds));
    line("tokens", &format!("{} unused", report.tokens));
    for id in &report.revoked_ids {
        line("revoked", id);
    }
    out.push('\n');
    out.push_str(&intermediates(&report.intermediates));
    out.push('\n');
    out.push_str(&nodes(&report.nodes));
    if report.root_key_wanted {
        out.push_str(
            "\na new intermediate is due: `waxseal ca rotate-intermediate --root-key FILE` makes it\n",
        );
    }
    out
}

fn intermediates(all: &[pki::IntermediateReport]) -> String {
    let mut table = Table::new(["INTERMEDIATE", "STATE", "SIGNS FROM", "UNTIL", "REVOKED", "LIST UNTIL"]);
    for one in all {
        let pki::IntermediateReport { serial, state, active_from, not_after, revoked, list_until } = one;
        table.row([
            serial.as_str().into(),
            Cell::styled(*state, style(state)),
            date(*active_from).into(),
            date(*not_after).into(),
            (*revoked as u64).into(),
            date(*list_until).into(),
        ]);
    }
    table.render()
}

fn nodes(all: &[pki::NodeReport]) -> String {
    if all.is_empty() {
        return "no node is registered; `waxseal ca token --node NAME` registers one\n".to_owned();
    }
    let mut table = Table::new(["NODE", "STATE", "CERTIFICATES", "ALLOWED"]);
    for one in all {
        let pki::NodeReport { name, state, allow, certificates } = one;
        table.row([
            name.as_str().into(),
            Cell::styled(*state, style(state)),
            (*certificates as u64).into(),
            escape(&allow.join(" ")).into_owned().into(),
        ]);
    }
    table.render()
}

fn style(state: &str) -> Style {
    match state {
        "revoked" | "expired" => AnsiColor::Red.on_default().bold(),
        "waiting" | "registered" => AnsiColor::Yellow.on_default(),
        _ => Style::new(),
    }
}
