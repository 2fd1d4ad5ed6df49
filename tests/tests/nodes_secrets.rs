//! Keys stay where they are: with everything logged, no key of a session, a seal, a node or the authority is in any log,
//! answer or file that is not a key's own.

#![expect(clippy::expect_used, reason = "a scene that cannot be made must stop its test")]

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData};
use waxseal_common::state::Keys;
use waxseal_common::wire::{Route, RouteKey, Session, Spi};
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::node::{Node, Settings};
use waxseal_tests::probe::Protocol;
use waxseal_tests::stage::allow_ingress;

const OPEN: u16 = 8080;

/// A key, and where it was found.
struct Secret {
    place: String,
    bytes: Vec<u8>,
}

fn map(node: &Node, name: &str) -> MapData {
    MapData::from_pin(node.layout_pins().join(name)).expect("the map is pinned")
}

fn of_kernel(node: &Node) -> Vec<Secret> {
    let secret = |place: &str, words: [u64; 2]| Secret {
        place: format!("{}: {place}", node.instance()),
        bytes: words.iter().flat_map(|word| word.to_ne_bytes()).collect(),
    };
    let sessions: HashMap<_, Spi, Session> =
        HashMap::try_from(Map::HashMap(map(node, "SESSIONS"))).expect("sessions");
    let routes: HashMap<_, RouteKey, Route> =
        HashMap::try_from(Map::HashMap(map(node, "ROUTES"))).expect("routes");
    let keys: Array<_, Keys> = Array::try_from(Map::Array(map(node, "KEYS"))).expect("keys");
    let sessions = sessions.iter().map(|entry| secret("a session", entry.expect("a session").1.key.0));
    let routes = routes.iter().map(|entry| secret("a route", entry.expect("a route").1.key.0));
    let own = keys.get(&0, 0).expect("the seal's key").seal.0;
    sessions
        .chain(routes)
        .filter(|secret| secret.bytes.iter().any(|byte| *byte != 0))
        .chain([secret("the seal", own)])
        .collect()
}

/// Every file below, with what it holds.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&path)),
            Ok(kind) if kind.is_file() => found.push((path.clone(), fs::read(&path).unwrap_or_default())),
            _ => {}
        }
    }
    found
}

/// The private keys among files in PEM, as their bytes.
fn of_disk(files: &[(PathBuf, Vec<u8>)]) -> Vec<Secret> {
    let is_key = |text: &str| text.contains("PRIVATE KEY");
    let texts = files.iter().filter_map(|(path, bytes)| Some((path, str::from_utf8(bytes).ok()?)));
    texts
        .filter(|(_, text)| is_key(text))
        .map(|(path, text)| {
            let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
            // The middle of it: the beginning is the same in every key.
            let bytes = body.as_bytes()[body.len() / 3..body.len() / 3 + 24].to_vec();
            Secret { place: path.display().to_string(), bytes }
        })
        .collect()
}

/// Bytes as characters of the same numbers, so that they can be searched like text.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The ways in which a key might be written.
fn forms(bytes: &[u8]) -> Vec<String> {
    let hex = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")));
    let words: Vec<u64> = words.collect();
    let listed = format!("{bytes:?}");
    let mut forms = vec![text(bytes), hex.to_uppercase(), hex, listed.trim_matches(['[', ']']).to_owned()];
    forms.extend(words.iter().map(u64::to_string));
    forms.extend(words.iter().map(|word| format!("{word:x}")));
    forms
}

#[test]
fn no_key_is_in_a_log_an_answer_or_a_file_that_is_not_its_own() {
    let settings = Settings { more: "metrics: 127.0.0.1:7462\n", ..Settings::default() };
    let mut mesh = Mesh::idle("secrets", Plan { settings, ..Plan::default() });
    for stage in &mesh.nodes {
        stage.node.set("log", "info,waxseal=trace,rustls=trace");
    }
    let caller = mesh.workload("shop/caller", 0, None);
    let server = mesh.workload("shop/server", 1, None);
    let mut workloads = [caller, server];
    mesh.start(&workloads);
    workloads[1].probe.serve(Protocol::Tcp, &format!("[::]:{OPEN}"));
    mesh.nodes[1].apply(&allow_ingress("in", "shop/server", &workloads[0], "[ 8000-8999/tcp ]"));
    let to = mesh.at(1, OPEN);
    assert_eq!(workloads[0].probe.talk(Protocol::Tcp, to), None);

    let disk: Vec<(PathBuf, Vec<u8>)> = mesh
        .nodes
        .iter()
        .flat_map(|stage| files(&stage.node.path("")))
        .chain(files(&mesh.authority.path("")))
        .collect();
    let kernel = mesh.nodes.iter().flat_map(|stage| of_kernel(&stage.node));
    let secrets: Vec<Secret> = kernel.chain(of_disk(&disk)).collect();
    // Both nodes' seals, a session, a route, two nodes' keys, the authority's.
    assert!(secrets.len() >= 7, "{:?}", secrets.iter().map(|secret| &secret.place).collect::<Vec<_>>());

    let mut said: Vec<(PathBuf, String)> =
        disk.iter().map(|(path, bytes)| (path.clone(), text(bytes))).collect();
    for stage in &mesh.nodes {
        for arguments in [
            &["status", "-o", "json"][..],
            &["session", "list", "-o", "json"],
            &["list", "-o", "json"],
            &["tap", "--no-follow", "-o", "json"],
            &["doctor", "-o", "json"],
        ] {
            let output = stage.node.output(arguments);
            let place = PathBuf::from(format!("{} {}", stage.node.instance(), arguments.join(" ")));
            said.push((place, text(&[output.stdout, output.stderr].concat())));
        }
    }
    let traced = |(path, said): &(PathBuf, String)| path.ends_with("agent.log") && said.contains("TRACE");
    assert_eq!(said.iter().filter(|one| traced(one)).count(), 2, "both agents have logged everything");
    for Secret { place, bytes } in &secrets {
        let own = |path: &Path| path.display().to_string() == *place;
        let forms = forms(bytes);
        for (path, said) in said.iter().filter(|(path, _)| !own(path)) {
            let found = forms.iter().any(|form| said.contains(form));
            assert!(!found, "{} holds the key of {place}", path.display());
        }
    }
}
