//! Whether a receiver is there at all, as its last answers tell.
//!
//! Owns when a lane opens, what closes it and how long a probe waits. Never counts what is one delivery's own trouble against a receiver: a refused
//! token is an answer, and whoever answers is alive. Its memory may be lost at any moment; what is known for certain is the caller's [`Standing`].

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::Timestamp;
use crate::model::attempt::OutcomeClass;
use crate::model::lane::LaneChange;
use crate::plan::retry::jittered;

/// So many failures in a row open a lane.
pub const CONSECUTIVE: u32 = 5;
/// So many answers are needed before their ratio says something.
const RATIO_OF: usize = 10;
/// Seven of ten failures open a lane.
const RATIO_PERCENT: usize = 70;
/// How long an answer counts for the ratio.
const WINDOW: Duration = Duration::from_mins(1);
/// How many answers are remembered.
const REMEMBERED: usize = 32;
/// The wait before the first probe, in seconds.
const PROBE_FIRST: u64 = 5;
/// The longest wait before a probe, in seconds: an absence of days is over ten minutes after the receiver is back.
const PROBE_LAST: u64 = 600;

/// What an outcome says about the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It takes what it is told.
    Taken,
    /// It answers, although it does not take this one.
    Alive,
    /// It says that it is gone.
    Gone,
    /// It does not answer, or asks for patience.
    Away,
    /// It was not asked, by the address rule: no word about the receiver, but no success either.
    Unasked,
    /// Nothing: the fault was ours.
    Nothing,
}

impl Evidence {
    /// What an outcome of this class says.
    pub const fn of(class: OutcomeClass) -> Self {
        match class {
            OutcomeClass::Delivered | OutcomeClass::DeliveredOddly => Self::Taken,
            OutcomeClass::Refused | OutcomeClass::ConfigFault | OutcomeClass::Redirected => Self::Alive,
            OutcomeClass::Gone => Self::Gone,
            OutcomeClass::Recoverable => Self::Away,
            OutcomeClass::Blocked => Self::Unasked,
            OutcomeClass::Ours => Self::Nothing,
        }
    }

    /// What it says about a host: that one client is gone says nothing about the others there.
    pub const fn of_host(class: OutcomeClass) -> Self {
        match Self::of(class) {
            Self::Gone => Self::Alive,
            other @ (Self::Taken | Self::Alive | Self::Away | Self::Unasked | Self::Nothing) => other,
        }
    }
}

/// What the database says about a lane or host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Since when, as far as this process knows, nothing but probes goes out.
    pub open_since: Option<Timestamp>,
    /// It has failed for a while.
    pub failing: bool,
    /// It has failed for a day, or is gone.
    pub parked: bool,
}

impl Standing {
    /// How it stands after a change.
    #[must_use]
    pub fn after(self, change: LaneChange, now: Timestamp) -> Self {
        match change {
            LaneChange::Open { failing } => Self { open_since: self.open_since.or(Some(now)), failing: self.failing || failing, ..self },
            LaneChange::Failing => Self { failing: true, ..self },
            LaneChange::Close => Self::default(),
            LaneChange::Alive => Self { open_since: None, ..self },
            LaneChange::Park => Self { open_since: self.open_since.or(Some(now)), failing: true, parked: true },
        }
    }
}

/// How many witnesses it takes to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witnesses {
    /// A lane: its own failures are enough.
    One,
    /// A host: what one client alone says is that client's trouble.
    Two,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    at: Timestamp,
    away: bool,
    witness: u64,
}

/// What one process remembers of a receiver's answers.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    answers: VecDeque<Answer>,
    /// Failures of the network in a row.
    away: u32,
    /// Attempts in a row that were no success, whatever the reason.
    unsuccessful: u32,
}

impl Breaker {
    /// Takes note of an attempt that began at `began` and is over at `now`, and says what follows. `witness` tells whose attempt it was.
    pub fn judge(
        &mut self,
        evidence: Evidence,
        standing: Standing,
        (began, now): (Timestamp, Timestamp),
        witness: u64,
        needed: Witnesses,
    ) -> Option<LaneChange> {
        // What was under way when it opened just ends.
        let counts = standing.open_since.is_none_or(|since| began >= since);
        match evidence {
            Evidence::Nothing => None,
            Evidence::Taken => {
                self.note(Answer { at: now, away: false, witness });
                self.unsuccessful = 0;
                let troubled = standing.open_since.is_some() || standing.failing || standing.parked;
                (troubled && counts).then(|| self.forget(LaneChange::Close))
            }
            Evidence::Alive => {
                self.note(Answer { at: now, away: false, witness });
                self.unsuccessful = self.unsuccessful.saturating_add(1);
                if standing.open_since.is_some() && counts && !standing.parked {
                    return Some(self.forget(LaneChange::Alive));
                }
                self.failing(standing)
            }
            Evidence::Unasked => {
                self.unsuccessful = self.unsuccessful.saturating_add(1);
                self.failing(standing)
            }
            Evidence::Gone => {
                self.unsuccessful = self.unsuccessful.saturating_add(1);
                if standing.parked { self.failing(standing) } else { Some(LaneChange::Park) }
            }
            Evidence::Away => {
                self.note(Answer { at: now, away: true, witness });
                self.unsuccessful = self.unsuccessful.saturating_add(1);
                if standing.open_since.is_none() && self.opens(now, needed) {
                    return Some(LaneChange::Open { failing: self.unsuccessful >= CONSECUTIVE });
                }
                self.failing(standing)
            }
        }
    }

