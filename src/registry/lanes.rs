//! Clients that are held: deliveries paused, tokens suspended; and how the lane of each stands.

use std::time::Duration;

use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{done, entry};
use crate::http::needs::Operate;
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, NoBody, Path, Problem, Reply, Routes, Seat, Text};
use crate::model::audit::Act;
use crate::model::delivery::Lane;
use crate::model::{ClientId, IssuerId};
use crate::store::{AuditEntry, Forecast, LaneView};

/// The routes of lanes.
pub fn routes() -> Routes {
    Routes::new().add(routes!(pause)).add(routes!(resume)).add(routes!(suspend)).add(routes!(unsuspend))
}

/// How the lane of a client stands: what waits for it, and why.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LaneShape {
    /// How many deliveries wait for it, those in flight included.
    pending: u64,
    /// When the oldest of them was written.
    oldest: Option<text::Timestamp>,
    /// Whether attempts go out as they fall due.
    breaker: Breaker,
    /// How many attempts run now, over all processes.
    in_flight: u64,
    /// Since when its deliveries are paused.
    paused_at: Option<text::Timestamp>,
    /// Since when it has failed for so long that somebody was told.
    parked_at: Option<text::Timestamp>,
    /// Since when every attempt has failed.
    failing_since: Option<text::Timestamp>,
    /// When the next probe goes out, while the breaker is open.
    probe_at: Option<text::Timestamp>,
}

/// Whether attempts go out as they fall due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Breaker {
    /// They do.
    Closed,
    /// Nothing but probes goes out.
    Open,
}

impl From<LaneView> for LaneShape {
    fn from(view: LaneView) -> Self {
        let LaneView { lane: _, pending, oldest, in_flight, paused_at, parked_at, failing_since, probe_at } = view;
        Self {
            pending,
            oldest: oldest.map(Text),
            breaker: if probe_at.is_some() { Breaker::Open } else { Breaker::Closed },
            in_flight,
            paused_at: paused_at.map(Text),
            parked_at: parked_at.map(Text),
            failing_since: failing_since.map(Text),
            probe_at: probe_at.map(Text),
        }
    }
}

/// Whether deliveries to a client are paused, and what expires when if nothing is delivered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ForecastShape {
    client_id: text::ClientId,
    /// Since when; null when they are not paused.
    paused_at: Option<text::Timestamp>,
    /// How many deliveries wait.
    pending: u64,
    /// When the first of them expires: their time runs on.
    first_expires_at: Option<text::Timestamp>,
    /// When the last of them expires.
    last_expires_at: Option<text::Timestamp>,
    /// How many expire within an hour, a day and three days.
    expiring: Vec<ExpiringShape>,
}

/// How many deliveries expire before an instant.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ExpiringShape {
    before: text::Timestamp,
    count: u64,
}

/// How far ahead the forecast looks.
const AHEAD: [Duration; 3] = [Duration::from_hours(1), Duration::from_hours(24), Duration::from_hours(72)];

async fn forecast(app: &AppState, issuer: &IssuerId, client_id: ClientId) -> Result<Reply<ForecastShape>, Problem> {
    let now = app.store.now().await?;
    let Forecast { paused_at, pending, first_expires_at, last_expires_at, expiring } =
        app.store.forecast(&Lane::of(issuer, &client_id), AHEAD.map(|ahead| now.plus(ahead))).await?;
    Ok(Reply::ok(ForecastShape {
        client_id: Text(client_id),
        paused_at: paused_at.map(Text),
        pending,
        first_expires_at: first_expires_at.map(Text),
        last_expires_at: last_expires_at.map(Text),
        expiring: expiring.into_iter().map(|(before, count)| ExpiringShape { before: Text(before), count }).collect(),
    }))
}

/// Whether a client is suspended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SuspensionShape {
    client_id: text::ClientId,
    /// Since when; null when it is not.
    suspended_at: Option<text::Timestamp>,
}

fn unknown() -> Problem {
    Problem::of(Code::UnknownClient)
}

