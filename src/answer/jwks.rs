//! The public keys logout tokens are verified with (RFC 7517 5).

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use utoipa_axum::routes;

use crate::http::problem::ProblemDocument;
use crate::http::reply::cached;
use crate::http::{AppState, Path, Problem, Routes, public_issuer};
use crate::token::jwks::merge;

/// The key window.
pub fn routes() -> Routes {
    Routes::new().add(routes!(jwks))
}

/// How long relying parties may keep what they fetched, in seconds.
pub const MAX_AGE_S: u32 = 300;

/// The public keys of an issuer, as a JWK Set.
///
/// Every key of ours that signs, is about to sign or has signed not long ago, and the provider's public signing keys where they can be fetched, so that the
/// provider, or a proxy before it, may serve this set at the issuer's own `jwks_uri`. Whoever holds a private key of this set can mint ID tokens too.
#[utoipa::path(
    get,
    path = "/{iss}/jwks",
    tag = "public",
    params(("iss" = String, Path, description = "The issuer's short id")),
    responses(
        (status = 200, description = "A JWK Set (RFC 7517)", content_type = "application/json", body = serde_json::Value),
        (status = 304, description = "It is still what If-None-Match names"),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn jwks(State(app): State<AppState>, Path(iss): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let issuer = public_issuer(&app, &iss).await?;
    let keys = app.store.keys(&issuer.id).await?;
    let (document, dropped) = match issuer.source.is_known() {
        true => (app.store.provider_document(&issuer.id).await?, app.store.dropped_keys(&issuer.id).await?),
        false => (None, Vec::new()),
    };
    let now = app.store.now().await?;
    let document = document.filter(|document| document.is_believed(now));
    let merged = merge(&issuer.id, &keys, document.as_ref(), &dropped).map_err(Problem::internal)?;
    Ok(cached(&headers, merged.set, MAX_AGE_S).into_response())
}