    fn failing(&self, standing: Standing) -> Option<LaneChange> {
        (self.unsuccessful >= CONSECUTIVE && !standing.failing).then_some(LaneChange::Failing)
    }

    fn forget(&mut self, change: LaneChange) -> LaneChange {
        self.begin_anew();
        change
    }

    /// A receiver that is back begins anew: how it was away before is not held against it.
    pub fn begin_anew(&mut self) {
        self.answers.clear();
        self.away = 0;
    }

    fn note(&mut self, answer: Answer) {
        self.away = if answer.away { self.away.saturating_add(1) } else { 0 };
        if self.answers.len() >= REMEMBERED {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
    }

    fn opens(&self, now: Timestamp, needed: Witnesses) -> bool {
        let in_a_row = usize::try_from(self.away).unwrap_or(usize::MAX);
        let row = self.answers.iter().rev().take(in_a_row);
        let recent = || self.answers.iter().filter(|answer| now.since(answer.at) < WINDOW);
        let (all, away) = (recent().count(), recent().filter(|answer| answer.away).count());
        let consecutive = self.away >= CONSECUTIVE && is_witnessed(row, needed);
        let ratio = all >= RATIO_OF && away * 100 >= all * RATIO_PERCENT && is_witnessed(recent(), needed);
        consecutive || ratio
    }
}

fn is_witnessed<'a>(answers: impl Iterator<Item = &'a Answer>, needed: Witnesses) -> bool {
    let witnesses: BTreeSet<u64> = answers.filter(|answer| answer.away).map(|answer| answer.witness).collect();
    match needed {
        Witnesses::One => !witnesses.is_empty(),
        Witnesses::Two => witnesses.len() >= 2,
    }
}

