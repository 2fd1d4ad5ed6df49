//! The CA server and its clients, over loopback.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::task::JoinHandle;

use super::*;

/// A CA server, and where nodes of its tests live.
pub(super) struct Ca {
    directory: tempfile::TempDir,
    pub(super) authority: Arc<Authority>,
    pub(super) address: SocketAddr,
    pub(super) task: JoinHandle<()>,
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ca {
    pub(super) async fn start() -> Self {
        Self::start_with(Limits::default(), Lifetimes::default()).await
    }

    pub(super) async fn start_with(limits: Limits, lifetimes: Lifetimes) -> Self {
        let (directory, authority) = authority_with(lifetimes);
        let any = "127.0.0.1:0".parse().unwrap();
        let server = CaServer::bind(any, Arc::clone(&authority), limits).await.unwrap();
        let address = server.address().unwrap();
        Self { directory, authority, address, task: tokio::spawn(server.serve()) }
    }

    pub(super) fn token(&self, node: &str, allow: &[&str]) -> PathBuf {
        let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
        let token = self.authority.token(node, &allow, Duration::from_hours(1), SystemTime::now()).unwrap();
        let path = self.directory.path().join(format!("{node}.token"));
        fs::write(&path, token.text().as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn member(&self, node: &str) -> Member {
        Member { address: self.address.to_string(), trust_domain: domain(), node: node.to_owned() }
    }

    pub(super) fn home(&self, node: &str) -> PathBuf {
        self.directory.path().join(node)
    }

    pub(super) async fn open(
        &self,
        node: &str,
        token: Option<&Path>,
    ) -> Result<(Remote, Trust), ClientError> {
        let trust = Trust::default();
        let remote = Remote::open(self.member(node), &self.home(node), token, trust.clone()).await?;
        Ok((remote, trust))
    }

    pub(super) async fn join(&self, node: &str, allow: &[&str]) -> (Remote, Trust) {
        let token = self.token(node, allow);
        self.open(node, Some(&token)).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_once_and_gets_what_it_is_registered_for_and_nothing_else() {
    let ca = Ca::start().await;
    let token = ca.token("one", &["/ns/shop/sa/*", "spiffe://example.org/ns/bank/**"]);
    let (remote, trust) = ca.open("one", Some(&token)).await.unwrap();
    assert_eq!(remote.identity().id(), &node_id(&domain(), "one").unwrap());

    let ids = [id("/ns/shop/sa/web"), id("/ns/other/sa/web"), id("/ns/bank/sa/x"), id("/waxseal/node/two")];
    let issued = remote.issue(&ids).await.unwrap();
    let outcome = |at: usize| issued[at].as_ref().map(|svid| svid.id().clone()).map_err(Clone::clone);
    assert_eq!(outcome(0), Ok(ids[0].clone()));
    assert_eq!(outcome(1), Err(Denial::NotAllowed));
    assert_eq!(outcome(2), Ok(ids[2].clone()));
    assert_eq!(outcome(3), Err(Denial::Reserved));
    let svid = issued[0].as_ref().unwrap();
    assert!(verify(&trust.load(), &svid.chain(), Role::Client, SystemTime::now()).is_ok());

    let before = remote.identity();
    let own = before.id().clone();
    let renewed = remote.issue(std::slice::from_ref(&own)).await.unwrap().pop().unwrap().unwrap();
    assert_ne!(renewed.chain()[0], before.chain()[0]);

    // The next start takes what is on the disk, and asks nobody.
    let (again, _) = ca.open("one", Some(&token)).await.unwrap();
    assert_eq!(again.identity().chain(), renewed.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_in_one_node_once_and_only_in_time() {
    let ca = Ca::start().await;
    let token = ca.token("one", &[]);
    ca.open("one", Some(&token)).await.unwrap();
    fs::remove_dir_all(ca.home("one")).unwrap();
    let refused = |outcome: Result<_, ClientError>| match outcome {
        Err(ClientError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(ca.open("one", Some(&token)).await), Refused::Token);

    let token = ca.token("two", &[]);
    assert_eq!(refused(ca.open("three", Some(&token)).await), Refused::TokenOfOther);

    let old = SystemTime::now() - Duration::from_hours(2);
    let late = ca.authority.token("four", &[], Duration::from_hours(1), old).unwrap();
    fs::write(&token, late.text().as_bytes()).unwrap();
    assert_eq!(refused(ca.open("four", Some(&token)).await), Refused::TokenExpired);

    // Another secret, and another root.
    let text = ca.authority.token("five", &[], Duration::from_hours(1), SystemTime::now()).unwrap().text();
    let parts: Vec<&str> = text.split('.').collect();
    let wrong = format!("{}.{}.{}.{}", parts[0], parts[1], "00".repeat(32), parts[3]);
    fs::write(&token, wrong).unwrap();
    assert_eq!(refused(ca.open("five", Some(&token)).await), Refused::Token);
    let wrong = format!("{}.{}.{}.{}", parts[0], parts[1], parts[2], "00".repeat(32));
    fs::write(&token, wrong).unwrap();
    let error = ca.open("five", Some(&token)).await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    fs::write(&token, "hello").unwrap();
    assert!(matches!(ca.open("five", Some(&token)).await, Err(ClientError::Token { .. })));
    assert!(matches!(ca.open("six", None).await, Err(ClientError::NotJoined)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_those_who_watch_within_a_second() {
    let ca = Ca::start().await;
    let (remote, trust) = ca.join("one", &["/**"]).await;
    let mut changed = trust.changed();
    let _watch = remote.watch();
    let svid = remote.issue(&[id("/a")]).await.unwrap().pop().unwrap().unwrap();
    let peer = verify(&trust.load(), &svid.chain(), Role::Client, SystemTime::now()).unwrap();
    // Another process works on the same directory.
    let elsewhere = Authority::open(ca.authority.directory(), None).unwrap();
    // The watch begins with what is published already.
    tokio::time::timeout(SOON, changed.changed()).await.unwrap().unwrap();
    let begun = Instant::now();
    elsewhere.revoke(&Target::Id(id("/a")), SystemTime::now()).unwrap();
    while peer.still_valid(&trust.load(), SystemTime::now()).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_gets_nothing_more_and_may_join_again_with_a_new_token() {
    let ca = Ca::start().await;
    let (remote, trust) = ca.join("one", &["/**"]).await;
    let svid = remote.issue(&[id("/a")]).await.unwrap().pop().unwrap().unwrap();
    let revoked = ca.authority.revoke(&Target::Node("one".into()), SystemTime::now()).unwrap();
    assert_eq!(revoked.leaves.len(), 2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(remote.issue(&[id("/a")]).await.is_err());
    let own = remote.identity().id().clone();
    assert!(remote.issue(&[own]).await.is_err());
    let beliefs = bundles(&ca.authority);
    for svid in [svid, remote.identity()] {
        let refusal = verify(&beliefs, &svid.chain(), Role::Client, SystemTime::now()).unwrap_err();
        assert_eq!(refusal.word(), "revoked");
    }
    drop(trust);
    let (again, _) = ca.join("one", &[]).await;
    assert!(again.issue(&[id("/a")]).await.unwrap().pop().unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_own_certificate_is_revoked_by_number_cannot_bring_it_back() {
    let ca = Ca::start().await;
    let (remote, _) = ca.join("one", &["/**"]).await;
    let own = remote.identity();
    let serial = forge::serial_of(&own.chain()[0]);
    ca.authority.revoke(&Target::Serial(serial), SystemTime::now()).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(remote.issue(&[own.id().clone()]).await.is_err());
    assert!(remote.issue(&[id("/a")]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_survives_the_revocation_of_the_intermediate_that_signed_it() {
    let ca = Ca::start().await;
    let (remote, trust) = ca.join("one", &["/**"]).await;
    let _watch = remote.watch();
    let own = remote.identity().id().clone();
    let keeper =
        Keeper::start_with(Arc::new(remote.clone()), trust.clone(), own.clone(), Some(remote.identity()));
    keeper.want(BTreeSet::from([id("/a"), id("/b")]));
    let old = keeper.wait_for(&id("/a"), SOON).await.unwrap();
    ca.authority.revoke(&Target::Intermediate("current".into()), SystemTime::now()).unwrap();
    let begun = Instant::now();
    let fresh = |svid: Option<Arc<Svid>>| svid.is_some_and(|svid| svid.chain()[1] != old.chain()[1]);
    while !fresh(keeper.svid(&id("/a"))) || !fresh(keeper.svid(&id("/b"))) || !fresh(keeper.node()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", keeper.status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_in_vain_for_two_hundred_names_of_others() {
    let ca = Ca::start().await;
    let (remote, _) = ca.join("one", &["/ns/shop/sa/web", "/ns/shop/job/*"]).await;
    ca.join("two", &["/ns/bank/**"]).await;
    let mut foreign: Vec<SpiffeId> = Vec::new();
    for number in 0..40 {
        foreign.push(id(&format!("/ns/shop/sa/web{number}")));
        foreign.push(id(&format!("/ns/bank/sa/app{number}")));
        foreign.push(id(&format!("/ns/shop/job/a/{number}")));
        foreign.push(id(&format!("/waxseal/node/node{number}")));
        foreign.push(format!("spiffe://other{number}.org/ns/shop/sa/web").parse().unwrap());
    }
    foreign.extend(["/ns/shop/sa/Web", "/NS/shop/sa/web", "/waxseal/ca", "/waxseal/node/two"].map(id));
    foreign.extend(["/waxseal", "/ns/shop/sa/web/x", "/ns/shop/sa", "/ns/shop/job"].map(id));
    assert!(foreign.len() >= 200);
    let issued = remote.issue(&foreign).await.unwrap();
    assert_eq!(issued.len(), foreign.len());
    for (id, one) in foreign.iter().zip(issued) {
        let expected = match id {
            id if is_reserved(id) => Denial::Reserved,
            id if *id.trust_domain() != domain() => Denial::OtherTrustDomain,
            _ => Denial::NotAllowed,
        };
        assert_eq!(one.unwrap_err(), expected, "{id}");
    }
    assert!(remote.issue(&[id("/ns/shop/sa/web")]).await.unwrap().pop().unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_has_no_rights_at_the_ca() {
    let ca = Ca::start().await;
    let (remote, trust) = ca.join("one", &["/**"]).await;
    let svid = remote.issue(&[id("/a")]).await.unwrap().pop().unwrap().unwrap();
    let config = client_config(&trust, &svid, wire::ALPN);
    for request in
        [r#"{"type":"watch"}"#, r#"{"type":"sign","requests":[]}"#, r#"{"type":"renew","request":""}"#]
    {
        let stream = tokio::net::TcpStream::connect(ca.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let mut stream = connector.connect("x.y".try_into().unwrap(), stream).await.unwrap();
        let request: serde_json::Value = serde_json::from_str(request).unwrap();
        write_frame(&mut stream, &request, SOON).await.unwrap();
        let answer: serde_json::Value = read_frame(&mut stream, SOON).await.unwrap();
        assert_eq!(answer["reason"], "node", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_becomes_credentials_from_each_source() {
    let ca = Ca::start().await;
    let token = ca.token("one", &["/**"]);
    let state = tempfile::tempdir().unwrap();
    let options = |source: Source| Options {
        source,
        trust_domain: domain(),
        node: "one".into(),
        state: state.path().to_owned(),
        leaf_lifetime: Duration::from_mins(30),
    };
    let server = Source::Server { address: ca.address.to_string(), token: Some(token) };
    let (_other, elsewhere) = authority();
    let files = Source::Files(elsewhere.directory().to_owned());
    // Each source twice: the second start takes up what the first one has left.
    for (source, shared) in
        [(Source::Own, false), (Source::Own, false), (server.clone(), true), (server, true), (files, true)]
    {
        let credentials = Credentials::start(&options(source.clone())).await.unwrap();
        assert_eq!(credentials.is_shared(), shared, "{source:?}");
        assert_eq!(credentials.node(), &node_id(&domain(), "one").unwrap());
        credentials.keeper().want(BTreeSet::from([id("/a")]));
        for wanted in [credentials.node().clone(), id("/a")] {
            let svid = credentials.keeper().wait_for(&wanted, SOON).await.unwrap();
            let beliefs = credentials.trust().load();
            verify(&beliefs, &svid.chain(), Role::Server, SystemTime::now()).unwrap();
        }
    }
    let other = Options { trust_domain: "other.org".parse().unwrap(), ..options(Source::Own) };
    let error = Credentials::start(&other).await.unwrap_err();
    assert!(matches!(error, StartError::Authority(AuthorityError::OtherTrustDomain { .. })), "{error:?}");
    let missing = Source::Files(state.path().join("nothing"));
    assert!(Credentials::start(&options(missing)).await.is_err());
}
