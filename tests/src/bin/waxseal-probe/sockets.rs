//! The sockets that the probe holds, and what it does with them in the foreground.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use waxseal_tests::probe::{Door, Handle, Listen, Protocol, Reply};

/// What an echo service has counted.
#[derive(Default)]
struct Seen {
    count: AtomicU64,
    bytes: AtomicU64,
}

/// All sockets by number.
#[derive(Default)]
pub(crate) struct Sockets {
    open: BTreeMap<Handle, (Arc<Socket>, Protocol)>,
    seen: BTreeMap<Handle, Arc<Seen>>,
    last: Handle,
}

/// The answer for an error.
pub(crate) fn failed(error: &io::Error) -> Reply {
    Reply { errno: Some(errno_name(error)), ..Reply::default() }
}

/// The symbolic name of an error; `TIMEOUT` for a patience of ours that ended.
pub(crate) fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => "TIMEOUT".into(),
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None if error.kind() == io::ErrorKind::TimedOut => "TIMEOUT".into(),
        None => error.to_string(),
    }
}

/// A new socket for an address.
pub(crate) fn new_socket(protocol: Protocol, v6: bool, mptcp: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, mptcp.then_some(socket2::Protocol::MPTCP)),
        Protocol::Udp => (Type::DGRAM, None),
    };
    Socket::new(domain, kind, number)
}

/// An IPv4 address in the form that an IPv6 socket takes.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

impl Sockets {
    fn keep(&mut self, socket: Socket, protocol: Protocol) -> Handle {
        self.last += 1;
        self.open.insert(self.last, (Arc::new(socket), protocol));
        self.last
    }

    fn find(&self, handle: Handle) -> io::Result<(&Arc<Socket>, Protocol)> {
        let found = self.open.get(&handle).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        Ok((&found.0, found.1))
    }

    pub(crate) fn listen(&mut self, listen: Listen) -> io::Result<Reply> {
        let Listen { protocol, address, only_v6, reuse_port, peek, echo } = listen;
        let socket = new_socket(protocol, address.is_ipv6(), false)?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        if protocol == Protocol::Tcp {
            socket.set_reuse_address(true)?;
        }
        socket.set_reuse_port(reuse_port)?;
        socket.bind(&address.into())?;
        if protocol == Protocol::Tcp {
            if peek {
                set_number(&socket, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1)?;
                set_number(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 64)?;
            }
            socket.listen(4096)?;
        }
        let address = socket.local_addr()?.as_socket();
        let handle = self.keep(socket, protocol);
        if echo {
            let seen = Arc::<Seen>::default();
            self.seen.insert(handle, Arc::clone(&seen));
            let socket = Arc::clone(self.find(handle)?.0);
            thread::spawn(move || match protocol {
                Protocol::Tcp => echo_streams(&socket, &seen),
                Protocol::Udp => echo_datagrams(&socket, &seen),
            });
        }
        Ok(Reply { handle: Some(handle), address, ..Reply::default() })
    }

    pub(crate) fn accept(&mut self, handle: Handle, patience: Duration) -> io::Result<Reply> {
        let socket = Arc::clone(self.find(handle)?.0);
        socket.set_read_timeout(Some(patience))?;
        let (accepted, peer) = socket.accept()?;
        let handle = self.keep(accepted, Protocol::Tcp);
        Ok(Reply { handle: Some(handle), address: peer.as_socket(), ..Reply::default() })
    }

    pub(crate) fn seen(&self, handle: Handle) -> io::Result<Reply> {
        let seen = self.seen.get(&handle).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let count = seen.count.load(Ordering::Acquire);
        Ok(Reply { count, bytes: seen.bytes.load(Ordering::Acquire), ..Reply::default() })
    }

    pub(crate) fn socket(&mut self, protocol: Protocol, like: SocketAddr) -> io::Result<Reply> {
        let handle = self.keep(new_socket(protocol, like.is_ipv6(), false)?, protocol);
        Ok(Reply { handle: Some(handle), ..Reply::default() })
    }

