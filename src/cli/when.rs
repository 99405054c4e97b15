//! Instants as people write them: in full, or as a distance from now.

use std::time::Duration;

use crate::model::Timestamp;

/// An instant, or how far away it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    At(Timestamp),
    Away(Duration),
}

impl When {
    /// RFC 3339, or a number with `s`, `m`, `h` or `d`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match Timestamp::parse(text) {
            Ok(at) => Ok(Self::At(at)),
            Err(_) => {
                distance(text).map(Self::Away).ok_or_else(|| "must be like 2026-11-22T14:00:00Z, or like 90s, 15m, 2h, 3d".to_owned())
            }
        }
    }

    /// The instant, a distance lying behind.
    pub(super) fn ago(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(distance) => now.minus(distance),
        }
    }

    /// The instant, a distance lying ahead.
    pub(super) fn ahead(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(distance) => now.plus(distance),
        }
    }
}

/// The longest distance: a century.
const SECONDS_MAX: u64 = 100 * 366 * 24 * 3600;

fn distance(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let is_number = !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit());
    let distance = number.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(seconds)?;
    (distance <= SECONDS_MAX).then(|| Duration::from_secs(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_written_in_full_or_as_a_distance() {
        let now = Timestamp::from_seconds(1_790_000_000);
        let at = When::parse("2026-09-21T16:13:20+02:00").unwrap();
        assert_eq!((at.ago(now), at.ahead(now)), (now, now));
        let away = When::parse("15m").unwrap();
        assert_eq!(away.ago(now), Timestamp::from_seconds(1_790_000_000 - 900));
        assert_eq!(away.ahead(now), Timestamp::from_seconds(1_790_000_000 + 900));
        assert_eq!(When::parse("3d"), Ok(When::Away(Duration::from_hours(72))));
        for wrong in ["", "m", "15", "-1m", "+1m", "1w", "é", "99999999999999999999s", "yesterday"] {
            assert!(When::parse(wrong).is_err(), "{wrong}");
        }
    }
}
