//! Looks at what somebody must look at, and tells him.
//!
//! What is wrong with lanes, and which gaps are open, is read from the database, so that it is known after a restart and over when it is over; what happened once was raised where it
//! happened. Every process does this: whoever takes an alarm to tell it holds it for a while, and one who dies is followed by another.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use url::Url;
use zeroize::Zeroizing;

use crate::egress::{Answer, Egress, Keep, Method, Request};
use crate::lifecycle::Stop;
use crate::model::alarm::{AlarmKind, AlarmRecord, AlarmState, Raised};
use crate::model::attempt::Outcome;
use crate::model::client::Network;
use crate::model::delivery::Lane;
use crate::model::lane::LaneRecord;
use crate::model::{IssuerId, Timestamp};
use crate::observe::AlarmTold;
use crate::plan::alarm::next_try;
use crate::plan::lane::threshold;
use crate::store::{Oldest, Store, StoreError, Telling};
use crate::token::webhook_signature;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(2);
/// After how long a receiver that is away is worth an alarm.
const AWAY_LONG: Duration = Duration::from_mins(15);
/// After how long an open gap is worth an alarm: a provider that lists what lives may close it before.
const GAP_LONG: Duration = Duration::from_mins(10);
/// How long telling may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long nobody else tells what somebody is telling.
const HOLD: Duration = Duration::from_mins(1);
/// How many are told in one look.
const TOLD_MAX: usize = 20;

/// Where somebody is told.
#[derive(Clone, Debug)]
pub struct Hook {
    /// The address.
    pub url: Url,
    /// What may be reached although it is not public.
    pub network: Network,
    /// What messages are signed with.
    pub secret: Zeroizing<Vec<u8>>,
    /// How often he is told again of what stays so.
    pub repeat: Duration,
}

/// What looking and telling takes.
#[derive(Clone)]
pub struct Desk {
    /// Where alarms are kept.
    pub store: Store,
    /// The way out.
    pub egress: Arc<Egress>,
    /// Where somebody is told; nobody is without it.
    pub hook: Option<Hook>,
}

/// Looks until the stop.
pub async fn watch(desk: Desk, stop: Stop) {
    while !stop.is_requested() {
        if let Err(error) = step(&desk).await {
            error.tell("alarms");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.requested() => return,
        }
    }
}

/// Looks once, and tells what is due.
pub async fn step(desk: &Desk) -> Result<(), StoreError> {
    let now = desk.store.now().await?;
    let lanes = desk.store.lane_records().await?;
    let oldest = if lanes.is_empty() { Vec::new() } else { desk.store.oldest_waiting().await? };
    let gaps = desk.store.gaps_open_since(now.minus(GAP_LONG)).await?;
    let wanted = lanes.iter().flat_map(|lane| of_lane(lane, now)).chain(oldest.iter().filter_map(|oldest| of_oldest(oldest, now)));
    let wanted = wanted.chain(gaps.iter().map(|(issuer, until)| of_gaps(issuer, *until)));
    desk.store.keep_alarms(LOOKED_FOR, wanted.collect()).await?;
    desk.store.end_quiet_alarms().await?;
    let Some(hook) = &desk.hook else { return Ok(()) };
    for _ in 0..TOLD_MAX {
        let Some(alarm) = desk.store.take_alarm(HOLD).await? else { break };
        let telling = tell(desk, hook, &alarm, now).await;
        desk.store.alarm_told(&alarm, telling).await?;
    }
    Ok(())
}

/// What is over when a look does not find it any more.
const LOOKED_FOR: &[AlarmKind] = &[AlarmKind::LaneParked, AlarmKind::BreakerOpen, AlarmKind::HorizonNear, AlarmKind::GapOpen];

fn of_gaps(issuer: &IssuerId, until: Timestamp) -> Raised {
    let message = format!("a gap is open: tokens from before {until} are inactive until their sessions are reported, or it is closed");
    Raised::once(AlarmKind::GapOpen, Some(issuer), "(gap)", message)
}

