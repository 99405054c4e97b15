//! The denylist: access tokens by `jti` and sessions by `sid` that are refused until they would have expired.
//!
//! It ends nothing and tells nobody. What logs somebody out is a logout; this is for one token whose `jti` somebody read in a log.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::entry;
use crate::http::needs::{Kill, ReadLogouts, Undo};
use crate::http::page::{List, page};
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, Path, Problem, Query, Reply, Routes, StrictJson, Text};
use crate::model::audit::Act;
use crate::model::denial::{DENIAL_MAX, Denial, Denied};
use crate::model::{DenialId, Timestamp};
use crate::store::Change;

/// The routes of the denylist.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list, deny)).add(routes!(lift))
}

/// What is refused: exactly one of `jti` and `sid`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDenial {
    /// One token, by its `jti` (RFC 7519 4.1.7).
    jti: Option<text::Jti>,
    /// All tokens of a session, by the provider's `sid`; a later session of the same `sid` is refused as well.
    sid: Option<text::Sid>,
    /// When the token, or the last of the session's, would have expired: in the future, at most 366 days ahead.
    expires_at: text::Timestamp,
}

/// An entry of the denylist.
#[derive(Debug, Serialize, ToSchema)]
pub struct DenialShape {
    id: text::DenialId,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<text::Jti>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<text::Sid>,
    expires_at: text::Timestamp,
    created_at: text::Timestamp,
}

impl From<Denial> for DenialShape {
    fn from(Denial { id, denied, expires_at, created_at }: Denial) -> Self {
        let (jti, sid) = match denied {
            Denied::Jti(jti) => (Some(Text(jti)), None),
            Denied::Sid(sid) => (None, Some(Text(sid))),
        };
        Self { id: Text(id), jti, sid, expires_at: Text(expires_at), created_at: Text(created_at) }
    }
}

impl NewDenial {
    fn read(self, now: Timestamp) -> Result<(Denied, Timestamp), Problem> {
        let Self { jti, sid, expires_at: Text(expires_at) } = self;
        let denied = match (jti, sid) {
            (Some(Text(jti)), None) => Denied::Jti(jti),
            (None, Some(Text(sid))) => Denied::Sid(sid),
            (None, None) => return Err(Problem::invalid("", "must have either jti or sid")),
            (Some(_), Some(_)) => return Err(Problem::invalid("/sid", "does not go with jti")),
        };
        if expires_at <= now {
            return Err(Problem::invalid("/expires_at", "must be in the future"));
        }
        if expires_at > now.plus(DENIAL_MAX) {
            return Err(Problem::invalid("/expires_at", "must be at most 366 days ahead"));
        }
        Ok((denied, expires_at))
    }
}

/// What the audit trail keeps.
fn detail(denied: &Denied, expires_at: Timestamp) -> Value {
    match denied {
        Denied::Jti(jti) => json!({ "jti": jti.as_str(), "expires_at": expires_at.to_string() }),
        Denied::Sid(sid) => json!({ "sid": sid.as_str(), "expires_at": expires_at.to_string() }),
    }
}

/// Put a token or a session on the denylist: from the answer on, whoever asks about the token, or about any token of the session, is told that it is
/// not active. No session ends and nobody is told. Of two expiries for the same name the later one holds.
#[utoipa::path(post, path = "/v1/issuers/{iss}/denylist", tag = "tokens", operation_id = "deny", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = NewDenial,
    responses(
        (status = 200, description = "It is on the list already; its expiry is the later one", body = DenialShape),
        (status = 201, description = "It is on the list", body = DenialShape),
        (status = 422, description = "invalid-field, unknown-member", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn deny(
    State(app): State<AppState>,
    At(seat, _): At<Kill>,
    StrictJson(body): StrictJson<NewDenial>,
) -> Result<Reply<DenialShape>, Problem> {
    let (denied, expires_at) = body.read(app.store.now().await?)?;
    app.limiter.order(&seat.issuer.id, &seat.caller, app.clock.now())?;
    let audit = entry(Act::TokenDenied, &seat.caller, Some(&seat.issuer.id), &detail(&denied, expires_at))?;
    let (denial, change) = app.store.deny(&seat.issuer.id, &denied, expires_at, audit).await?;
    match change {
        Change::Created => Ok(Reply::created(denial.into())),
        Change::Replaced => Ok(Reply::ok(denial.into())),
        Change::Stale | Change::Absent | Change::InUse | Change::Conflict => Err(Problem::of(Code::Conflict)),
    }
}

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DenylistQuery {
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// The denylist, newest first; what is over is not on it.
#[utoipa::path(get, path = "/v1/issuers/{iss}/denylist", tag = "tokens", operation_id = "listDenials", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), DenylistQuery),
    responses((status = 200, description = "One page", body = List<DenialShape>)))]
pub async fn list(
    State(app): State<AppState>,
    At(seat, _): At<ReadLogouts>,
    Query(query): Query<DenylistQuery>,
) -> Result<Reply<List<DenialShape>>, Problem> {
    let listed = app.store.denials(&seat.issuer.id, page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, DenialShape::from)))
}

/// Take an entry off the denylist: what it refused is as good as it would have been without it.
#[utoipa::path(delete, path = "/v1/issuers/{iss}/denylist/{id}", tag = "tokens", operation_id = "liftDenial", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("id" = String, Path, description = "The entry")),
    responses(
        (status = 204, description = "It is off the list"),
        (status = 404, description = "unknown-issuer, unknown-denial", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn lift(State(app): State<AppState>, At(seat, _): At<Undo>, Path((_, id)): Path<(String, String)>) -> Result<Reply<()>, Problem> {
    let unknown = || Problem::of(Code::UnknownDenial);
    let id = DenialId::parse(&id).ok_or_else(unknown)?;
    let audit = entry(Act::DenialLifted, &seat.caller, Some(&seat.issuer.id), &json!({ "denial": id.as_str() }))?;
    super::done(app.store.lift_denial(&seat.issuer.id, &id, audit).await?, Code::UnknownDenial, || Problem::of(Code::Conflict))?;
    Ok(Reply::done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    #[test]
    fn an_entry_has_one_name_and_an_end_that_is_ahead_but_not_far() {
        let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let read = |body: Value| parse::<NewDenial>(body.to_string().as_bytes()).and_then(|body| body.read(now));
        let fault = |body: Value| read(body).expect_err("refused").errors()[0].pointer.clone().unwrap();
        assert!(read(json!({"jti": "j", "expires_at": "2026-01-01T00:00:01Z"})).is_ok());
        assert!(read(json!({"sid": "s", "expires_at": "2027-01-02T00:00:00Z"})).is_ok());
        assert_eq!(fault(json!({"expires_at": "2026-01-01T00:00:01Z"})), "");
        assert_eq!(fault(json!({"jti": "j", "sid": "s", "expires_at": "2026-01-01T00:00:01Z"})), "/sid");
        assert_eq!(fault(json!({"jti": "j", "expires_at": "2026-01-01T00:00:00Z"})), "/expires_at");
        assert_eq!(fault(json!({"jti": "j", "expires_at": "2027-01-02T00:00:00.001Z"})), "/expires_at");
        assert_eq!(fault(json!({"jti": "j"})), "/expires_at");
    }
}
