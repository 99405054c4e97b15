//! The keys that sign the audit trail's heads and receipts, and the head that vouches for the trail now.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::entry;
use crate::http::needs::{ManageKeys, ReadAudit};
use crate::http::problem::ProblemDocument;
use crate::http::reply::cached;
use crate::http::wire::text;
use crate::http::{Anywhere, AppState, Code, NoBody, Problem, Reply, Routes, Somewhere, Text};
use crate::model::audit::{Act, AuditKey, AuditKeyState, TrailState};
use crate::token::audit::is_own_key;
use crate::token::generate;

/// The routes of keys and heads.
pub fn routes() -> Routes {
    Routes::new().add(routes!(keys)).add(routes!(rotate)).add(routes!(head))
}

/// How long a reader may keep the keys, in seconds.
const MAX_AGE_S: u32 = 300;

/// The public keys of the audit trail and of receipts, as a JWK Set, also those that have ceased to sign. Keep a copy elsewhere: whoever believes only what
/// this server says now cannot find out that it was replaced.
#[utoipa::path(
    get,
    path = "/v1/audit/keys",
    tag = "public",
    responses(
        (status = 200, description = "A JWK Set (RFC 7517)", content_type = "application/json", body = serde_json::Value),
        (status = 304, description = "It is still what If-None-Match names"),
    )
)]
pub async fn keys(State(app): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    let keys = app.store.audit_keys().await?;
    // Another's, put there beside the server, would be believed by whoever asks for the keys here.
    let keys = keys.iter().filter(|key| is_own_key(key, &app.sealing));
    let keys: Vec<Value> = keys.filter_map(|key| serde_json::from_str(&key.public_jwk).ok()).collect();
    Ok(cached(&headers, json!({ "keys": keys }).to_string(), MAX_AGE_S).into_response())
}

/// A key of the trail.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditKeyView {
    /// Its name: the RFC 7638 thumbprint.
    kid: String,
    alg: text::SigningAlg,
    /// `next` until a head of its predecessor has named it, then `active`; `retired` when it has ceased to sign, and its private half is destroyed.
    #[schema(value_type = String)]
    state: &'static str,
    created_at: text::Timestamp,
    retired_at: Option<text::Timestamp>,
}

impl From<AuditKey> for AuditKeyView {
    fn from(key: AuditKey) -> Self {
        Self {
            kid: key.kid,
            alg: Text(key.alg),
            state: key.state.as_str(),
            created_at: Text(key.created_at),
            retired_at: key.retired_at.map(Text),
        }
    }
}

/// The keys of the trail.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditKeysView {
    /// The oldest first.
    keys: Vec<AuditKeyView>,
}

/// Replace the key of the audit trail: the next head is the last one that the present key signs, and names its successor. Nothing else has to be done;
/// whoever trusts the present key goes on by that head.
#[utoipa::path(
    post,
    path = "/v1/audit/keys/rotate",
    tag = "access",
    security(("bearer" = [])),
    responses(
        (status = 202, description = "The successor waits for that head, a few seconds", body = AuditKeysView),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "conflict: one waits already", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn rotate(
    State(app): State<AppState>,
    Anywhere(caller, _): Anywhere<ManageKeys>,
    NoBody: NoBody,
) -> Result<Reply<AuditKeysView>, Problem> {
    let keys = app.store.audit_keys().await?;
    let active = keys.into_iter().find(|key| key.state == AuditKeyState::Active);
    let active = active.ok_or_else(|| Problem::new(Code::Unavailable, "the first key is not made yet: try again"))?;
    let new = generate(active.alg).map_err(Problem::internal)?;
    let key = new.into_audit_key(AuditKeyState::Next, app.store.now().await?, &app.sealing, &app.entropy);
    let detail = json!({ "kid": key.kid, "previous": active.kid });
    if !app.store.add_audit_key(key, entry(Act::AuditKeyRotated, &caller, None, &detail)?).await? {
        return Err(Problem::new(Code::Conflict, "a successor waits already"));
    }
    app.bells.audit.notify_one();
    let keys = app.store.audit_keys().await?.into_iter().map(Into::into).collect();
    Ok(Reply::accepted(AuditKeysView { keys }))
}

/// How the audit trail stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct HeadView {
    /// The number of the last record that a signed head covers; 0 before the first.
    seq: u64,
    /// The digest that stands for all records up to it.
    chain: Option<text::Digest>,
    /// When the head was signed.
    at: Option<text::Timestamp>,
    /// The key that signed it.
    kid: Option<String>,
    /// It, as a compact JWS: kept elsewhere, it tells later whether the trail was cut.
    head: Option<String>,
    /// The last record that is not kept any more; 0 when all are.
    purged_to: u64,
    /// Records that no head covers yet.
    unsealed: u64,
    /// When the oldest of them was written.
    unsealed_since: Option<text::Timestamp>,
}

impl From<TrailState> for HeadView {
    fn from(state: TrailState) -> Self {
        let head = state.head;
        Self {
            seq: head.as_ref().map_or(0, |head| head.tip.seq),
            chain: head.as_ref().map(|head| Text(head.tip.chain)),
            at: head.as_ref().map(|head| Text(head.at)),
            kid: head.as_ref().map(|head| head.kid.clone()),
            head: head.map(|head| head.jws),
            purged_to: state.checkpoint.map_or(0, |checkpoint| checkpoint.tip.seq),
            unsealed: state.unsealed,
            unsealed_since: state.unsealed_since.map(Text),
        }
    }
}

/// The signed head of the audit trail, and what it does not cover yet.
#[utoipa::path(
    get,
    path = "/v1/audit/head",
    tag = "access",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "As it stands", body = HeadView),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn head(State(app): State<AppState>, Somewhere(..): Somewhere<ReadAudit>) -> Result<Reply<HeadView>, Problem> {
    Ok(Reply::ok(app.store.trail_state().await?.into()))
}
