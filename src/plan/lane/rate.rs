//! How much may begin in a second: a bucket that fills at that rate and holds one second's worth, or what was agreed to come at once.

use std::time::Duration;

use super::{Share, part};
use crate::model::Timestamp;
use crate::model::limits::Pace;

/// What was agreed: so many in a second over all processes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    per_s: f64,
    /// What a fresh bucket of this process holds.
    begin: f64,
    /// What any bucket of this process holds at most.
    holds: f64,
}

impl Rate {
    /// This process's part of a rate.
    pub fn of(whole: u16, name: &str, share: Share) -> Self {
        let per_s = f64::from(whole.max(1)) / f64::from(share.replicas.max(1));
        Self { per_s, begin: f64::from(part(whole.max(1), name, share)), holds: per_s.max(1.0) }
    }

    /// This process's part of a rate of which so much may come at once.
    pub fn with_burst(pace: Pace, name: &str, share: Share) -> Self {
        let burst = (f64::from(pace.burst) / f64::from(share.replicas.max(1))).max(1.0);
        Self { begin: burst, holds: burst, ..Self::of(pace.per_s, name, share) }
    }

    /// Whether what was taken from a bucket is there again.
    pub fn is_full(self, bucket: &Bucket, now: Timestamp) -> bool {
        let mut bucket = *bucket;
        bucket.room(self, now);
        bucket.tokens >= self.holds
    }
}

/// The tokens of one lane or host.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    /// As it is when nothing was begun before.
    pub fn fresh(rate: Rate, now: Timestamp) -> Self {
        Self { tokens: rate.begin.min(rate.holds), at: now }
    }

    /// How many may begin now. A clock that went back gives nothing, and takes nothing away.
    pub fn room(&mut self, rate: Rate, now: Timestamp) -> u16 {
        self.tokens = (self.tokens + rate.per_s * now.since(self.at).as_secs_f64()).min(rate.holds);
        self.at = now;
        whole(self.tokens)
    }

    /// So many began.
    pub fn take(&mut self, begun: u16) {
        self.tokens -= f64::from(begun);
    }

    /// So many of what began did not count.
    pub fn give_back(&mut self, begun: u16) {
        self.tokens += f64::from(begun);
    }

    /// When the next one may begin, if none may now.
    pub fn next(&self, rate: Rate) -> Timestamp {
        let wait = ((1.0 - self.tokens) / rate.per_s).max(0.0);
        // One more millisecond than it takes, since an instant is no finer than that.
        self.at.plus(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)).plus(Duration::from_millis(1))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floored and clamped to what fits")]
fn whole(tokens: f64) -> u16 {
    tokens.floor().clamp(0.0, f64::from(u16::MAX)) as u16
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
    fn one_second_s_worth_may_begin_at_once_and_then_one_by_one() {
        let rate = Rate::of(4, "a", Share::default());
        let mut bucket = Bucket::fresh(rate, START);
        assert_eq!(bucket.room(rate, START), 4);
        bucket.take(4);
        assert_eq!((bucket.room(rate, at(249)), bucket.room(rate, at(250))), (0, 1));
        assert_eq!(bucket.room(rate, at(60_000)), 4, "nothing is saved up beyond a second");
    }

    #[test]
    fn what_was_agreed_to_come_at_once_comes_at_once_and_is_there_again_after_a_pause() {
        let rate = Rate::with_burst(Pace { per_s: 2, burst: 10 }, "a", Share::default());
        let mut bucket = Bucket::fresh(rate, START);
        assert!(rate.is_full(&bucket, START));
        assert_eq!(bucket.room(rate, START), 10);
        bucket.take(10);
        assert_eq!((bucket.room(rate, at(499)), bucket.room(rate, at(500))), (0, 1));
        assert!(!rate.is_full(&bucket, at(4_999)) && rate.is_full(&bucket, at(5_000)));
        assert_eq!(bucket.room(rate, at(60_000)), 10);
        let half = Rate::with_burst(Pace { per_s: 2, burst: 10 }, "a", Share { replicas: 2, rank: 1 });
        assert_eq!(Bucket::fresh(half, START).room(half, START), 5);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_one_second_s_worth(
            whole in 1_u16..50, replicas in 1_u16..5, steps in prop::collection::vec((0_u64..400, 0_u16..20), 1..80),
        ) {
            let ranks = (0..replicas).map(|rank| Rate::of(whole, "a", Share { replicas, rank }));
            let mut buckets: Vec<_> = ranks.map(|rate| (rate, Bucket::fresh(rate, START))).collect();
            let (mut ms, mut begun) = (0, 0_u32);
            for (later, wanted) in steps {
                ms += later;
                for (rate, bucket) in &mut buckets {
                    let take = bucket.room(*rate, at(ms)).min(wanted);
                    bucket.take(take);
                    begun += u32::from(take);
                }
                // A process whose part of a second is less than one begins one all the same, when it has waited for it.
                let most = f64::from(whole) * (ms as f64 / 1000.0) + f64::from(whole.max(replicas));
                prop_assert!(f64::from(begun) <= most + 1e-6, "{} in {} ms", begun, ms);
            }
        }

        #[test]
        fn who_waits_as_long_as_told_may_begin(whole in 1_u16..500, replicas in 1_u16..5, taken in 1_u16..9) {
            let rate = Rate::of(whole, "a", Share { replicas, rank: 0 });
            let mut bucket = Bucket::fresh(rate, START);
            let room = bucket.room(rate, START);
            bucket.take(taken.min(room));
            let next = bucket.next(rate);
            prop_assert!(bucket.room(rate, next) >= 1);
        }
    }
}
