//! Debian's prometheus reads what the agent serves, and promtool accepts the dashboard's questions and the alert rules.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use waxseal_tests::mesh::{Mesh, Plan};
use waxseal_tests::netns::Netns;
use waxseal_tests::node::Settings;
use waxseal_tests::probe::Protocol;
use waxseal_tests::root;
use waxseal_tests::stage::{Stage, Workload, allow_ingress};

const SOON: Duration = Duration::from_secs(10);

/// The programs of Debian's package `prometheus`. Without them this test says so; where nothing may be left out, it fails.
fn tools() -> Option<(PathBuf, PathBuf)> {
    let found = |name: &str| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.exists())
    };
    // As root on Debian it is one command away, or two on a machine that knows no packages yet. A service that it brings is
    // not started.
    let install: &[&str] = &["install", "-y", "-q", "--no-install-recommends", "prometheus"];
    for arguments in [install, &["update", "-q"], install] {
        if found("promtool").is_some() {
            break;
        }
        let _ = Command::new("apt-get")
            .args(arguments)
            .envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    let tools = found("prometheus").zip(found("promtool"));
    assert!(
        tools.is_some() || std::env::var_os("CI").is_none(),
        "prometheus is missing (Debian: apt-get install prometheus), and in CI nothing may be left out"
    );
    tools
}

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

fn get(to: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(to).expect("somebody listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// A running program. Dropping it ends it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent with metrics, and a workload that was let in once and refused once.
fn agent() -> (Stage, [Workload; 2], SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let more = format!("metrics: {address}\nmetrics_pairs: 5\n");
    let settings = Settings { more: &more, ..Settings::default() };
    let (stage, [mut client, mut server]) =
        Stage::with("metrics", settings, [("shop/client", None), ("shop/server", None)]);
    let (_, to) = server.probe.serve(Protocol::Tcp, "127.0.0.1:0");
    stage.apply(&allow_ingress("in", "shop/server", &client, &format!("[ {}/tcp ]", to.port())));
    let tap = stage.node.tap();
    assert_eq!(client.probe.talk(Protocol::Tcp, to), None);
    let (_, shut) = server.probe.serve(Protocol::Tcp, "127.0.0.1:0");
    client.probe.connect(Protocol::Tcp, shut).assert_refused(&["EPERM"], "no rule for this port");
    tap.expect("the denial", SOON, |flow| flow.is("deny"));
    tap.expect("the close", SOON, waxseal_tests::tap::Flow::closes);
    (stage, [client, server], address)
}

#[test]
fn promtool_accepts_the_metrics_the_rules_and_every_question_of_the_dashboard() {
    let Some((_, promtool)) = tools() else { return };
    let (_stage, _workloads, address) = agent();
    let answer = get(address, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let mut check = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    check.stdin.take().expect("piped").write_all(body.as_bytes()).expect("promtool reads");
    let output = check.wait_with_output().expect("promtool ends");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{body}");

    root::run(
        promtool.to_str().expect("text"),
        &["check", "rules", deploy("alerts.yaml").to_str().expect("text")],
    );
    root::run(
        promtool.to_str().expect("text"),
        &["test", "rules", deploy("alerts_test.yaml").to_str().expect("text")],
    );
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(deploy("dashboard.json")).expect("a file")).expect("JSON");
    let mut questions = Vec::new();
    collect(&dashboard, &mut questions);
    assert!(questions.len() >= 15, "{questions:?}");
    let directory = tempfile::tempdir().expect("a directory");
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, question) in questions.iter().enumerate() {
        // Grafana's own variables stand for these.
        let question = question.replace("$__rate_interval", "5m").replace("$instance", ".*");
        let question = serde_json::to_string(&question).expect("text");
        let _infallible = writeln!(rules, "  - record: dashboard:question{number}\n    expr: {question}");
    }
    let path = directory.path().join("dashboard.yaml");
    fs::write(&path, &rules).expect("a file");
    root::run(promtool.to_str().expect("text"), &["check", "rules", path.to_str().expect("text")]);
    // Whatever is asked for, the agent serves, or will once there are other nodes.
    let asked = format!("{rules}{}", fs::read_to_string(deploy("alerts.yaml")).expect("a file"));
    for word in asked.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let base = word.strip_suffix("_bucket").unwrap_or(word);
        if word.starts_with("waxseal_") && !body.contains(&format!("# TYPE {base} ")) {
            let later = ["waxseal_handshake_duration_seconds", "waxseal_peers"];
            assert!(later.contains(&base), "`{word}` is asked for and not served");
        }
    }
}

fn collect(value: &Value, questions: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            questions.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect(value, questions));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, questions)),
        _ => {}
    }
}

