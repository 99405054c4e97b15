//! Processes that were not seen for a day are forgotten.

use std::time::Duration;

use super::{Step, Tools};
use crate::store::StoreError;

/// How long a process may be silent before nobody expects it back.
const UNSEEN_MAX: Duration = Duration::from_hours(24);

pub(super) async fn step(tools: &Tools) -> Result<Step, StoreError> {
    match tools.store.forget_replicas(UNSEEN_MAX).await? {
        0 => Ok(Step::Dry),
        _ => Ok(Step::More),
    }
}
