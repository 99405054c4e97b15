//! The loop: look, claim, send; then wait until there is a reason to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

use super::request::{self, Claimed, Ended};
use super::settler::{self, Finished};
use super::signer::Signer;
use super::slots::{Slots, Waiting};
use super::{Parts, Settings, Tools, Watch, store_failed};
use crate::model::Timestamp;
use crate::model::delivery::{Lane, Leased};
use crate::plan::lane::{LaneLoad, shares};
use crate::store::{ReadyLane, StoreError};

/// How many lanes with room are looked at in one step; the next step begins elsewhere.
const LANES_MAX: u16 = 256;
/// How long to wait before looking again when the database could not be asked.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Brings each delivery to an outcome.
pub struct Courier {
    tools: Arc<Tools>,
    slots: Slots,
    finished: mpsc::Sender<Finished>,
    pub(super) pulse: watch::Sender<Option<Timestamp>>,
    turn: AtomicUsize,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Lanes that had something due.
    pub ready: usize,
    /// Deliveries claimed and begun.
    pub claimed: usize,
}

impl Courier {
    /// A courier that has not looked yet. Its settler runs from here on; must be called within a runtime.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, egress, keyring, sealing, clock, entropy, tasks, doorbell, settled, pulse, settings } = parts;
        let signer = Signer::new(store.clone(), keyring, sealing, tasks.clone());
        let slots = Slots::new(settings.in_flight_max, Arc::clone(&doorbell));
        let tools = Arc::new(Tools { store, egress, signer, clock, entropy, tasks, doorbell, settled, settings });
        // As many places as slots: whoever has a slot finds a place and never waits for one.
        let (finished, coming) = mpsc::channel(usize::from(settings.in_flight_max).max(1));
        drop(tools.tasks.spawn("settler", settler::run(Arc::clone(&tools), coming)));
        Self { tools, slots, finished, pulse, turn: AtomicUsize::new(0) }
    }

    /// How many attempts are running or waiting to be recorded.
    pub fn in_flight(&self) -> usize {
        usize::from(self.slots.total())
    }

    /// Looks once: claims what there are slots for and begins its attempts. They end on their own.
    pub async fn step(&self, now: Timestamp) -> Result<StepReport, StoreError> {
        // Where the look fails, interest stays told: whatever becomes free is a reason to look again.
        let (report, waiting) = self.look(now).await?;
        self.slots.looked(waiting);
        self.pulse.send_replace(Some(self.tools.clock.now()));
        Ok(report)
    }

    async fn look(&self, now: Timestamp) -> Result<(StepReport, Waiting), StoreError> {
        let free = self.slots.look();
        if free == 0 {
            return Ok((StepReport::default(), Waiting::ForAny));
        }
        let loads = self.loads(now).await?;
        let dealt = shares(&loads, free, self.turn.fetch_add(1, Ordering::Relaxed));
        let claimed = if dealt.is_empty() { Vec::new() } else { self.claim(&dealt, now).await? };
        let report = StepReport { ready: loads.len(), claimed: claimed.len() };
        let waiting = waiting(&loads, &dealt, &claimed, free);
        self.begin(claimed, now).await?;
        Ok((report, waiting))
    }

    /// The lanes with something due. Those without room are asked for on top, so that they cannot hide the others.
    async fn loads(&self, now: Timestamp) -> Result<Vec<LaneLoad>, StoreError> {
        let in_flight = self.slots.in_flight();
        let limit = LANES_MAX.saturating_add(u16::try_from(in_flight.len()).unwrap_or(u16::MAX));
        let ready = self.tools.store.ready_lanes(now, limit).await?;
        let load = |ReadyLane { lane, max_in_flight, .. }| {
            let in_flight = in_flight.get(&lane).copied().unwrap_or(0);
            LaneLoad { lane, in_flight, max_in_flight }
        };
        Ok(ready.into_iter().map(load).collect())
    }

    async fn claim(&self, dealt: &[(Lane, u16)], now: Timestamp) -> Result<Vec<Leased>, StoreError> {
        let lease_token = i64::from_ne_bytes(self.tools.entropy.number().to_ne_bytes());
        self.tools.store.claim_due(dealt, now, now.plus(self.tools.settings.lease), lease_token).await
    }

    /// Begins an attempt for each claimed delivery, or gives all of them back.
    async fn begin(&self, claimed: Vec<Leased>, now: Timestamp) -> Result<(), StoreError> {
        if claimed.is_empty() {
            return Ok(());
        }
        let facts = match self.tools.store.attempt_facts(&claimed).await {
            Ok(facts) => facts,
            Err(error) => {
                settler::give_back(&self.tools, claimed.iter()).await;
                return Err(error);
            }
        };
        let watch = Watch::set(self.tools.clock.clone(), now);
        for (leased, facts) in claimed.into_iter().zip(facts) {
            self.begin_one(Arc::new(Claimed { leased, facts }), watch.clone());
        }
        Ok(())
    }

    fn begin_one(&self, claimed: Arc<Claimed>, watch: Watch) {
        let slot = self.slots.take(&claimed.leased.lane);
        let (tools, finished) = (Arc::clone(&self.tools), self.finished.clone());
        let attempt = async move {
            let attempt = AssertUnwindSafe(request::attempt(&tools, Arc::clone(&claimed), &watch)).catch_unwind();
            let ended = attempt.await.unwrap_or_else(|_| {
                tracing::error!(delivery = %claimed.leased.id, "an attempt panicked");
                Ended::Settled(Box::new(request::died(&tools, &claimed.leased, watch.now())))
            });
            // The settler outlives every attempt; if it does not, the lease runs out.
            drop(finished.send(Finished { claimed, ended, at: watch.now(), slot }).await);
        };
        drop(self.tools.tasks.spawn("attempt", attempt));
    }

    /// Works until the stop: looks until there is nothing to claim, then waits for the doorbell, for the next due time or for the stop.
    pub async fn run(self) {
        let stop = self.tools.tasks.stop().clone();
        while !stop.is_requested() {
            let wait = match self.until_dry().await {
                Ok(wait) => wait,
                Err(error) => {
                    store_failed("courier", &error);
                    PAUSE_AFTER_FAILURE
                }
            };
            tokio::select! {
                // A ring is kept until it is heard, so one that comes while looking is not missed.
                () = self.tools.doorbell.notified() => {}
                () = tokio::time::sleep(wait) => {}
                () = stop.requested() => {}
            }
        }
    }

    /// Steps until nothing is claimed, and says how long there is nothing to do.
    async fn until_dry(&self) -> Result<Duration, StoreError> {
        while !self.tools.tasks.stop().is_requested() {
            let now = self.tools.store.now().await?;
            if self.step(now).await?.claimed == 0 {
                return Ok(patience(&self.tools.settings, now, self.tools.store.next_due().await?));
            }
        }
        Ok(Duration::ZERO)
    }
}

