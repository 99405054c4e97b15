//! What an issuer's relying parties and gateways can learn of it: OpenID Connect Discovery and RFC 8414.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::jwks::MAX_AGE_S;
use crate::http::problem::ProblemDocument;
use crate::http::reply::cached;
use crate::http::{AppState, Path, Problem, Routes, public_issuer};
use crate::model::issuer::IssuerRecord;
use crate::model::key::{KeyRecord, KeyState, SigningAlg};

/// The metadata windows. OpenID appends the well-known part to the issuer, RFC 8414 puts it between host and path: both are served.
pub fn routes() -> Routes {
    Routes::new().add(routes!(openid_configuration)).add(routes!(oauth_authorization_server))
}

/// What an issuer supports here, and only that: the provider's own document has the rest.
#[derive(Debug, Serialize, ToSchema)]
pub struct Metadata {
    /// The issuer's identifier to the letter.
    #[schema(example = "https://op.example")]
    issuer: String,
    /// Where the keys are.
    jwks_uri: String,
    /// Where tokens are asked about (RFC 7662).
    introspection_endpoint: String,
    /// How callers say there who they are (RFC 8414 2). An API token is shown as Bearer, or as the password of Basic.
    introspection_endpoint_auth_methods_supported: &'static [&'static str],
    /// What clients may sign their assertions with there.
    introspection_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    /// What signed answers are signed with (RFC 9701 7).
    introspection_signing_alg_values_supported: Vec<&'static str>,
    /// Where tokens are revoked (RFC 7009).
    revocation_endpoint: String,
    /// How callers say there who they are; a client that has nothing to prove it by says its name.
    revocation_endpoint_auth_methods_supported: &'static [&'static str],
    /// What clients may sign their assertions with there.
    revocation_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    /// What logout tokens are signed with; they share keys and algorithms with ID Tokens (BCL 2.6).
    id_token_signing_alg_values_supported: Vec<&'static str>,
    /// Relying parties are told by back channel (BCL 2.1).
    backchannel_logout_supported: bool,
    /// Logout tokens can carry a `sid` (BCL 2.1).
    backchannel_logout_session_supported: bool,
}

/// Discovery metadata of an issuer, at the place of OpenID Connect.
///
/// Made to be merged into the document at the issuer's own URL.
#[utoipa::path(
    get,
    path = "/{iss}/.well-known/openid-configuration",
    tag = "public",
    params(("iss" = String, Path, description = "The issuer's short id")),
    responses(
        (status = 200, description = "Metadata (OpenID Connect Discovery 3)", body = Metadata),
        (status = 304, description = "It is still what If-None-Match names"),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn openid_configuration(State(app): State<AppState>, Path(iss): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    document(&app, &iss, &headers).await
}

/// The same metadata at the place of RFC 8414.
#[utoipa::path(
    get,
    path = "/.well-known/oauth-authorization-server/{iss}",
    tag = "public",
    params(("iss" = String, Path, description = "The issuer's short id")),
    responses(
        (status = 200, description = "Metadata (RFC 8414 3.2)", body = Metadata),
        (status = 304, description = "It is still what If-None-Match names"),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn oauth_authorization_server(
    State(app): State<AppState>,
    Path(iss): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    document(&app, &iss, &headers).await
}

async fn document(app: &AppState, iss: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let issuer = public_issuer(app, iss).await?;
    let keys = app.store.keys(&issuer.id).await?;
    let text = serde_json::to_string(&metadata(&issuer, &keys, &app.settings.public_url)).map_err(Problem::internal)?;
    Ok(cached(headers, text, MAX_AGE_S).into_response())
}

fn metadata(issuer: &IssuerRecord, keys: &[KeyRecord], public_url: &str) -> Metadata {
    let base = format!("{public_url}/{}", issuer.id);
    Metadata {
        issuer: issuer.issuer.as_str().to_owned(),
        jwks_uri: format!("{base}/jwks"),
        introspection_endpoint: format!("{base}/introspect"),
        introspection_endpoint_auth_methods_supported: &["client_secret_basic", "client_secret_post", "private_key_jwt", "Bearer"],
        introspection_endpoint_auth_signing_alg_values_supported: read(),
        introspection_signing_alg_values_supported: signing(keys).map(SigningAlg::as_str).collect(),
        revocation_endpoint: format!("{base}/revoke"),
        revocation_endpoint_auth_methods_supported: &["client_secret_basic", "client_secret_post", "private_key_jwt", "none", "Bearer"],
        revocation_endpoint_auth_signing_alg_values_supported: read(),
        id_token_signing_alg_values_supported: signing(keys).map(SigningAlg::as_str).collect(),
        backchannel_logout_supported: true,
        backchannel_logout_session_supported: true,
    }
}

/// The algorithms that signatures are checked with.
fn read() -> Vec<&'static str> {
    SigningAlg::ALL.iter().map(|alg| alg.as_str()).collect()
}

/// The algorithms of the keys that sign.
fn signing(keys: &[KeyRecord]) -> impl Iterator<Item = SigningAlg> {
    let signs = |alg: &SigningAlg| keys.iter().any(|key| key.alg == *alg && key.state == KeyState::Active);
    SigningAlg::ALL.iter().copied().filter(signs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::client::Network;
    use crate::model::issuer::SESSION_MAX_AGE_DEFAULT;
    use crate::model::{Issuer, IssuerId, Timestamp};
    use serde_json::json;

    fn key(alg: SigningAlg, state: KeyState) -> KeyRecord {
        KeyRecord::new(IssuerId::parse("main").unwrap(), "k".into(), alg, state, "{}".into(), Timestamp::default())
    }

    #[test]
    fn the_document_names_the_issuer_to_the_letter_and_only_what_works() {
        let issuer = IssuerRecord {
            id: IssuerId::parse("main").unwrap(),
            issuer: Issuer::parse("https://OP.example:443/t1/").unwrap(),
            signing_algs: vec![],
            session_max_age: SESSION_MAX_AGE_DEFAULT,
            expiry: crate::model::issuer::Expiry::Absolute,
            network: Network::default(),
            source: crate::model::issuer::ProviderSource::NONE,
            upstream: crate::model::issuer::Upstream::DEFAULT,
            provider_logout: None,
            access_tokens: crate::model::issuer::AccessTokens::DEFAULT,
            revocation: None,
            subject_secrets: None,
            managed_by: crate::model::issuer::ManagedBy::Api,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
            version: 1,
        };
        let keys =
            [key(SigningAlg::Es256, KeyState::Active), key(SigningAlg::Rs256, KeyState::Active), key(SigningAlg::Ps256, KeyState::Retired)];
        let expected = json!({
            "issuer": "https://OP.example:443/t1/",
            "jwks_uri": "https://logout.example/base/main/jwks",
            "introspection_endpoint": "https://logout.example/base/main/introspect",
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt", "Bearer"],
            "introspection_endpoint_auth_signing_alg_values_supported": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
            "introspection_signing_alg_values_supported": ["RS256", "ES256"],
            "revocation_endpoint": "https://logout.example/base/main/revoke",
            "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt", "none", "Bearer"],
            "revocation_endpoint_auth_signing_alg_values_supported": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "backchannel_logout_supported": true,
            "backchannel_logout_session_supported": true,
        });
        assert_eq!(serde_json::to_value(metadata(&issuer, &keys, "https://logout.example/base")).unwrap(), expected);
    }
}
