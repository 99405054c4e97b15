//! The one task that writes outcomes down, as many at a time as are waiting.
//!
//! An outcome in hand is kept until it is recorded, also while the database is away: its slot stays taken, so that there are never more of them than
//! slots. Only a hard stop drops one; then its lease runs out and the client is told once more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Tools;
use super::lanes::Ended;
use super::request::{self, Claimed};
use super::slots::Slot;
use crate::model::alarm::{Raised, given_up, joined};
use crate::model::attempt::Failure;
use crate::model::delivery::{DeliveryState, Lane, Leased, SettledReason, Verdict};
use crate::model::lane::LaneChange;
use crate::model::{DeliveryId, Timestamp};
use crate::observe::traces::{Scope, inside};
use crate::observe::{AttemptMade, DeliverySettled, LaneClosed, LaneOpened, LaneParked, LeaseLost};
use crate::store::{LaneNote, Recorded, Settlement, StoreError};

/// How many outcomes are written in one statement.
const BATCH_MAX: usize = 128;
/// How long to wait before writing again what could not be written.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(5);

/// An attempt that is over; its slot is free when this is dropped.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) claimed: Arc<Claimed>,
    pub(super) ended: request::Ended,
    pub(super) at: Timestamp,
    pub(super) slot: Slot,
}

/// An outcome in hand.
struct InHand {
    claimed: Arc<Claimed>,
    settlement: Box<Settlement>,
    at: Timestamp,
    slot: Slot,
}

/// Records what comes until nobody can send any more.
pub(super) async fn run(tools: Arc<Tools>, mut finished: mpsc::Receiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while finished.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut in_hand = Vec::with_capacity(batch.len());
        let mut unbegun = Vec::new();
        for Finished { claimed, ended, at, slot } in batch.drain(..) {
            match ended {
                request::Ended::Settled(settlement) => in_hand.push(InHand { claimed, settlement, at, slot }),
                request::Ended::Unbegun => unbegun.push((claimed, slot)),
            }
        }
        if !unbegun.is_empty() {
            give_back(&tools, unbegun.iter().map(|(claimed, _)| &claimed.leased)).await;
        }
        if !in_hand.is_empty() {
            settle(&tools, in_hand).await;
        }
    }
}

/// Gives leases back. Tried once: a lease that cannot be given back runs out by itself.
pub(super) async fn give_back(tools: &Tools, unbegun: impl Iterator<Item = &Leased>) {
    let leases: Vec<(DeliveryId, i64)> = unbegun.map(|leased| (leased.id.clone(), leased.lease_token)).collect();
    if let Err(error) = tools.store.release(&leases).await {
        error.tell("release");
    }
}

async fn settle(tools: &Tools, in_hand: Vec<InHand>) {
    match write(tools, &in_hand).await {
        Ok(recorded) => {
            let moved = note_lanes(tools, &in_hand).await;
            let given_up = tell(tools, in_hand, &recorded, moved);
            // Tried once: the counter and the log have it too.
            if let Err(error) = tools.store.raise_alarms(joined(given_up)).await {
                error.tell("raise_alarms");
            }
        }
        // One row that cannot be read must not keep the others from being settled.
        Err(Unreadable) if in_hand.len() > 1 => {
            for one in in_hand {
                Box::pin(settle(tools, vec![one])).await;
            }
        }
        // Nothing can be written about it: its lease runs out, and the log has said why.
        Err(Unreadable) => {}
    }
}

/// The database holds a row that cannot be.
struct Unreadable;

/// Writes until the database has it. Writing twice is safe: the second time the lease is gone, and nothing changes.
async fn write(tools: &Tools, in_hand: &[InHand]) -> Result<Vec<Recorded>, Unreadable> {
    let at = in_hand.iter().map(|one| one.at).max().unwrap_or_default();
    let mut pause = *PAUSE.start();
    loop {
        match tools.store.settle(in_hand.iter().map(|one| Settlement::clone(&one.settlement)).collect(), at).await {
            Ok(recorded) => return Ok(recorded),
            Err(error) => {
                error.tell("settle");
                match error {
                    StoreError::Corrupt { .. } => return Err(Unreadable),
                    StoreError::Unavailable(_) | StoreError::Unread(_) => tokio::time::sleep(pause).await,
                }
                pause = (pause * 2).min(*PAUSE.end());
            }
        }
    }
}

