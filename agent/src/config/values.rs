//! From the text of one value to its type.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use waxseal_common::tables::Mode;

use super::{AGENT_PORT, CA_PORT, Ca};
use crate::cidr::{Cidr, CidrError};
use crate::escape::escape;
use crate::spiffe::TrustDomain;

/// The longest path a unix socket can have, without the final zero.
const SOCKET_PATH_LIMIT: usize = 107;

/// What is wrong with a value.
#[derive(Debug, Error)]
pub enum Problem {
    /// One value where a list was given.
    #[error("takes one value, not a list")]
    List,
    /// Nothing between the quotes.
    #[error("is empty")]
    Empty,
    /// A name that would not be safe in a path.
    #[error("`{}` is no instance name; use 1 to 32 of a-z, 0-9 and -", escape(.0))]
    Instance(String),
    /// None of the three modes.
    #[error("`{}` is no mode; use permissive, audit or enforce", escape(.0))]
    Mode(String),
    /// A number without a unit, or a unit that does not exist.
    #[error("`{}` is no duration; write it like 500ms, 10s, 5m, 1h or 7d", escape(.0))]
    Duration(String),
    /// More than the limit.
    #[error("{value:?} is more than {limit:?}")]
    TooLong {
        /// As given.
        value: Duration,
        /// The most there may be.
        limit: Duration,
    },
    /// Not a size, too small or too large.
    #[error("`{}` is no size from 4MiB to 1024GiB, and not off", escape(.0))]
    Size(String),
    /// Not a number of the range.
    #[error("`{}` is no number from {low} to {high}", escape(value))]
    Number {
        /// As given.
        value: String,
        /// The least there may be.
        low: u32,
        /// The most there may be.
        high: u32,
    },
    /// Not a size that the kernel takes for a ring.
    #[error("`{}` is no ring size; use a power of two from 4KiB to 256MiB", escape(.0))]
    Ring(String),
    /// Not below the root of the hierarchy.
    #[error("`{}` is no cgroup directory; write it like /system.slice, and not / alone", escape(.0))]
    Cgroup(String),
    /// A name that the kernel gives no device.
    #[error("`{}` is no name of a device; the kernel takes 1 to 15 characters without space, / or :", escape(.0))]
    Device(String),
    /// Not where an agent can be.
    #[error("`{}` is no address of an agent; write it like 10.0.0.1 or 10.0.0.1:7461", escape(.0))]
    Agent(String),
    /// Neither a word nor an address nor a directory.
    #[error("`{}` is no CA; use own, HOST:PORT, or the path of a directory", escape(.0))]
    Ca(String),
    /// A name that would not fit into a SPIFFE ID.
    #[error("`{}` is no name for a node; use 1 to 63 of a-z, A-Z, 0-9, `.`, `-` and `_`", escape(.0))]
    Node(String),
    /// Not an address with a port.
    #[error("`{}` is no address to listen on; write it like 0.0.0.0:7461 or [::]:7461, or off", escape(.0))]
    Listen(String),
    /// Less than the limit.
    #[error("{value:?} is less than {limit:?}")]
    TooShort {
        /// As given.
        value: Duration,
        /// The least there may be.
        limit: Duration,
    },
    /// Not an address range.
    #[error("{0}")]
    Cidr(#[from] CidrError),
    /// Not a trust domain.
    #[error("{0}")]
    TrustDomain(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The socket's path would not fit into its address.
    #[error("the path of the socket in it would be {length} bytes long; {SOCKET_PATH_LIMIT} is the most")]
    SocketPath {
        /// Bytes it would have.
        length: usize,
    },
    /// The working directory, to which a path is relative, is gone.
    #[error("relative to a working directory that cannot be read: {0}")]
    WorkingDirectory(#[source] std::io::Error),
}

pub(super) fn text(value: &str) -> Result<String, Problem> {
    if value.is_empty() { Err(Problem::Empty) } else { Ok(value.to_owned()) }
}

pub(super) fn instance(value: &str) -> Result<String, Problem> {
    let fits = matches!(value.len(), 1..=32)
        && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits { Ok(value.to_owned()) } else { Err(Problem::Instance(value.to_owned())) }
}

/// An absolute path; a relative one counts from the working directory.
pub(super) fn path(value: &str) -> Result<PathBuf, Problem> {
    if value.is_empty() {
        return Err(Problem::Empty);
    }
    std::path::absolute(value).map_err(Problem::WorkingDirectory)
}

/// The directory of the socket.
pub(super) fn runtime(value: &str) -> Result<PathBuf, Problem> {
    let directory = path(value)?;
    let length = directory.join("agent.sock").as_os_str().len();
    if length > SOCKET_PATH_LIMIT { Err(Problem::SocketPath { length }) } else { Ok(directory) }
}

pub(super) fn trust_domain(value: &str) -> Result<TrustDomain, Problem> {
    value.parse().map_err(|error| Problem::TrustDomain(Box::new(error)))
}

pub(super) fn mode(value: &str) -> Result<Mode, Problem> {
    Mode::from_word(value).ok_or_else(|| Problem::Mode(value.to_owned()))
}

pub(super) fn grace(value: &str) -> Result<Duration, Problem> {
    const LIMIT: Duration = Duration::from_hours(1);
    let grace = duration(value).ok_or_else(|| Problem::Duration(value.to_owned()))?;
    if grace > LIMIT { Err(Problem::TooLong { value: grace, limit: LIMIT }) } else { Ok(grace) }
}

pub(super) fn ca(value: &str) -> Result<Ca, Problem> {
    let wrong = || Problem::Ca(value.to_owned());
    if value == "own" {
        return Ok(Ca::Own);
    }
    if value.starts_with(['/', '.']) {
        return path(value).map(Ca::Files);
    }
    if let Ok(address) = value.parse::<IpAddr>() {
        return Ok(Ca::Server(SocketAddr::new(address, CA_PORT).to_string()));
    }
    if value.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return Ok(Ca::Server(value.to_owned()));
    }
    let (host, port) = value.split_once(':').unwrap_or((value, "7463"));
    let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let fits = matches!(host.len(), 1..=253) && host.bytes().all(plain);
    // A bare word is more likely a slip than a host: `onw`.
    let named = value.contains(':') || host.contains('.');
    if fits && named { Ok(Ca::Server(format!("{host}:{port}"))) } else { Err(wrong()) }
}

pub(super) fn node(value: &str) -> Result<String, Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let fits = matches!(value.len(), 1..=63) && value.bytes().all(plain) && !matches!(value, "." | "..");
    if fits { Ok(value.to_owned()) } else { Err(Problem::Node(value.to_owned())) }
}

/// A node's name, or `*`.
pub(super) fn node_or_all(value: &str) -> Result<String, Problem> {
    if value == "*" { Ok(value.to_owned()) } else { node(value) }
}

/// The host's name as a node can have it.
pub(super) fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
    let name: String = name.to_string_lossy().chars().take(63).map(plain).collect();
    if matches!(name.as_str(), "" | "." | "..") { "node".to_owned() } else { name.to_ascii_lowercase() }
}

