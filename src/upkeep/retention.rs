//! The chore that forgets what has been kept long enough.

use super::{Step, Tools};
use crate::store::{Forgettable, StoreError};

/// Removes a few hundred rows of each kind at most. Keys go before the logouts they name.
pub async fn step(tools: &Tools) -> Result<Step, StoreError> {
    let mut removed = tools.store.forget(Forgettable::IdempotencyKeys, tools.keep).await?;
    if removed == 0 {
        removed += tools.store.forget_logouts(tools.keep).await?;
    }
    for kind in Forgettable::ALL.iter().copied().filter(|kind| *kind != Forgettable::IdempotencyKeys) {
        removed += tools.store.forget(kind, tools.keep).await?;
    }
    Ok(if removed > 0 { Step::More } else { Step::Dry })
}
