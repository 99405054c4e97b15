//! Signing keys: made when an algorithm is first registered, so that they are published long before they are needed.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::{done, entry};
use crate::http::needs::{ManageKeys, ReadRegistry};
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, List, Path, Problem, Query, Reply, Routes, StrictJson, Text, page};
use crate::model::audit::Act;
use crate::model::issuer::{IssuerRecord, PublishedAt};
use crate::model::key::{KeyOrigin, KeyPolicy, KeyRecord, KeyState, SigningAlg};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::{IssuerId, Timestamp};
use crate::plan::keys::{active_from, signer, successor_at, withdrawn_from};
use crate::store::Change;
use crate::token::jwks::named_in;
use crate::token::{NewKey, TokenError, generate};

/// The routes of keys.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list)).add(routes!(rotate)).add(routes!(withdraw))
}

/// A signing key as it is shown: its public half, and the stations of its life.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    /// Its name here: the RFC 7638 thumbprint, or for an imported key the name its provider gave it.
    kid: String,
    /// The one algorithm it signs with.
    alg: text::SigningAlg,
    /// Where it stands in its life.
    state: text::KeyState,
    /// Where it came from.
    origin: text::KeyOrigin,
    /// The name it signs under because the provider publishes it so.
    published_kid: Option<String>,
    /// Since when the provider publishes it without interruption.
    seen_at: Option<text::Timestamp>,
    /// When it was made or imported.
    created_at: text::Timestamp,
    /// When it begins to sign, for one that waits; null while nobody publishes it.
    active_from: Option<text::Timestamp>,
    /// When it began to sign.
    active_at: Option<text::Timestamp>,
    /// When its successor is made, for one that signs.
    successor_at: Option<text::Timestamp>,
    /// When it ceased to sign.
    retired_at: Option<text::Timestamp>,
    /// When it ceases to be published, for one that is retired.
    withdrawn_from: Option<text::Timestamp>,
    /// When it ceased to be published.
    withdrawn_at: Option<text::Timestamp>,
    /// Its public half, as a JWK.
    #[schema(value_type = Object)]
    public_jwk: Value,
}

/// Which keys.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeysQuery {
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// The keys of an issuer, newest first.
#[utoipa::path(
    get,
    path = "/v1/issuers/{iss}/keys",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), KeysQuery),
    responses(
        (status = 200, description = "One page", body = List<KeyView>),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn list(
    State(app): State<AppState>,
    At(seat, _): At<ReadRegistry>,
    Query(query): Query<KeysQuery>,
) -> Result<Reply<List<KeyView>>, Problem> {
    let keys = app.store.keys(&seat.issuer.id).await?;
    let listed = paged(keys, &page(query.limit, query.after));
    Ok(Reply::ok(List::of(listed, |key| view(key, seat.issuer.source.published_at, &app.settings.keys))))
}

pub(super) fn view(key: KeyRecord, published_at: PublishedAt, policy: &KeyPolicy) -> KeyView {
    let in_state = |state, at: Option<Timestamp>| at.filter(|_| key.state == state).map(Text);
    KeyView {
        active_from: in_state(KeyState::Next, active_from(&key, published_at, policy)),
        successor_at: in_state(KeyState::Active, successor_at(&key, policy)),
        withdrawn_from: in_state(KeyState::Retired, withdrawn_from(&key, policy)),
        public_jwk: serde_json::from_str(&key.public_jwk).unwrap_or_default(),
        kid: key.kid,
        alg: Text(key.alg),
        state: Text(key.state),
        origin: Text(key.origin),
        published_kid: key.published_kid,
        seen_at: key.seen_at.map(Text),
        created_at: Text(key.created_at),
        active_at: key.active_at.map(Text),
        retired_at: key.retired_at.map(Text),
        withdrawn_at: key.withdrawn_at.map(Text),
    }
}

/// What to rotate, and how.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The algorithm; every one that has a key made here unless said.
    alg: Option<text::SigningAlg>,
    /// The key may be known to somebody else: a new one signs at once, and the old one is withdrawn. Relying parties that keep an older key set refuse
    /// every token until they fetch the new one, and what is on its way under the old key is refused everywhere.
    #[serde(default)]
    at_once: bool,
}

/// Some keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct Keys {
    /// They, newest first.
    pub(super) keys: Vec<KeyView>,
}

