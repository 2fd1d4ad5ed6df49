//! The end that asks.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{REQUEST, Told, now, pin};
use crate::figures::quantile;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections one after the other, `at_once` of them beside each other. What is timed is connecting until the first byte
/// of the server: a proxy beside the client would answer at once and know nothing of the server yet.
pub(super) fn open(to: SocketAddr, time: Duration, at_once: usize) -> Result<()> {
    pin(0)?;
    let one = |_| {
        repeat(time, || {
            let start = Instant::now();
            let mut stream = TcpStream::connect(to).context("connect")?;
            stream.read_exact(&mut [0]).context("the server's byte")?;
            let took = start.elapsed();
            // Until the other end has closed: on one CPU the queue of the listener would soon be full otherwise.
            ensure!(stream.read(&mut [0])? == 0, "the other end said more than a byte");
            Ok(took)
        })
    };
    let all: Vec<Result<(Vec<f64>, f64)>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|number| scope.spawn(move || one(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a panic")))).collect()
    });
    let (mut times, mut seconds) = (Vec::new(), 0.0_f64);
    for one in all {
        let (more, took) = one?;
        times.extend(more);
        seconds = seconds.max(took);
    }
    tell(times, seconds)
}

/// Requests and answers over one connection.
pub(super) fn kept(to: SocketAddr, time: Duration) -> Result<()> {
    pin(0)?;
    let mut stream = TcpStream::connect(to).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = [7; REQUEST];
    let (times, seconds) = repeat(time, || {
        let start = Instant::now();
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        Ok(start.elapsed())
    })?;
    tell(times, seconds)
}

/// Requests and answers as datagrams.
pub(super) fn datagrams(to: SocketAddr, time: Duration) -> Result<()> {
    pin(0)?;
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = [7; REQUEST];
    let (times, seconds) = repeat(time, || {
        let start = Instant::now();
        socket.send(&bytes)?;
        socket.recv(&mut bytes)?;
        Ok(start.elapsed())
    })?;
    tell(times, seconds)
}

/// Does it until time is up. The first tenth warms up and does not count.
fn repeat(time: Duration, mut work: impl FnMut() -> Result<Duration>) -> Result<(Vec<f64>, f64)> {
    let warm = Instant::now();
    while warm.elapsed() < time / 10 {
        work()?;
    }
    let mut times = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..8 {
            times.push(work()?.as_secs_f64() * 1e6);
        }
    }
    Ok((times, start.elapsed().as_secs_f64()))
}

fn tell(mut times: Vec<f64>, seconds: f64) -> Result<()> {
    let count = times.len() as u64;
    let told = Told { count, seconds, p50: quantile(&mut times, 0.5), p99: quantile(&mut times, 0.99) };
    println!("{}", serde_json::to_string(&told)?);
    Ok(())
}

/// Sends as much as goes. The other end says how much that was.
pub(super) fn source(to: SocketAddr, time: Duration, streams: usize) -> Result<()> {
    pin(0)?;
    let one = move || -> Result<()> {
        let mut stream = TcpStream::connect(to)?;
        let buffer = vec![0x5a; 128 * 1024];
        let start = Instant::now();
        while start.elapsed() < time {
            stream.write_all(&buffer)?;
        }
        Ok(())
    };
    let threads: Vec<_> = (0..streams).map(|_| thread::spawn(one)).collect();
    for thread in threads {
        thread.join().map_err(|_panic| anyhow!("a panic"))??;
    }
    println!("sent");
    Ok(())
}

/// Connects once to each address, and says how long each took until the server's byte, in microseconds.
pub(super) fn cold(addresses: &[&str]) -> Result<()> {
    pin(0)?;
    let mut times = Vec::new();
    for address in addresses {
        let to: SocketAddr = address.parse()?;
        let start = Instant::now();
        TcpStream::connect(to)?.read_exact(&mut [0])?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    println!("{}", serde_json::to_string(&times)?);
    Ok(())
}

/// Connects all the time, and says when the answer has changed: the time of day, and whether it is let in.
pub(super) fn knock(to: SocketAddr) -> Result<()> {
    let mut before = None;
    loop {
        let open = TcpStream::connect(to).is_ok();
        if before != Some(open) {
            println!("{}", serde_json::to_string(&(now(), open))?);
            before = Some(open);
        }
        thread::sleep(Duration::from_micros(300));
    }
}

/// Opens connections and keeps them.
pub(super) fn hold(to: SocketAddr, count: usize) -> Result<()> {
    let held: Vec<TcpStream> =
        (0..count).map(|_| TcpStream::connect(to).context("connect")).collect::<Result<_>>()?;
    println!("{}", held.len());
    thread::sleep(Duration::from_hours(1));
    drop(held);
    Ok(())
}

/// Sends a little all the time, until it cannot.
pub(super) fn trickle(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    println!("open");
    while stream.write_all(&[0; 64]).is_ok() {
        thread::sleep(Duration::from_micros(200));
    }
    println!("cut");
    Ok(())
}
