//! When somebody who could not be told of an alarm is told again.

use std::time::Duration;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(2);
/// After many.
const LONGEST: Duration = Duration::from_hours(1);

/// How long to wait after so many failures before this one.
pub fn next_try(failures: u32) -> Duration {
    FIRST.saturating_mul(4_u32.saturating_pow(failures)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_try_waits_longer_than_the_one_before_up_to_an_hour() {
        let waits: Vec<u64> = (0..8).map(|failures| next_try(failures).as_secs()).collect();
        assert_eq!(waits, [2, 8, 32, 128, 512, 2048, 3600, 3600]);
        assert_eq!(next_try(u32::MAX), LONGEST);
    }
}
