//! How often one may be wrong about who one is.

use std::time::Duration;

use crate::model::Timestamp;

/// How often at once.
pub const AT_ONCE: u32 = 10;
/// How long until one failure is forgiven.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(6);

/// The failures of somebody, as the instant when all of them are forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    forgiven_at: Timestamp,
}

impl Failures {
    /// Nothing is held against anybody who was never wrong.
    pub const NONE: Self = Self { forgiven_at: Timestamp::from_seconds(0) };

    /// How long until another try is let through; none now.
    pub fn wait(self, now: Timestamp) -> Option<Duration> {
        let patience = FORGIVEN_AFTER * (AT_ONCE - 1);
        let debt = self.debt(now);
        (debt > patience).then(|| debt.saturating_sub(patience))
    }

    /// One more.
    #[must_use]
    pub fn and_one(self, now: Timestamp) -> Self {
        Self { forgiven_at: now.plus((self.debt(now) + FORGIVEN_AFTER).min(FORGIVEN_AFTER * AT_ONCE)) }
    }

    /// Whether nothing is left of them.
    pub fn are_forgiven(self, now: Timestamp) -> bool {
        self.debt(now).is_zero()
    }

    /// Never more than a full one, also when the clock went back.
    fn debt(self, now: Timestamp) -> Duration {
        self.forgiven_at.since(now).min(FORGIVEN_AFTER * AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn at(ms: u64) -> Timestamp {
        START.plus(Duration::from_millis(ms))
    }

    #[test]
    fn ten_are_let_through_at_once_and_then_one_in_six_seconds() {
        let mut failures = Failures::NONE;
        for number in 0..10 {
            assert_eq!(failures.wait(START), None, "{number}");
            failures = failures.and_one(START);
        }
        assert_eq!(failures.wait(START), Some(Duration::from_secs(6)));
        assert_eq!((failures.wait(at(5_999)), failures.wait(at(6_000))), (Some(Duration::from_millis(1)), None));
        failures = failures.and_one(at(6_000));
        assert_eq!(failures.wait(at(6_000)), Some(Duration::from_secs(6)));
        assert!(!failures.are_forgiven(at(65_999)) && failures.are_forgiven(at(66_000)));
    }

    proptest! {
        #[test]
        fn never_more_are_let_through_than_ten_and_one_for_each_six_seconds(steps in prop::collection::vec(0_u64..9_000, 1..200)) {
            let (mut failures, mut ms, mut through) = (Failures::NONE, 0, 0_u64);
            for later in steps {
                ms += later;
                if failures.wait(at(ms)).is_none() {
                    failures = failures.and_one(at(ms));
                    through += 1;
                }
                prop_assert!(through <= 10 + ms / 6_000, "{through} in {ms} ms");
            }
        }

        #[test]
        fn who_waits_as_long_as_told_is_let_through(tries in 0_u32..40, ms in 0_u64..100_000) {
            let failures = (0..tries).fold(Failures::NONE, |failures, _| failures.and_one(START));
            if let Some(wait) = failures.wait(at(ms)) {
                prop_assert_eq!(failures.wait(at(ms).plus(wait)), None);
            }
        }
    }
}
