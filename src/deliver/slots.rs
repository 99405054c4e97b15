//! How many attempts run, in all and in each lane, and which lanes wait for one to end.
//!
//! Counted in memory alone: after a restart nothing is in flight, and leases that were lost run out by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::delivery::Lane;

/// The slots of one process.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    max: u16,
    taken: Arc<Mutex<Taken>>,
    doorbell: Arc<Notify>,
}

#[derive(Debug)]
struct Taken {
    lanes: BTreeMap<Lane, u16>,
    total: u16,
    waiting: Waiting,
}

/// Whose slot is waited for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Anybody's: a look is going on, or all slots are taken.
    ForAny,
    /// These lanes': they may have more due rows than slots.
    For(BTreeSet<Lane>),
}

impl Slots {
    pub(super) fn new(max: u16, doorbell: Arc<Notify>) -> Self {
        let taken = Taken { lanes: BTreeMap::new(), total: 0, waiting: Waiting::For(BTreeSet::new()) };
        Self { max, taken: Arc::new(Mutex::new(taken)), doorbell }
    }

    /// How many more attempts may begin. From here to [`Slots::looked`] every slot that becomes free rings: interest is told before the look.
    pub(super) fn look(&self) -> u16 {
        let mut taken = self.lock();
        taken.waiting = Waiting::ForAny;
        self.max.saturating_sub(taken.total)
    }

    /// Ends a look: from here on only those slots ring when they become free.
    pub(super) fn looked(&self, waiting: Waiting) {
        self.lock().waiting = waiting;
    }

    /// How many attempts run in each lane that has any.
    pub(super) fn in_flight(&self) -> BTreeMap<Lane, u16> {
        self.lock().lanes.clone()
    }

    pub(super) fn total(&self) -> u16 {
        self.lock().total
    }

    /// Takes a slot until the guard is dropped.
    pub(super) fn take(&self, lane: &Lane) -> Slot {
        let mut taken = self.lock();
        taken.total = taken.total.saturating_add(1);
        let count = taken.lanes.entry(lane.clone()).or_default();
        *count = count.saturating_add(1);
        Slot { slots: self.clone(), lane: lane.clone() }
    }

    fn free(&self, lane: &Lane) {
        let mut taken = self.lock();
        taken.total = taken.total.saturating_sub(1);
        if let Some(count) = taken.lanes.get_mut(lane) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.lanes.remove(lane);
            }
        }
        let rings = match &taken.waiting {
            Waiting::ForAny => true,
            Waiting::For(lanes) => lanes.contains(lane),
        };
        drop(taken);
        if rings {
            self.doorbell.notify_one();
        }
    }

    /// A panic while counting cannot leave the counts half changed, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One taken slot; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    lane: Lane,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.free(&self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn lane(name: &str) -> Lane {
        Lane::stored(name.to_owned())
    }

    fn rang(doorbell: &Notify) -> bool {
        doorbell.notified().now_or_never().is_some()
    }

    #[test]
    fn a_freed_slot_rings_only_where_more_is_waiting() {
        let doorbell = Arc::new(Notify::new());
        let slots = Slots::new(4, doorbell.clone());
        let (full, calm) = (slots.take(&lane("full")), slots.take(&lane("calm")));
        slots.looked(Waiting::For(BTreeSet::from([lane("full")])));

        drop(calm);
        assert!(!rang(&doorbell));
        drop(full);
        assert!(rang(&doorbell));
    }

    #[test]
    fn a_slot_freed_during_a_look_rings_whoever_it_belongs_to() {
        let doorbell = Arc::new(Notify::new());
        let slots = Slots::new(4, doorbell.clone());
        let slot = slots.take(&lane("calm"));
        assert_eq!(slots.look(), 3);
        drop(slot);
        assert!(rang(&doorbell));
    }

    #[test]
    fn counts_return_to_nothing_when_every_slot_is_free() {
        let slots = Slots::new(2, Arc::new(Notify::new()));
        let (one, two) = (slots.take(&lane("a")), slots.take(&lane("a")));
        assert_eq!((slots.look(), slots.in_flight()), (0, BTreeMap::from([(lane("a"), 2)])));
        drop((one, two));
        assert_eq!((slots.look(), slots.total(), slots.in_flight()), (2, 0, BTreeMap::new()));
    }
}
