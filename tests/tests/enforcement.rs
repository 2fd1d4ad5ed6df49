//! Who may talk to whom: real sockets, both protocols, both families, with and without a wire between.

use std::net::SocketAddr;
use std::time::Duration;

use waxseal_tests::netns::{End, Netns};
use waxseal_tests::probe::{Protocol, Request, parse};
use waxseal_tests::stage::{Stage, Workload, allow_egress, allow_ingress, policy};

const SOON: Duration = Duration::from_secs(3);

/// Two namespaces and a wire between them; the end at which the second one is reached.
fn wired() -> (Netns, Netns, End) {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let (_, end) = here.wire(&there, 1);
    (here, there, end)
}

/// An echo service for both protocols on one port that both families reach.
fn serve_both(server: &mut Workload, port: u16) -> [u32; 2] {
    Protocol::BOTH.map(|protocol| server.probe.serve(protocol, &format!("[::]:{port}")).0)
}

#[test]
fn ingress_rules_let_the_named_workload_in_and_refuse_the_others_at_once_across_a_wire() {
    let (here, there, end) = wired();
    let (stage, [mut checkout, mut batch, mut payments]) = Stage::new(
        "ingress",
        [("shop/checkout", Some(&here)), ("shop/batch", Some(&here)), ("payments/api", Some(&there))],
    );
    let [streams, datagrams] = serve_both(&mut payments, 8080);
    serve_both(&mut payments, 8081);
    stage.apply(&allow_ingress("from-checkout", "payments/api", &checkout, "[ 8080/tcp, 8080/udp ]"));
    for ip in end.both() {
        let (open, shut) = (SocketAddr::new(ip, 8080), SocketAddr::new(ip, 8081));
        for protocol in Protocol::BOTH {
            assert_eq!(checkout.probe.talk(protocol, open), None, "{protocol:?} {open}");
        }
        assert_eq!(checkout.probe.shout(open), None, "{open}");
        let case = format!("the right caller at another port: {shut}");
        checkout.probe.connect(Protocol::Tcp, shut).assert_refused(&["ECONNREFUSED"], &case);
        let case = format!("another caller at the right port: {open}");
        batch.probe.connect(Protocol::Tcp, open).assert_refused(&["ECONNREFUSED"], &case);
        assert!(batch.probe.talk(Protocol::Udp, open).is_some(), "{case}");
        assert!(batch.probe.shout(open).is_some(), "{case}");
    }
    assert_eq!(payments.probe.seen(streams), 2, "only the right caller's connections reached accept()");
    assert_eq!(payments.probe.seen(datagrams), 4, "only the right caller's datagrams were received");
}

#[test]
fn ingress_rules_of_a_listener_in_the_same_namespace_are_eperm_at_connect() {
    let (here, there, _) = wired();
    let own = here.wire(&there, 2).0;
    let (stage, [mut checkout, mut batch, mut payments]) = Stage::new(
        "same-ns",
        [("shop/checkout", Some(&here)), ("shop/batch", Some(&here)), ("payments/api", Some(&here))],
    );
    let mut services = Vec::new();
    // One service for all addresses, and one that names the host's own address.
    for at in ["[::]:8080".to_owned(), format!("{}:8081", own.v4), format!("[{}]:8081", own.v6)] {
        services.extend(Protocol::BOTH.map(|protocol| payments.probe.serve(protocol, &at).0));
    }
    stage.apply(&allow_ingress(
        "from-checkout",
        "payments/api",
        &checkout,
        "[ 8080-8081/tcp, 8080-8081/udp ]",
    ));
    let mut welcome = 0;
    for (ip, port) in [
        (parse("127.0.0.1:0").ip(), 8080),
        (parse("[::1]:0").ip(), 8080),
        (own.v4.into(), 8081),
        (own.v6.into(), 8081),
    ] {
        let to = SocketAddr::new(ip, port);
        for protocol in Protocol::BOTH {
            assert_eq!(checkout.probe.talk(protocol, to), None, "{protocol:?} {to}");
            batch.probe.connect(protocol, to).assert_refused(&["EPERM"], &format!("{protocol:?} {to}"));
        }
        assert_eq!(checkout.probe.shout(to), None, "{to}");
        assert_eq!(batch.probe.shout(to).as_deref(), Some("EPERM"), "{to}");
        welcome += 3;
    }
    // Who listens on every address may not be who has this one: the SYN finds out.
    for ip in own.both() {
        let to = SocketAddr::new(ip, 8080);
        assert_eq!(checkout.probe.talk(Protocol::Tcp, to), None, "{to}");
        batch.probe.connect(Protocol::Tcp, to).assert_refused(&["EPERM", "ECONNREFUSED"], &to.to_string());
        assert_eq!(checkout.probe.talk(Protocol::Udp, to), None, "{to}");
        assert!(batch.probe.talk(Protocol::Udp, to).is_some(), "{to}");
        welcome += 2;
    }
    let seen: u64 = services.into_iter().map(|service| payments.probe.seen(service)).sum();
    assert_eq!(seen, welcome, "nobody else was served");
}