/// Make successors of the keys that sign. Each signs as soon as it has been visible to relying parties for as long as they may keep an older key set, where
/// they look for it: among the keys published here, or at the provider. Asked again, it answers the same successors.
#[utoipa::path(
    post,
    path = "/v1/issuers/{iss}/keys/rotate",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = Rotation,
    responses(
        (status = 200, description = "All keys that are published, with what becomes of each when", body = Keys),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "conflict: an imported key is the provider's to change; import its successor", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn rotate(
    State(app): State<AppState>,
    At(seat, _): At<ManageKeys>,
    StrictJson(Rotation { alg, at_once }): StrictJson<Rotation>,
) -> Result<Reply<Keys>, Problem> {
    let issuer = &seat.issuer;
    let keys = app.store.keys(&issuer.id).await?;
    let (algs, state) = (rotated(&keys, alg.map(|text| text.0), at_once)?, if at_once { KeyState::Active } else { KeyState::Next });
    for key in make_in(&app, &issuer.id, algs, state).await? {
        let detail = json!({ "kid": key.kid, "alg": key.alg.as_str() });
        if at_once {
            app.store.replace_key_at_once(key, entry(Act::KeyReplaced, &seat.caller, Some(&issuer.id), &detail)?).await?;
        } else {
            app.store.add_next_key(key, entry(Act::KeyCreated, &seat.caller, Some(&issuer.id), &detail)?).await?;
        }
    }
    shown(&app, issuer, Reply::ok).await
}

/// The algorithms a new key is made for.
fn rotated(keys: &[KeyRecord], alg: Option<SigningAlg>, at_once: bool) -> Result<Vec<SigningAlg>, Problem> {
    let active = |alg: &SigningAlg| signer(keys, *alg);
    let waits = |alg: &SigningAlg| keys.iter().any(|key| key.alg == *alg && key.state == KeyState::Next);
    if let Some(alg) = alg {
        match active(&alg) {
            None => return Err(Problem::invalid("/alg", "must be an algorithm that has a key")),
            Some(key) if key.origin == KeyOrigin::Imported && !at_once => {
                return Err(Problem::new(Code::Conflict, "the key is the provider's to change: import its successor"));
            }
            Some(_) => {}
        }
    }
    let wanted = |one: &&SigningAlg| alg.is_none_or(|alg| alg == **one);
    let is_due = |one: &&SigningAlg| match active(one).map(|key| key.origin) {
        None => false,
        Some(KeyOrigin::Made) => at_once || !waits(one),
        // Where none is named, keys of the provider's are left to it.
        Some(KeyOrigin::Imported) => at_once && alg.is_some(),
    };
    Ok(SigningAlg::ALL.iter().filter(wanted).filter(is_due).copied().collect())
}

/// The keys that are published, newest first.
pub(super) async fn shown(app: &AppState, issuer: &IssuerRecord, reply: impl FnOnce(Keys) -> Reply<Keys>) -> Result<Reply<Keys>, Problem> {
    let keys = app.store.keys(&issuer.id).await?.into_iter().rev().filter(|key| key.state != KeyState::Withdrawn);
    Ok(reply(Keys { keys: keys.map(|key| view(key, issuer.source.published_at, &app.settings.keys)).collect() }))
}

/// Withdraw a key of ours that no longer signs, or has not begun to: it is not published any more, and its private half is destroyed. Or drop a key of the
/// provider's from the set published here, and believe nothing it signed.
#[utoipa::path(
    delete,
    path = "/v1/issuers/{iss}/keys/{kid}",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("kid" = String, Path, description = "The key's name")),
    responses(
        (status = 204, description = "Withdrawn, or dropped"),
        (status = 404, description = "unknown-issuer, unknown-key", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "in-use: it signs; rotate first", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn withdraw(
    State(app): State<AppState>,
    At(seat, _): At<ManageKeys>,
    Path((_, kid)): Path<(String, String)>,
) -> Result<Reply<()>, Problem> {
    let (id, detail) = (&seat.issuer.id, json!({ "kid": kid }));
    let unknown = || Problem::of(Code::UnknownKey);
    match app.store.withdraw_key(id, &kid, entry(Act::KeyWithdrawn, &seat.caller, Some(id), &detail)?).await? {
        Change::Absent => {}
        Change::InUse => return Err(Problem::new(Code::InUse, "it signs: rotate first, with at_once where it may be known to others")),
        change @ (Change::Created | Change::Replaced | Change::Stale | Change::Conflict) => {
            done(change, Code::UnknownKey, unknown)?;
            return Ok(Reply::done());
        }
    }
    let document = app.store.provider_document(id).await?.ok_or_else(unknown)?;
    if !named_in(&document, &kid).map_err(Problem::internal)? {
        return Err(unknown());
    }
    let change = app.store.drop_provider_key(id, &kid, entry(Act::ProviderKeyDropped, &seat.caller, Some(id), &detail)?).await?;
    done(change, Code::UnknownKey, unknown)?;
    app.book.forget(id);
    Ok(Reply::done())
}

/// An issuer has a handful of keys: they are read at once and divided here.
fn paged(mut keys: Vec<KeyRecord>, page: &Page) -> Listed<KeyRecord> {
    let place = |key: &KeyRecord| (key.created_at, key.kid.clone());
    keys.sort_by_key(|key| std::cmp::Reverse(place(key)));
    keys.retain(|key| page.after.as_ref().is_none_or(|after| place(key) < (after.at, after.id.clone())));
    let more = keys.len() > usize::from(page.limit);
    keys.truncate(page.limit.into());
    let next = keys.last().filter(|_| more).map(|key| Cursor { at: key.created_at, id: key.kid.clone() });
    Listed { items: keys, next }
}

/// The wanted algorithms no active key is there for.
pub(super) fn missing(keys: &[KeyRecord], wanted: &[SigningAlg]) -> Vec<SigningAlg> {
    let signs = |alg: SigningAlg| keys.iter().any(|key| key.alg == alg && key.state == KeyState::Active);
    wanted.iter().copied().filter(|alg| !signs(*alg)).collect()
}

/// The first key of each algorithm, which signs at once.
pub(super) async fn make(app: &AppState, issuer: &IssuerId, algs: Vec<SigningAlg>) -> Result<Vec<KeyRecord>, Problem> {
    make_in(app, issuer, algs, KeyState::Active).await
}

/// Makes one key for each algorithm, sealed for that issuer. RSA takes its time, so it is done where blocking is allowed.
async fn make_in(app: &AppState, issuer: &IssuerId, algs: Vec<SigningAlg>, state: KeyState) -> Result<Vec<KeyRecord>, Problem> {
    let making: Vec<_> = algs.into_iter().map(|alg| app.tasks.spawn_blocking("key generation", move || generate(alg))).collect();
    let mut records = Vec::with_capacity(making.len());
    for key in making {
        let made: Result<NewKey, TokenError> = key.await?;
        let made = made.map_err(Problem::internal)?;
        records.push(made.into_record(issuer.clone(), state, app.store.now().await?, &app.sealing, &app.entropy));
    }
    Ok(records)
}

/// What the audit trail keeps of new keys.
pub(super) fn names(keys: &[KeyRecord]) -> Vec<Value> {
    keys.iter().map(|key| serde_json::json!({ "kid": key.kid, "alg": key.alg.as_str() })).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const AGE: Duration = Duration::from_hours(24);

    fn key(kid: &str, at: i64, alg: SigningAlg, state: KeyState) -> KeyRecord {
        let issuer = IssuerId::parse("main").unwrap();
        let made = KeyRecord::new(issuer, kid.into(), alg, state, "{}".into(), Timestamp::from_seconds(at));
        KeyRecord { sealed: b"private".to_vec(), ..made }
    }

    #[test]
    fn a_key_is_missing_unless_an_active_one_signs_that_algorithm() {
        let keys = [key("a", 1, SigningAlg::Rs256, KeyState::Active), key("b", 1, SigningAlg::Es256, KeyState::Retired)];
        assert_eq!(missing(&keys, &[SigningAlg::Rs256, SigningAlg::Es256]), [SigningAlg::Es256]);
    }

    #[test]
    fn pages_of_keys_show_each_once_newest_first() {
        let keys = || (0..5).map(|n| key(&format!("k{n}"), n / 2, SigningAlg::Rs256, KeyState::Retired)).collect::<Vec<_>>();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let listed = paged(keys(), &Page { limit: 2, after });
            seen.extend(listed.items.into_iter().map(|key| key.kid));
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["k4", "k3", "k2", "k1", "k0"]);
    }

    #[test]
    fn a_key_is_shown_without_its_private_half() {
        let policy = KeyPolicy { rotate_after: None, cache: AGE, hints: AGE, token_lifetime: AGE };
        let shown = serde_json::to_string(&view(key("a", 1, SigningAlg::Rs256, KeyState::Active), PublishedAt::Here, &policy)).unwrap();
        assert!(!shown.contains("sealed") && !shown.contains("private"), "{shown}");
    }

    #[test]
    fn rotation_makes_one_key_for_each_that_signs_and_leaves_the_providers_alone() {
        let imported = |alg| KeyRecord { origin: KeyOrigin::Imported, ..key("i", 1, alg, KeyState::Active) };
        let keys = [
            key("a", 1, SigningAlg::Rs256, KeyState::Active),
            key("b", 1, SigningAlg::Es256, KeyState::Active),
            key("c", 1, SigningAlg::Es256, KeyState::Next),
            imported(SigningAlg::EdDsa),
        ];
        assert_eq!(rotated(&keys, None, false).unwrap(), [SigningAlg::Rs256]);
        assert_eq!(rotated(&keys, Some(SigningAlg::Es256), false).unwrap(), []);
        assert_eq!(rotated(&keys, None, true).unwrap(), [SigningAlg::Rs256, SigningAlg::Es256]);
        assert_eq!(rotated(&keys, Some(SigningAlg::EdDsa), true).unwrap(), [SigningAlg::EdDsa]);
        assert_eq!(rotated(&keys, Some(SigningAlg::EdDsa), false).map_err(|problem| problem.code()), Err(Code::Conflict));
        assert_eq!(rotated(&keys, Some(SigningAlg::Ps256), true).map_err(|problem| problem.code()), Err(Code::InvalidField));
    }
}
