//! API tokens: minted, listed, given another secret and revoked; a secret is never shown twice.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::clients::{OVERLAP_S, RATE_PER_S, bounded};
use super::{done, entry};
use crate::http::needs::{ManageApiTokens, ReadApiTokens};
use crate::http::problem::ProblemDocument;
use crate::http::wire::{text, value};
use crate::http::{AppState, Code, List, Path, Problem, Query, Reply, Routes, Somewhere, StrictJson, page};
use crate::model::access::{ApiTokenRecord, Caller, Role};
use crate::model::audit::Act;
use crate::model::{ApiTokenId, ClientId, IssuerId, Timestamp};
use crate::token::digest_of_token;

/// The routes of API tokens.
pub fn routes() -> Routes {
    Routes::new().add(routes!(create, list)).add(routes!(revoke)).add(routes!(rotate))
}

/// How every API token begins, so that a leaked one is found by those who look for such things.
pub const PREFIX: &str = ApiTokenRecord::PREFIX;

/// An API token to be minted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiToken {
    /// What it may do.
    role: text::Role,
    /// The issuer it is bound to; must be said for `provider`, `gateway` and `client`.
    issuer: Option<text::IssuerId>,
    /// The client it is bound to; for `client`, and only then.
    client_id: Option<text::ClientId>,
    /// Lets a `provider` end all sessions of a client or of everybody.
    #[serde(default)]
    may_mass_kill: bool,
    /// When it stops working; never unless said.
    expires_at: Option<text::Timestamp>,
    /// How many requests it may send in a second, with five times as many at once; left out, what all may (`limits.per_credential_per_s`).
    #[schema(minimum = 1, maximum = 10_000)]
    rate_per_s: Option<u16>,
}

/// An API token: never its value.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiTokenView {
    /// Its identity, as the audit trail names it.
    id: text::ApiTokenId,
    /// What it may do.
    role: text::Role,
    /// The issuer it is bound to.
    issuer: Option<text::IssuerId>,
    /// The client it is bound to.
    client_id: Option<text::ClientId>,
    /// May end all sessions of a client or of everybody.
    may_mass_kill: bool,
    /// When it was minted.
    created_at: text::Timestamp,
    /// When it stops working.
    expires_at: Option<text::Timestamp>,
    /// When it was revoked.
    revoked_at: Option<text::Timestamp>,
    /// How many requests it may send in a second, where that is not what all may.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_s: Option<u16>,
    /// The beginning of the last hour in which its value was shown, or that of the value where it is later; written once an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_at: Option<text::Timestamp>,
    /// When its value was last replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at: Option<text::Timestamp>,
    /// Until when the value before is good too, or was.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_until: Option<text::Timestamp>,
    /// The same of the value before: who shows it still has not taken the new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_used_at: Option<text::Timestamp>,
    /// Its value, in the answer that minted or rotated it and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

fn view(record: ApiTokenRecord) -> ApiTokenView {
    // The hour begins before a value that was made in it.
    let made_at = record.rotated_at.unwrap_or(record.created_at);
    ApiTokenView {
        id: record.id.into(),
        role: record.role.into(),
        issuer: record.issuer.map(Into::into),
        client_id: record.client_id.map(Into::into),
        may_mass_kill: record.may_mass_kill,
        created_at: record.created_at.into(),
        expires_at: record.expires_at.map(Into::into),
        revoked_at: record.revoked_at.map(Into::into),
        rate_per_s: record.rate_per_s,
        used_at: record.used_at.map(|hour| hour.max(made_at).into()),
        rotated_at: record.rotated_at.map(Into::into),
        previous_until: record.previous_until.map(Into::into),
        previous_used_at: record.previous_used_at.map(|hour| hour.max(record.created_at).into()),
        token: None,
    }
}