#[test]
fn egress_rules_about_addresses_are_eperm_at_connect_and_at_send() {
    let (here, there, end) = wired();
    let (stage, [mut batch]) = Stage::new("egress-cidr", [("shop/batch", Some(&here))]);
    let mut outside = stage.stranger(Some(&there));
    serve_both(&mut outside, 8080);
    serve_both(&mut outside, 8081);
    let rules = format!(
        "  egress:\n    - to: [ {{ cidr: {}/32 }}, {{ cidr: {}/128 }} ]\n      ports: [ 8080/tcp, 8080/udp ]",
        end.v4, end.v6
    );
    stage.apply(&policy("only-there", "shop/batch", &rules));
    for ip in end.both() {
        let (open, shut) = (SocketAddr::new(ip, 8080), SocketAddr::new(ip, 8081));
        for protocol in Protocol::BOTH {
            assert_eq!(batch.probe.talk(protocol, open), None, "{protocol:?} {open}");
            batch.probe.connect(protocol, shut).assert_refused(&["EPERM"], &format!("{protocol:?} {shut}"));
        }
        assert_eq!(batch.probe.shout(open), None, "{open}");
        assert_eq!(batch.probe.shout(shut).as_deref(), Some("EPERM"), "{shut}");
    }
    // Nobody lives there: the refusal does not wait for an answer that never comes.
    for nowhere in ["192.0.2.1:80", "[2001:db8::1]:80"] {
        batch.probe.connect(Protocol::Tcp, parse(nowhere)).assert_refused(&["EPERM"], nowhere);
    }
}

#[test]
fn egress_rules_about_identities_hold_where_the_destination_is_known_only_when_it_answers() {
    let (here, there, end) = wired();
    let (stage, [mut checkout, mut payments, mut ledger]) = Stage::new(
        "egress-id",
        [("shop/checkout", Some(&here)), ("payments/api", Some(&there)), ("payments/ledger", Some(&there))],
    );
    let (_, _) = payments.probe.serve(Protocol::Tcp, "[::]:8080");
    let (forbidden, _) = ledger.probe.serve(Protocol::Tcp, "[::]:8081");
    let (forbidden_datagrams, _) = ledger.probe.serve(Protocol::Udp, "[::]:8081");
    payments.probe.serve(Protocol::Udp, "[::]:8080");
    stage.apply(&allow_egress("to-payments", "shop/checkout", &payments, "[ 1-65535/tcp, 1-65535/udp ]"));
    for ip in end.both() {
        let (open, shut) = (SocketAddr::new(ip, 8080), SocketAddr::new(ip, 8081));
        for protocol in Protocol::BOTH {
            assert_eq!(checkout.probe.talk(protocol, open), None, "{protocol:?} {open}");
        }
        let reply = checkout.probe.connect(Protocol::Tcp, shut);
        reply.assert_refused(&["ECONNREFUSED", "ECONNABORTED", "ECONNRESET"], &shut.to_string());
        assert!(checkout.probe.talk(Protocol::Udp, shut).is_some(), "{shut}");
        assert!(checkout.probe.shout(shut).is_some(), "{shut}");
    }
    assert_eq!(ledger.probe.seen(forbidden), 0);
    assert_eq!(ledger.probe.seen(forbidden_datagrams), 0);
}

#[test]
fn egress_rules_about_identities_are_eperm_at_connect_where_the_listener_can_be_found() {
    let here = Netns::new("here");
    let (stage, [mut checkout, mut payments, mut ledger]) = Stage::new(
        "egress-lo",
        [("shop/checkout", Some(&here)), ("payments/api", Some(&here)), ("payments/ledger", Some(&here))],
    );
    serve_both(&mut payments, 8080);
    serve_both(&mut ledger, 8081);
    stage.apply(&allow_egress("to-payments", "shop/checkout", &payments, "[ 8080/tcp, 8080/udp ]"));
    for ip in ["127.0.0.1", "[::1]"] {
        for protocol in Protocol::BOTH {
            assert_eq!(
                checkout.probe.talk(protocol, parse(&format!("{ip}:8080"))),
                None,
                "{protocol:?} {ip}"
            );
            let reply = checkout.probe.connect(protocol, parse(&format!("{ip}:8081")));
            reply.assert_refused(&["EPERM"], &format!("{protocol:?} {ip}"));
        }
    }
}

