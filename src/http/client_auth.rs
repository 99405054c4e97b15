//! Who asks at an OAuth endpoint: the bearer of an API token, or a registered client by a proof of its own.
//!
//! A client proves who it is by its secret (`client_secret_basic`, `client_secret_post`: RFC 6749 2.3.1) or by a signed assertion (`private_key_jwt`: OpenID
//! Connect Core 9), in the way it registered and in no other; one that has neither says its name where that is enough. One proof a request, no more.
//! An API token comes as Bearer, or as the password of Basic under any user name, for callers that know nothing else; so a secret that looks like an API
//! token is taken for one.
//!
//! What is wrong with a proof is told to the log alone. How often one may be wrong, `throttle.rs` counts: by client and source, so that nobody who
//! guesses locks anybody else out.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;

use super::access::needs::{self, Need};
use super::access::{Credentials, Seat, credentials, identify, issuer_of_path, public_issuer, refuse, remote, seat};
use super::form::{Form, decode};
use super::problem::{Challenge, Code, FieldError, OauthError, Problem};
use super::state::AppState;
use super::throttle::{Judged, Suspect};
use crate::model::access::{ApiTokenRecord, Caller};
use crate::model::client::ClientRecord;
use crate::model::issuer::IssuerRecord;
use crate::model::limits::Load;
use crate::model::{ClientId, Timestamp};
use crate::observe::{AuthenticationFailed, Refusal, traces};
use crate::token::assertion::{ASSERTION_TYPE, Assertion, AssertionRefused, AssertionRules, Proof, prove};
use crate::token::{JwkSet, PublicJwk, digest_of_token, digests_match, secret_matches};

/// Who asks.
#[derive(Clone, Debug)]
pub enum Asker {
    /// The bearer of an API token.
    Api(Caller),
    /// A client of the issuer's.
    Client(Box<ClientRecord>),
}

/// Whether a client may ask that has nothing to prove who it is by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicClients {
    /// It may: what it shows is worth no more to anybody else.
    Admitted,
    /// It may not.
    Refused,
}

/// What an OAuth endpoint asks of whoever asks there.
pub trait Door: Need {
    /// Of public clients.
    const PUBLIC_CLIENTS: PublicClients;
    /// What a client's request is counted as.
    const CLIENTS_LOAD: Load;
}

impl Door for needs::Introspect {
    // RFC 7662 2.1: some form of authorisation, or tokens could be tried out here.
    const PUBLIC_CLIENTS: PublicClients = PublicClients::Refused;
    const CLIENTS_LOAD: Load = Load::Other;
}

impl Door for needs::RevokeTokens {
    // RFC 7009 2.1: who holds a token may give it up.
    const PUBLIC_CLIENTS: PublicClients = PublicClients::Admitted;
    // What anybody may send who has a token, or none, must not stand in the way of a logout.
    const CLIENTS_LOAD: Load = Load::GivingUp;
}

/// A request at an OAuth endpoint below `{iss}`: an API token that may do it, or a client that proved who it is, and the form.
#[derive(Debug)]
pub struct OauthAt<N> {
    /// Who.
    pub asker: Asker,
    /// Where.
    pub issuer: IssuerRecord,
    /// What.
    pub form: Form,
    /// Where from.
    pub remote: Option<IpAddr>,
    need: PhantomData<N>,
}

impl<N: Door> FromRequest<AppState> for OauthAt<N> {
    type Rejection = OauthError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, OauthError> {
        let (mut parts, body) = request.into_parts();
        let (remote, iss) = (remote(&parts), issuer_of_path(&mut parts).await?);
        let of = |asker, issuer, form| Self { asker, issuer, form, remote, need: PhantomData };
        match shown(app, &parts.headers)? {
            Shown::ApiToken(token, challenge) => {
                let caller = identify(app, &token, remote, challenge, N::PERMISSION.load()).await?;
                let Seat { caller, issuer } = seat(caller, app, N::PERMISSION, &iss).await?;
                let form = Form::of(&parts.headers, body).await?;
                check_sole(&form)?;
                Ok(of(Asker::Api(caller), issuer, form))
            }
            Shown::Secret(claim) => {
                let issuer = public_issuer(app, &iss).await?;
                let form = Form::of(&parts.headers, body).await?;
                check_sole(&form)?;
                check_name(&form, &claim.client_id)?;
                let client = by_secret(&Desk { app, issuer: &issuer, remote }, &claim, Method::Basic).await?;
                count(app, &client, N::CLIENTS_LOAD)?;
                Ok(of(Asker::Client(client), issuer, form))
            }
            // Whoever shows nothing is told that first, whatever else is wrong.
            Shown::Nothing => {
                let form = Form::of(&parts.headers, body).await;
                let claim = claim(form.as_ref().unwrap_or(&Form::default()), N::PUBLIC_CLIENTS)?;
                let claim = claim.ok_or_else(|| refuse(Refusal::Missing, remote, Challenge::Bearer))?;
                let (issuer, form) = (public_issuer(app, &iss).await?, form?);
                let client = Desk { app, issuer: &issuer, remote }.authenticated(&claim, &form).await?;
                count(app, &client, N::CLIENTS_LOAD)?;
                Ok(of(Asker::Client(client), issuer, form))
            }
            Shown::Unreadable(challenge) => Err(refuse(Refusal::Malformed, remote, challenge).into()),
        }
    }
}

