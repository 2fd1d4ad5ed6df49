//! Bad networks, bad peers, bad times.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use rustls::{ClientConnection, ServerConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::authority::Token;
use super::forge::*;
use super::life::{Shows, pair, shake};
use super::network::Ca as Running;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_delay_nobody_and_are_cut() {
    let limits = Limits { connections: 4096, connections_of_address: 600 };
    let ca = Running::start_with(limits, Lifetimes::default()).await;
    let (remote, _) = ca.join("one", &["/**"]).await;
    let mut stalled = Vec::new();
    let begun = Instant::now();
    for number in 0..500 {
        let mut stream = TcpStream::connect(ca.address).await.unwrap();
        // Some say nothing, some the beginning of a hello.
        stream.write_all(&[22, 3, 1, 2, 0, 1][..number % 7]).await.unwrap();
        stalled.push(stream);
    }
    let asked = Instant::now();
    assert!(remote.issue(&[id("/a")]).await.unwrap()[0].is_ok());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    for mut stream in stalled {
        let mut rest = Vec::new();
        // An alert may come before the end.
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_does_not_take_every_place() {
    let limits = Limits { connections: 100, connections_of_address: 4 };
    let ca = Running::start_with(limits, Lifetimes::default()).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(TcpStream::connect(ca.address).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut fifth = TcpStream::connect(ca.address).await.unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(1), fifth.read_u8()).await.expect("hung up at once");
    assert!(cut.is_err());
    drop(held);
    tokio::time::sleep(Duration::from_millis(100)).await;
    ca.join("one", &[]).await;
}

#[test]
fn a_hello_split_at_every_byte_is_still_a_hello() {
    let (_directory, authority) = authority();
    let (web, db) = (issue(&authority, "/web"), issue(&authority, "/db"));
    let trust = Trust::new(bundles(&authority));
    let (mut client, _) = pair(&trust, &web, &db);
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for at in 0..=hello.len() {
        let (_, mut server) = pair(&trust, &web, &db);
        for part in [&hello[..at], &hello[at..]] {
            let mut part = part;
            while !part.is_empty() {
                server.read_tls(&mut part).unwrap();
                server.process_new_packets().unwrap_or_else(|error| panic!("{at}: {error}"));
            }
        }
        assert!(server.wants_write(), "{at}");
    }
    // Byte by byte, and as records of one byte each.
    let (_, mut server) = pair(&trust, &web, &db);
    for byte in hello[5..].chunks(1) {
        let record = [&[22, 3, 1, 0, 1], byte].concat();
        let mut record = record.as_slice();
        while !record.is_empty() {
            server.read_tls(&mut record).unwrap();
        }
        let _ = server.process_new_packets();
    }
}

/// An ordinary handshake, with these certificates on the client's side.
fn shown(trust: &Trust, chain: Vec<rustls::pki_types::CertificateDer<'static>>) -> Result<(), rustls::Error> {
    let (_directory, authority) = authority();
    let db = issue(&authority, "/db");
    let client_trust = Trust::new(bundles(&authority));
    let key = rcgen::KeyPair::generate().unwrap();
    let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
    let key = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    let verifier = tls::Verifier::new(client_trust, true);
    let config = tls::client_with(verifier, Some(key), b"x");
    let mut client = ClientConnection::new(config, "a.b".try_into().unwrap()).unwrap();
    let server = server_config(trust, Arc::new(Shows(db.certified_key())), &[b"x"]);
    let mut server = ServerConnection::new(server).unwrap();
    shake(&mut client, &mut server).map_err(|(error, _)| error)
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_in_the_handshake() {
    let (_directory, authority) = authority();
    let trust = Trust::new(bundles(&authority));
    let signer = issue(&authority, "/a").chain()[1].clone().into_owned();
    let big = rustls::pki_types::CertificateDer::from(vec![0x30; 20_000]);
    for (name, chain, word) in [
        ("fifty deep", vec![signer.clone(); 50], Some("too-many-certificates")),
        ("20 kB", vec![big], Some("too-large")),
        ("a megabyte", vec![vec![0x30; 1 << 20].into()], None),
        ("not a certificate", vec![vec![1, 2, 3].into()], Some("malformed")),
    ] {
        let error = shown(&trust, chain).unwrap_err();
        // What does not even fit into a handshake is refused by TLS itself.
        assert_eq!(refusal_of(&error).map(|refusal| refusal.word()), word, "{name}: {error:?}");
    }
}

#[test]
fn a_client_without_a_certificate_or_with_old_tls_is_not_answered() {
    let (_directory, authority) = authority();
    let (web, db) = (issue(&authority, "/web"), issue(&authority, "/db"));
    let trust = Trust::new(bundles(&authority));
    let (_, mut server) = pair(&trust, &web, &db);
    let config = tls::client_with(tls::Verifier::new(trust.clone(), true), None, b"waxseal-pair/1");
    let mut client = ClientConnection::new(config, "a.b".try_into().unwrap()).unwrap();
    let (error, side) = shake(&mut client, &mut server).unwrap_err();
    assert_eq!((error, side), (rustls::Error::NoCertificatesPresented, "server"));
    // Neither another protocol, nor one that was made for another authority.
    let (mut client, _) = pair(&trust, &web, &db);
    let shows = Arc::new(Shows(db.certified_key()));
    let mut server = ServerConnection::new(server_config(&trust, shows, &[b"other/1"])).unwrap();
    assert!(shake(&mut client, &mut server).is_err());
    let (_elsewhere, other) = super::authority();
    let stranger = issue(&other, "/web");
    let (mut client, mut server) = pair(&trust, &stranger, &db);
    let (error, side) = shake(&mut client, &mut server).unwrap_err();
    assert_eq!((refusal_of(&error), side), (Some(Refusal::UnknownIssuer), "server"));
}

/// An issuer that can be broken, and counts.
#[derive(Debug)]
struct Fragile {
    real: Embedded,
    broken: AtomicBool,
    asked: AtomicUsize,
}

impl Issuer for Fragile {
    fn issue<'a>(&'a self, ids: &'a [SpiffeId]) -> BoxFuture<'a, Result<Vec<Issued>, IssueError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            return Box::pin(async { Err(IssueError::Late) });
        }
        self.real.issue(ids)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_issuer_is_away_valid_certificates_are_kept_and_it_is_not_stormed() {
    let (_directory, authority) = authority();
    let trust = Trust::new(bundles(&authority));
    let real = Embedded::new(Arc::clone(&authority), own());
    let issuer = Arc::new(Fragile { real, broken: false.into(), asked: 0.into() });
    let keeper = Keeper::start(Arc::clone(&issuer) as Arc<dyn Issuer>, trust.clone(), own());
    keeper.want(BTreeSet::from([id("/a")]));
    let first = keeper.wait_for(&id("/a"), SOON).await.unwrap();
    keeper.wait_for(&own(), SOON).await.unwrap();
    issuer.broken.store(true, Ordering::Relaxed);
    let before = issuer.asked.load(Ordering::Relaxed);
    keeper.want(BTreeSet::from([id("/a"), id("/b")]));
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = issuer.asked.load(Ordering::Relaxed) - before;
    assert!((2..=8).contains(&asked), "asked {asked} times in 4 s");
    assert_eq!(keeper.svid(&id("/a")).unwrap().chain(), first.chain());
    let status = keeper.status().into_iter().find(|one| one.id == id("/b")).unwrap();
    assert_eq!(status.last_error.as_deref(), Some("the issuer has not answered in time"));
    issuer.broken.store(false, Ordering::Relaxed);
    assert!(keeper.wait_for(&id("/b"), SOON).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_at_half_their_life() {
    let (_directory, authority) = authority();
    let trust = Trust::new(bundles(&authority));
    let short = Arc::new(Short(Arc::clone(&authority)));
    let keeper = Keeper::start(short, trust, own());
    let first = keeper.wait_for(&own(), SOON).await.unwrap();
    let begun = Instant::now();
    let mut issued = keeper.issued();
    tokio::time::timeout(SOON, issued.changed()).await.unwrap().unwrap();
    // Six seconds of life, a tenth of the half more or less; certificates know whole seconds only.
    let passed = begun.elapsed();
    assert!(passed > Duration::from_secs(2) && passed < Duration::from_millis(3800), "{passed:?}");
    assert_ne!(keeper.node().unwrap().chain()[0], first.chain()[0]);
    drop(keeper);
}

/// Issues for six seconds: as if the hour of a leaf were nearly over.
#[derive(Debug)]
struct Short(Arc<Authority>);

impl Issuer for Short {
    fn issue<'a>(&'a self, ids: &'a [SpiffeId]) -> BoxFuture<'a, Result<Vec<Issued>, IssueError>> {
        let then = SystemTime::now() - HOUR + Duration::from_secs(6);
        Box::pin(async move { Ok(self.0.issue(ids, &own(), then)?) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_certificate_has_ended_comes_back_by_itself() {
    let lifetimes = Lifetimes { leaf: Duration::from_mins(1), ..Lifetimes::default() };
    let ca = Running::start_with(Limits::default(), lifetimes).await;
    let (_, trust) = ca.join("one", &["/**"]).await;
    // As after a long outage: the same key, and a certificate that has ended.
    let file = ca.home("one").join("node.json");
    let mut node: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let key = rcgen::KeyPair::from_pem(node["key"].as_str().unwrap()).unwrap();
    let own = node_id(&domain(), "one").unwrap();
    let request = csr::make(&own, &key).unwrap();
    let past = SystemTime::now() - Duration::from_mins(5);
    let old = ca.authority.renew("one", &request, past).unwrap();
    node["chain"] = old.iter().map(pem::of_certificate).collect::<Vec<_>>().into();
    let text = serde_json::to_vec(&node).unwrap();
    fs::write(&file, &text).unwrap();
    let (remote, _) = ca.open("one", None).await.unwrap();
    assert!(remote.identity().not_after() < SystemTime::now());
    assert!(remote.issue(&[id("/a")]).await.is_err(), "nothing but its own");
    let issued = remote.issue(&[id("/a"), own.clone(), id("/b")]).await.unwrap();
    for (one, id) in issued.iter().zip([id("/a"), own, id("/b")]) {
        assert_eq!(one.as_ref().unwrap().id(), &id);
        verify(&trust.load(), &one.as_ref().unwrap().chain(), Role::Client, SystemTime::now()).unwrap();
    }
    // Not when the node was revoked meanwhile.
    fs::write(&file, &text).unwrap();
    ca.authority.revoke(&Target::Node("one".into()), SystemTime::now()).unwrap();
    let (remote, _) = ca.open("one", None).await.unwrap();
    let own = remote.identity().id().clone();
    assert!(remote.issue(&[own]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_taken_up_again_after_the_server_was_away() {
    let ca = Running::start().await;
    let (remote, trust) = ca.join("one", &["/**"]).await;
    let _watch = remote.watch();
    let revision = trust.load().revision();
    let (address, authority) = (ca.address, Arc::clone(&ca.authority));
    ca.task.abort();
    tokio::time::sleep(Duration::from_millis(300)).await;
    authority.rotate(Duration::ZERO, SystemTime::now()).unwrap();
    assert_eq!(trust.load().revision(), revision);
    assert!(remote.issue(&[id("/a")]).await.is_err());
    let server = CaServer::bind(address, authority, Limits::default()).await.unwrap();
    let task = tokio::spawn(server.serve());
    let begun = Instant::now();
    while trust.load().revision() == revision {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() < SOON);
    }
    assert!(remote.issue(&[id("/a")]).await.unwrap()[0].is_ok());
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_recovers() {
    // The kernel's limit is the whole process's, so another test's connections would fail: the server runs alone.
    let exe = std::env::current_exe().unwrap();
    let name = "pki::tests::stress::the_server_of_a_process_with_few_descriptors";
    let status =
        std::process::Command::new(exe).args([name, "--exact", "--ignored", "--test-threads=1"]).output();
    let output = status.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "lowers the limit of the whole process; run by the one above"]
async fn the_server_of_a_process_with_few_descriptors() {
    use nix::sys::resource::{Resource, setrlimit};
    let ca = Running::start().await;
    let token = ca.token("one", &["/**"]);
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut held = Vec::new();
    // Both ends are in this process: the client's half of them uses up what there is.
    while let Ok(stream) = TcpStream::connect(ca.address).await {
        held.push(stream);
        assert!(held.len() < 64);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(held);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (remote, _) = ca.open("one", Some(&token)).await.unwrap();
    assert!(remote.issue(&[id("/a")]).await.unwrap()[0].is_ok());
}

/// Every file below, with its mode.
fn modes(directory: &Path) -> Vec<(String, u32)> {
    let mut found = vec![(directory.display().to_string(), fs::metadata(directory).unwrap().mode() & 0o7777)];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(modes(&path));
        } else {
            found.push((path.display().to_string(), fs::metadata(&path).unwrap().mode() & 0o7777));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_in_private_files_only_and_nowhere_in_what_is_shown() {
    let ca = Running::start().await;
    let (remote, trust) = ca.join("one", &["/**"]).await;
    let issued = remote.issue(&[id("/a")]).await.unwrap();
    for place in [ca.authority.directory().to_owned(), ca.home("one")] {
        for (path, mode) in modes(&place) {
            let wanted = if Path::new(&path).is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, wanted, "{path}");
        }
    }
    let token = ca.authority.token("two", &[], HOUR, SystemTime::now()).unwrap();
    let secret = token.secret().to_string();
    assert!(!fs::read_to_string(ca.authority.directory().join("ca.json")).unwrap().contains(&secret));
    let shown =
        format!("{token:?} {remote:?} {issued:?} {trust:?} {:?} {:?}", ca.authority, remote.identity());
    assert!(!shown.contains(&secret) && !shown.contains("PRIVATE"), "{shown}");
    // A key in PKCS #8 begins so; Debug would write it in one of these ways.
    for mark in ["MIGHAgEA", "30818702010030", "[48, 129, 135"] {
        assert!(!shown.contains(mark), "{shown}");
    }
    // What others can read is not used.
    let open = |name: &str, mode| {
        let path = ca.authority.directory().join(name);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        Authority::open(ca.authority.directory(), None)
            .and_then(|authority| authority.issue(&[id("/a")], &own(), SystemTime::now()).map(drop))
    };
    assert!(matches!(open("ca.json", 0o604), Err(AuthorityError::File(FileError::Exposed { .. }))));
    assert!(open("ca.json", 0o600).is_ok());
    assert!(matches!(open(".", 0o750), Err(AuthorityError::File(FileError::Exposed { .. }))));
    open(".", 0o700).unwrap();
    let key = fs::read_dir(ca.authority.directory())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let key = key.into_iter().find(|name| name.starts_with("intermediate-")).unwrap();
    assert!(matches!(open(&key, 0o644), Err(AuthorityError::File(FileError::Exposed { .. }))));
}

#[test]
fn two_who_change_the_authority_at_once_lose_nothing() {
    let (_directory, authority) = authority();
    let place = authority.directory().to_owned();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let place = place.clone();
            std::thread::spawn(move || {
                let authority = Authority::open(&place, None).unwrap();
                for number in 0..10 {
                    let node = format!("n{thread}-{number}");
                    authority.token(&node, &["/a".into()], HOUR, SystemTime::now()).unwrap();
                    issue(&authority, &format!("/w/{thread}/{number}"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let report = authority.report(SystemTime::now()).unwrap();
    assert_eq!((report.nodes.len(), report.tokens, report.certificates), (40, 40, 40));
}

#[test]
fn the_journal_survives_a_writer_that_died_and_forgets_what_has_expired() {
    let (_directory, authority) = authority();
    let now = SystemTime::now();
    issue(&authority, "/a");
    let journal = authority.directory().join("issued.jsonl");
    let mut text = fs::read(&journal).unwrap();
    text.extend(b"{\"serial\":\"12");
    fs::write(&journal, &text).unwrap();
    issue(&authority, "/b");
    let fresh = Authority::open(authority.directory(), None).unwrap();
    assert_eq!(fresh.report(now).unwrap().certificates, 2);
    let ids: Vec<SpiffeId> = (0..1200).map(|number| id(&format!("/w/{number}"))).collect();
    authority.issue(&ids, &own(), now).unwrap();
    let later = now + 2 * HOUR;
    authority.maintain(later).unwrap();
    assert_eq!(fs::metadata(&journal).unwrap().len(), 0);
    assert_eq!(fresh.report(later).unwrap().certificates, 0);
    assert!(issue(&fresh, "/c").not_after() > now);
}

#[test]
fn an_authority_left_alone_keeps_its_lists_and_intermediates_fresh() {
    let (_directory, authority) = authority();
    let mut now = SystemTime::now();
    let mut signers = BTreeSet::new();
    // Four weeks, looked after every six hours.
    for _ in 0..112 {
        now += 6 * HOUR;
        authority.maintain(now).unwrap();
        let issued = authority.issue(&[id("/a")], &own(), now).unwrap().pop().unwrap().unwrap();
        // Should the authority stop now, the leaf is good to its end.
        let end = issued.not_after() - Duration::from_secs(1);
        assert!(end > now + Duration::from_mins(59));
        verify(&bundles(&authority), &issued.chain(), Role::Client, end).unwrap();
        signers.insert(issued.chain()[1].to_vec());
    }
    assert!(signers.len() >= 7, "{}", signers.len());
    let report = authority.report(now).unwrap();
    assert!(report.intermediates.len() <= 3, "{:?}", report.intermediates);
    let keys = fs::read_dir(authority.directory())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("intermediate-"));
    assert_eq!(keys.count(), report.intermediates.len(), "keys of what has expired are gone");
}

#[test]
fn a_token_is_read_back_as_it_was_written_and_nothing_else_is_one() {
    let (_directory, authority) = authority();
    let token = authority.token("one", &[], HOUR, SystemTime::now()).unwrap();
    let text = token.text();
    let read: Token = text.parse().unwrap();
    assert_eq!(*read.text(), *text);
    for wrong in [
        "",
        "x",
        "waxseal-join-1",
        "waxseal-join-1...",
        &text[1..],
        &text[..text.len() - 1],
        &format!("{}.00", *text),
    ] {
        assert_eq!(wrong.parse::<Token>().map(drop).unwrap_err(), TokenError::Malformed, "{wrong}");
    }
}
