//! What somebody must look at: read, and tried out.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::api_tokens::confined;
use super::entry;
use crate::http::needs::{Operate, ReadRegistry};
use crate::http::problem::ProblemDocument;
use crate::http::wire::{text, value};
use crate::http::{Anywhere, AppState, Code, List, Problem, Query, Reply, Routes, Somewhere, page};
use crate::model::alarm::{AlarmRecord, AlarmState};
use crate::model::audit::Act;
use crate::store::AlarmFilter;

/// The routes of alarms.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list)).add(routes!(try_out))
}

/// Which alarms.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AlarmQuery {
    /// Only those that stand so.
    state: Option<text::AlarmState>,
    /// Only those of this kind.
    kind: Option<text::AlarmKind>,
    /// Only this issuer's.
    issuer: Option<text::IssuerId>,
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// Something that somebody must look at.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlarmView {
    /// Its id.
    id: text::AlarmId,
    /// What is wrong.
    kind: text::AlarmKind,
    /// Whether it still is.
    state: text::AlarmState,
    /// At which issuer, where it is one's.
    issuer: Option<text::IssuerId>,
    /// With what: a `client_id`, a `kid`, a host.
    about: String,
    /// In one sentence.
    message: String,
    /// When it was raised first.
    first_at: text::Timestamp,
    /// When it was raised last.
    last_at: text::Timestamp,
    /// How often it happened.
    count: u64,
    /// When it was over.
    cleared_at: Option<text::Timestamp>,
    /// When the webhook took it last.
    told_at: Option<text::Timestamp>,
    /// How often telling the webhook failed since.
    attempts: u32,
}

fn view(record: AlarmRecord) -> AlarmView {
    let AlarmRecord { id, kind, issuer, about, message, first_at, last_at, count, cleared_at, told_at, tellings: _, attempts } = record;
    AlarmView {
        id: id.into(),
        kind: kind.into(),
        state: if cleared_at.is_some() { AlarmState::Cleared } else { AlarmState::Open }.into(),
        issuer: issuer.map(Into::into),
        about,
        message,
        first_at: first_at.into(),
        last_at: last_at.into(),
        count,
        cleared_at: cleared_at.map(Into::into),
        told_at: told_at.map(Into::into),
        attempts,
    }
}

/// What somebody must look at, newest first; for a caller bound to an issuer, that issuer's.
#[utoipa::path(
    get,
    path = "/v1/alarms",
    tag = "operations",
    security(("bearer" = [])),
    params(AlarmQuery),
    responses(
        (status = 200, description = "One page", body = List<AlarmView>),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn list(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ReadRegistry>,
    Query(query): Query<AlarmQuery>,
) -> Result<Reply<List<AlarmView>>, Problem> {
    let issuer = confined(&caller, value(query.issuer))?;
    let filter = AlarmFilter { issuer, kind: value(query.kind), state: value(query.state) };
    let listed = app.store.alarms(filter, page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, view)))
}

/// Raise an alarm of the kind `trial`, which says that nothing is wrong: the webhook is told of it within a few seconds, and a minute later that it is over.
/// `told_at` says when the webhook took it, `attempts` how often it did not.
#[utoipa::path(
    post,
    path = "/v1/alarms/test",
    tag = "operations",
    operation_id = "testAlarm",
    security(("bearer" = [])),
    responses(
        (status = 201, description = "It is raised", body = AlarmView),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "no-alarm-webhook: nobody is told of alarms", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn try_out(State(app): State<AppState>, Anywhere(caller, _): Anywhere<Operate>) -> Result<Reply<AlarmView>, Problem> {
    if !app.settings.alarm_webhook {
        return Err(Problem::new(Code::NoAlarmWebhook, "nobody is told of alarms: set alarms.url and alarms.secret in the configuration"));
    }
    let audit = entry(Act::AlarmTried, &caller, None, &json!({}))?;
    Ok(Reply::created(view(app.store.try_alarm(audit).await?)))
}
