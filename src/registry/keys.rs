//! Signing keys: made when an algorithm is first registered, so that they are published long before they are needed.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::http::needs::ReadRegistry;
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, List, Problem, Query, Reply, Routes, page};
use crate::model::IssuerId;
use crate::model::key::{KeyRecord, KeyState, SigningAlg};
use crate::model::page::{Cursor, Listed, Page};
use crate::token::{NewKey, TokenError, generate};

/// The routes of keys.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list))
}

/// A signing key as it is shown: its public half.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    /// Its name in JOSE headers: the RFC 7638 thumbprint.
    kid: String,
    /// The one algorithm it signs with.
    alg: text::SigningAlg,
    /// Where it stands in its life.
    state: text::KeyState,
    /// When it was made.
    created_at: text::Timestamp,
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
    Ok(Reply::ok(List::of(paged(keys, &page(query.limit, query.after)), view)))
}

fn view(key: KeyRecord) -> KeyView {
    let public_jwk = serde_json::from_str(&key.public_jwk).unwrap_or_default();
    KeyView { kid: key.kid, alg: key.alg.into(), state: key.state.into(), created_at: key.created_at.into(), public_jwk }
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

/// Makes one active key for each algorithm, sealed for that issuer. RSA takes its time, so it is done where blocking is allowed.
pub(super) async fn make(app: &AppState, issuer: &IssuerId, algs: Vec<SigningAlg>) -> Result<Vec<KeyRecord>, Problem> {
    let making: Vec<_> = algs.into_iter().map(|alg| app.tasks.spawn_blocking("key generation", move || generate(alg))).collect();
    let mut records = Vec::with_capacity(making.len());
    for key in making {
        let made: Result<NewKey, TokenError> = key.await?;
        let made = made.map_err(Problem::internal)?;
        records.push(made.into_record(issuer.clone(), KeyState::Active, app.clock.now(), &app.sealing, &app.entropy));
    }
    Ok(records)
}

/// What the audit trail keeps of new keys.
pub(super) fn names(keys: &[KeyRecord]) -> Vec<Value> {
    keys.iter().map(|key| serde_json::json!({ "kid": key.kid, "alg": key.alg.as_str() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn key(kid: &str, at: i64, alg: SigningAlg, state: KeyState) -> KeyRecord {
        let (issuer, created_at) = (IssuerId::parse("main").unwrap(), Timestamp::from_seconds(at));
        KeyRecord { issuer, kid: kid.into(), alg, state, public_jwk: "{}".into(), sealed: b"private".to_vec(), created_at }
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
        let shown = serde_json::to_value(view(key("a", 1, SigningAlg::Rs256, KeyState::Active))).unwrap();
        let members: Vec<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["alg", "created_at", "kid", "public_jwk", "state"]);
    }
}