    pub(crate) fn connect_socket(
        &self,
        handle: Handle,
        to: SocketAddr,
        patience: Duration,
    ) -> io::Result<Reply> {
        let (socket, protocol) = self.find(handle)?;
        Ok(timed(|| join(socket, protocol, to, patience)))
    }

    pub(crate) fn connect(
        &mut self,
        protocol: Protocol,
        door: Door,
        from: Option<SocketAddr>,
        to: SocketAddr,
        v6_socket: bool,
        patience: Duration,
    ) -> io::Result<Reply> {
        let to = if v6_socket { mapped(to) } else { to };
        let socket = new_socket(protocol, to.is_ipv6(), door == Door::Mptcp)?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        let mut reply = timed(|| match door {
            Door::Connect | Door::Mptcp => join(&socket, protocol, to, patience),
            Door::FastOpen => fast_open(&socket, to, patience),
            Door::Uring | Door::UringAsync | Door::UringPoll => crate::raw::uring_connect(&socket, to, door),
        });
        if reply.errno.is_none() {
            reply.address = socket.local_addr()?.as_socket();
            reply.handle = Some(self.keep(socket, protocol));
        }
        Ok(reply)
    }

    pub(crate) fn disconnect(&self, handle: Handle) -> io::Result<Reply> {
        crate::raw::disconnect(self.find(handle)?.0)?;
        Ok(Reply::default())
    }

    pub(crate) fn bind(&self, handle: Handle, address: SocketAddr) -> io::Result<Reply> {
        self.find(handle)?.0.bind(&address.into())?;
        Ok(Reply::default())
    }

    pub(crate) fn send(&self, handle: Handle, to: Option<SocketAddr>, data: &[u8]) -> io::Result<Reply> {
        let (socket, _) = self.find(handle)?;
        Ok(timed(|| match to {
            Some(to) => socket.send_to(data, &to.into()).map(drop),
            None => socket.send_with_flags(data, libc::MSG_NOSIGNAL).map(drop),
        }))
    }

    pub(crate) fn receive(&self, handle: Handle, patience: Duration) -> io::Result<Reply> {
        let (socket, _) = self.find(handle)?;
        let data = read_some(socket, patience)?;
        Ok(Reply { data, ..Reply::default() })
    }

    pub(crate) fn ping(&self, handle: Handle, patience: Duration) -> io::Result<Reply> {
        let (socket, _) = self.find(handle)?;
        Ok(timed(|| ping(socket, patience)))
    }

    pub(crate) fn close(&mut self, handle: Handle) -> io::Result<Reply> {
        let (socket, _) =
            self.open.remove(&handle).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        if self.seen.remove(&handle).is_some() {
            // Wakes the echo service, which holds the socket too. A datagram socket says ENOTCONN and wakes all the same.
            let _ = socket.shutdown(Shutdown::Both);
        }
        Ok(Reply::default())
    }

    pub(crate) fn give(&self, handle: Handle, path: &Path) -> io::Result<Reply> {
        let (socket, _) = self.find(handle)?;
        let stream = UnixStream::connect(path)?;
        let descriptors = [socket.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(b"x")], &message, MsgFlags::empty(), None)?;
        Ok(Reply::default())
    }

    pub(crate) fn take(&mut self, path: &Path) -> io::Result<Reply> {
        let (stream, _) = UnixListener::bind(path)?.accept()?;
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([i32; 1]);
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let received = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
            _ => None,
        });
        let descriptor = received.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADMSG))?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let socket = Socket::from(descriptor);
        let protocol = if socket.r#type()? == Type::DGRAM { Protocol::Udp } else { Protocol::Tcp };
        let handle = self.keep(socket, protocol);
        Ok(Reply { handle: Some(handle), ..Reply::default() })
    }

    pub(crate) fn saved_syn(&self, handle: Handle) -> io::Result<Reply> {
        let data = crate::raw::saved_syn(self.find(handle)?.0)?;
        Ok(Reply { data, ..Reply::default() })
    }

    pub(crate) fn set_option(&self, handle: Handle, level: i32, name: i32, data: &[u8]) -> io::Result<Reply> {
        crate::raw::set_bytes(self.find(handle)?.0, level, name, data)?;
        Ok(Reply::default())
    }

    pub(crate) fn ip_options(&self, handle: Handle, data: &[u8]) -> io::Result<Reply> {
        crate::raw::set_bytes(self.find(handle)?.0, libc::IPPROTO_IP, libc::IP_OPTIONS, data)?;
        Ok(Reply::default())
    }
}