#[test]
fn a_server_that_may_call_nobody_still_answers_those_who_may_call_it() {
    let (here, there, end) = wired();
    let (stage, [mut checkout, mut payments]) =
        Stage::new("replies", [("shop/checkout", Some(&here)), ("payments/api", Some(&there))]);
    serve_both(&mut payments, 8080);
    serve_both(&mut checkout, 9090);
    stage.apply(&format!(
        "{}{}",
        policy("calls-nobody", "payments/api", "  egress: []"),
        policy("called-by-nobody", "shop/checkout", "  ingress: []")
    ));
    for ip in end.both() {
        let to = SocketAddr::new(ip, 8080);
        for protocol in Protocol::BOTH {
            assert_eq!(checkout.probe.talk(protocol, to), None, "{protocol:?} {to}");
        }
        assert_eq!(checkout.probe.shout(to), None, "{to}");
    }
    payments.probe.connect(Protocol::Tcp, parse("10.77.1.1:9090")).assert_refused(&["EPERM"], "the way back");
    payments.probe.connect(Protocol::Udp, parse("10.77.1.1:9090")).assert_refused(&["EPERM"], "the way back");
}

#[test]
fn a_verdict_names_both_ends_the_rule_its_file_and_line_and_the_process() {
    let (here, there, end) = wired();
    let (stage, [mut checkout, mut batch, mut payments]) = Stage::new(
        "events",
        [("shop/checkout", Some(&here)), ("shop/batch", Some(&here)), ("payments/api", Some(&there))],
    );
    serve_both(&mut payments, 8080);
    stage.apply(&format!(
        "{}    - name: no-batch\n      action: deny\n      from: [ {{ identity: \"{}\" }} ]\n",
        allow_ingress("from-checkout", "payments/api", &checkout, "[ 8080/tcp ]"),
        batch.spiffe_id()
    ));
    let tap = stage.node.tap();
    let to = SocketAddr::new(end.v4.into(), 8080);
    batch.probe.must(&Request::Rename { name: "night job".into() });
    let opened = checkout.probe.connect(Protocol::Tcp, to);
    opened.assert_open("checkout may");
    batch.probe.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], "batch may not");

    let denied = tap.expect("the denial", SOON, |flow| {
        flow.is("deny") && flow.between("shop/batch", "payments/api", 8080)
    });
    assert_eq!(denied.text("reason"), "deny-rule", "{denied:?}");
    assert_eq!(denied.text("protocol"), "tcp", "{denied:?}");
    assert_eq!(denied.text("source.spiffe_id"), batch.spiffe_id(), "{denied:?}");
    assert_eq!(denied.text("rule.policy"), "payments/from-checkout", "{denied:?}");
    assert_eq!(denied.text("rule.rule"), "no-batch", "{denied:?}");
    assert!(denied.text("rule.origin").contains("/policy.yaml:11:"), "{denied:?}");
    assert_eq!(denied.text("process.comm"), "night job", "{denied:?}");
    assert_eq!(denied.text("process.pid"), batch.probe.pid().to_string(), "{denied:?}");

    let allowed = tap.expect("the allow", SOON, |flow| {
        flow.is("allow") && flow.between("shop/checkout", "payments/api", 8080)
    });
    assert_eq!(allowed.text("rule.rule"), "may-enter", "{allowed:?}");
    assert_eq!(allowed.text("process.pid"), checkout.probe.pid().to_string(), "{allowed:?}");

    let handle = opened.handle.unwrap();
    checkout.probe.must(&Request::Ping { handle, milliseconds: 1000 });
    checkout.probe.must(&Request::Close { handle });
    let closed = tap.expect("the close", SOON, |flow| {
        flow.closes() && flow.between("shop/checkout", "payments/api", 8080)
    });
    // The kernel counts SYN and FIN as a byte each.
    for key in ["bytes_sent", "bytes_received"] {
        assert!(["16", "17", "18"].contains(&closed.text(key).as_str()), "{key}: {closed:?}");
    }
}

