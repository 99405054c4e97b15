//! Looks after the lanes that are not simply well: parks them after a day, raises its voice before logouts expire, forgets what is over.
//!
//! How loudly was spoken is kept with the lane in the database, so that each threshold is told once, whichever process tells it, until the lane is well.

use std::time::Duration;

use super::{Step, Tools};
use crate::observe::{HorizonNear, LaneParked};
use crate::plan::lane::{PARKED_AFTER, threshold};
use crate::store::StoreError;

/// How long everybody has to see that a lane closed.
const CLOSED_KEPT: Duration = Duration::from_mins(10);
/// After so long without a probe nothing waits there any more.
const UNPROBED_KEPT: Duration = Duration::from_hours(7 * 24);

/// Does all of it, once.
pub async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let now = tools.store.now().await?;
    let parked = tools.store.park_lanes(now.minus(PARKED_AFTER), now).await?;
    for lane in &parked {
        LaneParked { lane: lane.as_str() }.emit();
    }
    for oldest in tools.store.oldest_waiting().await? {
        let passed = threshold(oldest.horizon_at, oldest.horizon, now).filter(|percent| *percent > oldest.told);
        let Some(percent) = passed else { continue };
        if tools.store.note_told(&oldest.lane, percent).await? {
            HorizonNear { lane: oldest.lane.as_str(), percent, parked: oldest.parked_at.is_some() }.emit();
        }
    }
    tools.store.forget_lanes(now.minus(CLOSED_KEPT), now.minus(UNPROBED_KEPT)).await?;
    if !parked.is_empty() {
        // A lane that answered all the while is probed from now on.
        tools.doorbell.notify_one();
    }
    Ok(Step::Dry)
}
