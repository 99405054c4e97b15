//! Who gets the next slot.
//!
//! Owns three divisions, each work-conserving: between classes (50 : 40 : 10 while all wait, in each lane and in the process), between first attempts and
//! others of one class in one lane (4 : 1), and between lanes (in turn). One fifth of the process is for first attempts alone, one tenth for probes, so
//! that neither a mass of repeats nor a mass of anything else can shut out a new logout or the return of a receiver.
//!
//! Whoever has the fewest in flight for its weight is next; where that is even, whoever was served least for its weight.

use std::collections::VecDeque;

use super::{Classes, Turns};
use crate::model::delivery::{Class, Lane};
use crate::model::lane::Deal;

/// What one service of a class adds to its pass: the less, the greater its weight (50, 40 and 10).
const CLASS_STRIDES: Classes<u64> = Classes { compromise: 4, interactive: 5, bulk: 20 };
/// The same for first attempts and others (4 and 1).
const TURN_STRIDES: Turns<u64> = Turns { first: 1, retry: 4 };
const TURNS: [bool; 2] = [false, true];

/// What is in flight in one lane.
pub type Busy = Classes<Turns<u16>>;
/// What waits in one lane.
pub type Due = Classes<Turns<bool>>;

/// What is in flight in the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// By class and turn, without probes.
    pub attempts: Busy,
    /// Probes.
    pub probes: u16,
}

impl InFlight {
    /// All of it.
    pub fn total(&self) -> u16 {
        self.turn(false).saturating_add(self.turn(true)).saturating_add(self.probes)
    }

    fn turn(&self, retry: bool) -> u16 {
        Class::ALL.iter().fold(0, |sum, class| sum.saturating_add(*self.attempts.of(*class).of(retry)))
    }

    /// Whether one more attempt may begin, of `total` slots in all.
    pub fn admits(&self, total: u16, retry: bool) -> bool {
        let shared = total - probes_reserved(total);
        let (first, again) = (self.turn(false), self.turn(true));
        let foreign = self.probes.saturating_sub(probes_reserved(total));
        let taken = first.saturating_add(again).saturating_add(foreign);
        // First attempts fill the part that is theirs before they take from what is shared.
        let beyond = first.saturating_sub(first_reserved(total)).saturating_add(again).saturating_add(foreign);
        taken < shared && (!retry || beyond < shared - first_reserved(total))
    }

    /// Whether one more probe may begin. There are never more of them than are reserved, and always one.
    pub fn admits_probe(&self, total: u16) -> bool {
        self.total() < total && self.probes < probes_reserved(total).max(1)
    }
}

const fn probes_reserved(total: u16) -> u16 {
    total / 10
}

const fn first_reserved(total: u16) -> u16 {
    total / 5
}

/// How much each class and turn was served. It may be lost at any moment: then all are even.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    classes: Classes<u64>,
    turns: Classes<Turns<u64>>,
}

impl Passes {
    /// So many of this kind were begun.
    pub fn serve(&mut self, class: Class, retry: bool, begun: u16) {
        *self.classes.of_mut(class) += CLASS_STRIDES.of(class) * u64::from(begun);
        *self.turns.of_mut(class).of_mut(retry) += TURN_STRIDES.of(retry) * u64::from(begun);
    }

    /// Who does not wait saves nothing up for later.
    pub fn forgo(&mut self, due: &Due) {
        let is_due = |class: Class| TURNS.iter().any(|retry| *due.of(class).of(*retry));
        if let Some(least) = Class::ALL.iter().filter(|class| is_due(**class)).map(|class| *self.classes.of(*class)).min() {
            for class in Class::ALL.iter().filter(|class| !is_due(**class)) {
                let pass = self.classes.of_mut(*class);
                *pass = least.max(*pass);
            }
        }
        for class in Class::ALL {
            let (due, turns) = (due.of(*class), self.turns.of_mut(*class));
            match (due.first, due.retry) {
                (true, false) => turns.retry = turns.first.max(turns.retry),
                (false, true) => turns.first = turns.retry.max(turns.first),
                (true, true) | (false, false) => {}
            }
        }
    }
}

