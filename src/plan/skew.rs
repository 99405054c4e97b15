//! Whose clock is wrong: ours, or those of the hosts that answer us.
//!
//! One host's clock says nothing, since it may be the wrong one; three that agree against us do. Where there are only one or two, they are believed after
//! five answers, if they agree: the operator knows them. Of two that disagree nobody knows which one is wrong.

/// By how many seconds clocks may differ before anybody is told. A logout token lives two minutes at most (BCL 2.4).
pub const TOLERANCE_S: i64 = 60;
/// How many answers of one host or two do what three hosts do at once.
const ANSWERS_MIN: u32 = 5;

/// What one host's answers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// By how many milliseconds its clock was ahead of ours at its last answer.
    pub ahead_ms: i64,
    /// How many answers said when they were made.
    pub answers: u32,
}

/// By how many milliseconds the clocks of others are ahead of ours; none where too little is known.
pub fn ahead_ms(hosts: &[Seen]) -> Option<i64> {
    match hosts {
        [] => None,
        [only] => (only.answers >= ANSWERS_MIN).then_some(only.ahead_ms),
        [first, second] => {
            let agree = first.ahead_ms.abs_diff(second.ahead_ms) <= TOLERANCE_S.unsigned_abs() * 1000;
            let answers = first.answers.saturating_add(second.answers);
            (agree && answers >= ANSWERS_MIN).then(|| nearer(first.ahead_ms, second.ahead_ms))
        }
        many => {
            let mut all: Vec<i64> = many.iter().map(|seen| seen.ahead_ms).collect();
            all.sort_unstable();
            Some(nearer(all.get((all.len() - 1) / 2).copied()?, all.get(all.len() / 2).copied()?))
        }
    }
}

/// Of two that may be right the one nearer to ours: nobody is alarmed for nothing.
const fn nearer(one: i64, other: i64) -> i64 {
    if other.abs() < one.abs() { other } else { one }
}

/// The seconds of a difference that somebody must hear of.
pub fn worth_telling(ahead_ms: i64) -> Option<i64> {
    let seconds = ahead_ms / 1000;
    (seconds.abs() > TOLERANCE_S).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seconds: i64, answers: u32) -> Seen {
        Seen { ahead_ms: seconds * 1000, answers }
    }

    #[test]
    fn one_host_or_two_that_agree_are_believed_after_five_answers_and_two_that_disagree_never() {
        assert_eq!(ahead_ms(&[]), None);
        assert_eq!(ahead_ms(&[seen(600, 4)]), None);
        assert_eq!(ahead_ms(&[seen(600, 5)]), Some(600_000));
        assert_eq!(ahead_ms(&[seen(600, 2), seen(600, 2)]), None);
        assert_eq!(ahead_ms(&[seen(630, 1), seen(600, 4)]), Some(600_000));
        assert_eq!(ahead_ms(&[seen(-600, 9), seen(-630, 9)]), Some(-600_000));
        assert_eq!(ahead_ms(&[seen(600, 9), seen(0, 9)]), None);
        assert_eq!(ahead_ms(&[seen(i64::MIN / 1000, u32::MAX), seen(i64::MAX / 1000, u32::MAX)]), None);
    }

    #[test]
    fn a_host_whose_own_clock_is_wrong_is_outvoted() {
        assert_eq!(ahead_ms(&[seen(600, 1), seen(0, 1), seen(1, 1)]), Some(1000));
        assert_eq!(ahead_ms(&[seen(600, 1), seen(601, 1), seen(0, 1)]), Some(600_000));
        assert_eq!(ahead_ms(&[seen(-600, 1), seen(-600, 1), seen(2, 1), seen(3, 1)]), Some(2000));
    }

    #[test]
    fn a_difference_within_a_minute_is_nobodys_business() {
        assert_eq!([0, 60_999, -60_999, 61_000, -61_000].map(worth_telling), [None, None, None, Some(61), Some(-61)]);
    }
}
