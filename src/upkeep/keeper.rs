//! One chore, kept: it waits for a reason to look, takes the chore's row, steps until there is nothing left, and lets go.
//!
//! Whoever holds the row does the chore; a hold is short and held on to while stepping, so that a process that dies is replaced after it. That keeps the
//! work from being done twice for nothing; nothing depends on it, since every chore may be run twice.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Chore, Settings, Step, Tools};
use crate::lifecycle::{Died, Stop, Tasks};
use crate::store::{ChoreCall, ChoreOccasion, ChoreTurn, StoreError};

/// How much later than its bell a chore looks by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How long a chore waits before it looks again when the database failed it, or when it panicked.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long a chore that was rung for waits for another process that is at it: that one may have looked before.
const PAUSE_FOR_ANOTHER: Duration = Duration::from_secs(1);
/// How long a chore waits whose schedule names no time any more.
const NEVER: Duration = Duration::from_hours(1);

/// Why a chore looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Its time has come, or may have.
    Time,
    /// It was rung for from inside.
    Rung,
}

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Nothing is left to do.
    Done,
    /// Another process is at it, for so long at most.
    Elsewhere(Duration),
}

/// Does the chore until the stop, whenever `ring` or its own bell is rung, and by itself when both stay silent.
pub async fn keep(chore: Chore, ring: Arc<Notify>, tools: Tools, settings: Settings, tasks: Tasks) {
    let (stop, chore) = (tasks.stop().clone(), Arc::new(chore));
    // What was left by an earlier process is not made to wait for the first ring.
    let mut reason = Reason::Time;
    while !stop.is_requested() {
        let look = look(Arc::clone(&chore), tools.clone(), settings.clone(), reason, stop.clone());
        // In a task of its own, so that one that panics is tried again.
        let wait = match tasks.spawn(chore.name, look).await {
            Ok(Ok(ended)) => {
                let wait = patience(&chore, &tools, reason, ended);
                reason = still(reason, ended);
                wait
            }
            Ok(Err(error)) => {
                error.tell(chore.name);
                PAUSE_AFTER_FAILURE
            }
            Err(Died::Panicked) => PAUSE_AFTER_FAILURE,
            Err(Died::Stopped) => return,
        };
        tokio::select! {
            // A ring is kept until it is heard, so one that comes while looking is not missed.
            () = chore.bell.notified() => reason = Reason::Rung,
            () = ring.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = stop.requested() => {}
        }
    }
}

/// Whoever was rung for stays so until he has looked himself.
const fn still(reason: Reason, ended: Ended) -> Reason {
    match (reason, ended) {
        (Reason::Rung, Ended::Elsewhere(_)) => Reason::Rung,
        (Reason::Rung | Reason::Time, Ended::Done) | (Reason::Time, Ended::Elsewhere(_)) => Reason::Time,
    }
}

/// How long to wait without being rung for: until a little after the schedule's next time, or until whoever is at it must have held on.
fn patience(chore: &Chore, tools: &Tools, reason: Reason, ended: Ended) -> Duration {
    let now = tools.clock.now();
    let next = chore.schedule.next(now).map_or(NEVER, |next| next.since(now)) + GRACE;
    match (ended, reason) {
        (Ended::Done, _) => next,
        (Ended::Elsewhere(_), Reason::Rung) => PAUSE_FOR_ANOTHER,
        (Ended::Elsewhere(left), Reason::Time) => next.min(left.max(PAUSE_FOR_ANOTHER)),
    }
}

async fn look(chore: Arc<Chore>, tools: Tools, settings: Settings, reason: Reason, stop: Stop) -> Result<Ended, StoreError> {
    let Settings { replica: holder, hold, .. } = settings;
    let occasion = match reason {
        Reason::Time => ChoreOccasion::Schedule(chore.schedule.clone()),
        Reason::Rung => ChoreOccasion::Ring,
    };
    let call = ChoreCall { name: chore.name, holder: holder.clone(), hold, occasion };
    let at = match tools.store.take_chore(call.clone()).await? {
        ChoreTurn::Ours { at } => at,
        ChoreTurn::Held { left } => return Ok(Ended::Elsewhere(left)),
        ChoreTurn::Done => return Ok(Ended::Done),
    };
    let done = match until_dry(&chore, &tools, &call, &stop).await {
        Ok(Until::Dry) => Some(at),
        Ok(Until::Stopped) => None,
        Ok(Until::Taken) => return Ok(Ended::Elsewhere(hold)),
        Err(error) => {
            // The failure is what counts; a row that cannot be let go is free after its hold.
            drop(tools.store.leave_chore(chore.name, &holder, None).await);
            return Err(error);
        }
    };
    tools.store.leave_chore(chore.name, &holder, done).await?;
    Ok(Ended::Done)
}

/// Why stepping ended.
enum Until {
    Dry,
    Stopped,
    /// Another process took the chore, since a step outlasted the hold.
    Taken,
}

async fn until_dry(chore: &Chore, tools: &Tools, call: &ChoreCall, stop: &Stop) -> Result<Until, StoreError> {
    let mut held = tools.clock.instant();
    loop {
        match (chore.step)(tools).await? {
            Step::Dry => return Ok(Until::Dry),
            Step::More if stop.is_requested() => return Ok(Until::Stopped),
            Step::More => {}
        }
        if tools.clock.instant().saturating_duration_since(held) >= call.hold / 3 {
            held = tools.clock.instant();
            if !tools.store.hold_chore(call.clone()).await? {
                return Ok(Until::Taken);
            }
        }
    }
}
