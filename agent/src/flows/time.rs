//! Wall-clock time for people, from the monotonic time that the kernel stamps.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since 1970, UTC. Shown as RFC 3339: `2026-05-04T12:04:31.882Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

const DAY: u64 = 86_400_000;
/// The last moment that has four digits for its year.
const LAST: u64 = 253_402_300_799_999;

/// Digits and what is between them.
fn ascii(text: &[u8]) -> &str {
    str::from_utf8(text).unwrap_or_default()
}

impl Time {
    /// What the wall clock says.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// That much earlier; not before 1970.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Only the time of day: `12:04:31.882`.
    pub fn clock(self) -> impl fmt::Display {
        ascii(&self.text()[11..23]).to_owned()
    }

    /// As it is shown, digit by digit: every flow has one. What is later than the year 9999 is shown as its end.
    fn text(self) -> [u8; 24] {
        let time = Self(self.0.min(LAST));
        let ((year, month, day), ms) = (time.date(), time.0 % DAY);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (mut number, place) in [
            (year, 0..4),
            (month, 5..7),
            (day, 8..10),
            (ms / 3_600_000, 11..13),
            (ms / 60_000 % 60, 14..16),
            (ms / 1000 % 60, 17..19),
            (ms % 1000, 20..23),
        ] {
            for digit in text[place].iter_mut().rev() {
                *digit += (number % 10) as u8;
                number /= 10;
            }
        }
        text
    }

    /// Year, month and day: the proleptic Gregorian calendar in eras of 400 years that begin in March.
    fn date(self) -> (u64, u64, u64) {
        let days = self.0 / DAY + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        (era * 400 + year_of_era + carry, month, day)
    }

    /// The other way round; the caller has checked the ranges.
    fn from_date(year: u64, month: u64, day: u64) -> Self {
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let day_of_year = (153 * month + 2) / 5 + day - 1;
        let days = year / 400 * 146_097 + year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + day_of_year;
        Self(days.saturating_sub(719_468) * DAY)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ascii(&self.text()))
    }
}

/// Not a time that we would write.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no time; write it like 2026-05-04T12:04:31Z")]
pub struct TimeError;

impl FromStr for Time {
    type Err = TimeError;

    /// RFC 3339 in UTC, with or without a fraction of a second.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        parse(text).ok_or(TimeError)
    }
}

fn parse(text: &str) -> Option<Time> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(seconds, ':')?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !in_range || !digits {
        return None;
    }
    let ms: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some(Time(Time::from_date(year, month, day).0 + ((hour * 60 + minute) * 60 + second) * 1000 + ms))
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = text.split(separator).map(|part| part.parse().ok().filter(|_| digits(part)));
    let found = [parts.next()??, parts.next()??, parts.next()??];
    if parts.next().is_some() { None } else { Some(found) }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(ascii(&self.text()))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How far the wall clock is ahead of the monotonic one. Read it anew for each batch: the wall clock may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds at which the monotonic clock stood at zero, by the wall clock.
    pub boot: u64,
}

impl Clock {
    /// Reads both clocks.
    pub fn read() -> Self {
        let now = |clock| {
            let time = clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
            u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
        };
        Self { boot: now(ClockId::CLOCK_REALTIME).saturating_sub(now(ClockId::CLOCK_MONOTONIC)) }
    }

    /// The wall-clock time of a kernel stamp, in monotonic nanoseconds.
    pub const fn wall(self, monotonic: u64) -> Time {
        Time(self.boot.saturating_add(monotonic) / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_come_out_as_the_calendar_has_them_and_go_back_in() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Time(ms).to_string(), text);
            assert_eq!(Time(ms).clock().to_string(), text[11..23]);
            assert_eq!(text.parse(), Ok(Time(ms)), "{text}");
        }
        assert_eq!(Time(u64::MAX).to_string(), Time(LAST).to_string());
        for day in 0..60_000 {
            let time = Time(day * DAY);
            let (year, month, of_month) = time.date();
            assert_eq!(Time::from_date(year, month, of_month), time, "{time}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "12:00",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-+1-01T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "2026-01-01T00:00:00.Z",
        ] {
            assert_eq!(text.parse::<Time>(), Err(TimeError), "{text}");
        }
        assert_eq!("2026-01-01T00:00:00.5Z".parse::<Time>().unwrap().to_string(), "2026-01-01T00:00:00.500Z");
    }

    #[test]
    fn the_clock_agrees_with_the_wall() {
        let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
        let time = Clock::read().wall(monotonic.as_nanos() as u64);
        assert!(Time::now().0.abs_diff(time.0) < 1000, "{time}");
    }
}
