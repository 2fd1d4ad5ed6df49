//! The two ends of the load. The program starts them itself, each in its cgroup and network namespace.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use waxseal_tests::cgroup::Cgroup;
use waxseal_tests::netns::Netns;

use crate::PORT;

pub(crate) fn start_end(role: &str, cgroup: &Cgroup, netns: &Netns, cpu: usize, more: &[&str]) -> Child {
    Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["end", role, &cpu.to_string()])
        .args([cgroup.path(), &netns.path()])
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .expect("an end of the load starts")
}

/// The first number that an end says.
pub(crate) fn wait_for_line(child: &mut Child) -> f64 {
    let line = line_of(child);
    line.parse().unwrap_or_else(|error| panic!("the end of the load says `{line}`: {error}"))
}

/// The first line that an end says.
pub(crate) fn line_of(child: &mut Child) -> String {
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut reader = BufReader::with_capacity(1, stdout);
    let mut line = String::new();
    reader.read_line(&mut line).expect("the end of the load speaks");
    child.stdout = Some(reader.into_inner());
    line.trim().to_owned()
}

pub(crate) fn finish<const N: usize>(children: [Child; N]) {
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// One end of the load: `ROLE CPU CGROUP NETNS [ADDRESS SECONDS]`, or `cold CPU CGROUP NETNS ADDRESS:PORT ...`.
pub(crate) fn end(arguments: &[String]) -> Result<()> {
    let [role, cpu, cgroup, netns, more @ ..] = arguments else {
        bail!("ROLE CPU CGROUP NETNS [ADDRESS SECONDS]")
    };
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0")?;
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    let mut cpus = CpuSet::new();
    cpus.set(cpu.parse()?)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let peer = || -> Result<(SocketAddr, Duration)> {
        let [address, seconds] = more else { bail!("ADDRESS SECONDS") };
        let address: IpAddr = address.parse()?;
        Ok((SocketAddr::new(address, PORT), Duration::from_secs_f64(seconds.parse()?)))
    };
    match role.as_str() {
        "accept" => accept_forever(more),
        "cold" => connect_to_each(more),
        "connect" => peer().and_then(|(to, time)| connect_for(to, time)),
        "sink" => sink(),
        "watch" => peer().and_then(|(to, _)| watch(to)),
        "source" => peer().and_then(|(to, time)| source(to, time)),
        _ => bail!("unknown end {role}"),
    }
}

/// Serves at the usual port, or at each of those given.
fn accept_forever(ports: &[String]) -> Result<()> {
    let mut listeners = Vec::new();
    for port in ports {
        listeners.push(TcpListener::bind(("0.0.0.0", port.parse()?))?);
    }
    if listeners.is_empty() {
        listeners.push(TcpListener::bind(("0.0.0.0", PORT))?);
    }
    println!("0");
    thread::scope(|scope| {
        let threads: Vec<_> = listeners
            .iter()
            .map(|listener| {
                scope.spawn(move || {
                    loop {
                        if listener.accept().is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            let _ = thread.join();
        }
    });
    Ok(())
}

/// Connects once to each address, and says how long each took, in microseconds.
fn connect_to_each(addresses: &[String]) -> Result<()> {
    let mut times = Vec::new();
    for address in addresses {
        let to: SocketAddr = address.parse()?;
        let start = Instant::now();
        connect_once(to)?;
        times.push(start.elapsed().as_micros().to_string());
    }
    println!("{}", times.join(" "));
    Ok(())
}

fn connect_for(to: SocketAddr, time: Duration) -> Result<()> {
    // The first tenth warms up.
    let warm = Instant::now();
    while warm.elapsed() < time / 10 {
        connect_once(to)?;
    }
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < time {
        for _ in 0..16 {
            connect_once(to)?;
        }
        count += 16;
    }
    println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

/// Waits until the other end has accepted and closed: on one CPU the queue of the listener would soon be full otherwise.
fn connect_once(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let end = stream.read(&mut [0])?;
    anyhow::ensure!(end == 0, "the other end said something");
    Ok(())
}

/// Says `open` or `shut` and when, each time that this changes.
fn watch(to: SocketAddr) -> Result<()> {
    let mut before = None;
    loop {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        // Its end leaves nothing behind that would use up the ports.
        socket.set_linger(Some(Duration::ZERO))?;
        let open = match socket.connect(&to.into()) {
            Ok(()) => true,
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied) =>
            {
                false
            }
            Err(error) => return Err(error.into()),
        };
        if before != Some(open) {
            println!("{} {:.6}", if open { "open" } else { "shut" }, crate::policies::now());
            before = Some(open);
        }
        thread::sleep(Duration::from_micros(500));
    }
}

fn sink() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("0");
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0u64;
    let start = Instant::now();
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        bytes += length as u64;
    }
    #[expect(clippy::cast_precision_loss, reason = "a measurement has no fifteen digits")]
    let rate = bytes as f64 / start.elapsed().as_secs_f64();
    println!("{rate}");
    Ok(())
}

fn source(to: SocketAddr, time: Duration) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    let buffer = vec![0x5a; 128 * 1024];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    drop(stream);
    // The sink says the result; this end stays until it is ended.
    thread::sleep(Duration::from_hours(1));
    Ok(())
}