/// How long the probe after `probes` others waits, but no shorter than one takes.
pub fn probe_wait(probes: u32, takes: Duration, unit: f64) -> Duration {
    let doubled = PROBE_FIRST.saturating_mul(1_u64.checked_shl(probes).unwrap_or(u64::MAX));
    jittered(doubled.min(PROBE_LAST), unit).max(takes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const ALL: [Evidence; 6] = [Evidence::Taken, Evidence::Alive, Evidence::Gone, Evidence::Away, Evidence::Unasked, Evidence::Nothing];

    fn after(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    /// A lane as the database and one process have it.
    #[derive(Default)]
    struct Lane {
        breaker: Breaker,
        standing: Standing,
    }

    impl Lane {
        fn sees(&mut self, evidence: Evidence, now: Timestamp) -> Option<LaneChange> {
            let change = self.breaker.judge(evidence, self.standing, (now, now), 1, Witnesses::One);
            self.standing = change.map_or(self.standing, |change| self.standing.after(change, now));
            change
        }

        fn is_open(&self) -> bool {
            self.standing.open_since.is_some()
        }
    }

    #[test]
    fn five_failures_in_a_row_open_and_four_do_not() {
        let mut lane = Lane::default();
        for second in 0..4 {
            assert_eq!(lane.sees(Evidence::Away, after(second * 1000)), None);
        }
        assert_eq!(lane.sees(Evidence::Away, after(5000)), Some(LaneChange::Open { failing: true }));
    }

    #[test]
    fn seven_of_ten_within_a_minute_open_though_never_five_in_a_row() {
        let mut lane = Lane::default();
        let pattern = [true, true, false, true, true, false, true, true, false, true];
        let opened: Vec<_> = pattern
            .iter()
            .zip(0..)
            .map(|(away, second)| lane.sees(if *away { Evidence::Away } else { Evidence::Taken }, after(second)))
            .collect();
        assert_eq!(opened.iter().rposition(Option::is_some), Some(9), "{opened:?}");
        let mut slow = Lane::default();
        for (away, second) in pattern.iter().zip(0..) {
            assert_eq!(slow.sees(if *away { Evidence::Away } else { Evidence::Taken }, after(second * 20)), None, "spread over minutes");
        }
    }

    #[test]
    fn an_attempt_under_way_when_it_opened_does_not_close_it() {
        let mut breaker = Breaker::default();
        let standing = Standing { open_since: Some(after(10)), ..Standing::default() };
        let judge = |breaker: &mut Breaker, began| breaker.judge(Evidence::Taken, standing, (began, after(20)), 1, Witnesses::One);
        assert_eq!(judge(&mut breaker, after(9)), None);
        assert_eq!(judge(&mut breaker, after(10)), Some(LaneChange::Close));
    }

    #[test]
    fn one_client_alone_does_not_open_its_host_and_two_do() {
        let standing = Standing::default();
        let open = |witnesses: &[u64]| {
            let mut breaker = Breaker::default();
            let judged: Vec<_> =
                witnesses.iter().map(|witness| breaker.judge(Evidence::Away, standing, (START, START), *witness, Witnesses::Two)).collect();
            judged.iter().any(|change| matches!(change, Some(LaneChange::Open { .. })))
        };
        assert!(!open(&[1; 40]));
        assert!(open(&[1, 1, 1, 1, 2]));
        assert!(!open(&[1, 2, 1, 2]));
    }

    #[test]
    fn a_410_parks_at_once_and_only_a_success_takes_it_back() {
        let mut lane = Lane::default();
        assert_eq!(lane.sees(Evidence::Gone, after(0)), Some(LaneChange::Park));
        assert_eq!(lane.sees(Evidence::Alive, after(1)), None, "an answer is not enough");
        assert_eq!(lane.sees(Evidence::Gone, after(2)), None);
        assert_eq!(lane.sees(Evidence::Taken, after(3)), Some(LaneChange::Close));
    }

    #[test]
    fn who_was_found_back_by_somebody_else_needs_as_many_failures_as_ever_to_open() {
        let mut lane = Lane::default();
        for second in 0..9 {
            lane.sees(Evidence::Away, after(second));
        }
        lane.standing = Standing::default();
        lane.breaker.begin_anew();
        let opened: Vec<_> =
            (10..15).map(|second| matches!(lane.sees(Evidence::Away, after(second)), Some(LaneChange::Open { .. }))).collect();
        assert_eq!(opened, [false, false, false, false, true]);
    }

    #[test]
    fn probes_wait_twice_as_long_each_time_and_ten_minutes_at_most() {
        let waits: Vec<u64> = (0..9).map(|probes| probe_wait(probes, Duration::ZERO, 1.0).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(probe_wait(0, Duration::from_secs(11), 0.0).as_secs(), 11, "one probe at a time");
    }

    proptest! {
        #[test]
        fn what_is_one_delivery_s_own_trouble_never_opens_a_lane(
            seen in prop::collection::vec(prop::sample::select(vec![Evidence::Alive, Evidence::Taken, Evidence::Unasked, Evidence::Nothing]), 0..80),
        ) {
            let mut lane = Lane::default();
            for (evidence, second) in seen.into_iter().zip(0..) {
                lane.sees(evidence, after(second));
                prop_assert!(!lane.is_open());
            }
        }

        #[test]
        fn our_own_faults_change_nothing(seen in prop::collection::vec(prop::sample::select(ALL.to_vec()), 0..40)) {
            let (mut with, mut without) = (Lane::default(), Lane::default());
            for (evidence, second) in seen.into_iter().zip(0..) {
                with.sees(Evidence::Nothing, after(second));
                prop_assert_eq!(with.sees(evidence, after(second)), without.sees(evidence, after(second)));
            }
        }

        #[test]
        fn a_success_closes_whatever_was_before(seen in prop::collection::vec(prop::sample::select(ALL.to_vec()), 0..60)) {
            let mut lane = Lane::default();
            let after_all = after(seen.len() as u64);
            for (evidence, second) in seen.into_iter().zip(0..) {
                lane.sees(evidence, after(second));
            }
            lane.sees(Evidence::Taken, after_all);
            prop_assert_eq!(lane.standing, Standing::default());
        }

        #[test]
        fn who_was_away_five_times_in_a_row_is_open(seen in prop::collection::vec(prop::sample::select(ALL.to_vec()), 0..60)) {
            let mut lane = Lane::default();
            for (evidence, second) in seen.into_iter().zip(0..) {
                lane.sees(evidence, after(second));
            }
            for second in 100..105 {
                lane.sees(Evidence::Away, after(second));
            }
            prop_assert!(lane.is_open() && lane.standing.failing);
        }

        #[test]
        fn a_probe_never_waits_longer_than_ten_minutes(probes: u32, unit in 0.0_f64..1.0) {
            let wait = probe_wait(probes, Duration::from_secs(1), unit);
            prop_assert!((Duration::from_millis(2500)..=Duration::from_secs(PROBE_LAST)).contains(&wait));
        }
    }
}
