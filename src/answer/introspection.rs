//! Token introspection (RFC 7662) of registered refresh tokens.
//!
//! A token is found by its digest, and one that is a JWT also by its `jti`, which is read and not verified: whoever asks about a refresh token is the
//! provider that issued it and has verified it, or an operator of this server. Why a token is not active is told to nobody.

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::http::wire::text;
use crate::http::{AppState, Form, OauthAt, OauthError, Reply, Routes, Seat, Text, needs};
use crate::model::access::Role;
use crate::model::report::TokenName;
use crate::model::{Issuer, Timestamp};
use crate::plan::activity::{Activity, activity};
use crate::store::TokenRecord;
use crate::token::{digest_of_token, jwt_id};

/// The introspection window.
pub fn routes() -> Routes {
    Routes::new().add(routes!(introspect))
}

/// What is asked, as a form.
#[derive(Clone, Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its parameters are read one by one, since OAuth ignores those it does not know")]
pub struct IntrospectionForm {
    /// The token.
    token: String,
    /// Ignored: what a token is does not depend on what it is taken for.
    token_type_hint: Option<String>,
}

/// What is known of a token. Of one that is not active: nothing (RFC 7662 2.2).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Introspection {
    active: bool,
    #[serde(flatten)]
    known: Option<Known>,
}

/// What is known of an active token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Known {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<text::ClientId>,
    iss: text::Issuer,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<text::Subject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<text::Sid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// Granted with the `offline_access` scope.
    offline_access: bool,
}

const INACTIVE: Introspection = Introspection { active: false, known: None };

/// Whether a refresh token is active.
#[utoipa::path(post, path = "/{iss}/introspect", tag = "tokens", operation_id = "introspect", security(("bearer" = []), ("basic" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body(content = IntrospectionForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "What is known of the token, or `{\"active\":false}`.", body = Introspection),
        (status = "default", description = "An OAuth error.", body = crate::http::problem::OauthErrorDocument),
    ))]
pub async fn introspect(State(app): State<AppState>, at: OauthAt<needs::Introspect>, form: Form) -> Result<Response, OauthError> {
    let Seat { caller, issuer } = at.0;
    let token = form.required("token")?;
    let answer = match caller.role {
        Role::Provider | Role::Admin => {
            let record = app.store.refresh_token(&issuer, &names(token)).await?;
            record.map_or(INACTIVE, |record| answer(record, issuer.issuer, app.clock.now()))
        }
        // A gateway guards resources, where a refresh token is never good.
        Role::Gateway | Role::Client | Role::Operator | Role::Auditor => INACTIVE,
    };
    let mut response = Reply::ok(answer).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The names a token may be registered by.
fn names(token: &str) -> Vec<TokenName> {
    let digest = TokenName::Digest(digest_of_token(token.as_bytes()));
    [digest].into_iter().chain(jwt_id(token).map(TokenName::Jti)).collect()
}

fn answer(record: TokenRecord, issuer: Issuer, now: Timestamp) -> Introspection {
    match activity(&record.facts, now) {
        Activity::Inactive(_) => INACTIVE,
        Activity::Active => Introspection {
            active: true,
            known: Some(Known {
                client_id: record.client_id.map(Text),
                iss: Text(issuer),
                sub: record.sub.map(Text),
                sid: record.sid.map(Text),
                scope: record.scope,
                exp: record.facts.expires_at.map(Timestamp::seconds),
                iat: record.facts.issued_at.map(Timestamp::seconds),
                jti: record.jti.map(|jti| jti.as_str().to_owned()),
                offline_access: record.offline_access,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::token::{GrantFact, Newest, SessionFact, TokenFacts, TokenKind};
    use crate::model::{ClientId, Jti, Sid, Subject};

    const T: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(T.seconds() + seconds)
    }

    fn record() -> TokenRecord {
        TokenRecord {
            kind: TokenKind::Refresh,
            client_id: Some(ClientId::parse("wiki").unwrap()),
            sub: Some(Subject::parse("alice").unwrap()),
            sid: Some(Sid::parse("s-1").unwrap()),
            scope: Some("openid".to_owned()),
            aud: Vec::new(),
            not_before: None,
            offline_access: false,
            jti: Some(Jti::parse("j-1").unwrap()),
            facts: TokenFacts {
                issued_at: Some(T),
                not_before: None,
                epoch: Some(0),
                expires_at: Some(at(3600)),
                revoked_at: None,
                superseded_at: None,
                grant_revoked_at: None,
                denied_until: None,
                client_suspended_at: None,
                newest: Newest::NotAsked,
                grant: GrantFact::Bound(SessionFact::Live { started_at: T, epoch: 0, over_at: None }),
                cut_offs: Vec::new(),
            },
        }
    }

    fn told(record: TokenRecord) -> serde_json::Value {
        serde_json::to_value(answer(record, Issuer::parse("https://op.example").unwrap(), at(60))).unwrap()
    }

    #[test]
    fn an_active_token_is_told_with_all_that_is_known_of_it() {
        let expected = json!({
            "active": true, "client_id": "wiki", "iss": "https://op.example", "sub": "alice", "sid": "s-1", "scope": "openid",
            "exp": 1_800_003_600, "iat": 1_800_000_000, "jti": "j-1", "offline_access": false,
        });
        assert_eq!(told(record()), expected);
        let facts = TokenFacts { issued_at: None, expires_at: None, ..record().facts };
        let bare = TokenRecord { sub: None, sid: None, scope: None, jti: None, facts, ..record() };
        assert_eq!(told(bare), json!({"active": true, "client_id": "wiki", "iss": "https://op.example", "offline_access": false}));
    }

    #[test]
    fn of_a_token_that_is_not_active_nothing_else_is_told() {
        let dead = TokenRecord { facts: TokenFacts { grant_revoked_at: Some(T), ..record().facts }, ..record() };
        assert_eq!(told(dead), json!({"active": false}));
    }

    #[test]
    fn a_token_is_looked_for_by_its_digest_and_a_jwt_by_its_jti_too() {
        let [digest] = &names("opaque")[..] else { panic!("one name") };
        assert_eq!(*digest, TokenName::Digest(digest_of_token(b"opaque")));
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiJqLTEifQ.AAAA";
        assert!(matches!(&names(jwt)[..], [TokenName::Digest(_), TokenName::Jti(jti)] if jti.as_str() == "j-1"));
    }
}
