//! Whether relying parties find our keys where they look for them.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::http::needs::Operate;
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, NoBody, Problem, Reply, Routes, Text};
use crate::model::Timestamp;
use crate::model::issuer::{IssuerRecord, ProviderDocument, PublishedAt};
use crate::model::key::{KeyPolicy, KeyRecord, KeyState};
use crate::plan::keys::{Visible, visible};
use crate::token::jwks::shared_names;

/// The route of checks.
pub fn routes() -> Routes {
    Routes::new().add(routes!(check))
}

/// What relying parties find.
#[derive(Debug, Serialize, ToSchema)]
pub struct Checked {
    /// Every key that signs is where relying parties look for it, alone under its name.
    good: bool,
    /// Where they look.
    published_at: text::PublishedAt,
    /// Where the provider's keys were fetched just now.
    provider_jwks_uri: Option<String>,
    /// Why they could not be fetched.
    away: Option<String>,
    /// Each of our keys that is published, or should be.
    keys: Vec<CheckedKey>,
    /// Names that several of the provider's keys have: each relying party decides for itself which is meant.
    shared_kids: Vec<String>,
}

/// What relying parties find of a key.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckedKey {
    /// Its name here.
    kid: String,
    alg: text::SigningAlg,
    state: text::KeyState,
    origin: text::KeyOrigin,
    /// Relying parties can find it.
    found: bool,
    /// Under which name.
    found_as: Option<String>,
    /// Since when.
    since: Option<text::Timestamp>,
    /// Why relying parties may refuse what it signs; null when nothing speaks for it.
    trouble: Option<Trouble>,
}

/// Why relying parties may refuse what a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The provider does not publish it.
    NotPublished,
    /// It was not yet published for as long as a relying party may keep an older key set.
    TooNew,
    /// Another key has its name.
    SharedKid,
}

/// Fetch the provider's keys as a relying party would, and say of each of our keys whether it is found, under which name and since when. What was found is
/// kept, as the regular look keeps it.
#[utoipa::path(post, path = "/v1/issuers/{iss}/keys/check", tag = "operations", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    responses(
        (status = 200, description = "What relying parties find", body = Checked),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn check(State(app): State<AppState>, At(seat, _): At<Operate>, NoBody: NoBody) -> Result<Reply<Checked>, Problem> {
    let issuer = &seat.issuer;
    let now = app.store.now().await?;
    let fetched = if issuer.source.is_known() { look(&app, issuer, now).await? } else { Fetched::default() };
    let keys = app.store.keys(&issuer.id).await?;
    Ok(Reply::ok(checked(&keys, issuer.source.published_at, fetched, &app.settings.keys, now)))
}

#[derive(Default)]
struct Fetched {
    document: Option<ProviderDocument>,
    away: Option<String>,
}

async fn look(app: &AppState, issuer: &IssuerRecord, now: Timestamp) -> Result<Fetched, Problem> {
    let keys = app.store.keys(&issuer.id).await?;
    match app.book.sight(issuer, &keys, now).await {
        Ok((document, sightings)) => {
            app.store.saw_provider(document.clone(), sightings).await?;
            Ok(Fetched { document: Some(document), away: None })
        }
        Err(away) => Ok(Fetched { document: None, away: Some(away.to_string()) }),
    }
}

fn checked(keys: &[KeyRecord], published_at: PublishedAt, fetched: Fetched, policy: &KeyPolicy, now: Timestamp) -> Checked {
    let Fetched { document, away } = fetched;
    let shared_kids = document.as_ref().and_then(|document| shared_names(document).ok()).unwrap_or_default();
    let published = keys.iter().rev().filter(|key| key.state != KeyState::Withdrawn);
    let keys: Vec<_> = published.map(|key| checked_key(key, published_at, &shared_kids, policy, now)).collect();
    let bad = |key: &CheckedKey| key.state.0 == KeyState::Active && matches!(key.trouble, Some(Trouble::NotPublished | Trouble::SharedKid));
    // Who could not be asked can be said nothing of.
    let unknown = published_at == PublishedAt::Provider && away.is_some();
    Checked {
        good: !unknown && !keys.iter().any(bad),
        published_at: Text(published_at),
        provider_jwks_uri: document.map(|document| document.jwks_uri.into()),
        away,
        keys,
        shared_kids,
    }
}

fn checked_key(key: &KeyRecord, published_at: PublishedAt, shared: &[String], policy: &KeyPolicy, now: Timestamp) -> CheckedKey {
    let (found_as, since) = match visible(key, published_at) {
        Visible::Here => (Some(key.signing_kid().to_owned()), Some(key.created_at)),
        Visible::AtProvider { kid, since } => (Some(kid), Some(since)),
        Visible::NotYet => (None, None),
    };
    // The first key of its algorithm, and one the provider had before we saw it, are as old as it gets.
    let is_new = key.state == KeyState::Next && since.is_some_and(|since| since.plus(policy.cache) > now);
    let trouble = match &found_as {
        None => Some(Trouble::NotPublished),
        Some(kid) if published_at == PublishedAt::Provider && shared.contains(kid) => Some(Trouble::SharedKid),
        Some(_) => is_new.then_some(Trouble::TooNew),
    };
    CheckedKey {
        kid: key.kid.clone(),
        alg: Text(key.alg),
        state: Text(key.state),
        origin: Text(key.origin),
        found: found_as.is_some(),
        found_as,
        since: since.map(Text),
        trouble,
    }
}
