//! Forward-auth: a gateway asks, for each request of somebody's, whether it may pass.
//!
//! Gateways take 200, 401 and 403 and make of anything else an error of their own, so nothing else is answered, whatever is asked and whatever is away.
//! Nothing that comes with the request decides what it needs: issuer, audiences, scopes and what happens while nothing can be said stand in the
//! configuration. `Authorization` is the end user's; the gateway is known by where it is or by a key of its own. Bodies, queries and cookies are not read.
//!
//! Why 403 and not 401 while nothing can be said: to 401 clients react by getting new tokens, all of them at once, or by sending people to log in again.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use utoipa_axum::routes;

use super::inquiry::{Trust, inquire};
use crate::http::problem::Fault;
use crate::http::{AppState, OauthError, Routes, origin};
use crate::model::check::{CheckProfile, WhenUnavailable};
use crate::model::issuer::IssuerRecord;
use crate::model::origin::Origin;
use crate::model::token::TokenKind;
use crate::observe::{AuthenticationFailed, CheckOutcome, Refusal, RequestChecked};
use crate::plan::activity::{Activity, activity};
use crate::store::{CANARY, TokenRecord};
use crate::token::access_token::{Refused, Rules, inspect, verify};
use crate::token::digest::JWT_OCTETS_MAX;
use crate::token::{digest_of_token, digests_match};

/// How long a gateway waits at most: somebody waits behind it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the database has to show that it is there.
const DATABASE_PATIENCE: Duration = Duration::from_secs(1);

/// What the gateway's own key comes in.
const KEY: &str = "logoutd-key";

/// Says of an answer that nothing could be looked up.
const CHECK: HeaderName = HeaderName::from_static("logoutd-check");

/// The gateway's window.
pub fn routes() -> Routes {
    let (schemas, paths, methods) = routes!(check);
    // Methods that have no name in a description too.
    Routes::new().add_with_all_below("/{iss}/check/{profile}", (schemas, paths, methods.fallback(check)))
}

/// Whether a request may pass, for the forward authentication of a gateway (nginx `auth_request`, Traefik, Caddy, Envoy).
///
/// Any method, with any path appended. The profile names the issuer, the audiences and the scopes in the configuration; query, cookies and body are not
/// looked at. An `X-` header of a 200 is always there, empty when nothing is known, and percent-encoded where a value is not visible ASCII.
#[utoipa::path(method(get, head, post, put, patch, delete, options, trace), path = "/{iss}/check/{profile}", tag = "tokens",
    params(
        ("iss" = String, Path, description = "The issuer's short id."),
        ("profile" = String, Path, description = "A profile of the configuration, `[check.NAME]`."),
        ("Authorization" = Option<String>, Header, description = "The end user's `Bearer` access token."),
        ("Logoutd-Key" = Option<String>, Header, description = "The gateway's key, where the profile has one."),
    ),
    responses(
        (status = 200, description = "It may pass.", headers(
            ("X-Subject" = String, description = "Who."),
            ("X-Session-Id" = String, description = "In which session."),
            ("X-Client-Id" = String, description = "By which client."),
            ("X-Scope" = String, description = "What for: scopes, separated by spaces."),
            ("Logoutd-Check" = Option<String>, description = "`unavailable` where nobody knows whether the token was revoked and the profile lets it pass."),
        )),
        (status = 401, description = "There is no token, or not a good one.", headers(("WWW-Authenticate" = String, description = "RFC 6750 3."))),
        (status = 403, description = "The token lacks a scope, as `WWW-Authenticate` says; the gateway is not known, or there is no such profile; or, \
            with `Logoutd-Check: unavailable`, nothing can be said now."),
    ))]
pub async fn check(State(app): State<AppState>, request: Request) -> Response {
    let mut segments = request.uri().path().split('/').skip(1);
    let (iss, name) = (segments.next().unwrap_or_default(), segments.nth(1).unwrap_or_default());
    let profile = app.settings.checks.get_key_value(name).filter(|(_, profile)| profile.issuer.as_str() == iss);
    let (verdict, fault) = match profile {
        Some((_, profile)) if is_known(profile, &request) => judged(&app, profile, request.headers()).await,
        Some(_) | None => (Verdict::Stranger, None),
    };
    RequestChecked { profile: profile.map(|(name, _)| name.as_str()), outcome: verdict.outcome() }.emit();
    let mut response = verdict.response(iss);
    // The gateway is told nothing of it; the log is.
    if let Some(fault) = fault {
        response.extensions_mut().insert(fault);
    }
    response
}

