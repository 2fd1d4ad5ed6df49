//! What this machine has. Looks, never changes anything.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::{Place, is_program, on_path};
use crate::process::answer;

/// A compiler and what it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rustc {
    pub(crate) program: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) sysroot: PathBuf,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// The shared LLVM it is linked to, which bpf-linker can share. `None` when it is linked statically.
    pub(crate) llvm_library: Option<PathBuf>,
    /// The source of `core` is installed.
    pub(crate) rust_src: bool,
    /// `core` for BPF is installed, built.
    pub(crate) bpf_core: bool,
}

/// A bpf-linker that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linker {
    pub(crate) program: PathBuf,
    /// Major version of its LLVM, where it can be told: a static linker does not say.
    pub(crate) llvm: Option<u32>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent findings about one machine")]
pub(crate) struct Facts {
    /// `rustc` of `PATH`.
    pub(crate) rustc: Option<Rustc>,
    /// The distribution's `/usr/bin/rustc`.
    pub(crate) system_rustc: Option<Rustc>,
    pub(crate) linkers: Vec<Linker>,
    pub(crate) rustup: bool,
    pub(crate) apt: bool,
    /// Packages can be installed: we are root, or sudo exists.
    pub(crate) may_install: bool,
    /// A C compiler, which Rust needs to link programs.
    pub(crate) c_compiler: bool,
}

impl Facts {
    pub(crate) fn gather(place: &Place) -> Self {
        let on = |name| on_path(name).is_some();
        Self {
            rustc: on_path("rustc")
                .zip(on_path("cargo"))
                .and_then(|(program, cargo)| rustc(&program, &cargo)),
            system_rustc: rustc(Path::new("/usr/bin/rustc"), Path::new("/usr/bin/cargo")),
            linkers: linkers(place),
            rustup: on("rustup"),
            apt: on("apt-get"),
            may_install: crate::process::is_root() || on("sudo"),
            c_compiler: on("cc") || on("gcc") || on("clang"),
        }
    }
}

fn rustc(program: &Path, cargo: &Path) -> Option<Rustc> {
    if !is_program(program) || !is_program(cargo) {
        return None;
    }
    let sysroot = PathBuf::from(answer(Command::new(program).args(["--print", "sysroot"]))?);
    let llvm = llvm_version(&answer(Command::new(program).arg("-vV"))?)?;
    let libraries = answer(Command::new("ldd").arg(sysroot.join("bin/rustc"))).unwrap_or_default();
    let rustlib = sysroot.join("lib/rustlib");
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    Some(Rustc {
        program: program.to_path_buf(),
        cargo: cargo.to_path_buf(),
        llvm,
        llvm_library: llvm_library(&libraries).map(|(path, _)| path),
        rust_src: rustlib.join("src/rust/library/core").is_dir(),
        bpf_core: rustlib.join(target).join("lib").is_dir(),
        sysroot,
    })
}

/// `LLVM version: 22.1.2` in the output of `rustc -vV`.
fn llvm_version(text: &str) -> Option<u32> {
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// The LLVM among the shared libraries that `ldd` lists, and its major version. `None` when there is none, or when
/// the library is not found.
fn llvm_library(ldd: &str) -> Option<(PathBuf, u32)> {
    let (name, path) = ldd.lines().find_map(|line| {
        let (name, path) = line.trim().split_once(" => ")?;
        name.starts_with("libLLVM").then_some((name, path))
    })?;
    let path = path.split(" (").next()?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    let major = digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    path.starts_with('/').then(|| (PathBuf::from(path), major))
}

/// Our own first, then `PATH`, then where `cargo install` puts programs.
fn linkers(place: &Place) -> Vec<Linker> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let places = [
        Some(place.tools().join("bin/bpf-linker")),
        on_path("bpf-linker"),
        home.map(|home| home.join("bin/bpf-linker")),
    ];
    let mut programs: Vec<PathBuf> = places.into_iter().flatten().collect();
    programs.dedup();
    programs.into_iter().filter_map(linker).collect()
}

fn linker(program: PathBuf) -> Option<Linker> {
    // Starting it shows that its LLVM is still there: a toolchain update takes it away.
    answer(Command::new(&program).arg("--version"))?;
    let libraries = answer(Command::new("ldd").arg(&program)).unwrap_or_default();
    let llvm = llvm_library(&libraries).map(|(_, major)| major);
    Some(Linker { program, llvm })
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |truth: bool| if truth { "yes" } else { "no" };
        for (name, rustc) in [("rustc on PATH", &self.rustc), ("/usr/bin/rustc", &self.system_rustc)] {
            match rustc {
                None => writeln!(f, "{name}: none")?,
                Some(found) => writeln!(
                    f,
                    "{name}: {}, LLVM {}, rust-src: {}, core for BPF: {}",
                    found.sysroot.display(),
                    found.llvm,
                    yes(found.rust_src),
                    yes(found.bpf_core)
                )?,
            }
        }
        for Linker { program, llvm } in &self.linkers {
            let llvm = llvm.map_or_else(|| "its own LLVM".to_owned(), |major| format!("LLVM {major}"));
            writeln!(f, "bpf-linker: {}, {llvm}", program.display())?;
        }
        write!(
            f,
            "rustup: {}, apt-get: {}, may install packages: {}, C compiler: {}",
            yes(self.rustup),
            yes(self.apt),
            yes(self.may_install),
            yes(self.c_compiler)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_llvm_is_read_from_its_version() {
        assert_eq!(llvm_version("rustc 1.95.0\nrelease: 1.95.0\nLLVM version: 22.1.2"), Some(22));
        assert_eq!(llvm_version("rustc 1.95.0"), None);
    }

    #[test]
    fn the_shared_llvm_is_found_by_any_of_its_names() {
        let cases = [
            ("\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00)", Some(22)),
            (
                "\tlibLLVM.so.22.1-rust-1.95.0-stable => /t/lib/libLLVM.so.22.1-rust-1.95.0-stable (0x00)",
                Some(22),
            ),
            ("\tlibLLVM-17.so.1 => /usr/lib/libLLVM-17.so.1 (0x00)", Some(17)),
            ("\tlibLLVM.so.22.1 => not found", None),
            ("\tlibc.so.6 => /lib/libc.so.6 (0x00)", None),
        ];
        for (text, expected) in cases {
            assert_eq!(llvm_library(text).map(|(_, major)| major), expected, "{text}");
        }
    }
}
