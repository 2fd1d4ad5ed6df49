//! Lists and ends sockets of one network namespace through sock_diag(7).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use waxseal_common::address::Address;
use waxseal_common::ids::{CgroupId, protocol};
use waxseal_common::state::Tuple;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// INET_DIAG_CGROUP_ID, since Linux 5.8.
const ATTRIBUTE_CGROUP: u16 = 21;

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: Id,
}

/// `struct inet_diag_sockid`. Ports in network order.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Id {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: Id,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its own end as source.
    pub tuple: Tuple,
    /// Its cookie.
    pub cookie: u64,
    /// Where it was created; 0 on kernels that do not say.
    pub cgroup: CgroupId,
    /// TCP state: 1 established, 10 listening.
    pub state: u8,
}

/// TCP states from established to last acknowledgement, without those that belong to no socket any more.
pub const CONNECTED: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// The listening state.
pub const LISTENING: u32 = 1 << 10;

/// A sock_diag socket. Belongs to the namespace in which it was opened.
#[derive(Debug)]
pub struct Diag(OwnedFd);

impl Diag {
    /// Opens one in the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            Some(SockProtocol::NetlinkSockDiag),
        )?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
        Ok(Self(fd))
    }

    /// Every TCP socket in one of the states given (a bit mask), both families.
    pub fn sockets(&self, states: u32) -> io::Result<Vec<Socket>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            self.send(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, (family, protocol::TCP), states, Id::default())?;
            self.receive(|message| {
                if let Some(socket) = read(message) {
                    found.push(socket);
                }
            })?;
        }
        Ok(found)
    }

    /// Ends the TCP socket with this cookie and these ends, its own end as source. Its owner gets ECONNABORTED, the other
    /// end a reset. `false` when there is no such socket any more.
    pub fn destroy(&self, tuple: &Tuple, cookie: u64) -> io::Result<bool> {
        let families: &[u8] = if tuple.source.is_v4() && tuple.destination.is_v4() {
            &[AF_INET, AF_INET6]
        } else {
            &[AF_INET6]
        };
        for family in families {
            let id = Id {
                source_port: tuple.source_port.to_be_bytes(),
                destination_port: tuple.destination_port.to_be_bytes(),
                source: wire(tuple.source, *family),
                destination: wire(tuple.destination, *family),
                interface: 0,
                cookie: [cookie as u32, (cookie >> 32) as u32],
            };
            self.send(SOCK_DESTROY, REQUEST | ACK, (*family, protocol::TCP), u32::MAX, id)?;
            match self.receive(|_| {}) {
                Ok(()) => return Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Where the socket was created that answers at this address and port: for TCP the listener, for UDP whoever gets
    /// datagrams of strangers. The kernel chooses as it does for a packet. `None` when nobody answers.
    pub fn answering(&self, protocol: u8, address: Address, port: u16) -> io::Result<Option<CgroupId>> {
        let family = if address.is_v4() { AF_INET } else { AF_INET6 };
        let (own, nobody) = (wire(address, family), [0; 16]);
        let port = port.to_be_bytes();
        // Of UDP the kernel takes the two ends the other way round.
        let swapped = protocol == protocol::UDP;
        let id = Id {
            source_port: if swapped { [0; 2] } else { port },
            destination_port: if swapped { port } else { [0; 2] },
            source: if swapped { nobody } else { own },
            destination: if swapped { own } else { nobody },
            interface: 0,
            // Any socket.
            cookie: [u32::MAX; 2],
        };
        self.send(SOCK_DIAG_BY_FAMILY, REQUEST, (family, protocol), u32::MAX, id)?;
        let mut found = None;
        match self.receive_one(|message| found = read(message)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found.map(|socket| socket.cgroup)),
        }
    }

    fn send(
        &self,
        kind: u16,
        flags: u16,
        (family, protocol): (u8, u8),
        states: u32,
        id: Id,
    ) -> io::Result<()> {
        let request = Request {
            length: size_of::<Request>() as u32,
            kind,
            flags,
            sequence: 1,
            port: 0,
            family,
            protocol,
            extensions: 0,
            pad: 0,
            states,
            id,
        };
        sendto(self.0.as_raw_fd(), request.as_bytes(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// An answer of one message, or an error.
    fn receive_one(&self, each: impl FnOnce(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0u8; 4 * 1024];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let rest = &buffer[..length];
        let (Some(size), Some(kind)) = (number(rest, 0), rest.get(4..6)) else { return Err(malformed()) };
        let Some(body) = rest.get(16..size as usize) else { return Err(malformed()) };
        if u16::from_ne_bytes([kind[0], kind[1]]) == ERROR {
            let code = number(body, 0).ok_or_else(malformed)?.cast_signed();
            return Err(io::Error::from_raw_os_error(-code));
        }
        each(body);
        Ok(())
    }

    /// Hands every message of the answer, without its header, to `each`.
    fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let (Some(size), Some(kind)) = (number(rest, 0), rest.get(4..6)) {
                let Some(body) = rest.get(16..size as usize) else { return Err(malformed()) };
                match u16::from_ne_bytes([kind[0], kind[1]]) {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = number(body, 0).ok_or_else(malformed)?.cast_signed();
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(body),
                }
                rest = rest.get((size as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "sock_diag answered with a malformed message")
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

fn read(body: &[u8]) -> Option<Socket> {
    let (message, mut attributes) = Message::read_from_prefix(body).ok()?;
    let mut cgroup = CgroupId(0);
    while let Some(head) = attributes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        if u16::from_ne_bytes([head[2], head[3]]) == ATTRIBUTE_CGROUP {
            let value = attributes.get(4..12)?;
            cgroup = CgroupId(u64::from_ne_bytes(value.try_into().ok()?));
        }
        if length < 4 {
            break;
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let Id { source_port, destination_port, source, destination, cookie, .. } = message.id;
    Some(Socket {
        tuple: Tuple {
            source: address(source, message.family),
            destination: address(destination, message.family),
            source_port: u16::from_be_bytes(source_port),
            destination_port: u16::from_be_bytes(destination_port),
            ..Tuple::default()
        },
        cookie: u64::from(cookie[0]) | u64::from(cookie[1]) << 32,
        cgroup,
        state: message.state,
    })
}

fn address(bytes: [u8; 16], family: u8) -> Address {
    if family == AF_INET {
        Address::from_v4([bytes[0], bytes[1], bytes[2], bytes[3]])
    } else {
        Address(bytes)
    }
}

fn wire(address: Address, family: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    if family == AF_INET {
        bytes[..4].copy_from_slice(&address.0[12..]);
        bytes
    } else {
        address.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn whoever_answers_at_an_address_is_found_as_the_kernel_would() {
        let diag = Diag::open().unwrap();
        let [any, own, v6, udp] = [
            TcpListener::bind("0.0.0.0:0").unwrap().into(),
            TcpListener::bind("127.0.0.1:0").unwrap().into(),
            TcpListener::bind("[::]:0").unwrap().into(),
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        ]
        .map(|socket: OwnedFd| socket);
        let port = |socket: &OwnedFd| {
            let name = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd());
            let name = name.unwrap();
            name.as_sockaddr_in()
                .map_or_else(|| name.as_sockaddr_in6().unwrap().port(), nix::sys::socket::SockaddrIn::port)
        };
        let found = |protocol, address: &str, port| {
            let address = address.parse::<IpAddr>().unwrap();
            diag.answering(protocol, address.into(), port).unwrap()
        };
        let this = found(protocol::TCP, "127.0.0.1", port(&any)).unwrap();
        for (protocol, address, port, there) in [
            (protocol::TCP, "127.0.0.2", port(&any), true),
            (protocol::TCP, "127.0.0.1", port(&own), true),
            (protocol::TCP, "127.0.0.2", port(&own), false),
            (protocol::TCP, "::1", port(&v6), true),
            (protocol::TCP, "127.0.0.1", port(&v6), true),
            (protocol::TCP, "::1", port(&any), false),
            (protocol::UDP, "127.0.0.1", port(&udp), true),
            (protocol::UDP, "127.0.0.3", port(&udp), false),
            (protocol::UDP, "127.0.0.1", port(&own), false),
        ] {
            let expected = there.then_some(this);
            let at = SocketAddr::new(address.parse().unwrap(), port);
            assert_eq!(found(protocol, address, port), expected, "{protocol} {at}");
        }
    }
}
