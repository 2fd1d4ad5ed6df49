//! What the standard library has no word for: one system call a function.

use std::ffi::CString;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use waxseal_tests::packet;
use waxseal_tests::probe::{Door, Reply, Segment};

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets a socket option to some bytes.
pub(crate) fn set_bytes(socket: &Socket, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe one live slice, which the call only reads.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) })
}

/// Reads the headers of the SYN that opened this connection.
pub(crate) fn saved_syn(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; 256];
    let mut length: libc::socklen_t = 256;
    let option = bytes.as_mut_ptr().cast();
    // SAFETY: `option` has room for `length` bytes, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_SAVED_SYN, option, &raw mut length)
    };
    done(result)?;
    bytes.truncate(length as usize);
    Ok(bytes)
}

/// `connect(AF_UNSPEC)`.
pub(crate) fn disconnect(socket: &Socket) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address lives on this stack frame and has the length that is said.
    done(unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) })
}

/// Connects through an io_uring.
pub(crate) fn uring_connect(socket: &Socket, to: SocketAddr, door: Door) -> io::Result<()> {
    let mut ring = match door {
        Door::UringPoll => IoUring::builder().setup_sqpoll(50).build(4)?,
        _ => IoUring::new(4)?,
    };
    let address = SockAddr::from(to);
    let flags = if door == Door::UringAsync { Flags::ASYNC } else { Flags::empty() };
    let entry = opcode::Connect::new(types::Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len());
    let entry = entry.build().flags(flags);
    // SAFETY: socket and address outlive the wait below, which does not end before the kernel has completed the entry.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))?.result();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Sends finished IPv4 packets, then collects the TCP heads addressed to a port.
pub(crate) fn packets(packets: &[Vec<u8>], port: u16, patience: Duration) -> io::Result<Reply> {
    let sender = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let ear = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    let mut errors = std::collections::BTreeMap::new();
    for packet in packets {
        let destination: [u8; 4] =
            packet.get(16..20).and_then(|bytes| bytes.try_into().ok()).unwrap_or([127, 0, 0, 1]);
        if let Err(error) = sender.send_to(packet, &SocketAddr::from((destination, 0)).into()) {
            *errors.entry(crate::sockets::errno_name(&error)).or_insert(0) += 1;
        }
    }
    let segments = collect(&ear, 0, port, patience)?;
    Ok(Reply { count: packets.len() as u64, errors, segments, ..Reply::default() })
}

/// Sends finished frames past every cgroup hook, then collects the TCP heads addressed to a port.
pub(crate) fn frames(
    interface: &str,
    frames: &[Vec<u8>],
    port: u16,
    patience: Duration,
) -> io::Result<Reply> {
    let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(everything)))?;
    bind_interface(&socket, interface)?;
    for (index, frame) in frames.iter().enumerate() {
        socket.send(frame)?;
        if index % 64 == 63 {
            // The other end has one queue and no way to say that it is full.
            thread::sleep(Duration::from_millis(1));
        }
    }
    let segments = collect(&socket, 14, port, patience)?;
    Ok(Reply { count: frames.len() as u64, segments, ..Reply::default() })
}

/// Sends bare ACKs whose numbers are drawn at random: each a guess at a SYN cookie.
pub(crate) fn guess_cookies(
    interface: &str,
    to: [u8; 6],
    from: [u8; 6],
    source: SocketAddrV4,
    destination: SocketAddrV4,
    count: u32,
) -> io::Result<Reply> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    bind_interface(&socket, interface)?;
    // A multiplicative generator (Lehmer): the test wants spread, not secrecy.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for index in 0..count {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let from_port = 20_000 + (index % 40_000) as u16;
        let guess = packet::Segment {
            flags: 16,
            sequence: (state >> 32) as u32,
            acknowledgement: state as u32,
            ..packet::Segment::syn(SocketAddrV4::new(*source.ip(), from_port), destination)
        };
        // A full queue loses a guess; there are enough.
        let _ = socket.send(&packet::frame(to, from, &guess.packet()));
    }
    Ok(Reply { count: u64::from(count), ..Reply::default() })
}

fn bind_interface(socket: &Socket, interface: &str) -> io::Result<()> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a link-layer address is plain numbers, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives on this stack frame and has the length that is said.
    done(unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) })
}

/// Reads packets until the patience ends and keeps the TCP heads for `port`. The IP head starts at `skip`.
fn collect(socket: &Socket, skip: usize, port: u16, patience: Duration) -> io::Result<Vec<Segment>> {
    let deadline = Instant::now() + patience;
    let mut segments = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(segments);
        }
        socket.set_read_timeout(Some(left))?;
        let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
        // SAFETY: the kernel has filled the first `length` bytes.
        let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        segments.extend(
            bytes
                .get(skip..)
                .and_then(segment)
                .filter(|segment| port == 0 || segment.destination_port == port),
        );
    }
}

/// The TCP head of an IPv4 packet without fragments.
fn segment(packet: &[u8]) -> Option<Segment> {
    if packet.first()? >> 4 != 4 || *packet.get(9)? != 6 {
        return None;
    }
    let tcp = packet.get(usize::from(packet[0] & 15) * 4..)?;
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    Some(Segment {
        source_port: (word(0)? >> 16) as u16,
        destination_port: word(0)? as u16,
        sequence: word(4)?,
        acknowledgement: word(8)?,
        flags: *tcp.get(13)?,
    })
}
