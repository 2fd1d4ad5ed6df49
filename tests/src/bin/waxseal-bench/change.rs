//! How soon a change counts: a policy file until the kernel judges by it, a revocation until the last byte.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxseal_tests::mesh::{Mesh, Plan as MeshPlan};
use waxseal_tests::stage::{allow_ingress, policy};

use crate::Plan;
use crate::ends::{End, GATE, SINK, Swallowed, now};
use crate::figures::{Figures, Measure, quantile};
use crate::rules;
use crate::world::{From, World};

const LONG: Duration = Duration::from_secs(30);
/// Between two changes: each is seen by itself.
const APART: Duration = Duration::from_millis(150);

/// From the rename of a policy file to the first connection that is judged by it.
pub(crate) fn policy_file(plan: &Plan, worlds: &[World], figures: &mut Figures) -> Result<()> {
    let (count, groups) = if plan.quick { (20, 1) } else { (100, 5) };
    let largest = worlds.iter().filter(|world| world.kind.enforced().is_some());
    let Some(world) = largest.max_by_key(|world| world.kind.enforced()) else { return Ok(()) };
    let node = &world.mesh().context("there is no agent")?.nodes[1].node;
    let knocking = world.client("knock", From::Beside, GATE, &[]);
    let (_, open): (f64, bool) = knocking.told(LONG)?;
    ensure!(!open, "the gate is open before anybody opened it");
    let mut times = Vec::new();
    for number in 0..count {
        sleep(APART);
        let open = number % 2 == 0;
        let text = world.list(if open { rules::WITH_GATE } else { rules::PORTS }).context("no list")?;
        let before = now();
        node.write("list-0.yaml", &text);
        let (at, found): (f64, bool) = knocking.told(LONG)?;
        ensure!(found == open, "the gate has moved by itself");
        times.push((at - before) * 1000.0);
    }
    let of =
        |share: f64| times.chunks(count / groups).map(|some| quantile(&mut some.to_vec(), share)).collect();
    let name = world.kind.name();
    let rows: Vec<(String, Vec<f64>)> =
        vec![("p50".to_owned(), of(0.5)), ("p99".to_owned(), vec![quantile(&mut times.clone(), 0.99)])];
    figures.push(Measure::new(
        "change",
        &format!("policy file to kernel, {count} changes, {name}"),
        "ms",
        rows,
    ));
    Ok(())
}

/// From the authority's word to the last byte of an open connection; and the same for a policy that lets it in no more.
pub(crate) fn revocation(plan: &Plan, figures: &mut Figures) -> Result<()> {
    let count = if plan.quick { 3 } else { plan.rounds };
    let mut mesh = Mesh::idle("revoke", MeshPlan::default());
    let callers: Vec<_> =
        (0..2 * count).map(|number| mesh.workload(&format!("shop/caller-{number}"), 0, None)).collect();
    let server = mesh.workload("shop/server", 1, None);
    mesh.start(&[]);
    for workload in callers.iter().chain([&server]) {
        mesh.home(workload).node.await_endpoint(&workload.cgroup.name());
    }
    let rule = |number: usize| {
        allow_ingress(&format!("from-{number}"), "shop/server", &callers[number], "[ 8082/tcp ]")
    };
    for number in 0..callers.len() {
        mesh.nodes[1].node.write(&format!("rule-{number}.yaml"), &rule(number));
    }
    mesh.nodes[1].apply(&policy("closed", "shop/server", "  ingress: []"));
    let serving = End::start("serve", server.cgroup.path(), &mesh.network.sites[1].netns.path(), &[]);
    serving.line(LONG)?;
    let to = mesh.at(1, SINK).to_string();
    let (mut revoked, mut denied) = (Vec::new(), Vec::new());
    for (number, caller) in callers.iter().enumerate() {
        let netns = mesh.network.sites[0].netns.path();
        let client = End::start("trickle", caller.cgroup.path(), &netns, &[&to]);
        client.line(LONG).context("the stream does not open")?;
        sleep(Duration::from_millis(100));
        let before = now();
        let times = if number % 2 == 0 {
            mesh.authority.must(&["revoke", "--id", &caller.spiffe_id()]);
            &mut revoked
        } else {
            mesh.nodes[1].node.write(
                &format!("rule-{number}.yaml"),
                &policy("gone", "shop/server", "  ingress: []")
                    .replace("name: gone", &format!("name: gone-{number}")),
            );
            &mut denied
        };
        let swallowed: Swallowed = serving.told(LONG).context("the stream goes on")?;
        times.push((swallowed.last_seen - before).max(0.0) * 1000.0);
    }
    let rows =
        vec![("certificate revoked".to_owned(), revoked), ("no rule allows it any more".to_owned(), denied)];
    figures.push(Measure::new("revocation", "from revocation to the last byte", "ms", rows));
    Ok(())
}
