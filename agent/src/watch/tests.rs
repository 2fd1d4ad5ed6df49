use std::fs;

use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_millis(400);

async fn reported(watcher: &mut Watcher) -> bool {
    timeout(SOON, watcher.changed()).await.map(Result::unwrap).is_ok()
}

async fn quiet(watcher: &mut Watcher) -> bool {
    timeout(NEVER, watcher.changed()).await.is_err()
}

type Step<'a> = (&'a str, Box<dyn Fn() + 'a>);

#[tokio::test]
async fn every_kind_of_change_is_reported_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut watcher = Watcher::new(directory.path()).unwrap();
    let steps: [Step<'_>; 6] = [
        ("write", Box::new(|| fs::write(path("a.yaml"), "a").unwrap())),
        ("rewrite", Box::new(|| fs::write(path("a.yaml"), "b").unwrap())),
        ("rename", Box::new(|| fs::rename(path("a.yaml"), path("b.yaml")).unwrap())),
        ("link", Box::new(|| fs::hard_link(path("b.yaml"), path("c.yaml")).unwrap())),
        ("remove", Box::new(|| fs::remove_file(path("b.yaml")).unwrap())),
        ("many", Box::new(|| (0..300).for_each(|i| fs::write(path(&format!("{i}.yaml")), "x").unwrap()))),
    ];
    for (name, step) in steps {
        step();
        assert!(reported(&mut watcher).await, "{name}");
        assert!(quiet(&mut watcher).await, "{name} was reported twice");
    }
}

#[tokio::test]
async fn reading_the_files_is_no_change() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), "a").unwrap();
    let mut watcher = Watcher::new(directory.path()).unwrap();
    fs::read(directory.path().join("a.yaml")).unwrap();
    fs::read_dir(directory.path()).unwrap().count();
    assert!(quiet(&mut watcher).await);
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_is_still_watched() {
    let above = tempfile::tempdir().unwrap();
    let policies = above.path().join("deep/policies");
    let mut watcher = Watcher::new(&policies).unwrap();
    assert!(quiet(&mut watcher).await, "it need not exist");
    for round in 0..3 {
        fs::create_dir_all(&policies).unwrap();
        assert!(reported(&mut watcher).await, "made, round {round}");
        fs::write(policies.join("a.yaml"), "a").unwrap();
        assert!(reported(&mut watcher).await, "written, round {round}");
        if round == 1 {
            fs::rename(above.path().join("deep"), above.path().join("old")).unwrap();
        } else {
            fs::remove_dir_all(above.path().join("deep")).unwrap();
        }
        assert!(reported(&mut watcher).await, "gone, round {round}");
    }
    fs::write(above.path().join("old/policies/b.yaml"), "b").unwrap();
    assert!(quiet(&mut watcher).await, "a directory that was moved away is nobody's");
}

#[tokio::test]
async fn a_directory_put_in_place_of_the_old_one_is_watched() {
    let above = tempfile::tempdir().unwrap();
    let (policies, next) = (above.path().join("policies"), above.path().join("next"));
    fs::create_dir(&policies).unwrap();
    let mut watcher = Watcher::new(&policies).unwrap();
    fs::create_dir(&next).unwrap();
    assert!(quiet(&mut watcher).await, "a neighbour is no change");
    fs::rename(&next, &policies).unwrap();
    assert!(reported(&mut watcher).await);
    fs::write(policies.join("a.yaml"), "a").unwrap();
    assert!(reported(&mut watcher).await);
}

#[tokio::test]
async fn a_single_file_can_be_watched_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, "a").unwrap();
    let mut watcher = Watcher::new(&file).unwrap();
    for round in 0..3 {
        fs::write(directory.path().join("new"), "b").unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        assert!(reported(&mut watcher).await, "replaced, round {round}");
        fs::write(&file, "c").unwrap();
        assert!(reported(&mut watcher).await, "written, round {round}");
    }
}

#[tokio::test]
async fn changes_without_end_are_reported_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::new(directory.path()).unwrap();
    let path = directory.path().to_owned();
    let writer = tokio::spawn(async move {
        loop {
            fs::write(path.join("a.yaml"), "a").unwrap();
            tokio::time::sleep(QUIET / 4).await;
        }
    });
    assert!(reported(&mut watcher).await);
    writer.abort();
}

#[tokio::test]
async fn a_change_is_not_lost_when_the_caller_stops_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let mut watcher = Watcher::new(directory.path()).unwrap();
    fs::write(directory.path().join("a.yaml"), "a").unwrap();
    assert!(timeout(QUIET / 4, watcher.changed()).await.is_err());
    assert!(reported(&mut watcher).await);
}

#[tokio::test]
async fn a_relative_path_is_refused() {
    assert!(matches!(Watcher::new(Path::new("policies")), Err(Error::Relative { .. })));
}