/// Mints an API token. Its value is in this answer and nowhere else. What a token mints that expires, expires with it at the latest.
#[utoipa::path(
    post,
    path = "/v1/api-tokens",
    tag = "access",
    security(("bearer" = [])),
    request_body = NewApiToken,
    responses(
        (status = 201, description = "Minted", body = ApiTokenView),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden: another issuer than the caller's own, or a value of the token that was replaced", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn create(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ManageApiTokens>,
    StrictJson(body): StrictJson<NewApiToken>,
) -> Result<Reply<ApiTokenView>, Problem> {
    let now = app.clock.now();
    let record = minted(body, &caller, app.entropy.id(now), now)?;
    let token = format!("{PREFIX}{}", app.entropy.token());
    let audit = entry(Act::ApiTokenCreated, &caller, record.issuer.as_ref(), &detail(&record))?;
    let change = app.store.create_api_token(&record, digest_of_token(token.as_bytes()), audit).await?;
    done(change, Code::UnknownIssuer, || Problem::of(Code::Conflict))?;
    Ok(Reply::created(ApiTokenView { token: Some(token), ..view(record) }))
}

/// What the audit trail keeps.
fn detail(record: &ApiTokenRecord) -> serde_json::Value {
    let client_id = record.client_id.as_ref().map(ClientId::as_str);
    let expires_at = record.expires_at.map(|at| at.to_string());
    json!({ "api_token": record.id.as_str(), "role": record.role.as_str(), "client_id": client_id, "may_mass_kill": record.may_mass_kill, "expires_at": expires_at,
        "rate_per_s": record.rate_per_s })
}

/// The token as it will be, if this caller may mint it. Nobody mints above its own role, outside its own issuer and beyond its own expiry.
fn minted(body: NewApiToken, minter: &Caller, id: ApiTokenId, now: Timestamp) -> Result<ApiTokenRecord, Problem> {
    let NewApiToken { role, issuer, client_id, may_mass_kill, expires_at, rate_per_s } = body;
    let (role, issuer, client_id, expires_at) = (role.0, value(issuer), value(client_id), value(expires_at));
    if let Some(own) = &minter.issuer
        && issuer.as_ref() != Some(own)
    {
        return Err(Problem::forbidden(format!("this token mints for its own issuer alone, {own}")));
    }
    if role.needs_issuer() && issuer.is_none() {
        return Err(Problem::invalid("/issuer", format!("must be said for the role {role}")));
    }
    match (role, &client_id) {
        (Role::Client, None) => return Err(Problem::invalid("/client_id", "must be said for the role client")),
        (Role::Client, Some(_)) | (_, None) => {}
        (_, Some(_)) => return Err(Problem::invalid("/client_id", "is for the role client alone")),
    }
    if may_mass_kill && role != Role::Provider {
        return Err(Problem::invalid("/may_mass_kill", "is for the role provider alone"));
    }
    if expires_at.is_some_and(|expiry| expiry <= now) {
        return Err(Problem::invalid("/expires_at", "must be in the future"));
    }
    // Else whoever found one that is soon over would have one that is not.
    let expires_at = expires_at.into_iter().chain(minter.token.expires_at).min();
    let rate_per_s = bounded("/rate_per_s", rate_per_s, &RATE_PER_S)?;
    Ok(ApiTokenRecord {
        id,
        role,
        issuer,
        client_id,
        may_mass_kill,
        created_at: now,
        expires_at,
        revoked_at: None,
        rate_per_s,
        rotated_at: None,
        previous_until: None,
        used_at: None,
        previous_used_at: None,
    })
}

/// Which API tokens.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ApiTokensQuery {
    /// Only those bound to this issuer.
    issuer: Option<text::IssuerId>,
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// The API tokens, newest first, revoked and expired ones too; for a caller bound to an issuer, that issuer's.
#[utoipa::path(
    get,
    path = "/v1/api-tokens",
    tag = "access",
    security(("bearer" = [])),
    params(ApiTokensQuery),
    responses(
        (status = 200, description = "One page", body = List<ApiTokenView>),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn list(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ReadApiTokens>,
    Query(query): Query<ApiTokensQuery>,
) -> Result<Reply<List<ApiTokenView>>, Problem> {
    let issuer = confined(&caller, value(query.issuer))?;
    let listed = app.store.api_tokens(issuer.as_ref(), page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, view)))
}

/// The issuer a caller's list is about: the one it asks for, within its own.
pub(super) fn confined(caller: &Caller, asked: Option<IssuerId>) -> Result<Option<IssuerId>, Problem> {
    match (&caller.issuer, asked) {
        (None, asked) => Ok(asked),
        (Some(own), None) => Ok(Some(own.clone())),
        (Some(own), Some(asked)) if *own == asked => Ok(Some(asked)),
        (Some(own), Some(_)) => Err(Problem::forbidden(format!("this token is for the issuer {own} alone"))),
    }
}

