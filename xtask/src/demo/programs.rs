//! nginx, redis and Python for the demo. What this machine lacks is fetched as Debian packages and only unpacked below
//! the build directory: nothing is installed, and no service of this machine starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::apt;
use crate::place::{Place, is_program, on_path};

const PACKAGES: &[&str] = &["nginx-light", "libnginx-mod-stream", "redis-server"];

/// Where the demo's programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) nginx: PathBuf,
    pub(crate) nginx_modules: PathBuf,
    pub(crate) redis: PathBuf,
    pub(crate) python: PathBuf,
    /// Directories of the shared libraries that came with unpacked packages.
    libraries: Vec<PathBuf>,
}

impl Programs {
    /// Looks on this machine, then among what was unpacked before, then fetches.
    pub(crate) fn find_or_fetch(place: &Place) -> anyhow::Result<Self> {
        if on_path("ip").is_none() || on_path("nsenter").is_none() {
            apt::install(place, &["iproute2", "util-linux"])?;
        }
        let home = place.target.join("demo");
        let root = home.join("root");
        if let Some(found) = Self::find(Path::new("/")).or_else(|| Self::find(&root)) {
            return Ok(found);
        }
        if on_path("apt-get").is_none() {
            bail!("the demo needs nginx with its stream module, and redis-server: install them");
        }
        if system_python().is_none() {
            apt::install(place, &["python3-minimal"])?;
        }
        for package in apt::fetch(place, PACKAGES, &home.join("packages"))? {
            apt::unpack(&package, &root)?;
        }
        Self::find(&root).with_context(|| format!("nginx or redis is missing in {}", root.display()))
    }

    fn find(root: &Path) -> Option<Self> {
        let program = |name: &str| Some(root.join(name)).filter(|path| is_program(path));
        let directory = |name: &str| Some(root.join(name)).filter(|path| path.is_dir());
        let nginx_modules =
            directory("usr/lib/nginx/modules").or_else(|| directory("usr/lib64/nginx/modules"))?;
        nginx_modules.join("ngx_stream_module.so").is_file().then_some(())?;
        Some(Self {
            nginx: program("usr/sbin/nginx")?,
            nginx_modules,
            redis: program("usr/bin/redis-server")?,
            python: system_python()?,
            libraries: if root == Path::new("/") { Vec::new() } else { libraries(root) },
        })
    }

    /// Lets an unpacked program find its libraries.
    pub(crate) fn with_libraries(&self, command: &mut Command) {
        if let Ok(path) = std::env::join_paths(&self.libraries)
            && !self.libraries.is_empty()
        {
            command.env("LD_LIBRARY_PATH", path);
        }
    }
}

/// The distribution's Python: one that a user's shell puts in front may be a script that looks for others.
fn system_python() -> Option<PathBuf> {
    Some(PathBuf::from("/usr/bin/python3")).filter(|path| is_program(path)).or_else(|| on_path("python3"))
}

/// Every directory below `usr/lib` and `lib` that holds shared libraries by multiarch name, such as x86_64-linux-gnu.
fn libraries(root: &Path) -> Vec<PathBuf> {
    let parents = ["usr/lib", "lib"].map(|name| root.join(name));
    let entries = parents.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("-linux-gnu")).collect()
}
