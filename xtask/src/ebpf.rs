//! Builds the kernel programs. They need another target, so they are built apart from everything else, with the
//! compiler that `setup` found. Cargo decides what is stale; the object is replaced only when its bytes changed, so
//! that the agent is not built again for nothing.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::place::Place;
use crate::process;
use crate::setup::{self, Compiler};

/// What a cargo around this program, or a person, may have set for the host's build.
const OUTER: &[&str] = &[
    "CARGO",
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
];

/// Without the last one memory is cleared by a call that writes a byte at a time: ten times slower, and a frame deeper.
const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order"];

/// Builds the object and returns where it is.
pub(crate) fn build(place: &Place) -> anyhow::Result<PathBuf> {
    let toolchain = setup::ensure(place)?;
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let work = place.target.join("bpf-build");

    let mut command = cargo(&toolchain.compiler);
    command
        .current_dir(&place.root)
        .args(["build", "--release", "--package", "waxseal-ebpf", "--target", target, "--target-dir"])
        .arg(&work)
        .env("PATH", path_with(&toolchain.linker)?)
        // One unstable feature is used (inline assembly for BPF); this lets a stable compiler accept it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    process::step(place, "build-ebpf", "building the kernel programs", &mut command)?;

    let built = work.join(target).join("release/waxseal");
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    ensure!(contains(&bytes, b".BTF\0"), "{} has no BTF: bpf-linker did not get --btf", built.display());
    let object = place.object();
    replace_if_changed(&object, &bytes)?;
    Ok(object)
}

/// The cargo of the chosen way, free of what the outer cargo set for itself.
fn cargo(compiler: &Compiler) -> Command {
    let (Compiler::RustSrc { cargo, rustc } | Compiler::Prebuilt { cargo, rustc }) = compiler;
    let mut command = Command::new(cargo);
    command.env("RUSTC", rustc);
    if let Compiler::RustSrc { .. } = compiler {
        command.args(["-Z", "build-std=core"]);
    } else {
        command.env_remove("RUSTUP_TOOLCHAIN");
    }
    for name in OUTER {
        command.env_remove(name);
    }
    command
}

/// `PATH` with the linker's directory in front: rustc looks for `bpf-linker` there.
fn path_with(linker: &Path) -> anyhow::Result<OsString> {
    let first = linker.parent().map(Path::to_path_buf);
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(first.into_iter().chain(env::split_paths(&rest))).context("join PATH")
}

fn replace_if_changed(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let directory = file.parent().context("the object has no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let fresh = file.with_extension("new");
    fs::write(&fresh, bytes).with_context(|| format!("write {}", fresh.display()))?;
    fs::rename(&fresh, file).with_context(|| format!("rename {} to {}", fresh.display(), file.display()))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