#[test]
fn an_egress_denial_names_the_rule_and_the_process_too() {
    let here = Netns::new("here");
    let (stage, [mut batch]) = Stage::new("egress-event", [("shop/batch", Some(&here))]);
    stage.apply(&policy("stays-home", "shop/batch", "  egress: []"));
    let tap = stage.node.tap();
    for (protocol, port) in [(Protocol::Tcp, 5001u16), (Protocol::Udp, 5002)] {
        let to = SocketAddr::new(parse("192.0.2.1:0").ip(), port);
        batch.probe.connect(protocol, to).assert_refused(&["EPERM"], protocol.as_str());
        let denied = tap
            .expect(protocol.as_str(), SOON, |flow| flow.is("deny") && flow.text("port") == port.to_string());
        assert_eq!(denied.text("protocol"), protocol.as_str(), "{denied:?}");
        assert_eq!(denied.text("reason"), "no-rule-matches", "{denied:?}");
        assert_eq!(denied.text("rule.policy"), "shop/stays-home", "{denied:?}");
        assert_eq!(denied.text("direction"), "egress", "{denied:?}");
        assert_eq!(denied.text("process.pid"), batch.probe.pid().to_string(), "{denied:?}");
        assert_eq!(denied.text("source.name"), "shop/batch", "{denied:?}");
    }
}

#[test]
fn who_belongs_to_no_workload_is_left_alone_and_is_a_stranger_to_workloads() {
    let (here, there, end) = wired();
    let (stage, [mut payments]) = Stage::new("unmanaged", [("payments/api", Some(&there))]);
    let mut caller = stage.stranger(Some(&here));
    let mut other = stage.stranger(Some(&there));
    serve_both(&mut payments, 8080);
    serve_both(&mut other, 8081);
    stage.apply(&policy("closed", "payments/api", "  ingress: []\n  egress: []"));
    let (shut, open) = (SocketAddr::new(end.v4.into(), 8080), SocketAddr::new(end.v4.into(), 8081));
    for protocol in Protocol::BOTH {
        assert_eq!(caller.probe.talk(protocol, open), None, "strangers talk to each other: {protocol:?}");
        assert!(caller.probe.talk(protocol, shut).is_some(), "a stranger may not enter: {protocol:?}");
    }
    caller.probe.connect(Protocol::Tcp, shut).assert_refused(&["ECONNREFUSED"], "a stranger");
    stage.apply(&policy("open", "payments/api", "  ingress:\n    - from: [ { entity: unmanaged } ]"));
    for protocol in Protocol::BOTH {
        assert_eq!(caller.probe.talk(protocol, shut), None, "strangers were named: {protocol:?}");
    }
}

#[test]
fn identity_survives_translation_of_source_and_destination_inside_the_node() {
    let (here, there, router) = (Netns::new("here"), Netns::new("there"), Netns::new("router"));
    let (_, router_near) = here.wire(&router, 1);
    let (_, end) = router.wire(&there, 2);
    here.default_route(&router_near);
    router.forward();
    router.nft(
        "table inet nat {
           chain post { type nat hook postrouting priority srcnat; oifname wire2 masquerade; }
           chain pre { type nat hook prerouting priority dstnat;
             iifname wire1 ip daddr 10.77.1.2 tcp dport 80 dnat ip to 10.77.2.2:8080;
             iifname wire1 ip6 daddr fd77:1::2 tcp dport 80 dnat ip6 to [fd77:2::2]:8080;
           }
         }",
    );
    let (stage, [mut checkout, mut batch, mut payments]) = Stage::new(
        "nat",
        [("shop/checkout", Some(&here)), ("shop/batch", Some(&here)), ("payments/api", Some(&there))],
    );
    let (service, _) = payments.probe.serve(Protocol::Tcp, "[::]:8080");
    stage.apply(&allow_ingress("from-checkout", "payments/api", &checkout, "[ 8080/tcp ]"));
    let mut arrived = 0;
    for (ip, port, what) in [
        (end.v4.into(), 8080, "source translated, IPv4"),
        (end.v6.into(), 8080, "source translated, IPv6"),
        (router_near.v4.into(), 80, "both translated, IPv4"),
        (router_near.v6.into(), 80, "both translated, IPv6"),
    ] {
        let to = SocketAddr::new(ip, port);
        assert_eq!(checkout.probe.talk(Protocol::Tcp, to), None, "{what}");
        batch.probe.connect(Protocol::Tcp, to).assert_refused(&["ECONNREFUSED"], what);
        arrived += 1;
        assert_eq!(payments.probe.seen(service), arrived, "{what}");
    }
}

