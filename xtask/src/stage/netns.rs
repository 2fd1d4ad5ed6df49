//! Network namespaces joined by a switch. Nothing is added to the host's own namespace.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::run;

/// A named namespace with its loopback up. Dropping it removes it with its interfaces.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// A new namespace. One that an earlier, killed run left behind is replaced.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        delete(name);
        run("ip", &["netns", "add", name])?;
        let namespace = Self { name: name.to_owned() };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Where the namespace can be opened.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run("ip", &[&["-n", self.name.as_str()], arguments].concat())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

fn delete(name: &str) {
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// A bridge in a namespace of its own.
#[derive(Debug)]
pub(crate) struct Switch {
    home: Netns,
}

impl Switch {
    /// A switch without wires.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let home = Netns::new(name)?;
        home.ip(&["link", "add", "switch", "type", "bridge"])?;
        home.ip(&["link", "set", "switch", "up"])?;
        Ok(Self { home })
    }

    /// Lays a wire to a namespace, whose end is `eth0` with an address such as `10.77.0.10/24`. `port` names our end.
    pub(crate) fn wire(&self, to: &Netns, port: &str, address: &str) -> anyhow::Result<()> {
        self.home.ip(&["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &to.name])?;
        self.home.ip(&["link", "set", port, "master", "switch", "up"])?;
        to.ip(&["addr", "add", address, "dev", "eth0"])?;
        to.ip(&["link", "set", "eth0", "up"])
    }
}
