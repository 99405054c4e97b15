//! When chores are due: cron expressions in UTC, to the second.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use super::{Malformed, Timestamp};

/// The longest expression, in characters.
const CHARS_MAX: usize = 255;

/// A cron expression of six fields: second, minute, hour, day of month, month, day of week.
#[derive(Clone, PartialEq)]
pub struct Schedule(Arc<Cron>);

impl Schedule {
    /// Reads an expression that comes round again and again.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let refused = |why| Malformed { what: "a schedule", why };
        // A seventh would be the year, and a chore that ends with a year is forgotten one day.
        if text.len() > CHARS_MAX || text.split_whitespace().count() != 6 {
            return Err(refused("must have six fields: second, minute, hour, day of month, month, day of week"));
        }
        // Read as the scheduler reads it that rings by it.
        let parser = CronParser::builder().seconds(Seconds::Required).dom_and_dow(true).build();
        let cron = parser.parse(text).map_err(|_| refused("must be a cron expression such as */5 * * * * *"))?;
        let schedule = Self(Arc::new(cron));
        match schedule.next(Timestamp::from_millis(0)) {
            Some(_) => Ok(schedule),
            None => Err(refused("must name a day that exists")),
        }
    }

    /// The first time after this one.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.0.find_next_occurrence(&instant(after)?, false).ok().map(timestamp)
    }

    /// The last time that is not after this one.
    pub fn last(&self, by: Timestamp) -> Option<Timestamp> {
        self.0.find_previous_occurrence(&instant(by)?, true).ok().map(timestamp)
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Whole seconds, since nothing happens between two.
fn instant(at: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.seconds(), 0)
}

fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp::from_seconds(at.timestamp())
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When each chore is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Timetable {
    /// Work that one transaction could not hold goes on.
    pub works: Schedule,
    /// Sessions end by their age.
    pub expiry: Schedule,
    /// Deliveries expire at their horizon.
    pub horizon: Schedule,
    /// Lanes are parked, and alerts are raised.
    pub lanes: Schedule,
    /// What was kept long enough is forgotten.
    pub retention: Schedule,
    /// Providers are asked for their keys; ours begin, cease and are forgotten.
    pub keys: Schedule,
    /// Audit records are linked to their chain, and a head is signed over them.
    pub audit: Schedule,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn the_next_time_is_later_and_the_last_one_is_not() {
        let schedule = Schedule::parse("*/5 * * * * *").unwrap();
        assert_eq!(schedule.next(at("2026-11-22T02:00:00Z")), Some(at("2026-11-22T02:00:05Z")));
        assert_eq!(schedule.next(at("2026-11-22T02:00:04.999Z")), Some(at("2026-11-22T02:00:05Z")));
        assert_eq!(schedule.last(at("2026-11-22T02:00:05Z")), Some(at("2026-11-22T02:00:05Z")));
        assert_eq!(schedule.last(at("2026-11-22T02:00:09.999Z")), Some(at("2026-11-22T02:00:05Z")));
        let hourly = Schedule::parse("0 17 * * * *").unwrap();
        assert_eq!(hourly.last(at("2026-11-22T02:16:59.999Z")), Some(at("2026-11-22T01:17:00Z")));
        assert_eq!(hourly.as_str(), "0 17 * * * *");
    }

    #[test]
    fn what_is_no_schedule_or_never_comes_round_is_refused() {
        for text in ["", "now", "* * * * *", "61 * * * * *", "* * * * * * *", "@hourly", "0 0 0 1 1 * 2020", "0 0 0 30 2 *", "a b c d e f"]
        {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        assert!(Schedule::parse(&format!("{} * * * * *", "1,".repeat(200))).is_err());
    }
}
