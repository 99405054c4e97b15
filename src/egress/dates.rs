//! What others say the time is.
//!
//! Owns what is remembered of the `Date` header of answers (RFC 9110 6.6.1), by host. Never decides whose clock is wrong.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::model::Timestamp;
use crate::plan::skew::Seen;

/// How many hosts are remembered.
const HOSTS_MAX: usize = 256;
/// How long an answer speaks for its host's clock.
const KEPT: Duration = Duration::from_hours(1);

/// The clocks of others, by host.
#[derive(Debug, Default)]
pub(super) struct Dates(HashMap<String, (Timestamp, Seen)>);

impl Dates {
    /// Notes what an answer says that came at this instant of our clock.
    pub(super) fn note(&mut self, host: &str, date: &[u8], now: Timestamp) {
        let Some(theirs) = read(date) else { return };
        // It is cut to whole seconds: half of one is the best guess for the rest.
        let ahead_ms = theirs.millis() + 500 - now.millis();
        if !self.0.contains_key(host) && self.0.len() >= HOSTS_MAX {
            self.drop_old(now);
            if self.0.len() >= HOSTS_MAX {
                return;
            }
        }
        let answers = self.0.get(host).map_or(0, |(_, seen)| seen.answers).saturating_add(1);
        self.0.insert(host.to_owned(), (now, Seen { ahead_ms, answers }));
    }

    /// What is known now.
    pub(super) fn seen(&mut self, now: Timestamp) -> Vec<Seen> {
        self.drop_old(now);
        self.0.values().map(|(_, seen)| *seen).collect()
    }

    fn drop_old(&mut self, now: Timestamp) {
        self.0.retain(|_, (at, _)| now.since(*at) <= KEPT);
    }
}

fn read(date: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(date).ok().filter(|text| text.len() <= 64)?;
    let at = httpdate::parse_http_date(text).ok()?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_seconds(i64::try_from(since.as_secs()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_of_each_host_counts_for_an_hour() {
        let now = Timestamp::from_seconds(784_111_777);
        let mut dates = Dates::default();
        for _ in 0..3 {
            dates.note("a", b"Sun, 06 Nov 1994 08:59:37 GMT", now);
        }
        for nonsense in [&b"yesterday"[..], b"", &[0xff; 9], &[b'1'; 500]] {
            dates.note("b", nonsense, now);
        }
        assert_eq!(dates.seen(now), [Seen { ahead_ms: 600_500, answers: 3 }]);
        assert_eq!(dates.seen(now.plus(KEPT + Duration::from_millis(1))), []);
    }

    #[test]
    fn hosts_cannot_make_it_grow_without_end() {
        let now = Timestamp::from_seconds(784_111_777);
        let mut dates = Dates::default();
        for host in 0..2 * HOSTS_MAX {
            dates.note(&host.to_string(), b"Sun, 06 Nov 1994 08:59:37 GMT", now);
        }
        assert_eq!(dates.seen(now).len(), HOSTS_MAX);
    }
}
