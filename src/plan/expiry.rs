//! Ends by age: when a session's time is up, who is told of it, and how much a provider's list may end.
//!
//! Two promises again: a session whose time is up ends here without anybody's word, and a report that comes late never logs a person out whose provider
//! had given the session more time. Never looks at a clock; the database applies [`ends_at`] to many rows in one statement of its own.

use super::effects;
use super::time::is_newer;
use crate::model::Timestamp;
use crate::model::client::{ClientRecord, OnExpiry};
use crate::model::effects::{EndCause, EndedFact, Opening, SaidAge, Told};
use crate::model::issuer::{Age, Expiry};
use crate::model::trigger::Gravity;

/// When a session ends by its age; none when it does not.
pub fn ends_at(expiry: Expiry, age: Age) -> Option<Timestamp> {
    match expiry {
        Expiry::None => None,
        Expiry::Absolute => Some(age.expires_at),
        Expiry::Authoritative => Some(age.idle_expires_at.map_or(age.expires_at, |idle| idle.min(age.expires_at))),
    }
}

/// When a session's time was up that still counts as live.
pub fn over_since(expiry: Expiry, age: Age, now: Timestamp) -> Option<Timestamp> {
    ends_at(expiry, age).filter(|at| *at <= now)
}

/// What a report makes of a session's age: the latest word wins.
fn extended(age: Age, said: SaidAge) -> Age {
    Age {
        expires_at: said.expires_at.map_or(age.expires_at, |at| at.max(age.expires_at)),
        // No idle time yet is less than any.
        idle_expires_at: age.idle_expires_at.max(said.idle_expires_at),
    }
}

/// Whether a report tells that a session which ended by its age had been given more time: had it come before, nothing would have ended.
pub fn was_extended(ended: &EndedFact, said: SaidAge, expiry: Expiry) -> bool {
    match ended.end.cause {
        EndCause::Age => {
            let at = ended.end.at;
            let later = said.expires_at.max(said.idle_expires_at).is_some_and(|said| said > at);
            later && ends_at(expiry, extended(ended.age, said)).is_none_or(|ends_at| ends_at > at)
        }
        // Somebody's word ended it, which no other time takes back.
        EndCause::Logout | EndCause::Absence => false,
    }
}

/// Whether a live session's time was up before the login that is now reported under its name.
pub fn is_renewed(expiry: Expiry, age: Age, now: Timestamp, started_at: Option<Timestamp>) -> bool {
    match (over_since(expiry, age, now), started_at) {
        (Some(over), Some(started_at)) => over.seconds() < started_at.seconds() && is_newer(started_at, over, Gravity::Plain),
        (None, _) | (_, None) => false,
    }
}

/// How a delivery of an end by age begins: as any other for a client that asked to be told, and for no other at all.
pub fn opening(told: &Told<'_>, client: Option<&ClientRecord>, now: Timestamp) -> Opening {
    match client.map(|client| client.delivery.on_expiry) {
        Some(OnExpiry::Notify) => effects::opening(told, client, now),
        Some(OnExpiry::None) | None => Opening::Untold,
    }
}

/// How a delivery of a session begins whose time was up when a new login took its name: not at all, since its token would name the new login too.
pub const fn opening_renewed(_: &Told<'_>, _: Option<&ClientRecord>, _: Timestamp) -> Opening {
    Opening::Untold
}

/// So many sessions a provider's list may always end: a small deployment has no tenth of anything.
pub const RECONCILED_ALWAYS: u64 = 10;

/// How many of the live sessions a provider's list may end.
pub fn ceiling(live: u64, percent_max: u8) -> u64 {
    let share = u128::from(live) * u128::from(percent_max) / 100;
    u64::try_from(share).unwrap_or(u64::MAX).max(RECONCILED_ALWAYS)
}

