//! What the kernel's verifier has to walk through, program by program: a regression shows here before a program is refused
//! on somebody's machine. Compared with tests/golden/verifier.txt; kernels count differently, so each has lines of its own.
//! `UPDATE_EXPECT=1` writes those of this kernel.

#![expect(clippy::unwrap_used, reason = "what cannot be loaded or read stops the test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use waxseal::datapath::object::{HOOKS, OBJECT};
use waxseal::datapath::{btf, verify};
use waxseal_tests::root;

/// By how much a count may differ, in per cent.
const TOLERANCE: u32 = 10;
/// The verifier's own limit is a million; what comes near it is refused by some other kernel.
const MOST: u32 = 500_000;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/verifier.txt")
}

/// `6.18` of `6.18.44-something`.
fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// Loads each program, attaches none.
fn counts() -> BTreeMap<&'static str, u32> {
    let mut loader = EbpfLoader::new();
    let offsets = btf::offsets().unwrap();
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    let mut object = loader.load(OBJECT).unwrap();
    let count = |hook: &waxseal::datapath::object::Hook| {
        let program = object.program_mut(hook.name).unwrap();
        let verified = verify(program).unwrap_or_else(|| panic!("{} is of an unknown kind", hook.name));
        verified.unwrap_or_else(|error| panic!("{}: {error}", hook.name));
        let info = program.info().unwrap();
        (hook.name, info.verified_instruction_count().unwrap_or_default())
    };
    HOOKS.iter().map(count).collect()
}

#[test]
fn the_verifier_has_no_more_to_walk_through_than_is_written_down() {
    root::require();
    let (kernel, counts) = (kernel(), counts());
    let text = fs::read_to_string(golden()).unwrap_or_default();
    let own = format!("{kernel} ");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let mut lines: Vec<String> =
            text.lines().filter(|line| !line.starts_with(&own)).map(str::to_owned).collect();
        lines.extend(counts.iter().map(|(program, count)| format!("{own}{program} {count}")));
        lines.sort();
        fs::write(golden(), lines.join("\n") + "\n").unwrap();
        return;
    }
    let mut wrong = String::new();
    for (program, count) in counts {
        assert!(
            count < MOST,
            "{program}: the verifier walks through {count} instructions, {MOST} are enough"
        );
        let line =
            text.lines().find_map(|line| line.strip_prefix(&own)?.strip_prefix(program)?.strip_prefix(' '));
        let Some(expected) = line.and_then(|count| count.parse::<u32>().ok()) else {
            println!("nothing to compare with on kernel {kernel}: {program} {count}");
            continue;
        };
        if count.abs_diff(expected) > expected * TOLERANCE / 100 {
            let _ = writeln!(wrong, "{program}: {count} instructions, {expected} expected");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}if that is meant: UPDATE_EXPECT=1 and run this test again");
}
