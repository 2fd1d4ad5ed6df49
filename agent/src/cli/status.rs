//! `waxseal status`.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::exit::Exit;
use super::output::{Cell, Format, Table, write, write_json};
use super::{Common, list, mode};
use crate::api::{
    CertificateReport, EndpointState, HandshakesReport, MapFill, MeshReport, PolicyReport, Request,
    StatusReport,
};

pub(super) fn run(common: &Common, output: Format) -> anyhow::Result<Exit> {
    let report: StatusReport = common.connect()?.ask(&Request::Status)?;
    match output {
        Format::Json => write_json(&report)?,
        Format::Table => write(&render(&report))?,
    }
    Ok(Exit::Done)
}

fn render(report: &StatusReport) -> String {
    let mut out = String::new();
    head(report, &mut out);
    policy(&report.policy, &mut out);
    let _infallible = write!(out, "mode       {}", mode::sentence(&report.mode));
    out.push_str(&mode::set_lines(&report.mode.set, "           "));
    workloads(report, &mut out);
    programs(report, &mut out);
    let crate::api::TapReport { readers, published, lost } = report.taps;
    let _infallible =
        writeln!(out, "taps       {readers} readers, {published} flows so far, {lost} lost by slow readers");
    mesh(&report.mesh, &mut out);
    tables(report, &mut out);
    out
}

/// Other nodes, and those certificates that somebody should look after.
fn mesh(report: &MeshReport, out: &mut String) {
    let MeshReport { enabled, node, outbound, inbound, without, links, nodes, held, handshakes, .. } = report;
    let HandshakesReport { completed, failed, answered, refused } = handshakes;
    let _infallible = if *enabled {
        writeln!(
            out,
            "mesh       as {node}: {outbound} sessions out, {inbound} in, {without} destinations without; \
             {links} links of {nodes} nodes; {held} packets wait\n           handshakes: {completed} completed, \
             {failed} failed, {answered} answered, {refused} refused"
        )
    } else {
        writeln!(out, "mesh       this node keeps to itself")
    };
    let there = report.certificates.iter().filter_map(|certificate| certificate.expires_in_seconds);
    let first =
        there.clone().min().map_or_else(String::new, |left| format!(", the first ends in {}", span(left)));
    let _infallible =
        writeln!(out, "certs      {} of {} valid{first}", there.count(), report.certificates.len());
    let red = AnsiColor::Red.on_default().bold();
    for CertificateReport { spiffe_id, failures, error, .. } in &report.certificates {
        if let Some(error) = error.as_ref().filter(|_| *failures > 0) {
            let _infallible = writeln!(out, "           {red}NOT RENEWED{red:#}: {spiffe_id}: {error}");
        }
    }
}

fn head(report: &StatusReport, out: &mut String) {
    let StatusReport { instance, node, version, kernel, pid, uptime_s, revision, .. } = report;
    let uptime = span(*uptime_s);
    let _infallible = writeln!(
        out,
        "agent      {instance} on {node}, version {version}, pid {pid}, up {uptime}, kernel {kernel}, revision {revision}"
    );
}

/// `4 s`, `3 min 4 s`, `2 h 3 min`, `5 d 2 h`.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// The set in force, its warnings, and what is wrong with a newer one. Shared with `waxseal policy get`.
pub(super) fn policy(report: &PolicyReport, out: &mut String) {
    let PolicyReport { revision, directory, files, policies, workloads, names: _, warnings, since, failure } =
        report;
    let since = since.map_or_else(
        || "none in force yet".to_owned(),
        |since| format!("in force since {since} (revision {revision})"),
    );
    let _infallible = writeln!(
        out,
        "policy     {policies} policies and {workloads} workloads in {files} files of {directory}, {since}"
    );
    let yellow = AnsiColor::Yellow.on_default();
    for warning in warnings {
        let _infallible = writeln!(out, "           {yellow}warning{yellow:#}: {warning}");
    }
    let Some(failure) = failure else { return };
    let red = AnsiColor::Red.on_default().bold();
    let _infallible = writeln!(
        out,
        "           {red}REFUSED{red:#} since {}: the files as they are now are not in force",
        failure.since
    );
    for line in failure.errors.iter().flat_map(|error| error.lines()) {
        let _infallible = writeln!(out, "             {line}");
    }
}

fn workloads(report: &StatusReport, out: &mut String) {
    let StatusReport { endpoints, identities, unsettled, .. } = report;
    let count = |state| unsettled.iter().filter(|endpoint| endpoint.state == state).count();
    let (pending, refused) = (count(EndpointState::Pending), count(EndpointState::Refused));
    let _infallible = writeln!(
        out,
        "endpoints  {endpoints} ready, {pending} pending, {refused} refused; {identities} identities"
    );
    if !unsettled.is_empty() {
        list::endpoint_table(unsettled).lines().for_each(|line| {
            let _infallible = writeln!(out, "           {line}");
        });
    }
}

fn programs(report: &StatusReport, out: &mut String) {
    let missing: Vec<_> = report.programs.iter().filter(|program| !program.attached).collect();
    let attached = report.programs.len() - missing.len();
    let _infallible = writeln!(out, "programs   {attached} of {} attached", report.programs.len());
    let red = AnsiColor::Red.on_default().bold();
    for program in missing {
        let _infallible =
            writeln!(out, "           {red}NOT ATTACHED{red:#}: {} to {}", program.name, program.target);
    }
}

