//! Token revocation (RFC 7009): whoever holds a token gives it up, and all that hangs on it.
//!
//! A refresh token goes with its family, however old it is; an access token goes alone. Revoking is no logout: the session goes on, nobody is told, and a
//! later logout still reaches whoever takes part in it.
//!
//! What is not the asker's to revoke is answered like what is not known: RFC 7009 2.1 would have it refused, and so tell whose it is not.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use utoipa::ToSchema;

use crate::answer::inquiry::{Trust, hinted, inquire, names};
use crate::http::problem::OauthErrorDocument;
use crate::http::{AppState, Asker, Code, OauthAt, OauthError, Problem, needs};
use crate::model::ClientId;
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::client::ClientRecord;
use crate::model::report::TokenName;
use crate::model::token::{TokenEventKind, TokenKind};
use crate::observe::TokenEventSeen;
use crate::store::{AuditEntry, Revocation, StoreError, TokenNotice, TokenRecord};
use crate::token::digest_of_token;

/// What is posted, as a form. A client adds `client_id`, with `client_secret` or with `client_assertion` and `client_assertion_type` where it has them.
#[derive(Clone, Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its parameters are read one by one, since OAuth ignores those it does not know")]
pub struct RevocationForm {
    /// The token.
    token: String,
    /// As what it is looked for first; what it is does not depend on it.
    token_type_hint: Option<String>,
}

/// Revoke a token (RFC 7009).
///
/// A refresh token is revoked with its family and all access tokens of it, an access token alone. Its session goes on.
#[utoipa::path(post, path = "/{iss}/revoke", tag = "tokens", operation_id = "revoke", security(("bearer" = []), ("basic" = []), ()),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body(content = RevocationForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "It is not good any more; also if it never was, or is not the asker's."),
        (status = 401, description = "`invalid_client` or `invalid_token`: whoever asks did not prove who that is.", body = OauthErrorDocument),
        (status = 429, description = "Too many proofs were wrong; `Retry-After` says when another one is looked at.", body = OauthErrorDocument),
        (status = 503, description = "Not known to be revoked: send it again.", body = OauthErrorDocument),
        (status = "default", description = "An OAuth error.", body = OauthErrorDocument),
    ))]
pub async fn revoke(State(app): State<AppState>, at: OauthAt<needs::RevokeTokens>) -> Result<Response, OauthError> {
    let OauthAt { asker, issuer, form, .. } = &at;
    let (token, hint) = (form.required("token")?, hinted(form.optional("token_type_hint")));
    match asker {
        Asker::Api(caller) => app.limiter.order(&issuer.id, caller, app.clock.now())?,
        // It was counted as what clients give up.
        Asker::Client(_) => {}
    }
    match inquire(&app, issuer, token, hint, Trust::of(asker)).await? {
        None => TokenEventSeen { issuer: &issuer.id, kind: TokenEventKind::UnknownToken }.emit(),
        Some(record) => match foreigner(asker, &record) {
            None => {
                app.store.revoke_token(order(&at, token, &record)).await.map_err(again)?;
                // Its provider may have to be told.
                app.doorbell.notify_one();
            }
            Some(client) => {
                TokenEventSeen { issuer: &issuer.id, kind: TokenEventKind::ForeignClient }.emit();
                app.store.note_token_event(notice(&at, &client.client_id, token)).await.map_err(again)?;
            }
        },
    }
    // RFC 7009 2.2: a token that is not known is as good as revoked, and there is nothing to read.
    Ok(StatusCode::OK.into_response())
}

/// The client that shows what is not its own (RFC 7009 2.1). An API token got here by its role.
fn foreigner<'a>(asker: &'a Asker, record: &TokenRecord) -> Option<&'a ClientRecord> {
    match asker {
        Asker::Api(_) => None,
        Asker::Client(client) => (record.client_id.as_ref() != Some(&client.client_id)).then_some(&**client),
    }
}

fn notice(at: &OauthAt<needs::RevokeTokens>, client_id: &ClientId, token: &str) -> TokenNotice {
    TokenNotice {
        issuer: at.issuer.id.clone(),
        caller: caller(at),
        kind: TokenEventKind::ForeignClient,
        client_id: client_id.clone(),
        names: names(token, Trust::of(&at.asker)),
    }
}

fn order(at: &OauthAt<needs::RevokeTokens>, token: &str, record: &TokenRecord) -> Revocation {
    let mut names = names(token, Trust::of(&at.asker));
    // Found by what it proved of itself, it may be registered by that.
    let own = record.jti.clone().filter(|_| record.kind == TokenKind::Access).map(TokenName::Jti);
    names.extend(own.filter(|own| !names.contains(own)));
    Revocation {
        issuer: at.issuer.id.clone(),
        kind: record.kind,
        names,
        jti: record.jti.clone(),
        client_id: record.client_id.clone(),
        expires_at: record.facts.expires_at,
        audit: entry(at, token, record),
    }
}

/// The token itself is nowhere kept.
fn entry(at: &OauthAt<needs::RevokeTokens>, token: &str, record: &TokenRecord) -> AuditEntry {
    let detail = json!({
        "kind": record.kind.as_str(),
        "client_id": record.client_id.as_ref().map(|client| client.as_str()),
        "token_sha256": digest_of_token(token.as_bytes()).to_string(),
    });
    AuditEntry { issuer: Some(at.issuer.id.clone()), ..AuditEntry::of(Act::TokenRevoked, &caller(at), detail) }
}

fn caller(at: &OauthAt<needs::RevokeTokens>) -> Caller {
    match &at.asker {
        Asker::Api(caller) => caller.clone(),
        Asker::Client(client) => Caller::client(&at.issuer.id, &client.client_id, at.remote.map(|remote| remote.to_string())),
    }
}

/// RFC 7009 2.2.1: until then the token must be taken for good.
fn again(error: StoreError) -> Problem {
    match error {
        StoreError::Unavailable(_) | StoreError::Unread(_) => {
            Problem::new(Code::Unavailable, "not known to be revoked: send the token again").caused_by(error)
        }
        StoreError::Corrupt { .. } => Problem::internal(error),
    }
}
