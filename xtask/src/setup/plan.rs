//! What to do next, from what was found. Pure: the whole decision is in [`plan`].

use std::path::PathBuf;

use super::facts::{Facts, Linker, Rustc};
use super::{Compiler, Toolchain};

/// The packages that bring a compiler with `core` for BPF, on Debian.
pub(crate) const DEBIAN_COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// The packages of a C compiler, on Debian.
pub(crate) const DEBIAN_C: &[&str] = &["gcc", "libc6-dev"];

/// What follows from the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing is missing.
    Ready(Toolchain),
    /// One thing to do; look again afterwards.
    Missing(Step),
    /// Nothing this task may do helps. Says what a person can do.
    Stuck(String),
}

/// One thing that can be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    AddRustSrc,
    InstallPackages(&'static [&'static str]),
    BuildLinker { cargo: PathBuf, rustc: PathBuf, llvm: u32, library: PathBuf },
}

/// Decides. A way that is complete wins over one that needs work; then the one that changes the least.
pub(crate) fn plan(facts: &Facts) -> Plan {
    if !facts.c_compiler {
        return packages(facts, DEBIAN_C, "a C compiler (cc), which Rust needs to link programs");
    }
    let compilers = compilers(facts);
    for (compiler, rustc) in &compilers {
        if let Some(linker) = facts.linkers.iter().find(|linker| fits(linker, rustc)) {
            let linker = linker.program.clone();
            return Plan::Ready(Toolchain { compiler: compiler.clone(), linker });
        }
    }
    for (_, rustc) in &compilers {
        if let Some(library) = rustc.llvm_library.clone() {
            let Rustc { program, cargo, llvm, .. } = (*rustc).clone();
            return Plan::Missing(Step::BuildLinker { cargo, rustc: program, llvm, library });
        }
    }
    if let Some((_, rustc)) = compilers.first() {
        let llvm = rustc.llvm;
        return Plan::Stuck(format!(
            "bpf-linker is missing. Install one linked to LLVM {llvm} or newer on PATH"
        ));
    }
    if facts.rustup {
        return Plan::Missing(Step::AddRustSrc);
    }
    packages(facts, DEBIAN_COMPILER, "a Rust toolchain with the rust-src component, or one with core for BPF")
}

/// The compilers that can build for BPF, the first way first.
fn compilers(facts: &Facts) -> Vec<(Compiler, &Rustc)> {
    let from_source = facts.rustc.as_ref().filter(|rustc| rustc.rust_src).map(|rustc| {
        let compiler = Compiler::RustSrc { cargo: rustc.cargo.clone(), rustc: rustc.program.clone() };
        (compiler, rustc)
    });
    let prebuilt = facts.system_rustc.as_ref().filter(|rustc| rustc.bpf_core).map(|rustc| {
        let compiler = Compiler::Prebuilt { cargo: rustc.cargo.clone(), rustc: rustc.program.clone() };
        (compiler, rustc)
    });
    from_source.into_iter().chain(prebuilt).collect()
}

/// A linker reads what an older or equal LLVM wrote. One that does not say is tried.
fn fits(linker: &Linker, rustc: &Rustc) -> bool {
    linker.llvm.is_none_or(|llvm| llvm >= rustc.llvm)
}

fn packages(facts: &Facts, names: &'static [&'static str], missing: &str) -> Plan {
    if facts.apt && facts.may_install {
        return Plan::Missing(Step::InstallPackages(names));
    }
    let cure =
        if facts.apt { format!(". As root: apt-get install {}", names.join(" ")) } else { String::new() };
    Plan::Stuck(format!("missing: {missing}{cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rustc(at: &str, rust_src: bool, bpf_core: bool) -> Rustc {
        Rustc {
            program: PathBuf::from(at).join("bin/rustc"),
            cargo: PathBuf::from(at).join("bin/cargo"),
            sysroot: PathBuf::from(at),
            llvm: 22,
            llvm_library: Some(PathBuf::from(at).join("lib/libLLVM.so")),
            rust_src,
            bpf_core,
        }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { program: PathBuf::from("/l/bpf-linker"), llvm }
    }

    /// A Debian machine with a plain rustup and nothing else.
    fn bare() -> Facts {
        Facts {
            rustc: Some(rustc("/up", false, false)),
            system_rustc: None,
            linkers: Vec::new(),
            rustup: true,
            apt: true,
            may_install: true,
            c_compiler: true,
        }
    }

    fn word(plan: &Plan) -> String {
        match plan {
            Plan::Ready(Toolchain { compiler: Compiler::RustSrc { .. }, .. }) => "ready: rust-src".to_owned(),
            Plan::Ready(Toolchain { compiler: Compiler::Prebuilt { .. }, .. }) => {
                "ready: prebuilt".to_owned()
            }
            Plan::Missing(Step::AddRustSrc) => "add rust-src".to_owned(),
            Plan::Missing(Step::InstallPackages(names)) => {
                format!("install {}", names.first().unwrap_or(&""))
            }
            Plan::Missing(Step::BuildLinker { rustc, .. }) => format!("build linker for {}", rustc.display()),
            Plan::Stuck(_) => "stuck".to_owned(),
        }
    }

    #[test]
    fn the_first_way_that_fits_is_taken() {
        let source = Some(rustc("/up", true, false));
        let system = Some(rustc("/usr", false, true));
        let cases = [
            ("bare rustup", bare(), "add rust-src"),
            ("rustup without apt", Facts { apt: false, ..bare() }, "add rust-src"),
            ("no rustup", Facts { rustup: false, rustc: None, ..bare() }, "install rustc-web"),
            ("nothing allowed", Facts { rustup: false, may_install: false, ..bare() }, "stuck"),
            ("no C compiler", Facts { c_compiler: false, ..bare() }, "install gcc"),
            (
                "rust-src, no linker",
                Facts { rustc: source.clone(), ..bare() },
                "build linker for /up/bin/rustc",
            ),
            (
                "rust-src and an old linker",
                Facts { rustc: source.clone(), linkers: vec![linker(Some(20))], ..bare() },
                "build linker for /up/bin/rustc",
            ),
            (
                "rust-src and a static linker",
                Facts { rustc: source.clone(), linkers: vec![linker(None)], ..bare() },
                "ready: rust-src",
            ),
            (
                "both ways complete",
                Facts {
                    rustc: source,
                    system_rustc: system.clone(),
                    linkers: vec![linker(Some(22))],
                    ..bare()
                },
                "ready: rust-src",
            ),
            (
                "the distribution's way complete",
                Facts { system_rustc: system.clone(), linkers: vec![linker(Some(22))], ..bare() },
                "ready: prebuilt",
            ),
            (
                "the distribution's compiler alone",
                Facts { system_rustc: system, ..bare() },
                "build linker for /usr/bin/rustc",
            ),
        ];
        for (name, facts, expected) in cases {
            assert_eq!(word(&plan(&facts)), expected, "{name}");
        }
    }
}
