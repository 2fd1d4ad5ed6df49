//! The end that answers. Its threads choose their CPU themselves: what is opened and answered shares one CPU with the
//! client, what is swallowed has its own.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{ECHO, GATE, OPEN, REQUEST, SINK, Swallowed, now, pin};

/// How many connections are accepted at once.
const ACCEPTORS: usize = 16;
/// How long a sink believes in a silent stream.
const SILENCE: Duration = Duration::from_secs(20);

/// Everything at the usual ports. Says a line when all of it listens, and one for each stream that was swallowed.
pub(super) fn serve() -> Result<()> {
    let open = TcpListener::bind(("0.0.0.0", OPEN))?;
    let gate = TcpListener::bind(("0.0.0.0", GATE))?;
    let echo = TcpListener::bind(("0.0.0.0", ECHO))?;
    let sink = TcpListener::bind(("0.0.0.0", SINK))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", ECHO))?;
    println!("ready");
    pin(0)?;
    thread::scope(|scope| {
        for _ in 0..ACCEPTORS {
            scope.spawn(|| say_a_byte(&open));
        }
        scope.spawn(|| say_a_byte(&gate));
        scope.spawn(|| answer_datagrams(&datagrams));
        scope.spawn(|| for_each(&echo, answer));
        scope.spawn(|| {
            let _ = pin(1);
            let opened = Instant::now();
            for_each(&sink, move |stream| swallow(stream, opened));
        });
    });
    Ok(())
}

/// Says a byte to whoever comes to one of these ports.
pub(super) fn accept(ports: &[&str]) -> Result<()> {
    let listeners: Vec<TcpListener> =
        ports.iter().map(|port| Ok(TcpListener::bind(("0.0.0.0", port.parse()?))?)).collect::<Result<_>>()?;
    println!("ready");
    pin(1)?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| say_a_byte(listener));
        }
    });
    Ok(())
}

fn say_a_byte(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let _ = stream.write_all(&[1]);
    }
}

fn for_each(listener: &TcpListener, work: impl Fn(TcpStream) + Copy + Send + 'static) {
    while let Ok((stream, _)) = listener.accept() {
        thread::spawn(move || work(stream));
    }
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut request = [0; REQUEST];
    while stream.read_exact(&mut request).is_ok() && stream.write_all(&request).is_ok() {}
}

fn answer_datagrams(socket: &UdpSocket) {
    let mut request = [0; REQUEST];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut request) {
            let _ = socket.send_to(&request[..length], from);
        }
    }
}

fn swallow(mut stream: TcpStream, opened: Instant) {
    let _ = stream.set_read_timeout(Some(SILENCE));
    let mut buffer = vec![0; 256 * 1024];
    let mut swallowed = Swallowed { bytes: 0, first: 0.0, last: 0.0, last_seen: 0.0 };
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let at = opened.elapsed().as_secs_f64();
        if swallowed.bytes == 0 {
            swallowed.first = at;
        }
        swallowed.bytes += length as u64;
        swallowed.last = at;
        swallowed.last_seen = now();
    }
    println!("{}", serde_json::to_string(&swallowed).unwrap_or_default());
}
