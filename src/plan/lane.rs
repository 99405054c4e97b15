//! How many deliveries each lane may claim now.
//!
//! Owns two limits: per client, so that a hanging one holds its own slots and nobody else's; and for the process, shared in turn. Keeps no counts
//! itself.

use crate::model::delivery::Lane;

/// A lane with something due, and how busy it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneLoad {
    /// Which lane.
    pub lane: Lane,
    /// Attempts in flight.
    pub in_flight: u16,
    /// How many may be in flight at once.
    pub max_in_flight: u16,
}

impl LaneLoad {
    const fn room(&self) -> u16 {
        self.max_in_flight.saturating_sub(self.in_flight)
    }
}

/// Deals `free` slots to the lanes one by one in turn, beginning with the one at `start` (counted round), each as far as it has room. Lanes that get none
/// are left out. A caller that advances `start` by one at each step serves every lane with room at least once in as many steps as there are lanes.
pub fn shares(lanes: &[LaneLoad], free: u16, start: usize) -> Vec<(Lane, u16)> {
    let (before, from) = lanes.split_at(start.checked_rem(lanes.len()).unwrap_or(0));
    let mut dealt: Vec<(&LaneLoad, u16)> = from.iter().chain(before).filter(|load| load.room() > 0).map(|load| (load, 0)).collect();
    let mut left = free;
    while left > 0 && deal_round(&mut dealt, &mut left) == Round::Dealt {}
    dealt.into_iter().filter(|(_, share)| *share > 0).map(|(load, share)| (load.lane.clone(), share)).collect()
}

#[derive(PartialEq, Eq)]
enum Round {
    Dealt,
    NobodyHasRoom,
}

fn deal_round(dealt: &mut [(&LaneLoad, u16)], left: &mut u16) -> Round {
    let mut round = Round::NobodyHasRoom;
    for (_, share) in dealt.iter_mut().filter(|(load, share)| *share < load.room()).take(usize::from(*left)) {
        *share += 1;
        *left -= 1;
        round = Round::Dealt;
    }
    round
}

/// A process's part in what all of them do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many processes share the work.
    pub replicas: u16,
    /// Which of them this one is, counted from 0.
    pub rank: u16,
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn lane(name: usize) -> Lane {
        Lane::stored(format!("main/{name}"))
    }

    fn load(name: usize, in_flight: u16, max_in_flight: u16) -> LaneLoad {
        LaneLoad { lane: lane(name), in_flight, max_in_flight }
    }

    fn loads() -> impl Strategy<Value = Vec<LaneLoad>> {
        prop::collection::vec((0_u16..12, 0_u16..12), 0..40)
            .prop_map(|lanes| lanes.into_iter().enumerate().map(|(name, (busy, max))| load(name, busy, max)).collect())
    }

    fn by_lane(shares: Vec<(Lane, u16)>) -> BTreeMap<Lane, u16> {
        let count = shares.len();
        let map: BTreeMap<Lane, u16> = shares.into_iter().collect();
        assert_eq!(map.len(), count, "each lane is named once");
        map
    }

    #[test]
    fn a_hanging_client_keeps_its_own_slots_and_no_others() {
        let lanes = [load(0, 8, 8), load(1, 0, 8), load(2, 0, 8)];
        assert_eq!(shares(&lanes, 504, 0), [(lane(1), 8), (lane(2), 8)]);
    }

    #[test]
    fn scarce_slots_are_dealt_in_turn() {
        let lanes = [load(0, 0, 8), load(1, 0, 8), load(2, 0, 8)];
        assert_eq!(shares(&lanes, 2, 2), [(lane(2), 1), (lane(0), 1)]);
        assert_eq!(shares(&lanes, 4, 1), [(lane(1), 2), (lane(2), 1), (lane(0), 1)]);
        assert_eq!(shares(&lanes, 0, 1), []);
        assert_eq!(shares(&[], 9, 5), []);
    }

    proptest! {
        #[test]
        fn no_lane_exceeds_its_limit_and_all_together_not_the_process(loads in loads(), free in 0_u16..600, start: usize) {
            let shares = by_lane(shares(&loads, free, start));
            for load in &loads {
                let share = shares.get(&load.lane).copied().unwrap_or(0);
                prop_assert!(share == 0 || load.in_flight + share <= load.max_in_flight);
            }
            prop_assert!(shares.values().sum::<u16>() <= free);
        }

        #[test]
        fn no_slot_stays_free_while_a_lane_has_room(loads in loads(), free in 0_u16..600, start: usize) {
            let room: u16 = loads.iter().map(LaneLoad::room).sum();
            prop_assert_eq!(by_lane(shares(&loads, free, start)).values().sum::<u16>(), free.min(room));
        }

        #[test]
        fn no_lane_gets_a_second_slot_before_every_lane_with_room_has_one(loads in loads(), free in 0_u16..600, start: usize) {
            let shares = by_lane(shares(&loads, free, start));
            let most = shares.values().copied().max().unwrap_or(0);
            for load in &loads {
                let share = shares.get(&load.lane).copied().unwrap_or(0);
                prop_assert!(share == load.room() || share + 1 >= most, "{} of {} while another has {}", share, load.room(), most);
            }
        }

        #[test]
        fn a_rotating_start_serves_every_lane_with_room_however_few_slots_there_are(loads in loads(), free in 1_u16..4, start in 0_usize..1000) {
            let served: BTreeSet<Lane> =
                (0..loads.len()).flat_map(|step| shares(&loads, free, start + step)).map(|(lane, _)| lane).collect();
            let ready: BTreeSet<Lane> = loads.iter().filter(|load| load.room() > 0).map(|load| load.lane.clone()).collect();
            prop_assert_eq!(served, ready);
        }
    }
}