/// Counts a request of a client's, by its name and for its issuer.
fn count(app: &AppState, client: &ClientRecord, load: Load) -> Result<(), Problem> {
    let now = app.clock.now();
    app.limiter.credential(&format!("client:{}/{}", client.issuer, client.client_id), None, load, now)?;
    app.limiter.issuer(&client.issuer, &Caller::client(&client.issuer, &client.client_id, None), load, now)?;
    // Anybody can say the name of a client that has nothing to prove it by.
    if !is_registered(client, Method::Nothing) {
        traces::vouch();
    }
    Ok(())
}

/// What the `Authorization` header shows.
enum Shown {
    ApiToken(String, Challenge),
    Secret(Secret),
    Nothing,
    Unreadable(Challenge),
}

/// A name and a secret, as they came.
struct Secret {
    client_id: String,
    secret: String,
}

fn shown(app: &AppState, headers: &HeaderMap) -> Result<Shown, Problem> {
    Ok(match credentials(headers)? {
        Credentials::None => Shown::Nothing,
        Credentials::Other => Shown::Unreadable(Challenge::Bearer),
        Credentials::Bearer(token) => Shown::ApiToken(token, Challenge::InvalidToken),
        Credentials::Basic { password, .. } if is_api_token(app, &password) => Shown::ApiToken(password, Challenge::Basic),
        Credentials::Basic { user, password } => basic(&user, &password),
    })
}

/// RFC 6749 2.3.1: both are form-encoded before Basic puts them together. What is not is refused, so that nothing is ever taken in two ways.
fn basic(user: &str, password: &str) -> Shown {
    match (decode(user.as_bytes()), decode(password.as_bytes())) {
        (Ok(client_id), Ok(secret)) => Shown::Secret(Secret { client_id, secret }),
        (Ok(_) | Err(_), _) => Shown::Unreadable(Challenge::Basic),
    }
}

fn is_api_token(app: &AppState, password: &str) -> bool {
    let is_bootstrap = |admin| digests_match(&admin, &digest_of_token(password.as_bytes()));
    password.starts_with(ApiTokenRecord::PREFIX) || app.settings.admin_token.is_some_and(is_bootstrap)
}

/// RFC 6749 2.3: one method of authentication a request, beside the header none.
fn check_sole(form: &Form) -> Result<(), Problem> {
    match ["client_secret", "client_assertion", "client_assertion_type"].into_iter().find(|name| form.optional(name).is_some()) {
        Some(name) => Err(in_form(name, "must not be used together with an Authorization header")),
        None => Ok(()),
    }
}

fn check_name(form: &Form, client_id: &str) -> Result<(), Problem> {
    match form.optional("client_id") {
        Some(name) if name != client_id => Err(in_form("client_id", "must be the one of the Authorization header")),
        Some(_) | None => Ok(()),
    }
}

fn in_form(name: &str, why: &str) -> Problem {
    Problem::of(Code::MalformedRequest).at(FieldError::parameter(name, why))
}

/// How a form says who asks.
enum Claim {
    Secret(Secret),
    Assertion(String),
    Name(String),
}

fn claim(form: &Form, public: PublicClients) -> Result<Option<Claim>, Problem> {
    let said = |name| form.optional(name).map(str::to_owned);
    let (client_id, secret) = (said("client_id"), said("client_secret"));
    match (secret, said("client_assertion"), said("client_assertion_type")) {
        (Some(_), Some(_), _) | (Some(_), None, Some(_)) => {
            Err(in_form("client_secret", "must not be used together with client_assertion"))
        }
        (Some(secret), None, None) => match client_id {
            Some(client_id) => Ok(Some(Claim::Secret(Secret { client_id, secret }))),
            None => Err(in_form("client_id", "is missing")),
        },
        (None, Some(_), None) => Err(in_form("client_assertion_type", "is missing")),
        (None, None, Some(_)) => Err(in_form("client_assertion", "is missing")),
        (None, Some(assertion), Some(kind)) => match kind.as_str() {
            ASSERTION_TYPE => Ok(Some(Claim::Assertion(assertion))),
            _ => Err(in_form("client_assertion_type", "must be that of a JWT (RFC 7523 2.2)")),
        },
        (None, None, None) => Ok(client_id.filter(|_| public == PublicClients::Admitted).map(Claim::Name)),
    }
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Basic,
    Post,
    Assertion,
    Nothing,
}