/// What is answered, and why.
#[derive(Debug)]
enum Verdict {
    Pass(Box<Identity>),
    /// Nobody knows whether it was revoked, and the profile lets it pass.
    PassUnseen(Box<Identity>),
    NoToken,
    BadToken(&'static str),
    /// These are needed.
    Scope(Vec<String>),
    Unavailable,
    Stranger,
}

/// Whose request it is, as the application behind the gateway is told.
#[derive(Debug, Default)]
struct Identity {
    sub: String,
    sid: String,
    client_id: String,
    scope: String,
    aud: Vec<String>,
}

/// Whether the gateway is one of the profile's. What is asked for must be there: a place, a key, or both.
fn is_known(profile: &CheckProfile, request: &Request) -> bool {
    let origin = origin(request.extensions());
    // A gateway that comes by a trusted proxy is where the proxy says: the place of the proxy itself is open to everybody behind it.
    let place = origin.and_then(Origin::known);
    let is_near = profile.networks.is_empty() || place.is_some_and(|place| profile.networks.iter().any(|net| net.contains(&place)));
    let shown = only(request.headers(), KEY);
    let has_key = match profile.key {
        Some(key) => shown.is_some_and(|shown| digests_match(&key, &digest_of_token(shown.as_bytes()))),
        None => !profile.networks.is_empty(),
    };
    if !(is_near && has_key) {
        refused(origin.map(Origin::address), if is_near && shown.is_none() { Refusal::Missing } else { Refusal::Unknown });
    }
    is_near && has_key
}

fn refused(remote: Option<IpAddr>, why: Refusal) {
    AuthenticationFailed { why, remote }.emit();
}

/// The value of a header that is there once.
fn only<'r>(headers: &'r HeaderMap, name: &str) -> Option<&'r HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

/// What comes as `Authorization`.
enum Shown<'r> {
    Nothing,
    Token(&'r str),
    Unreadable,
}

/// RFC 6750 2.1: one token, in the header.
fn shown(headers: &HeaderMap) -> Shown<'_> {
    if !headers.contains_key(AUTHORIZATION) {
        return Shown::Nothing;
    }
    let Some(value) = only(headers, AUTHORIZATION.as_str()).and_then(|value| value.to_str().ok()) else { return Shown::Unreadable };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        // Credentials for somebody else: of us, nothing was asked.
        return Shown::Nothing;
    }
    let token = token.trim_matches(' ');
    let letter = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~+/".contains(&octet);
    let body = token.trim_end_matches('=');
    if !body.is_empty() && token.len() <= JWT_OCTETS_MAX && body.bytes().all(letter) { Shown::Token(token) } else { Shown::Unreadable }
}

async fn judged(app: &AppState, profile: &CheckProfile, headers: &HeaderMap) -> (Verdict, Option<Fault>) {
    let token = match shown(headers) {
        Shown::Nothing => return (Verdict::NoToken, None),
        Shown::Unreadable => return (Verdict::BadToken("malformed"), None),
        Shown::Token(token) => token,
    };
    let fault = match tokio::time::timeout(PATIENCE, looked_up(app, profile, token)).await {
        Ok(Ok(verdict)) => return (verdict, None),
        Ok(Err(error)) => error.problem().fault().cloned(),
        Err(_) => None,
    };
    let verdict = match profile.when_unavailable {
        WhenUnavailable::Closed => Verdict::Unavailable,
        // Only the database's absence opens: while it answers, a provider that is away is no reason to believe a token that may be revoked.
        WhenUnavailable::Open if database_answers(app).await => Verdict::Unavailable,
        WhenUnavailable::Open => unseen(app, profile, token),
    };
    (verdict, fault)
}

async fn database_answers(app: &AppState) -> bool {
    matches!(tokio::time::timeout(DATABASE_PATIENCE, app.store.meta(CANARY)).await, Ok(Ok(_)))
}

async fn looked_up(app: &AppState, profile: &CheckProfile, token: &str) -> Result<Verdict, OauthError> {
    let Some(issuer) = app.store.issuer(&profile.issuer).await? else {
        app.recall.forget(&profile.issuer);
        return Ok(Verdict::Stranger);
    };
    if profile.when_unavailable == WhenUnavailable::Open {
        // Beside the request: the provider may take its time.
        app.recall.note_beside(app, &issuer, app.clock.now());
    }
    let Some(record) = known(app, &issuer, token).await? else { return Ok(Verdict::BadToken("unknown")) };
    Ok(match activity(&record.facts, app.clock.now()) {
        Activity::Active => admitted(profile, Identity::of(record)).map_or_else(|verdict| verdict, Verdict::Pass),
        Activity::Inactive(_) => Verdict::BadToken("inactive"),
    })
}

