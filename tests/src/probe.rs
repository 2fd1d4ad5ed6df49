//! What a workload can be asked to do: the words between a test and `waxseal-probe`, one JSON object a line each way.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::root;

/// How a test names a socket that a probe holds.
pub type Handle = u32;

/// Transport protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Stream.
    Tcp,
    /// Datagram.
    Udp,
}

impl Protocol {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As policies write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// By which door a connection is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// `connect()`.
    Connect,
    /// `sendto(MSG_FASTOPEN)` with some data.
    FastOpen,
    /// `IORING_OP_CONNECT`.
    Uring,
    /// The same from a worker of the kernel (`IOSQE_ASYNC`).
    UringAsync,
    /// The same from the kernel's polling thread.
    UringPoll,
    /// `connect()` on an MPTCP socket.
    Mptcp,
}

impl Door {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::FastOpen, Self::Uring, Self::UringAsync, Self::UringPoll, Self::Mptcp];
}

/// What to listen on, and how.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a socket option of its own")]
pub struct Listen {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Port 0 draws one.
    pub address: SocketAddr,
    /// `IPV6_V6ONLY`.
    pub only_v6: bool,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// `TCP_SAVE_SYN` and `TCP_FASTOPEN`.
    pub peek: bool,
    /// Accept and echo in the background; else the test accepts.
    pub echo: bool,
}

impl Listen {
    /// An echo service.
    pub const fn echo(protocol: Protocol, address: SocketAddr) -> Self {
        Self { protocol, address, only_v6: false, reuse_port: false, peek: false, echo: true }
    }
}

/// One request to a probe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Open a listener or a bound datagram socket. Answers `handle` and `address`.
    Listen(Listen),
    /// Take one connection from a listener without echo. Answers `handle` and `address` (the peer's).
    Accept { handle: Handle, milliseconds: u64 },
    /// How much an echo service has seen: `count` connections or datagrams, `bytes`.
    Seen { handle: Handle },
    /// Make a socket and do nothing with it: of the family of `like`.
    Socket { protocol: Protocol, like: SocketAddr },
    /// Connect a socket that exists.
    ConnectSocket { handle: Handle, address: SocketAddr, milliseconds: u64 },
    /// Make a socket and connect it. Answers `handle`.
    Connect {
        protocol: Protocol,
        door: Door,
        from: Option<SocketAddr>,
        address: SocketAddr,
        v6_socket: bool,
        milliseconds: u64,
    },
    /// `connect(AF_UNSPEC)`: forget the peer.
    Disconnect { handle: Handle },
    /// Bind a socket.
    Bind { handle: Handle, address: SocketAddr },
    /// Send on a connected socket.
    Send { handle: Handle, data: Vec<u8> },
    /// Send one datagram somewhere.
    SendTo { handle: Handle, address: SocketAddr, data: Vec<u8> },
    /// Wait for data. Answers `data`; empty at the end of a stream.
    Receive { handle: Handle, milliseconds: u64 },
    /// Send and wait for the same bytes.
    Ping { handle: Handle, milliseconds: u64 },
    /// Close a socket.
    Close { handle: Handle },
    /// Hand a socket to whoever listens at a path (`SCM_RIGHTS`).
    Give { handle: Handle, path: PathBuf },
    /// Listen at a path and take the socket that is handed over. Answers `handle`.
    Take { path: PathBuf },
    /// Move this process to another cgroup.
    Move { cgroup: PathBuf },
    /// Change the name of this process.
    Rename { name: String },
    /// Read the headers of the SYN that opened an accepted connection. Answers `data`.
    SavedSyn { handle: Handle },
    /// Ask for IPv4 options in every packet of a socket.
    IpOptions { handle: Handle, data: Vec<u8> },
    /// Set any option of a socket.
    SetOption { handle: Handle, level: i32, name: i32, data: Vec<u8> },
    /// Send finished IPv4 packets through a raw socket (`IP_HDRINCL`), then collect the TCP heads that come back to a port
    /// (0: to any).
    RawPackets { packets: Vec<Vec<u8>>, listen_port: u16, milliseconds: u64 },
    /// Send finished frames through `AF_PACKET`, then collect the TCP heads that come back.
    Frames { interface: String, frames: Vec<Vec<u8>>, listen_port: u16, milliseconds: u64 },
    /// Send this many bare ACKs with random acknowledgement numbers through `AF_PACKET`: guesses at SYN cookies.
    GuessCookies {
        interface: String,
        to: [u8; 6],
        from: [u8; 6],
        source: SocketAddrV4,
        destination: SocketAddrV4,
        count: u32,
    },
    /// Try forbidden things in threads until told to stop. Answers `handle`.
    Hammer { targets: Vec<Target>, milliseconds: u64 },
    /// Open connections one after the other, so many a second, each with an echo, until told to stop. Answers `handle`.
    Dial { targets: Vec<Target>, per_second: u32 },
    /// Hold connections and ping over each of them until told to stop. Answers `handle`.
    Hold { targets: Vec<Target>, every_milliseconds: u64 },
    /// What a hammer or a holder has counted; ends it.
    Stop { handle: Handle },
    /// The same without ending it.
    Progress { handle: Handle },
}

/// A destination for a hammer or a holder.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Target {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where to.
    pub address: SocketAddr,
    /// For UDP: connect first.
    pub connected: bool,
}

/// A TCP head that came back from a raw exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Sender's port.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
}

impl Segment {
    /// SYN and ACK: somebody listens and answers.
    pub const fn accepts(&self) -> bool {
        self.flags & 0x12 == 0x12
    }

    /// RST.
    pub const fn resets(&self) -> bool {
        self.flags & 4 != 0
    }
}

