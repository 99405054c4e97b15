//! Token introspection (RFC 7662), and its signed answers (RFC 9701).
//!
//! A provider asks about any token of its issuer, a gateway about access tokens, a client about its own. Why a token is not active is told to nobody, and
//! neither is whether there is one that is not for the asker to know.
//!
//! A client knows a person and a session by its own names, which pairwise identifiers keep from being anybody else's: it is told `sub` and `sid` as it saw
//! them, where its participation is registered, and neither otherwise.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::inquiry::{Trust, hinted, inquire};
use crate::http::wire::text;
use crate::http::{AppState, Asker, OauthAt, OauthError, Problem, Reply, Routes, Text, needs};
use crate::model::access::Role;
use crate::model::client::ClientRecord;
use crate::model::issuer::IssuerRecord;
use crate::model::key::{KeyRecord, KeyState, SigningAlg};
use crate::model::session::SessionName;
use crate::model::token::{TokenEventKind, TokenKind};
use crate::model::{Issuer, Sid, Subject, Timestamp};
use crate::observe::TokenEventSeen;
use crate::plan::activity::{Activity, activity};
use crate::plan::keys::signer;
use crate::store::TokenRecord;
use crate::token::{IntrospectionResponse, SigningCost};

/// The introspection window.
pub fn routes() -> Routes {
    Routes::new().add(routes!(introspect))
}

/// What is asked, as a form. A client may add `client_id` with `client_secret`, or `client_assertion` with `client_assertion_type`.
#[derive(Clone, Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its parameters are read one by one, since OAuth ignores those it does not know")]
pub struct IntrospectionForm {
    /// The token.
    token: String,
    /// As what it is looked for first; what it is does not depend on it.
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
    /// `Bearer` for access tokens; refresh tokens have no type (RFC 6749 7.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Audience>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// Granted with the `offline_access` scope.
    offline_access: bool,
}

/// Whom a token is for: one, or several.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

const INACTIVE: Introspection = Introspection { active: false, known: None };

/// The media type of signed answers (RFC 9701 4).
const SIGNED: &str = "application/token-introspection+jwt";

/// Whether a token is active.
///
/// With `Accept: application/token-introspection+jwt` the answer is signed (RFC 9701).
#[utoipa::path(post, path = "/{iss}/introspect", tag = "tokens", operation_id = "introspect", security(("bearer" = []), ("basic" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body(content = IntrospectionForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "What is known of the token, or `{\"active\":false}`.", content((Introspection = "application/json"), (String = "application/token-introspection+jwt"))),
        (status = 401, description = "`invalid_client` or `invalid_token`: whoever asks did not prove who that is.", body = crate::http::problem::OauthErrorDocument),
        (status = 429, description = "Too many proofs were wrong; `Retry-After` says when another one is looked at.", body = crate::http::problem::OauthErrorDocument),
        (status = "default", description = "An OAuth error.", body = crate::http::problem::OauthErrorDocument),
    ))]