/// An access token. A refresh token is none, whatever it looks like.
async fn known(app: &AppState, issuer: &IssuerRecord, token: &str) -> Result<Option<TokenRecord>, OauthError> {
    let record = inquire(app, issuer, token, TokenKind::Access, Trust::Nothing).await?;
    Ok(record.filter(|record| record.kind == TokenKind::Access))
}

/// While nothing can be looked up: a token that its provider signed and that is in time, by keys that were known.
fn unseen(app: &AppState, profile: &CheckProfile, token: &str) -> Verdict {
    let Some(recalled) = app.recall.of(&profile.issuer) else { return Verdict::Unavailable };
    let (issuer, now) = (&recalled.issuer, app.clock.now());
    let rules = Rules { issuer: &issuer.issuer, audiences: &issuer.access_tokens.audiences, now };
    let claims = inspect(token, issuer.access_tokens.typ).and_then(|token| verify(&token, &recalled.keys, &rules));
    match claims {
        Ok(claims) => {
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            let identity = Identity {
                sub: text(claims.sub.as_ref().map(|sub| sub.as_str())),
                sid: text(claims.sid.as_ref().map(|sid| sid.as_str())),
                client_id: text(claims.client_id.as_ref().map(|client| client.as_str())),
                scope: claims.scope.unwrap_or_default(),
                aud: claims.aud,
            };
            admitted(profile, identity).map_or_else(|verdict| verdict, Verdict::PassUnseen)
        }
        Err(Refused::Expiry) => Verdict::BadToken("expiry"),
        // An opaque token may be good, and so may one whose key is new.
        Err(_) => Verdict::Unavailable,
    }
}

/// Whether a good token is one for this.
fn admitted(profile: &CheckProfile, identity: Identity) -> Result<Box<Identity>, Verdict> {
    // RFC 6750 3.1: one for somebody else is no good token here.
    if !profile.audiences.is_empty() && !identity.aud.iter().any(|aud| profile.audiences.contains(aud)) {
        return Err(Verdict::BadToken("audience"));
    }
    let has = |scope: &&String| identity.scope.split(' ').any(|own| own == scope.as_str());
    if profile.scopes.iter().all(|scope| has(&scope)) { Ok(Box::new(identity)) } else { Err(Verdict::Scope(profile.scopes.clone())) }
}

impl Identity {
    fn of(record: TokenRecord) -> Self {
        let TokenRecord { sub, sid, client_id, scope, aud, .. } = record;
        Self {
            sub: sub.map(|sub| sub.as_str().to_owned()).unwrap_or_default(),
            sid: sid.map(|sid| sid.as_str().to_owned()).unwrap_or_default(),
            client_id: client_id.map(|client| client.as_str().to_owned()).unwrap_or_default(),
            scope: scope.unwrap_or_default(),
            aud,
        }
    }

    /// Every header each time: one that were left out would leave in place what the request itself brought under its name.
    fn headers(&self) -> [(HeaderName, HeaderValue); 4] {
        let scope: Vec<String> = self.scope.split(' ').map(encoded).collect();
        [
            (HeaderName::from_static("x-subject"), encoded(&self.sub)),
            (HeaderName::from_static("x-session-id"), encoded(&self.sid)),
            (HeaderName::from_static("x-client-id"), encoded(&self.client_id)),
            (HeaderName::from_static("x-scope"), scope.join(" ")),
        ]
        .map(|(name, value)| (name, HeaderValue::try_from(value).expect("it is visible ASCII")))
    }
}

/// Visible ASCII stays, but for the percent sign; everything else is percent-encoded (RFC 3986 2.1), so that no value can break a header or be cut short.
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'%' => encoded.push_str("%25"),
            0x21..=0x7e => encoded.push(char::from(octet)),
            _ => write!(encoded, "%{octet:02X}").expect("a string takes what is written"),
        }
    }
    encoded
}