/// The client a path names, and the record of what is done to it.
fn named(act: Act, seat: &Seat, client_id: String) -> Result<(ClientId, AuditEntry), Problem> {
    let client_id = ClientId::parse(client_id).map_err(|_| unknown())?;
    let audit = entry(act, &seat.caller, Some(&seat.issuer.id), &json!({ "client_id": client_id.as_str() }))?;
    Ok((client_id, audit))
}

/// Pause deliveries to a client until they are resumed; attempts under way finish. The time of what waits runs on, and the answer says what expires when.
#[utoipa::path(post, path = "/v1/issuers/{iss}/clients/{client_id}/pause", tag = "operations", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("client_id" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "They are paused", body = ForecastShape),
        (status = 404, description = "unknown-issuer, unknown-client", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn pause(
    State(app): State<AppState>,
    At(seat, _): At<Operate>,
    Path((_, client_id)): Path<(String, String)>,
    NoBody: NoBody,
) -> Result<Reply<ForecastShape>, Problem> {
    let (client_id, audit) = named(Act::ClientPaused, &seat, client_id)?;
    app.store.pause_client(&seat.issuer.id, &client_id, audit).await?.ok_or_else(unknown)?;
    forecast(&app, &seat.issuer.id, client_id).await
}

/// Resume deliveries to a client.
#[utoipa::path(post, path = "/v1/issuers/{iss}/clients/{client_id}/resume", tag = "operations", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("client_id" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "They are not paused", body = ForecastShape),
        (status = 404, description = "unknown-issuer, unknown-client", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn resume(
    State(app): State<AppState>,
    At(seat, _): At<Operate>,
    Path((_, client_id)): Path<(String, String)>,
    NoBody: NoBody,
) -> Result<Reply<ForecastShape>, Problem> {
    let (client_id, audit) = named(Act::ClientResumed, &seat, client_id)?;
    let change = app.store.resume_client(&seat.issuer.id, &client_id, audit).await?;
    done(change, Code::UnknownClient, || Problem::of(Code::Conflict))?;
    app.doorbell.notify_one();
    forecast(&app, &seat.issuer.id, client_id).await
}

/// Suspend a client until further notice: all its refresh tokens are inactive and no new ones are taken. Its users stay in, and it is told of logouts as
/// before. It is no part of the registration: neither a PUT nor the version is affected, and a client that is deleted and registered anew is still
/// suspended.
#[utoipa::path(post, path = "/v1/issuers/{iss}/clients/{client_id}/suspend", tag = "operations", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("client_id" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "It is suspended", body = SuspensionShape),
        (status = 404, description = "unknown-issuer, unknown-client", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn suspend(
    State(app): State<AppState>,
    At(seat, _): At<Operate>,
    Path((_, client_id)): Path<(String, String)>,
    NoBody: NoBody,
) -> Result<Reply<SuspensionShape>, Problem> {
    let (client_id, audit) = named(Act::ClientSuspended, &seat, client_id)?;
    let since = app.store.suspend_client(&seat.issuer.id, &client_id, audit).await?.ok_or_else(unknown)?;
    Ok(Reply::ok(SuspensionShape { client_id: Text(client_id), suspended_at: Some(Text(since)) }))
}

/// Lift a client's suspension: its refresh tokens are as good as they would have been without it.
#[utoipa::path(post, path = "/v1/issuers/{iss}/clients/{client_id}/unsuspend", tag = "operations", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("client_id" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "It is not suspended", body = SuspensionShape),
        (status = 404, description = "unknown-issuer, unknown-client", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn unsuspend(
    State(app): State<AppState>,
    At(seat, _): At<Operate>,
    Path((_, client_id)): Path<(String, String)>,
    NoBody: NoBody,
) -> Result<Reply<SuspensionShape>, Problem> {
    let (client_id, audit) = named(Act::ClientUnsuspended, &seat, client_id)?;
    let change = app.store.unsuspend_client(&seat.issuer.id, &client_id, audit).await?;
    done(change, Code::UnknownClient, || Problem::of(Code::Conflict))?;
    Ok(Reply::ok(SuspensionShape { client_id: Text(client_id), suspended_at: None }))
}