/// No longer than a reply belongs to its flow in the kernel programs.
pub(super) fn udp_idle(value: &str) -> Result<Duration, Problem> {
    between(value, Duration::from_secs(10), Duration::from_mins(2))
}

pub(super) fn leaf_lifetime(value: &str) -> Result<Duration, Problem> {
    between(value, Duration::from_mins(1), Duration::from_hours(7 * 24))
}

pub(super) fn session_lifetime(value: &str) -> Result<Duration, Problem> {
    between(value, Duration::from_secs(2), Duration::from_hours(1))
}

fn between(value: &str, least: Duration, most: Duration) -> Result<Duration, Problem> {
    let value = duration(value).ok_or_else(|| Problem::Duration(value.to_owned()))?;
    match value {
        value if value < least => Err(Problem::TooShort { value, limit: least }),
        value if value > most => Err(Problem::TooLong { value, limit: most }),
        value => Ok(value),
    }
}

/// None is to open nothing. YAML reads a bare `off` as false.
pub(super) fn listen(value: &str) -> Result<Option<SocketAddr>, Problem> {
    match value {
        value if is_off(value) => Ok(None),
        address => address.parse().map(Some).map_err(|_unreadable| Problem::Listen(value.to_owned())),
    }
}

/// A whole number and a unit; 0 needs none.
pub fn duration(value: &str) -> Option<Duration> {
    let (number, unit) = split(value)?;
    match unit {
        "" if number == 0 => Some(Duration::ZERO),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

/// `RANGE`, `RANGE=ADDRESS` or `RANGE=ADDRESS:PORT`.
pub(super) fn mesh(value: &str) -> Result<(Cidr, Option<SocketAddr>), Problem> {
    let Some((range, agent)) = value.split_once('=') else { return Ok((value.parse()?, None)) };
    let with_port = agent.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    let address = || agent.parse::<IpAddr>().ok().map(|address| (address, AGENT_PORT).into());
    let agent = with_port.or_else(address).ok_or_else(|| Problem::Agent(agent.to_owned()))?;
    Ok((range.parse()?, Some(agent)))
}

pub(super) fn cgroup(value: &str) -> Result<String, Problem> {
    let path = value.trim_end_matches('/');
    let parts = path.strip_prefix('/').unwrap_or_default().split('/');
    let plain = parts.into_iter().all(|part| !part.is_empty() && part != "." && part != "..");
    if plain { Ok(path.to_owned()) } else { Err(Problem::Cgroup(value.to_owned())) }
}

pub(super) fn connections(value: &str) -> Result<u32, Problem> {
    let (low, high) = (16, 1 << 24);
    let number = value.parse().ok().filter(|number| (low..=high).contains(number));
    number.ok_or_else(|| Problem::Number { value: value.to_owned(), low, high })
}

pub(super) fn ring(value: &str) -> Result<u32, Problem> {
    let size = bytes(value).and_then(|size| u32::try_from(size).ok());
    size.filter(|size| size.is_power_of_two() && (1 << 12..=1 << 28).contains(size))
        .ok_or_else(|| Problem::Ring(value.to_owned()))
}

/// YAML reads a plain `off` as `false`.
fn is_off(value: &str) -> bool {
    matches!(value, "off" | "false")
}

/// Less could not hold two segments.
const LEAST_HISTORY: u64 = 4 << 20;

pub(super) fn history(value: &str) -> Result<Option<u64>, Problem> {
    if is_off(value) || value == "0" {
        return Ok(None);
    }
    let fits = bytes(value).filter(|bytes| (LEAST_HISTORY..=1 << 40).contains(bytes));
    fits.map(Some).ok_or_else(|| Problem::Size(value.to_owned()))
}

pub(super) fn history_age(value: &str) -> Result<Duration, Problem> {
    let limit = Duration::from_hours(8760);
    let age = duration(value).ok_or_else(|| Problem::Duration(value.to_owned()))?;
    if age > limit {
        Err(Problem::TooLong { value: age, limit })
    } else {
        Ok(age.max(Duration::from_hours(1)))
    }
}

pub(super) fn pairs(value: &str) -> Result<usize, Problem> {
    let number = value.parse().ok().filter(|number| *number <= 1000);
    number.ok_or_else(|| Problem::Number { value: value.to_owned(), low: 0, high: 1000 })
}

fn bytes(value: &str) -> Option<u64> {
    let (number, unit) = split(value)?;
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// `10s` → (10, "s").
fn split(value: &str) -> Option<(u64, &str)> {
    let end = value.find(|character: char| !character.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

pub(super) fn device(text: &str) -> Result<String, Problem> {
    let fits = (1..=15).contains(&text.len()) && !text.contains(['/', ':']);
    let plain = text.chars().all(|c| c.is_ascii_graphic()) && text != "." && text != "..";
    if fits && plain { Ok(text.to_owned()) } else { Err(Problem::Device(text.to_owned())) }
}
