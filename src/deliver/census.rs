//! The count of all deliveries, told to whoever watches, and compared with the account of them.

use std::time::Duration;

use crate::lifecycle::Stop;
use crate::model::Timestamp;
use crate::model::alarm::{AlarmKind, Raised};
use crate::model::delivery::{DeliveryState, Lane};
use crate::model::event::Counts;
use crate::model::lane::LaneRecord;
use crate::observe::{AlarmsCounted, GapsCounted, Gauges, LanesCounted, PinnedSeen};
use crate::store::{Census, LaneView, Store, StoreError};

/// How many times as long as a count took nobody counts again: one of millions is not cheap.
const PAUSE_PER_COUNT: u32 = 20;
/// How many counts fail in a row before that is worth an alarm.
const FAILURES_MANY: u32 = 3;

/// How it is counted.
#[derive(Clone, Debug)]
pub struct CensusSettings {
    /// How often at most.
    pub every: Duration,
    /// Whose lanes have figures of their own.
    pub pinned: Vec<Lane>,
}

/// Counts the deliveries from time to time, until the stop.
pub async fn keep_count(store: Store, settings: CensusSettings, stop: Stop) {
    let mut failures = 0;
    while !stop.is_requested() {
        let took = match count(&store, &settings, failures).await {
            Ok(took) => {
                failures = 0;
                took
            }
            Err(error) => {
                error.tell("census");
                failures += 1;
                Duration::ZERO
            }
        };
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(settings.every.max(took * PAUSE_PER_COUNT)) => {}
        }
    }
}

/// Counts once, and tells; answers how long counting took.
async fn count(store: &Store, settings: &CensusSettings, failures: u32) -> Result<Duration, StoreError> {
    // Not by the store's clock, which may be set while it counts.
    let begun = tokio::time::Instant::now();
    let census = store.census().await?;
    let took = begun.elapsed();
    GapsCounted { open: store.open_gaps().await? }.emit();
    let now = store.now().await?;
    let gauges = gauges(census, now);
    gauges.emit();
    lanes(&store.lane_records().await?).emit();
    if !settings.pinned.is_empty() {
        store.lanes(&settings.pinned, now).await?.iter().for_each(|view| tell_pinned(view, now));
    }
    store.keep_alarms(&[AlarmKind::ConservationLost], lost(&gauges)).await?;
    if failures >= FAILURES_MANY {
        let message = "the database could not be used for longer than a moment";
        store.raise_alarms(vec![Raised::once(AlarmKind::StoreFailing, None, "database", message)]).await?;
    }
    let open = store.open_alarms().await?;
    let count = |kind: &AlarmKind| (*kind, open.iter().filter(|alarm| alarm.kind == *kind).count());
    AlarmsCounted { open: AlarmKind::ALL.iter().map(count).collect() }.emit();
    store.balance().await?;
    Ok(took)
}

fn gauges(census: Census, now: Timestamp) -> Gauges {
    let Census { enqueued, forgotten, by_state, oldest_pending } = census;
    Gauges { enqueued, forgotten, counts: counts(&by_state), oldest_pending: oldest_pending.map(|at| now.since(at)) }
}

fn lost(gauges: &Gauges) -> Vec<Raised> {
    let message = format!("missing from the account, or there although nobody wrote them: {} deliveries", gauges.unaccounted());
    let alarm = Raised::once(AlarmKind::ConservationLost, None, "deliveries", message);
    if gauges.unaccounted() > 0 { vec![alarm] } else { Vec::new() }
}

fn tell_pinned(view: &LaneView, now: Timestamp) {
    let Some((issuer, client_id)) = view.lane.parties() else { return };
    let oldest = view.oldest.map_or(Duration::ZERO, |at| now.since(at));
    PinnedSeen { issuer: &issuer, client_id: &client_id, pending: view.pending, oldest, open: view.probe_at.is_some() }.emit();
}

fn lanes(records: &[LaneRecord]) -> LanesCounted {
    let count = |is: fn(&LaneRecord) -> bool| u32::try_from(records.iter().filter(|record| is(record)).count()).unwrap_or(u32::MAX);
    LanesCounted {
        open: count(|record| record.probe_at.is_some()),
        parked: count(|record| record.parked_at.is_some()),
        paused: count(|record| record.paused_at.is_some()),
    }
}

fn counts(by_state: &[(DeliveryState, u64)]) -> Counts {
    let mut counts = Counts::default();
    for (state, count) in by_state {
        let counted = match state {
            DeliveryState::Pending => &mut counts.pending,
            DeliveryState::Delivered => &mut counts.delivered,
            DeliveryState::Rejected => &mut counts.rejected,
            DeliveryState::Expired => &mut counts.expired,
            DeliveryState::Superseded => &mut counts.superseded,
            DeliveryState::Cancelled => &mut counts.cancelled,
            DeliveryState::Unreachable => &mut counts.unreachable,
        };
        *counted += count;
    }
    counts
}
