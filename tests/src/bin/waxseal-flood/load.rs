//! One end of the load: datagrams to ever new addresses, each of which is a flow of its own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use waxseal_tests::netns::Netns;

/// Where the load may call; nobody is there, and what is sent falls into a hole.
pub(crate) const ALLOWED: &str = "10.98.0.0/16";
const BASE: u32 = u32::from_be_bytes([10, 98, 0, 0]);
const DENIED: u32 = u32::from_be_bytes([10, 99, 0, 0]);

/// What is sent there comes back to a namespace that nobody of this address lives in, and meets nobody.
pub(crate) fn route(netns: &Netns) {
    netns.ip(&["addr", "add", "10.97.0.1/32", "dev", "lo"]);
    netns.ip(&["route", "add", "10.98.0.0/15", "dev", "lo"]);
}

/// `ROLE COUNT RATE CGROUP NETNS`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [role, count, rate, cgroup, netns] = arguments else { bail!("ROLE COUNT RATE CGROUP NETNS") };
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0")?;
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    let (count, rate): (u64, u64) = (count.parse()?, rate.parse()?);
    let made = match role.as_str() {
        "allow" => send(count, rate, BASE, true)?,
        "deny" => send(count, rate, DENIED, false)?,
        _ => bail!("unknown end {role}"),
    };
    writeln!(std::io::stdout(), "{made}")?;
    std::io::stdout().flush()?;
    Ok(())
}

/// How many were sent. `allowed` is what should become of each.
fn send(count: u64, rate: u64, base: u32, allowed: bool) -> Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let own = socket.local_addr()?.port();
    let start = Instant::now();
    for number in 0..count {
        // 60,000 ports of each address. What goes to the own port comes back to this very socket, and is a second flow.
        let (host, port) = ((number / 60_000) as u32, (number % 60_000) as u16 + 1024);
        let port = if port == own { 1000 } else { port };
        let sent = socket.send_to(b"x", SocketAddrV4::new(Ipv4Addr::from(base + 1 + host), port));
        ensure!(sent.is_ok() == allowed, "datagram {number}: {sent:?}");
        if rate > 0 && number % 50 == 0 {
            let due = Duration::from_nanos(number * 1_000_000_000 / rate);
            if let Some(early) = due.checked_sub(start.elapsed()).filter(|early| early.as_micros() > 200) {
                sleep(early);
            }
        }
    }
    Ok(count)
}

/// What an end says at its end.
pub(crate) fn made(mut end: Child) -> u64 {
    let mut text = String::new();
    end.stdout.take().expect("stdout is piped").read_to_string(&mut text).expect("the load speaks");
    let status = end.wait().expect("the load ends");
    assert!(status.success(), "the load: {status}");
    text.trim().parse().expect("the load says a number")
}
