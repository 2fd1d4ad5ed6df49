//! How lines for people look.

use std::net::IpAddr;
use std::time::Duration;

use anstyle::Style;

use super::words::Word;
use super::{End, Identity, Protocol, Time};

/// What a reader wants lines to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// With colours.
    pub colour: bool,
    /// How times are written.
    pub stamp: Stamp,
    /// With names; else only numbers and addresses.
    pub names: bool,
    /// With the node that tells, where several do.
    pub nodes: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { colour: false, stamp: Stamp::Clock, names: true, nodes: false }
    }
}

/// How times are written. All are UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// `12:04:31.882`.
    Clock,
    /// `2026-05-04T12:04:31.882Z`.
    Full,
    /// Seconds since 1970, with milliseconds.
    Unix,
    /// How long ago.
    Ago,
    /// Not at all.
    None,
}

impl Word for Stamp {
    const ALL: &'static [Self] = &[Self::Clock, Self::Full, Self::Unix, Self::Ago, Self::None];
    const WHAT: &'static str = "way to write times";

    fn word(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Full => "rfc3339",
            Self::Unix => "unix",
            Self::Ago => "ago",
            Self::None => "none",
        }
    }
}

impl Stamp {
    /// How wide it is.
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Clock => 12,
            Self::Full => 24,
            Self::Unix => 14,
            Self::Ago => 10,
            Self::None => 0,
        }
    }

    /// The time, `now` being the time of writing.
    pub(super) fn write(self, time: Time, now: Time) -> String {
        match self {
            Self::Clock => time.clock().to_string(),
            Self::Full => time.to_string(),
            Self::Unix => format!("{}.{:03}", time.0 / 1000, time.0 % 1000),
            Self::Ago => format!("{:>6} ago", ago(Duration::from_millis(now.0.saturating_sub(time.0)))),
            Self::None => String::new(),
        }
    }
}

fn ago(span: Duration) -> String {
    match span.as_secs() {
        0..60 => format!("{}.{}s", span.as_secs(), span.subsec_millis() / 100),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds @ 3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// The text, filled up with spaces, and two more. The spaces carry no style.
pub(super) fn column(out: &mut String, text: &str, width: usize, style: Style) {
    use std::fmt::Write as _;
    let fill = width.saturating_sub(text.chars().count()) + 2;
    let _infallible = write!(out, "{style}{text}{style:#}{:fill$}", "");
}

/// `shop/checkout(256)`, and reserved identities by their word alone; without names the number alone.
pub(super) fn who(identity: &Identity, names: bool) -> String {
    if !names {
        return identity.id.to_string();
    }
    if identity.spiffe_id.is_none() && identity.name != "?" {
        return identity.name.clone();
    }
    format!("{}({})", identity.name, identity.id)
}

/// `10.0.0.2:8080/tcp`, and `10.0.0.2:80→8080/tcp` where the listener's own port is another than the dialled one.
pub(super) fn address(end: &End, port: u16, protocol: Protocol) -> String {
    let ip = ip(end.address);
    if port == 0 && end.port == 0 {
        return format!("{ip}/{protocol}");
    }
    if port == end.port {
        return format!("{ip}:{port}/{protocol}");
    }
    format!("{ip}:{}→{port}/{protocol}", end.port)
}

/// IPv6 in brackets.
pub(super) fn ip(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_every_way_within_their_width() {
        let time = Time(1_777_896_271_882);
        for (stamp, after, text) in [
            (Stamp::Clock, 0, "12:04:31.882"),
            (Stamp::Full, 0, "2026-05-04T12:04:31.882Z"),
            (Stamp::Unix, 0, "1777896271.882"),
            (Stamp::Ago, 1_250, "  1.2s ago"),
            (Stamp::Ago, 61_000, " 1m01s ago"),
            (Stamp::Ago, 7_380_000, " 2h03m ago"),
            (Stamp::Ago, 90_000_000, " 1d01h ago"),
            (Stamp::None, 0, ""),
        ] {
            let written = stamp.write(time, Time(time.0 + after));
            assert_eq!(written, text);
            assert_eq!(written.len(), stamp.width(), "{written}");
        }
        // A clock that was set back does no harm.
        assert_eq!(Stamp::Ago.write(time, Time(0)), "  0.0s ago");
    }
}