/// Revokes an API token at once, with both of its values where it has two.
#[utoipa::path(
    delete,
    path = "/v1/api-tokens/{id}",
    tag = "access",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The token's identity")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-api-token: there is none, or it was revoked before", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn revoke(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ManageApiTokens>,
    Path(id): Path<String>,
) -> Result<Reply<()>, Problem> {
    let id = within_reach(&app, &caller, &id).await?.id;
    let audit = entry(Act::ApiTokenRevoked, &caller, caller.issuer.as_ref(), &json!({ "api_token": id.as_str() }))?;
    done(app.store.revoke_api_token(&id, audit).await?, Code::UnknownApiToken, || Problem::of(Code::Conflict))?;
    Ok(Reply::done())
}

/// How a token's value is replaced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// For how long the value before is good too, in seconds, 30 days at most; not at all unless said.
    #[serde(default)]
    #[schema(maximum = 2_592_000)]
    overlap_s: u64,
}

/// Gives an API token another value; it stays the same token, with its identity, its rights, its expiry, and whatever belongs to it.
///
/// The value before is good for the overlap; the one before that is not, even if its overlap were not over. Revoking the token ends both. A token that
/// should have other rights is minted anew. Who shows a value that was replaced rotates nothing, and a token that expires rotates none that lives longer.
#[utoipa::path(
    post,
    path = "/v1/api-tokens/{id}/rotate",
    tag = "access",
    security(("bearer" = [])),
    params(("id" = String, Path, description = "The token's identity")),
    request_body = Rotation,
    responses(
        (status = 201, description = "Rotated; its value is in this answer and nowhere else", body = ApiTokenView),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden: also for a value that was replaced, and of a token that lives longer than the caller's", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-api-token: there is none, or it is revoked or expired", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn rotate(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ManageApiTokens>,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<Rotation>,
) -> Result<Reply<ApiTokenView>, Problem> {
    bounded("/overlap_s", Some(body.overlap_s), &OVERLAP_S)?;
    let known = within_reach(&app, &caller, &id).await?;
    permit_rotation(&caller, &known)?;
    let id = known.id;
    let token = format!("{PREFIX}{}", app.entropy.token());
    let detail = json!({ "api_token": id.as_str(), "overlap_s": body.overlap_s });
    let audit = entry(Act::ApiTokenRotated, &caller, caller.issuer.as_ref(), &detail)?;
    let (digest, overlap) = (digest_of_token(token.as_bytes()), Duration::from_secs(body.overlap_s));
    let record = app.store.rotate_api_token(&id, digest, overlap, audit).await?.ok_or_else(|| Problem::of(Code::UnknownApiToken))?;
    Ok(Reply::created(ApiTokenView { token: Some(token), ..view(record) }))
}

/// The token a path names, if this caller may see it.
async fn within_reach(app: &AppState, caller: &Caller, id: &str) -> Result<ApiTokenRecord, Problem> {
    let unknown = || Problem::of(Code::UnknownApiToken);
    let record = app.store.api_token_named(&ApiTokenId::parse(id).ok_or_else(unknown)?).await?.ok_or_else(unknown)?;
    match &caller.issuer {
        Some(own) if record.issuer.as_ref() != Some(own) => Err(unknown()),
        Some(_) | None => Ok(record),
    }
}

