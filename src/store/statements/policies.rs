//! What tokens are subject to, as it is stored: JSON of the vault's own, whose secrets rest in columns beside it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{corrupt, duration_ms, word};
use crate::model::ClientId;
use crate::model::issuer::{AccessTokenTyp, AccessTokens, IntrospectUpstream, ProviderEndpoint, WhenAway};
use crate::model::provider_logout::ClientAuth;
use crate::model::token::{OverLimit, ReuseScope, Rotate, TokenPolicy};
use crate::store::StoreError;

#[derive(Serialize, Deserialize)]
struct StoredPolicy {
    rotate: String,
    rotate_after_ms: Option<i64>,
    reuse_scope: String,
    grace_ms: i64,
    newest_only: bool,
    lifetime_max_ms: Option<i64>,
    over_limit: String,
    access_token_max_ms: Option<i64>,
    gateway_cache_ms: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct StoredAccess {
    typ: String,
    audiences: Vec<String>,
    require_known_session: bool,
    upstream: Option<StoredUpstream>,
}

#[derive(Serialize, Deserialize)]
struct StoredUpstream {
    endpoint: StoredEndpoint,
    when_away: String,
}

#[derive(Serialize, Deserialize)]
struct StoredEndpoint {
    url: Option<String>,
    client_id: Option<String>,
    method: String,
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all its keys are strings")
}

fn json<'a, T: Deserialize<'a>>(text: &'a str, table: &'static str, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| corrupt(table, column))
}

fn millis(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

/// What a client's tokens are subject to, but for its secret; nothing where all of it is the default.
pub(super) fn written_client(policy: &TokenPolicy) -> Option<String> {
    let stored = StoredPolicy {
        rotate: policy.rotate.as_str().to_owned(),
        rotate_after_ms: policy.rotate_after.map(duration_ms),
        reuse_scope: policy.reuse_scope.as_str().to_owned(),
        grace_ms: duration_ms(policy.grace),
        newest_only: policy.newest_only,
        lifetime_max_ms: policy.lifetime_max.map(duration_ms),
        over_limit: policy.over_limit.as_str().to_owned(),
        access_token_max_ms: policy.access_token_max.map(duration_ms),
        gateway_cache_ms: policy.gateway_cache.map(duration_ms),
    };
    (TokenPolicy { provider_secret: None, ..policy.clone() } != TokenPolicy::DEFAULT).then(|| text(&stored))
}

/// What was written.
pub(super) fn read_client(text: &str) -> Result<TokenPolicy, StoreError> {
    let stored: StoredPolicy = json(text, "clients", "tokens")?;
    Ok(TokenPolicy {
        rotate: word(Rotate::parse(&stored.rotate), "clients", "tokens")?,
        rotate_after: stored.rotate_after_ms.map(millis),
        reuse_scope: word(ReuseScope::parse(&stored.reuse_scope), "clients", "tokens")?,
        grace: millis(stored.grace_ms),
        newest_only: stored.newest_only,
        lifetime_max: stored.lifetime_max_ms.map(millis),
        over_limit: word(OverLimit::parse(&stored.over_limit), "clients", "tokens")?,
        access_token_max: stored.access_token_max_ms.map(millis),
        gateway_cache: stored.gateway_cache_ms.map(millis),
        provider_secret: None,
    })
}

/// How an issuer's access tokens are known, but for the secret; nothing where all of it is the default.
pub(super) fn written_access(access: &AccessTokens) -> Option<String> {
    let upstream = access.introspect_upstream.as_ref().map(|upstream| StoredUpstream {
        endpoint: StoredEndpoint::of(&upstream.endpoint),
        when_away: upstream.when_away.as_str().to_owned(),
    });
    let stored = StoredAccess {
        typ: access.typ.as_str().to_owned(),
        audiences: access.audiences.clone(),
        require_known_session: access.require_known_session,
        upstream,
    };
    (*access != AccessTokens::DEFAULT).then(|| text(&stored))
}

/// What was written, with its secret.
pub(super) fn read_access(text: Option<&str>, sealed: Option<String>) -> Result<AccessTokens, StoreError> {
    let Some(text) = text else { return Ok(AccessTokens::DEFAULT) };
    let stored: StoredAccess = json(text, "issuers", "access_tokens")?;
    let upstream = stored.upstream.map(|upstream| {
        Ok::<_, StoreError>(IntrospectUpstream {
            endpoint: upstream.endpoint.read(sealed, "access_tokens")?,
            when_away: word(WhenAway::parse(&upstream.when_away), "issuers", "access_tokens")?,
        })
    });
    Ok(AccessTokens {
        typ: word(AccessTokenTyp::parse(&stored.typ), "issuers", "access_tokens")?,
        audiences: stored.audiences,
        require_known_session: stored.require_known_session,
        introspect_upstream: upstream.transpose()?,
    })
}

/// Where refresh tokens are revoked, but for the secret.
pub(super) fn written_endpoint(endpoint: &ProviderEndpoint) -> String {
    text(&StoredEndpoint::of(endpoint))
}

/// What was written, with its secret.
pub(super) fn read_endpoint(text: &str, sealed: Option<String>) -> Result<ProviderEndpoint, StoreError> {
    json::<StoredEndpoint>(text, "issuers", "revocation")?.read(sealed, "revocation")
}

/// Whom a token is for, as JSON.
pub(super) fn written_audience(aud: &[String]) -> Option<String> {
    (!aud.is_empty()).then(|| text(&aud))
}

/// What was written.
pub(super) fn read_audience(text: &str) -> Result<Vec<String>, StoreError> {
    json(text, "access_tokens", "aud")
}

impl StoredEndpoint {
    fn of(endpoint: &ProviderEndpoint) -> Self {
        Self {
            url: endpoint.url.as_ref().map(Url::to_string),
            client_id: endpoint.client_id.as_ref().map(ClientId::to_string),
            method: endpoint.method.as_str().to_owned(),
        }
    }

    fn read(self, sealed: Option<String>, column: &'static str) -> Result<ProviderEndpoint, StoreError> {
        Ok(ProviderEndpoint {
            url: self.url.map(|url| Url::parse(&url).map_err(|_| corrupt("issuers", column))).transpose()?,
            client_id: self.client_id.map(ClientId::stored),
            method: word(ClientAuth::parse(&self.method), "issuers", column)?,
            sealed,
        })
    }
}
