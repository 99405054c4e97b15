//! The count of all deliveries, told to whoever watches.

use std::time::Duration;

use super::store_failed;
use crate::lifecycle::Stop;
use crate::model::delivery::DeliveryState;
use crate::model::event::Counts;
use crate::model::lane::LaneRecord;
use crate::observe::{Gauges, LanesCounted};
use crate::store::{Census, Store, StoreError};

/// How often everything is counted.
const EVERY: Duration = Duration::from_secs(10);

/// Counts the deliveries from time to time, until the stop.
pub async fn keep_count(store: Store, stop: Stop) {
    while !stop.is_requested() {
        match count(&store).await {
            Ok((gauges, lanes)) => {
                gauges.emit();
                lanes.emit();
            }
            Err(error) => store_failed("census", &error),
        }
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn count(store: &Store) -> Result<(Gauges, LanesCounted), StoreError> {
    let Census { enqueued, by_state, oldest_pending } = store.census().await?;
    let now = store.now().await?;
    let gauges = Gauges { enqueued, counts: counts(&by_state), oldest_pending: oldest_pending.map(|at| now.since(at)) };
    Ok((gauges, lanes(&store.lane_records().await?)))
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
