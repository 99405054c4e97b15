//! Compares this server's clock with what relying parties and providers say the time is.
//!
//! Every process does it for itself, since its clock is its own. A token says when it was made: with a clock that is off, everybody refuses it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::egress::Egress;
use crate::lifecycle::Stop;
use crate::model::ReplicaId;
use crate::model::alarm::{AlarmKind, Raised};
use crate::observe::{ClockCompared, ClockSeen};
use crate::plan::skew::{ahead_ms, worth_telling};
use crate::seams::Clock;
use crate::store::{Store, StoreError};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(2);
/// How many looks pass between two times that it says the same.
const LOOKS_PER_ALARM: u32 = 100;

/// What comparing takes.
#[derive(Clone)]
pub struct ClockDesk {
    /// Whose clock stamps tokens, and where alarms are kept.
    pub store: Store,
    /// Who hears what others say the time is.
    pub egress: Arc<Egress>,
    /// This process's.
    pub clock: Clock,
}

/// Looks until the stop, and tells by how many seconds others are ahead, where that is worth telling.
pub async fn look(desk: ClockDesk, own: ReplicaId, skew: watch::Sender<Option<i64>>, stop: Stop) {
    let mut looks = 0;
    while !stop.is_requested() {
        match step(&desk, &own, &skew, looks).await {
            Ok(()) => looks = (looks + 1) % LOOKS_PER_ALARM,
            Err(error) => error.tell("clock"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.requested() => return,
        }
    }
}

async fn step(desk: &ClockDesk, own: &ReplicaId, skew: &watch::Sender<Option<i64>>, looks: u32) -> Result<(), StoreError> {
    let ClockDesk { store, egress, clock } = desk;
    // Tokens are stamped by the store's clock: on PostgreSQL that is not this process's.
    let stamps_ahead_ms = store.now().await?.millis() - clock.now().millis();
    let ahead = ahead_ms(&egress.clocks_of_others()).map(|ahead| ahead - stamps_ahead_ms);
    ClockSeen { seconds: ahead.unwrap_or(0) / 1000 }.emit();
    let (before, found) = (*skew.borrow(), ahead.and_then(worth_telling));
    match (before, found) {
        (None, Some(seconds)) => ClockCompared::Differs(seconds).emit(),
        (Some(_), None) => ClockCompared::Agrees.emit(),
        (None, None) | (Some(_), Some(_)) => {}
    }
    skew.send_replace(found);
    if found.is_some() && (looks == 0 || before.is_none()) {
        let message = "this server's clock differs from those of relying parties and providers by more than a minute";
        store.raise_alarms(vec![Raised::once(AlarmKind::ClockSkew, None, own.as_str(), message)]).await?;
    }
    Ok(())
}