/// How long nothing is to be done: until the next due time, at most until the next poll. What is due already waits for a slot, and a slot rings.
fn patience(settings: &Settings, now: Timestamp, next_due: Option<Timestamp>) -> Duration {
    match next_due {
        None => settings.idle_poll,
        Some(due) if due <= now => settings.poll,
        Some(due) => due.since(now).min(settings.poll),
    }
}

/// Whose slots are waited for: those of lanes that took all they were dealt, or anybody's if no more could be dealt.
fn waiting(loads: &[LaneLoad], dealt: &[(Lane, u16)], claimed: &[Leased], free: u16) -> Waiting {
    let mut untaken: BTreeMap<&Lane, u16> = dealt.iter().map(|(lane, share)| (lane, *share)).collect();
    if untaken.values().sum::<u16>() >= free {
        return Waiting::ForAny;
    }
    for leased in claimed {
        untaken.entry(&leased.lane).and_modify(|left| *left = left.saturating_sub(1));
    }
    let is_dry = |lane: &Lane| untaken.get(lane).is_some_and(|left| *left > 0);
    Waiting::For(loads.iter().map(|load| &load.lane).filter(|lane| !is_dry(lane)).cloned().collect::<BTreeSet<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClientId, IssuerId};

    fn lane(client: &str) -> Lane {
        Lane::of(&IssuerId::parse("main").unwrap(), &ClientId::parse(client).unwrap())
    }

    fn load(client: &str) -> LaneLoad {
        LaneLoad { lane: lane(client), in_flight: 0, max_in_flight: 8 }
    }

    #[test]
    fn the_next_look_is_never_later_than_the_next_due_time_nor_than_the_poll() {
        let settings = Settings {
            in_flight_max: 8,
            timeout_max: Duration::from_secs(10),
            lease: Duration::from_secs(30),
            poll: Duration::from_millis(500),
            idle_poll: Duration::from_secs(5),
            token_lifetime: Duration::from_mins(2),
        };
        let now = Timestamp::from_seconds(1_790_000_000);
        let wait = |due: Option<i64>| patience(&settings, now, due.map(|ms| Timestamp::from_millis(now.millis() + ms))).as_millis();
        assert_eq!([wait(None), wait(Some(-1)), wait(Some(0)), wait(Some(3)), wait(Some(9000))], [5000, 500, 500, 3, 500]);
    }

    #[test]
    fn every_lane_is_waited_for_when_all_slots_were_dealt() {
        assert_eq!(waiting(&[load("a")], &[(lane("a"), 4)], &[], 4), Waiting::ForAny);
    }

    #[test]
    fn a_lane_that_could_not_fill_its_share_is_dry_and_one_without_room_is_not() {
        let waiting = waiting(&[load("dry"), load("full")], &[(lane("dry"), 3)], &[], 4);
        assert_eq!(waiting, Waiting::For(BTreeSet::from([lane("full")])));
    }
}
