//! `waxseal report`: what would break if workloads went one step stricter.

use std::fmt::Write as _;

use clap::Args;

use super::exit::Exit;
use super::output::{Cell, Format, Table, write, write_json};
use super::{Common, Output};
use crate::api::{Obstacle, Request, RolloutReport, Scope, Step, WorkloadRollout};
use crate::flows::words::Word as _;

pub(super) const AFTER_HELP: &str = "\
The way: permissive, audit (what would be denied is reported), enforce (it is denied), strict (sources that have not
proved who they are are denied), allow lists (what no rule allows is denied). Go on when nothing stands in the way.
Connections are counted since the agent started; those seen only under older policies are shown as stale.";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only the workloads of one namespace
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "workload")]
    namespace: Option<String>,
    /// Only one workload
    #[arg(long, value_name = "NAMESPACE/NAME")]
    workload: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(common: &Common, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { namespace, workload, output: Output { output } } = arguments;
    let report: RolloutReport = common.connect()?.ask(&Request::Rollout(Scope { namespace, workload }))?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => write(&render(&report))?,
    }
    Ok(Exit::Done)
}

fn render(report: &RolloutReport) -> String {
    let RolloutReport { since, policies_since, dropped, workloads } = report;
    let mut out = format!("connections since {since}");
    if let Some(policies) = policies_since {
        let _infallible = write!(out, "; these policies are in force since {policies}");
    }
    out.push('\n');
    if *dropped > 0 {
        let _infallible =
            writeln!(out, "{dropped} connections are not shown: too many different ones were seen");
    }
    if workloads.is_empty() {
        out.push_str("no workload runs on this node\n");
    }
    for workload in workloads {
        out.push('\n');
        one(workload, &mut out);
    }
    out
}

fn one(report: &WorkloadRollout, out: &mut String) {
    let WorkloadRollout { mode, next, would_break, obstacles } = report;
    let _infallible = writeln!(out, "{}  {} (from {})", mode.workload, mode.mode.as_str(), mode.from);
    let _infallible = writeln!(out, "  next: {}", advice(*next, *would_break, &mode.workload));
    if obstacles.is_empty() {
        return;
    }
    let mut table = Table::new(["WHAT", "DIR", "OTHER END", "PORT", "COUNT", "LAST SEEN", "RULE"]);
    for obstacle in obstacles {
        let Obstacle { what, direction, peer, protocol, port, rule, count, last, stale, .. } = obstacle;
        let last = if *stale { format!("{last} (stale)") } else { last.to_string() };
        let rule = rule.clone().unwrap_or_default();
        let port = format!("{port}/{protocol}");
        table.row([
            what.as_str().into(),
            direction.word().into(),
            peer.clone().into(),
            port.into(),
            Cell::from(*count),
            last.into(),
            rule.into(),
        ]);
    }
    table.render().lines().for_each(|line| {
        let _infallible = writeln!(out, "  {line}");
    });
}

/// What the next step is, what is in its way, and how it is taken.
fn advice(next: Step, would_break: u64, workload: &str) -> String {
    let pairs = |count| if count == 1 { "1 pair".to_owned() } else { format!("{count} pairs") };
    match (next, would_break) {
        (Step::Audit, _) => {
            format!(
                "audit. It breaks nothing and reports what would be denied: waxseal mode set --workload {workload} audit"
            )
        }
        (Step::Enforce, 0) => {
            format!("enforce. Nothing seen would be denied: waxseal mode set --workload {workload} enforce")
        }
        (Step::Enforce, count) => format!(
            "enforce. It would deny {} (would-deny below): allow them, or find out why they talk",
            pairs(count)
        ),
        (Step::Strict, 0) => {
            "strict. No source without a proof was seen: deny them with a PeerAuthentication \
             (mode STRICT), or name the sources in an ingress list"
                .to_owned()
        }
        (Step::Strict, count) => format!(
            "strict. It would deny {} (no-seal below): give these sources an identity, or allow their addresses",
            pairs(count)
        ),
        (Step::AllowLists, 0) => {
            "allow lists. Nothing seen depends on a missing rule: write what may talk, in both directions"
                .to_owned()
        }
        (Step::AllowLists, count) => {
            format!(
                "allow lists. {} pass because no rule speaks (no-rule below): write rules for those you want",
                pairs(count)
            )
        }
        (Step::Done, _) => "none. What no rule allows is denied, in both directions".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{What, WorkloadMode};
    use crate::flows::{Protocol, Time};
    use expect_test::expect;
    use waxseal_common::tables::Mode;
    use waxseal_common::verdict::Direction;

    fn obstacle(what: What, peer: &str, stale: bool) -> Obstacle {
        Obstacle {
            what,
            direction: Direction::Ingress,
            peer: peer.to_owned(),
            spiffe_id: None,
            protocol: Protocol(6),
            port: 8080,
            rule: (what == What::WouldDeny).then(|| "shop/web-in (p.yaml:3:1)".to_owned()),
            count: 12,
            first: Time(0),
            last: Time(1000),
            stale,
        }
    }

    #[test]
    fn each_workload_is_told_its_next_step_and_what_is_in_the_way() {
        let mode = |workload: &str, mode, from: &str| WorkloadMode {
            workload: workload.to_owned(),
            mode,
            from: from.to_owned(),
        };
        let workloads = vec![
            WorkloadRollout {
                mode: mode("shop/web", Mode::Audit, "namespace shop (n.yaml:1:1)"),
                next: Step::Enforce,
                would_break: 1,
                obstacles: vec![
                    obstacle(What::WouldDeny, "shop/checkout", false),
                    obstacle(What::WouldDeny, "shop/old", true),
                    obstacle(What::NoSeal, "world 192.0.2.7", false),
                ],
            },
            WorkloadRollout {
                mode: mode("shop/db", Mode::Enforce, "its Workload document"),
                next: Step::AllowLists,
                would_break: 0,
                obstacles: vec![],
            },
        ];
        let report = RolloutReport { since: Time(0), policies_since: Some(Time(500)), dropped: 3, workloads };
        expect![[r"
            connections since 1970-01-01T00:00:00.000Z; these policies are in force since 1970-01-01T00:00:00.500Z
            3 connections are not shown: too many different ones were seen

            shop/web  audit (from namespace shop (n.yaml:1:1))
              next: enforce. It would deny 1 pair (would-deny below): allow them, or find out why they talk
              WHAT        DIR      OTHER END        PORT      COUNT  LAST SEEN                         RULE
              would-deny  ingress  shop/checkout    8080/tcp     12  1970-01-01T00:00:01.000Z          shop/web-in (p.yaml:3:1)
              would-deny  ingress  shop/old         8080/tcp     12  1970-01-01T00:00:01.000Z (stale)  shop/web-in (p.yaml:3:1)
              no-seal     ingress  world 192.0.2.7  8080/tcp     12  1970-01-01T00:00:01.000Z          -

            shop/db  enforce (from its Workload document)
              next: allow lists. Nothing seen depends on a missing rule: write what may talk, in both directions
        "]]
        .assert_eq(&render(&report));
    }
}
