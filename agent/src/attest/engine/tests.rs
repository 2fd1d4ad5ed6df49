use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

const ID: &str = "abababababababababababababababababababababababababababababababab";

fn claim(engine: Engine) -> ContainerClaim {
    ContainerClaim { id: ID.to_owned(), engine, user: None }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn description(pid: u32) -> String {
    format!(
        r#"{{"Id":"{ID}","Name":"/web-1","Other":[1],"State":{{"Status":"running","Pid":{pid}}},
            "Config":{{"Image":"nginx:1.27","Labels":{{"a":"b"}},"Env":[]}}}}"#
    )
}

/// An engine that gives the same answer to everybody and counts the questions.
fn engine(answer: Option<String>) -> (tempfile::TempDir, Engines, Arc<AtomicUsize>) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert_eq!(line, format!("GET /containers/{ID}/json HTTP/1.1\r\n"));
            match &answer {
                Some(answer) => drop(stream.write_all(answer.as_bytes())),
                None => thread::sleep(Duration::from_secs(3)),
            }
        }
    });
    let engines = Engines::at(vec![socket], Vec::new(), directory.path().to_owned());
    (directory, engines, count)
}

#[expect(clippy::unnecessary_wraps, reason = "the engines ask for an option")]
fn place(_pid: u32) -> Option<String> {
    Some(format!("/docker/{ID}"))
}

#[test]
fn a_container_is_described_by_its_engine_and_asked_for_once() {
    let (_directory, engines, count) = engine(Some(answer("200 OK", &description(7))));
    for _ in 0..3 {
        let container = engines.container(&claim(Engine::Docker), &place).unwrap().unwrap();
        assert_eq!(container.name, "web-1");
        assert_eq!(container.image, "nginx:1.27");
        assert_eq!(container.labels, Labels::from([("a", "b")]));
        assert_eq!(container.cgroup, place(7));
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn a_container_that_moved_or_does_not_run_is_asked_for_again() {
    // The answers of `place`, and how many questions they cost.
    let cases: [(u32, [Option<&str>; 5], usize); 3] = [
        (7, [Some("/a"), Some("/a"), Some("/a"), Some("/a"), Some("/a")], 1),
        // What does not run is never remembered.
        (7, [Some("/a"), Some("/b"), Some("/b"), None, None], 4),
        (0, [None; 5], 5),
    ];
    for (pid, places, expected) in cases {
        let (_directory, engines, count) = engine(Some(answer("200 OK", &description(pid))));
        for place in places {
            let container = engines.container(&claim(Engine::Docker), &|_| place.map(str::to_owned));
            assert_eq!(container.unwrap().unwrap().cgroup.as_deref(), place);
        }
        assert_eq!(count.load(Ordering::Relaxed), expected, "{places:?}");
    }
}

#[tokio::test]
async fn asking_from_async_code_is_slow_but_no_crash() {
    let (_directory, engines, _) = engine(Some(answer("200 OK", &description(7))));
    assert!(engines.container(&claim(Engine::Docker), &place).is_ok());
}

#[test]
fn a_container_that_no_engine_knows_is_no_error() {
    let (_directory, engines, _) =
        engine(Some(answer("404 Not Found", r#"{"message":"no such container"}"#)));
    assert_eq!(engines.container(&claim(Engine::Docker), &place).unwrap(), None);
}

#[test]
fn a_bad_answer_is_an_error_that_names_the_socket() {
    let other = description(7).replace(ID, &"cd".repeat(32));
    let huge = format!(r#"{{"Id":"{}"}}"#, "x".repeat(MAX_ANSWER));
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let endless = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(17));
    let cases = [
        (answer("500 Internal Server Error", ""), "status 500"),
        (answer("200 OK", "[]"), "no description"),
        (answer("200 OK", &other), "another container"),
        (answer("200 OK", &huge), "longer than"),
        (endless, "longer than"),
        ("SSH-2.0-x\r\n".to_owned(), "no proper HTTP answer"),
        (String::new(), "no proper HTTP answer"),
    ];
    for (answer, expected) in cases {
        let (directory, engines, _) = engine(Some(answer));
        let text = engines.container(&claim(Engine::Docker), &place).unwrap_err().to_string();
        assert!(text.contains(expected), "{text} should contain {expected}");
        assert!(text.contains(directory.path().to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_silent_engine_holds_up_one_decision_and_not_the_next() {
    let (_directory, engines, count) = engine(None);
    let start = Instant::now();
    for _ in 0..20 {
        assert!(engines.container(&claim(Engine::Docker), &place).is_err());
    }
    assert!(start.elapsed() < TIMEOUT + Duration::from_millis(800), "{:?}", start.elapsed());
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn without_an_engine_its_own_containers_wait_and_others_are_not_known() {
    let nowhere = || vec![PathBuf::from("/nonexistent/docker.sock")];
    let engines = Engines::at(nowhere(), nowhere(), "/nonexistent".into());
    for engine in [Engine::Docker, Engine::Podman] {
        let error = engines.container(&claim(engine), &place).unwrap_err();
        assert_eq!(error.to_string(), "no container engine listens on /nonexistent/docker.sock");
    }
    for engine in [Engine::Kubernetes, Engine::Any] {
        assert_eq!(engines.container(&claim(engine), &place).unwrap(), None);
    }
}

#[test]
fn a_user_s_container_is_asked_for_at_that_user_s_engine() {
    let engines = Engines::at(vec!["/a".into()], vec!["/b".into()], "/run/user".into());
    let claim = ContainerClaim { user: Some(7), ..claim(Engine::Podman) };
    assert_eq!(engines.sockets(&claim), [PathBuf::from("/run/user/7/podman/podman.sock")]);
}
