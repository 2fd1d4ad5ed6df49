use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waxseal_common::ids::CgroupId;

use super::*;
use crate::attest::fake::FakeFacts;
use crate::attest::{Decision, attest};
use crate::cgroup::Cgroup;
use crate::workload::{Glob, Labels, Selector};

/// A clock that is set by hand.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn open(&self, directory: &Path) -> Result<Registry, Error> {
        let seconds = Arc::clone(&self.0);
        Registry::open(directory, move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)))
    }

    fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

fn workload(name: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        name: name.into(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        spiffe_id: format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap(),
        mode: None,
        selector: Selector { cgroup: Some(Glob::path("/a").unwrap()), ..Selector::default() },
        origin: Origin { file: Path::new("/p/a.yaml").into(), line: 3, column: 1 },
    }
}

fn proof(workload: &Workload) -> Attested {
    let cgroup = Cgroup { id: CgroupId(9), path: "/a".into() };
    match attest(&cgroup, &[Arc::new(workload.clone())], &FakeFacts::default()) {
        Decision::Attested(attested) => attested,
        other => panic!("{other:?}"),
    }
}

fn assign(registry: &mut Registry, name: &str) -> u32 {
    registry.assign(&proof(&workload(name))).unwrap().id.0
}

#[test]
fn numbers_are_the_same_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Hand::default();
    let mut registry = clock.open(&directory.path().join("new/state")).unwrap();
    assert_eq!(
        [assign(&mut registry, "a"), assign(&mut registry, "b"), assign(&mut registry, "a")],
        [256, 257, 256]
    );
    let before = registry.all();
    drop(registry);
    let mut registry = clock.open(&directory.path().join("new/state")).unwrap();
    assert_eq!(registry.all(), before);
    assert_eq!([assign(&mut registry, "c"), assign(&mut registry, "b")], [258, 257]);
    assert_eq!(registry.identity(IdentityId(258)).unwrap().full_name(), "shop/c");
    assert_eq!(registry.identity(IdentityId(259)), None);
}

#[test]
fn the_file_is_for_its_owner_only_and_written_before_the_number_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Hand::default().open(directory.path()).unwrap();
    assign(&mut registry, "a");
    let file = directory.path().join("identities.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    expect_test::expect![[r#"
        {
          "version": 1,
          "next": 257,
          "identities": [
            {
              "id": 256,
              "spiffe_id": "spiffe://cluster.local/ns/shop/sa/a",
              "labels": {
                "app": "a"
              },
              "namespace": "shop",
              "name": "a",
              "mode": null,
              "released": null
            }
          ]
        }
    "#]]
    .assert_eq(&text);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no other file is left");
}

#[test]
fn other_labels_are_another_identity_and_another_mode_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Hand::default().open(directory.path()).unwrap();
    let mut web = workload("web");
    assert_eq!(registry.assign(&proof(&web)).unwrap().id.0, 256);
    web.mode = Some(Mode::Audit);
    let info = registry.assign(&proof(&web)).unwrap();
    assert_eq!((info.id.0, info.mode), (256, Some(Mode::Audit)));
    web.labels = web.labels.with(&Labels::from([("tier", "front")]));
    assert_eq!(registry.assign(&proof(&web)).unwrap().id.0, 257);
}

#[test]
fn the_same_identity_gets_its_old_number_back_in_and_after_quarantine() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Hand::default();
    let mut registry = clock.open(directory.path()).unwrap();
    assign(&mut registry, "a");
    for wait in [0, 10, QUARANTINE.as_secs() * 100] {
        registry.release(IdentityId(256)).unwrap();
        assert_eq!(registry.all(), []);
        clock.forward(wait);
        registry = clock.open(directory.path()).unwrap();
        assert_eq!(assign(&mut registry, "a"), 256, "after {wait} s");
    }
    assert_eq!(assign(&mut registry, "b"), 257);
}

#[test]
fn a_number_goes_to_another_identity_only_after_quarantine_even_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Hand::default();
    let open = || Registry { numbers: 2, ..clock.open(directory.path()).unwrap() };
    let mut registry = open();
    assign(&mut registry, "a");
    assign(&mut registry, "b");
    let refused = |registry: &mut Registry| registry.assign(&proof(&workload("c"))).unwrap_err();
    assert!(matches!(refused(&mut registry), Error::Exhausted));
    registry.release(IdentityId(257)).unwrap();
    clock.forward(5);
    registry.release(IdentityId(256)).unwrap();
    clock.forward(QUARANTINE.as_secs() - 6);
    let mut registry = open();
    assert!(matches!(refused(&mut registry), Error::Exhausted));
    clock.forward(1);
    assert_eq!(assign(&mut registry, "c"), 257, "the one that has been free longest");
    assert!(matches!(registry.assign(&proof(&workload("d"))), Err(Error::Exhausted)));
    assert_eq!(assign(&mut registry, "a"), 256);
}

