//! Secrets of subjects: told to the provider and to nobody else, and changed when it says so.
//!
//! A compromise changes them by itself, in the transaction that ends the sessions. That one was read is not recorded: a provider asks at every token
//! it makes or verifies.

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::entry;
use crate::http::needs::SubjectSecrets;
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, Problem, Reply, Routes, StrictJson, Text};
use crate::model::Subject;
use crate::model::audit::Act;
use crate::model::issuer::IssuerRecord;
use crate::token::{Sealed, Unsealable, subject_secret};

/// The routes of secrets of subjects.
pub fn routes() -> Routes {
    Routes::new().add(routes!(tell)).add(routes!(bump))
}

/// Whose secret.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretOf {
    /// The provider's `sub`; nothing need be known of it.
    sub: text::Subject,
}

/// A secret, and which one it is.
#[derive(Serialize, ToSchema)]
pub struct SecretShape {
    /// Counts up, from 1.
    version: u64,
    /// 32 octets in base64url without padding.
    secret: String,
}

/// The sealed root, where the issuer has opted in.
fn root(issuer: &IssuerRecord) -> Result<&str, Problem> {
    issuer.subject_secrets.as_deref().ok_or_else(|| Problem::new(Code::NoSubjectSecrets, "register the issuer with subject_secrets"))
}

fn shape(app: &AppState, issuer: &IssuerRecord, sub: &Subject, version: u64) -> Result<Reply<SecretShape>, Problem> {
    let root = app.sealing.open_text(&Sealed::subject_secrets(&issuer.id), root(issuer)?).map_err(Problem::internal)?;
    let number = i64::try_from(version).unwrap_or(i64::MAX);
    let secret = subject_secret(&root, &issuer.id, sub, number).ok_or_else(|| Problem::internal(Unsealable::Damaged))?;
    Ok(Reply::ok(SecretShape { version, secret: URL_SAFE_NO_PAD.encode(secret.as_slice()) }))
}

/// The current secret of a subject. It is another one after every compromise that ends the subject's sessions: what was made with the one before is
/// worth nothing any more. Never to be kept, never in a cache.
#[utoipa::path(post, path = "/v1/issuers/{iss}/subjects/secret", tag = "tokens", operation_id = "subjectSecret", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = SecretOf,
    responses(
        (status = 200, description = "The current one; no-store", body = SecretShape),
        (status = 404, description = "unknown-issuer; no-subject-secrets: the issuer has not opted in", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn tell(
    State(app): State<AppState>,
    At(seat, _): At<SubjectSecrets>,
    StrictJson(SecretOf { sub: Text(sub) }): StrictJson<SecretOf>,
) -> Result<Reply<SecretShape>, Problem> {
    root(&seat.issuer)?;
    let version = app.store.secret_version(&seat.issuer.id, &sub).await?;
    shape(&app, &seat.issuer, &sub, version)
}

/// Change the secret of a subject, and learn the new one. No session ends and nobody is told.
#[utoipa::path(post, path = "/v1/issuers/{iss}/subjects/secret/bump", tag = "tokens", operation_id = "bumpSubjectSecret", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = SecretOf,
    responses(
        (status = 200, description = "The new one; no-store", body = SecretShape),
        (status = 404, description = "unknown-issuer; no-subject-secrets: the issuer has not opted in", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn bump(
    State(app): State<AppState>,
    At(seat, _): At<SubjectSecrets>,
    StrictJson(SecretOf { sub: Text(sub) }): StrictJson<SecretOf>,
) -> Result<Reply<SecretShape>, Problem> {
    root(&seat.issuer)?;
    let audit = entry(Act::SubjectSecretBumped, &seat.caller, Some(&seat.issuer.id), &json!({ "sub": sub.as_str() }))?;
    let version = app.store.bump_secret(&seat.issuer.id, &sub, audit).await?;
    shape(&app, &seat.issuer, &sub, version)
}
