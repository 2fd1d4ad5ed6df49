//! Traffic through every world in turn: A B C, then C B A, so that a slow minute of the machine is slow for all.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::Plan;
use crate::ends::{ECHO, OPEN, SINK, Swallowed, Told};
use crate::figures::{Figures, Measure};
use crate::world::{From, World};

/// How long a load may take beyond its time.
const LATE: Duration = Duration::from_secs(15);

/// What goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Open { at_once: usize },
    Kept,
    Datagrams,
    Streams { count: usize, offload: bool },
}

/// One load, from one place.
struct Case {
    id: &'static str,
    title: &'static str,
    load: Load,
    from: From,
    /// Also in a short run.
    quick: bool,
}

const fn case(id: &'static str, title: &'static str, from: From, load: Load, quick: bool) -> Case {
    Case { id, title, load, from, quick }
}

const CASES: &[Case] = &[
    case("nodes-open", "new connections, two nodes", From::Afar, Load::Open { at_once: 1 }, true),
    case(
        "nodes-open-16",
        "new connections, two nodes, 16 at a time",
        From::Afar,
        Load::Open { at_once: 16 },
        true,
    ),
    case("nodes-kept", "request and response on one connection, two nodes", From::Afar, Load::Kept, true),
    case("nodes-udp", "request and response over UDP, two nodes", From::Afar, Load::Datagrams, true),
    case(
        "nodes-stream-1",
        "one stream, two nodes",
        From::Afar,
        Load::Streams { count: 1, offload: true },
        true,
    ),
    case(
        "nodes-stream-8",
        "eight streams, two nodes",
        From::Afar,
        Load::Streams { count: 8, offload: true },
        false,
    ),
    case(
        "nodes-bare-1",
        "one stream without segmentation offload, two nodes",
        From::Afar,
        Load::Streams { count: 1, offload: false },
        true,
    ),
    case(
        "nodes-bare-8",
        "eight streams without segmentation offload, two nodes",
        From::Afar,
        Load::Streams { count: 8, offload: false },
        false,
    ),
    case("host-open", "new connections, one node", From::Beside, Load::Open { at_once: 1 }, true),
    case("host-kept", "request and response on one connection, one node", From::Beside, Load::Kept, false),
    case("host-udp", "request and response over UDP, one node", From::Beside, Load::Datagrams, false),
    case(
        "host-stream-1",
        "one stream, one node",
        From::Beside,
        Load::Streams { count: 1, offload: true },
        false,
    ),
];

impl Case {
    fn fits(&self, world: &World) -> bool {
        world.kind.is_kernel() || (self.from == From::Afar && self.load != Load::Datagrams)
    }
}

/// The names of the measures that one load gives, with their titles and units.
fn questions(case: &Case) -> Vec<(String, String, &'static str)> {
    let named = |suffix: &str, title: &str, unit| {
        (format!("{}{suffix}", case.id), format!("{}{title}", case.title), unit)
    };
    match case.load {
        Load::Open { at_once } => {
            let mut all =
                vec![named("", "", "connections/s"), named("-cpu", ": processor time of one", "µs")];
            if at_once == 1 {
                all.push(named("-p50", ": until the server's first byte, half of them", "µs"));
                all.push(named("-p99", ": until the server's first byte, 99 of 100", "µs"));
            }
            all
        }
        Load::Kept | Load::Datagrams => vec![
            named("", "", "requests/s"),
            named("-p50", ": latency, half of them", "µs"),
            named("-p99", ": latency, 99 of 100", "µs"),
        ],
        Load::Streams { .. } => {
            vec![named("", "", "Gbit/s"), named("-cpu", ": processor time of a gigabyte", "s")]
        }
    }
}

/// Runs every load through every world.
pub(crate) fn measure(worlds: &[World], plan: &Plan, figures: &mut Figures) {
    for case in CASES.iter().filter(|case| (case.quick || !plan.quick) && plan.wants(case.id)) {
        let fitting: Vec<&World> = worlds.iter().filter(|world| case.fits(world)).collect();
        one(case, &fitting, plan, figures);
    }
}

fn one(case: &Case, worlds: &[&World], plan: &Plan, figures: &mut Figures) {
    let questions = questions(case);
    let mut samples: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..plan.rounds {
        let mut order: Vec<usize> = (0..worlds.len()).collect();
        order.rotate_left(round % worlds.len().max(1));
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            let answers = sample(case, worlds[number], plan.seconds).unwrap_or_else(|error| {
                figures.failed(
                    format!("{}: {}, round {}", case.id, worlds[number].kind.name(), round + 1),
                    &error,
                );
                vec![f64::NAN; questions.len()]
            });
            for (question, answer) in answers.into_iter().enumerate() {
                samples.entry((question, number)).or_default().push(answer);
            }
        }
    }
    for (question, (id, title, unit)) in questions.iter().enumerate() {
        let of = |number| samples.remove(&(question, number)).unwrap_or_default();
        let rows = (0..worlds.len()).map(of).enumerate();
        let rows = rows.map(|(number, values)| (worlds[number].kind.name(), values)).collect();
        figures.push(Measure::new(id, title, unit, rows));
    }
    crate::say(&format!("{}: done", case.title));
}

/// The answers to the load's questions, in their order.
fn sample(case: &Case, world: &World, seconds: f64) -> Result<Vec<f64>> {
    let within = Duration::from_secs_f64(seconds * 3.0) + LATE;
    let time = seconds.to_string();
    let cpu = world.cpu();
    match case.load {
        Load::Open { at_once } => {
            let client = world.client("open", case.from, OPEN, &[&time, &at_once.to_string()]);
            let told: Told = client.told(within)?;
            // The first tenth warmed up and is not counted.
            let count = told.count as f64 * 1.1;
            let cpu = (world.cpu() - cpu) * 1e6 / count;
            let mut answers = vec![told.count as f64 / told.seconds, cpu];
            if at_once == 1 {
                answers.extend([told.p50, told.p99]);
            }
            Ok(answers)
        }
        Load::Kept | Load::Datagrams => {
            let role = if case.load == Load::Kept { "kept" } else { "datagrams" };
            let told: Told = world.client(role, case.from, ECHO, &[&time]).told(within)?;
            Ok(vec![told.count as f64 / told.seconds, told.p50, told.p99])
        }
        Load::Streams { count, offload } => {
            if !offload {
                world.offload(false);
            }
            let streamed = stream(world, case.from, &time, count, within);
            if !offload {
                world.offload(true);
            }
            let (bytes, seconds) = streamed?;
            Ok(vec![bytes * 8.0 / seconds / 1e9, (world.cpu() - cpu) * 1e9 / bytes])
        }
    }
}

/// Bytes that arrived, and the seconds from the first to the last.
fn stream(world: &World, from: From, time: &str, count: usize, within: Duration) -> Result<(f64, f64)> {
    world.server().drain();
    let client = world.client("source", from, SINK, &[time, &count.to_string()]);
    client.line(within)?;
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(world.server().told::<Swallowed>(within)?);
    }
    let first = streams.iter().map(|stream| stream.first).fold(f64::INFINITY, f64::min);
    let last = streams.iter().map(|stream| stream.last).fold(0.0, f64::max);
    let bytes: f64 = streams.iter().map(|stream| stream.bytes as f64).sum();
    Ok((bytes, last - first))
}
