//! What one attempt makes of a delivery.
//!
//! Owns the step from an outcome to a verdict: which failures cost what, when a budget is spent, and that nothing is sent at or after the horizon.
//! Never records anything: the caller writes the settlement under its lease.

use std::time::Duration;

use super::outcome::classify;
use super::retry::{self, RetrySettings};
use crate::model::Timestamp;
use crate::model::attempt::{Outcome, OutcomeClass};
use crate::model::delivery::{DeliveryState, Leased, SettledReason, Tally, Verdict};

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Attempts charged so far.
    pub attempts: u32,
    /// Failures so far, by kind.
    pub tally: Tally,
    /// When it expires.
    pub horizon_at: Timestamp,
}

impl Progress {
    /// The progress of a claimed delivery.
    pub const fn of(leased: &Leased) -> Self {
        Self { attempts: leased.attempts, tally: leased.tally, horizon_at: leased.horizon_at }
    }

    /// The number the next attempt carries, from 1. Attempts that failed by our own fault are not charged but counted here, so that no number repeats.
    pub fn next_number(&self) -> u32 {
        self.attempts.saturating_add(u32::from(self.tally.ours)).saturating_add(1)
    }
}

/// What an attempt made of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// What the outcome means.
    pub class: OutcomeClass,
    /// Whether and when it goes on.
    pub verdict: Verdict,
    /// Failures so far, this one included.
    pub tally: Tally,
    /// Attempts charged, this one included unless it failed by our own fault.
    pub attempts: u32,
}

/// Decides what follows from an outcome. `unit`, in `[0, 1)`, is the chance that spreads the waits.
pub fn settle(progress: &Progress, outcome: &Outcome, settings: RetrySettings<'_>, now: Timestamp, unit: f64) -> Settlement {
    settle_as(progress, classify(outcome, settings.retry_statuses), outcome, settings, now, unit)
}

/// The same for an outcome whose meaning is known: a provider's is another than a client's.
pub fn settle_as(
    progress: &Progress,
    class: OutcomeClass,
    outcome: &Outcome,
    settings: RetrySettings<'_>,
    now: Timestamp,
    unit: f64,
) -> Settlement {
    let tally = counted(progress.tally, class);
    let verdict = match next(class, outcome, &tally, settings, unit) {
        Next::Over(state, reason) => Verdict::Settled { state, reason },
        Next::After(wait) => again(now, wait, progress.horizon_at),
    };
    Settlement { class, verdict, tally, attempts: charged(progress.attempts, class) }
}

/// The verdict on a delivery that was claimed at or after its horizon: it has expired and must not be sent.
pub fn expired_before_send(horizon_at: Timestamp, now: Timestamp) -> Option<Verdict> {
    (now >= horizon_at).then_some(EXPIRED)
}

const EXPIRED: Verdict = Verdict::Settled { state: DeliveryState::Expired, reason: SettledReason::Horizon };

enum Next {
    Over(DeliveryState, SettledReason),
    After(Duration),
}

fn next(class: OutcomeClass, outcome: &Outcome, tally: &Tally, settings: RetrySettings<'_>, unit: f64) -> Next {
    let or_rejected = |wait: Option<Duration>, reason| wait.map_or(Next::Over(DeliveryState::Rejected, reason), Next::After);
    match class {
        OutcomeClass::Delivered => Next::Over(DeliveryState::Delivered, SettledReason::Accepted),
        OutcomeClass::DeliveredOddly => Next::Over(DeliveryState::Delivered, SettledReason::AcceptedOddly),
        OutcomeClass::Gone => Next::Over(DeliveryState::Rejected, SettledReason::Gone),
        OutcomeClass::Refused => {
            or_rejected(retry::after_refused(tally.refused, settings.confirm_rejections, unit), SettledReason::Refused)
        }
        OutcomeClass::ConfigFault => or_rejected(retry::after_config_fault(tally.config_fault, unit), SettledReason::ConfigFault),
        OutcomeClass::Redirected => or_rejected(retry::after_redirected(tally.redirected, unit), SettledReason::Redirected),
        OutcomeClass::Blocked => or_rejected(retry::after_blocked(tally.blocked, unit), SettledReason::Blocked),
        OutcomeClass::Recoverable => Next::After(retry::after_recoverable(tally.recoverable, outcome, unit)),
        OutcomeClass::Ours => Next::After(retry::after_ours(tally.ours, unit)),
    }
}