fn of_lane(lane: &LaneRecord, now: Timestamp) -> Vec<Raised> {
    let mut raised = Vec::new();
    if lane.parked_at.is_some() {
        raised.push(about(
            AlarmKind::LaneParked,
            &lane.lane,
            "it has failed for a day, or says that it is gone: somebody must look at it".to_owned(),
        ));
    }
    let away = lane.probe_at.is_some() && lane.failing_since.is_some_and(|since| now.since(since) >= AWAY_LONG);
    if away {
        raised.push(about(
            AlarmKind::BreakerOpen,
            &lane.lane,
            "it has been away for a quarter of an hour: nothing but probes goes to it".to_owned(),
        ));
    }
    raised
}

fn of_oldest(oldest: &Oldest, now: Timestamp) -> Option<Raised> {
    // What was told of stays told until the lane is well: a delivery that expired leaves a younger one behind.
    let percent = threshold(oldest.horizon_at, oldest.horizon, now).unwrap_or(0).max(oldest.told);
    let message = format!("{percent} % of the time of its oldest delivery has passed");
    (percent > 0).then(|| about(AlarmKind::HorizonNear, &oldest.lane, message))
}

fn about(kind: AlarmKind, lane: &Lane, message: String) -> Raised {
    match (lane.parties(), lane.provider()) {
        (Some((issuer, client)), _) => Raised::once(kind, Some(&issuer), client.as_str(), message),
        (None, Some(issuer)) => Raised::once(kind, Some(&issuer), "(provider)", message),
        (None, None) => Raised::once(kind, None, lane.as_str(), message),
    }
}

/// What is told of an alarm.
#[derive(Debug, Serialize)]
struct Message<'a> {
    id: &'a str,
    kind: &'static str,
    issuer: Option<&'a str>,
    about: &'a str,
    message: &'a str,
    first_at: String,
    last_at: String,
    count: u64,
    state: &'static str,
}

impl<'a> Message<'a> {
    fn of(alarm: &'a AlarmRecord) -> Self {
        Self {
            id: alarm.id.as_str(),
            kind: alarm.kind.as_str(),
            issuer: alarm.issuer.as_ref().map(IssuerId::as_str),
            about: &alarm.about,
            message: &alarm.message,
            first_at: alarm.first_at.to_string(),
            last_at: alarm.last_at.to_string(),
            count: alarm.count,
            state: if alarm.cleared_at.is_some() { "cleared" } else { "raised" },
        }
    }
}

async fn tell(desk: &Desk, hook: &Hook, alarm: &AlarmRecord, now: Timestamp) -> Telling {
    let body = serde_json::to_vec(&Message::of(alarm)).unwrap_or_default();
    // The same for every try at one telling, so that its receiver can tell a repeat.
    let (id, at) = (format!("{}-{}-{}", alarm.id, alarm.tellings, state_of(alarm).as_str()), now.millis() / 1000);
    let (timestamp, signature) = (at.to_string(), webhook_signature(&hook.secret, &id, at, &body));
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", id.as_str()),
        ("webhook-timestamp", timestamp.as_str()),
        ("webhook-signature", signature.as_str()),
    ];
    let request = Request {
        method: Method::Post,
        url: &hook.url,
        network: &hook.network,
        headers: &headers,
        body: &body,
        secrets: &[],
        keep: Keep::Excerpt,
        timeout: TIMEOUT,
        now,
    };
    let Answer { outcome, detail, .. } = desk.egress.send(request).await;
    let failed = match outcome {
        Outcome::Answered { status: 200..300, .. } => None,
        Outcome::Answered { status, .. } => Some(format!("it was answered with {status}")),
        Outcome::Failed(failure) => Some(detail.unwrap_or_else(|| failure.to_string())),
    };
    AlarmTold { kind: alarm.kind, about: &alarm.about, failed: failed.as_deref(), attempt: alarm.attempts + 1 }.emit();
    match failed {
        None => Telling::Done { again: hook.repeat },
        Some(_) => Telling::Failed { again: next_try(alarm.attempts) },
    }
}

const fn state_of(alarm: &AlarmRecord) -> AlarmState {
    if alarm.cleared_at.is_some() { AlarmState::Cleared } else { AlarmState::Open }
}
