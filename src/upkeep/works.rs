//! Works: logouts of many, replays and cancellations, a page of each in turn.
//!
//! In turn, so that a second logout of everybody never waits for the first to be through. A work whose page fails keeps nobody else's from going on.

use super::{Step, Tools};
use crate::model::effects::WorkRules;
use crate::observe::WorkAdvanced;
use crate::plan::effects::opening;
use crate::plan::expiry;
use crate::store::StoreError;

/// How the deliveries of works begin.
const RULES: WorkRules = WorkRules { opening, by_age: expiry::opening };

/// One page of every open work.
pub(super) async fn step(tools: &Tools) -> Result<Step, StoreError> {
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
    match failed {
        Some(error) if !went_on => Err(error),
        Some(_) | None if went_on => Ok(Step::More),
        Some(_) | None => Ok(Step::Dry),
    }
}
