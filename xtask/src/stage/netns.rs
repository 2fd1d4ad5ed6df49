//! Network namespaces joined by a router. Nothing is added to the host's own namespace.

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

/// A router in a namespace of its own: passes on what goes from node to node.
#[derive(Debug)]
pub(crate) struct Router {
    home: Netns,
}

impl Router {
    /// A router without wires.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let home = Netns::new(name)?;
        let net = format!("--net={}", home.path().display());
        run("nsenter", &[&net, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        Ok(Self { home })
    }

    /// Its namespace.
    pub(crate) fn home(&self) -> &Netns {
        &self.home
    }

    /// Lays wire `number` to a namespace: the router is 10.77.`number`.1, the namespace's `eth0` is .2, and everything
    /// that has no nearer way goes through the router.
    pub(crate) fn wire(&self, to: &Netns, number: u8) -> anyhow::Result<()> {
        let port = format!("wire{number}");
        let gate = format!("10.77.{number}.1");
        self.home.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &to.name])?;
        self.home.ip(&["addr", "add", &format!("{gate}/24"), "dev", &port])?;
        self.home.ip(&["link", "set", &port, "up"])?;
        to.ip(&["addr", "add", &format!("10.77.{number}.2/24"), "dev", "eth0"])?;
        to.ip(&["link", "set", "eth0", "up"])?;
        to.ip(&["route", "add", "default", "via", &gate])
    }
}
