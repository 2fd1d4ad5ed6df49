//! A workload that does what it is told: one JSON request a line on stdin, one JSON answer a line on stdout.
//!
//! `waxseal-probe [--cgroup DIR] [--netns FILE] [--uid NUMBER]` enters those places before it opens its first socket.

mod background;
mod raw;
mod sockets;

use std::fs::{self, File};
use std::io::{self, BufRead as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use waxseal_tests::probe::{Reply, Request};

use crate::background::Background;
use crate::sockets::Sockets;

fn main() -> Result<()> {
    enter_places()?;
    let mut sockets = Sockets::default();
    let mut background = Background::default();
    say(&Reply::default())?;
    for line in io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?).context("a request")?;
        let reply =
            answer(&mut sockets, &mut background, request).unwrap_or_else(|error| sockets::failed(&error));
        say(&reply)?;
    }
    Ok(())
}

fn enter_places() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} wants a value"))?;
        match option.as_str() {
            "--cgroup" => {
                fs::write(format!("{value}/cgroup.procs"), "0").with_context(|| format!("enter {value}"))?;
            }
            "--netns" => setns(File::open(&value)?, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter {value}"))?,
            "--uid" => nix::unistd::setuid(nix::unistd::Uid::from_raw(value.parse()?))?,
            _ => bail!("unknown option {option}"),
        }
    }
    Ok(())
}

fn say(reply: &Reply) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, reply)?;
    stdout.write_all(b"\n")?;
    Ok(stdout.flush()?)
}

fn answer(sockets: &mut Sockets, background: &mut Background, request: Request) -> io::Result<Reply> {
    let wait = Duration::from_millis;
    match request {
        Request::Listen(listen) => sockets.listen(listen),
        Request::Accept { handle, milliseconds } => sockets.accept(handle, wait(milliseconds)),
        Request::Seen { handle } => sockets.seen(handle),
        Request::Socket { protocol, like } => sockets.socket(protocol, like),
        Request::ConnectSocket { handle, address, milliseconds } => {
            sockets.connect_socket(handle, address, wait(milliseconds))
        }
        Request::Connect { protocol, door, from, address, v6_socket, milliseconds } => {
            sockets.connect(protocol, door, from, address, v6_socket, wait(milliseconds))
        }
        Request::Disconnect { handle } => sockets.disconnect(handle),
        Request::Bind { handle, address } => sockets.bind(handle, address),
        Request::Send { handle, data } => sockets.send(handle, None, &data),
        Request::SendTo { handle, address, data } => sockets.send(handle, Some(address), &data),
        Request::Receive { handle, milliseconds } => sockets.receive(handle, wait(milliseconds)),
        Request::Ping { handle, milliseconds } => sockets.ping(handle, wait(milliseconds)),
        Request::Close { handle } => sockets.close(handle),
        Request::Give { handle, path } => sockets.give(handle, &path),
        Request::Take { path } => sockets.take(&path),
        Request::Move { cgroup } => fs::write(cgroup.join("cgroup.procs"), "0").map(|()| Reply::default()),
        Request::Rename { name } => rename(&name),
        Request::SavedSyn { handle } => sockets.saved_syn(handle),
        Request::IpOptions { handle, data } => sockets.ip_options(handle, &data),
        Request::SetOption { handle, level, name, data } => sockets.set_option(handle, level, name, &data),
        Request::RawPackets { packets, listen_port, milliseconds } => {
            raw::packets(&packets, listen_port, wait(milliseconds))
        }
        Request::Frames { interface, frames, listen_port, milliseconds } => {
            raw::frames(&interface, &frames, listen_port, wait(milliseconds))
        }
        Request::GuessCookies { interface, to, from, source, destination, count } => {
            raw::guess_cookies(&interface, to, from, source, destination, count)
        }
        Request::Hammer { targets, milliseconds } => Ok(background.hammer(targets, wait(milliseconds))),
        Request::Dial { targets, per_second } => Ok(background.dial(targets, per_second)),
        Request::Hold { targets, every_milliseconds } => background.hold(targets, wait(every_milliseconds)),
        Request::Stop { handle } => background.stop(handle),
        Request::Progress { handle } => background.progress(handle),
    }
}

fn rename(name: &str) -> io::Result<Reply> {
    // The raw file takes any bytes, newlines included.
    fs::write("/proc/self/comm", name)?;
    Ok(Reply::default())
}
