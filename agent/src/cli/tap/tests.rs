use clap::Parser;

use super::*;
use crate::api::TapRequest;
use crate::flows::{Time, json, samples};

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    arguments: Arguments,
}

fn arguments(line: &str) -> Result<Arguments, String> {
    let words = std::iter::once("tap").chain(line.split_whitespace());
    Ok(Only::try_parse_from(words).map_err(|error| error.to_string())?.arguments)
}

fn request(line: &str) -> Result<TapRequest, String> {
    Ok(arguments(line)?.request(Time(1000)))
}

fn shown(line: &str, text: &str) -> String {
    arguments(line).unwrap().render(false, false).show(text, Time(1_777_896_300_000))
}

fn text(event: &waxseal_common::flow::FlowEvent) -> String {
    let mut out = Vec::new();
    json(&samples::flow(event), &mut out);
    String::from_utf8(out).unwrap().trim_end().to_owned()
}

#[test]
fn following_starts_at_the_moment_the_command_was_typed() {
    let TapRequest { filter, last, follow, .. } = request("").unwrap();
    assert_eq!((filter.since, last, follow), (Some(Time(1000)), None, true));
    for line in ["--last 5", "--no-follow", "--since 1970-01-01T00:00:05Z"] {
        assert_ne!(request(line).unwrap().filter.since, Some(Time(1000)), "{line}");
    }
    for (line, follow) in [
        ("--no-follow", false),
        ("--until 1970-01-01T00:00:00Z", false),
        ("--until 1970-01-01T00:00:05Z", true),
    ] {
        assert_eq!(request(line).unwrap().follow, follow, "{line}");
    }
}

