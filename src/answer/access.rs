//! What is known of an access token: verified where it is a JWT of the provider's, asked about at the provider where it is opaque.
//!
//! Whatever the token or the provider says is joined to what is known here: sessions, the denylist, cut-offs, what was registered. Whether that makes it
//! active is decided by [`activity`] alone, and by whoever asks.

use url::Url;
use zeroize::Zeroizing;

use crate::http::provider_keys::{Blame, NoKeys, held_against_keys, keys};
use crate::http::{AppState, Code, OauthError, Problem};
use crate::issuers::{Metadata, Question, Word};
use crate::model::Timestamp;
use crate::model::issuer::{AccessTokenTyp, IntrospectUpstream, IssuerRecord, WhenAway};
use crate::model::report::TokenName;
use crate::model::token::{AccessClaims, TokenFacts};
use crate::observe::{AccessTokenRead, ReadOutcome};
use crate::plan::activity::{Activity, activity};
use crate::store::TokenRecord;
use crate::token::Sealed;
use crate::token::access_token::{Refused, Rules, Told, inspect, looks_like_a_jwt, verify};
use crate::token::digest::JWT_OCTETS_MAX;

/// What is known of an access token that its digest did not find; none where it is none of this issuer's, or the provider says that it is not active.
/// An error where nothing can be said: the provider's keys, or its word, cannot be had.
pub async fn access_token(app: &AppState, issuer: &IssuerRecord, token: &str) -> Result<Option<TokenRecord>, OauthError> {
    if token.len() > JWT_OCTETS_MAX {
        return Ok(None);
    }
    // A JWT of a provider whose keys nobody registered tells us as little as an opaque token.
    if looks_like_a_jwt(token) && issuer.source.is_known() { signed(app, issuer, token).await } else { opaque(app, issuer, token).await }
}

fn rules<'a>(issuer: &'a IssuerRecord, now: Timestamp) -> Rules<'a> {
    Rules { issuer: &issuer.issuer, audiences: &issuer.access_tokens.audiences, now }
}

async fn signed(app: &AppState, issuer: &IssuerRecord, token: &str) -> Result<Option<TokenRecord>, OauthError> {
    let claims = match verified(app, issuer, token).await {
        Ok(Ok(claims)) => claims,
        Ok(Err(refused)) => return Ok(none(issuer, ReadOutcome::Refused(refused.as_str()))),
        Err(NoKeys::Store(error)) => return Err(error.into()),
        Err(NoKeys::NotSetUp | NoKeys::Away) => return Err(away(issuer, "its issuer's keys cannot be had: ask again")),
    };
    AccessTokenRead { issuer: &issuer.id, outcome: ReadOutcome::Verified }.emit();
    let claimed = app.store.claimed_token(issuer, &claims).await?;
    let Some(jti) = claims.jti else { return Ok(Some(claimed)) };
    let name = [TokenName::Jti(jti)];
    if let Some(registered) = app.store.access_token(issuer, &name).await? {
        return Ok(both(registered, claimed, app.clock.now()));
    }
    // A refresh token may be a JWT too, and where access tokens have no type of their own nothing in it need say so.
    match issuer.access_tokens.typ {
        AccessTokenTyp::Jwt if app.store.refresh_token(issuer, &name).await?.is_some() => {
            Ok(none(issuer, ReadOutcome::Refused(Refused::Type.as_str())))
        }
        AccessTokenTyp::Jwt | AccessTokenTyp::AtJwt => Ok(Some(claimed)),
    }
}

async fn verified(app: &AppState, issuer: &IssuerRecord, token: &str) -> Result<Result<AccessClaims, Refused>, NoKeys> {
    let token = match inspect(token, issuer.access_tokens.typ) {
        Ok(token) => token,
        Err(refused) => return Ok(Err(refused)),
    };
    let now = app.clock.now();
    held_against_keys(app, issuer, token.kid(), now, |keys| verify(&token, keys, &rules(issuer, now)), blame).await
}

const fn blame(refused: &Refused) -> Blame {
    match refused {
        Refused::UnknownKey => Blame::UnknownKey,
        Refused::Signature => Blame::Signature,
        Refused::Malformed
        | Refused::Encrypted
        | Refused::Critical
        | Refused::Type
        | Refused::Algorithm
        | Refused::Issuer
        | Refused::Audience
        | Refused::IssuedAt
        | Refused::Expiry
        | Refused::Names => Blame::Token,
    }
}