fn tables(report: &StatusReport, out: &mut String) {
    if !report.maps.is_empty() {
        let mut table = Table::new(["TABLE", "USED", "CAPACITY", "FILL"]);
        for MapFill { name, used, capacity } in &report.maps {
            let percent = if *capacity == 0 { 0 } else { used * 100 / capacity };
            let style = if percent >= 80 { AnsiColor::Red.on_default().bold() } else { Style::new() };
            table.row([
                name.clone().into(),
                (*used).into(),
                (*capacity).into(),
                Cell::styled(format!("{percent}%"), style),
            ]);
        }
        let _infallible = write!(out, "\n{}", table.render());
    }
    if !report.counters.is_empty() {
        let mut table = Table::new(["COUNTER", "VALUE"]);
        for (name, value) in &report.counters {
            table.row([name.clone().into(), (*value).into()]);
        }
        let _infallible = write!(out, "\n{}", table.render());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{EndpointReport, Level, ModeReport, ModeSet, PolicyFailure, ProgramReport, TapReport};
    use crate::flows::Time;
    use expect_test::expect;
    use waxseal_common::tables::Mode;

    fn report() -> StatusReport {
        StatusReport {
            instance: "default".into(),
            node: "alpha".into(),
            version: "0.1.0".into(),
            kernel: "6.1.0".into(),
            pid: 812,
            uptime_s: 7384,
            revision: 14,
            policy: PolicyReport {
                revision: 12,
                directory: "/etc/waxseal/policies".into(),
                files: 2,
                policies: 3,
                workloads: 4,
                since: Some(Time(0)),
                ..PolicyReport::default()
            },
            mode: ModeReport {
                default: Mode::Audit,
                ceiling: Mode::Enforce,
                since: None,
                set: vec![],
                workloads: vec![],
            },
            endpoints: 3,
            identities: 2,
            unsettled: vec![],
            programs: vec![ProgramReport { name: "connect4".into(), attached: true, target: "/".into() }],
            maps: vec![MapFill { name: "connections".into(), used: 9, capacity: 10 }],
            counters: [("allowed".into(), 7), ("denied".into(), 1)].into(),
            taps: TapReport { readers: 1, published: 8, lost: 0 },
            mesh: MeshReport::default(),
        }
    }

    fn plain(report: &StatusReport) -> String {
        anstream::adapter::strip_str(&render(report)).to_string()
    }

    #[test]
    fn a_healthy_agent_is_told_in_a_few_lines() {
        expect![[r"
            agent      default on alpha, version 0.1.0, pid 812, up 2 h 3 min, kernel 6.1.0, revision 14
            policy     3 policies and 4 workloads in 2 files of /etc/waxseal/policies, in force since 1970-01-01T00:00:00.000Z (revision 12)
            mode       audit unless a workload, a policy or a namespace says otherwise
            endpoints  3 ready, 0 pending, 0 refused; 2 identities
            programs   1 of 1 attached
            taps       1 readers, 8 flows so far, 0 lost by slow readers
            mesh       this node keeps to itself
            certs      0 of 0 valid

            TABLE        USED  CAPACITY  FILL
            connections     9        10  90%

            COUNTER  VALUE
            allowed      7
            denied       1
        "]].assert_eq(&plain(&report()));
    }

    #[test]
    fn everything_that_is_wrong_stands_where_it_cannot_be_missed() {
        let mut report = report();
        let errors =
            vec!["pay.yaml:3:5: unknown key `form`\n  3 |   form: x".into(), "b.yaml:1:1: no kind".into()];
        report.policy.failure = Some(PolicyFailure { errors, since: Time(60_000) });
        report.policy.warnings = vec!["a.yaml:2:1: selects nothing that exists".into()];
        let set =
            ModeSet { level: Level::Workload("shop/web".into()), mode: Mode::Enforce, since: Time(2000) };
        report.mode = ModeReport {
            default: Mode::Enforce,
            ceiling: Mode::Audit,
            since: Some(Time(1000)),
            set: vec![set],
            workloads: vec![],
        };
        report.programs.push(ProgramReport { name: "sock_ops".into(), attached: false, target: "/".into() });
        report.unsettled = vec![EndpointReport {
            cgroup: 9,
            path: "/a".into(),
            state: EndpointState::Pending,
            identity: None,
            workload: None,
            mode: None,
            reason: Some("no Workload document matches".into()),
        }];
        expect![[r"
            agent      default on alpha, version 0.1.0, pid 812, up 2 h 3 min, kernel 6.1.0, revision 14
            policy     3 policies and 4 workloads in 2 files of /etc/waxseal/policies, in force since 1970-01-01T00:00:00.000Z (revision 12)
                       warning: a.yaml:2:1: selects nothing that exists
                       REFUSED since 1970-01-01T00:01:00.000Z: the files as they are now are not in force
                         pay.yaml:3:5: unknown key `form`
                           3 |   form: x
                         b.yaml:1:1: no kind
            mode       enforce unless a workload, a policy or a namespace says otherwise; CEILING audit since 1970-01-01T00:00:01.000Z
                       set: workload shop/web is enforce since 1970-01-01T00:00:02.000Z
            endpoints  3 ready, 1 pending, 0 refused; 2 identities
                       WORKLOAD  IDENTITY  STATE    MODE  CGROUP  PATH  WHY
                       -         -         pending  -          9  /a    no Workload document matches
            programs   1 of 2 attached
                       NOT ATTACHED: sock_ops to /
            taps       1 readers, 8 flows so far, 0 lost by slow readers
            mesh       this node keeps to itself
            certs      0 of 0 valid

            TABLE        USED  CAPACITY  FILL
            connections     9        10  90%

            COUNTER  VALUE
            allowed      7
            denied       1
        "]].assert_eq(&plain(&report));
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [(4, "4 s"), (184, "3 min 4 s"), (7384, "2 h 3 min"), (439_200, "5 d 2 h")] {
            assert_eq!(span(seconds), text);
        }
    }
}
