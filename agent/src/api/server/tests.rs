use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Plain;
use std::path::PathBuf;

use waxseal_common::tables::Mode;

use super::super::{Client, ClientError, ModeChange, ModeReport, PolicyReport};
use super::*;
use crate::flows::samples::{allowed, denied, flow};
use crate::flows::{Filter, Flow, Line, read};

/// A server on a socket of its own, with a node that knows two answers.
struct Running {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    hub: Arc<Hub>,
}

fn start(patience: Duration) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("blue/agent.sock");
    let hub = Arc::new(Hub::default());
    let (commands, mut asked) = mpsc::channel(8);
    let server = Server::bind(&socket).unwrap();
    tokio::spawn(server.serve_with(Desk { hub: Arc::clone(&hub), commands, patience }));
    tokio::spawn(async move {
        while let Some(command) = asked.recv().await {
            match command {
                Command::Policy(reply) => {
                    drop(reply.send(PolicyReport { files: 7, ..PolicyReport::default() }));
                }
                Command::Mode { change: ModeChange::Ceiling { mode }, reply } => {
                    drop(reply.send(Ok(ModeReport {
                        default: Mode::Audit,
                        ceiling: mode,
                        since: None,
                        set: vec![],
                        workloads: vec![],
                    })));
                }
                Command::Mode { reply, .. } => {
                    drop(reply.send(Err(Failure::new(FailureKind::Internal, "disk full"))));
                }
                // Dropped without an answer.
                _ => {}
            }
        }
    });
    Running { _directory: directory, socket, hub }
}

impl Running {
    /// Runs blocking client code beside the server.
    async fn client<T: Send + 'static>(&self, work: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
        let socket = self.socket.clone();
        tokio::task::spawn_blocking(move || work(socket)).await.unwrap()
    }

    async fn readers(&self, count: u64) {
        while self.hub.report().readers != count {
            sleep(Duration::from_millis(2)).await;
        }
    }
}

fn numbered(number: u64) -> Flow {
    Flow { cookie: number, ..flow(&allowed()) }
}

