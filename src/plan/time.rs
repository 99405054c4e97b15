//! Comparisons of what began with what ended it.
//!
//! Providers count in whole seconds, so a login and a logout are compared in whole seconds, whatever the clocks here can tell apart. Owns that rule and
//! the bounds on when a logout may be said to have happened. Never asks what time it is.

use std::time::Duration;

use crate::model::Timestamp;
use crate::model::trigger::Gravity;

/// How far in the future a logout may be said to have happened: clocks differ.
pub const OCCURRED_AHEAD_MAX: Duration = Duration::from_mins(1);
/// How long ago a logout may be said to have happened.
pub const OCCURRED_BACK_MAX: Duration = Duration::from_hours(72);

/// How far in the future something reported may have begun. A clock that is wrong by an hour or a time zone is only wrong; what claims to begin in a year would
/// be newer than every logout until then.
pub const BEGUN_AHEAD_MAX: Duration = Duration::from_hours(24);

/// Whether an end reaches what began at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// It began before, and is over.
    Covered,
    /// It is newer, or nobody knows when it began: it goes on.
    NotCovered,
}

/// Whether an end at `not_before` reaches what began at `begun`. Within the same second the newer login is favoured, except by a compromise.
pub fn covers(not_before: Timestamp, gravity: Gravity, begun: Option<Timestamp>) -> Coverage {
    let Some(begun) = begun else { return Coverage::NotCovered };
    let covered = match gravity {
        Gravity::Compromise => begun.seconds() <= not_before.seconds(),
        Gravity::Plain | Gravity::Security => begun.seconds() < not_before.seconds(),
    };
    if covered { Coverage::Covered } else { Coverage::NotCovered }
}

/// Whether a login that joined at `joined_at` is newer than a logout that happened at `occurred_at`: exactly when the logout does not cover it.
pub fn is_newer(joined_at: Timestamp, occurred_at: Timestamp, gravity: Gravity) -> bool {
    match covers(occurred_at, gravity, Some(joined_at)) {
        Coverage::Covered => false,
        Coverage::NotCovered => true,
    }
}

/// The gravity a row stands for that only remembers whether it was a compromise: all that comparing and sending depend on.
pub const fn gravity_of(compromise: bool) -> Gravity {
    if compromise { Gravity::Compromise } else { Gravity::Plain }
}

/// Why a logout cannot have happened when its caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OccurredAtRefused {
    /// More than a minute in the future.
    #[error("must be at most 60 seconds ahead")]
    TooFarAhead,
    /// More than three days in the past.
    #[error("must be at most 72 hours ago")]
    TooLongAgo,
}

/// When a logout happened: when its caller says, within bounds, and otherwise now.
pub fn occurred_at(said: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, OccurredAtRefused> {
    match said {
        None => Ok(now),
        Some(at) if at > now.plus(OCCURRED_AHEAD_MAX) => Err(OccurredAtRefused::TooFarAhead),
        Some(at) if at < now.minus(OCCURRED_BACK_MAX) => Err(OccurredAtRefused::TooLongAgo),
        Some(at) => Ok(at),
    }
}

/// Whether tokens may be cut off at that instant. A minute ahead, since clocks differ; further, and it would take what is not issued yet.
pub fn not_before(at: Timestamp, now: Timestamp) -> Result<(), OccurredAtRefused> {
    if at > now.plus(OCCURRED_AHEAD_MAX) { Err(OccurredAtRefused::TooFarAhead) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRAVITIES: [Gravity; 3] = [Gravity::Plain, Gravity::Security, Gravity::Compromise];

    fn millis() -> impl Strategy<Value = i64> {
        prop_oneof![0_i64..5000, 1_799_999_995_000_i64..1_800_000_005_000]
    }

    #[test]
    fn a_login_in_the_same_second_is_newer_unless_the_logout_was_a_compromise() {
        let (joined, ended) = (Timestamp::from_millis(10_001), Timestamp::from_millis(10_999));
        assert!(is_newer(joined, ended, Gravity::Plain) && is_newer(joined, ended, Gravity::Security));
        assert!(!is_newer(joined, ended, Gravity::Compromise));
        assert!(!is_newer(ended, joined, Gravity::Compromise));
        assert!(is_newer(Timestamp::from_millis(11_000), ended, Gravity::Compromise));
        assert!(!is_newer(Timestamp::from_millis(9_999), ended, Gravity::Plain));
    }

    #[test]
    fn a_logout_may_be_told_three_days_late_and_a_minute_early_and_no_more() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let millisecond = Duration::from_millis(1);
        assert_eq!(occurred_at(None, now), Ok(now));
        let (earliest, latest) = (now.minus(OCCURRED_BACK_MAX), now.plus(OCCURRED_AHEAD_MAX));
        assert_eq!(occurred_at(Some(earliest), now), Ok(earliest));
        assert_eq!(occurred_at(Some(latest), now), Ok(latest));
        assert_eq!(occurred_at(Some(earliest.minus(millisecond)), now), Err(OccurredAtRefused::TooLongAgo));
        assert_eq!(occurred_at(Some(latest.plus(millisecond)), now), Err(OccurredAtRefused::TooFarAhead));
    }

    proptest! {
        #[test]
        fn what_began_at_an_unknown_time_is_never_covered(at in millis()) {
            for gravity in GRAVITIES {
                prop_assert_eq!(covers(Timestamp::from_millis(at), gravity, None), Coverage::NotCovered);
            }
        }

        #[test]
        fn milliseconds_never_change_a_comparison(begun in millis(), ended in millis()) {
            let (begun, ended) = (Timestamp::from_millis(begun), Timestamp::from_millis(ended));
            let whole = |at: Timestamp| Timestamp::from_seconds(at.seconds());
            for gravity in GRAVITIES {
                prop_assert_eq!(covers(ended, gravity, Some(begun)), covers(whole(ended), gravity, Some(whole(begun))));
            }
        }

        #[test]
        fn a_compromise_covers_all_that_others_cover_and_the_same_second_beside(begun in millis(), ended in millis()) {
            let (begun, ended) = (Timestamp::from_millis(begun), Timestamp::from_millis(ended));
            let covered = |gravity| covers(ended, gravity, Some(begun)) == Coverage::Covered;
            prop_assert_eq!(covered(Gravity::Plain), covered(Gravity::Security));
            prop_assert_eq!(covered(Gravity::Compromise), covered(Gravity::Plain) || begun.seconds() == ended.seconds());
        }

        #[test]
        fn moving_the_end_later_never_spares_anything(begun in millis(), ended in millis(), by in 0_u64..5000) {
            let (begun, ended) = (Timestamp::from_millis(begun), Timestamp::from_millis(ended));
            for gravity in GRAVITIES {
                if covers(ended, gravity, Some(begun)) == Coverage::Covered {
                    prop_assert_eq!(covers(ended.plus(Duration::from_millis(by)), gravity, Some(begun)), Coverage::Covered);
                }
            }
        }

        #[test]
        fn gravity_survives_being_stored_as_far_as_it_matters_here(begun in millis(), ended in millis()) {
            let (begun, ended) = (Timestamp::from_millis(begun), Timestamp::from_millis(ended));
            for gravity in GRAVITIES {
                let stored = gravity_of(gravity == Gravity::Compromise);
                prop_assert_eq!(is_newer(begun, ended, gravity), is_newer(begun, ended, stored));
            }
        }
    }
}
