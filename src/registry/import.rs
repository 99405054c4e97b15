//! Keys from outside: the provider's own, so that its relying parties need learn nothing new.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::entry;
use super::keys::{Keys, shown};
use crate::http::needs::ManageKeys;
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, FieldError, Problem, Reply, Routes, Seat, StrictJson};
use crate::model::audit::Act;
use crate::model::issuer::{IssuerRecord, ProviderDocument};
use crate::model::key::{KeyOrigin, KeyRecord, KeyState, SigningAlg};
use crate::store::Change;
use crate::token::import::{ImportRefused, ImportedJwk, from_jwk, from_jwks, from_pem};
use crate::token::jwks::{name_in, sightings};
use crate::token::{NewKey, PublicJwk, TokenError};

/// The route of imports.
pub fn routes() -> Routes {
    Routes::new().add(routes!(import))
}

/// Private keys, in one of three forms.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// One private key in PEM: PKCS#8, PKCS#1 or SEC 1, not encrypted. At most 64 KiB.
    pem: Option<String>,
    /// One private key as a JWK.
    #[schema(value_type = Option<Object>)]
    jwk: Option<Map<String, Value>>,
    /// A JWK Set: its private signing keys are taken, at most one for each algorithm; the others are ignored.
    #[schema(value_type = Option<Object>)]
    jwks: Option<Map<String, Value>>,
    /// The algorithm, where the key does not say it: RS256, ES256, ES384 or EdDSA by its kind.
    alg: Option<text::SigningAlg>,
    /// The name the provider gave the key, where it can neither be found there nor in the key; of a set, the one that is meant.
    kid: Option<text::Line>,
    /// Take it although the provider does not publish it: it waits until it does.
    #[serde(default)]
    not_published_yet: bool,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").finish_non_exhaustive()
    }
}

/// Import the provider's own signing keys. Each becomes the key that signs with its algorithm, under the name the provider publishes it by, found by its
/// RFC 7638 thumbprint; the one that signed before is retired, and one that waited is withdrawn. The provider changes its keys, and nothing here does. Where
/// the provider's key set can be fetched, a key that is not in it is refused, unless it is said not to be published yet: then it waits as a successor does.
/// Whoever can read an imported key's private half can mint the provider's ID tokens.
#[utoipa::path(
    post,
    path = "/v1/issuers/{iss}/keys/import",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = Import,
    responses(
        (status = 201, description = "All keys that are published", body = Keys),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "already-exists: the key or its name is here", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field, key-not-published", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn import(
    State(app): State<AppState>,
    At(seat, _): At<ManageKeys>,
    StrictJson(body): StrictJson<Import>,
) -> Result<Reply<Keys>, Problem> {
    let (named, missing_ok) = (body.kid.clone().map(|text| text.0.into_string()), body.not_published_yet);
    // Checking that the parts of an RSA key fit together takes its time.
    let read = app.tasks.spawn_blocking("key import", move || read(body)).await.map_err(Problem::from)?;
    let keys = chosen(read?, named.as_deref())?;
    let document = asked(&app, &seat.issuer, missing_ok).await?;
    let stored = app.store.keys(&seat.issuer.id).await?;
    let now = app.store.now().await?;
    let mut records = Vec::with_capacity(keys.len());
    for ImportedJwk { key, kid } in keys {
        if let Some(known) = known_as(&stored, &key).map_err(Problem::internal)? {
            return Err(taken(known));
        }
        let place = Place::of(document.as_ref(), &key, named.as_deref().or(kid.as_deref()), missing_ok)?;
        let key = key.named(&place.kid).map_err(Problem::internal)?;
        let record = key.into_record(seat.issuer.id.clone(), place.state, now, &app.sealing, &app.entropy);
        let seen_at = place.seen.then_some(document.as_ref().map_or(now, |document| document.fetched_at));
        records.push(KeyRecord { origin: KeyOrigin::Imported, seen_at, last_seen_at: seen_at, ..record });
    }
    commit(&app, &seat, records).await?;
    if let Some(document) = document {
        let stored = app.store.keys(&seat.issuer.id).await?;
        // One that serves our own keys is told of by the regular look, and not believed.
        if let Ok(sightings) = sightings(&stored, &document, seat.issuer.source.published_at) {
            app.store.saw_provider(document, sightings).await?;
        }
    }
    shown(&app, &seat.issuer, Reply::created).await
}

async fn commit(app: &AppState, seat: &Seat, records: Vec<KeyRecord>) -> Result<(), Problem> {
    let names: Vec<_> = records.iter().map(|key| json!({ "kid": key.kid, "alg": key.alg.as_str(), "state": key.state.as_str() })).collect();
    let first = records.first().map(|key| key.kid.clone()).unwrap_or_default();
    let audit = entry(Act::KeyImported, &seat.caller, Some(&seat.issuer.id), &json!({ "keys": names }))?;
    match app.store.import_keys(records, audit).await? {
        Change::Created | Change::Replaced => Ok(()),
        Change::Stale | Change::Absent | Change::InUse | Change::Conflict => Err(taken(&first)),
    }
}

