//! A certificate authority that serves nodes: `waxseal ca init`, `ca serve`, `ca token`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::service::enter;
use super::{Netns, Service, port_is_open, wait};

/// Where it serves.
const PORT: u16 = 7463;

/// An authority. Dropping it ends its server and removes its files.
#[derive(Debug)]
pub(crate) struct Authority {
    binary: PathBuf,
    directory: PathBuf,
    address: String,
    _service: Service,
}

impl Authority {
    /// Makes root and intermediate, and serves at an address of a namespace.
    pub(crate) fn start(binary: PathBuf, name: &str, netns: &Netns, address: &str) -> anyhow::Result<Self> {
        let directory = PathBuf::from(format!("/run/waxseal-{name}"));
        let _ = fs::remove_dir_all(&directory);
        let log = directory.with_extension("log");
        ask(Command::new(&binary)
            .args(["ca", "init", "--trust-domain", "cluster.local", "--dir"])
            .arg(&directory))?;
        let address = format!("{address}:{PORT}");
        let mut serve = enter(netns, &binary);
        serve.args(["ca", "serve", "--listen", &address, "--log", "info", "--dir"]).arg(&directory);
        let mut service = Service::start("the authority", serve, &log)?;
        let at = address.parse().context("the authority's address")?;
        let up = wait("the authority to serve", Duration::from_secs(20), || {
            service.still_runs()?;
            Ok(port_is_open(Some(netns), at).then_some(()))
        });
        up.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Self { binary, directory, address, _service: service })
    }

    /// Where nodes find it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A token with which a node of this name may join once.
    pub(crate) fn token(&self, node: &str) -> anyhow::Result<String> {
        let arguments = ["ca", "token", "--node", node, "--allow", "/ns/shop/sa/*", "--dir"];
        ask(Command::new(&self.binary).args(arguments).arg(&self.directory))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        let _ = fs::remove_file(self.directory.with_extension("log"));
    }
}

fn ask(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().context("start waxseal")?;
    if !output.status.success() {
        bail!("waxseal ca: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