#[test]
fn prometheus_scrapes_the_agent_and_answers_from_it() {
    let Some((prometheus, _)) = tools() else { return };
    let (stage, _workloads, address) = agent();
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("prometheus.yaml");
    let rules = deploy("alerts.yaml").canonicalize().expect("the rules");
    fs::write(
        &config,
        format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [ \"{}\" ]\n\
             scrape_configs:\n- job_name: waxseal\n  static_configs: [ {{ targets: [ \"{address}\" ] }} ]\n",
            rules.display()
        ),
    )
    .expect("a file");
    let web = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let log = fs::File::create(directory.path().join("log")).expect("a file");
    let _prometheus = Running(
        Command::new(prometheus)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={web}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts"),
    );
    let ask = |question: &str| -> Option<f64> {
        let encoded = question.bytes().fold(String::new(), |mut text, byte| {
            let _infallible = write!(text, "%{byte:02x}");
            text
        });
        let stream = TcpStream::connect(web).ok()?;
        drop(stream);
        let answer = get(web, &format!("/api/v1/query?query={encoded}"));
        let body = answer.split_once("\r\n\r\n")?.1;
        // The answer may come in chunks; the JSON is one line of it.
        let line = body.lines().find(|line| line.starts_with('{'))?;
        let value: Value = serde_json::from_str(line).ok()?;
        value["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    let about = |value: Option<f64>, wanted: f64| value.is_some_and(|value| (value - wanted).abs() < 1e-9);
    for (question, wanted) in [
        ("up{job=\"waxseal\"}", 1.0),
        ("sum(waxseal_verdicts_total{verdict=\"deny\"})", 1.0),
        ("sum(waxseal_denials_total{enforced=\"true\",direction=\"ingress\"})", 1.0),
        ("sum(waxseal_flows_total{kind=\"closed\"})", 1.0),
        ("sum(waxseal_connection_duration_seconds_count)", 1.0),
        ("waxseal_connection_bytes_total{direction=\"from-opener\"} > bool 0", 1.0),
        ("waxseal_endpoints", 2.0),
        ("waxseal_programs_attached == bool waxseal_programs_expected", 1.0),
        ("waxseal_map_capacity{map=\"connections\"}", 262_144.0),
        ("waxseal_pairs_total{source=\"shop/client\",destination=\"shop/server\",verdict=\"pass\"}", 1.0),
        ("waxseal_policy_refused", 0.0),
    ] {
        root::wait(question, SOON * 3, || about(ask(question), wanted).then_some(()));
    }
    // A bad file on disk is an alarm, and the agent stays ready: what was in force is in force.
    stage.node.apply_bad("policy.yaml", "kind: Nonsense\n");
    root::wait("the alarm", SOON * 3, || {
        about(ask("ALERTS{alertname=\"WaxsealPolicyRefused\"}"), 1.0).then_some(())
    });
    assert!(get(address, "/readyz").ends_with("ready\n"));
    assert!(get(address, "/healthz").ends_with("ok\n"));
    let answer = get(address, "/metrics");
    assert!(answer.contains("waxseal_policy_refused 1"), "{answer}");
}

#[test]
fn an_agent_whose_port_is_taken_guards_all_the_same_and_serves_once_it_is_free() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("it has an address");
    let more = format!("metrics: {address}\n");
    let (stage, [_workload]) =
        Stage::with("taken", Settings { more: &more, ..Settings::default() }, [("shop/client", None)]);
    assert!(stage.node.log().contains("cannot serve metrics"), "{}", stage.node.log());
    drop(holder);
    root::wait("the port is served", SOON * 2, || TcpStream::connect(address).is_ok().then_some(()));
    assert!(get(address, "/healthz").ends_with("ok\n"));
}

/// What a node serves at its own loopback address.
fn within(netns: &Netns, port: u16) -> String {
    let ask =
        format!("exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let output = Command::new("nsenter")
        .arg(format!("--net={}", netns.path().display()))
        .args(["bash", "-c", &ask])
        .output()
        .expect("nsenter runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn two_nodes_tell_how_long_their_handshakes_took_and_why_others_failed() {
    const PORT: u16 = 7462;
    let more = format!("metrics: 127.0.0.1:{PORT}\n");
    let plan = Plan { settings: Settings { more: &more, ..Settings::default() }, ..Plan::default() };
    let (mut mesh, [mut client, mut server]) =
        Mesh::with("timed", plan, [("shop/client", 0), ("shop/server", 1)]);
    server.probe.serve(Protocol::Tcp, "[::]:8080");
    assert_eq!(client.probe.talk(Protocol::Tcp, mesh.at(1, 8080)), None);
    let served = |mesh: &Mesh, node: usize, line: &str| {
        root::wait(line, SOON, || within(&mesh.network.sites[node].netns, PORT).contains(line).then_some(()));
    };
    for (node, line) in [
        (0, "waxseal_handshakes_total{direction=\"out\",outcome=\"done\"} 1\n"),
        (0, "waxseal_handshake_duration_seconds_count 1\n"),
        (0, "waxseal_handshake_duration_seconds_bucket{le=\"5.0\"} 1\n"),
        (0, "waxseal_sessions{direction=\"out\"} 1\n"),
        (0, "waxseal_peers 1\n"),
        (1, "waxseal_handshakes_total{direction=\"in\",outcome=\"done\"} 1\n"),
        (1, "waxseal_sessions{direction=\"in\"} 1\n"),
    ] {
        served(&mesh, node, line);
    }
    mesh.nodes[1].node.kill();
    // Another port is another session, and nobody answers for it.
    client.probe.connect(Protocol::Tcp, mesh.at(1, 8081));
    served(&mesh, 0, "waxseal_handshakes_total{direction=\"out\",outcome=\"no-agent\"} ");
    assert!(
        within(&mesh.network.sites[0].netns, PORT)
            .contains("certificate_expiry_timestamp_seconds{id=\"spiffe://")
    );
}
