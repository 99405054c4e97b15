//! How long to wait after a failure, and how often each kind of failure may happen.
//!
//! Owns the schedule and the budgets. Never counts, never looks at a clock: it is asked "this was the nth failure of its kind" and answers with a wait,
//! or with none when the budget is spent.

use std::time::Duration;

use crate::model::attempt::Outcome;
use crate::model::client::DeliverySettings;

/// What one client's settings say about trying again.
#[derive(Clone, Copy, Debug)]
pub struct RetrySettings<'a> {
    /// How often a 400 is asked again before it is believed.
    pub confirm_rejections: u8,
    /// Statuses that are passing troubles at this client.
    pub retry_statuses: &'a [u16],
}

impl<'a> RetrySettings<'a> {
    /// The part of a client's settings that matters here.
    pub fn of(settings: &'a DeliverySettings) -> Self {
        Self { confirm_rejections: settings.confirm_rejections, retry_statuses: &settings.retry_statuses }
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// After a passing trouble. A logout is worth most in its first minute, so five tries fall into about that; then the waits grow to `RECOVERABLE_LAST`.
const RECOVERABLE: [u64; 10] = [1, 5, 15, 45, 2 * MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR];
const RECOVERABLE_LAST: u64 = 4 * HOUR;

/// After a 400, which says that the token was bad or that the logout failed (BCL 2.8), and may be clock skew or a stale copy of our keys.
const CONFIRMATIONS: [u64; 1] = [30];
const CONFIRMATIONS_LAST: u64 = 10 * MINUTE;

/// After 401, 403, 404 and their like: often a deploy in progress, sometimes a setting somebody has to change.
const CONFIG_FAULT: [u64; 5] = [5 * MINUTE, 30 * MINUTE, 2 * HOUR, 6 * HOUR, 24 * HOUR];

/// After a redirect: three more tries within an hour.
const REDIRECTED: [u64; 3] = [5 * MINUTE, 15 * MINUTE, 40 * MINUTE];

/// After an address we may not reach: the name's records or the allowed networks may change, which takes people as long as a setting does.
const BLOCKED: [u64; 5] = CONFIG_FAULT;

/// After a fault of ours: soon, since whatever failed here fails for everybody and will be mended.
const OURS: [u64; 3] = [1, 5, 30];
const OURS_LAST: u64 = MINUTE;

/// The longest wait a client can ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(HOUR);
/// The shortest wait after a 429 that does not say how long.
pub const TOO_MANY_REQUESTS_MIN: Duration = Duration::from_secs(MINUTE);

/// The wait after the `nth` passing trouble (from 1), which never runs out: only the horizon ends these. 429 and 503 may ask for more (RFC 9110 10.2.3).
pub fn after_recoverable(nth: u16, outcome: &Outcome, unit: f64) -> Duration {
    let own = jittered(at(&RECOVERABLE, nth).unwrap_or(RECOVERABLE_LAST), unit);
    match outcome {
        Outcome::Answered { status: 429 | 503, retry_after: Some(asked) } => own.max(RETRY_AFTER_MAX.min(*asked)),
        Outcome::Answered { status: 429, retry_after: None } => own.max(TOO_MANY_REQUESTS_MIN),
        Outcome::Answered { .. } | Outcome::Failed(_) => own,
    }
}

/// The wait after the `nth` refusal (from 1) before it is asked once more; none when `confirmations` have been asked for.
pub fn after_refused(nth: u16, confirmations: u8, unit: f64) -> Option<Duration> {
    (nth <= u16::from(confirmations)).then(|| jittered(at(&CONFIRMATIONS, nth).unwrap_or(CONFIRMATIONS_LAST), unit))
}

/// The wait after the `nth` configuration fault (from 1); none when the budget is spent.
pub fn after_config_fault(nth: u16, unit: f64) -> Option<Duration> {
    at(&CONFIG_FAULT, nth).map(|seconds| jittered(seconds, unit))
}

/// The wait after the `nth` redirect (from 1); none when the budget is spent.
pub fn after_redirected(nth: u16, unit: f64) -> Option<Duration> {
    at(&REDIRECTED, nth).map(|seconds| jittered(seconds, unit))
}

/// The wait after the `nth` time the address was not allowed (from 1); none when the budget is spent.
pub fn after_blocked(nth: u16, unit: f64) -> Option<Duration> {
    at(&BLOCKED, nth).map(|seconds| jittered(seconds, unit))
}

/// The wait after the `nth` fault of our own (from 1), which never runs out.
pub fn after_ours(nth: u16, unit: f64) -> Duration {
    jittered(at(&OURS, nth).unwrap_or(OURS_LAST), unit)
}

/// The nth of a list of seconds, counted from 1.
fn at(seconds: &[u64], nth: u16) -> Option<u64> {
    seconds.get(usize::from(nth).saturating_sub(1)).copied()
}

/// Spreads a wait over its upper half: between half of it and all of it, for `unit` in `[0, 1)`.
pub(super) fn jittered(seconds: u64, unit: f64) -> Duration {
    let half = Duration::from_secs(seconds) / 2;
    // A number that is none, or negative, is no reason to panic or to wait less.
    let spread = Duration::try_from_secs_f64(half.as_secs_f64() * unit).unwrap_or(Duration::ZERO);
    half + spread.min(half)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::attempt::Failure;

    const TIMEOUT: Outcome = Outcome::Failed(Failure::Timeout);
    const UNIT: std::ops::Range<f64> = 0.0..1.0;
    const LATEST: f64 = 1.0 - f64::EPSILON;

    fn answered(status: u16, retry_after_s: Option<u64>) -> Outcome {
        Outcome::Answered { status, retry_after: retry_after_s.map(Duration::from_secs) }
    }

    fn whole_seconds(wait: Duration) -> u64 {
        (wait + Duration::from_millis(1)).as_secs()
    }

    #[test]
    fn the_longest_waits_are_those_of_the_published_schedule() {
        let waits: Vec<u64> = (1..=13).map(|nth| whole_seconds(after_recoverable(nth, &TIMEOUT, LATEST))).collect();
        assert_eq!(waits, [1, 5, 15, 45, 120, 300, 900, 1800, 3600, 7200, 14400, 14400, 14400]);
    }

    #[test]
    fn each_budget_is_spent_after_its_last_wait() {
        let spend = |budget: &dyn Fn(u16) -> Option<Duration>| -> Vec<u64> { (1..=50).map_while(budget).map(whole_seconds).collect() };
        assert_eq!(spend(&|nth| after_config_fault(nth, LATEST)), [300, 1800, 7200, 21600, 86400]);
        assert_eq!(spend(&|nth| after_blocked(nth, LATEST)), [300, 1800, 7200, 21600, 86400]);
        assert_eq!(spend(&|nth| after_redirected(nth, LATEST)).iter().sum::<u64>(), 3600);
        assert_eq!(spend(&|nth| after_redirected(nth, LATEST)).len(), 3);
        assert_eq!(spend(&|nth| after_refused(nth, 0, LATEST)), [0; 0]);
        assert_eq!(spend(&|nth| after_refused(nth, 1, LATEST)), [30]);
        assert_eq!(spend(&|nth| after_refused(nth, 4, LATEST)), [30, 600, 600, 600]);
    }

    #[test]
    fn our_own_faults_back_off_to_a_minute_and_never_give_up() {
        let waits: Vec<u64> = [1, 2, 3, 4, 5, u16::MAX].map(|nth| whole_seconds(after_ours(nth, LATEST))).to_vec();
        assert_eq!(waits, [1, 5, 30, 60, 60, 60]);
    }

    #[test]
    fn five_tries_fall_into_about_the_first_minute() {
        let fifth: Duration = (1..=4).map(|nth| after_recoverable(nth, &TIMEOUT, LATEST)).sum();
        assert!(fifth <= Duration::from_secs(66), "{fifth:?}");
    }

    #[test]
    fn jitter_spreads_over_the_upper_half_and_only_there() {
        assert_eq!(after_recoverable(9, &TIMEOUT, 0.0), Duration::from_mins(30));
        assert_eq!(after_recoverable(9, &TIMEOUT, 0.5), Duration::from_mins(45));
        for nonsense in [f64::NAN, f64::NEG_INFINITY, -1.0, f64::INFINITY, 7.0] {
            let wait = after_recoverable(9, &TIMEOUT, nonsense);
            assert!((Duration::from_mins(30)..=Duration::from_hours(1)).contains(&wait), "{nonsense}: {wait:?}");
        }
    }

    #[test]
    fn a_429_that_does_not_say_how_long_waits_a_minute_at_least() {
        assert_eq!(after_recoverable(1, &answered(429, None), 0.0), Duration::from_mins(1));
        assert_eq!(after_recoverable(9, &answered(429, None), 0.0), Duration::from_mins(30));
        assert!(after_recoverable(1, &answered(503, None), 0.0) < Duration::from_mins(1));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_half_nor_longer_than_the_longest(nth: u16, unit in UNIT) {
            let wait = after_recoverable(nth, &TIMEOUT, unit);
            let longest = after_recoverable(nth, &TIMEOUT, 1.0);
            prop_assert!(wait >= longest / 2 && wait <= longest, "{:?} of {:?}", wait, longest);
            prop_assert!(longest <= Duration::from_secs(RECOVERABLE_LAST));
        }

        #[test]
        fn the_longest_wait_never_shrinks_from_one_failure_to_the_next(nth in 1..u16::MAX) {
            prop_assert!(after_recoverable(nth, &TIMEOUT, 1.0) <= after_recoverable(nth + 1, &TIMEOUT, 1.0));
            prop_assert!(after_ours(nth, 1.0) <= after_ours(nth + 1, 1.0));
        }

        #[test]
        fn a_client_can_ask_for_more_patience_but_not_for_less_nor_for_more_than_an_hour(
            nth in 1_u16..40, asked in any::<u64>(), unit in UNIT, status in prop_oneof![Just(429_u16), Just(503)],
        ) {
            let own = after_recoverable(nth, &TIMEOUT, unit);
            let wait = after_recoverable(nth, &answered(status, Some(asked)), unit);
            prop_assert!(wait >= own);
            prop_assert!(wait <= own.max(RETRY_AFTER_MAX));
            prop_assert!(wait >= Duration::from_secs(asked.min(3600)));
        }

        #[test]
        fn nobody_else_is_asked_how_long(
            nth in 1_u16..40, asked in any::<u64>(), unit in UNIT, status in (500_u16..600).prop_filter("503 may ask", |s| *s != 503),
        ) {
            prop_assert_eq!(after_recoverable(nth, &answered(status, Some(asked)), unit), after_recoverable(nth, &TIMEOUT, unit));
        }

        #[test]
        fn every_finite_budget_is_finite(nth in 300_u16.., confirmations: u8, unit in UNIT) {
            prop_assert_eq!(after_refused(nth, confirmations, unit), None);
            prop_assert_eq!(after_config_fault(nth, unit), None);
            prop_assert_eq!(after_redirected(nth, unit), None);
            prop_assert_eq!(after_blocked(nth, unit), None);
        }
    }
}
