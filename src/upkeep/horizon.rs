//! Ends what waited in vain: deliveries whose horizon passed while nobody attempted them, in lanes that are open or paused above all.

use super::{Step, Tools};
use crate::model::alarm::{given_up, joined};
use crate::model::delivery::{DeliveryState, SettledReason};
use crate::observe::{DeliverySettled, HorizonNear};
use crate::store::StoreError;

/// How many are ended in one transaction.
const BATCH: u16 = 500;

/// Expires one batch.
pub async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let now = tools.store.now().await?;
    let passed = tools.store.expire_passed(now, BATCH).await?;
    for one in &passed {
        let (state, reason) = (DeliveryState::Expired, SettledReason::Horizon);
        let (attempts, age) = (one.attempts, now.since(one.created_at));
        DeliverySettled { delivery: &one.delivery, event: &one.event, client_id: &one.client_id, state, reason, attempts, age }.emit();
        if tools.store.note_told(&one.lane, 100).await? {
            HorizonNear { lane: one.lane.as_str(), percent: 100, parked: false }.emit();
        }
    }
    let given_up = passed.iter().filter_map(|one| one.lane.parties()).map(|(issuer, client)| given_up(&issuer, &client));
    tools.store.raise_alarms(joined(given_up.collect())).await?;
    if !passed.is_empty() {
        let count = u64::try_from(passed.len()).unwrap_or(u64::MAX);
        tools.settled.send_modify(|settled| *settled = settled.saturating_add(count));
    }
    Ok(if passed.len() >= usize::from(BATCH) { Step::More } else { Step::Dry })
}