fn raw(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = Plain::connect(socket).unwrap();
    // The server may have refused and closed before all is written.
    let _closed = stream.write_all(bytes);
    let mut answer = String::new();
    let _reset = stream.read_to_string(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_by_the_node() {
    let running = start(PATIENCE);
    let policy = running
        .client(|socket| Client::connect(&socket).unwrap().ask::<PolicyReport>(&Request::Policy))
        .await;
    assert_eq!(policy.unwrap().files, 7);
    let change = Request::Mode(ModeChange::Ceiling { mode: Mode::Permissive });
    let mode =
        running.client(move |socket| Client::connect(&socket).unwrap().ask::<ModeReport>(&change)).await;
    assert_eq!(mode.unwrap().ceiling, Mode::Permissive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_the_asker_with_its_kind() {
    let running = start(PATIENCE);
    for (request, kind) in
        [(Request::Mode(ModeChange::Reset), FailureKind::Internal), (Request::Status, FailureKind::Internal)]
    {
        let asked =
            running.client(move |socket| Client::connect(&socket).unwrap().ask::<ModeReport>(&request)).await;
        assert!(matches!(asked, Err(ClientError::Refused(failure)) if failure.kind == kind));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_too_long_unfinished_or_nonsense_is_refused() {
    let running = start(Duration::from_millis(100));
    let long = [b"{\"request\":\"".as_slice(), &vec![b'x'; REQUEST_LIMIT], b"\"}\n"].concat();
    for (bytes, message) in [
        (long, "more than 64 KiB"),
        (b"\n".to_vec(), "not a request"),
        (b"{\"request\":\"stop\"}\n".to_vec(), "not a request"),
        (b"\xff\xfe\n".to_vec(), "not a request"),
        (b"{\"request\":".to_vec(), "no request within"),
        (Vec::new(), "no request within"),
    ] {
        let answer = running.client(move |socket| raw(&socket, &bytes)).await;
        assert!(answer.contains(message) && answer.contains("\"kind\":\"invalid\""), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_shows_the_past_then_the_present() {
    let running = start(PATIENCE);
    (0..5).for_each(|number| running.hub.tell(numbered(number)));
    running.hub.tell(flow(&denied()));
    let filter = Filter { verdict: vec!["allow".parse().unwrap()], ..Filter::default() };
    let request = TapRequest { filter, last: Some(2), follow: true, marked: false };
    let (lines_out, lines_in) = std::sync::mpsc::channel();
    let reading = running.client(move |socket| {
        let mut lines = Client::connect(&socket).unwrap().tap(request).unwrap();
        while let Some(line) = lines.next_line().unwrap() {
            let Line::Flow(flow) = read(&line).unwrap() else { panic!("{line}") };
            lines_out.send(flow.cookie).unwrap();
            if flow.cookie == 101 {
                return;
            }
        }
    });
    let publishing = async {
        running.readers(1).await;
        for number in [100, 101] {
            running.hub.tell(numbered(number));
        }
    };
    tokio::join!(reading, publishing);
    assert_eq!(lines_in.into_iter().collect::<Vec<_>>(), [3, 4, 100, 101]);
    // The reader has gone without a word; its place is free again.
    running.readers(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_alone_ends_by_itself() {
    let running = start(PATIENCE);
    (0..1000).for_each(|number| running.hub.tell(numbered(number)));
    let count = running.client(|socket| {
        let request = TapRequest { follow: false, ..TapRequest::default() };
        let mut lines = Client::connect(&socket).unwrap().tap(request).unwrap();
        std::iter::from_fn(|| lines.next_line().unwrap()).count()
    });
    assert_eq!(count.await, 1000);
    assert_eq!(running.hub.report().readers, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_tap_is_told_its_loss_and_holds_up_neither_the_hub_nor_others() {
    const SENT: u64 = 100_000;
    let running = start(PATIENCE);
    let request = TapRequest { follow: true, ..TapRequest::default() };
    let wanted = request.clone();
    let mut stalled =
        running.client(move |socket| Client::connect(&socket).unwrap().tap(wanted).unwrap()).await;
    running.readers(1).await;
    let started = std::time::Instant::now();
    (0..SENT).for_each(|number| running.hub.tell(numbered(number)));
    assert!(started.elapsed() < Duration::from_secs(20), "publishing waited: {:?}", started.elapsed());
    assert!(running.hub.report().lost > 0, "the socket and the queue hold less than this");
    // Another asker is answered meanwhile.
    running
        .client(|socket| Client::connect(&socket).unwrap().ask::<PolicyReport>(&Request::Policy))
        .await
        .unwrap();
    let (delivered, lost) = tokio::task::spawn_blocking(move || {
        let (mut delivered, mut lost) = (0, 0);
        loop {
            match read(&stalled.next_line().unwrap().unwrap()).unwrap() {
                Line::Lost(loss, _) => lost += loss.count,
                Line::Flow(flow) => {
                    delivered += 1;
                    if flow.cookie == SENT - 1 {
                        return (delivered, lost);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(delivered + lost, SENT);
    assert_eq!(running.hub.report().lost, lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tap_too_many_is_refused_in_words() {
    let running = start(PATIENCE);
    let message = running.client(|socket| {
        let open = || {
            let request = TapRequest { follow: true, ..TapRequest::default() };
            Client::connect(&socket).unwrap().tap(request).unwrap()
        };
        let taps: Vec<_> = (0..TAPS).map(|_| open()).collect();
        let answered = loop {
            // The last of them may still be on its way to the hub; one more is refused only when all are there.
            let mut more = open();
            if let Err(ClientError::Refused(failure)) = more.next_within(Some(Duration::from_millis(200))) {
                break failure;
            }
        };
        drop(taps);
        answered
    });
    let failure = message.await;
    assert_eq!(failure.kind, FailureKind::Busy);
    assert_eq!(failure.message, "64 taps are open, which is the most; close one first");
}

#[test]
fn only_root_and_the_agents_own_user_are_trusted() {
    let own = geteuid().as_raw();
    for (uid, trusted) in [(0, true), (own, true), (own + 1000, false), (u32::MAX, false)] {
        assert_eq!(is_trusted(uid), trusted, "{uid}");
    }
}

#[test]
fn a_missing_agent_is_told_apart_from_a_forbidden_one() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("agent.sock");
    assert!(matches!(Client::connect(&missing), Err(ClientError::NotReachable { .. })));
    drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
    assert!(matches!(Client::connect(&missing), Err(ClientError::NotReachable { .. })), "stale");
}
