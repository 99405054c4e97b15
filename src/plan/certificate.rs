//! When the end of a certificate must be spoken of.

use std::time::Duration;

use crate::model::Timestamp;

/// How near the end is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Within 30 days: time to order another.
    Month,
    /// Within 7 days.
    Week,
    /// Within a day.
    Day,
    /// It is over: whoever checks it refuses it.
    Past,
}

impl Nearness {
    /// A word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Month => "30d",
            Self::Week => "7d",
            Self::Day => "1d",
            Self::Past => "past",
        }
    }
}

/// How near the end of a certificate is; none while it is far.
pub fn nearness(expires_at: Timestamp, now: Timestamp) -> Option<Nearness> {
    let days = |days: u64| now.plus(Duration::from_hours(24 * days));
    if expires_at <= now {
        Some(Nearness::Past)
    } else if expires_at <= days(1) {
        Some(Nearness::Day)
    } else if expires_at <= days(7) {
        Some(Nearness::Week)
    } else if expires_at <= days(30) {
        Some(Nearness::Month)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_spoken_of_four_times() {
        let (now, day) = (Timestamp::from_seconds(1_790_000_000), 24 * 3600);
        let of = |left: i64| nearness(Timestamp::from_seconds(now.seconds() + left), now);
        for (left, expected) in [
            (30 * day + 1, None),
            (30 * day, Some(Nearness::Month)),
            (7 * day + 1, Some(Nearness::Month)),
            (7 * day, Some(Nearness::Week)),
            (day, Some(Nearness::Day)),
            (1, Some(Nearness::Day)),
            (0, Some(Nearness::Past)),
            (-400 * day, Some(Nearness::Past)),
        ] {
            assert_eq!(of(left), expected, "{left}");
        }
        assert!(Nearness::Month < Nearness::Week && Nearness::Day < Nearness::Past);
    }
}