/// A token that is registered by its `jti` is good if both its registration and its own words are. None where they contradict each other.
fn both(registered: TokenRecord, claimed: TokenRecord, now: Timestamp) -> Option<TokenRecord> {
    if registered.client_id.as_ref().zip(claimed.client_id.as_ref()).is_some_and(|(one, other)| one != other) {
        return None;
    }
    // Which of a subject's tokens is the newest, the registration knows better than whole seconds do.
    let claimed = TokenRecord { facts: TokenFacts { newest: registered.facts.newest, ..claimed.facts }, ..claimed };
    if activity(&claimed.facts, now) != Activity::Active {
        return Some(claimed);
    }
    let earlier = |one: Option<Timestamp>, other: Option<Timestamp>| one.into_iter().chain(other).min();
    let facts = TokenFacts {
        expires_at: earlier(registered.facts.expires_at, claimed.facts.expires_at),
        not_before: registered.facts.not_before.max(claimed.facts.not_before),
        denied_until: registered.facts.denied_until.max(claimed.facts.denied_until),
        ..registered.facts
    };
    Some(TokenRecord {
        client_id: registered.client_id.or(claimed.client_id),
        sub: registered.sub.or(claimed.sub),
        sid: registered.sid.or(claimed.sid),
        scope: registered.scope.or(claimed.scope),
        // What it is for stands in the token itself, signed.
        aud: claimed.aud,
        not_before: facts.not_before,
        jti: claimed.jti,
        facts,
        ..registered
    })
}

async fn opaque(app: &AppState, issuer: &IssuerRecord, token: &str) -> Result<Option<TokenRecord>, OauthError> {
    let Some(upstream) = &issuer.access_tokens.introspect_upstream else { return Ok(none(issuer, ReadOutcome::Unknown)) };
    match word(app, issuer, upstream, token).await? {
        Some(Word::Active(told)) => {
            AccessTokenRead { issuer: &issuer.id, outcome: ReadOutcome::Told }.emit();
            let Told { claims, expires_at } = *told;
            let record = app.store.claimed_token(issuer, &claims).await?;
            // One that does not say when it expires is asked about again the next time.
            Ok(Some(TokenRecord { facts: TokenFacts { expires_at, ..record.facts }, ..record }))
        }
        Some(Word::Inactive) => Ok(none(issuer, ReadOutcome::Inactive)),
        Some(Word::Refused(refused)) => Ok(none(issuer, ReadOutcome::Refused(refused.as_str()))),
        None => match upstream.when_away {
            WhenAway::Unavailable => Err(away(issuer, "its provider says nothing about the token: ask again")),
            WhenAway::Inactive => Ok(none(issuer, ReadOutcome::Away)),
        },
    }
}

/// What the provider says; none where it is away.
async fn word(app: &AppState, issuer: &IssuerRecord, upstream: &IntrospectUpstream, token: &str) -> Result<Option<Word>, OauthError> {
    let now = app.clock.now();
    let Some(url) = endpoint(app, issuer, upstream, now).await? else { return Ok(None) };
    let secret = upstream.endpoint.sealed.as_deref().map(|sealed| opened(app, issuer, sealed)).transpose()?;
    let question = Question { issuer, url: &url, endpoint: &upstream.endpoint, secret: secret.as_ref(), token, now };
    Ok(app.book.introspect(question).await.ok())
}

fn opened(app: &AppState, issuer: &IssuerRecord, sealed: &str) -> Result<Zeroizing<String>, Problem> {
    let octets = app.sealing.open_text(&Sealed::introspection(&issuer.id), sealed).map_err(Problem::internal)?;
    let text = std::str::from_utf8(&octets).map_err(Problem::internal)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Where the provider is asked: as registered, or where its metadata say.
async fn endpoint(app: &AppState, issuer: &IssuerRecord, upstream: &IntrospectUpstream, now: Timestamp) -> Result<Option<Url>, OauthError> {
    if let Some(url) = &upstream.endpoint.url {
        return Ok(Some(url.clone()));
    }
    match keys(app, issuer, None, now).await {
        Ok((known, _)) => Ok(Metadata::of(&known.document).and_then(|metadata| metadata.introspection_endpoint)),
        Err(NoKeys::Store(error)) => Err(error.into()),
        Err(NoKeys::NotSetUp | NoKeys::Away) => Ok(None),
    }
}

fn none(issuer: &IssuerRecord, outcome: ReadOutcome) -> Option<TokenRecord> {
    AccessTokenRead { issuer: &issuer.id, outcome }.emit();
    None
}

fn away(issuer: &IssuerRecord, why: &'static str) -> OauthError {
    AccessTokenRead { issuer: &issuer.id, outcome: ReadOutcome::Away }.emit();
    Problem::new(Code::Unavailable, why).into()
}
