//! The chore that forgets what has been kept long enough.

use super::{Step, Tools};
use crate::store::{Forgettable, StoreError};

/// Removes a few hundred rows of each kind at most. Keys go before the logouts they name.
pub async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let (mut removed, mut failed) = (0, None);
    let mut count = |outcome: Result<u64, StoreError>| match outcome {
        Ok(rows) => {
            removed += rows;
            rows
        }
        // One kind that fails keeps no other from going.
        Err(error) => {
            failed = Some(error);
            0
        }
    };
    if count(tools.store.forget(Forgettable::IdempotencyKeys, tools.keep).await) == 0 {
        count(tools.store.forget_logouts(tools.keep).await);
    }
    for kind in Forgettable::ALL.iter().copied().filter(|kind| *kind != Forgettable::IdempotencyKeys) {
        count(tools.store.forget(kind, tools.keep).await);
    }
    match failed {
        Some(error) => Err(error),
        None if removed > 0 => Ok(Step::More),
        None => Ok(Step::Dry),
    }
}