/// A lane that has something due.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Which.
    pub lane: Lane,
    /// How many more it may begin by its own limits.
    pub room: u16,
    /// The position of its host among the hosts' rooms.
    pub host: Option<usize>,
    /// What it has in flight.
    pub busy: Busy,
    /// What was served.
    pub passes: Passes,
    /// What waits.
    pub due: Due,
}

/// What was dealt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dealt {
    /// To whom how much.
    pub deals: Vec<Deal>,
    /// Some lane with room of its own was left with something due.
    pub short: bool,
}

/// What the process has to deal.
#[derive(Clone, Copy, Debug)]
pub struct Purse {
    /// How many slots there are.
    pub total: u16,
    /// What is in flight.
    pub in_flight: InFlight,
    /// What was served.
    pub passes: Passes,
}

/// Deals the process's slots one by one. `hosts` is how many more each host may begin. Lanes of one class are served in turn, beginning with the one at
/// `start` (counted round): who advances it by one at each step serves every lane.
pub fn deal(purse: Purse, hosts: &[u16], demands: &[Demand], start: usize) -> Dealt {
    let mut table = Table { purse, hosts: hosts.to_vec(), lanes: demands.iter().map(Hand::of).collect(), queues: Classes::default() };
    let first = start.checked_rem(demands.len()).unwrap_or(0);
    for position in (first..demands.len()).chain(0..first) {
        table.queue(position);
    }
    while table.purse.in_flight.admits(purse.total, false) {
        let Some(class) = table.next_class() else { break };
        let Some(position) = table.queues.of_mut(class).pop_front() else { break };
        table.serve(position, class);
    }
    let short = table.lanes.iter().any(|hand| hand.room > 0 && hand.is_due());
    let deals = table.lanes.into_iter().flat_map(Hand::into_deals).collect();
    Dealt { deals, short }
}

/// One lane while it is dealt to.
struct Hand<'a> {
    demand: &'a Demand,
    room: u16,
    busy: Busy,
    passes: Passes,
    dealt: Busy,
}

impl<'a> Hand<'a> {
    fn of(demand: &'a Demand) -> Self {
        let Demand { lane: _, room, host: _, busy, passes, due: _ } = demand;
        Self { demand, room: *room, busy: *busy, passes: *passes, dealt: Busy::default() }
    }

    fn is_due(&self) -> bool {
        Class::ALL.iter().any(|class| TURNS.iter().any(|retry| *self.demand.due.of(*class).of(*retry)))
    }

    /// What this lane would begin next.
    fn offer(&self, retries: bool) -> Option<(Class, bool)> {
        let waits = |class: Class, retry: bool| *self.demand.due.of(class).of(retry) && (retries || !retry);
        let busy = |class: Class| u64::from(*self.busy.of(class).of(false)) + u64::from(*self.busy.of(class).of(true));
        let class = Class::ALL
            .iter()
            .copied()
            .filter(|class| TURNS.iter().any(|retry| waits(*class, *retry)))
            .min_by_key(|class| (busy(*class) * CLASS_STRIDES.of(*class), *self.passes.classes.of(*class)))?;
        let (busy, passes) = (self.busy.of(class), self.passes.turns.of(class));
        let turn = TURNS
            .into_iter()
            .filter(|retry| waits(class, *retry))
            .min_by_key(|retry| (u64::from(*busy.of(*retry)) * TURN_STRIDES.of(*retry), *passes.of(*retry)))?;
        Some((class, turn))
    }