/// Writes down what the attempts say about their receivers, before their slots are free: who looks next sees it. Tried once, since the next attempt will
/// say the same. Says whether anything changed.
async fn note_lanes(tools: &Tools, in_hand: &[InHand]) -> bool {
    let judged = |one: &InHand| {
        let Some(attempt) = &one.settlement.attempt else { return Vec::new() };
        let used = one.slot.used();
        let (class, failure, began) = (attempt.class, attempt.failure, attempt.started_at);
        let ended = Ended { lane: &used.lane, host: used.host.as_ref(), class, failure, began, at: one.at, probe: used.probe };
        tools.lanes.judge(&ended, tools.entropy.unit())
    };
    let (notes, were_open): (Vec<LaneNote>, Vec<bool>) = in_hand.iter().flat_map(judged).unzip();
    if notes.is_empty() {
        return false;
    }
    let at = in_hand.iter().map(|one| one.at).max().unwrap_or_default();
    match tools.store.note_lanes(notes.clone(), at).await {
        Ok(changed) => {
            let told = notes.iter().zip(were_open).zip(changed).filter(|(_, changed)| *changed);
            told.for_each(|((note, was_open), _)| tell_lane(&note.lane, note.change, was_open));
            true
        }
        Err(error) => {
            error.tell("note_lanes");
            false
        }
    }
}

fn tell_lane(lane: &Lane, change: LaneChange, was_open: bool) {
    match change {
        LaneChange::Open { .. } => LaneOpened { lane: lane.as_str() }.emit(),
        LaneChange::Close | LaneChange::Alive if was_open => LaneClosed { lane: lane.as_str() }.emit(),
        LaneChange::Park => LaneParked { lane: lane.as_str() }.emit(),
        LaneChange::Close | LaneChange::Alive | LaneChange::Failing => {}
    }
}

/// Frees the slots and tells what happened, once for each delivery; answers what somebody must hear of.
fn tell(tools: &Tools, in_hand: Vec<InHand>, recorded: &[Recorded], moved: bool) -> Vec<Raised> {
    let (mut goes_on, mut changed, mut raised) = (moved, 0, Vec::new());
    for one in &in_hand {
        let leased = &one.claimed.leased;
        inside(scope(one), || tell_attempt(one));
        let is_ours = recorded.iter().any(|recorded| recorded.delivery == leased.id && !recorded.fenced);
        match (is_ours, &one.settlement.verdict) {
            (true, Verdict::Settled { state, reason }) => {
                inside(scope(one), || tell_settled(one, *state, *reason));
                if matches!(state, DeliveryState::Rejected | DeliveryState::Expired) {
                    raised.push(given_up(&leased.issuer, &leased.client_id));
                }
                changed += 1;
            }
            (true, Verdict::Again { .. }) => goes_on = true,
            // Somebody else settled it, or we did in a commit whose answer was lost: whoever waits looks again.
            (false, _) => {
                LeaseLost { delivery: &leased.id }.emit();
                changed += 1;
            }
        }
    }
    if changed > 0 {
        tools.settled.send_modify(|count| *count += changed);
    }
    drop(in_hand);
    if goes_on {
        // The next due time is nearer than the courier knows.
        tools.doorbell.notify_one();
    }
    raised
}

/// What is said of it belongs to the trace of its logout.
fn scope(one: &InHand) -> Scope {
    Scope { trace: one.claimed.facts.trace.clone(), ..Scope::default() }
}

/// Nobody knows whether it was heard, and it is told again.
fn is_repeated(one: &InHand) -> bool {
    let failure = one.settlement.attempt.as_ref().and_then(|attempt| attempt.failure);
    let ambiguous = matches!(failure, Some(Failure::Timeout | Failure::Broken | Failure::Garbled));
    ambiguous && matches!(one.settlement.verdict, Verdict::Again { .. })
}

fn tell_attempt(one: &InHand) {
    let leased = &one.claimed.leased;
    if let Some(attempt) = &one.settlement.attempt {
        AttemptMade {
            delivery: &leased.id,
            client_id: &leased.client_id,
            number: attempt.number,
            class: attempt.class,
            duration: attempt.duration,
            age: one.at.since(leased.created_at),
            repeated: is_repeated(one),
        }
        .emit();
    }
}

fn tell_settled(one: &InHand, state: DeliveryState, reason: SettledReason) {
    let leased = &one.claimed.leased;
    DeliverySettled {
        delivery: &leased.id,
        event: &leased.event,
        client_id: &leased.client_id,
        state,
        reason,
        attempts: one.settlement.attempts,
        age: one.at.since(leased.created_at),
    }
    .emit();
}
