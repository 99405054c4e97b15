//! Which lane may begin what, and when.
//!
//! Owns five limits: per lane and host, so that a receiver that is away costs its neighbours nothing ([`breaker`], [`window`], [`rate`]); and for the
//! process, shared by class and between first attempts and others ([`fair`]). Keeps no counts itself: the caller brings what is in flight, and may lose
//! it at any moment.

pub mod breaker;
pub mod fair;
pub mod rate;
pub mod window;

use std::time::Duration;

use crate::model::Timestamp;
use crate::model::delivery::Class;

/// How many processes share the work, and which of them this one is, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many there are, at least this one.
    pub replicas: u16,
    /// Which one this is.
    pub rank: u16,
}

impl Default for Share {
    /// Alone.
    fn default() -> Self {
        Self { replicas: 1, rank: 0 }
    }
}

/// This process's part of a number that all share: the parts of all ranks make up the whole. None for this process means that another one has it. The
/// odd ones go to other processes for another `name`, so that no process gets all of them.
pub fn part(whole: u16, name: &str, share: Share) -> u16 {
    let replicas = share.replicas.max(1);
    let turn = (hash(name) % u64::from(replicas) + u64::from(share.rank % replicas)) % u64::from(replicas);
    whole / replicas + u16::from(turn < u64::from(whole % replicas))
}

/// FNV-1a: the same in every process and every version.
pub fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
}

/// How long a lane fails before it is parked.
pub const PARKED_AFTER: Duration = Duration::from_hours(24);
/// How much of the horizon of its oldest delivery passes before somebody is told, in percent.
pub const THRESHOLDS: [u8; 4] = [50, 70, 90, 100];

/// The largest threshold that a delivery has passed; none before the first.
pub fn threshold(horizon_at: Timestamp, horizon: Duration, now: Timestamp) -> Option<u8> {
    let left = horizon_at.since(now).min(horizon);
    let passed = (horizon - left).as_millis().saturating_mul(100);
    THRESHOLDS.into_iter().rev().find(|percent| passed >= u128::from(*percent).saturating_mul(horizon.as_millis()))
}

/// One value for each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes<T> {
    /// For [`Class::Compromise`].
    pub compromise: T,
    /// For [`Class::Interactive`].
    pub interactive: T,
    /// For [`Class::Bulk`].
    pub bulk: T,
}

impl<T> Classes<T> {
    /// The value of one class.
    pub fn of(&self, class: Class) -> &T {
        match class {
            Class::Compromise => &self.compromise,
            Class::Interactive => &self.interactive,
            Class::Bulk => &self.bulk,
        }
    }

    /// The value of one class, to be changed.
    pub fn of_mut(&mut self, class: Class) -> &mut T {
        match class {
            Class::Compromise => &mut self.compromise,
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        }
    }
}

/// One value for first attempts and one for all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns<T> {
    /// For what was never attempted under its present patience.
    pub first: T,
    /// For what was.
    pub retry: T,
}

impl<T> Turns<T> {
    /// The value of one turn.
    pub fn of(&self, retry: bool) -> &T {
        if retry { &self.retry } else { &self.first }
    }

    /// The value of one turn, to be changed.
    pub fn of_mut(&mut self, retry: bool) -> &mut T {
        if retry { &mut self.retry } else { &mut self.first }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_threshold_is_passed_at_its_own_instant_and_stays_passed() {
        let begun = Timestamp::from_seconds(1_800_000_000);
        let horizon = Duration::from_secs(1000);
        let passed = |seconds: u64| threshold(begun.plus(horizon), horizon, begun.plus(Duration::from_secs(seconds)));
        let seen = [0, 499, 500, 699, 700, 899, 900, 999, 1000, 5000].map(passed);
        assert_eq!(seen, [None, None, Some(50), Some(50), Some(70), Some(70), Some(90), Some(90), Some(100), Some(100)]);
    }

    proptest! {
        #[test]
        fn the_parts_of_all_processes_make_up_the_whole(whole: u16, replicas in 1_u16..40, name in "[a-z]{1,12}") {
            let parts: Vec<u16> = (0..replicas).map(|rank| part(whole, &name, Share { replicas, rank })).collect();
            prop_assert_eq!(parts.iter().map(|part| u32::from(*part)).sum::<u32>(), u32::from(whole));
            let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
            prop_assert!(most - least <= 1);
        }

        #[test]
        fn who_is_alone_has_all(whole: u16, name in "[a-z]{1,12}", rank: u16) {
            prop_assert_eq!(part(whole, &name, Share::default()), whole);
            prop_assert_eq!(part(whole, &name, Share { replicas: 0, rank }), whole);
        }
    }
}
