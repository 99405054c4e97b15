//! The count of all deliveries, told to whoever watches.

use std::time::Duration;

use super::store_failed;
use crate::lifecycle::Stop;
use crate::model::delivery::DeliveryState;
use crate::model::event::Counts;
use crate::observe::Gauges;
use crate::store::{Census, Store, StoreError};

/// How often everything is counted.
const EVERY: Duration = Duration::from_secs(10);

/// Counts the deliveries from time to time, until the stop.
pub async fn keep_count(store: Store, stop: Stop) {
    while !stop.is_requested() {
        match count(&store).await {
            Ok(gauges) => gauges.emit(),
            Err(error) => store_failed("census", &error),
        }
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn count(store: &Store) -> Result<Gauges, StoreError> {
    let Census { enqueued, by_state, oldest_pending } = store.census().await?;
    let now = store.now().await?;
    Ok(Gauges { enqueued, counts: counts(&by_state), oldest_pending: oldest_pending.map(|at| now.since(at)) })
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
