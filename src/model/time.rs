//! An instant as everybody here passes it: milliseconds since 1970, as a value.

use std::fmt;
use std::time::Duration;

use super::Malformed;

/// An instant in milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The first instant outside what RFC 3339 can write: the year 10000.
const END_OF_TIME_MS: i64 = 253_402_300_800_000;

impl Timestamp {
    /// An instant from milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// An instant from whole seconds since the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, as providers count them and as JWTs carry them.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// A later instant.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)).min(END_OF_TIME_MS - 1))
    }

    /// An earlier instant.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339 with any offset, between 1970 and 9999.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const MALFORMED: Malformed = Malformed { what: "a time", why: "must be an RFC 3339 date-time between 1970 and 9999" };
        // RFC 9557 suffixes such as `[Europe/Vienna]` are legal for the parser and not for us.
        if text.len() > 40 || text.contains('[') {
            return Err(MALFORMED);
        }
        let instant: jiff::Timestamp = text.parse().map_err(|_| MALFORMED)?;
        match instant.as_millisecond() {
            millis @ 0..END_OF_TIME_MS => Ok(Self(millis)),
            _ => Err(MALFORMED),
        }
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-01-31T23:59:59.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant:.3}"),
            Err(_) => write!(f, "@{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_offset_comes_in_and_z_with_milliseconds_goes_out() {
        let instant = Timestamp::parse("2026-11-22T03:00:00.5+01:00").unwrap();
        assert_eq!(instant.to_string(), "2026-11-22T02:00:00.500Z");
        assert_eq!(Timestamp::parse("2026-11-22T02:00:00Z").unwrap().to_string(), "2026-11-22T02:00:00.000Z");
    }

    #[test]
    fn what_is_not_an_rfc_3339_instant_is_refused() {
        for text in [
            "",
            "2026-11-22",
            "2026-11-22T02:00:00",
            "1969-12-31T23:59:59Z",
            "2026-11-22T02:00:00Z[Europe/Vienna]",
            "yesterday",
            "1790000000",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_seconds_round_down_before_the_epoch_too() {
        assert_eq!(Timestamp::from_millis(1999).seconds(), 1);
        assert_eq!(Timestamp::from_millis(-1).seconds(), -1);
    }
}
