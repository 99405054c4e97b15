//! Gaps: stretches of time of which a restored database knows nothing.
//!
//! A database that was restored from a backup has forgotten the logouts that were acknowledged after it. Its first start opens a gap at every issuer;
//! whoever restores by other means opens one here. While a gap is open, tokens from before its end are inactive, and those of sessions from before it,
//! unless their session was reported since.
//! A provider's list of what lives, made after the end, settles what has a `sid`, and closes the gap where tokens hang on such sessions alone; an operator
//! who knows that nothing is missing closes any.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::entry;
use crate::http::needs::{Operate, ReadLogouts};
use crate::http::page::{List, page};
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, Path, Problem, Query, Reply, Routes, StrictJson, Text};
use crate::model::audit::Act;
use crate::model::gap::Gap;
use crate::model::{GapId, Timestamp};
use crate::store::{GapOrder, OPEN_GAPS_MAX};

/// The routes of gaps.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list, open)).add(routes!(close))
}

/// A gap.
#[derive(Debug, Serialize, ToSchema)]
pub struct GapShape {
    id: text::GapId,
    /// When the backup was taken, or when what is known ends.
    since: text::Timestamp,
    /// Tokens known or issued before this are inactive while it is open, unless their session was reported since.
    until: text::Timestamp,
    /// `restore`: the database was restored from a backup. `operator`: somebody said so.
    cause: text::GapCause,
    created_at: text::Timestamp,
    /// When a list of the provider's was taken that was made after the end: what it names is good again, and what is left are sessions without a `sid`
    /// and tokens that hang on no session.
    listed_at: Option<text::Timestamp>,
    /// When it was closed; null while it is open.
    closed_at: Option<text::Timestamp>,
    /// `operator`, or `provider` by its list.
    closed_by: Option<text::GapClosedBy>,
}

impl From<Gap> for GapShape {
    fn from(Gap { id, issuer: _, begins_at, ends_at, cause, created_at, listed_at, closed }: Gap) -> Self {
        Self {
            id: Text(id),
            since: Text(begins_at),
            until: Text(ends_at),
            cause: Text(cause),
            created_at: Text(created_at),
            listed_at: listed_at.map(Text),
            closed_at: closed.map(|(at, _)| Text(at)),
            closed_by: closed.map(|(_, by)| Text(by)),
        }
    }
}

/// What is opened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGap {
    /// Up to when the database knows what happened: the instant it was restored to. Not in the future.
    since: text::Timestamp,
    /// From when on it knows again; now unless said. Not in the future, and not before `since`.
    until: Option<text::Timestamp>,
}

impl NewGap {
    fn read(self, now: Timestamp) -> Result<GapOrder, Problem> {
        let Self { since: Text(since), until } = self;
        let until = until.map(|Text(at)| at);
        if since > now {
            return Err(Problem::invalid("/since", "must not be in the future"));
        }
        match until {
            Some(until) if until > now => Err(Problem::invalid("/until", "must not be in the future")),
            Some(until) if until < since => Err(Problem::invalid("/until", "must not be before since")),
            Some(_) | None => Ok(GapOrder { since, until }),
        }
    }
}

/// Open a gap: from the answer on, tokens known or issued before its end are inactive, unless their session was reported since. No session ends and nobody
/// is told. At most 100 are open at a time.
#[utoipa::path(post, path = "/v1/issuers/{iss}/gaps", tag = "operations", operation_id = "openGap", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = NewGap,
    responses(
        (status = 201, description = "It is open", body = GapShape),
        (status = 409, description = "too-many-gaps: 100 are open", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field, unknown-member", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn open(
    State(app): State<AppState>,
    At(seat, _): At<Operate>,
    StrictJson(body): StrictJson<NewGap>,
) -> Result<Reply<GapShape>, Problem> {
    let order = body.read(app.store.now().await?)?;
    let detail = json!({ "since": order.since.to_string(), "until": order.until.map(|at| at.to_string()) });
    let audit = entry(Act::GapOpened, &seat.caller, Some(&seat.issuer.id), &detail)?;
    match app.store.open_gap(&seat.issuer.id, order, audit).await? {
        Some(gap) => Ok(Reply::created(gap.into())),
        None => Err(Problem::new(Code::TooManyGaps, format!("{OPEN_GAPS_MAX} are open; close some first"))),
    }
}

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GapsQuery {
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// Gaps, open and closed, newest first.
#[utoipa::path(get, path = "/v1/issuers/{iss}/gaps", tag = "operations", operation_id = "listGaps", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), GapsQuery),
    responses((status = 200, description = "One page", body = List<GapShape>)))]
pub async fn list(
    State(app): State<AppState>,
    At(seat, _): At<ReadLogouts>,
    Query(query): Query<GapsQuery>,
) -> Result<Reply<List<GapShape>>, Problem> {
    let listed = app.store.gaps(&seat.issuer.id, page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, GapShape::from)))
}

/// Close a gap: tokens are as good as they would have been without it. Whoever closes one answers for the logouts that may be missing.
#[utoipa::path(post, path = "/v1/issuers/{iss}/gaps/{id}/close", tag = "operations", operation_id = "closeGap", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("id" = String, Path, description = "The gap")),
    responses(
        (status = 200, description = "It is closed", body = GapShape),
        (status = 404, description = "unknown-issuer, unknown-gap: there is none that is open", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn close(
    State(app): State<AppState>,
    At(seat, _): At<Operate>,
    Path((_, id)): Path<(String, String)>,
) -> Result<Reply<GapShape>, Problem> {
    let unknown = || Problem::of(Code::UnknownGap);
    let id = GapId::parse(&id).ok_or_else(unknown)?;
    let audit = entry(Act::GapClosed, &seat.caller, Some(&seat.issuer.id), &json!({ "gap": id.as_str() }))?;
    app.store.close_gap(&seat.issuer.id, &id, audit).await?.map(|gap| Reply::ok(gap.into())).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    #[test]
    fn a_gap_is_not_of_the_future_and_does_not_end_before_it_begins() {
        let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let read = |body: serde_json::Value| parse::<NewGap>(body.to_string().as_bytes()).and_then(|body| body.read(now));
        let fault = |body| read(body).expect_err("refused").errors()[0].pointer.clone().unwrap();
        assert_eq!(read(json!({"since": "2025-12-31T23:00:00Z"})).unwrap().until, None);
        assert!(read(json!({"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"})).is_ok());
        assert_eq!(fault(json!({"since": "2026-01-01T00:00:01Z"})), "/since");
        assert_eq!(fault(json!({"since": "2025-12-31T23:00:00Z", "until": "2026-01-01T00:00:01Z"})), "/until");
        assert_eq!(fault(json!({"since": "2025-12-31T23:00:00Z", "until": "2025-12-31T22:59:59Z"})), "/until");
        assert_eq!(fault(json!({"until": "2025-12-31T23:00:00Z"})), "/since");
    }
}
