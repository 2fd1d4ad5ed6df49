//! What the agent holds: at rest, with many identities and rules, and for each open connection.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::mesh::{Mesh, Plan as MeshPlan};
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::root;
use waxseal_tests::stage::document;

use crate::Plan;
use crate::ends::SINK;
use crate::figures::{Figures, Measure};
use crate::rules;
use crate::world::{From, World};

/// Connections that are held open.
const HELD: usize = 10_000;
const LONG: Duration = Duration::from_mins(3);
/// How long an agent is left alone before it is looked at.
const REST: Duration = Duration::from_secs(3);

pub(crate) fn measure(plan: &Plan, figures: &mut Figures) {
    let mut rows = Vec::new();
    let mesh = Mesh::idle("rest", settings());
    rows.push(("at rest".to_owned(), at_rest(mesh)));
    let sizes: &[(usize, usize)] =
        if plan.quick { &[(1000, 1000)] } else { &[(1000, 1000), (10_000, 100_000)] };
    for (identities, entries) in sizes {
        let name = format!(
            "{} identities, {} rules",
            crate::world::thousands(*identities),
            crate::world::thousands(*entries)
        );
        rows.push((name, vec![crowded(*identities, *entries)]));
    }
    figures.push(Measure::new("memory", "resident memory of the agent", "MB", rows));
}

/// What an open connection adds.
pub(crate) fn connections(worlds: &[World], figures: &mut Figures) -> Result<()> {
    let Some(world) = worlds.iter().find(|world| world.kind.enforced().is_some()) else { return Ok(()) };
    let title = format!("memory for each of {} open connections", crate::world::thousands(HELD));
    figures.push(Measure::new("memory-connection", &title, "bytes", per_connection(world)?));
    Ok(())
}

fn settings() -> MeshPlan<'static> {
    let settings = Settings { more: "metrics: 127.0.0.1:7462\n", ..Settings::default() };
    MeshPlan { settings, ..MeshPlan::default() }
}

/// Both nodes of a mesh, each with a workload and its certificate.
fn at_rest(mut mesh: Mesh) -> Vec<f64> {
    for stage in &mesh.nodes {
        stage.node.set("log", "info");
    }
    let workloads = [mesh.workload("shop/caller", 0, None), mesh.workload("shop/server", 1, None)];
    mesh.start(&workloads);
    sleep(REST);
    mesh.nodes.iter().map(|stage| megabytes(&stage.node)).collect()
}

/// One node of a mesh with many workloads, each a cgroup with a document and a certificate.
fn crowded(identities: usize, entries: usize) -> f64 {
    let mut mesh = Mesh::idle("crowd", MeshPlan { nodes: 1, ..settings() });
    let stage = &mesh.nodes[0];
    stage.node.set("log", "info");
    let subjects = rules::subjects(entries);
    let names = (0..identities).map(|number| match number {
        0 => "shop/server".to_owned(),
        number if number < subjects => rules::filler(number),
        number => format!("shop/one-{number}"),
    });
    let crowd: Vec<(String, Cgroup)> = names
        .enumerate()
        .map(|(number, name)| (name, stage.cgroup.child(&format!("workloads/w{number}"))))
        .collect();
    for (number, some) in crowd.chunks(1000).enumerate() {
        let text: String = some.iter().map(|(name, cgroup)| document(name, &cgroup.name())).collect();
        stage.node.write(&format!("workloads-{number}.yaml"), &text);
    }
    let callers = ["spiffe://cluster.local/ns/shop/sa/near".to_owned()];
    for (number, text) in rules::waxseal("shop/server", &callers, entries, rules::PORTS).iter().enumerate() {
        stage.node.write(&format!("list-{number}.yaml"), text);
    }
    mesh.nodes[0].node.launch();
    root::wait("the agent answers", LONG, || {
        sleep(Duration::from_millis(200));
        mesh.nodes[0].node.output(&["status"]).status.success().then_some(())
    });
    root::wait("everybody has an identity", LONG, || {
        sleep(Duration::from_millis(500));
        let status = mesh.nodes[0].node.status();
        let rows = status["maps"].as_array()?.iter().find(|map| map["name"] == "rows")?["used"].as_u64()?;
        // The callers are no row here: nobody has that name.
        let all = status["endpoints"].as_u64()? >= identities as u64 && rows + 1 >= entries as u64;
        all.then_some(())
    });
    sleep(REST);
    megabytes(&mesh.nodes[0].node)
}

/// Bytes for one, of the agent at the server's node.
fn per_connection(world: &World) -> Result<Vec<(String, Vec<f64>)>> {
    let node = &world.mesh().context("there is no agent")?.nodes[1].node;
    let before = megabytes(node);
    let client = world.client("hold", From::Afar, SINK, &[&HELD.to_string()]);
    client.line(Duration::from_mins(1)).context("not all connections were made")?;
    sleep(REST);
    let held = megabytes(node) - before;
    drop(client);
    world.server().drain();
    Ok(vec![("agent".to_owned(), vec![held.max(0.0) * 1e6 / HELD as f64])])
}

fn megabytes(node: &Node) -> f64 {
    node.resident_kib() as f64 * 1024.0 / 1e6
}
