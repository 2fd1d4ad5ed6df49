//! A certificate authority of its own for one test: `waxseal ca init`, `ca serve`, `ca token`.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::netns::Netns;
use crate::root;

/// Where it serves.
const PORT: u16 = 7463;

/// What differs from test to test.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// How long leaves live.
    pub leaf: &'a str,
}

impl Default for Terms<'_> {
    fn default() -> Self {
        Self { leaf: "1h" }
    }
}

/// The authority's directory, and its server while one runs. Dropping it ends the server.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
    netns: PathBuf,
    address: SocketAddr,
    leaf: String,
    child: Option<Child>,
}

impl Authority {
    /// Makes root and intermediate; serves nobody yet. `address` is where nodes will find it in `netns`.
    pub fn new(netns: &Netns, address: std::net::IpAddr, terms: Terms<'_>) -> Self {
        let directory = tempfile::Builder::new().prefix("wxt-ca-").tempdir().expect("a temporary directory");
        let authority = Self {
            directory,
            netns: netns.path(),
            address: SocketAddr::new(address, PORT),
            leaf: terms.leaf.to_owned(),
            child: None,
        };
        authority.must(&["init", "--trust-domain", "cluster.local", "--leaf-lifetime", &authority.leaf]);
        authority
    }

    /// Where it serves.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A file or directory of the authority.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Serves from now on.
    pub fn serve(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("ca.log")).expect("a log file");
        let listen = self.address.to_string();
        let mut command = self.command(&["serve", "--listen", &listen, "--log", "debug"]);
        let errors = log.try_clone().expect("the log file is open");
        self.child = Some(command.stdout(log).stderr(errors).spawn().expect("waxseal starts"));
        root::wait("the authority serves", Duration::from_secs(20), || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                panic!("the authority ended at once: {status}\n{}", self.log());
            }
            let table = root::run(
                "nsenter",
                &[
                    &format!("--net={}", self.netns.display()),
                    "cat",
                    "/proc/self/net/tcp",
                    "/proc/self/net/tcp6",
                ],
            );
            table.contains(&format!(":{PORT:04X} ")).then_some(())
        });
    }

    /// Serves no more: an outage.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs `waxseal ca ...`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("waxseal runs")
    }

    /// Runs `waxseal ca ...`, which must succeed, and returns what it said.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "waxseal ca {}: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A token with which a node of this name may join once, for workloads whose paths fit a pattern.
    pub fn token(&self, node: &str, allow: &str) -> String {
        self.must(&["token", "--node", node, "--allow", allow]).trim().to_owned()
    }

    /// What the server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("ca.log")).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = root::enter(Some(&self.netns), &root::program("waxseal"));
        command
            .arg("ca")
            .args(arguments)
            .arg("--dir")
            .arg(self.directory.path().join("ca"))
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let _ = io::Write::write_fmt(
                &mut io::stderr(),
                format_args!("--- the end of the authority's log ---\n{}\n", tail.join("\n")),
            );
        }
    }
}