pub async fn introspect(State(app): State<AppState>, headers: HeaderMap, at: OauthAt<needs::Introspect>) -> Result<Response, OauthError> {
    let OauthAt { asker, issuer, form, .. } = &at;
    let (token, hint) = (form.required("token")?, hinted(form.optional("token_type_hint")));
    let found = inquire(&app, issuer, token, hint, Trust::of(asker)).await?;
    if let Some(kind) = noticed(asker, found.as_ref(), app.clock.now()) {
        TokenEventSeen { issuer: &issuer.id, kind }.emit();
    }
    let answer = match found.filter(|record| may_know(asker, record)) {
        Some(record) => answer(told_to(&app, issuer, asker, record).await?, &issuer.issuer, app.clock.now()),
        None => INACTIVE,
    };
    let mut response = match wanted(&headers) {
        Form::Plain => Reply::ok(answer).into_response(),
        Form::Signed => ([(CONTENT_TYPE, HeaderValue::from_static(SIGNED))], signed(&app, issuer, asker, &answer).await?).into_response(),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// Whether a token is for the asker to know of.
fn may_know(asker: &Asker, record: &TokenRecord) -> bool {
    match asker {
        Asker::Api(caller) => match caller.role {
            Role::Provider | Role::Admin => true,
            // It guards resources, where a refresh token is never good.
            Role::Gateway => record.kind == TokenKind::Access,
            Role::Client | Role::Operator | Role::Auditor => false,
        },
        Asker::Client(client) => record.client_id.as_ref() == Some(&client.client_id),
    }
}

/// What is worth counting about a question. A window writes nothing down.
fn noticed(asker: &Asker, found: Option<&TokenRecord>, now: Timestamp) -> Option<TokenEventKind> {
    let Some(record) = found else { return Some(TokenEventKind::UnknownToken) };
    match (may_know(asker, record), asker, activity(&record.facts, now)) {
        (false, Asker::Client(_), _) => Some(TokenEventKind::ForeignClient),
        (true, _, Activity::Inactive(why)) if why.is_after_logout() => Some(TokenEventKind::UseAfterLogout),
        (false, Asker::Api(_), _) | (true, ..) => None,
    }
}

/// The same by the names the asker knows.
async fn told_to(app: &AppState, issuer: &IssuerRecord, asker: &Asker, record: TokenRecord) -> Result<TokenRecord, OauthError> {
    match asker {
        Asker::Api(_) => Ok(record),
        Asker::Client(client) => {
            let (sub, sid) = own_names(app, issuer, client, &record).await?;
            Ok(TokenRecord { sub, sid, ..record })
        }
    }
}

async fn own_names(
    app: &AppState,
    issuer: &IssuerRecord,
    client: &ClientRecord,
    record: &TokenRecord,
) -> Result<(Option<Subject>, Option<Sid>), OauthError> {
    let Some(sid) = &record.sid else { return Ok((None, None)) };
    let session = app.store.session(&issuer.id, &SessionName::Sid(sid.clone())).await?.filter(|session| session.sub == record.sub);
    let participants = session.map(|session| session.participants).unwrap_or_default();
    let own = participants.into_iter().find(|own| own.client_id == client.client_id && own.ended_at.is_none());
    Ok(own.map_or((None, None), |own| (own.sub, own.sid)))
}

fn answer(record: TokenRecord, issuer: &Issuer, now: Timestamp) -> Introspection {
    match activity(&record.facts, now) {
        Activity::Inactive(_) => INACTIVE,
        Activity::Active => Introspection { active: true, known: Some(Known::of(record, issuer)) },
    }
}

impl Known {
    fn of(record: TokenRecord, issuer: &Issuer) -> Self {
        Self {
            client_id: record.client_id.map(Text),
            iss: Text(issuer.clone()),
            sub: record.sub.map(Text),
            sid: record.sid.map(Text),
            scope: record.scope,
            token_type: match record.kind {
                TokenKind::Access => Some("Bearer"),
                TokenKind::Refresh => None,
            },
            exp: record.facts.expires_at.map(Timestamp::seconds),
            iat: record.facts.issued_at.map(Timestamp::seconds),
            nbf: record.not_before.map(Timestamp::seconds),
            aud: audience(record.aud),
            jti: record.jti.map(|jti| jti.as_str().to_owned()),
            offline_access: record.offline_access,
        }
    }
}

fn audience(mut aud: Vec<String>) -> Option<Audience> {
    match (aud.pop(), aud.is_empty()) {
        (None, _) => None,
        (Some(only), true) => Some(Audience::One(only)),
        (Some(last), false) => {
            aud.push(last);
            Some(Audience::Several(aud))
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Signed,
}

/// Signed for whoever names that type, and does not like plain JSON better (RFC 9110 12.5.1). A range of types is not a wish for it.
fn wanted(headers: &HeaderMap) -> Form {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let (mut signed, mut plain) = (0, 0);
    for one in accepted {
        let mut parts = one.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(weight).unwrap_or(1000);
        match name.as_str() {
            SIGNED => signed = weight,
            "application/json" => plain = weight,
            _ => {}
        }
    }
    if signed > 0 && signed >= plain { Form::Signed } else { Form::Plain }
}

/// A weight in thousandths (RFC 9110 12.4.2); one that cannot be read is none.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
    let thousandths = if fraction.len() <= 3 && digits(fraction) { format!("{fraction:0<3}").parse().unwrap_or(0) } else { 0 };
    match whole {
        "0" => Some(thousandths),
        "1" => Some(1000),
        _ => Some(0),
    }
}

/// Why an answer could not be signed: always our own fault.
#[derive(Debug, thiserror::Error)]
enum Unsigned {
    #[error("there is no active key to sign the answer with")]
    NoKey,
    #[error("the answer could not be signed")]
    Token(#[from] crate::token::TokenError),
}

/// RFC 9701 5: for this asker and nobody else.
async fn signed(app: &AppState, issuer: &IssuerRecord, asker: &Asker, answer: &Introspection) -> Result<String, OauthError> {
    let (audience, asked) = match asker {
        Asker::Api(caller) => (caller.identity.clone(), None),
        Asker::Client(client) => (client.client_id.as_str().to_owned(), client.introspection_alg),
    };
    let keys = app.store.keys(&issuer.id).await?;
    let record = key(&keys, asked).ok_or_else(|| Problem::internal(Unsigned::NoKey))?;
    let key = app.keyring.key_of(record, &app.sealing).map_err(|error| Problem::internal(Unsigned::Token(error)))?;
    let (issuer, now, answer) = (issuer.issuer.clone(), app.clock.now(), answer.clone());
    let sign = {
        let key = Arc::clone(&key);
        move || IntrospectionResponse { iss: &issuer, aud: &audience, iat: now, token_introspection: &answer }.sign(&key)
    };
    let signed = match key.cost() {
        SigningCost::Small => sign(),
        SigningCost::Large => app.tasks.spawn_blocking("sign", sign).await?,
    };
    Ok(signed.map_err(|error| Problem::internal(Unsigned::Token(error)))?)
}

/// What was registered, and nothing else; or RS256 (RFC 9701 6), or whatever the issuer signs with.
fn key(keys: &[KeyRecord], asked: Option<SigningAlg>) -> Option<&KeyRecord> {
    match asked {
        Some(alg) => signer(keys, alg),
        None => signer(keys, SigningAlg::Rs256).or_else(|| keys.iter().find(|key| key.state == KeyState::Active)),
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
                gap: None,
            },
        }
    }

    fn told(record: TokenRecord) -> serde_json::Value {
        serde_json::to_value(answer(record, &Issuer::parse("https://op.example").unwrap(), at(60))).unwrap()
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
    fn an_access_token_has_a_type_and_an_audience_and_a_time_it_begins() {
        let facts = TokenFacts { expires_at: None, ..record().facts };
        let access = |aud: &[&str]| {
            let aud = aud.iter().map(|one| (*one).to_owned()).collect();
            told(TokenRecord { kind: TokenKind::Access, aud, not_before: Some(T), facts: facts.clone(), ..record() })
        };
        let one = access(&["api"]);
        assert_eq!((&one["token_type"], &one["aud"], &one["nbf"]), (&json!("Bearer"), &json!("api"), &json!(T.seconds())));
        assert_eq!(access(&["api", "files"])["aud"], json!(["api", "files"]));
        assert_eq!(access(&[]).get("aud"), None);
    }

    #[test]
    fn an_answer_is_signed_for_whoever_names_that_and_likes_nothing_better() {
        let wanted = |accept: &str| wanted(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]));
        for accept in [
            "application/token-introspection+jwt",
            "Application/Token-Introspection+JWT;q=0.5, */*",
            "application/json;q=0.9, application/token-introspection+jwt",
            "text/html , application/token-introspection+jwt; q=0.001",
        ] {
            assert_eq!(wanted(accept), Form::Signed, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "application/*",
            "application/json",
            "application/token-introspection+jwt;q=0",
            "application/token-introspection+jwt;q=0.000",
            "application/token-introspection+jwt;q=0.5, application/json",
            "application/token-introspection+jwt;q=high",
            "application/jwt",
        ] {
            assert_eq!(wanted(accept), Form::Plain, "{accept}");
        }
        assert_eq!(super::wanted(&HeaderMap::new()), Form::Plain);
    }
}
