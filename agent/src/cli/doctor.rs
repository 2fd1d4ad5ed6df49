//! `waxseal doctor`: can this host enforce, and what to do when not.

use std::fmt::Write as _;
use std::net::IpAddr;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::output::{Format, write, write_json};
use super::{Common, Output, connect};
use crate::api::{ClientError, ProbeRequest, Request};
use crate::config::Config;
use crate::report::{Check, Status, worst};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Try the way to the node with this address instead: its agent, its certificate, its clock, and sealed packets
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = common.configuration()?;
    let checks = match arguments.peer {
        Some(address) => common.connect()?.ask(&Request::Probe(ProbeRequest { address }))?,
        None => checks(&config),
    };
    let status = worst(&checks);
    match arguments.output.output {
        Format::Json => write_json(&json!({ "status": status, "checks": checks }))?,
        Format::Table => write(&render(&checks, arguments.peer.is_some()))?,
    }
    Ok(match (status, arguments.peer) {
        (Status::Fail, Some(_)) => Exit::Failed,
        (Status::Fail, None) => Exit::Unsupported,
        _ => Exit::Done,
    })
}

fn checks(config: &Config) -> Vec<Check> {
    let mut checks = crate::cgroup::layout_checks();
    checks.extend(crate::datapath::probe::checks(config));
    checks.push(agent(config));
    checks
}

fn agent(config: &Config) -> Check {
    let socket = config.socket().display().to_string();
    match connect(config) {
        Ok(_) => Check::ok("agent", format!("answers at {socket}")),
        Err(ClientError::NotReachable { .. }) => {
            Check::warn("agent", format!("none answers at {socket}"), "start one: systemctl start waxseal")
        }
        Err(error) => Check::warn("agent", error.to_string(), "run this as root"),
    }
}

/// One line a check, its cure below it, and the sum at the end.
fn render(checks: &[Check], peer: bool) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for Check { name, status, detail, cure } in checks {
        let style = style(*status);
        let _infallible = writeln!(out, "{style}{:<4}{style:#}  {name:<width$}  {detail}", status.as_str());
        if let Some(cure) = cure {
            let _infallible = writeln!(out, "      {:<width$}  → {cure}", "");
        }
    }
    let sum = match worst(checks) {
        Status::Ok if peer => "workloads of the two nodes can prove themselves to each other",
        Status::Warn if peer => "workloads of the two nodes can prove themselves, with the limits above",
        Status::Fail if peer => {
            "workloads of the two nodes cannot prove themselves until the failures above are cured"
        }
        Status::Ok => "this host can enforce",
        Status::Warn => "this host can enforce, with the limits above",
        Status::Fail => "this host cannot enforce until the failures above are cured",
    };
    let _infallible = writeln!(out, "\n{sum}");
    out
}

fn style(status: Status) -> Style {
    match status {
        Status::Ok => AnsiColor::Green.on_default(),
        Status::Warn => AnsiColor::Yellow.on_default(),
        Status::Fail => AnsiColor::Red.on_default().bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_failure_stands_with_its_cure_and_decides_the_sum() {
        let checks = [
            Check::ok("cgroup v2", "mounted at /sys/fs/cgroup"),
            Check::warn("agent", "none answers", "start one"),
            Check::fail(
                "kernel BTF",
                "/sys/kernel/btf/vmlinux is missing",
                "use a kernel with CONFIG_DEBUG_INFO_BTF",
            ),
        ];
        expect![[r"
            ok    cgroup v2   mounted at /sys/fs/cgroup
            warn  agent       none answers
                              → start one
            fail  kernel BTF  /sys/kernel/btf/vmlinux is missing
                              → use a kernel with CONFIG_DEBUG_INFO_BTF

            this host cannot enforce until the failures above are cured
        "]]
        .assert_eq(&anstream::adapter::strip_str(&render(&checks, false)).to_string());
    }
}