#[test]
fn conditions_become_a_filter() {
    let line = "--verdict deny,AUDIT --from shop/checkout --from 10.0.0.0/8,api --to app=api,tier!=test --between 256 \
                --port 80,8000-9000 --protocol tcp --reason no-rule-matches --rule pay/*,only-get --seal none --seal forged \
                --direction egress --process curl,4121 --node alpha --not --last 3 --until 2026-05-04T12:00:00Z";
    let text = serde_json::to_string(&request(line).unwrap()).unwrap();
    expect_test::expect![[r#"{"filter":{"verdict":["deny","audit"],"from":["shop/checkout","10.0.0.0/8","api"],"to":["app=api,tier!=test"],"between":["256"],"port":["80","8000-9000"],"protocol":["tcp"],"reason":["no-rule-matches"],"rule":["pay/*","only-get"],"seal":["none","forged"],"direction":["egress"],"process":["curl","4121"],"node":["alpha"],"until":"2026-05-04T12:00:00.000Z","not":true},"last":3,"follow":true}"#]].assert_eq(&text);
}

#[test]
fn a_wrong_word_is_refused_with_the_right_ones() {
    for (line, message) in [
        ("--verdict maybe", "`maybe` is no verdict; use allow, would, audit, deny, close"),
        ("--from a/b/c", "`a/b/c` names nobody"),
        ("--port http", "`http` is no port"),
        ("--protocol icmp", "`icmp` is no protocol"),
        ("--reason because", "`because` is no reason; use not-a-workload"),
        ("--since yesterday", "use a span like 5m"),
        ("--since 99999999999999999999d", "use a span like 5m"),
        ("--direction up", "`up` is no direction; use ingress, egress"),
        ("--seal wax", "`wax` is no state of a seal; use none, local"),
        ("--time local", "use clock, rfc3339, unix, ago, none"),
        ("--every 1ms --summary", "at least 100ms"),
        ("--every 1s", "--summary"),
        ("--follow --no-follow", "cannot be used with"),
        ("--reconnect --no-follow", "cannot be used with"),
    ] {
        let error = arguments(line).unwrap_err();
        assert!(error.contains(message), "{line}: {error}");
    }
}

#[test]
fn each_output_shows_a_flow_in_its_own_way() {
    let denied = text(&samples::denied());
    let outputs = [
        "",
        "-o compact --time rfc3339",
        "-o compact --time ago --no-names",
        "-o wide",
        "-o wide --no-names --time none",
        "-o dict --time unix",
        "-o json",
        "--json",
    ];
    let all: Vec<String> = outputs
        .iter()
        .map(|line| format!("{}\n{}", format!("$ {line}").trim_end(), shown(line, &denied)))
        .collect();
    expect_test::expect![[r#"
        $
        12:04:31.882  DENY     out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
        $ -o compact --time rfc3339
        2026-05-04T12:04:31.882Z  DENY     out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
        $ -o compact --time ago --no-names
         28.1s ago  DENY     out  256                      → 257                      10.0.0.2:8080/tcp         4121                  deny-rule
        $ -o wide
        12:04:31.882  DENY     out  spiffe://cluster.local/ns/shop/sa/checkout(256) 10.0.0.1:43210  → spiffe://cluster.local/ns/payments/sa/api(257) 10.0.0.2:8080/tcp  curl[4121]            local    deny-rule payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)  /system.slice/checkout.service  connect4  revision 3  alpha
        $ -o wide --no-names --time none
        DENY     out  256 10.0.0.1:43210                        → 257 10.0.0.2:8080/tcp                     4121                  local    deny-rule  cgroup 40  connect4  revision 3  alpha
        $ -o dict --time unix
                time: 1777896271.882
             verdict: DENY
           direction: egress
              reason: deny-rule
                rule: payments/from-checkout#only-get (/etc/waxseal/policies/pay.yaml:12:7)
              source: shop/checkout(256) 10.0.0.1:43210
           SPIFFE ID: spiffe://cluster.local/ns/shop/sa/checkout
              labels: app=checkout
         destination: payments/api(257) 10.0.0.2:8080
           SPIFFE ID: spiffe://cluster.local/ns/payments/sa/api
              labels: app=api
            protocol: tcp
                port: 8080
             process: curl[4121]
              cgroup: /system.slice/checkout.service (40)
               netns: 4026531840
              cookie: 77
                hook: connect4
                seal: local
            revision: 3
                node: alpha (instance default)

        $ -o json
        {"v":1,"time":"2026-05-04T12:04:31.882Z","kind":"denied","verdict":"deny","direction":"egress","reason":"deny-rule","rule":{"policy":"payments/from-checkout","rule":"only-get","origin":"/etc/waxseal/policies/pay.yaml:12:7"},"source":{"identity":256,"name":"shop/checkout","spiffe_id":"spiffe://cluster.local/ns/shop/sa/checkout","labels":{"app":"checkout"},"address":"10.0.0.1","port":43210},"destination":{"identity":257,"name":"payments/api","spiffe_id":"spiffe://cluster.local/ns/payments/sa/api","labels":{"app":"api"},"address":"10.0.0.2","port":8080},"protocol":"tcp","port":8080,"process":{"pid":4121,"comm":"curl"},"cgroup":{"id":40,"path":"/system.slice/checkout.service"},"netns":4026531840,"cookie":77,"hook":"connect4","sealed":true,"seal":"local","revision":3,"node":"alpha","instance":"default"}
        $ --json
        {"v":1,"time":"2026-05-04T12:04:31.882Z","kind":"denied","verdict":"deny","direction":"egress","reason":"deny-rule","rule":{"policy":"payments/from-checkout","rule":"only-get","origin":"/etc/waxseal/policies/pay.yaml:12:7"},"source":{"identity":256,"name":"shop/checkout","spiffe_id":"spiffe://cluster.local/ns/shop/sa/checkout","labels":{"app":"checkout"},"address":"10.0.0.1","port":43210},"destination":{"identity":257,"name":"payments/api","spiffe_id":"spiffe://cluster.local/ns/payments/sa/api","labels":{"app":"api"},"address":"10.0.0.2","port":8080},"protocol":"tcp","port":8080,"process":{"pid":4121,"comm":"curl"},"cgroup":{"id":40,"path":"/system.slice/checkout.service"},"netns":4026531840,"cookie":77,"hook":"connect4","sealed":true,"seal":"local","revision":3,"node":"alpha","instance":"default"}
    "#]].assert_eq(&all.concat());
}

#[test]
fn a_loss_and_an_unknown_line_are_shown_in_every_output() {
    let loss = r#"{"v":1,"lost":2,"cause":"flow-ring"}"#;
    for line in ["", "-o wide", "-o dict"] {
        assert_eq!(shown(line, loss), "… 2 events lost (the kernel's flow ring was full)\n");
        assert_eq!(shown(line, "{\"v\":9,\"x\":\"\u{9b}\"}"), "{\"v\":9,\"x\":\"\\u{9b}\"}\n");
    }
    assert_eq!(shown("--json", loss), format!("{loss}\n"));
}

/// Names as an enemy would choose them: terminal commands, a forged line, turned direction, and far too long.
#[test]
fn hostile_names_are_harmless_in_every_output() {
    use waxseal_common::flow::FlowEvent;
    use waxseal_common::ids::CgroupId;
    use waxseal_common::state::Process;

    let event = FlowEvent {
        cgroup: CgroupId(66),
        process: Process { pid: 1, comm: *b"\x1b[2J\nDENY\xe2\x80\xae\xff\0\0\0" },
        ..samples::denied()
    };
    let text = text(&event);
    for line in ["", "-o wide", "-o dict", "-o json", "-o wide --time rfc3339"] {
        let shown = shown(line, &text);
        let lines = if line == "-o dict" { 22 } else { 1 };
        assert_eq!(shown.lines().count(), lines, "{line}: {shown}");
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{line}: {shown:?}");
        assert!(!shown.contains(['\u{202e}', '\u{9b}']), "{line}: {shown:?}");
        assert!(shown.len() < 4096, "{line}: {}", shown.len());
    }
}

#[test]
fn a_summary_counts_what_comes_and_tells_it_when_asked() {
    let mut out = Vec::new();
    let mut sink = Sink::new(arguments("--summary").unwrap().render(false, false), &mut out);
    sink.begin().unwrap();
    for event in [samples::allowed(), samples::denied(), samples::closed()] {
        sink.take(&text(&event)).unwrap();
    }
    sink.take("nonsense").unwrap();
    sink.tell().unwrap();
    let shown = String::from_utf8(out).unwrap();
    let rows: Vec<&str> = shown.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{shown}");
    assert!(rows[1].ends_with("shop/checkout(256) → payments/api(257):8080/tcp"), "{shown}");
    assert!(rows[1].trim_start().starts_with("1        0        1       0"), "{shown}");
}

#[test]
fn lines_of_several_nodes_name_the_node_and_so_do_losses_and_absences() {
    let lines = [
        text(&samples::allowed()),
        r#"{"v":1,"lost":3,"cause":"slow-reader","node":"beta"}"#.to_owned(),
        r#"{"v":1,"node":"beta","unreachable":"no agent answers at 10.0.0.2:7461: refused"}"#.to_owned(),
        r#"{"v":1,"node":"beta","unreachable":null}"#.to_owned(),
        r#"{"v":1,"past":"ended"}"#.to_owned(),
    ];
    let mut render = arguments("").unwrap().render(false, false);
    render.look.nodes = true;
    let shown: String = lines.iter().map(|line| render.show(line, Time(0))).collect();
    expect_test::expect![[r"
        12:04:31.882  alpha         ALLOW    out  shop/checkout(256)       → payments/api(257)        10.0.0.2:8080/tcp         curl[4121]            allow-rule payments/from-checkout#2
        … 3 events lost (slow reader) at beta
        … beta does not tell: no agent answers at 10.0.0.2:7461: refused
        … beta tells again
    "]]
    .assert_eq(&shown);
}
