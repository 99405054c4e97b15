//! What is said about deliveries that are there: try this one again, tell this one to nobody, try those again that were given up.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::http::shapes::DeliveryShape;
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Code, FieldError, NoBody, Path, Problem, ProblemDocument, Reply, Seat, StrictJson, Text, needs};
use crate::model::DeliveryId;
use crate::model::access::Role;
use crate::model::audit::Act;
use crate::model::delivery::{DeliveryState, DeliveryView};
use crate::observe::DeliverySettled;
use crate::plan::effects::opening;
use crate::store::{AuditEntry, Cancelled, Replay, Replayed, Retried};

fn unknown() -> Problem {
    Problem::of(Code::UnknownDelivery)
}

fn entry(act: Act, seat: &Seat, detail: &Value) -> AuditEntry {
    AuditEntry { issuer: Some(seat.issuer.id.clone()), ..AuditEntry::of(act, &seat.caller, detail.clone()) }
}

/// Have a delivery tried again: at once, as the same delivery, with new patience. One that was settled is pending again, and so is its logout; an
/// attempt under way is not interrupted, and what it gives up is not given up. A newer login of the same person is spared as at any late attempt.
#[utoipa::path(post, path = "/v1/issuers/{iss}/deliveries/{id}/retry", tag = "logouts", operation_id = "retryDelivery", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("id" = String, Path, description = "The delivery.")),
    responses(
        (status = 202, description = "It is pending.", body = DeliveryShape),
        (status = 409, description = "`cannot-be-told`: nothing could be sent to the client as it is registered.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn retry_delivery(
    State(app): State<AppState>,
    At(seat, _): At<needs::RetryDeliveries>,
    Path((_, id)): Path<(String, String)>,
    NoBody: NoBody,
) -> Result<Reply<DeliveryShape>, Problem> {
    let id = DeliveryId::parse(&id).ok_or_else(unknown)?;
    let own = match (seat.caller.role, &seat.caller.client_id) {
        (Role::Client, None) => return Err(unknown()),
        (Role::Client, Some(own)) => Some(own.clone()),
        (Role::Provider | Role::Gateway | Role::Operator | Role::Auditor | Role::Admin, _) => None,
    };
    let audit = entry(Act::DeliveryRetried, &seat, &json!({ "delivery": id.as_str() }));
    match app.store.retry_delivery(&seat.issuer.id, &id, own, opening, audit).await? {
        Retried::Opened(view) => {
            app.doorbell.notify_one();
            Ok(Reply::accepted((*view).into()))
        }
        Retried::CannotBeTold(reason) => Err(Problem::new(Code::CannotBeTold, format!("as the client is registered: {reason}"))),
        Retried::Absent => Err(unknown()),
    }
}

/// Cancel a pending delivery: the client is not told. An attempt under way may still reach it.
#[utoipa::path(post, path = "/v1/issuers/{iss}/deliveries/{id}/cancel", tag = "logouts", operation_id = "cancelDelivery", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("id" = String, Path, description = "The delivery.")),
    responses(
        (status = 200, description = "It is cancelled.", body = DeliveryShape),
        (status = 409, description = "`already-settled`: it is not pending any more.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn cancel_delivery(
    State(app): State<AppState>,
    At(seat, _): At<needs::Operate>,
    Path((_, id)): Path<(String, String)>,
    NoBody: NoBody,
) -> Result<Reply<DeliveryShape>, Problem> {
    let id = DeliveryId::parse(&id).ok_or_else(unknown)?;
    let audit = entry(Act::DeliveryCancelled, &seat, &json!({ "delivery": id.as_str() }));
    match app.store.cancel_delivery(&seat.issuer.id, &id, audit).await? {
        Cancelled::Done(view) => {
            tell(&view);
            app.settled.send_modify(|count| *count += 1);
            Ok(Reply::ok((*view).into()))
        }
        Cancelled::Settled(state) => Err(Problem::new(Code::AlreadySettled, format!("the delivery is {state}"))),
        Cancelled::Absent => Err(unknown()),
    }
}

fn tell(view: &DeliveryView) {
    let (Some(reason), Some(settled_at)) = (view.reason, view.settled_at) else { return };
    DeliverySettled {
        delivery: &view.id,
        event: &view.event,
        client_id: &view.client_id,
        state: view.state,
        reason,
        attempts: view.attempts,
        age: settled_at.since(view.created_at),
    }
    .emit();
}

/// Which settled deliveries are tried again. Whoever means those of all clients, of all times and for all reasons says the states.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayBody {
    /// Those to this client.
    client_id: Option<text::ClientId>,
    /// In these states: `rejected`, `expired` and `unreachable` unless it says otherwise; `delivered` only when it is named.
    #[schema(min_items = 1, max_items = 6)]
    state: Option<Vec<text::DeliveryState>>,
    /// Written at this time or later.
    since: Option<text::Timestamp>,
    /// Written before this time.
    until: Option<text::Timestamp>,
    /// Of logouts for this reason.
    reason: Option<text::Reason>,
    /// Only say how many there are.
    #[serde(default)]
    dry_run: bool,
}

/// What a replay found and did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReplayShape {
    /// How many deliveries its filter found.
    matched: u64,
    /// How many of them are pending again already. Those whose client could not be told stay as they are.
    reopened: u64,
    /// How many are left to the work, which goes on by itself.
    remaining: u64,
    /// The work; absent when there is nothing left for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    work: Option<text::WorkId>,
}

