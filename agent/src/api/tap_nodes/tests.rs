use tokio::io::AsyncReadExt as _;

use super::*;
use crate::flows::samples::{allowed, denied, flow};
use crate::flows::{Line, json, read};

fn text(event: &waxseal_common::flow::FlowEvent) -> String {
    let mut out = Vec::new();
    json(&flow(event), &mut out);
    String::from_utf8(out).unwrap()
}

fn mended(line: &str) -> Option<String> {
    let mut out = Vec::new();
    mend(line.trim_end().as_bytes(), "beta", &mut out).then(|| String::from_utf8(out).unwrap())
}

#[test]
fn what_another_node_writes_has_its_proven_name_and_nothing_that_a_terminal_obeys() {
    let honest = text(&denied());
    let Ok(Line::Flow(shown)) = read(mended(&honest).unwrap().trim_end()) else { panic!("{honest}") };
    let mut expected = flow(&denied());
    expected.node = "beta".into();
    assert_eq!(*shown, expected, "an honest line changes only its node's name");
    for hostile in ["\\u001b[2J", "\\n", "\\u202e", "\\u0000", "\\u009b1m"] {
        for (was, with) in [
            ("\"alpha\"", format!("\"{hostile}\"")),
            ("shop/checkout", format!("shop/{hostile}")),
            ("\"app\":\"checkout\"", format!("\"app{hostile}\":\"x{hostile}\"")),
            ("\"curl\"", format!("\"{hostile}\"")),
            ("{\"v\"", format!("{{\"later{hostile}\":[{{\"x\":\"{hostile}\"}}],\"v\"")),
        ] {
            let line = honest.replacen(was, &with, 1);
            assert_ne!(line, honest, "{was}");
            let out = mended(&line).unwrap_or_else(|| panic!("{line}"));
            let value: Value = serde_json::from_str(&out).unwrap();
            let shown = format!("{value:#}");
            assert!(is_clean(&shown.replace('\n', "")), "{hostile} for {was}: {shown:?}");
            assert_eq!(value["node"], "beta");
        }
    }
    let long = honest.replacen("curl", &"x".repeat(100_000), 1);
    assert!(mended(&long).unwrap().len() < 2 * TEXT + honest.len(), "text has a bound");
    for nonsense in ["{", "[]", "1", "{}", "{\"v\":2}", "\"\\u001b\"", &"[".repeat(1000)] {
        assert_eq!(mended(nonsense), None, "{nonsense}");
    }
    for (line, out) in [
        ("", "\n"),
        ("{\"v\":1,\"past\":\"ended\"}", "{\"v\":1,\"past\":\"ended\"}\n"),
        (
            "{\"v\":1,\"lost\":3,\"cause\":\"slow-reader\"}",
            "{\"v\":1,\"lost\":3,\"cause\":\"slow-reader\",\"node\":\"beta\"}\n",
        ),
        (
            "{\"v\":1,\"error\":{\"kind\":\"busy\",\"message\":\"\\u001b\"}}",
            "{\"v\":1,\"error\":{\"kind\":\"busy\",\"message\":\"\\\\x1b\"}}\n",
        ),
    ] {
        let sorted = |text: &str| serde_json::from_str::<Value>(text).ok();
        assert_eq!(sorted(&mended(line).unwrap()), sorted(out), "{line}");
    }
}

/// What an asker gets from a node with these flows.
async fn asked(permitted: Result<(), Failure>, tap: TapRequest) -> (String, Result<(), Failure>) {
    let hub = Arc::new(Hub::default());
    hub.tell(flow(&denied()));
    hub.tell(flow(&allowed()));
    let (ours, theirs) = tokio::io::duplex(256);
    let answering = tokio::spawn(async move { answer_node(&hub, permitted, theirs).await });
    let (mut writer, mut reader) = tokio::io::duplex(1 << 20);
    let relayed = relay(NodeStream::new(ours), "beta", tap, &mut writer).await.unwrap();
    drop(writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).await.unwrap();
    let _broke = answering.await.unwrap();
    (said, relayed)
}

#[tokio::test]
async fn a_node_answers_with_the_flows_that_are_wanted_and_marks_where_the_past_ends() {
    let (said, relayed) = asked(Ok(()), TapRequest::default()).await;
    assert_eq!(relayed, Ok(()));
    let lines: Vec<Line> = said.lines().map(|line| read(line).unwrap()).collect();
    assert!(matches!(&lines[..], [Line::Flow(_), Line::Flow(_), Line::Present]), "{said}");
    let filter = serde_json::from_str(r#"{"verdict":["deny"]}"#).unwrap();
    let (said, _) = asked(Ok(()), TapRequest { filter, ..TapRequest::default() }).await;
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[tokio::test]
async fn a_node_that_does_not_let_us_says_why() {
    let refusal = Failure::new(FailureKind::NotPermitted, "tap_from_nodes");
    let (said, relayed) = asked(Err(refusal), TapRequest { follow: true, ..TapRequest::default() }).await;
    assert_eq!((said.lines().count(), relayed), (1, Ok(())));
    assert!(said.contains(r#""kind":"not_permitted""#) && said.contains("tap_from_nodes"), "{said}");
}

#[tokio::test]
async fn a_node_is_asked_for_nothing_but_flows_and_says_nothing_but_lines() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let hub = Arc::new(Hub::default());
    theirs.write_all(b"{\"request\":\"status\"}\n").await.unwrap();
    answer_node(&hub, Ok(()), ours).await.unwrap();
    let mut said = String::new();
    theirs.read_to_string(&mut said).await.unwrap();
    assert!(said.contains("another node may ask for flows alone"), "{said}");
    for (lines, why) in [
        (b"what?\n".to_vec(), "says what is no line"),
        (vec![b'x'; LINE + 1], "says what is no line"),
        (b"{\"v\":1".to_vec(), "has closed the stream"),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(LINE * 2);
        theirs.write_all(&lines).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut sink = tokio::io::sink();
        let ended = relay(NodeStream::new(ours), "beta", TapRequest::default(), &mut sink).await.unwrap();
        assert!(ended.as_ref().is_err_and(|failure| failure.message.contains(why)), "{why}: {ended:?}");
        drop(theirs);
    }
}
