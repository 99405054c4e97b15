//! How many attempts run, in all and in each lane, and which lanes wait for one to end.
//!
//! Counted in memory alone: after a restart nothing is in flight, and leases that were lost run out by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::delivery::{Class, Lane};
use crate::plan::lane::fair::{Busy, InFlight};

/// The slots of one process.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    max: u16,
    taken: Arc<Mutex<Taken>>,
    doorbell: Arc<Notify>,
}

#[derive(Debug)]
struct Taken {
    busy: Snapshot,
    waiting: Waiting,
}

/// What is in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// In all.
    pub(super) in_flight: InFlight,
    /// In each lane that has any.
    pub(super) lanes: BTreeMap<Lane, Busy>,
    /// At each host that has any.
    pub(super) hosts: BTreeMap<Lane, u16>,
}

/// What a slot is taken for.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) lane: Lane,
    pub(super) host: Option<Lane>,
    pub(super) class: Class,
    pub(super) retry: bool,
    pub(super) probe: bool,
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
        let taken = Taken { busy: Snapshot::default(), waiting: Waiting::For(BTreeSet::new()) };
        Self { max, taken: Arc::new(Mutex::new(taken)), doorbell }
    }

    /// What is in flight. From here to [`Slots::looked`] every slot that becomes free rings: interest is told before the look.
    pub(super) fn look(&self) -> Snapshot {
        let mut taken = self.lock();
        taken.waiting = Waiting::ForAny;
        taken.busy.clone()
    }

    /// How many attempts may run at once.
    pub(super) const fn max(&self) -> u16 {
        self.max
    }

    /// Ends a look: from here on only those slots ring when they become free.
    pub(super) fn looked(&self, waiting: Waiting) {
        self.lock().waiting = waiting;
    }

    pub(super) fn in_flight(&self) -> InFlight {
        self.lock().busy.in_flight
    }

    pub(super) fn total(&self) -> u16 {
        self.lock().busy.in_flight.total()
    }

    /// Takes a slot until the guard is dropped.
    pub(super) fn take(&self, used: Use) -> Slot {
        self.lock().busy.count(&used, |count| count.saturating_add(1));
        Slot { slots: self.clone(), used }
    }

    fn free(&self, used: &Use) {
        let mut taken = self.lock();
        taken.busy.count(used, |count| count.saturating_sub(1));
        let rings = match &taken.waiting {
            Waiting::ForAny => true,
            // A probe's place is nobody's own.
            Waiting::For(lanes) => used.probe || lanes.contains(&used.lane),
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

impl Snapshot {
    fn count(&mut self, used: &Use, with: impl Fn(u16) -> u16) {
        let Use { lane, host, class, retry, probe } = used;
        let in_all = if *probe { &mut self.in_flight.probes } else { self.in_flight.attempts.of_mut(*class).of_mut(*retry) };
        *in_all = with(*in_all);
        let busy = self.lanes.entry(lane.clone()).or_default();
        let of_kind = busy.of_mut(*class).of_mut(*retry);
        *of_kind = with(*of_kind);
        if *busy == Busy::default() {
            self.lanes.remove(lane);
        }
        let Some(host) = host else { return };
        let at_host = self.hosts.entry(host.clone()).or_default();
        *at_host = with(*at_host);
        if *at_host == 0 {
            self.hosts.remove(host);
        }
    }
}

/// One taken slot; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    used: Use,
}

impl Slot {
    /// What it is taken for.
    pub(super) const fn used(&self) -> &Use {
        &self.used
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.free(&self.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn lane(name: &str) -> Lane {
        Lane::stored(name.to_owned())
    }

    fn attempt(name: &str) -> Use {
        Use { lane: lane(name), host: Some(Lane::of_host("a:1")), class: Class::Interactive, retry: false, probe: false }
    }

    fn rang(doorbell: &Notify) -> bool {
        doorbell.notified().now_or_never().is_some()
    }

    #[test]
    fn a_freed_slot_rings_only_where_more_is_waiting() {
        let doorbell = Arc::new(Notify::new());
        let slots = Slots::new(4, doorbell.clone());
        let (full, calm) = (slots.take(attempt("full")), slots.take(attempt("calm")));
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
        let slot = slots.take(attempt("calm"));
        assert_eq!(slots.look().in_flight.total(), 1);
        drop(slot);
        assert!(rang(&doorbell));
    }

    #[test]
    fn counts_return_to_nothing_when_every_slot_is_free() {
        let slots = Slots::new(2, Arc::new(Notify::new()));
        let (one, two) = (slots.take(attempt("a")), slots.take(Use { probe: true, retry: true, ..attempt("a") }));
        let busy = slots.look();
        assert_eq!((busy.in_flight.total(), busy.in_flight.probes, busy.hosts.values().sum::<u16>()), (2, 1, 2));
        assert_eq!(busy.lanes.get(&lane("a")).map(|busy| (busy.interactive.first, busy.interactive.retry)), Some((1, 1)));
        drop((one, two));
        assert_eq!((slots.look(), slots.total()), (Snapshot::default(), 0));
    }
}