/// One answer. What a request does not speak of stays empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The name of the error, for example `EPERM`; `TIMEOUT` when the test's own patience ended.
    pub errno: Option<String>,
    /// How long the system call took; of a dialler the longest.
    pub micros: u64,
    /// The socket, hammer or holder that was made.
    pub handle: Option<Handle>,
    /// An address.
    pub address: Option<SocketAddr>,
    /// Attempts, connections or datagrams.
    pub count: u64,
    /// Hammer: attempts that got through. Holder: pings that failed. Dialler: connections that failed.
    pub bad: u64,
    /// Bytes seen.
    pub bytes: u64,
    /// Errors by name.
    pub errors: BTreeMap<String, u64>,
    /// Bytes read.
    pub data: Vec<u8>,
    /// TCP heads read.
    pub segments: Vec<Segment>,
}

impl Reply {
    /// Stops the test unless the call went through.
    pub fn assert_open(&self, case: &str) {
        assert_eq!(self.errno, None, "{case}: {self:?}");
    }

    /// Stops the test unless the call was refused with one of these errors, and at once: nobody waits for a timeout.
    pub fn assert_refused(&self, errors: &[&str], case: &str) {
        let errno = self.errno.as_deref().unwrap_or("success");
        assert!(errors.contains(&errno), "{case}: {errno}, expected {errors:?}");
        assert!(
            Duration::from_micros(self.micros) < Self::AT_ONCE,
            "{case}: refused only after {} us",
            self.micros
        );
    }

    /// What "at once" means on a busy machine.
    pub const AT_ONCE: Duration = Duration::from_millis(200);
}

/// A running `waxseal-probe`. Dropping it ends it.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    stdin: ChildStdin,
    replies: Receiver<String>,
}

/// How long an answer may take beyond what the request itself allows.
const PATIENCE: Duration = Duration::from_secs(20);

impl Probe {
    /// Starts a probe that enters the cgroup and the namespace before it does anything else.
    pub fn start(cgroup: Option<&Path>, netns: Option<&Path>, uid: Option<u32>) -> Self {
        let mut command = Command::new(root::program("waxseal-probe"));
        if let Some(path) = cgroup {
            command.arg("--cgroup").arg(path);
        }
        if let Some(path) = netns {
            command.arg("--netns").arg(path);
        }
        if let Some(uid) = uid {
            command.arg("--uid").arg(uid.to_string());
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("waxseal-probe starts");
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, replies) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let probe = Self { child, stdin, replies };
        let hello = probe.answer();
        assert!(hello.errno.is_none(), "waxseal-probe could not start: {hello:?}");
        probe
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks and waits for the answer.
    pub fn ask(&mut self, request: &Request) -> Reply {
        self.begin(request);
        self.answer()
    }

    /// Asks without waiting; [`Probe::answer`] must follow.
    pub fn begin(&mut self, request: &Request) {
        let mut line = serde_json::to_string(request).expect("requests are plain data");
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).expect("the probe lives");
    }

    /// Waits for the next answer.
    pub fn answer(&self) -> Reply {
        let line = self.replies.recv_timeout(PATIENCE).expect("the probe answers in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }

    /// Asks, and stops the test when the answer is an error.
    pub fn must(&mut self, request: &Request) -> Reply {
        let reply = self.ask(request);
        assert!(reply.errno.is_none(), "{request:?}: {:?}", reply.errno);
        reply
    }

    /// Opens an echo service and returns its handle and address.
    pub fn serve(&mut self, protocol: Protocol, address: &str) -> (Handle, SocketAddr) {
        self.listen(Listen::echo(protocol, parse(address)))
    }

    /// Opens a listener and returns its handle and address.
    pub fn listen(&mut self, listen: Listen) -> (Handle, SocketAddr) {
        let reply = self.must(&Request::Listen(listen));
        (handle(&reply), reply.address.expect("a listener has an address"))
    }

    /// What an echo service has counted.
    pub fn seen(&mut self, handle: Handle) -> u64 {
        self.must(&Request::Seen { handle }).count
    }

    /// Connects by `connect()` with two seconds of patience.
    pub fn connect(&mut self, protocol: Protocol, address: SocketAddr) -> Reply {
        self.connect_by(Door::Connect, protocol, address)
    }

    /// Connects by some door with two seconds of patience.
    pub fn connect_by(&mut self, door: Door, protocol: Protocol, address: SocketAddr) -> Reply {
        self.ask(&Request::Connect {
            protocol,
            door,
            from: None,
            address,
            v6_socket: false,
            milliseconds: 2000,
        })
    }

    /// Connects, sends, and waits for the echo. `None` when all went well, else the name of the first error.
    pub fn talk(&mut self, protocol: Protocol, address: SocketAddr) -> Option<String> {
        let reply = self.connect(protocol, address);
        let Some(handle) = reply.handle else { return reply.errno };
        let pong = self.ask(&Request::Ping { handle, milliseconds: 1000 });
        self.must(&Request::Close { handle });
        pong.errno
    }

    /// Sends one datagram from an unconnected socket and waits for the echo. `None` when all went well.
    pub fn shout(&mut self, address: SocketAddr) -> Option<String> {
        let socket = handle(&self.must(&Request::Socket { protocol: Protocol::Udp, like: address }));
        let sent = self.ask(&Request::SendTo { handle: socket, address, data: b"shout".to_vec() });
        let heard = match sent.errno {
            Some(errno) => Some(errno),
            None => self.ask(&Request::Receive { handle: socket, milliseconds: 300 }).errno,
        };
        self.must(&Request::Close { handle: socket });
        heard
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The handle in an answer; stops the test when there is none.
pub fn handle(reply: &Reply) -> Handle {
    reply.handle.unwrap_or_else(|| panic!("no handle in {reply:?}"))
}

/// An address from text; stops the test when it is none.
pub fn parse(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
