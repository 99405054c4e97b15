//! The audit trail, read.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::api_tokens::confined;
use crate::http::needs::ReadAudit;
use crate::http::problem::ProblemDocument;
use crate::http::wire::{text, value};
use crate::http::{AppState, List, Problem, Query, Reply, Routes, Somewhere, page};
use crate::model::audit::{AuditRecord, TrailRecord};
use crate::store::AuditFilter;

/// The route of the trail.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list))
}

/// Which records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only what was done at this issuer.
    issuer: Option<text::IssuerId>,
    /// Only acts of this kind.
    act: Option<text::Act>,
    /// Only what was done then or later.
    since: Option<text::Timestamp>,
    /// Only what was done before.
    until: Option<text::Timestamp>,
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// Who did what, from where, to what.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditView {
    /// Its id.
    id: text::AuditId,
    /// Its number in the trail's chain; null while it is not sealed.
    seq: Option<u64>,
    /// When.
    at: text::Timestamp,
    /// What.
    act: text::Act,
    /// The identity of the API token used.
    caller: String,
    /// Its role.
    role: String,
    /// On whose behalf.
    actor: Option<String>,
    /// The address the request came from.
    remote: Option<String>,
    /// At which issuer.
    issuer: Option<text::IssuerId>,
    /// The logout it was.
    logout: Option<text::EventId>,
    /// What it was done to and why.
    #[schema(value_type = Object)]
    detail: Value,
}

fn view(TrailRecord { record, link, .. }: TrailRecord) -> AuditView {
    let AuditRecord { id, at, act, caller, role, actor, remote, issuer, event, detail } = record;
    AuditView {
        id: id.into(),
        seq: link.map(|link| link.seq),
        at: at.into(),
        act: act.into(),
        caller,
        role,
        actor,
        remote,
        issuer: issuer.map(Into::into),
        logout: event.map(Into::into),
        detail: serde_json::from_str(&detail).unwrap_or(Value::String(detail)),
    }
}

/// The audit trail, newest first; for a caller bound to an issuer, that issuer's.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "access",
    security(("bearer" = [])),
    params(AuditQuery),
    responses(
        (status = 200, description = "One page", body = List<AuditView>),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn list(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ReadAudit>,
    Query(query): Query<AuditQuery>,
) -> Result<Reply<List<AuditView>>, Problem> {
    let issuer = confined(&caller, value(query.issuer))?;
    let filter = AuditFilter { issuer, act: value(query.act), since: value(query.since), until: value(query.until) };
    let listed = app.store.audit(filter, page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, view)))
}