#[test]
fn what_is_no_longer_used_is_taken_back_with_one_write() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Hand::default().open(directory.path()).unwrap();
    for name in ["a", "b", "c"] {
        assign(&mut registry, name);
    }
    assert_eq!(registry.retain(&[IdentityId(257)].into()).unwrap(), [IdentityId(256), IdentityId(258)]);
    assert_eq!(registry.retain(&[IdentityId(257)].into()).unwrap(), []);
    assert_eq!(registry.all().len(), 1);
    assert!(matches!(registry.release(IdentityId(256)), Err(Error::Unknown(IdentityId(256)))));
    assert!(matches!(registry.release(IdentityId(4)), Err(Error::Unknown(_))));
}

#[test]
fn two_documents_of_one_identity_share_its_number_unless_policies_could_tell_them_apart() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Hand::default().open(directory.path()).unwrap();
    let first = workload("web");
    let mut second = Workload { name: "web-two".into(), ..first.clone() };
    registry.assign(&proof(&first)).unwrap();
    let info = registry.assign(&proof(&second)).unwrap();
    assert_eq!((info.id.0, info.name.as_str()), (256, "web"));
    second.mode = Some(Mode::Enforce);
    let text = registry.assign(&proof(&second)).unwrap_err().to_string();
    assert!(
        text.starts_with("shop/web-two (/p/a.yaml:3:1) has the SPIFFE ID and labels of shop/web"),
        "{text}"
    );
    // The document was renamed: the old name is gone from the set.
    registry.refresh(&[Arc::new(second.clone())]).unwrap();
    let info = registry.assign(&proof(&second)).unwrap();
    assert_eq!((info.id.0, info.name.as_str(), info.mode), (256, "web-two", Some(Mode::Enforce)));
}

#[test]
fn a_damaged_file_is_never_a_new_beginning() {
    let entry = |id: u32, name: &str| {
        format!(
            r#"{{"id":{id},"spiffe_id":"spiffe://a/{name}","labels":{{}},"namespace":"n","name":"x","mode":null,"released":null}}"#
        )
    };
    let file = |next: u32, entries: &[String]| {
        format!(r#"{{"version":1,"next":{next},"identities":[{}]}}"#, entries.join(","))
    };
    let cases = [
        (String::new(), "what a registry writes"),
        ("{".to_owned(), "what a registry writes"),
        (r#"{"version":2,"anything":1}"#.to_owned(), "version 2"),
        (r#"{"version":1,"next":256,"identities":[],"more":1}"#.to_owned(), "what a registry writes"),
        (file(255, &[]), "number 255 is out of range"),
        (file(u32::MAX, &[]), "out of range"),
        (file(257, &[entry(4, "a")]), "number 4 is out of range"),
        (file(257, &[entry(257, "a")]), "number 257 is out of range"),
        (file(258, &[entry(256, "a"), entry(256, "b")]), "number 256 is given twice"),
        (file(258, &[entry(256, "a"), entry(257, "a")]), "number 257 is given twice"),
        (file(257, &[entry(256, "a//b")]), "what a registry writes"),
    ];
    for (text, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identities.json");
        fs::write(&path, &text).unwrap();
        let error = Hand::default().open(directory.path()).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(expected), "{text}: {source}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "untouched");
    }
}

#[test]
fn a_link_or_a_pipe_in_place_of_the_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identities.json");
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(matches!(Hand::default().open(directory.path()), Err(Error::Read { .. })));
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(
        Hand::default().open(directory.path()),
        Err(Error::Corrupt { source: Corruption::NotAFile, .. })
    ));
}

#[test]
fn when_writing_fails_the_number_is_not_given_out_and_the_old_file_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Hand::default().open(directory.path()).unwrap();
    assign(&mut registry, "a");
    let before = fs::read(directory.path().join("identities.json")).unwrap();
    // A directory in the way of the new file fails for root too.
    fs::create_dir(directory.path().join("identities.json.new")).unwrap();
    let error = registry.assign(&proof(&workload("b"))).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    assert!(matches!(registry.release(IdentityId(256)), Err(Error::Write { .. })));
    assert_eq!(registry.all().len(), 1);
    assert_eq!(fs::read(directory.path().join("identities.json")).unwrap(), before);
    fs::remove_dir(directory.path().join("identities.json.new")).unwrap();
    assert_eq!(assign(&mut registry, "b"), 257);
}