fn set_number(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    crate::raw::set_bytes(socket, level, name, &value.to_ne_bytes())
}

/// Does it and says how long it took.
fn timed(act: impl FnOnce() -> io::Result<()>) -> Reply {
    let start = Instant::now();
    let result = act();
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    match result {
        Ok(()) => Reply { micros, ..Reply::default() },
        Err(error) => Reply { micros, ..failed(&error) },
    }
}

/// Connects with patience.
pub(crate) fn join(
    socket: &Socket,
    protocol: Protocol,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => socket.connect_timeout(&to.into(), patience),
        Protocol::Udp => socket.connect(&to.into()),
    }
}

fn fast_open(socket: &Socket, to: SocketAddr, patience: Duration) -> io::Result<()> {
    socket.set_write_timeout(Some(patience))?;
    // Interrupted, the connection is being made all the same: the second call waits for it.
    let sent =
        socket.send_to_with_flags(b"early", &SockAddr::from(to), libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL);
    sent.or_else(|error| match error.kind() {
        io::ErrorKind::Interrupted => patiently(|| socket.send_with_flags(b"early", libc::MSG_NOSIGNAL)),
        _ => Err(error),
    })?;
    // The call returns before the peer has answered when a cookie is at hand: the echo is the answer.
    let heard = read_some(socket, patience)?;
    if heard.starts_with(b"early") { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ECONNRESET)) }
}

/// Calls again when interrupted: an io_uring that was used before may still have work for this thread.
fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn read_some(socket: &Socket, patience: Duration) -> io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(patience))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let (length, _) = patiently(|| socket.recv_from(&mut buffer))?;
    // SAFETY: the kernel has filled the first `length` bytes.
    Ok(buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect())
}

/// Sends 16 bytes and waits for them to come back.
pub(crate) fn ping(socket: &Socket, patience: Duration) -> io::Result<()> {
    let sent = *b"sixteen of bytes";
    socket.send_with_flags(&sent, libc::MSG_NOSIGNAL)?;
    let mut heard = Vec::new();
    while heard.len() < sent.len() {
        let more = read_some(socket, patience)?;
        if more.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
        }
        heard.extend(more);
    }
    Ok(())
}

fn echo_streams(socket: &Socket, seen: &Arc<Seen>) {
    loop {
        match socket.accept() {
            Ok((accepted, _)) => {
                seen.count.fetch_add(1, Ordering::AcqRel);
                let seen = Arc::clone(seen);
                thread::spawn(move || echo_stream(&TcpStream::from(OwnedFd::from(accepted)), &seen));
            }
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
            Err(_) => return,
        }
    }
}

fn echo_stream(mut stream: &TcpStream, seen: &Seen) {
    let mut buffer = [0; 4096];
    while let Ok(length) = stream.read(&mut buffer) {
        seen.bytes.fetch_add(length as u64, Ordering::AcqRel);
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn echo_datagrams(socket: &Socket, seen: &Seen) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        if length == 0 && peer.as_socket().is_none() {
            return;
        }
        seen.count.fetch_add(1, Ordering::AcqRel);
        seen.bytes.fetch_add(length as u64, Ordering::AcqRel);
        // SAFETY: the kernel has filled the first `length` bytes.
        let data: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        let _ = socket.send_to(&data, &peer);
    }
}
