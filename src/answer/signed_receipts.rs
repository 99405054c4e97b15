//! Receipts one can keep: what became of a logout, signed, to be believed where this server is not asked.
//!
//! Signed by the key of the audit trail, whose public half is at `/v1/audit/keys`. What is signed is the receipt as it stands: one that is delivering may be
//! asked for again.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa_axum::routes;

use super::receipts::owns;
use crate::http::shapes::ReceiptShape;
use crate::http::{AppState, At, Code, Path, Problem, ProblemDocument, Routes, needs};
use crate::model::delivery::{DeliveryKind, DeliveryState, DeliveryView};
use crate::model::page::{PAGE_ITEMS_MAX, Page};
use crate::model::{EventId, Sid, Timestamp};
use crate::store::DeliveryFilter;
use crate::token::audit::{self, Standing, sign_receipt};

/// The window.
pub fn routes() -> Routes {
    Routes::new().add(routes!(signed_receipt))
}

/// One delivery, as it is signed.
#[derive(Serialize)]
struct Signed {
    id: String,
    kind: &'static str,
    client_id: Option<String>,
    sid: Option<String>,
    state: &'static str,
    reason: Option<&'static str>,
    attempts: u32,
    delivered_at: Option<String>,
    last_status: Option<u16>,
}

impl Signed {
    fn of(view: &DeliveryView, last_status: Option<u16>) -> Self {
        let told = view.settled_at.filter(|_| view.state == DeliveryState::Delivered);
        Self {
            id: view.id.to_string(),
            kind: view.kind.as_str(),
            client_id: (view.kind != DeliveryKind::Provider).then(|| view.client_id.to_string()),
            sid: view.sid.as_ref().map(Sid::as_str).map(str::to_owned),
            state: view.state.as_str(),
            reason: view.reason.map(|reason| reason.as_str()),
            attempts: view.attempts,
            delivered_at: told.as_ref().map(Timestamp::to_string),
            last_status,
        }
    }
}

/// A receipt, signed: the receipt as it stands, its deliveries (the first 1,000, newest first; `truncated` says so), each with the status of its last attempt,
/// and how far the audit trail was sealed then. `logoutd receipt verify` reads it.
#[utoipa::path(get, path = "/v1/issuers/{iss}/logouts/{id}/receipt.jws", tag = "logouts", operation_id = "getSignedReceipt",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("id" = String, Path, description = "The logout.")),
    responses(
        (status = 200, description = "A compact JWS with the `typ` `logout-receipt+jwt`.", body = String, content_type = "application/jose"),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn signed_receipt(
    State(app): State<AppState>,
    at: At<needs::ReadLogouts>,
    Path((_, id)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let unknown = || Problem::of(Code::UnknownLogout);
    let id = EventId::parse(&id).ok_or_else(unknown)?;
    let issuer = &at.0.issuer;
    if !owns(&app, &at.0.caller, &issuer.id, &id).await? {
        return Err(unknown());
    }
    let mut receipt = app.store.receipt(&issuer.id, &id).await?.ok_or_else(unknown)?;
    receipt.deliveries.clear();
    let filter = DeliveryFilter { issuer: Some(issuer.id.clone()), event: Some(id.clone()), ..DeliveryFilter::default() };
    let listed = app.store.deliveries(filter, Page { limit: PAGE_ITEMS_MAX, after: None }).await?;
    let statuses = app.store.last_statuses(listed.items.iter().map(|view| view.id.clone()).collect()).await?;
    let truncated = match listed.next {
        None => None,
        Some(_) => Some(json!({ "listed": listed.items.len(), "total": app.store.delivery_count(&id).await? })),
    };
    let deliveries: Vec<Signed> = listed.items.iter().map(|view| Signed::of(view, statuses.get(&view.id).copied().flatten())).collect();
    let Standing { signer, head, .. } = standing(&app).await?;
    let claims = json!({
        "iss": app.settings.public_url,
        "iat": app.store.now().await?.seconds(),
        "issuer": issuer.issuer.as_str(),
        "receipt": ReceiptShape::listed(receipt)?,
        "deliveries": deliveries,
        "truncated": truncated,
        "audit": {
            "seq": head.as_ref().map_or(0, |head| head.tip.seq),
            "chain": head.as_ref().map(|head| head.tip.chain.to_string()),
        },
    });
    let jws = sign_receipt(&claims, &signer).map_err(Problem::internal)?;
    Ok(([(CONTENT_TYPE, "application/jose")], jws).into_response())
}

/// The key that signs now, and how far the trail is sealed. Read and verified each time: receipts are signed as rarely as somebody keeps one.
async fn standing(app: &AppState) -> Result<Standing, Problem> {
    let (keys, state) = app.store.trail_with_keys().await?;
    audit::standing(&keys, &state, &app.sealing).map_err(|shaken| Problem::new(Code::Unavailable, format!("{shaken}: nothing is signed")))
}