/// Nobody gives out a value that is good when its own is not any more. A rotated token keeps its expiry, so that one which lives longer is refused.
fn permit_rotation(caller: &Caller, of: &ApiTokenRecord) -> Result<(), Problem> {
    match caller.token.expires_at {
        Some(own) if of.expires_at.is_none_or(|expiry| expiry > own) => {
            Err(Problem::forbidden(format!("this token expires at {own}, and rotates none that lives longer")))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;
    use crate::seams::Entropy;
    use serde_json::Value;

    fn admin(issuer: Option<&str>) -> Caller {
        let issuer = issuer.map(|id| IssuerId::parse(id).unwrap());
        Caller {
            identity: "t".into(),
            role: Role::Admin,
            issuer,
            client_id: None,
            may_mass_kill: true,
            remote: None,
            behalf: crate::model::access::Behalf::default(),
            token: crate::model::access::OwnToken::NONE,
        }
    }

    fn mint(body: &Value, minter: &Caller) -> Result<ApiTokenRecord, (Code, Option<String>)> {
        let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let parsed = parse::<NewApiToken>(body.to_string().as_bytes());
        parsed.and_then(|body| minted(body, minter, Entropy::seeded(1).id(now), now)).map_err(|problem| {
            let pointer = problem.errors().first().and_then(|error| error.pointer.clone());
            (problem.code(), pointer)
        })
    }

    #[test]
    fn a_role_is_minted_with_what_it_needs_and_nothing_it_does_not() {
        let fault = |body: Value| mint(&body, &admin(None)).expect_err(&body.to_string());
        let invalid = |pointer: &str| (Code::InvalidField, Some(pointer.to_owned()));
        assert_eq!(fault(json!({"role": "provider"})), invalid("/issuer"));
        assert_eq!(fault(json!({"role": "client", "issuer": "main"})), invalid("/client_id"));
        assert_eq!(fault(json!({"role": "gateway", "issuer": "main", "client_id": "wiki"})), invalid("/client_id"));
        assert_eq!(fault(json!({"role": "operator", "may_mass_kill": true})), invalid("/may_mass_kill"));
        assert_eq!(fault(json!({"role": "admin", "expires_at": "2026-01-01T00:00:00Z"})), invalid("/expires_at"));
        assert_eq!(fault(json!({"role": "king"})), invalid("/role"));
        assert_eq!(fault(json!({"role": "admin", "rate_per_s": 0})), invalid("/rate_per_s"));
        assert_eq!(fault(json!({"role": "admin", "rôle": 1})).0, Code::UnknownMember);
        assert!(mint(&json!({"role": "client", "issuer": "main", "client_id": "wiki"}), &admin(None)).is_ok());
        assert!(mint(&json!({"role": "provider", "issuer": "main", "may_mass_kill": true}), &admin(None)).is_ok());
    }

    #[test]
    fn nobody_mints_outside_the_own_issuer() {
        let bound = admin(Some("main"));
        for body in [json!({"role": "admin"}), json!({"role": "provider", "issuer": "other"}), json!({"role": "auditor"})] {
            assert_eq!(mint(&body, &bound), Err((Code::Forbidden, None)), "{body}");
        }
        assert!(mint(&json!({"role": "provider", "issuer": "main"}), &bound).is_ok());
    }

    #[test]
    fn what_is_minted_or_rotated_lives_no_longer_than_the_token_that_does_it() {
        let ends = |text: &str| Timestamp::parse(text).unwrap();
        let brief = |own: &str| {
            let token = crate::model::access::OwnToken { expires_at: Some(ends(own)), ..crate::model::access::OwnToken::NONE };
            Caller { token, ..admin(None) }
        };
        let own = "2026-02-01T00:00:00Z";
        let minted = |expires_at: Value| mint(&json!({"role": "admin", "expires_at": expires_at}), &brief(own)).unwrap();
        for (asked, expected) in
            [(json!(null), own), (json!("2026-03-01T00:00:00Z"), own), (json!("2026-01-02T00:00:00Z"), "2026-01-02T00:00:00Z")]
        {
            assert_eq!(minted(asked).expires_at, Some(ends(expected)));
        }
        assert_eq!(mint(&json!({"role": "admin"}), &admin(None)).unwrap().expires_at, None);
        let of = |expires_at| ApiTokenRecord { expires_at, ..minted(json!(null)) };
        assert!(permit_rotation(&brief(own), &of(Some(ends(own)))).is_ok() && permit_rotation(&admin(None), &of(None)).is_ok());
        assert!(permit_rotation(&brief(own), &of(None)).is_err());
        assert!(permit_rotation(&brief(own), &of(Some(ends("2026-02-01T00:00:01Z")))).is_err());
    }

    #[test]
    fn a_bound_caller_sees_its_own_issuer_whatever_it_asks_for() {
        let main = || IssuerId::parse("main").ok();
        let other = || IssuerId::parse("other").ok();
        assert_eq!(confined(&admin(None), None).unwrap(), None);
        assert_eq!(confined(&admin(None), other()).unwrap(), other());
        assert_eq!(confined(&admin(Some("main")), None).unwrap(), main());
        assert!(confined(&admin(Some("main")), other()).is_err());
    }
}
