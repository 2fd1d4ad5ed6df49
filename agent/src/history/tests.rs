use std::fs::{self, File};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use waxseal_common::flow::{FlowEvent, SealState};

use super::*;
use crate::flows::samples::{allowed, closed, denied, flow, refused};
use crate::flows::{Cause, Filter, Flow, Loss, Time};

const LIMITS: Limits = Limits { bytes: 64 << 20, age: Duration::from_hours(24) };

fn numbered(number: u64) -> FlowEvent {
    FlowEvent { cookie: number, at: allowed().at + number * 1_000_000, ..allowed() }
}

fn write(writer: &mut Writer, event: &FlowEvent) {
    writer.write(event, &flow(event));
}

fn find(writer: &Writer, filter: &Filter, want: Want) -> (Vec<Flow>, Vec<Loss>) {
    let (mut flows, mut losses) = (Vec::new(), Vec::new());
    Search::new(writer.extents()).run(filter, want, &mut |found| {
        match found {
            Found::Flow(flow) => flows.push(*flow),
            Found::Lost(loss) => losses.push(loss),
        }
        ControlFlow::Continue(())
    });
    (flows, losses)
}

fn cookies(writer: &Writer, filter: &Filter, want: Want) -> Vec<u64> {
    find(writer, filter, want).0.iter().map(|flow| flow.cookie).collect()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let flows = directory.path().join("state/flows");
    (directory, flows)
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn what_was_written_is_found_as_it_was() {
    let (_directory, path) = place();
    let sealed = FlowEvent { seal: SealState::Wire as u8, session: 9, ..allowed() };
    let events = [allowed(), denied(), closed(), refused(), sealed];
    let mut writer = Writer::open(path.clone(), LIMITS).unwrap();
    for event in &events {
        write(&mut writer, event);
    }
    assert!(find(&writer, &Filter::default(), Want::All).0.is_empty(), "nothing is on disk yet");
    writer.flush();
    let expected: Vec<Flow> = events.iter().map(flow).collect();
    assert_eq!(find(&writer, &Filter::default(), Want::All), (expected.clone(), vec![]));
    drop(writer);
    let writer = Writer::open(path.clone(), LIMITS).unwrap();
    assert_eq!(find(&writer, &Filter::default(), Want::All).0, expected, "after a restart");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&segments(&path)[0]).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn the_same_filters_and_counts_hold_as_for_the_present() {
    let (_directory, path) = place();
    let mut writer = Writer::open(path, LIMITS).unwrap();
    for number in 0..1000 {
        write(&mut writer, &numbered(number));
        if number % 100 == 99 {
            write(&mut writer, &FlowEvent { cookie: 10_000 + number, ..denied() });
            writer.flush();
        }
    }
    let all = Filter::default();
    let denials = Filter { verdict: vec!["deny".parse().unwrap()], ..Filter::default() };
    let at = |number: u64| Some(Time(flow(&numbered(number)).time.0));
    let middle = Filter { since: at(300), until: at(303), ..Filter::default() };
    assert_eq!(cookies(&writer, &all, Want::All).len(), 1010);
    assert_eq!(cookies(&writer, &all, Want::Last(3)), [998, 999, 10_999]);
    assert_eq!(cookies(&writer, &denials, Want::Last(2)), [10_899, 10_999]);
    assert_eq!(cookies(&writer, &denials, Want::Last(99)).len(), 10);
    assert_eq!(cookies(&writer, &middle, Want::All), [300, 301, 302]);
    assert_eq!(cookies(&writer, &middle, Want::Last(1)), [302]);
    assert_eq!(cookies(&writer, &all, Want::Last(0)), [] as [u64; 0]);
    let mut seen = 0;
    Search::new(writer.extents()).run(&all, Want::All, &mut |_found| {
        seen += 1;
        if seen == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(seen, 5, "a search that is broken off ends");
}

#[test]
fn a_number_that_means_somebody_else_later_is_shown_as_it_was_then() {
    let (_directory, path) = place();
    let mut writer = Writer::open(path, LIMITS).unwrap();
    let event = allowed();
    let mut renamed = flow(&event);
    renamed.source.identity = Arc::new(crate::flows::Identity {
        name: "shop/other".to_owned(),
        ..(*renamed.source.identity).clone()
    });
    write(&mut writer, &event);
    writer.write(&event, &renamed);
    write(&mut writer, &event);
    writer.flush();
    let names: Vec<String> = find(&writer, &Filter::default(), Want::All)
        .0
        .iter()
        .map(|flow| flow.source.identity.name.clone())
        .collect();
    assert_eq!(names, ["shop/checkout", "shop/other", "shop/checkout"]);
}

/// SIGKILL in the middle of a write, a broken disk: whatever the bytes, what is whole is found and nothing else is.
#[test]
fn damage_costs_only_the_block_that_it_hits() {
    let (_directory, path) = place();
    let fill = || {
        let _gone = fs::remove_dir_all(&path);
        let mut writer = Writer::open(path.clone(), LIMITS).unwrap();
        let mut ends = Vec::new();
        for number in 0..4 {
            write(&mut writer, &numbered(number));
            writer.flush();
            ends.push(writer.state().bytes);
        }
        drop(writer);
        ends
    };
    let ends = fill();
    for cut in (0..ends[3]).step_by(7) {
        fill();
        File::options().write(true).open(&segments(&path)[0]).unwrap().set_len(cut).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        let writer = Writer::open(path.clone(), LIMITS).unwrap();
        assert_eq!(cookies(&writer, &Filter::default(), Want::All), (0..whole).collect::<Vec<_>>(), "{cut}");
    }
    for at in (ends[0]..ends[1]).step_by(5) {
        fill();
        let file = File::options().read(true).write(true).open(&segments(&path)[0]).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let writer = Writer::open(path.clone(), LIMITS).unwrap();
        let (flows, losses) = find(&writer, &Filter::default(), Want::All);
        let cookies: Vec<u64> = flows.iter().map(|flow| flow.cookie).collect();
        assert!(cookies == [0, 2, 3] || cookies == [0], "{at}: {cookies:?}");
        assert!(cookies == [0] || losses == [Loss { count: 1, cause: Cause::History }], "{at}: {losses:?}");
    }
}

#[test]
fn the_oldest_go_when_there_is_too_much_and_new_ones_stand_behind_them() {
    let (_directory, path) = place();
    let limits = Limits { bytes: 3 << 20, ..LIMITS };
    let mut writer = Writer::open(path.clone(), limits).unwrap();
    for number in 0..40_000 {
        write(&mut writer, &numbered(number));
    }
    writer.flush();
    let State { bytes, written, lost } = writer.state();
    assert!(bytes <= limits.bytes, "{bytes}");
    assert_eq!((written, lost), (40_000, 0));
    let kept = cookies(&writer, &Filter::default(), Want::All);
    let first = *kept.first().unwrap();
    assert!(first > 20_000, "{first}");
    assert_eq!(kept, (first..40_000).collect::<Vec<_>>(), "without a gap");
    let sizes: u64 = segments(&path).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(sizes, bytes);
    // A clock that was set back does not put the new before the old.
    drop(writer);
    let newest = segments(&path).pop().unwrap();
    fs::rename(&newest, newest.with_file_name(format!("{:016x}-00000000.flows", u64::MAX >> 4))).unwrap();
    let mut writer = Writer::open(path, limits).unwrap();
    write(&mut writer, &numbered(99_999));
    writer.flush();
    assert_eq!(cookies(&writer, &Filter::default(), Want::All).last(), Some(&99_999));
}

#[test]
fn the_old_go_when_their_time_has_come() {
    let (_directory, path) = place();
    let mut writer = Writer::open(path.clone(), LIMITS).unwrap();
    write(&mut writer, &allowed());
    drop(writer);
    let segment = File::options().write(true).open(&segments(&path)[0]).unwrap();
    segment.set_modified(std::time::SystemTime::now() - Duration::from_hours(25)).unwrap();
    let writer = Writer::open(path.clone(), LIMITS).unwrap();
    assert!(writer.extents().is_empty() && segments(&path).is_empty());
}

#[test]
fn losses_are_kept_where_they_happened() {
    let (_directory, path) = place();
    let mut writer = Writer::open(path, LIMITS).unwrap();
    write(&mut writer, &numbered(1));
    writer.flush();
    writer.lose(Loss { count: 7, cause: Cause::DenialRing });
    writer.lose(Loss { count: 2, cause: Cause::History });
    writer.flush();
    let (flows, losses) = find(&writer, &Filter::default(), Want::All);
    assert_eq!(flows.len(), 1);
    assert_eq!(losses.iter().map(|loss| loss.count).collect::<Vec<_>>(), [7, 2]);
    assert_eq!(writer.state().lost, 2);
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let (directory, path) = place();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(directory.path(), &path).unwrap();
    assert!(Writer::open(path.clone(), LIMITS).is_err());
    fs::remove_file(&path).unwrap();
    File::create(&path).unwrap().write_all(b"x").unwrap();
    assert!(Writer::open(path, LIMITS).is_err());
}
