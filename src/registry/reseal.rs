//! Everything that is sealed is sealed anew, after the sealing key was changed.

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::entry;
use crate::http::needs::ManageKeys;
use crate::http::problem::ProblemDocument;
use crate::http::{Anywhere, AppState, NoBody, Problem, Reply, Routes};
use crate::model::audit::Act;
use crate::model::{ClientId, IssuerId};
use crate::store::{CANARY, DIGEST_ROOT, Resealed, SealedKind, SealedValue};
use crate::token::{By, Sealed, Unsealable};

/// The route of sealing anew.
pub fn routes() -> Routes {
    Routes::new().add(routes!(reseal))
}

/// What was sealed anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResealedShape {
    /// How many secrets this call sealed with the current key.
    resealed: u64,
    /// How many others are not sealed with it: they changed meanwhile, or no key at hand opens them. At zero the previous key can be given up.
    left: u64,
}

/// Seal every secret with the current sealing key. Call it once every process has been started with the new key beside the previous one; repeat it while
/// something is left. It may be broken off and repeated at any time.
#[utoipa::path(post, path = "/v1/keys/reseal", tag = "operations", security(("bearer" = [])),
    responses(
        (status = 200, description = "What was sealed anew", body = ResealedShape),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn reseal(
    State(app): State<AppState>,
    Anywhere(caller, _): Anywhere<ManageKeys>,
    NoBody: NoBody,
) -> Result<Reply<ResealedShape>, Problem> {
    let mut done = ResealedShape::default();
    for kind in SealedKind::ALL {
        reseal_all(&app, *kind, &mut done).await?;
    }
    reseal_digest_root(&app, &mut done).await?;
    if done.left == 0 {
        // From now on a start with the current key alone is a good one.
        change_canary(&app, &mut done).await?;
    }
    let detail = json!({ "resealed": done.resealed, "left": done.left });
    app.store.record(entry(Act::SecretsResealed, &caller, None, &detail)?).await?;
    Ok(Reply::ok(done))
}

/// One kind, page by page: a page that is current already costs a look.
async fn reseal_all(app: &AppState, kind: SealedKind, done: &mut ResealedShape) -> Result<(), Problem> {
    let mut after: Option<SealedValue> = None;
    loop {
        let page = app.store.sealed_values(kind, after.as_ref()).await?;
        let Some(last) = page.last().cloned() else { return Ok(()) };
        let mut anew = Vec::new();
        for value in page {
            match sealed_anew(app, &value) {
                Ok(None) => {}
                Ok(Some(text)) => anew.push(Resealed { of: value, anew: text }),
                Err(_) => done.left += 1,
            }
        }
        let wanted = u64::try_from(anew.len()).unwrap_or(u64::MAX);
        if wanted > 0 {
            let written = app.store.reseal(anew).await?;
            done.resealed += written;
            done.left += wanted.saturating_sub(written);
        }
        after = Some(last);
    }
}

fn sealed_anew(app: &AppState, value: &SealedValue) -> Result<Option<String>, Unsealable> {
    let octets = STANDARD.decode(&value.sealed).map_err(|_| Unsealable::Damaged)?;
    let (issuer, client) = match value.kind {
        SealedKind::RelayedToken => value.issuer.split_once('/').ok_or(Unsealable::Damaged)?,
        SealedKind::SigningKey
        | SealedKind::ClientTls
        | SealedKind::ClientHeaders
        | SealedKind::ProviderLogout
        | SealedKind::Introspection
        | SealedKind::Revocation
        | SealedKind::SubjectSecrets
        | SealedKind::ProviderSecret
        | SealedKind::RefreshToken
        | SealedKind::AuditKey => (value.issuer.as_str(), value.name.as_str()),
    };
    let (issuer, client) = (IssuerId::stored(issuer.to_owned()), ClientId::stored(client.to_owned()));
    let place = match value.kind {
        SealedKind::SigningKey => Sealed::signing_key(&issuer, &value.name),
        SealedKind::ClientTls => Sealed::client_tls(&issuer, &client),
        SealedKind::ClientHeaders => Sealed::client_headers(&issuer, &client),
        SealedKind::ProviderLogout => Sealed::provider_logout(&issuer),
        SealedKind::RelayedToken => Sealed::relayed_token(&issuer, &client),
        SealedKind::Introspection => Sealed::introspection(&issuer),
        SealedKind::Revocation => Sealed::revocation(&issuer),
        SealedKind::SubjectSecrets => Sealed::subject_secrets(&issuer),
        SealedKind::ProviderSecret => Sealed::provider_secret(&issuer, &client),
        SealedKind::RefreshToken => Sealed::refresh_token(&issuer, &value.name),
        SealedKind::AuditKey => Sealed::audit_key(&value.name),
    };
    Ok(app.sealing.reseal(&place, &octets, &app.entropy)?.map(|anew| STANDARD.encode(anew)))
}

async fn reseal_digest_root(app: &AppState, done: &mut ResealedShape) -> Result<(), Problem> {
    let Some(stored) = app.store.meta(DIGEST_ROOT).await? else { return Ok(()) };
    let octets = STANDARD.decode(&stored).map_err(Problem::internal)?;
    if let Some(anew) = app.sealing.reseal_digest_root(&octets, &app.entropy).map_err(Problem::internal)? {
        count(app.store.meta_swap(DIGEST_ROOT, &stored, &STANDARD.encode(anew)).await?, done);
    }
    Ok(())
}

async fn change_canary(app: &AppState, done: &mut ResealedShape) -> Result<(), Problem> {
    let Some(stored) = app.store.meta(CANARY).await? else { return Ok(()) };
    let octets = STANDARD.decode(&stored).map_err(Problem::internal)?;
    if app.sealing.check_canary(&octets).map_err(Problem::internal)? == By::Other {
        count(app.store.meta_swap(CANARY, &stored, &STANDARD.encode(app.sealing.canary())).await?, done);
    }
    Ok(())
}

const fn count(swapped: bool, done: &mut ResealedShape) {
    if swapped { done.resealed += 1 } else { done.left += 1 }
}
