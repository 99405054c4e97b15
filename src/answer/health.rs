//! The server itself: is it alive, is it ready, what did it measure, how is it used.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::http::needs::ReadMetrics;
use crate::http::problem::ProblemDocument;
use crate::http::router::Document;
use crate::http::{Anywhere, AppState, Code, Problem, Routes};
use crate::model::Timestamp;
use crate::model::key::KeyState;
use crate::model::page::Page;
use crate::observe::metrics::Handle;

/// The windows on the server itself.
pub fn routes() -> Routes {
    Routes::new().add(routes!(healthz)).add(routes!(readyz)).add(routes!(metrics)).add(routes!(openapi))
}

/// A router for a listener of its own, which serves `/metrics` to everybody who reaches it.
pub fn metrics_alone(metrics: Handle) -> Router {
    Router::new().route("/metrics", get(async move || exposition(&metrics)))
}

/// A server's word about itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    status: &'static str,
}

const OK: Json<Health> = Json(Health { status: "ok" });

/// A server's word about the work it can do.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ok`.
    status: &'static str,
    /// How many gaps are open: stretches of time of which a restored database knows nothing, so that tokens from before are inactive. Absent when none
    /// is.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_gaps: Option<u64>,
    /// What somebody should look at although it can do its work.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Whether the process is alive. Asks nobody.
#[utoipa::path(get, path = "/healthz", tag = "public", responses((status = 200, description = "It is", body = Health)))]
pub async fn healthz() -> Json<Health> {
    OK
}

/// Whether the server can do its work: the database answers, signing keys can be read, the courier moves.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "public",
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "unavailable; the detail names what is missing", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn readyz(State(app): State<AppState>) -> Result<Json<Readiness>, Problem> {
    app.store.ping().await.map_err(|error| not_ready(error.ailment()).caused_by(error))?;
    if !keys_can_be_read(&app).await? {
        return Err(not_ready("a signing key cannot be read"));
    }
    if !moves(*app.pulse.borrow(), app.clock.now(), app.settings.pulse_age_max) {
        return Err(not_ready("the courier does not move"));
    }
    let open_gaps = Some(app.store.open_gaps().await?).filter(|open| *open > 0);
    let detail =
        app.skew.borrow().map(|seconds| format!("the clocks of relying parties and providers are ahead of this server's by {seconds} s"));
    Ok(Json(Readiness { status: "ok", open_gaps, detail }))
}

fn not_ready(why: &'static str) -> Problem {
    Problem::new(Code::Unavailable, why)
}

/// How many of the newest issuers are looked at: a wrong sealing key or a broken restore shows at any of them.
const ISSUERS_LOOKED_AT: u16 = 10;

async fn keys_can_be_read(app: &AppState) -> Result<bool, Problem> {
    let issuers = app.store.issuers(Page { limit: ISSUERS_LOOKED_AT, after: None }).await?;
    for issuer in issuers.items {
        let keys = app.store.keys(&issuer.id).await?;
        let mut active = keys.iter().filter(|key| key.state == KeyState::Active);
        if active.any(|key| app.keyring.key_of(key, &app.sealing).is_err()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the courier's last step is recent.
fn moves(pulse: Option<Timestamp>, now: Timestamp, age_max: Duration) -> bool {
    pulse.is_some_and(|pulse| now.since(pulse) <= age_max)
}

/// Everything measured so far, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "Metrics", content_type = "text/plain", body = String),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn metrics(State(app): State<AppState>, _: Anywhere<ReadMetrics>) -> Response {
    exposition(&app.metrics)
}

fn exposition(metrics: &Handle) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

/// This API, described.
#[utoipa::path(get, path = "/openapi.json", tag = "public", responses((status = 200, description = "An OpenAPI 3.1 document", content_type = "application/json", body = serde_json::Value)))]
pub async fn openapi(Extension(Document(document)): Extension<Document>) -> Response {
    ([(CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_courier_that_never_moved_or_stopped_moving_is_not_ready() {
        let at = Timestamp::from_seconds;
        let age_max = Duration::from_secs(30);
        assert!(moves(Some(at(100)), at(130), age_max));
        assert!(!moves(Some(at(100)), at(131), age_max));
        assert!(!moves(None, at(0), age_max));
        assert!(moves(Some(at(101)), at(100), age_max), "a database's clock may be ahead of ours");
    }
}
