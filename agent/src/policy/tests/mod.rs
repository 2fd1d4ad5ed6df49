//! Tests of the whole language: what is refused, what is meant, and that tables and reference agree.

mod differential;
mod files;
mod foreign;
mod fuzz;
mod golden;
mod hostile;
mod incremental;
mod meaning;
mod messages;
mod mistakes;
mod schema;
mod semantics;
mod size;
mod tools;
mod update;
mod world;

use std::path::Path;

use super::{LoadErrors, PolicySet, parse};

fn read(text: &str) -> Result<PolicySet, LoadErrors> {
    parse(Path::new("p.yaml"), text, &"a.org".parse().unwrap())
}
