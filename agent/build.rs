//! Embeds the kernel programs: the object that `WAXSEAL_EBPF_OBJECT` names, or the one that `cargo xtask build-ebpf` has
//! made, or nothing. A binary without one says so and refuses to enforce.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const OBJECT: &str = "WAXSEAL_EBPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?);
    let embedded = out.join("waxseal.bpf.o");
    if let Some(given) = env::var_os(OBJECT) {
        let given = PathBuf::from(given);
        println!("cargo::rerun-if-changed={}", given.display());
        let object = fs::read(&given)
            .map_err(|error| io::Error::other(format!("{OBJECT}={}: {error}", given.display())))?;
        return fs::write(embedded, object);
    }
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let built = out.ancestors().nth(4).unwrap_or(Path::new("target")).join("bpf").join("waxseal.bpf.o");
    println!("cargo::rerun-if-changed={}", built.display());
    match fs::read(&built) {
        Ok(object) => fs::write(embedded, object),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(embedded, []),
        Err(error) => Err(io::Error::other(format!("{}: {error}", built.display()))),
    }
}