impl Verdict {
    const fn outcome(&self) -> CheckOutcome {
        match self {
            Self::Pass(_) => CheckOutcome::Passed,
            Self::PassUnseen(_) => CheckOutcome::PassedUnseen,
            Self::NoToken => CheckOutcome::NoToken,
            Self::BadToken(why) => CheckOutcome::Refused(why),
            Self::Scope(_) => CheckOutcome::Scope,
            Self::Unavailable => CheckOutcome::Unavailable,
            Self::Stranger => CheckOutcome::Unknown,
        }
    }

    /// The realm is the issuer's short id, which is in the path.
    fn response(&self, realm: &str) -> Response {
        match self {
            Self::Pass(identity) => (StatusCode::OK, identity.headers()).into_response(),
            Self::PassUnseen(identity) => (StatusCode::OK, identity.headers(), [UNAVAILABLE]).into_response(),
            // RFC 6750 3: whoever shows nothing is told nothing but what to show.
            Self::NoToken => (StatusCode::UNAUTHORIZED, challenge(realm, "")).into_response(),
            Self::BadToken(_) => (StatusCode::UNAUTHORIZED, challenge(realm, ", error=\"invalid_token\"")).into_response(),
            Self::Scope(scopes) => {
                let more = format!(", error=\"insufficient_scope\", scope=\"{}\"", scopes.join(" "));
                (StatusCode::FORBIDDEN, challenge(realm, &more)).into_response()
            }
            Self::Unavailable => (StatusCode::FORBIDDEN, [UNAVAILABLE]).into_response(),
            Self::Stranger => StatusCode::FORBIDDEN.into_response(),
        }
    }
}

const UNAVAILABLE: (HeaderName, HeaderValue) = (CHECK, HeaderValue::from_static("unavailable"));

fn challenge(realm: &str, more: &str) -> [(HeaderName, HeaderValue); 1] {
    let value =
        HeaderValue::try_from(format!("Bearer realm=\"{realm}\"{more}")).expect("short ids and scopes are visible ASCII without quotes");
    [(WWW_AUTHENTICATE, value)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_token_comes_once_and_as_a_bearer_token() {
        for good in ["Bearer abc.def-_~+/==", "bearer  abc", "BEARER abc"] {
            assert!(matches!(shown(&from(&[good])), Shown::Token(_)), "{good}");
        }
        for nothing in [&[][..], &["Basic YTpi"], &["DPoP abc"], &["Bearerabc"]] {
            assert!(matches!(shown(&from(nothing)), Shown::Nothing), "{nothing:?}");
        }
        let long = format!("Bearer {}", "a".repeat(JWT_OCTETS_MAX + 1));
        for bad in [
            &["Bearer"][..],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a=b"],
            &["Bearer a\"b"],
            &["Bearer ="],
            &[&long],
            &["Bearer a", "Bearer a"],
        ] {
            assert!(matches!(shown(&from(bad)), Shown::Unreadable), "{bad:.60?}");
        }
    }

    #[test]
    fn all_scopes_are_needed_and_one_of_the_audiences() {
        let profile = |audiences: &[&str], scopes: &[&str]| CheckProfile {
            issuer: crate::model::IssuerId::parse("main").unwrap(),
            audiences: audiences.iter().map(|aud| (*aud).to_owned()).collect(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            when_unavailable: WhenUnavailable::Closed,
            networks: Vec::new(),
            key: None,
        };
        let identity = || Identity { scope: "read write".to_owned(), aud: vec!["a".to_owned(), "b".to_owned()], ..Identity::default() };
        let word = |profile: CheckProfile| match admitted(&profile, identity()) {
            Ok(_) => "passed",
            Err(Verdict::Scope(_)) => "scope",
            Err(Verdict::BadToken(why)) => why,
            Err(other) => panic!("{other:?}"),
        };
        for (audiences, scopes, told) in [
            (&[][..], &[][..], "passed"),
            (&["c", "b"], &["write"], "passed"),
            (&["c"], &[], "audience"),
            (&[], &["read", "admin"], "scope"),
            (&[], &["rea"], "scope"),
        ] {
            assert_eq!(word(profile(audiences, scopes)), told, "{audiences:?} {scopes:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_somebody_is_called_is_one_header_value_that_can_be_read_back(name in "\\PC{0,40}[\u{0}-\u{20}%é]{0,3}") {
            let encoded = encoded(&name);
            prop_assert!(encoded.bytes().all(|octet| (0x21..0x7f).contains(&octet)));
            let value = url::form_urlencoded::parse(format!("v={}", encoded.replace('+', "%2B").replace('&', "%26")).as_bytes()).next().unwrap().1.into_owned();
            prop_assert_eq!(value, name);
        }
    }
}
