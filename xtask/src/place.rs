//! Where things lie: the repository and its build directory.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The repository and the directory for everything that is built or downloaded.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// `CARGO_TARGET_DIR`, else `target` in the root. Absolute.
    pub(crate) target: PathBuf,
}

impl Place {
    /// Looks upward from cargo's word for this crate, else from the working directory.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let here = env::current_dir().context("read the working directory")?;
        let start = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| here.clone(), PathBuf::from);
        let root = start
            .ancestors()
            .find(|directory| directory.join("Cargo.lock").is_file() && directory.join("ebpf").is_dir())
            .with_context(|| format!("no Waxseal workspace at or above {}", start.display()))?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(given) => here.join(given),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The kernel programs' object file.
    pub(crate) fn object(&self) -> PathBuf {
        self.target.join("bpf/waxseal.bpf.o")
    }

    /// A release or debug binary of the workspace.
    pub(crate) fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// Tools that `setup` built for this checkout only.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The log of one step. Its directory is made when the step starts.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.target.join("xtask-logs").join(format!("{name}.log"))
    }
}

/// The first directory of `PATH` that holds `name`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| is_program(file))
}

/// A regular file that someone may execute.
pub(crate) fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