/// Whether a session may be missing from a list only because the list is older than it.
pub fn is_spared(started_at: Timestamp, created_at: Timestamp, as_of: Timestamp) -> bool {
    started_at.seconds() >= as_of.seconds() || created_at >= as_of
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::effects::EndFact;
    use crate::model::{EventId, Id};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn age(expires: i64, idle: Option<i64>) -> Age {
        Age { expires_at: at(expires), idle_expires_at: idle.map(at) }
    }

    fn said(expires: Option<i64>, idle: Option<i64>) -> SaidAge {
        SaidAge { expires_at: expires.map(at), idle_expires_at: idle.map(at) }
    }

    fn ended(age: Age, when: Timestamp, cause: EndCause) -> EndedFact {
        let event = EventId::from(Id::from_parts(at(1), 1));
        let end = EndFact { at: when, event, compromise: false, offline: false, cause };
        EndedFact { sub: None, started_at: at(0), age, end }
    }

    #[test]
    fn idle_time_counts_only_where_the_provider_reports_every_use() {
        let table = [
            (Expiry::None, age(9, Some(5)), None),
            (Expiry::Absolute, age(9, Some(5)), Some(9)),
            (Expiry::Authoritative, age(9, Some(5)), Some(5)),
            (Expiry::Authoritative, age(9, Some(12)), Some(9)),
            (Expiry::Authoritative, age(9, None), Some(9)),
        ];
        for (expiry, age, expected) in table {
            assert_eq!(ends_at(expiry, age), expected.map(at), "{expiry:?} {age:?}");
        }
        assert_eq!(over_since(Expiry::Absolute, age(9, None), at(8)), None);
        assert_eq!(over_since(Expiry::Absolute, age(9, None), at(9)), Some(at(9)));
    }

    #[test]
    fn a_later_time_in_a_late_report_means_that_the_session_had_gone_on() {
        use Expiry::{Absolute, Authoritative};
        let (by_age, by_idle) =
            (ended(age(9_000, None), at(9_000), EndCause::Age), ended(age(90_000, Some(9_000)), at(9_000), EndCause::Age));
        let table = [
            (&by_age, Absolute, said(Some(9_001), None), true),
            (&by_age, Absolute, said(Some(9_000), None), false),
            (&by_age, Absolute, said(None, None), false),
            // Use does not matter here, nor does more of what had not run out.
            (&by_age, Absolute, said(None, Some(20_000)), false),
            (&by_idle, Authoritative, said(None, Some(9_001)), true),
            (&by_idle, Authoritative, said(Some(99_000), None), false),
            (&by_age, Authoritative, said(Some(20_000), None), true),
        ];
        for (ended, expiry, said, expected) in table {
            assert_eq!(was_extended(ended, said, expiry), expected, "{ended:?} {expiry:?} {said:?}");
        }
        for cause in [EndCause::Logout, EndCause::Absence] {
            assert!(!was_extended(&ended(age(9_000, None), at(9_000), cause), said(Some(99_000), None), Absolute), "{cause:?}");
        }
    }

    #[test]
    fn only_a_login_after_its_time_was_up_takes_a_session_s_name() {
        let renewed = |now, started: Option<i64>| is_renewed(Expiry::Absolute, age(9_500, None), at(now), started.map(at));
        assert!(renewed(20_000, Some(10_000)));
        assert!(!renewed(20_000, Some(9_999)), "within the same second nobody can tell");
        assert!(!renewed(20_000, None));
        assert!(!renewed(9_000, Some(10_000)), "its time is not up");
        assert!(!is_renewed(Expiry::None, age(9_500, None), at(20_000), Some(at(15_000))));
    }

    #[test]
    fn a_tenth_may_end_or_ten() {
        assert_eq!(ceiling(0, 10), 10);
        assert_eq!(ceiling(100, 10), 10);
        assert_eq!(ceiling(1_000, 10), 100);
        assert_eq!(ceiling(999, 1), 10);
        assert_eq!(ceiling(50, 100), 50);
        assert_eq!(ceiling(u64::MAX, 100), u64::MAX);
    }

    #[test]
    fn what_began_in_the_second_of_the_list_or_was_reported_after_it_is_spared() {
        assert!(is_spared(at(9_000), at(1), at(9_999)));
        assert!(is_spared(at(1), at(9_999), at(9_999)));
        assert!(!is_spared(at(8_999), at(9_998), at(9_999)));
    }

    fn any_age() -> impl Strategy<Value = Age> {
        (0..20_000_i64, proptest::option::of(0..20_000_i64)).prop_map(|(expires, idle)| age(expires, idle))
    }

    fn any_said() -> impl Strategy<Value = SaidAge> {
        (proptest::option::of(0..40_000_i64), proptest::option::of(0..40_000_i64)).prop_map(|(expires, idle)| said(expires, idle))
    }

    proptest! {
        #[test]
        fn a_report_never_shortens_a_session(known in any_age(), report in any_said()) {
            for expiry in Expiry::ALL.iter().copied() {
                // An idle time where none was known is the exception: it is the first that is heard of it.
                let before = age(known.expires_at.millis(), Some(known.idle_expires_at.map_or(0, Timestamp::millis)));
                prop_assert!(ends_at(expiry, extended(before, report)) >= ends_at(expiry, before));
            }
        }

        #[test]
        fn a_report_means_the_same_whether_it_comes_before_the_end_or_after_it(known in any_age(), report in any_said(), late in 0..5_000_i64) {
            for expiry in [Expiry::Absolute, Expiry::Authoritative] {
                let over = ends_at(expiry, known).unwrap();
                let in_time = over_since(expiry, extended(known, report), over).is_none();
                let ended = ended(known, over, EndCause::Age);
                prop_assert_eq!(was_extended(&ended, report, expiry), in_time, "{:?} {}", expiry, late);
            }
        }

        #[test]
        fn the_ceiling_never_falls_as_sessions_are_added(live in 0..1_000_000_u64, more in 0..1_000_u64, percent in 1..=100_u8) {
            prop_assert!(ceiling(live + more, percent) >= ceiling(live, percent));
            prop_assert!(ceiling(live, percent) <= live.max(RECONCILED_ALWAYS));
        }
    }
}