/// A wait that would reach the horizon ends there: the delivery falls due once more, to expire in time and not before, and is not sent again.
fn again(now: Timestamp, wait: Duration, horizon_at: Timestamp) -> Verdict {
    expired_before_send(horizon_at, now).unwrap_or_else(|| Verdict::Again { due_at: now.plus(wait).min(horizon_at) })
}

fn counted(mut tally: Tally, class: OutcomeClass) -> Tally {
    let counter = match class {
        OutcomeClass::Recoverable => &mut tally.recoverable,
        OutcomeClass::Refused => &mut tally.refused,
        OutcomeClass::ConfigFault => &mut tally.config_fault,
        OutcomeClass::Redirected => &mut tally.redirected,
        OutcomeClass::Blocked => &mut tally.blocked,
        OutcomeClass::Ours => &mut tally.ours,
        OutcomeClass::Delivered | OutcomeClass::DeliveredOddly | OutcomeClass::Gone => return tally,
    };
    *counter = counter.saturating_add(1);
    tally
}

const fn charged(attempts: u32, class: OutcomeClass) -> u32 {
    match class {
        OutcomeClass::Ours => attempts,
        OutcomeClass::Delivered
        | OutcomeClass::DeliveredOddly
        | OutcomeClass::Refused
        | OutcomeClass::ConfigFault
        | OutcomeClass::Redirected
        | OutcomeClass::Gone
        | OutcomeClass::Recoverable
        | OutcomeClass::Blocked => attempts.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::model::attempt::Failure;
    use crate::model::client::DeliverySettings;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const HORIZON: Duration = Duration::from_hours(72);
    const DEFAULT: RetrySettings<'_> = RetrySettings { confirm_rejections: 2, retry_statuses: &[] };

    fn fresh(horizon: Duration) -> Progress {
        Progress { attempts: 0, tally: Tally::default(), horizon_at: START.plus(horizon) }
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after: None }
    }

    /// One delivery lived through by the clock: when it was sent, and how it ended.
    struct Life {
        sent_at: Vec<Timestamp>,
        settled_at: Timestamp,
        state: DeliveryState,
        reason: SettledReason,
        attempts: u32,
    }

    /// Lives a delivery whose attempts take `took` and come out as told, over and over, as a courier does that claims it the moment it is due.
    fn live(horizon: Duration, settings: RetrySettings<'_>, took: Duration, outcomes: &[Outcome], units: &[f64]) -> Life {
        let (mut progress, mut now, mut sent_at) = (fresh(horizon), START, Vec::new());
        let mut chances = outcomes.iter().cycle().zip(units.iter().cycle());
        loop {
            assert!(sent_at.len() < 20_000, "a delivery must end");
            let verdict = if let Some(verdict) = expired_before_send(progress.horizon_at, now) {
                verdict
            } else {
                sent_at.push(now);
                now = now.plus(took);
                let (outcome, unit) = chances.next().unwrap();
                let settlement = settle(&progress, outcome, settings, now, *unit);
                progress = Progress { attempts: settlement.attempts, tally: settlement.tally, ..progress };
                settlement.verdict
            };
            match verdict {
                Verdict::Again { due_at } => {
                    assert!(due_at > now, "a retry waits");
                    now = due_at;
                }
                Verdict::Settled { state, reason } => {
                    return Life { sent_at, settled_at: now, state, reason, attempts: progress.attempts };
                }
            }
        }
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            prop::sample::select(Failure::ALL).prop_map(Outcome::Failed),
            (300_u16..=599, prop::option::of(0_u64..100_000))
                .prop_map(|(status, after)| Outcome::Answered { status, retry_after: after.map(Duration::from_secs) }),
        ]
    }

    fn units() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(0.0..1.0, 64)
    }

    #[test]
    fn each_class_ends_as_its_policy_says() {
        let table = [
            (200, DeliveryState::Delivered, SettledReason::Accepted, 1),
            (204, DeliveryState::Delivered, SettledReason::Accepted, 1),
            (202, DeliveryState::Delivered, SettledReason::AcceptedOddly, 1),
            (410, DeliveryState::Rejected, SettledReason::Gone, 1),
            (400, DeliveryState::Rejected, SettledReason::Refused, 3),
            (404, DeliveryState::Rejected, SettledReason::ConfigFault, 6),
            (302, DeliveryState::Rejected, SettledReason::Redirected, 4),
        ];
        for (status, state, reason, attempts) in table {
            let life = live(HORIZON, DEFAULT, Duration::ZERO, &[answered(status)], &[0.5]);
            assert_eq!((life.state, life.reason, life.attempts), (state, reason, attempts), "{status}");
        }
        let blocked = live(HORIZON, DEFAULT, Duration::ZERO, &[Outcome::Failed(Failure::Blocked)], &[0.5]);
        assert_eq!((blocked.state, blocked.reason), (DeliveryState::Rejected, SettledReason::Blocked));
    }

    #[test]
    fn a_passing_trouble_that_passes_ends_in_a_delivery() {
        let mut outcomes = vec![Outcome::Failed(Failure::Broken); 5];
        outcomes.push(answered(204));
        let life = live(HORIZON, DEFAULT, Duration::ZERO, &outcomes, &[0.99]);
        assert_eq!((life.state, life.attempts), (DeliveryState::Delivered, 6));
        assert!(life.settled_at.since(START) < Duration::from_secs(190));
    }

    #[test]
    fn a_client_that_is_away_for_the_whole_horizon_is_tried_28_to_35_times_but_for_rare_luck() {
        let mut runner = TestRunner::deterministic();
        let runs = 2000;
        let usual = (0..runs)
            .filter(|_| {
                let unit = units().new_tree(&mut runner).unwrap().current();
                let life = live(HORIZON, DEFAULT, Duration::ZERO, &[Outcome::Failed(Failure::Connect)], &unit);
                (28..=35).contains(&life.sent_at.len())
            })
            .count();
        assert!(usual * 100 >= runs * 95, "{usual} of {runs}");
    }

    #[test]
    fn a_repeated_number_is_never_given_to_two_attempts() {
        let mut progress = fresh(HORIZON);
        for expected in 1..=30 {
            assert_eq!(progress.next_number(), expected);
            let outcome = if expected % 3 == 0 { answered(500) } else { Outcome::Failed(Failure::Ours) };
            let settlement = settle(&progress, &outcome, DEFAULT, START, 0.0);
            progress = Progress { attempts: settlement.attempts, tally: settlement.tally, ..progress };
        }
    }

    #[test]
    fn an_attempt_that_outlasts_the_horizon_still_counts_if_it_succeeds_and_is_the_last_if_not() {
        let late = START.plus(HORIZON + Duration::from_secs(1));
        assert_eq!(settle(&fresh(HORIZON), &answered(500), DEFAULT, late, 0.0).verdict, EXPIRED);
        assert_eq!(
            settle(&fresh(HORIZON), &answered(200), DEFAULT, late, 0.0).verdict,
            Verdict::Settled { state: DeliveryState::Delivered, reason: SettledReason::Accepted }
        );
    }

    #[test]
    fn what_a_client_lists_as_passing_is_tried_again_where_it_would_have_been_rejected() {
        let settings = DeliverySettings { retry_statuses: vec![410], ..DeliverySettings::DEFAULT };
        let settlement = settle(&fresh(HORIZON), &answered(410), RetrySettings::of(&settings), START, 0.0);
        assert_eq!(settlement.verdict, Verdict::Again { due_at: START.plus(Duration::from_millis(500)) });
        assert_eq!(settlement.tally, Tally { recoverable: 1, ..Tally::default() });
    }

    proptest! {
        #[test]
        fn no_luck_makes_a_client_that_is_away_be_tried_fewer_than_28_or_more_than_46_times(unit in units()) {
            let life = live(HORIZON, DEFAULT, Duration::ZERO, &[Outcome::Failed(Failure::Timeout)], &unit);
            prop_assert!((28..=46).contains(&life.sent_at.len()), "{}", life.sent_at.len());
            prop_assert_eq!((life.state, life.reason), (DeliveryState::Expired, SettledReason::Horizon));
        }

        #[test]
        fn nothing_is_sent_at_or_after_the_horizon_and_nothing_expires_before_it(
            horizon_s in 0_u64..400_000, took_ms in 0_u64..20_000, outcomes in prop::collection::vec(any_outcome(), 8), unit in units(),
        ) {
            let horizon = Duration::from_secs(horizon_s);
            let life = live(horizon, DEFAULT, Duration::from_millis(took_ms), &outcomes, &unit);
            prop_assert!(life.sent_at.iter().all(|at| *at < START.plus(horizon)));
            prop_assert!(life.settled_at <= START.plus(horizon + Duration::from_millis(took_ms)));
            if life.state == DeliveryState::Expired {
                prop_assert!(life.settled_at >= START.plus(horizon));
                prop_assert_eq!(life.reason, SettledReason::Horizon);
            }
        }

        #[test]
        fn our_own_faults_cost_the_client_nothing(faults in 1_usize..200, last in any_outcome(), unit in 0.0..1.0) {
            let mut progress = fresh(HORIZON);
            for _ in 0..faults {
                let settlement = settle(&progress, &Outcome::Failed(Failure::Ours), DEFAULT, START, unit);
                prop_assert_eq!(settlement.attempts, 0);
                prop_assert!(matches!(settlement.verdict, Verdict::Again { due_at } if due_at.since(START) <= Duration::from_mins(1)), "{:?}", settlement);
                progress = Progress { tally: settlement.tally, ..progress };
            }
            prop_assume!(last != Outcome::Failed(Failure::Ours));
            let after_faults = settle(&progress, &last, DEFAULT, START, unit);
            let without = settle(&fresh(HORIZON), &last, DEFAULT, START, unit);
            prop_assert_eq!(after_faults.attempts, 1);
            prop_assert_eq!(after_faults.verdict, without.verdict);
        }

        #[test]
        fn a_400_is_believed_after_exactly_as_many_confirmations_as_asked_for(confirm_rejections in 0_u8..7, between in 0_usize..3, unit in units()) {
            // Passing troubles in between neither use up confirmations nor stand for them.
            let mut outcomes = vec![answered(503); between + 1];
            outcomes.splice(..1, [answered(400)]);
            let settings = RetrySettings { confirm_rejections, ..DEFAULT };
            let life = live(HORIZON, settings, Duration::ZERO, &outcomes, &unit);
            prop_assert_eq!((life.state, life.reason), (DeliveryState::Rejected, SettledReason::Refused));
            prop_assert_eq!(life.sent_at.len(), usize::from(confirm_rejections) * (between + 1) + 1);
        }

        #[test]
        fn one_kind_of_failure_never_spends_the_budget_of_another(tally in any_tally(), outcome in any_outcome()) {
            let settlement = settle(&Progress { tally, ..fresh(HORIZON) }, &outcome, DEFAULT, START, 0.0);
            let changed = counters(&tally).iter().zip(counters(&settlement.tally)).filter(|(before, after)| **before != *after).count();
            prop_assert!(changed <= 1);
            for (before, after) in counters(&tally).iter().zip(counters(&settlement.tally)) {
                prop_assert!(after == *before || after == before + 1);
            }
        }

        #[test]
        fn counting_stops_at_the_largest_number_instead_of_starting_again(outcome in any_outcome(), unit in 0.0..1.0) {
            let full = u16::MAX;
            let tally = Tally { recoverable: full, refused: full, config_fault: full, redirected: full, blocked: full, ours: full };
            let settlement = settle(&Progress { attempts: u32::MAX, tally, ..fresh(HORIZON) }, &outcome, DEFAULT, START, unit);
            prop_assert_eq!((settlement.attempts, settlement.tally), (u32::MAX, tally));
        }
    }

    fn any_tally() -> impl Strategy<Value = Tally> {
        any::<[u16; 6]>().prop_map(|[recoverable, refused, config_fault, redirected, blocked, ours]| Tally {
            recoverable,
            refused,
            config_fault,
            redirected,
            blocked,
            ours,
        })
    }

    const fn counters(tally: &Tally) -> [u16; 6] {
        [tally.recoverable, tally.refused, tally.config_fault, tally.redirected, tally.blocked, tally.ours]
    }
}