/// Whether it is the way it registered. One that registered none has those that its secret or its keys are for.
fn is_registered(client: &ClientRecord, method: Method) -> bool {
    match (client.auth_method.as_deref(), method) {
        (Some(registered), Method::Basic) => registered == "client_secret_basic",
        (Some(registered), Method::Post) => registered == "client_secret_post",
        (Some(registered), Method::Assertion) => registered == "private_key_jwt",
        (Some(registered), Method::Nothing) => registered == "none",
        (None, Method::Basic | Method::Post) => client.secret_digest.is_some(),
        (None, Method::Assertion) => client.jwks.is_some() || client.jwks_uri.is_some(),
        (None, Method::Nothing) => false,
    }
}

/// What a claim is looked at with.
struct Desk<'a> {
    app: &'a AppState,
    issuer: &'a IssuerRecord,
    remote: Option<IpAddr>,
}

impl Desk<'_> {
    async fn authenticated(&self, claim: &Claim, form: &Form) -> Result<Box<ClientRecord>, Problem> {
        match claim {
            Claim::Secret(secret) => by_secret(self, secret, Method::Post).await,
            Claim::Assertion(text) => by_assertion(self, text, form.optional("client_id")).await,
            Claim::Name(name) => by_name(self, name).await,
        }
    }

    fn suspect(&self, client_id: Option<&ClientId>) -> Suspect {
        Suspect::client(&self.issuer.id, client_id, self.remote)
    }

    /// Refuses before anything is looked at.
    fn check_patience(&self, client_id: Option<&ClientId>) -> Result<(), Problem> {
        match self.app.throttle.wait(&self.suspect(client_id), self.app.clock.now()) {
            Some(wait) => Err(self.unheard(wait)),
            None => Ok(()),
        }
    }

    fn unheard(&self, wait: std::time::Duration) -> Problem {
        AuthenticationFailed { why: Refusal::Throttled, remote: self.remote }.emit();
        Problem::throttled(wait)
    }

    /// Hands out the client if that is right, and counts it if it is not.
    fn judged(
        &self,
        client_id: Option<&ClientId>,
        client: Option<ClientRecord>,
        why: Refusal,
        is_right: impl FnOnce(Option<&ClientRecord>) -> bool,
    ) -> Result<Box<ClientRecord>, Problem> {
        let judged = self.app.throttle.judge(self.suspect(client_id), self.app.clock.now(), || is_right(client.as_ref()));
        match (judged, client) {
            (Judged::Right, Some(client)) => Ok(Box::new(client)),
            (Judged::Unheard(wait), _) => Err(self.unheard(wait)),
            // RFC 6749 5.2
            (Judged::Right, None) | (Judged::Wrong, _) => Err(refuse(why, self.remote, Challenge::Basic)),
        }
    }

    async fn registered(&self, client_id: Option<&ClientId>) -> Result<Option<ClientRecord>, Problem> {
        let Some(client_id) = client_id else { return Ok(None) };
        Ok(self.app.store.client(&self.issuer.id, client_id).await?.filter(|client| client.deleted_at.is_none()))
    }
}

async fn by_secret(desk: &Desk<'_>, claim: &Secret, method: Method) -> Result<Box<ClientRecord>, Problem> {
    let client_id = ClientId::parse(claim.client_id.as_str()).ok();
    desk.check_patience(client_id.as_ref())?;
    let client = desk.registered(client_id.as_ref()).await?;
    desk.judged(client_id.as_ref(), client, Refusal::Client, |client| {
        let Some(client_id) = &client_id else { return false };
        let matches = secret_matches(&desk.app.sealing, (&desk.issuer.id, client_id), &claim.secret, client, desk.app.clock.now());
        client.is_some_and(|client| is_registered(client, method)) && matches
    })
}

async fn by_name(desk: &Desk<'_>, name: &str) -> Result<Box<ClientRecord>, Problem> {
    let client_id = ClientId::parse(name).ok();
    desk.check_patience(client_id.as_ref())?;
    let client = desk.registered(client_id.as_ref()).await?;
    let is_public = |client: Option<&ClientRecord>| client.is_some_and(|client| is_registered(client, Method::Nothing));
    desk.judged(client_id.as_ref(), client, Refusal::Client, is_public)
}

