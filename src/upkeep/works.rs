//! Works: logouts of many, replays and cancellations, a page of each in turn.
//!
//! In turn, so that a second logout of everybody never waits for the first to be through. A work whose page fails keeps nobody else's from going on.

use std::time::Duration;

use super::{Step, Tools};
use crate::model::effects::WorkRules;
use crate::observe::WorkAdvanced;
use crate::plan::effects::opening;
use crate::plan::expiry;
use crate::store::StoreError;

/// How the deliveries of works begin.
const RULES: WorkRules = WorkRules { opening, by_age: expiry::opening };

/// The longest rest between two rounds.
const REST_MAX: Duration = Duration::from_millis(200);

/// One page of every open work; then a rest as long as that took, since whoever is to be told and whoever logs in meanwhile use the same database.
pub(super) async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let begun = tools.clock.instant();
    let (mut went_on, mut failed) = (false, None);
    for id in tools.store.open_works().await? {
        match tools.store.advance_work(&id, RULES).await {
            Ok(None) => {}
            Ok(Some(advanced)) => {
                went_on = true;
                WorkAdvanced { work: &id, kind: advanced.kind.as_str(), ended: advanced.ended, done: advanced.done }.emit();
                tools.doorbell.notify_one();
                tools.settled.send_modify(|count| *count += advanced.settled + u64::from(advanced.done));
            }
            Err(error) => failed = Some(error),
        }
    }
    if went_on {
        tokio::time::sleep(tools.clock.instant().saturating_duration_since(begun).min(REST_MAX)).await;
    }
    match failed {
        Some(error) if !went_on => Err(error),
        Some(_) | None if went_on => Ok(Step::More),
        Some(_) | None => Ok(Step::Dry),
    }
}