#[test]
fn loopback_within_one_workload_is_always_allowed() {
    let here = Netns::new("here");
    let (stage, [mut alone]) = Stage::new("self", [("shop/alone", Some(&here))]);
    serve_both(&mut alone, 8080);
    stage.apply(&policy("hermit", "shop/alone", "  ingress: []\n  egress: []"));
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        for protocol in Protocol::BOTH {
            assert_eq!(alone.probe.talk(protocol, parse(address)), None, "{protocol:?} {address}");
        }
    }
}

#[test]
fn every_kind_of_peer_is_honoured() {
    let (here, there, end) = wired();
    let (stage, [mut checkout, mut payments]) =
        Stage::new("peers", [("shop/checkout", Some(&here)), ("payments/api", Some(&there))]);
    let (_, address) = payments.probe.serve(Protocol::Tcp, "[::]:8080");
    assert_eq!(address.port(), 8080);
    let to = SocketAddr::new(end.v4.into(), 8080);
    for (rule, open) in [
        ("{ from: [ { identity: \"spiffe://cluster.local/ns/shop/*\" } ] }", true),
        ("{ from: [ { identity: \"spiffe://cluster.local/ns/other/*\" } ] }", false),
        ("{ from: [ { identity: \"spiffe://cluster.local/ns/shop/sa/checkou\" } ] }", false),
        ("{ from: [ { trustDomain: cluster.local } ] }", true),
        ("{ from: [ { trustDomain: example.org } ] }", false),
        ("{ from: [ { namespace: shop } ] }", true),
        ("{ from: [ { namespace: sho } ] }", false),
        ("{ from: [ { namespace: shop, labels: { app: checkout } } ] }", true),
        ("{ from: [ { namespace: shop, labels: { app: batch } } ] }", false),
        ("{ from: [ { namespace: other, labels: { app: checkout } } ] }", false),
        ("{ from: [ { cidr: 10.77.1.0/24 } ] }", true),
        ("{ from: [ { cidr: 10.77.1.0/24, except: [ 10.77.1.1/32 ] } ] }", false),
        ("{ from: [ { cidr: 10.77.2.0/24 } ] }", false),
        ("{ from: [ { entity: any-authenticated } ] }", true),
        ("{ from: [ { entity: any } ] }", true),
        ("{ from: [ { entity: world } ] }", false),
        ("{ from: [ { entity: host } ] }", false),
        ("{ from: [ { namespace: shop, not: { labels: { app: checkout } } } ] }", false),
        ("{ from: [ { namespace: shop, not: { labels: { app: batch } } } ] }", true),
        ("{ from: [] }", false),
        ("{ ports: [ 8080/tcp ] }", true),
        ("{ ports: [ 8000-8100/tcp ] }", true),
        ("{ ports: [ 8081-8100/tcp ] }", false),
        ("{ ports: [ 8080/udp ] }", false),
        ("{ ports: [] }", false),
    ] {
        stage.apply(&policy("peers", "payments/api", &format!("  ingress: [ {rule} ]")));
        let reply = checkout.probe.connect(Protocol::Tcp, to);
        if open {
            reply.assert_open(rule);
            checkout.probe.must(&Request::Close { handle: reply.handle.unwrap() });
        } else {
            reply.assert_refused(&["ECONNREFUSED"], rule);
        }
    }
}

#[test]
fn a_deny_rule_wins_over_every_allow_rule() {
    let (here, there, end) = wired();
    let (stage, [mut checkout, mut payments]) =
        Stage::new("deny", [("shop/checkout", Some(&here)), ("payments/api", Some(&there))]);
    serve_both(&mut payments, 8080);
    serve_both(&mut payments, 8081);
    let rules = "  ingress:
    - { name: all, from: [ { namespace: shop } ] }
    - { name: but, action: deny, from: [ { cidr: 10.77.0.0/16 } ], ports: [ 8081/tcp ] }";
    stage.apply(&policy("mixed", "payments/api", rules));
    let at = |port| SocketAddr::new(end.v4.into(), port);
    assert_eq!(checkout.probe.talk(Protocol::Tcp, at(8080)), None);
    assert_eq!(checkout.probe.talk(Protocol::Udp, at(8081)), None, "the deny rule names TCP only");
    checkout.probe.connect(Protocol::Tcp, at(8081)).assert_refused(&["ECONNREFUSED"], "denied by name");
    let only_deny = "  ingress:\n    - { action: deny, ports: [ 8081/tcp ] }";
    stage.apply(&policy("mixed", "payments/api", only_deny));
    assert_eq!(checkout.probe.talk(Protocol::Tcp, at(8080)), None, "deny rules alone close nothing else");
    checkout.probe.connect(Protocol::Tcp, at(8081)).assert_refused(&["ECONNREFUSED"], "denied by name");
}
