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
use crate::model::cut_off::{CutOff, CutOffScope};
use crate::model::report::TokenName;
use crate::model::{Issuer, Sid, Timestamp};
use crate::plan::activity::{Activity, CutOffFact, CutOffReach, GrantFact, SessionFact, TokenFacts, activity};
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
    client_id: text::ClientId,
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
            let record = app.store.refresh_token(&issuer.id, &names(token)).await?;
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
    match activity(&facts(&record), now) {
        Activity::Inactive(_) => INACTIVE,
        Activity::Active => Introspection {
            active: true,
            known: Some(Known {
                client_id: Text(record.client_id),
                iss: Text(issuer),
                sub: record.sub.map(Text),
                sid: record.sid.map(Text),
                scope: record.scope,
                exp: record.expires_at.map(Timestamp::seconds),
                iat: record.issued_at.map(Timestamp::seconds),
                jti: record.jti.map(|jti| jti.as_str().to_owned()),
                offline_access: record.offline_access,
            }),
        },
    }
}

fn facts(record: &TokenRecord) -> TokenFacts {
    TokenFacts {
        issued_at: record.issued_at,
        epoch: record.epoch,
        expires_at: record.expires_at,
        // A refresh token dies with its grant and never alone.
        revoked_at: None,
        grant_revoked_at: record.grant_revoked_at,
        client_suspended_at: record.client_suspended_at,
        grant: grant(record),
        cut_offs: record.cut_offs.iter().filter(|cut_off| !excepts(cut_off, record.sid.as_ref())).map(fact).collect(),
    }
}

fn grant(record: &TokenRecord) -> GrantFact {
    match record.session {
        _ if record.offline_access => GrantFact::Offline,
        None => GrantFact::Bound(SessionFact::None),
        Some(session) if session.ended_at.is_some() => GrantFact::Bound(SessionFact::Ended),
        Some(session) => GrantFact::Bound(SessionFact::Live { started_at: session.started_at, epoch: session.epoch }),
    }
}

/// Whether a cut-off of everything else of its subject leaves this session alone.
fn excepts(cut_off: &CutOff, sid: Option<&Sid>) -> bool {
    matches!(&cut_off.scope, CutOffScope::Subject { except_sid: Some(except), .. } if Some(except) == sid)
}

fn fact(cut_off: &CutOff) -> CutOffFact {
    let reach = match &cut_off.scope {
        CutOffScope::Subject { .. } | CutOffScope::Session(_) | CutOffScope::Device(_) | CutOffScope::Everyone => CutOffReach::Sessions,
        CutOffScope::Client(_)
        | CutOffScope::SubjectAtClient(..)
        | CutOffScope::SessionAtClient(..)
        | CutOffScope::ClientSid(..)
        | CutOffScope::ClientSub(..)
        | CutOffScope::EveryoneAtClients => CutOffReach::Participations,
    };
    CutOffFact { not_before: cut_off.not_before, compromise: cut_off.compromise, offline: cut_off.offline, reach, epoch: cut_off.epoch }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::trigger::Except;
    use crate::model::{ClientId, Jti, Subject};
    use crate::seams::Entropy;
    use crate::store::TokenSession;

    const T: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(T.seconds() + seconds)
    }

    fn sid() -> Sid {
        Sid::parse("s-1").unwrap()
    }

    fn record() -> TokenRecord {
        TokenRecord {
            client_id: ClientId::parse("wiki").unwrap(),
            sub: Some(Subject::parse("alice").unwrap()),
            sid: Some(sid()),
            scope: Some("openid".to_owned()),
            issued_at: Some(T),
            expires_at: Some(at(3600)),
            offline_access: false,
            epoch: 0,
            grant_revoked_at: None,
            client_suspended_at: None,
            session: Some(TokenSession { started_at: T, epoch: 0, ended_at: None }),
            cut_offs: Vec::new(),
            jti: Some(Jti::parse("j-1").unwrap()),
        }
    }

    fn told(record: TokenRecord) -> serde_json::Value {
        serde_json::to_value(answer(record, Issuer::parse("https://op.example").unwrap(), at(60))).unwrap()
    }

    fn cut(scope: CutOffScope, not_before: Timestamp, offline: bool) -> CutOff {
        CutOff { scope, except: Except::default(), not_before, event: Entropy::seeded(1).id(T), compromise: false, offline, epoch: None }
    }

    fn of_subject(except_sid: Option<Sid>) -> CutOffScope {
        CutOffScope::Subject { sub: Subject::parse("alice").unwrap(), except_sid }
    }

    #[test]
    fn an_active_token_is_told_with_all_that_is_known_of_it() {
        let expected = json!({
            "active": true, "client_id": "wiki", "iss": "https://op.example", "sub": "alice", "sid": "s-1", "scope": "openid",
            "exp": 1_800_003_600, "iat": 1_800_000_000, "jti": "j-1", "offline_access": false,
        });
        assert_eq!(told(record()), expected);
        let bare =
            TokenRecord { sub: None, sid: None, scope: None, issued_at: None, expires_at: None, session: None, jti: None, ..record() };
        assert_eq!(told(bare), json!({"active": true, "client_id": "wiki", "iss": "https://op.example", "offline_access": false}));
    }

    #[test]
    fn of_a_token_that_is_not_active_nothing_else_is_told() {
        let ended = Some(TokenSession { started_at: T, epoch: 0, ended_at: Some(at(1)) });
        for dead in [
            TokenRecord { grant_revoked_at: Some(T), ..record() },
            TokenRecord { client_suspended_at: Some(T), ..record() },
            TokenRecord { expires_at: Some(at(60)), ..record() },
            TokenRecord { session: ended, ..record() },
            TokenRecord { cut_offs: vec![cut(of_subject(None), at(1), false)], ..record() },
            TokenRecord { offline_access: true, session: None, cut_offs: vec![cut(of_subject(None), at(1), true)], ..record() },
        ] {
            assert_eq!(told(dead.clone()), json!({"active": false}), "{dead:?}");
        }
    }

    #[test]
    fn an_offline_token_outlives_its_session_and_a_plain_cut_off() {
        let ended = Some(TokenSession { started_at: T, epoch: 0, ended_at: Some(at(1)) });
        let offline = TokenRecord { offline_access: true, session: ended, cut_offs: vec![cut(of_subject(None), at(1), false)], ..record() };
        assert_eq!(told(offline)["active"], true);
    }

    #[test]
    fn the_excepted_session_keeps_its_token() {
        let spared = TokenRecord { cut_offs: vec![cut(of_subject(Some(sid())), at(1), false)], ..record() };
        assert_eq!(told(spared)["active"], true);
        let other = TokenRecord { cut_offs: vec![cut(of_subject(Some(Sid::parse("s-2").unwrap())), at(1), false)], ..record() };
        assert_eq!(told(other)["active"], false);
    }

    #[test]
    fn a_token_is_looked_for_by_its_digest_and_a_jwt_by_its_jti_too() {
        let [digest] = &names("opaque")[..] else { panic!("one name") };
        assert_eq!(*digest, TokenName::Digest(digest_of_token(b"opaque")));
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiJqLTEifQ.AAAA";
        assert!(matches!(&names(jwt)[..], [TokenName::Digest(_), TokenName::Jti(jti)] if jti.as_str() == "j-1"));
    }
}