async fn by_assertion(desk: &Desk<'_>, text: &str, named: Option<&str>) -> Result<Box<ClientRecord>, Problem> {
    let wrong = |client_id: Option<&ClientId>, why: &'static str| desk.judged(client_id, None, Refusal::Assertion(why), |_| false);
    let assertion = match Assertion::read(text) {
        Ok(assertion) => assertion,
        Err(refused) => return wrong(None, refused.as_str()),
    };
    let client_id = assertion.client_id();
    // A signature is not guessed, so that whoever makes a good one is heard whatever others tried in that client's name; who does not is told to wait.
    // RFC 7521 4.2: the name is not needed; if it is there, it is the same.
    if named.is_some_and(|named| named != client_id.as_str()) {
        return wrong(Some(client_id), "client");
    }
    let Some(client) = desk.registered(Some(client_id)).await?.filter(|client| is_registered(client, Method::Assertion)) else {
        return wrong(Some(client_id), "client");
    };
    let now = desk.app.store.now().await?;
    let proof = match proof(desk, &client, &assertion, now).await? {
        Ok(proof) => proof,
        Err(refused) => return wrong(Some(client_id), refused.as_str()),
    };
    // Last of all, so that nobody but the client uses its identifiers up (OpenID Connect Core 9).
    if desk.app.store.take_assertion(&desk.issuer.id, client_id, proof.jti(), proof.until()).await? {
        Ok(Box::new(client))
    } else {
        wrong(Some(client_id), "replayed")
    }
}

/// The assertion held against its client's keys: those that were registered, or those it publishes.
async fn proof(
    desk: &Desk<'_>,
    client: &ClientRecord,
    assertion: &Assertion,
    now: Timestamp,
) -> Result<Result<Proof, AssertionRefused>, Problem> {
    let rules = AssertionRules { issuer: &desk.issuer.issuer, alg: client.auth_signing_alg, now };
    let held = |keys: &[PublicJwk]| prove(assertion, keys, &rules);
    if let Some(jwks) = &client.jwks {
        return Ok(held(&JwkSet::parse(jwks).map_err(Problem::internal)?.keys));
    }
    if client.jwks_uri.is_none() {
        return Ok(Err(AssertionRefused::UnknownKey));
    }
    // A key may be new, or have changed under its name.
    let lacks = |keys: &[PublicJwk]| matches!(held(keys), Err(AssertionRefused::UnknownKey | AssertionRefused::Signature));
    let keys: Arc<Vec<PublicJwk>> = desk
        .app
        .book
        .client_keys(desk.issuer, client, now, lacks)
        .await
        .map_err(|away| Problem::new(Code::Unavailable, "the client's keys cannot be had: ask again").caused_by(away))?;
    Ok(held(&keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::form::pairs;

    fn form(text: &str) -> Form {
        Form::from(pairs(text.as_bytes()).unwrap())
    }

    fn code(text: &str) -> Option<Code> {
        claim(&form(text), PublicClients::Admitted).err().map(|problem| problem.code())
    }

    #[test]
    fn a_form_holds_one_proof_or_none() {
        let kind = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        for text in [
            "client_id=a&client_secret=b&client_assertion=c".to_owned(),
            format!("client_id=a&client_secret=b&{kind}"),
            "client_secret=b".to_owned(),
            "client_assertion=c".to_owned(),
            kind.to_owned(),
            "client_assertion=c&client_assertion_type=saml".to_owned(),
        ] {
            assert_eq!(code(&text), Some(Code::MalformedRequest), "{text}");
        }
        let read = |text: &str, public| claim(&form(text), public).unwrap();
        assert!(matches!(read("client_id=a&client_secret=b", PublicClients::Refused), Some(Claim::Secret(_))));
        assert!(matches!(read(&format!("client_assertion=c&{kind}"), PublicClients::Refused), Some(Claim::Assertion(_))));
        assert!(matches!(read("client_id=a", PublicClients::Admitted), Some(Claim::Name(_))));
        assert!(read("client_id=a", PublicClients::Refused).is_none() && read("token=t", PublicClients::Admitted).is_none());
    }

    #[test]
    fn names_and_secrets_are_form_encoded_inside_of_basic() {
        for (user, password, expected) in [
            ("wiki", "plain-Secret_1.~", Some(("wiki", "plain-Secret_1.~"))),
            ("a%3Ab%2Bc", "p%25q+r%20s", Some(("a:b+c", "p%q r s"))),
            ("wiki", "a:b", Some(("wiki", "a:b"))),
            ("%C3%A9", "%E2%82%AC", Some(("\u{e9}", "\u{20ac}"))),
            ("wiki", "100%", None),
            ("wiki", "%zz", None),
            ("%ff", "x", None),
        ] {
            let read = match basic(user, password) {
                Shown::Secret(Secret { client_id, secret }) => Some((client_id, secret)),
                Shown::ApiToken(..) | Shown::Nothing | Shown::Unreadable(_) => None,
            };
            assert_eq!(read, expected.map(|(id, secret)| (id.to_owned(), secret.to_owned())), "{user} {password}");
        }
    }
}
