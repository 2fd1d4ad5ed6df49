//! `waxseal endpoint list` and `waxseal identity list`.

use anstyle::{AnsiColor, Style};
use clap::Subcommand;
use serde_json::json;

use super::exit::Exit;
use super::output::{Cell, Format, Table, write, write_json};
use super::{Common, Output};
use crate::api::{EndpointReport, EndpointState, IdentityReport, Request};

#[derive(Debug, Subcommand)]
pub(super) enum Endpoints {
    /// List the cgroups that are, or should be, an instance of a workload
    List(Output),
}

#[derive(Debug, Subcommand)]
pub(super) enum Identities {
    /// List the workloads that have a number on this node
    List(Output),
}

pub(super) fn endpoints(
    common: &Common,
    Endpoints::List(Output { output }): &Endpoints,
) -> anyhow::Result<Exit> {
    let endpoints: Vec<EndpointReport> = common.connect()?.ask(&Request::Endpoints)?;
    match output {
        Format::Json => write_json(&json!({ "endpoints": endpoints }))?,
        Format::Table => write(&endpoint_table(&endpoints))?,
    }
    Ok(Exit::Done)
}

pub(super) fn identities(
    common: &Common,
    Identities::List(Output { output }): &Identities,
) -> anyhow::Result<Exit> {
    let identities: Vec<IdentityReport> = common.connect()?.ask(&Request::Identities)?;
    match output {
        Format::Json => write_json(&json!({ "identities": identities }))?,
        Format::Table => write(&identity_table(&identities))?,
    }
    Ok(Exit::Done)
}

/// Shared with `waxseal status`.
pub(super) fn endpoint_table(endpoints: &[EndpointReport]) -> String {
    if endpoints.is_empty() {
        return "no cgroup is an instance of a workload; Workload documents in the policies directory say which are\n"
            .to_owned();
    }
    let mut table = Table::new(["WORKLOAD", "IDENTITY", "STATE", "MODE", "CGROUP", "PATH", "WHY"]);
    for endpoint in endpoints {
        let EndpointReport { cgroup, path, state, identity, workload, mode, reason } = endpoint;
        table.row([
            workload.clone().unwrap_or_default().into(),
            identity.map_or("".into(), |identity| u64::from(identity).into()),
            Cell::styled(state.as_str(), state_style(*state)),
            mode.map_or("", |mode| mode.as_str()).into(),
            (*cgroup).into(),
            path.clone().into(),
            reason.clone().unwrap_or_default().into(),
        ]);
    }
    table.render()
}

fn state_style(state: EndpointState) -> Style {
    match state {
        EndpointState::Ready => Style::new(),
        EndpointState::Pending => AnsiColor::Yellow.on_default(),
        EndpointState::Refused => AnsiColor::Red.on_default().bold(),
    }
}

fn identity_table(identities: &[IdentityReport]) -> String {
    let mut table = Table::new(["IDENTITY", "WORKLOAD", "ENDPOINTS", "SPIFFE ID", "LABELS"]);
    for IdentityReport { identity, workload, spiffe_id, labels, endpoints } in identities {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.row([
            u64::from(*identity).into(),
            workload.clone().into(),
            (*endpoints).into(),
            spiffe_id.clone().unwrap_or_default().into(),
            labels.join(",").into(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use waxseal_common::tables::Mode;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn endpoints_stand_in_a_table_with_what_is_wrong_at_the_end() {
        let ready = EndpointReport {
            cgroup: 4711,
            path: "/system.slice/checkout.service".into(),
            state: EndpointState::Ready,
            identity: Some(256),
            workload: Some("shop/checkout".into()),
            mode: Some(Mode::Enforce),
            reason: None,
        };
        let refused = EndpointReport {
            cgroup: 4712,
            path: "/docker/9f".into(),
            state: EndpointState::Refused,
            identity: None,
            workload: None,
            mode: None,
            reason: Some("shop/a and shop/b both claim it".into()),
        };
        expect![[r"
            WORKLOAD       IDENTITY  STATE    MODE     CGROUP  PATH                            WHY
            shop/checkout       256  ready    enforce    4711  /system.slice/checkout.service  -
            -              -         refused  -          4712  /docker/9f                      shop/a and shop/b both claim it
        "]].assert_eq(&plain(&endpoint_table(&[ready, refused])));
        expect![[r"
            no cgroup is an instance of a workload; Workload documents in the policies directory say which are
        "]]
        .assert_eq(&endpoint_table(&[]));
    }

    #[test]
    fn identities_stand_in_a_table_with_their_labels() {
        let identity = IdentityReport {
            identity: 256,
            workload: "shop/checkout".into(),
            spiffe_id: Some("spiffe://cluster.local/ns/shop/sa/checkout".into()),
            labels: [("app", "checkout"), ("tier", "web")].into(),
            endpoints: 2,
        };
        let world = IdentityReport {
            identity: 2,
            workload: "world".into(),
            spiffe_id: None,
            labels: crate::workload::Labels::new(),
            endpoints: 0,
        };
        expect![[r"
            IDENTITY  WORKLOAD       ENDPOINTS  SPIFFE ID                                   LABELS
                 256  shop/checkout          2  spiffe://cluster.local/ns/shop/sa/checkout  app=checkout,tier=web
                   2  world                  0  -                                           -
        "]].assert_eq(&identity_table(&[identity, world]));
    }
}
