//! From the text of one value to its type.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use waxseal_common::tables::Mode;

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
    #[error("`{}` is no duration; write it like 500ms, 10s, 5m or 1h", escape(.0))]
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
    /// Not an address with a port.
    #[error("`{}` is no address with a port such as 127.0.0.1:7462, and not off", escape(.0))]
    Listen(String),
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

/// A whole number and a unit; 0 needs none.
pub fn duration(value: &str) -> Option<Duration> {
    let (number, unit) = split(value)?;
    match unit {
        "" if number == 0 => Some(Duration::ZERO),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

pub(super) fn cidr(value: &str) -> Result<Cidr, Problem> {
    Ok(value.parse()?)
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

pub(super) fn listen(value: &str) -> Result<Option<SocketAddr>, Problem> {
    if is_off(value) {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_source| Problem::Listen(value.to_owned()))
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
