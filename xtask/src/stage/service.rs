//! A program that runs in a cgroup and, if wanted, in a network namespace.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cgroup, Netns};

/// How long a process may take to end after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(10);

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    child: Child,
}

impl Service {
    /// Starts a program with its output in `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let err = out.try_clone().context("duplicate the log's descriptor")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// A command that first enters a cgroup and a namespace, so that every socket of the program is born there.
    pub(crate) fn command(cgroup: &Cgroup, netns: Option<&Netns>, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(cgroup.path());
        if let Some(netns) = netns {
            command.arg("nsenter").arg(format!("--net={}", netns.path().display())).arg("--");
        }
        command.arg(program);
        command
    }

    /// An error when the program has ended by itself.
    pub(crate) fn still_runs(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().with_context(|| format!("wait for {}", self.name))? {
            bail!("{} ended by itself: {status}", self.name);
        }
        Ok(())
    }

    /// Asks it to end, and waits. Kills it when it does not listen.
    pub(crate) fn stop(&mut self) {
        if let Ok(number) = i32::try_from(self.child.id())
            && self.child.try_wait().ok().flatten().is_none()
        {
            let _ = kill(Pid::from_raw(number), Signal::SIGTERM);
        }
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command for a program in a network namespace. The process is the program itself.
pub(super) fn enter(netns: &Netns, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns.path().display())).arg("--").arg(program);
    command
}

/// Somebody listens on a TCP port, in this namespace or in another: read from the kernel's table, so that no
/// connection has to be made.
pub(crate) fn port_is_open(netns: Option<&Netns>, address: SocketAddr) -> bool {
    let mut command = match netns {
        Some(netns) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", netns.path().display())).arg("--").arg("cat");
            command
        }
        None => Command::new("cat"),
    };
    let table = crate::process::answer(command.arg("/proc/self/net/tcp")).unwrap_or_default();
    listens(&table, address)
}

/// A row in state 0A (listen) with this address or any, and this port.
fn listens(table: &str, address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { return false };
    let number = u32::from_ne_bytes(address.ip().octets());
    let port = address.port();
    let wanted = [format!("{number:08X}:{port:04X}"), format!("00000000:{port:04X}")];
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        fields.nth(1) == Some("0A") && wanted.iter().any(|wanted| wanted == local)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_read_from_the_kernels_table() {
        let number = u32::from_ne_bytes([10, 77, 0, 10]);
        let row = |state: &str| format!("  0: {number:08X}:1F90 00000000:0000 {state} 00000000:00000000");
        let address = "10.77.0.10:8080".parse().unwrap();
        assert!(listens(&row("0A"), address));
        assert!(!listens(&row("01"), address), "an established connection is no listener");
        assert!(!listens(&row("0A"), "10.77.0.10:8081".parse().unwrap()));
        assert!(listens("  0: 00000000:1F90 00000000:0000 0A", address), "any address");
    }
}