    fn into_deals(self) -> impl Iterator<Item = Deal> {
        Class::ALL.iter().flat_map(move |class| TURNS.map(|retry| (*class, retry))).filter_map(move |(class, retry)| {
            let slots = *self.dealt.of(class).of(retry);
            (slots > 0).then(|| Deal { lane: self.demand.lane.clone(), class, retry, slots })
        })
    }
}

struct Table<'a> {
    purse: Purse,
    hosts: Vec<u16>,
    lanes: Vec<Hand<'a>>,
    /// The lanes that would begin something of each class next, in turn.
    queues: Classes<VecDeque<usize>>,
}

impl Table<'_> {
    fn retries(&self) -> bool {
        self.purse.in_flight.admits(self.purse.total, true)
    }

    /// Puts a lane at the end of the queue of what it would begin next, if it may begin anything.
    fn queue(&mut self, position: usize) {
        let retries = self.retries();
        let Some(hand) = self.lanes.get(position) else { return };
        let host = hand.demand.host.and_then(|host| self.hosts.get(host)).is_none_or(|room| *room > 0);
        if let (true, true, Some((class, _))) = (hand.room > 0, host, hand.offer(retries)) {
            self.queues.of_mut(class).push_back(position);
        }
    }

    fn next_class(&self) -> Option<Class> {
        let busy = |class: Class| {
            let turns = self.purse.in_flight.attempts.of(class);
            u64::from(turns.first) + u64::from(turns.retry)
        };
        let waiting = Class::ALL.iter().copied().filter(|class| !self.queues.of(*class).is_empty());
        waiting.min_by_key(|class| (busy(*class) * CLASS_STRIDES.of(*class), *self.purse.passes.classes.of(*class)))
    }

    /// Deals one slot to a lane, unless what it wanted is not to be had any more.
    fn serve(&mut self, position: usize, queued: Class) {
        let retries = self.retries();
        let Some(hand) = self.lanes.get_mut(position) else { return };
        let room = hand.demand.host.and_then(|host| self.hosts.get_mut(host));
        if let (Some((class, retry)), true) = (hand.offer(retries), room.as_ref().is_none_or(|room| **room > 0))
            && class == queued
        {
            room.into_iter().for_each(|room| *room -= 1);
            hand.room -= 1;
            for busy in [&mut hand.busy, &mut hand.dealt, &mut self.purse.in_flight.attempts] {
                *busy.of_mut(class).of_mut(retry) += 1;
            }
            hand.passes.serve(class, retry, 1);
            self.purse.passes.serve(class, retry, 1);
        }
        self.queue(position);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn lane(name: usize) -> Lane {
        Lane::stored(format!("main/{name}"))
    }

    fn due(first: [bool; 3], retry: [bool; 3]) -> Due {
        let turns = |n: usize| Turns { first: first[n], retry: retry[n] };
        Classes { compromise: turns(0), interactive: turns(1), bulk: turns(2) }
    }

    const EVERYTHING: [bool; 3] = [true; 3];
    const NOTHING: [bool; 3] = [false; 3];

    fn demand(name: usize, room: u16, due: Due) -> Demand {
        Demand { lane: lane(name), room, host: None, busy: Busy::default(), passes: Passes::default(), due }
    }

    fn purse(total: u16) -> Purse {
        Purse { total, in_flight: InFlight::default(), passes: Passes::default() }
    }

    fn sum(deals: &[Deal], of: impl Fn(&Deal) -> bool) -> u16 {
        deals.iter().filter(|deal| of(deal)).map(|deal| deal.slots).sum()
    }

    fn demands() -> impl Strategy<Value = Vec<Demand>> {
        let one = (0_u16..12, any::<[bool; 3]>(), any::<[bool; 3]>(), prop::option::of(0_usize..3));
        prop::collection::vec(one, 0..40).prop_map(|lanes| {
            let demand = |(name, (room, first, retry, host))| Demand { host, ..demand(name, room, due(first, retry)) };
            lanes.into_iter().enumerate().map(demand).collect()
        })
    }

    fn busy() -> impl Strategy<Value = InFlight> {
        let turns = || (0_u16..80, 0_u16..80).prop_map(|(first, retry)| Turns { first, retry });
        (turns(), turns(), turns(), 0_u16..30)
            .prop_map(|(compromise, interactive, bulk, probes)| InFlight { attempts: Classes { compromise, interactive, bulk }, probes })
    }

    fn is_due(demand: &Demand, deal: &Deal) -> bool {
        *demand.due.of(deal.class).of(deal.retry)
    }

    /// A process in which everything that is begun is over at random, and everything always waits.
    struct Life {
        total: u16,
        in_flight: InFlight,
        passes: Passes,
        lanes: Vec<Demand>,
        running: Vec<(usize, Class, bool)>,
        begun: Classes<Turns<u32>>,
    }

    impl Life {
        fn new(total: u16, lanes: Vec<Demand>) -> Self {
            Self { total, in_flight: InFlight::default(), passes: Passes::default(), lanes, running: Vec::new(), begun: Classes::default() }
        }

        fn step(&mut self, start: usize) {
            let purse = Purse { total: self.total, in_flight: self.in_flight, passes: self.passes };
            for deal in super::deal(purse, &[], &self.lanes, start).deals {
                let position = self.lanes.iter().position(|demand| demand.lane == deal.lane).unwrap();
                let demand = &mut self.lanes[position];
                demand.room -= deal.slots;
                *demand.busy.of_mut(deal.class).of_mut(deal.retry) += deal.slots;
                *self.in_flight.attempts.of_mut(deal.class).of_mut(deal.retry) += deal.slots;
                demand.passes.serve(deal.class, deal.retry, deal.slots);
                self.passes.serve(deal.class, deal.retry, deal.slots);
                *self.begun.of_mut(deal.class).of_mut(deal.retry) += u32::from(deal.slots);
                self.running.extend((0..deal.slots).map(|_| (position, deal.class, deal.retry)));
            }
        }

        fn end(&mut self, which: usize) {
            if self.running.is_empty() {
                return;
            }
            let (position, class, retry) = self.running.swap_remove(which % self.running.len());
            self.lanes[position].room += 1;
            *self.lanes[position].busy.of_mut(class).of_mut(retry) -= 1;
            *self.in_flight.attempts.of_mut(class).of_mut(retry) -= 1;
        }

        fn percent(&self, class: Class) -> u32 {
            let of = |class: &Class| self.begun.of(*class).first + self.begun.of(*class).retry;
            of(&class) * 100 / Class::ALL.iter().map(of).sum::<u32>()
        }
    }

    #[test]
    fn a_hanging_client_keeps_its_own_slots_and_no_others() {
        let lanes = [demand(0, 0, due(EVERYTHING, NOTHING)), demand(1, 8, due(EVERYTHING, NOTHING))];
        let dealt = deal(purse(512), &[], &lanes, 0);
        assert_eq!((sum(&dealt.deals, |deal| deal.lane == lane(0)), sum(&dealt.deals, |deal| deal.lane == lane(1))), (0, 8));
        assert!(!dealt.short);
    }

    #[test]
    fn a_normal_logout_is_next_however_many_of_many_were_begun_before() {
        let bulk = Classes { bulk: Turns { first: 300, retry: 0 }, ..Classes::default() };
        let busy = Classes { bulk: Turns { first: 7, retry: 0 }, ..Classes::default() };
        let all = due([false, true, true], NOTHING);
        let lanes = [Demand { busy, ..demand(0, 1, all) }, demand(1, 8, due([false, false, true], NOTHING))];
        let full = Purse { in_flight: InFlight { attempts: bulk, probes: 0 }, ..purse(335) };
        let dealt = deal(full, &[], &lanes, 1);
        assert_eq!(sum(&dealt.deals, |deal| deal.class == Class::Interactive && deal.lane == lane(0)), 1, "{dealt:?}");
    }

    #[test]
    fn repeats_leave_a_fifth_to_first_attempts_and_everything_leaves_a_tenth_to_probes() {
        let (again, both) = (due(NOTHING, EVERYTHING), due(EVERYTHING, EVERYTHING));
        let repeats = deal(purse(100), &[], &[demand(0, 500, again)], 0);
        assert_eq!(sum(&repeats.deals, |_| true), 70);
        assert!(repeats.short);
        assert_eq!(sum(&deal(purse(100), &[], &[demand(0, 500, both)], 0).deals, |_| true), 90);
        let full = InFlight { attempts: Classes { bulk: Turns { first: 90, retry: 0 }, ..Classes::default() }, probes: 0 };
        assert!(!full.admits(100, false) && full.admits_probe(100));
        assert!(!InFlight { probes: 10, ..full }.admits_probe(100));
    }

    #[test]
    fn a_process_of_one_slot_still_delivers_and_still_probes() {
        assert_eq!(sum(&deal(purse(1), &[], &[demand(0, 8, due(NOTHING, EVERYTHING))], 0).deals, |_| true), 1);
        assert!(InFlight::default().admits_probe(1));
    }

    proptest! {
        #[test]
        fn no_limit_is_ever_exceeded(
            demands in demands(), in_flight in busy(), total in 1_u16..600, hosts in prop::collection::vec(0_u16..9, 3), start: usize,
        ) {
            let dealt = deal(Purse { total, in_flight, passes: Passes::default() }, &hosts, &demands, start).deals;
            for (position, demand) in demands.iter().enumerate() {
                prop_assert!(sum(&dealt, |deal| deal.lane == lane(position)) <= demand.room);
                prop_assert!(dealt.iter().filter(|deal| deal.lane == lane(position)).all(|deal| is_due(demand, deal)));
            }
            for (host, room) in hosts.iter().enumerate() {
                let there = |deal: &Deal| demands.iter().any(|demand| demand.lane == deal.lane && demand.host == Some(host));
                prop_assert!(sum(&dealt, there) <= *room);
            }
            let all = sum(&dealt, |_| true);
            prop_assert!(all == 0 || in_flight.total() + all <= total - probes_reserved(total).saturating_sub(in_flight.probes));
            let repeats = sum(&dealt, |deal| deal.retry);
            prop_assert!(repeats == 0 || in_flight.turn(true) + repeats <= total - probes_reserved(total) - first_reserved(total));
        }

        #[test]
        fn no_slot_stays_free_while_somebody_could_use_it(demands in demands(), in_flight in busy(), total in 1_u16..600, start: usize) {
            let demands: Vec<_> = demands.into_iter().map(|demand| Demand { host: None, ..demand }).collect();
            let dealt = deal(Purse { total, in_flight, passes: Passes::default() }, &[], &demands, start);
            let mut after = in_flight;
            for deal in &dealt.deals {
                *after.attempts.of_mut(deal.class).of_mut(deal.retry) += deal.slots;
            }
            let mut left = false;
            for (position, demand) in demands.iter().enumerate() {
                let room = demand.room - sum(&dealt.deals, |deal| deal.lane == lane(position));
                let any = |retry: bool| Class::ALL.iter().any(|class| *demand.due.of(*class).of(retry));
                prop_assert!(room == 0 || !any(false) || !after.admits(total, false));
                prop_assert!(room == 0 || !any(true) || !after.admits(total, true));
                left |= room > 0 && (any(false) || any(true));
            }
            prop_assert_eq!(dealt.short, left, "it is said whether somebody was left waiting");
        }

        #[test]
        fn a_rotating_start_serves_every_lane_however_few_slots_there_are(count in 1_usize..40, total in 1_u16..4, start in 0_usize..1000) {
            let demands: Vec<_> = (0..count).map(|name| demand(name, 3, due([false, true, false], NOTHING))).collect();
            let served: BTreeSet<Lane> =
                (0..count).flat_map(|step| deal(purse(total), &[], &demands, start + step).deals).map(|deal| deal.lane).collect();
            prop_assert_eq!(served.len(), count);
        }

        #[test]
        fn no_lane_gets_a_second_slot_before_every_other_of_that_class_has_one(count in 1_usize..40, total in 1_u16..200, start: usize) {
            let demands: Vec<_> = (0..count).map(|name| demand(name, 8, due([false, true, false], NOTHING))).collect();
            let dealt = deal(purse(total), &[], &demands, start).deals;
            let of: Vec<u16> = (0..count).map(|name| sum(&dealt, |deal| deal.lane == lane(name))).collect();
            prop_assert!(of.iter().max().unwrap() - of.iter().min().unwrap() <= 1);
        }

        #[test]
        fn every_waiting_class_has_a_slot_where_there_are_as_many(room in 3_u16..50, first: [bool; 3], retry: [bool; 3]) {
            let dealt = deal(purse(512), &[], &[demand(0, room, due(first, retry))], 0).deals;
            for (class, (first, retry)) in Class::ALL.iter().zip(first.iter().zip(&retry)) {
                prop_assert!(!(*first || *retry) || sum(&dealt, |deal| deal.class == *class) >= 1);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn a_busy_lane_shares_its_slots_fifty_to_forty_to_ten(max in 1_u16..40, ends in prop::collection::vec(any::<usize>(), 600)) {
            let mut life = Life::new(512, vec![demand(0, max, due(EVERYTHING, EVERYTHING))]);
            for (step, end) in ends.into_iter().enumerate() {
                life.step(step);
                life.end(end);
            }
            let percent = Class::ALL.iter().map(|class| life.percent(*class)).collect::<Vec<_>>();
            // Every class has one slot at least, which is more than its share where there are few.
            let slack = if max < 10 { 28 } else { 12 };
            for (seen, meant) in percent.iter().zip([50_u32, 40, 10]) {
                prop_assert!(seen.abs_diff(meant) <= slack, "{:?} of {}", percent, max);
            }
            let retries: u32 = Class::ALL.iter().map(|class| life.begun.of(*class).retry).sum();
            let firsts: u32 = Class::ALL.iter().map(|class| life.begun.of(*class).first).sum();
            prop_assert!(retries > 0 && firsts > retries, "{} to {}", firsts, retries);
        }

        #[test]
        fn a_busy_process_shares_its_slots_fifty_to_forty_to_ten(total in 20_u16..60, ends in prop::collection::vec(any::<usize>(), 900)) {
            let of = |n: usize| due([0, 1, 2].map(|class| n % 3 == class), NOTHING);
            let mut life = Life::new(total, (0..30).map(|n| demand(n, 50, of(n))).collect());
            for (step, end) in ends.into_iter().enumerate() {
                life.step(step);
                life.end(end);
            }
            for (class, meant) in Class::ALL.iter().zip([50_u32, 40, 10]) {
                prop_assert!(life.percent(*class).abs_diff(meant) <= 12, "{} of {}", life.percent(*class), total);
            }
        }

        #[test]
        fn who_did_not_wait_has_saved_nothing_up(served in 1_u16..1000) {
            let mut passes = Passes::default();
            passes.serve(Class::Interactive, false, served);
            passes.forgo(&due([false, true, false], NOTHING));
            let mut begun = Vec::new();
            for _ in 0..20 {
                let both = Demand { passes, ..demand(0, 1, due([false, true, true], NOTHING)) };
                let one = deal(purse(512), &[], &[both], 0).deals.remove(0);
                passes.serve(one.class, one.retry, one.slots);
                begun.push(one);
            }
            prop_assert!(sum(&begun, |deal| deal.class == Class::Interactive) >= 14, "{:?}", begun);
        }
    }
}