fn taken(kid: &str) -> Problem {
    Problem::new(Code::AlreadyExists, format!("a key of this issuer is, or is called, {kid}"))
}

/// Everything readable in the body.
fn read(body: Import) -> Result<Vec<ImportedJwk>, Problem> {
    let alg: Option<SigningAlg> = body.alg.map(|text| text.0);
    let at = |member: &'static str| move |refused: ImportRefused| Problem::invalid(member, refused);
    match (body.pem.map(zeroize::Zeroizing::new), body.jwk, body.jwks) {
        (Some(pem), None, None) => Ok(vec![ImportedJwk { key: from_pem(&pem, alg).map_err(at("/pem"))?, kid: None }]),
        (None, Some(jwk), None) => Ok(vec![from_jwk(&jwk, alg).map_err(at("/jwk"))?]),
        (None, None, Some(jwks)) => Ok(from_jwks(&jwks, alg).map_err(at("/jwks"))?.0),
        (None, None, None) => {
            Err(Problem::of(Code::InvalidField).at(FieldError::pointer("/pem", "one of pem, jwk and jwks must be there")))
        }
        _ => Err(Problem::of(Code::InvalidField).at(FieldError::pointer("/pem", "pem, jwk and jwks exclude each other"))),
    }
}

/// The keys that are meant, at most one for each algorithm.
fn chosen(mut keys: Vec<ImportedJwk>, named: Option<&str>) -> Result<Vec<ImportedJwk>, Problem> {
    if let (Some(named), [_, _, ..]) = (named, keys.as_slice()) {
        keys.retain(|key| key.kid.as_deref() == Some(named));
        if keys.is_empty() {
            return Err(Problem::invalid("/kid", "must be the kid of a private signing key of the set"));
        }
    }
    let twice = |(position, key): (usize, &ImportedJwk)| keys.iter().skip(position + 1).any(|other| other.key.alg == key.key.alg);
    if keys.iter().enumerate().any(twice) {
        return Err(Problem::invalid("/jwks", "has several keys for one algorithm: say which by kid"));
    }
    Ok(keys)
}

/// What the provider publishes now; none where it cannot be asked.
async fn asked(app: &AppState, issuer: &IssuerRecord, missing_ok: bool) -> Result<Option<ProviderDocument>, Problem> {
    if !issuer.source.is_known() {
        return Ok(None);
    }
    match app.book.fetch(issuer, app.store.now().await?).await {
        Ok(document) => Ok(Some(document)),
        Err(_) if missing_ok => Ok(None),
        Err(away) => {
            let why = format!("{away}; repeat the request when they can be read, or say not_published_yet");
            Err(Problem::new(Code::KeyNotPublished, why))
        }
    }
}

/// Under which name a key is taken, and whether it signs at once.
struct Place {
    kid: String,
    state: KeyState,
    seen: bool,
}

impl Place {
    fn of(document: Option<&ProviderDocument>, key: &NewKey, named: Option<&str>, missing_ok: bool) -> Result<Self, Problem> {
        let own_name = || named.unwrap_or(&key.kid).to_owned();
        let found = document.map(|document| name_in(document, &key.public_jwk)).transpose();
        match (found.map_err(Problem::internal)?.flatten(), document) {
            (Some(Some(kid)), _) => match named {
                Some(named) if named != kid => Err(Problem::invalid("/kid", format!("the provider publishes this key as {kid}"))),
                _ => Ok(Self { kid, state: KeyState::Active, seen: true }),
            },
            (Some(None), _) => Ok(Self { kid: own_name(), state: KeyState::Active, seen: true }),
            (None, _) if missing_ok => Ok(Self { kid: own_name(), state: KeyState::Next, seen: false }),
            (None, None) => Ok(Self { kid: own_name(), state: KeyState::Active, seen: false }),
            (None, Some(document)) => {
                let why = format!(
                    "no key at {} has this key's thumbprint, {}: publish it first, or say not_published_yet",
                    document.jwks_uri, key.kid
                );
                Err(Problem::new(Code::KeyNotPublished, why))
            }
        }
    }
}

/// Under which name the same key is one of the issuer's already.
fn known_as<'a>(stored: &'a [KeyRecord], key: &NewKey) -> Result<Option<&'a str>, TokenError> {
    for record in stored {
        if PublicJwk::parse(&record.public_jwk)?.thumbprint() == key.kid {
            return Ok(Some(&record.kid));
        }
    }
    Ok(None)
}
