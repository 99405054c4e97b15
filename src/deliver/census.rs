//! The count of all deliveries, told to whoever watches.

use std::time::Duration;

use super::store_failed;
use crate::lifecycle::Stop;
use crate::model::delivery::DeliveryState;
use crate::model::event::Counts;
use crate::model::lane::LaneRecord;
use crate::observe::{GapsCounted, Gauges, LanesCounted};
use crate::store::{Census, Store, StoreError};

/// How often everything is counted.
const EVERY: Duration = Duration::from_secs(10);
/// How many times as long as a count took nobody counts again: one of millions is not cheap.
const PAUSE_PER_COUNT: u32 = 20;

/// Counts the deliveries from time to time, until the stop.
pub async fn keep_count(store: Store, stop: Stop) {
    while !stop.is_requested() {
        let took = match count(&store).await {
            Ok((gauges, lanes, took)) => {
                gauges.emit();
                lanes.emit();
                took
            }
            Err(error) => {
                store_failed("census", &error);
                Duration::ZERO
            }
        };
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(EVERY.max(took * PAUSE_PER_COUNT)) => {}
        }
    }
}

/// The counts, and how long counting took.
async fn count(store: &Store) -> Result<(Gauges, LanesCounted, Duration), StoreError> {
    let begun = store.now().await?;
    let Census { enqueued, by_state, oldest_pending } = store.census().await?;
    GapsCounted { open: store.open_gaps().await? }.emit();
    let now = store.now().await?;
    let gauges = Gauges { enqueued, counts: counts(&by_state), oldest_pending: oldest_pending.map(|at| now.since(at)) };
    Ok((gauges, lanes(&store.lane_records().await?), now.since(begun)))
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