#[test]
fn a_half_written_file_of_a_killed_agent_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Hand::default();
    assign(&mut clock.open(directory.path()).unwrap(), "a");
    fs::write(directory.path().join("identities.json.new"), "{\"vers").unwrap();
    let mut registry = clock.open(directory.path()).unwrap();
    assert_eq!([assign(&mut registry, "a"), assign(&mut registry, "b")], [256, 257]);
}

#[test]
fn a_workload_of_another_node_gets_a_number_and_a_name_from_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Hand::default();
    let mut registry = clock.open(directory.path()).unwrap();
    let own: crate::spiffe::TrustDomain = "cluster.local".parse().unwrap();
    let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
    let cases = [
        ("spiffe://cluster.local/ns/shop/sa/far", "shop/far", 1),
        ("spiffe://cluster.local/vm/db-1", "/vm/db-1", 1),
        ("spiffe://elsewhere.org/ns/shop/sa/far", "elsewhere.org/ns/shop/sa/far", 0),
    ];
    for (number, (text, name, kept)) in (256..).zip(cases) {
        let id = text.parse().unwrap();
        let info = registry.assign_remote(&id, &labels, &own).unwrap();
        assert_eq!((info.id.0, info.full_name().as_str(), info.labels.len()), (number, name, kept), "{text}");
        assert_eq!(registry.assign_remote(&id, &labels, &own).unwrap(), info, "twice is once");
    }
    let registry = clock.open(directory.path()).unwrap();
    assert_eq!(registry.all().len(), 3, "a restarted agent knows them");
}

#[test]
fn a_document_of_this_node_gives_a_remote_workload_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Hand::default().open(directory.path()).unwrap();
    let local = Workload { namespace: "other".into(), mode: Some(Mode::Enforce), ..workload("web") };
    let own = local.spiffe_id.trust_domain().clone();
    let remote = registry.assign_remote(&local.spiffe_id, &local.labels, &own).unwrap();
    let named = registry.assign(&proof(&local)).unwrap();
    assert_eq!((named.id, named.full_name().as_str()), (remote.id, "other/web"));
    assert_eq!(named.mode, Some(Mode::Enforce));
    let again = registry.assign_remote(&local.spiffe_id, &local.labels, &own).unwrap();
    assert_eq!(again, named, "a proof takes nothing away from a document");
}

#[test]
fn many_at_once_are_given_what_each_would_be_given_alone() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Hand::default();
    let mut registry = clock.open(directory.path()).unwrap();
    assert_eq!(assign(&mut registry, "b"), 256);
    registry.numbers = 3;
    let mut stricter = workload("a");
    (stricter.name, stricter.mode) = ("other".into(), Some(Mode::Enforce));
    let asked = [workload("a"), workload("b"), stricter, workload("a"), workload("c"), workload("d")];
    let proofs = asked.each_ref().map(proof);
    let given = registry.assign_all(&proofs.each_ref());
    let told: Vec<_> = given
        .iter()
        .map(|given| match given {
            Ok(info) => format!("{} {}", info.id.0, info.name),
            Err(error) => error.to_string().chars().take(16).collect(),
        })
        .collect();
    assert_eq!(told, ["257 a", "256 b", "shop/other (/p/a", "257 a", "258 c", "all 65536 identi"]);
    assert_eq!(registry.all().len(), 3);
    drop(registry);
    assert_eq!(clock.open(directory.path()).unwrap().all().len(), 3, "they are in the file");

    // What cannot be written is not given out; whoever is known is not touched by it.
    let mut registry = clock.open(directory.path()).unwrap();
    fs::remove_dir_all(directory.path()).unwrap();
    fs::write(directory.path(), "").unwrap();
    let given = registry.assign_all(&[&proof(&workload("b")), &proof(&workload("e"))]);
    assert!(matches!(&given[..], [Ok(_), Err(Error::Write { .. })]), "{given:?}");
    fs::remove_file(directory.path()).unwrap();
    fs::create_dir(directory.path()).unwrap();
}