impl From<Replayed> for ReplayShape {
    fn from(replayed: Replayed) -> Self {
        let Replayed { matched, reopened, remaining, work } = replayed;
        Self { matched, reopened, remaining, work: work.map(Text) }
    }
}

/// What is replayed unless it is said.
const GIVEN_UP: [DeliveryState; 3] = [DeliveryState::Rejected, DeliveryState::Expired, DeliveryState::Unreachable];

/// Have settled deliveries tried again, the oldest first: as the same deliveries, with new patience, behind everything that is more urgent. The first
/// 1,000 are pending when this is answered; a work goes on with the others. Saying it twice opens nothing twice.
#[utoipa::path(post, path = "/v1/issuers/{iss}/deliveries/replay", tag = "logouts", operation_id = "replayDeliveries", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body = ReplayBody,
    responses(
        (status = 200, description = "A dry run: nothing was done.", body = ReplayShape),
        (status = 202, description = "They are tried again.", body = ReplayShape),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn replay_deliveries(
    State(app): State<AppState>,
    At(seat, _): At<needs::Operate>,
    StrictJson(body): StrictJson<ReplayBody>,
) -> Result<Reply<ReplayShape>, Problem> {
    let dry_run = body.dry_run;
    let replay = body.replay(&seat, app.store.now().await?)?;
    if dry_run {
        let matched = app.store.replay_matches(&replay).await?;
        return Ok(Reply::ok(Replayed { matched, ..Replayed::default() }.into()));
    }
    // The store adds what was replayed, and how many.
    let audit = entry(Act::DeliveriesReplayed, &seat, &json!({}));
    let replayed = app.store.replay(replay, opening, audit).await?;
    app.doorbell.notify_one();
    if replayed.work.is_some() {
        app.bells.works.notify_one();
    }
    Ok(Reply::accepted(replayed.into()))
}

impl ReplayBody {
    fn replay(self, seat: &Seat, now: crate::model::Timestamp) -> Result<Replay, Problem> {
        let Self { client_id, state, since, until, reason, dry_run: _ } = self;
        let is_narrow = client_id.is_some() || since.is_some() || until.is_some() || reason.is_some();
        let states = match state {
            Some(named) => settled_states(named)?,
            None if is_narrow => GIVEN_UP.to_vec(),
            None => return Err(Problem::invalid("/state", "must be said where nothing else narrows the replay")),
        };
        if let (Some(Text(since)), Some(Text(until))) = (&since, &until)
            && since >= until
        {
            return Err(Problem::invalid("/until", "must be later than since"));
        }
        Ok(Replay {
            issuer: seat.issuer.id.clone(),
            client_id: value(client_id),
            states,
            since: value(since),
            until: value(until),
            reason: value(reason),
            settled_before: now,
        })
    }
}

fn settled_states(named: Vec<text::DeliveryState>) -> Result<Vec<DeliveryState>, Problem> {
    let settled = DeliveryState::ALL.len() - 1;
    if named.is_empty() || named.len() > settled {
        return Err(Problem::invalid("/state", format!("must have 1 to {settled} items")));
    }
    if let Some(index) = named.iter().position(|Text(state)| *state == DeliveryState::Pending) {
        return Err(Problem::of(Code::InvalidField).at(FieldError::pointer(format!("/state/{index}"), "must be a settled state")));
    }
    Ok(named.into_iter().map(|Text(state)| state).collect())
}
