//! How long it takes to find something in the past.

use std::process::Stdio;
use std::time::Instant;

use serde::Serialize;
use waxseal_tests::node::Node;

/// One question to the history.
#[derive(Debug, Serialize)]
pub(crate) struct Search {
    pub(crate) arguments: String,
    pub(crate) found: usize,
    /// From the start of the command to its end, the best of five.
    pub(crate) milliseconds: f64,
}

/// Asks for what is rare, for what is not there, for the newest, and for a short time.
pub(crate) fn ask(node: &Node) -> Vec<Search> {
    [
        &["--verdict", "deny"][..],
        &["--process", "nobody"],
        &["--to", "192.0.2.0/24"],
        &["--last", "20"],
        &["--since", "1s"],
    ]
    .map(|arguments| one(node, arguments))
    .into()
}

fn one(node: &Node, arguments: &[&str]) -> Search {
    let all = [&["tap", "--no-follow", "-o", "json"], arguments].concat();
    let mut best = f64::MAX;
    let mut found = 0;
    for _ in 0..5 {
        let started = Instant::now();
        let output = node.command(&all).stderr(Stdio::inherit()).output().expect("the tap runs");
        best = best.min(started.elapsed().as_secs_f64() * 1000.0);
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        found = output.stdout.split(|byte| *byte == b'\n').count() - 1;
    }
    Search { arguments: arguments.join(" "), found, milliseconds: best }
}
